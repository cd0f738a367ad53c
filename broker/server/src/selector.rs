//! Label and field selectors.

use serde_json::Value;
use thiserror::Error;

use crate::object::{Labels, Stored};
use crate::validation;

/// A selector that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unable to parse requirement {text:?}: {what}")]
pub struct SelectorError {
    text: String,
    what: String,
}

fn error(text: &str, what: impl Into<String>) -> SelectorError {
    SelectorError { text: text.to_owned(), what: what.into() }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

/// A label selector: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<(String, Test)>);

impl std::str::FromStr for LabelSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        split_outside_parentheses(text)
            .into_iter()
            .filter(|part| !part.trim().is_empty())
            .map(|part| requirement(part.trim()))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl LabelSelector {
    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|(key, test)| {
            let value = labels.get(key.as_str());
            match test {
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::In(values) => value.is_some_and(|value| values.contains(value)),
                // As in Kubernetes, an object without the label passes.
                Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn requirement(part: &str) -> Result<(String, Test), SelectorError> {
    let key = |text: &str| {
        let key = text.trim();
        match validation::label_key(key) {
            Ok(()) => Ok(key.to_owned()),
            Err(why) => Err(error(part, format!("key {key:?}: {why}"))),
        }
    };
    let value = |text: &str| {
        let value = text.trim();
        match validation::label_value(value) {
            Ok(()) => Ok(value.to_owned()),
            Err(why) => Err(error(part, format!("value {value:?}: {why}"))),
        }
    };
    if let Some((left, right)) = part.split_once("!=") {
        return Ok((key(left)?, Test::NotIn(vec![value(right)?])));
    }
    if let Some((left, right)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok((key(left)?, Test::In(vec![value(right)?])));
    }
    if let Some(left) = part.strip_prefix('!') {
        return Ok((key(left)?, Test::Absent));
    }
    if let Some((left, list)) = part.split_once('(') {
        let Some(list) = list.trim_end().strip_suffix(')') else { return Err(error(part, "')' expected at the end")) };
        let values = list.split(',').map(value).collect::<Result<Vec<_>, _>>()?;
        let mut words = left.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(name), Some("in"), None) => Ok((key(name)?, Test::In(values))),
            (Some(name), Some("notin"), None) => Ok((key(name)?, Test::NotIn(values))),
            _ => Err(error(part, "KEY in (…) or KEY notin (…) expected")),
        };
    }
    Ok((key(part)?, Test::Exists))
}

/// A field selector: `metadata.name=a,spec.type!=b`. Any dotted path to a text, number or boolean; an absent field is the empty
/// text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldTest>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTest {
    path: Vec<String>,
    equal: bool,
    value: String,
}

impl std::str::FromStr for FieldSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut tests = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            // The first `=` decides: to its right it is escaped.
            let Some((left, right)) = part.split_once('=') else {
                return Err(error(&part, "FIELD=VALUE, FIELD==VALUE or FIELD!=VALUE expected"));
            };
            let (left, equal) = left.strip_suffix('!').map_or((left, true), |left| (left, false));
            let right = if equal { right.strip_prefix('=').unwrap_or(right) } else { right };
            let path: Vec<_> = left.trim().split('.').map(str::to_owned).collect();
            if path.iter().any(|key| key.is_empty() || !key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))) {
                return Err(error(&part, format!("field {:?}: a dotted path of keys expected", left.trim())));
            }
            tests.push(FieldTest { path, equal, value: unescape(right).ok_or_else(|| error(&part, "unknown escape"))? });
        }
        Ok(Self(tests))
    }
}

impl FieldSelector {
    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one name that it asks for, if it does.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.iter().find(|test| test.equal && test.path == ["metadata", "name"]).map(|test| test.value.as_str())
    }

    /// Whether name and namespace are all it looks at.
    #[must_use]
    pub fn is_cheap(&self) -> bool {
        self.0.iter().all(|test| {
            test.path.len() == 2 && test.path[0] == "metadata" && ["name", "namespace"].contains(&test.path[1].as_str())
        })
    }

    /// Whether the object is selected; `object` is only asked for when name and namespace do not decide.
    pub fn matches(&self, namespace: &str, name: &str, object: impl FnOnce() -> Value) -> bool {
        let mut object = Some(object);
        let mut parsed = None;
        self.0.iter().all(|test| {
            let is = match test.path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["metadata", "name"] => name == test.value,
                ["metadata", "namespace"] => namespace == test.value,
                _ => {
                    let root = parsed.get_or_insert_with(|| object.take().map_or(Value::Null, |object| object()));
                    let mut at = Some(&*root);
                    for key in &test.path {
                        at = at.and_then(|value| value.get(key));
                    }
                    match at {
                        Some(Value::String(text)) => *text == test.value,
                        Some(other @ (Value::Bool(_) | Value::Number(_))) => *other.to_string() == *test.value,
                        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => test.value.is_empty(),
                    }
                }
            };
            is == test.equal
        })
    }
}

