//! Whether this replica is the one that writes: [`daisy_broker_core::lease`] against an API server.
//!
//! ```text
//! API server ◀──read, create, replace── one task with the machine ──until when──▶ Turn ──▶ syncer, registrar
//! ```

use std::time::Duration;

use daisy_broker_core::lease::{Answer, Ask, Elector, Timing};
use daisy_broker_core::time::Now;
use daisy_kubernetes::Api;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::{Client, ResourceExt};
use tokio::sync::{oneshot, watch as channel};
use tokio::time::Instant;
use tracing::{info, warn};

/// How long a request may take: well under the time that a holder has to renew.
const ANSWER: Duration = Duration::from_secs(4);

/// Which Lease, and by what name this replica holds it.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// This replica: no other living process has the name. A pod's name is one, and lets a container that is started again in
    /// its pod go on at once.
    pub identity: String,
    /// How long things take.
    pub timing: Timing,
}

impl LeaseOptions {
    /// The Lease of this name, with the usual times; without an identity, one of the host's name and chance.
    #[must_use]
    pub fn new(namespace: &str, name: &str, identity: Option<String>) -> Self {
        let identity = identity.filter(|identity| !identity.is_empty()).unwrap_or_else(|| {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            format!("{}-{}", host.trim(), crate::setup::random_name(8))
        });
        Self { namespace: namespace.to_owned(), name: name.to_owned(), identity, timing: Timing::default() }
    }
}

/// Whose turn it is to write: this replica's, or not.
#[derive(Clone, Debug)]
pub(crate) struct Turn(channel::Receiver<State>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Whether it is known whose turn it is, or that it cannot be known now.
    asked: bool,
    /// Until when this replica may write.
    until: Option<Instant>,
}

impl Turn {
    /// For whoever is alone by nature: always its turn.
    pub(crate) fn always() -> Self {
        // Without its sender a channel keeps its value.
        Self(channel::channel(State { asked: true, until: Some(Instant::now() + Duration::from_secs(100 * 365 * 86_400)) }).1)
    }

    /// Whether it is this replica's turn, at this very moment.
    pub(crate) fn is_ours(&self) -> bool {
        self.0.borrow().until.is_some_and(|until| Instant::now() < until)
    }

    /// Waits until it is this replica's turn, or no longer is.
    pub(crate) async fn becomes(&mut self, ours: bool) {
        loop {
            let until = self.0.borrow_and_update().until.filter(|until| Instant::now() < *until);
            if until.is_some() == ours {
                return;
            }
            let ends = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.0.changed() => if changed.is_err() {
                    // Nobody renews any more: what is held ends by itself, and nothing begins.
                    match until {
                        Some(until) if !ours => tokio::time::sleep_until(until).await,
                        _ => std::future::pending().await,
                    }
                },
                () = ends => {}
            }
        }
    }

    /// Waits until the API server has said whose turn it is, or this long.
    pub(crate) async fn first(&mut self, patience: Duration) {
        // Either way what is known then is in the state.
        let _ = tokio::time::timeout(patience, self.0.wait_for(|state| state.asked)).await;
    }
}

/// Takes part in the turns, until it is told to stop.
pub(crate) struct Election {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Election {
    /// Begins to take part.
    pub(crate) fn start(client: &Client, options: LeaseOptions) -> (Self, Turn) {
        let (sender, receiver) = channel::channel(State::default());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(Part::new(client, options, sender).run(stopped));
        (Self { stop, task }, Turn(receiver))
    }

    /// Gives the lease back, if it is held, so that another replica can take it at once. Nothing may be written after this was
    /// called.
    pub(crate) async fn end(self) {
        let Self { stop, task } = self;
        // The task ends by itself only when it is told to.
        let _ = stop.send(());
        if tokio::time::timeout(ANSWER * 2, task).await.is_err() {
            warn!("the lease could not be given back; it runs out by itself");
        }
    }
}

struct Part {
    api: Api<Lease>,
    options: LeaseOptions,
    elector: Elector,
    began: Instant,
    state: channel::Sender<State>,
    /// What went wrong at the last request, so that it is said once.
    trouble: Option<String>,
    holder: Option<String>,
}

impl Part {
    fn new(client: &Client, options: LeaseOptions, state: channel::Sender<State>) -> Self {
        let began = Instant::now();
        let elector = Elector::new(
            &options.name,
            &options.identity,
            options.timing,
            Now { monotonic: Duration::ZERO, wall: Timestamp::now() },
        );
        let api = Api::namespaced(client.clone(), &options.namespace);
        Self { api, options, elector, began, state, trouble: None, holder: None }
    }

