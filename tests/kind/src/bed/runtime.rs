//! runc, asked for no capability that this machine does not have.
//!
//! A privileged container has all that Docker knows. Where the machine itself is held to fewer (its bounding set), runc would refuse it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use daisy_kubernetes_tests::programs;
use serde_json::Value;

/// All capabilities, by their numbers (capabilities(7)).
const CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Becomes runc with these words, after what it is to read has been trimmed.
///
/// # Errors
/// When that cannot be read or written, or there is no runc.
pub fn runtime(words: &[OsString]) -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let held = held(&status).context("/proc/self/status has no CapBnd")?;
    for pair in words.windows(2) {
        let at = PathBuf::from(&pair[1]);
        match pair[0].to_str() {
            Some("--bundle") => rewrite(&at.join("config.json"), |config| {
                if let Some(process) = config.pointer_mut("/process") {
                    trim(process, held);
                }
            })?,
            Some("--process") => rewrite(&at, |process| trim(process, held))?,
            _ => {}
        }
    }
    Err(Command::new(programs::file("runc")?).args(words).exec()).context("starting runc")
}

fn held(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn rewrite(file: &Path, change: impl FnOnce(&mut Value)) -> Result<()> {
    let text = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let mut value = serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", file.display()))?;
    change(&mut value);
    fs::write(file, value.to_string()).with_context(|| format!("writing {}", file.display()))
}

/// Takes out of a process's description what this bounding set does not hold.
fn trim(process: &mut Value, held: u64) {
    let has = |name: &str| {
        let number = CAPABILITIES.iter().position(|known| name.strip_prefix("CAP_") == Some(known));
        number.is_some_and(|number| held >> number & 1 == 1)
    };
    let sets = process.pointer_mut("/capabilities").and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()) {
        if let Some(list) = set.as_array_mut() {
            list.retain(|name| name.as_str().is_some_and(has));
        }
    }
    // These two take it.
    if !has("CAP_SYS_RESOURCE")
        && let Some(process) = process.as_object_mut()
    {
        process.remove("rlimits");
        if process.get("oomScoreAdj").and_then(Value::as_i64).is_some_and(|score| score < 0) {
            process.remove("oomScoreAdj");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_held_is_asked_for() {
        let held = held("CapInh:\t0\nCapBnd:\t000001fffeffffff\n").expect("it is there");
        let mut process = json!({
            "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_CHECKPOINT_RESTORE", "CAP_OF_TOMORROW"], "ambient": null},
            "rlimits": [{}], "oomScoreAdj": -500, "cwd": "/",
        });
        trim(&mut process, held);
        assert_eq!(
            process,
            json!({"capabilities": {"bounding": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"], "ambient": null}, "cwd": "/"})
        );
    }

    #[test]
    fn where_all_is_held_nothing_changes() {
        let before = json!({"capabilities": {"bounding": ["CAP_SYS_RESOURCE"]}, "rlimits": [{}], "oomScoreAdj": -500});
        let mut process = before.clone();
        trim(&mut process, u64::MAX);
        assert_eq!(process, before);
    }
}