fn split_unescaped(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            parts.push(String::new());
            continue;
        }
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    parts
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().filter(|c| matches!(c, '\\' | ',' | '='))? } else { c });
    }
    Some(out)
}

/// Both selectors of a list or a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors {
    /// `labelSelector`.
    pub labels: LabelSelector,
    /// `fieldSelector`.
    pub fields: FieldSelector,
}

impl Selectors {
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, namespace: &str, name: &str, object: &Stored) -> bool {
        self.labels.matches(&object.labels) && self.fields.matches(namespace, name, || object.value())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn selects(selector: &str, pairs: &[(&str, &str)]) -> bool {
        selector.parse::<LabelSelector>().expect("a selector").matches(&labels(pairs))
    }

    #[test]
    fn label_selectors_select() {
        let pairs = [("app", "web"), ("x.io/tier", "front")];
        for yes in [
            "",
            "app=web",
            "app==web,x.io/tier=front",
            "app in (web, db)",
            "x.io/tier notin (back)",
            "app",
            "!gone",
            "gone!=x",
            "gone notin (x)",
            "app , x.io/tier in (front)",
        ] {
            assert!(selects(yes, &pairs), "{yes}");
        }
        for no in ["app=db", "app!=web", "!app", "gone", "gone=x", "app in (db)", "app notin (web,db)", "app=web,gone"] {
            assert!(!selects(no, &pairs), "{no}");
        }
        assert!(selects("empty=", &[("empty", "")]));
    }

    #[test]
    fn bad_selectors_are_named() {
        for bad in ["app in web", "app in (web", "=x", "a b", "app=we b", "app near (x)", "-a=b", "a/b/c"] {
            assert!(bad.parse::<LabelSelector>().is_err(), "{bad}");
        }
        for bad in ["metadata.name", "=x", "a..b=c", "a=\\x"] {
            assert!(bad.parse::<FieldSelector>().is_err(), "{bad}");
        }
    }

    #[test]
    fn field_selectors_look_into_the_object() {
        let object = || json!({"metadata": {"name": "n"}, "spec": {"type": "a,b", "count": 3, "on": true}});
        for (selector, is) in [
            ("metadata.name=n", true),
            ("metadata.name!=n", false),
            ("metadata.namespace==ns", true),
            ("spec.type=a\\,b", true),
            ("spec.count=3,spec.on=true", true),
            ("spec.absent=", true),
            ("spec.absent!=", false),
            ("spec.absent!=x", true),
        ] {
            let parsed: FieldSelector = selector.parse().expect("a selector");
            assert_eq!(parsed.matches("ns", "n", object), is, "{selector}");
        }
        assert_eq!("a=b,metadata.name=x".parse::<FieldSelector>().expect("a selector").name(), Some("x"));
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,60}", shaped in "[a-c=!(), \\\\.]{0,30}") {
            for text in [text, shaped] {
                if let Ok(selector) = text.parse::<LabelSelector>() {
                    let _ = selector.matches(&labels(&[("a", "b")]));
                }
                if let Ok(selector) = text.parse::<FieldSelector>() {
                    selector.matches("", "", || Value::Null);
                }
            }
        }

        #[test]
        fn in_is_the_negation_of_notin(value in "[a-c]{0,2}", listed in prop::collection::vec("[a-c]{1,2}", 1..4), present: bool) {
            let list = listed.join(",");
            let pairs: &[(&str, &str)] = if present { &[("k", value.as_str())] } else { &[] };
            prop_assert_eq!(selects(&format!("k in ({list})"), pairs), !selects(&format!("k notin ({list})"), pairs));
            prop_assert_eq!(selects("k", pairs), !selects("!k", pairs));
        }

        #[test]
        fn any_text_can_be_asked_for_as_a_field(value in "[a-z,=\\\\!]{0,12}") {
            let escaped = value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            for (operator, is) in [("=", true), ("==", true), ("!=", false)] {
                let selector: FieldSelector = format!("spec.x{operator}{escaped}").parse().expect("a selector");
                prop_assert_eq!(selector.matches("", "", || json!({"spec": {"x": value}})), is);
            }
        }
    }
}