    fn now(&self) -> Now {
        Now { monotonic: self.began.elapsed(), wall: Timestamp::now() }
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        loop {
            if let Some(ask) = self.elector.poll_ask(self.now()) {
                // A write that is cut short may have been done: its answer is waited for even when told to stop.
                let answer = self.ask(&ask).await;
                self.elector.handle_answer(answer, self.now());
                self.tell();
                continue;
            }
            let next = self.elector.poll_timeout().unwrap_or(self.options.timing.retry);
            tokio::select! {
                told = &mut stopped => match told {
                    Ok(()) => break,
                    // Whoever writes may not have ended in good order: the lease runs out by itself.
                    Err(_) => return,
                },
                () = tokio::time::sleep_until(self.began + next) => {}
            }
        }
        let given = self.elector.release(self.now());
        self.state.send_replace(State { asked: true, until: None });
        if let Some(ask) = given {
            let answer = self.ask(&ask).await;
            if matches!(answer, Answer::Lease(_)) {
                info!(lease = self.options.name, "given back");
            }
        }
    }

    async fn ask(&mut self, ask: &Ask) -> Answer {
        let parameters = PostParams::default();
        let request = async {
            match ask {
                Ask::Read => self.api.get_opt(&self.options.name).await,
                Ask::Create(lease) => self.api.create(&parameters, lease).await.map(Some),
                Ask::Replace(lease) => self.api.replace(&lease.name_any(), &parameters, lease).await.map(Some),
            }
        };
        let said = match tokio::time::timeout(ANSWER, request).await {
            Ok(Ok(lease)) => {
                self.trouble = None;
                return lease.map_or(Answer::Absent, |lease| Answer::Lease(Box::new(lease)));
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => return Answer::Conflict,
            // The namespace of a Lease that cannot be created is not there.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 && matches!(ask, Ask::Replace(_)) => return Answer::Absent,
            Ok(Err(kube::Error::Api(status))) => self.refused(ask, status.code, &status.message),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the API server did not answer in {} s", ANSWER.as_secs()),
        };
        if self.trouble.as_ref() != Some(&said) {
            let LeaseOptions { namespace, name, .. } = &self.options;
            warn!("Lease {namespace}/{name} cannot be held, and who does not hold it writes nothing: {said}");
            self.trouble = Some(said);
        }
        Answer::Failed
    }

    fn refused(&self, ask: &Ask, code: u16, message: &str) -> String {
        let verb = match ask {
            Ask::Read => "get",
            Ask::Create(_) => "create",
            Ask::Replace(_) => "update",
        };
        match code {
            403 => format!(
                "{message}; give this role the verb {verb} on leases.coordination.k8s.io in namespace {} (daisy join does)",
                self.options.namespace
            ),
            _ => format!("{message} ({code})"),
        }
    }

    /// Says whose turn it is.
    fn tell(&mut self) {
        let now = self.now();
        let until = self.elector.writes_until(now).map(|until| self.began + until);
        // A lease that is free is asked for at once: until then nothing is known.
        let asked = until.is_some() || self.elector.poll_timeout().is_some_and(|next| next > now.monotonic);
        let before = self.state.send_replace(State { asked, until });
        let lease = self.options.name.as_str();
        let holder = self.elector.holder().map(str::to_owned);
        match (before.until.is_some(), until.is_some()) {
            (false, true) => info!(lease, replica = self.options.identity, "held: this replica writes"),
            (true, false) => warn!(lease, ?holder, "lost: this replica writes no more"),
            (false, false) if holder.is_some() && holder != self.holder => info!(lease, ?holder, "standing by"),
            _ => {}
        }
        self.holder = holder;
    }
}
