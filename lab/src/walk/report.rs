//! What the walk prints: each step with the commands that a user would type, what came of them, and its time; or one JSON
//! object a step.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

/// A number that a step measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Number {
    /// What was done.
    pub(crate) work: String,
    /// By whom.
    pub(crate) who: String,
    /// How much.
    pub(crate) value: f64,
    /// Of what.
    pub(crate) unit: &'static str,
}

/// A step that did not go as expected.
#[derive(Debug, thiserror::Error)]
#[error("expected {expected}; saw {saw}")]
pub(crate) struct Failed {
    /// What was expected.
    pub(crate) expected: String,
    /// What was seen.
    pub(crate) saw: String,
}

impl Failed {
    pub(crate) fn new(expected: impl Into<String>, saw: impl Into<String>) -> Self {
        Self { expected: expected.into(), saw: saw.into() }
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self::new("the lab to do as asked", format!("{error:#}"))
    }
}

impl From<crate::LabError> for Failed {
    fn from(error: crate::LabError) -> Self {
        Self::new("the lab to do as asked", error.to_string())
    }
}

impl From<kube::Error> for Failed {
    fn from(error: kube::Error) -> Self {
        Self::new("the API server to do as asked", error.to_string())
    }
}

#[derive(Serialize)]
struct Line<'a> {
    step: &'a str,
    ok: bool,
    ms: u64,
    detail: String,
    commands: &'a [String],
    numbers: &'a [Number],
}

/// Collects and prints.
pub(crate) struct Report {
    json: bool,
    colour: bool,
    started: Instant,
    step_started: Instant,
    step: String,
    count: usize,
    commands: Vec<String>,
    seen: Vec<String>,
    numbers: Vec<Number>,
    done: Vec<(String, Duration, Vec<Number>)>,
}

impl Report {
    /// A report of a walk that began at `started`.
    pub(crate) fn new(json: bool, started: Instant) -> Self {
        Self {
            json,
            colour: !json && std::io::stdout().is_terminal(),
            started,
            step_started: started,
            step: String::new(),
            count: 0,
            commands: Vec::new(),
            seen: Vec::new(),
            numbers: Vec::new(),
            done: Vec::new(),
        }
    }

    /// Since the walk began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// A step begins. The first one began with the walk.
    pub(crate) fn begin(&mut self, step: &str) {
        if self.count > 0 {
            self.step_started = Instant::now();
        }
        self.count += 1;
        step.clone_into(&mut self.step);
        if !self.json {
            let heading = format!("{}. {step}", self.count);
            self.line(&if self.colour { format!("\n\x1b[1m{heading}\x1b[0m") } else { format!("\n{heading}") });
        }
    }

    /// A command that was typed, where, and how long it took.
    pub(crate) fn command(&mut self, place: &str, words: &str, took: Duration) {
        let text = format!("{place} $ {words}");
        if !self.json {
            let padded = format!("   {text}");
            self.line(&format!("{padded:<100} {:>9}", human(took)));
        }
        self.commands.push(text);
    }

    /// Something that was seen, and is as it should be.
    pub(crate) fn saw(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.json {
            let mark = if self.colour { "\x1b[32m✓\x1b[0m" } else { "✓" };
            for (index, line) in text.lines().enumerate() {
                self.line(&if index == 0 { format!("     {mark} {line}") } else { format!("       {line}") });
            }
        }
        self.seen.push(text);
    }

    /// A number that was measured.
    pub(crate) fn number(&mut self, work: &str, who: &str, value: f64, unit: &'static str) {
        self.numbers.push(Number { work: work.to_owned(), who: who.to_owned(), value, unit });
    }

    /// The step is done.
    pub(crate) fn end(&mut self) {
        let took = self.step_started.elapsed();
        if self.json {
            self.json_line(true, self.seen.join("; "), took);
        }
        let numbers = std::mem::take(&mut self.numbers);
        self.done.push((std::mem::take(&mut self.step), took, numbers));
        self.commands.clear();
        self.seen.clear();
    }

    /// The step failed, and with it the walk.
    pub(crate) fn fail(&mut self, failed: &Failed, logs: &str) {
        let took = self.step_started.elapsed();
        if self.json {
            self.json_line(false, format!("expected {}; saw {}; logs: {logs}", failed.expected, failed.saw), took);
            return;
        }
        let mark = if self.colour { "\x1b[31m✗\x1b[0m" } else { "✗" };
        self.line(&format!("     {mark} step {} failed after {}", self.count, human(took)));
        self.line(&format!("       expected: {}", failed.expected));
        self.line(&format!("       saw:      {}", failed.saw));
        self.line(&format!("       logs:     {logs}"));
    }

    /// What came of it all.
    pub(crate) fn summary(&mut self) {
        if self.json {
            return;
        }
        self.line("\nsummary");
        let done = std::mem::take(&mut self.done);
        for (step, took, _) in &done {
            self.line(&format!("   ✓ {step:<72} {:>9}", human(*took)));
        }
        for number in done.iter().flat_map(|(_, _, numbers)| numbers) {
            let what = format!("{} ({})", number.work, number.who);
            self.line(&format!("   · {what:<72} {:>9.1} {}", number.value, number.unit));
        }
        self.line(&format!("   everything took {}", human(self.started.elapsed())));
    }

    fn json_line(&self, ok: bool, detail: String, took: Duration) {
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let line = Line { step: &self.step, ok, ms, detail, commands: &self.commands, numbers: &self.numbers };
        if let Ok(text) = serde_json::to_string(&line) {
            self.line(&text);
        }
    }

    // A reader that has gone does not end the walk: it cleans up behind itself.
    fn line(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

/// A duration for people.
pub(crate) fn human(time: Duration) -> String {
    if time < Duration::from_secs(1) { format!("{} ms", time.as_millis()) } else { format!("{:.2} s", time.as_secs_f64()) }
}
