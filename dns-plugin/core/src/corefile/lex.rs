//! Words of a Corefile, as CoreDNS's own reader (Caddy's) splits them.

/// A word, and the line that it begins on, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) line: usize,
    /// Whether it was written between quotation marks: then a brace in it is no brace.
    pub(super) quoted: bool,
}

impl Token {
    pub(super) fn is(&self, brace: &str) -> bool {
        !self.quoted && self.text == brace
    }
}

/// Splits at white space; `"` holds white space together, `\"` in it is a quotation mark; `#` begins a comment, also within a
/// word.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut tokens = Vec::new();
    let mut word: Option<Token> = None;
    let (mut line, mut comment, mut escaped) = (1, false, false);
    for c in text.chars() {
        let here = line;
        if c == '\n' {
            line += 1;
        }
        if let Some(token) = word.as_mut().filter(|token| token.quoted) {
            match c {
                '\\' if !escaped => escaped = true,
                '"' if !escaped => tokens.extend(word.take()),
                _ => {
                    if escaped && c != '"' {
                        token.text.push('\\');
                    }
                    escaped = false;
                    token.text.push(c);
                }
            }
            continue;
        }
        if c.is_whitespace() {
            comment &= c != '\n';
            // A carriage return belongs to the line's end and splits nothing by itself.
            if c != '\r' {
                tokens.extend(word.take());
            }
            continue;
        }
        comment |= c == '#';
        if comment {
            continue;
        }
        match &mut word {
            Some(token) => token.text.push(c),
            None if c == '"' => word = Some(Token { text: String::new(), line: here, quoted: true }),
            None => word = Some(Token { text: c.to_string(), line: here, quoted: false }),
        }
    }
    tokens.extend(word);
    tokens
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<(String, usize)> {
        tokens(text).into_iter().map(|t| (t.text, t.line)).collect()
    }

    #[test]
    fn splits_as_coredns_does() {
        let word = |text: &str, line| (text.to_owned(), line);
        assert_eq!(words("a b\r\n  c"), [word("a", 1), word("b", 1), word("c", 2)]);
        assert_eq!(words("a # b\nc#d e\nf"), [word("a", 1), word("c", 2), word("f", 3)]);
        assert_eq!(words("\"a \\\"b\\n\" c"), [word("a \"b\\n", 1), word("c", 1)]);
        assert_eq!(words("\u{feff}a"), [word("a", 1)]);
        assert_eq!(words("\"open"), [word("open", 1)]);
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            tokens(&text);
        }
    }
}
