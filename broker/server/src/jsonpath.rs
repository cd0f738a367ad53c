//! The JSONPath that printer columns need.
//!
//! `.a.b`, `.a\.b` (a dot in a key), `['a']`, `[0]`, `[-1]`, `[*]`, `.*`, and `[?(@.type=="Ready")]` with `==` or `!=` on a dotted
//! path. A leading `$` and surrounding braces are accepted. Anything else does not parse.

use serde_json::Value;
use thiserror::Error;

/// A JSONPath that this server does not understand.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("JSONPath {path:?}: {what} at byte {at}; understood are .a.b, ['a'], [0], [*] and [?(@.a==\"b\")]")]
pub struct JsonPathError {
    path: String,
    what: &'static str,
    at: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(String),
    Index(i64),
    All,
    Filter { path: Vec<String>, equal: bool, value: Value },
}

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

impl std::str::FromStr for JsonPath {
    type Err = JsonPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Parser { text, at: 0 }.path().map(Self)
    }
}

impl JsonPath {
    /// Everything in `root` that the path leads to, in order.
    #[must_use]
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![root];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.from(value)).collect();
        }
        found
    }
}

impl Step {
    fn from<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Key(key) => value.get(key).into_iter().collect(),
            Self::Index(index) => {
                let Some(items) = value.as_array() else { return Vec::new() };
                let index =
                    if *index < 0 { items.len().checked_add_signed(*index as isize) } else { usize::try_from(*index).ok() };
                index.and_then(|index| items.get(index)).into_iter().collect()
            }
            Self::All => children(value),
            Self::Filter { path, equal, value: wanted } => children(value)
                .into_iter()
                .filter(|child| {
                    let mut at = Some(*child);
                    for key in path {
                        at = at.and_then(|value| value.get(key));
                    }
                    at.is_some_and(|value| (value == wanted) == *equal)
                })
                .collect(),
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    if let Some(items) = value.as_array() {
        items.iter().collect()
    } else if let Some(map) = value.as_object() {
        map.values().collect()
    } else {
        Vec::new()
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn path(mut self) -> Result<Vec<Step>, JsonPathError> {
        let braced = self.take("{");
        self.take("$");
        let mut steps = Vec::new();
        loop {
            if braced && self.rest() == "}" || !braced && self.rest().is_empty() {
                return Ok(steps);
            }
            if self.take("[") {
                steps.push(self.bracket()?);
            } else if self.take(".") {
                if self.rest().starts_with('[') || self.rest().is_empty() || braced && self.rest() == "}" {
                    continue;
                }
                steps.push(if self.take("*") { Step::All } else { Step::Key(self.key()?) });
            } else if steps.is_empty() && self.at <= 2 {
                steps.push(Step::Key(self.key()?));
            } else {
                return Err(self.error("'.' or '[' expected"));
            }
        }
    }

    fn bracket(&mut self) -> Result<Step, JsonPathError> {
        let step = if self.take("*") {
            Step::All
        } else if self.take("?(") {
            let filter = self.filter()?;
            if !self.take(")") {
                return Err(self.error("')' expected"));
            }
            filter
        } else if let Some(key) = self.quoted()? {
            Step::Key(key)
        } else {
            let digits: String = self.rest().chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect();
            let index = digits.parse().map_err(|_| self.error("an index expected"))?;
            self.at += digits.len();
            Step::Index(index)
        };
        if self.take("]") { Ok(step) } else { Err(self.error("']' expected")) }
    }

    fn filter(&mut self) -> Result<Step, JsonPathError> {
        self.spaces();
        if !self.take("@") {
            return Err(self.error("'@' expected"));
        }
        let mut path = Vec::new();
        while self.take(".") {
            path.push(self.key()?);
        }
        self.spaces();
        let equal = if self.take("==") {
            true
        } else if self.take("!=") {
            false
        } else {
            return Err(self.error("'==' or '!=' expected"));
        };
        self.spaces();
        let value = if let Some(text) = self.quoted()? {
            Value::String(text)
        } else {
            let word: String = self.rest().chars().take_while(|c| !c.is_whitespace() && *c != ')').collect();
            let value = serde_json::from_str(&word).map_err(|_| self.error("a value expected"))?;
            self.at += word.len();
            value
        };
        self.spaces();
        Ok(Step::Filter { path, equal, value })
    }

    fn key(&mut self) -> Result<String, JsonPathError> {
        let mut key = String::new();
        let mut used = 0;
        let mut escaped = false;
        for c in self.rest().chars() {
            if escaped {
                key.push(c);
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if c.is_alphanumeric() || matches!(c, '_' | '-' | '/') {
                key.push(c);
            } else {
                break;
            }
            used += c.len_utf8();
        }
        if key.is_empty() || escaped {
            return Err(self.error("a key expected"));
        }
        self.at += used;
        Ok(key)
    }

    fn quoted(&mut self) -> Result<Option<String>, JsonPathError> {
        let quote = match self.rest().chars().next() {
            Some(c @ ('\'' | '"')) => c,
            Some(_) | None => return Ok(None),
        };
        let inside = &self.rest()[1..];
        let Some(end) = inside.find(quote) else { return Err(self.error("a closing quote expected")) };
        let text = inside[..end].to_owned();
        self.at += end + 2;
        Ok(Some(text))
    }

    fn spaces(&mut self) {
        while self.take(" ") {}
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn error(&self, what: &'static str) -> JsonPathError {
        JsonPathError { path: self.text.to_owned(), what, at: self.at }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn find(path: &str, root: &Value) -> Vec<Value> {
        path.parse::<JsonPath>().expect("a path").find(root).into_iter().cloned().collect()
    }

    #[test]
    fn columns_find_their_values() {
        let root = json!({
            "spec": {"cidrs": ["a", "b"], "gateways": [{"node": "n1"}, {"node": "n2"}]},
            "metadata": {"annotations": {"x.io/y": "z"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Valid", "status": "False"}]},
        });
        assert_eq!(find(".spec.cidrs", &root), [json!(["a", "b"])]);
        assert_eq!(find("{.spec.cidrs[0]}", &root), [json!("a")]);
        assert_eq!(find("$.spec.cidrs[-1]", &root), [json!("b")]);
        assert_eq!(find(".spec.gateways[*].node", &root), [json!("n1"), json!("n2")]);
        assert_eq!(find(".status.conditions[?(@.type==\"Ready\")].status", &root), [json!("True")]);
        assert_eq!(find(".status.conditions[?(@.type != 'Ready')].status", &root), [json!("False")]);
        assert_eq!(find(".metadata.annotations.x\\.io/y", &root), [json!("z")]);
        assert_eq!(find(".metadata.annotations['x.io/y']", &root), [json!("z")]);
        assert!(find(".spec.absent[3].x", &root).is_empty());
    }

    #[test]
    fn what_is_not_understood_says_where() {
        for bad in [".a[", ".a[x]", ".a[?(@.b)]", ".a..b", "..a", ".a b", "{.a", ".a[?(@.b==\"c\"]"] {
            assert!(bad.parse::<JsonPath>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,40}", shaped in "[.\\[\\]a-c0-9@?()='\"*{}$ \\\\-]{0,30}") {
            let root = json!({"a": [{"b": "c"}, 1], "b": {"c": null}});
            for path in [text, shaped] {
                if let Ok(path) = path.parse::<JsonPath>() {
                    let _ = path.find(&root);
                }
            }
        }

        #[test]
        fn a_chain_of_keys_finds_what_was_put_there(keys in prop::collection::vec("[a-z.]{1,6}", 1..6)) {
            let mut root = json!("leaf");
            let mut path = String::new();
            for key in keys.iter().rev() {
                root = json!({ key: root });
            }
            for key in &keys {
                path.push('.');
                path.push_str(&key.replace('.', "\\."));
            }
            prop_assert_eq!(find(&path, &root), vec![json!("leaf")]);
        }
    }
}
