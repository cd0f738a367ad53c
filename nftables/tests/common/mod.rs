//! Network namespaces of the tests' own: a thread in each, and closures to run there.

use std::sync::mpsc;
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, gone with this value.
pub struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Namespace {
    /// A new namespace; `None` where this process may not make one. With `CI=true` in the environment, that is a failure.
    pub fn new(test: &str) -> Option<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::spawn(move || {
            let made = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
            let may = made.is_ok();
            ready.send(made).expect("the test waits");
            if may {
                queue.into_iter().for_each(|job| job());
            }
        });
        match is_ready.recv().expect("the thread answers") {
            Ok(()) => Some(Self { jobs: Some(jobs), thread: Some(thread) }),
            Err(errno) => {
                assert!(std::env::var("CI").as_deref() != Ok("true"), "{test}: cannot make a network namespace: {errno}");
                eprintln!("skipped: {test}: cannot make a network namespace: {errno}");
                None
            }
        }
    }

    /// Runs this in the namespace.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        match self.start(job).recv() {
            Ok(value) => value,
            Err(_) => panic!("a job in the namespace panicked: see above"),
        }
    }

    /// Begins to run this in the namespace, after what was begun there before.
    pub fn start<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
        let (done, result) = mpsc::channel();
        let job: Job = Box::new(move || {
            let _ = done.send(job());
        });
        self.jobs.as_ref().expect("lives").send(job).expect("an earlier job panicked");
        result
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
