//! Progress on what takes long: one line on standard error, rewritten on a terminal, written once elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// What is waited for, and what is known of why it takes long.
pub(crate) struct Waiting {
    /// What: "Deployment daisy-system/daisy-dns to be ready".
    pub(crate) what: String,
    /// Why, with `: ` in front; empty where nothing is known.
    pub(crate) trouble: String,
}

impl Waiting {
    /// For something of which nothing more is known.
    pub(crate) fn on(what: impl Into<String>) -> Self {
        Self { what: what.into(), trouble: String::new() }
    }
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.what, self.trouble)
    }
}

/// Steps of a command, with their times.
pub(crate) struct Progress {
    started: Instant,
    last: String,
    terminal: bool,
}

impl Progress {
    /// Starts counting.
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), last: String::new(), terminal: std::io::stderr().is_terminal() }
    }

    /// Says what is being waited for; the same text again says nothing.
    pub(crate) fn waiting(&mut self, text: &str) {
        if text == self.last {
            return;
        }
        text.clone_into(&mut self.last);
        if self.terminal {
            eprint!("\r\x1b[K… {text}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("… {text}");
        }
    }

    /// Says what was done.
    pub(crate) fn done(&mut self, text: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        eprintln!("{clear}✓ {text} ({})", human(self.started.elapsed()));
        self.last.clear();
    }
}

/// A duration for people: `312 ms`, `4.2 s`.
pub(crate) fn human(time: Duration) -> String {
    if time < Duration::from_secs(1) { format!("{} ms", time.as_millis()) } else { format!("{:.1} s", time.as_secs_f64()) }
}
