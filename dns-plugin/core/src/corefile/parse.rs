//! Server blocks, their keys and directives.

use thiserror::Error;

use super::DNS_PORT;
use super::lex::{Token, tokens};

/// A Corefile that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corefile {
    /// Its server blocks, and its snippets, which have one key in parentheses.
    pub blocks: Vec<Block>,
}

/// A server block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What it serves.
    pub keys: Vec<Key>,
    /// The line that it begins on.
    pub line: usize,
    /// How.
    pub directives: Vec<Directive>,
}

/// A zone that a server block serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The zone in lower case without the root's dot; `.` for the root. What is no plain name (a reverse network, a snippet, an
    /// environment variable) stands as written.
    pub zone: String,
    /// The port.
    pub port: u16,
    /// Whether it is plain DNS, not DNS over TLS and its like.
    pub plain: bool,
}

/// A line of a block: a plugin and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// The plugin.
    pub name: String,
    /// Its arguments on the line.
    pub arguments: Vec<String>,
    /// The lines of its own block, where it has one.
    pub lines: Vec<Vec<String>>,
    /// The line that it begins on.
    pub line: usize,
}

/// Why a Corefile is not understood. Lines are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SyntaxError {
    /// A block without braces: it must be the file's only one, so that no other can be added.
    #[error(
        "line {line}: the server block has no braces around it; put its directives between '{{' and '}}' to let others stand beside it"
    )]
    NoBraces {
        /// Where the block begins.
        line: usize,
    },
    /// A block that does not end.
    #[error("line {line}: '{{' has no '}}'")]
    Unclosed {
        /// Where the block begins.
        line: usize,
    },
    /// An end without a block.
    #[error("line {line}: '}}' has no '{{'")]
    Unopened {
        /// Where it stands.
        line: usize,
    },
}

impl Corefile {
    /// Reads a Corefile.
    ///
    /// # Errors
    /// [`SyntaxError`] names the line.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let tokens = tokens(text);
        let mut rest = tokens.as_slice();
        let mut blocks = Vec::new();
        while let Some(first) = rest.first() {
            if first.is("import") {
                // On a line of its own between blocks: the files that it names are CoreDNS's to read.
                let line = first.line;
                let end = rest.iter().position(|t| t.line != line).unwrap_or(rest.len());
                rest = &rest[end..];
                continue;
            }
            let (block, after) = block(rest, first.line)?;
            blocks.push(block);
            rest = after;
        }
        Ok(Self { blocks })
    }
}

fn block(tokens: &[Token], line: usize) -> Result<(Block, &[Token]), SyntaxError> {
    let mut keys = Vec::new();
    let (mut rest, mut at, mut another) = (tokens, line, false);
    loop {
        match rest.split_first() {
            Some((brace, after)) if brace.is("{") => {
                rest = after;
                break;
            }
            Some((brace, _)) if brace.is("}") => return Err(SyntaxError::Unopened { line: brace.line }),
            // A comma at a line's end says that the next line has more keys.
            Some((token, after)) if token.line == at || another => {
                another = token.text.ends_with(',');
                at = token.line;
                keys.extend(token.text.split(',').filter(|k| !k.is_empty()).map(Key::parse));
                rest = after;
            }
            Some(_) | None => return Err(SyntaxError::NoBraces { line }),
        }
    }
    let mut directives = Vec::new();
    loop {
        let Some(first) = rest.first() else { return Err(SyntaxError::Unclosed { line }) };
        if first.is("}") {
            return Ok((Block { keys, line, directives }, &rest[1..]));
        }
        let (directive, after) = directive(first, &rest[1..])?;
        directives.push(directive);
        rest = after;
    }
}

fn directive<'t>(name: &Token, mut rest: &'t [Token]) -> Result<(Directive, &'t [Token]), SyntaxError> {
    let mut directive = Directive { name: name.text.clone(), arguments: Vec::new(), lines: Vec::new(), line: name.line };
    let (mut depth, mut at) = (0usize, name.line);
    while let Some((token, after)) = rest.split_first() {
        let new_line = token.line != at;
        if depth == 0 && (new_line || token.is("}")) {
            break;
        }
        at = token.line;
        rest = after;
        if token.is("{") {
            depth += 1;
            if depth == 1 {
                continue;
            }
        } else if token.is("}") {
            depth -= 1;
            if depth == 0 {
                return Ok((directive, rest));
            }
        }
        if depth == 0 {
            directive.arguments.push(token.text.clone());
        } else if new_line || directive.lines.is_empty() {
            directive.lines.push(vec![token.text.clone()]);
        } else if let Some(line) = directive.lines.last_mut() {
            line.push(token.text.clone());
        }
    }
    if depth > 0 { Err(SyntaxError::Unclosed { line: name.line }) } else { Ok((directive, rest)) }
}

