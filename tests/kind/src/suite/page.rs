//! The quickstart, as a test: every command on the page is run, in its order, and what the page says it prints is looked for.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::Stage;

/// A block of commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// As they are typed.
    pub(super) commands: String,
    /// What they print, in this order, with anything between.
    pub(super) prints: Vec<String>,
}

/// The steps of the section whose heading begins with this.
pub(super) fn section(stage: &Stage, heading: &str) -> Result<Vec<Step>> {
    let page = stage.options.daisy.repository.join("docs/quickstart.md");
    let text = fs::read_to_string(&page).with_context(|| format!("reading {}", page.display()))?;
    let steps = parse(&text, heading)?;
    if steps.is_empty() {
        bail!("{}: no commands below a heading that begins with {heading:?}", page.display());
    }
    Ok(steps)
}

fn parse(text: &str, heading: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut inside, mut block) = (false, None);
    for line in text.lines() {
        match (&mut block, line.strip_prefix("```")) {
            (None, None) => {
                if let Some(title) = line.strip_prefix("## ") {
                    inside = title.starts_with(heading);
                }
            }
            (None, Some(kind)) => block = Some((kind.trim().to_owned(), String::new())),
            (Some((_, lines)), None) => {
                lines.push_str(line);
                lines.push('\n');
            }
            (Some(_), Some(_)) => {
                let (kind, lines) = block.take().unwrap_or_default();
                if inside {
                    add(&mut steps, &kind, lines)?;
                }
            }
        }
    }
    Ok(steps)
}

fn add(steps: &mut Vec<Step>, kind: &str, lines: String) -> Result<()> {
    match (kind, steps.last_mut()) {
        ("sh", _) => steps.push(Step { commands: lines, prints: Vec::new() }),
        ("text", Some(step)) => {
            let parts = lines.lines().flat_map(|line| line.split('…')).map(|part| part.trim().to_owned());
            step.prints.extend(parts.filter(|part| !part.is_empty()));
        }
        _ => bail!("a block of kind {kind:?}: only `sh`, and `text` after it, are run and looked for"),
    }
    Ok(())
}

/// Runs one as the developer would, in his folder.
pub(super) fn run(stage: &Stage, step: &Step) -> Result<String> {
    let mut command = stage.bed.command(&["bash", "-euo", "pipefail", "-c", &step.commands])?;
    let output = command.stdin(Stdio::null()).output().context("starting bash")?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    log(&stage.bed.logs().join("quickstart.log"), &format!("{}{said}\n", step.commands))?;
    if !output.status.success() {
        bail!("{}{said}", step.commands);
    }
    let mut rest = said.as_str();
    for part in &step.prints {
        let Some((_, after)) = rest.split_once(part.as_str()) else {
            bail!("{}the page says that this prints {part:?}; it printed:\n{said}", step.commands);
        };
        rest = after;
    }
    Ok(said)
}

fn log(file: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut log = fs::File::options().create(true).append(true).open(file)?;
    Ok(log.write_all(text.as_bytes())?)
}

/// Runs all of a section.
pub(super) fn run_section(stage: &Stage, heading: &str) -> Result<()> {
    section(stage, heading)?.iter().try_for_each(|step| run(stage, step).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sections that cases run, as their headings begin.
    const SECTIONS: &[&str] = &["1.", "2.", "3.", "4.", "5.", "6."];

    #[test]
    fn a_section_is_its_commands_and_what_they_print() {
        let text = "## 1. One\n```sh\na\n```\n\n## 2. Two\nword\n```sh\nb\nc\n```\n```text\nat … you\nagain\n```\n```sh\nd\n```\n## 3\n```sh\ne\n```\n";
        let steps = parse(text, "2.").expect("steps");
        let prints = vec!["at".to_owned(), "you".to_owned(), "again".to_owned()];
        assert_eq!(steps, [Step { commands: "b\nc\n".into(), prints }, Step { commands: "d\n".into(), prints: Vec::new() }]);
        assert!(parse(text, "4.").expect("no steps").is_empty());
        assert!(parse("## 1\n```console\n$ a\n```\n", "1").is_err(), "what is not run is not there");
    }

    /// So that no command is on the page in a section that no case runs.
    #[test]
    fn every_command_of_the_page_is_in_a_section_that_is_run() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/quickstart.md");
        let text = fs::read_to_string(page).expect("the page");
        let run: usize = SECTIONS.iter().map(|heading| parse(&text, heading).expect("steps").len()).sum();
        let there = text.lines().filter(|line| line.starts_with("```sh")).count();
        assert_eq!(run, there);
    }
}
