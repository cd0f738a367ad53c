//! Front-ends that the tests start and kill, and what they find of them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use daisy_lab::plan::Plan;
use daisy_lab::{Lab, StartOptions, protocol};

/// In the name of the folder that the labs of a test run are in.
pub(crate) const MARK: &str = "daisy-lab-test";
/// How long anything may take that is awaited.
const WITHIN: Duration = Duration::from_secs(20);

/// Runs the tests again with a folder of their own for all labs.
pub(crate) fn in_own_folder(words: &[String]) -> ExitCode {
    let folder = tempfile::Builder::new().prefix(MARK).tempdir().expect("a folder");
    let status =
        Command::new(std::env::current_exe().expect("our path")).args(words).env("XDG_RUNTIME_DIR", folder.path()).status();
    let code = status.expect("we run").code().and_then(|c| u8::try_from(c).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Whether this user can have namespaces at all.
pub(crate) fn possible() -> Result<(), String> {
    FrontEnd::try_start("possible", &["--only-start"]).map(|_| ())
}

/// `front-end NAME [--keep] [--only-start]`: starts a lab, says `up`, and lets it go when its standard input ends.
pub(crate) fn front_end(words: &[String]) -> ExitCode {
    let has = |word: &str| words.iter().any(|w| w == word);
    let options = StartOptions { name: words.first().cloned(), keep: has("--keep") };
    let started = Plan::new(2, 2).map_err(Into::into).and_then(|plan| Lab::start(&plan, &options));
    let lab = match started {
        Ok(lab) => lab,
        Err(e) => {
            println!("{e}");
            return ExitCode::FAILURE;
        }
    };
    if !has("--only-start")
        && let Err(e) = runtime().block_on(lab.wait_up())
    {
        println!("{e}");
        let _ = lab.keep_logs();
        return ExitCode::FAILURE;
    }
    println!("up");
    std::io::stdout().flush().expect("somebody listens");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    ExitCode::SUCCESS
}

/// A process that has started a lab.
#[derive(Debug)]
pub(crate) struct FrontEnd {
    name: String,
    child: Child,
    /// Ends it when dropped.
    input: Option<ChildStdin>,
}

impl FrontEnd {
    /// One whose lab is up.
    pub(crate) fn start(name: &str, words: &[&str]) -> Self {
        Self::try_start(name, words).unwrap_or_else(|said| panic!("lab {name}: {said}"))
    }

    pub(crate) fn try_start(name: &str, words: &[&str]) -> Result<Self, String> {
        let mut command = Command::new(std::env::current_exe().expect("our path"));
        command.arg("front-end").arg(name).args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("we run");
        let (input, mut said) = (child.stdin.take(), String::new());
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut said).expect("it says something");
        if said == "up\n" {
            return Ok(Self { name: name.to_owned(), child, input });
        }
        child.wait().expect("it ends");
        Err(said)
    }

    pub(crate) fn lab(&self) -> Lab {
        Lab::open(Some(&self.name)).expect("it is up")
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for FrontEnd {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// A process of this host.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) pid: i32,
    pub(crate) arguments: Vec<String>,
}

/// Every process of the lab of this name, found by its mark as the host sees it.
pub(crate) fn leftovers(name: &str) -> Vec<Found> {
    let mark = format!("DAISY_LAB={name}");
    let pids = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let words = |pid: i32, file: &str| -> Option<Vec<String>> {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).ok()?;
        Some(bytes.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect())
    };
    let ours = |pid: &i32| words(*pid, "environ").is_some_and(|e| e.contains(&mark));
    pids.filter(ours).map(|pid| Found { pid, arguments: words(pid, "cmdline").unwrap_or_default() }).collect()
}

/// Nothing of the lab is left on the host: no process, and so no namespace; no mount, no device.
pub(crate) fn gone(name: &str) {
    let began = Instant::now();
    while !leftovers(name).is_empty() {
        assert!(began.elapsed() < WITHIN, "these are left: {:?}", leftovers(name));
        std::thread::sleep(Duration::from_millis(5));
    }
    // A process that was killed has no command line any more a moment before its files, and the lock among them, are closed.
    while Lab::open(Some(name)).is_ok() {
        assert!(began.elapsed() < WITHIN, "{name} is held to be up still");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("our mounts");
    assert!(!mounts.contains("daisy-lab") && !mounts.contains("daisy-data"), "{mounts}");
    for device in fs::read_dir("/sys/class/net").expect("our devices").flatten() {
        let device = device.file_name().to_string_lossy().into_owned();
        let labs = ["cluster0", "broker", "wan", "nodes"];
        assert!(!labs.contains(&device.as_str()) && !device.starts_with("port"), "{device} is left on the host");
    }
}

/// Kills a process with SIGKILL.
pub(crate) fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("it runs");
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Runtime::new().expect("a runtime")
}

/// A command at a place.
pub(crate) fn command(place: &str, words: &[&str]) -> protocol::Command {
    let arguments = words.iter().map(|w| (*w).to_owned()).collect();
    protocol::Command { place: place.to_owned(), arguments, ..protocol::Command::default() }
}

/// What the lab's web server at a name or address answers.
pub(crate) async fn fetch(lab: &Lab, place: &str, host: &str) -> Result<serde_json::Value, String> {
    let output = lab.run(&command(place, &["daisy", "lab-internal", "fetch", host, "700"])).await.map_err(|e| e.to_string())?;
    if output.code != 0 {
        return Err(output.stderr);
    }
    let fetched: serde_json::Value = serde_json::from_str(&output.stdout).map_err(|e| e.to_string())?;
    serde_json::from_str(fetched["body"].as_str().unwrap_or_default()).map_err(|e| e.to_string())
}

/// Waits until something holds, asking again and again.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < WITHIN, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