impl Key {
    fn parse(text: &str) -> Self {
        let (scheme, rest) = text.split_once("://").unwrap_or(("dns", text));
        let default = match scheme {
            "tls" | "quic" => 853,
            "https" | "https3" | "grpc" => 443,
            _ => DNS_PORT,
        };
        let (zone, port) = match rest.rsplit_once(':') {
            Some((zone, port)) => match port.parse() {
                Ok(port) => (zone, port),
                Err(_) => (rest, default),
            },
            None => (rest, default),
        };
        Self { zone: normal(zone), port, plain: scheme == "dns" }
    }

    /// Whether it is a snippet's: `(name)`.
    #[must_use]
    pub fn is_snippet(&self) -> bool {
        self.zone.starts_with('(')
    }
}

/// A zone as it is compared: lower case, without the root's dot.
pub(super) fn normal(zone: &str) -> String {
    let lower = zone.to_ascii_lowercase();
    match lower.strip_suffix('.') {
        Some("") | None if lower.is_empty() || lower == "." => ".".to_owned(),
        Some(zone) => zone.to_owned(),
        None => lower,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What kubeadm installs.
    pub(crate) const KUBEADM: &str = "\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
";

    #[test]
    fn reads_what_kubeadm_installs() {
        let corefile = Corefile::parse(KUBEADM).expect("valid");
        let [block] = corefile.blocks.as_slice() else { panic!("one block: {corefile:?}") };
        assert_eq!(block.keys, [Key { zone: ".".into(), port: 53, plain: true }]);
        let kubernetes = block.directives.iter().find(|d| d.name == "kubernetes").expect("there");
        assert_eq!(kubernetes.arguments, ["cluster.local", "in-addr.arpa", "ip6.arpa"]);
        assert_eq!(kubernetes.lines[2], ["ttl", "30"]);
        assert_eq!(block.directives.last().map(|d| (d.name.as_str(), d.line)), Some(("loadbalance", 22)));
    }

    #[test]
    fn reads_keys() {
        let zones = |text: &str| {
            let corefile = Corefile::parse(text).expect("valid");
            corefile.blocks[0].keys.iter().map(|k| (k.zone.clone(), k.port, k.plain)).collect::<Vec<_>>()
        };
        assert_eq!(zones("A.Example.:1053 b.example {\n}"), [("a.example".into(), 1053, true), ("b.example".into(), 53, true)]);
        assert_eq!(zones("a.example,\n b.example\n{ }"), [("a.example".into(), 53, true), ("b.example".into(), 53, true)]);
        assert_eq!(zones("tls://. dns://x:5353 { }"), [(".".into(), 853, false), ("x".into(), 5353, true)]);
        assert_eq!(zones("(snip) { errors }"), [("(snip)".into(), 53, true)]);
    }

    #[test]
    fn says_where_it_is_wrong() {
        assert_eq!(Corefile::parse(".:53\nerrors\n"), Err(SyntaxError::NoBraces { line: 1 }));
        assert_eq!(Corefile::parse("\n. {\n errors\n"), Err(SyntaxError::Unclosed { line: 2 }));
        assert_eq!(Corefile::parse(". {\n health {\n}\n"), Err(SyntaxError::Unclosed { line: 1 }));
        assert_eq!(Corefile::parse("}"), Err(SyntaxError::Unopened { line: 1 }));
        assert_eq!(Corefile::parse("# nothing\n"), Ok(Corefile { blocks: Vec::new() }));
        assert_eq!(Corefile::parse("import ../custom/*.server\n").map(|c| c.blocks.len()), Ok(0));
    }

    proptest! {
        #[test]
        fn never_panics(text in "([a-z.:{}\", \n#\\\\]|import)*") {
            let _ = Corefile::parse(&text);
        }
    }
}
