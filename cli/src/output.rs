//! What a command prints: tables for people, JSON and YAML for programs.

use std::io::{IsTerminal, Write};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::arguments::OutputFormat;

/// Prints rows: as a table under these headings, or each row's value for programs.
pub(crate) fn rows<T: Serialize>(format: OutputFormat, headings: &[&str], rows: &[(T, Vec<String>)]) -> anyhow::Result<()> {
    let values: Vec<&T> = rows.iter().map(|(value, _)| value).collect();
    let text = match format {
        OutputFormat::Json => serde_json::to_string_pretty(&values)? + "\n",
        OutputFormat::Yaml => daisy_api::yaml::to_string(&values)?,
        OutputFormat::Table => table(headings, rows.iter().map(|(_, cells)| cells)),
    };
    print(&text)
}

/// A plain table, two spaces between columns, as kubectl prints them.
pub(crate) fn table<'a>(headings: &[&str], rows: impl Iterator<Item = &'a Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(headings.iter().map(|h| h.to_uppercase()));
    for cells in rows {
        table.add_row(cells);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Writes to standard output. A reader that has gone (`| head`) ends the output, not the program.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Prints an error and its causes on standard error, on one line.
pub(crate) fn error(error: &anyhow::Error) {
    let (on, off) = if std::io::stderr().is_terminal() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    eprintln!("{on}error:{off} {}", causes(error));
}

/// An error and its causes, each said once; an API server's answer by its message alone.
fn causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let answer = cause.downcast_ref::<kube::Error>();
        let said = answer.map_or_else(|| cause.to_string(), daisy_broker::apply::said);
        if !text.ends_with(&said) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&said);
        }
        if matches!(answer, Some(kube::Error::Api(_))) {
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use kube::core::Status;

    use super::*;

    #[test]
    fn an_answer_is_said_by_its_message() {
        let answer = kube::Error::Api(Box::new(Status::failure("nodes is forbidden", "Forbidden").with_code(403)));
        let error = Err::<(), _>(answer).context("listing nodes").expect_err("it is one");
        assert_eq!(causes(&error), "listing nodes: nodes is forbidden");
    }
}
