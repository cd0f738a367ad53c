//! The digest by which a cluster vouches for its records, and its readers check that they see the same.

use daisy_api::names::short_hash;

use crate::object::Kind;

/// One record: its kind (`Export` or `ExportEndpoints`), its name, its sequence.
pub type Line<'a> = (Kind, &'a str, u64);

/// The hexadecimal SHA-256 over the records' kinds, names and sequences, and how many they are. Their order does not matter.
#[must_use]
pub fn digest<'a>(records: impl IntoIterator<Item = Line<'a>>) -> (String, u32) {
    let mut lines: Vec<Line<'a>> = records.into_iter().collect();
    lines.sort_unstable();
    let mut text = String::new();
    for (kind, name, sequence) in &lines {
        text.push_str(kind.as_str());
        text.push(' ');
        text.push_str(name);
        text.push(' ');
        text.push_str(&sequence.to_string());
        text.push('\n');
    }
    (short_hash(&text, 64), u32::try_from(lines.len()).unwrap_or(u32::MAX))
}
