//! The server: opened on a data directory, then served on listeners.

use std::future::Future;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::auth::{Claims, TokenKey, User};
use crate::catalog::Catalog;
use crate::definition::ResourceKey;
use crate::error::Error;
use crate::flow::Flow;
use crate::handle::Handle;
use crate::hooks::Hooks;
use crate::options::{Limits, Options};
use crate::refusal::Refusal;
use crate::store::{Store, Window};
use crate::tls::{self, Keys};
use crate::write::{FieldValidation, Writing};
use crate::{clock, http};

/// What all connections share.
pub(crate) struct Inner {
    pub(crate) store: Arc<Store>,
    pub(crate) tokens: TokenKey,
    pub(crate) hooks: Arc<dyn Hooks>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) flow: Arc<Flow>,
    pub(crate) stopping: watch::Sender<bool>,
    /// Resources whose objects go by themselves, and after how long.
    kept_for: Vec<(ResourceKey, Duration)>,
}

/// A Kubernetes-style API server on a data directory.
pub struct Server {
    inner: Arc<Inner>,
    keys: Keys,
}

/// An issued token.
#[derive(Clone)]
pub struct IssuedToken {
    /// The bearer token: a secret.
    pub token: String,
    /// When it ends.
    pub expires: Timestamp,
}

impl Server {
    /// Opens the data directory, or makes it: keys and certificates, database, the first namespaces. Blocks while it reads.
    ///
    /// # Errors
    /// Everything that [`Error`] names; nothing is half done then.
    pub fn open(options: Options) -> Result<Self, Error> {
        tls::make_folder(&options.data_dir)?;
        let now = Timestamp::now();
        let keys = Keys::open(&options.data_dir.join("keys"), &options.sans, now)?;
        let database = options.data_dir.join("db");
        tls::make_folder(&database)?;
        let limits = Arc::new(options.limits);
        let window = Window { events: limits.history_events, bytes: limits.history_bytes };
        let kept_for = options.definitions.iter().filter_map(|one| Some((one.key(), one.kept_for?))).collect();
        let store = Store::open(&database.join("objects.redb"), Catalog::new(options.definitions), window)?;
        let inner = Arc::new(Inner {
            store: Arc::new(store),
            tokens: keys.tokens.clone(),
            hooks: options.hooks,
            flow: Arc::new(Flow::new(limits.clone())),
            limits,
            stopping: watch::Sender::new(false),
            kept_for,
        });
        inner.make_namespaces(options.namespaces)?;
        Ok(Self { inner, keys })
    }

    /// The certificate of the server's own authority, in PEM: what clients pin.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.keys.authority
    }

    /// The administrator's bearer token, of group `system:masters`; the same as long as `keys/token.key` is. A secret.
    #[must_use]
    pub fn admin_token(&self) -> String {
        self.inner.tokens.administrator()
    }

    /// A kubeconfig of the administrator, in YAML, for a server that is reached at `url`. It holds a secret.
    #[must_use]
    pub fn admin_kubeconfig(&self, url: &str, context: &str) -> String {
        kubeconfig(url, context, &self.keys.authority, &self.admin_token())
    }

    /// Writes [`Server::admin_kubeconfig`] to a file that only its owner can read.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_admin_kubeconfig(&self, file: &Path, url: &str, context: &str) -> Result<(), Error> {
        tls::write_secret(file, self.admin_kubeconfig(url, context).as_bytes())
    }

    /// Reads and writes without HTTP, as the embedding program itself.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(self.inner.clone(), User::embedder())
    }

    /// Listens on addresses as `127.0.0.1:6443` or `[::]:6443`; port 0 takes a free one.
    ///
    /// # Errors
    /// An address that cannot be listened on, by name: the port is in use, the address is not this machine's.
    pub fn bind(addresses: &[String]) -> Result<Vec<TcpListener>, Error> {
        addresses
            .iter()
            .map(|address| TcpListener::bind(address).map_err(|source| Error::Listen { address: address.clone(), source }))
            .collect()
    }

    /// Serves on listeners, bound by [`Server::bind`] or inherited, until `shutdown` is ready; then watches end, running requests
    /// are given [`Limits::grace`], and the database is closed once no [`Handle`] is left.
    ///
    /// # Errors
    /// A listener that cannot be used.
    pub async fn serve(self, listeners: Vec<TcpListener>, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        if listeners.is_empty() {
            return Err(Error::NoListener);
        }
        let sweeper = tokio::spawn(sweep(Arc::downgrade(&self.inner), self.inner.limits.sweep_interval));
        let result = http::serve(self.inner.clone(), self.keys.tls.clone(), listeners, Box::pin(shutdown)).await;
        sweeper.abort();
        result
    }
}

/// A kubeconfig in YAML with one context.
pub(crate) fn kubeconfig(url: &str, context: &str, authority: &str, token: &str) -> String {
    use base64::Engine as _;
    let authority = base64::engine::general_purpose::STANDARD.encode(authority);
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": context, "preferences": {},
        "clusters": [{"name": context, "cluster": {"server": url, "certificate-authority-data": authority}}],
        "users": [{"name": context, "user": {"token": token}}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
    });
    // JSON is YAML, should the writer ever fail.
    daisy_api::yaml::to_string(&config).unwrap_or_else(|_| config.to_string())
}

impl Inner {
    /// Whom a bearer token stands for now: its ServiceAccount must still be the same one.
    pub(crate) fn authenticate(&self, token: &str) -> Option<(User, Claims)> {
        let claims = self.tokens.verify(token, Timestamp::now())?;
        Some((self.user_of(&claims)?, claims))
    }

    /// The user of claims, if they are still good.
    pub(crate) fn user_of(&self, claims: &Claims) -> Option<User> {
        match claims {
            Claims::Administrator => Some(User::administrator()),
            Claims::ServiceAccount { namespace, name, uid, expires } => {
                if clock::unix(Timestamp::now()) >= *expires {
                    return None;
                }
                let accounts = ResourceKey::new("", "serviceaccounts");
                let state = self.store.read();
                let account = state.get(&accounts, namespace, name)?;
                (account.uid == *uid).then(|| User::service_account(namespace, name, uid))
            }
        }
    }

    /// Makes a token for a ServiceAccount as it is now.
    pub(crate) fn issue(&self, namespace: &str, name: &str, lifetime: Duration) -> Result<IssuedToken, Refusal> {
        let uid = self
            .store
            .read()
            .get(&ResourceKey::new("", "serviceaccounts"), namespace, name)
            .map(|account| account.uid.clone())
            .ok_or_else(|| Refusal::not_found("", "serviceaccounts", name))?;
        let now = Timestamp::now();
        let expires = clock::unix(now).saturating_add(lifetime.min(self.limits.token_most).as_secs());
        let token = self.tokens.service_account((namespace, name, &uid), now, expires);
        let expires = Timestamp::from_second(i64::try_from(expires).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX);
        Ok(IssuedToken { token, expires })
    }

    /// How a write by `user` is done.
    pub(crate) fn writing(&self, served: Arc<crate::catalog::Served>, namespace: &str, user: &User) -> Writing {
        Writing {
            served,
            namespace: namespace.to_owned(),
            user: user.clone(),
            hooks: self.hooks.clone(),
            limits: self.limits.clone(),
            status: false,
            dry_run: false,
            validation: FieldValidation::default(),
        }
    }

    fn make_namespaces(&self, names: Vec<String>) -> Result<(), Error> {
        let key = ResourceKey::new("", "namespaces");
        let Some(served) = self.store.read().catalog.get(&key).cloned() else { return Ok(()) };
        let writing = self.writing(served, "", &User::embedder());
        self.store.write_blocking(move |transaction| {
            for name in names {
                if transaction.get(&key, "", &name).is_none() {
                    let namespace: Value = json!({"metadata": {"name": name}});
                    writing.run(transaction, |writer| writer.create(namespace))?;
                }
            }
            Ok(())
        })?;
        Ok(())
    }
}

/// Deletes what has outlived its time, until the server is gone.
async fn sweep(inner: std::sync::Weak<Inner>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let Some(inner) = inner.upgrade() else { return };
        let now = Instant::now();
        for (key, time) in &inner.kept_for {
            let old: Vec<_> = {
                let state = inner.store.read();
                let objects = state.collection(key).into_iter().flat_map(|collection| collection.iter(None));
                objects
                    .filter(|(_, object)| now.saturating_duration_since(object.since) > *time)
                    .map(|(place, object)| (place.clone(), object.version))
                    .collect()
            };
            if old.is_empty() {
                continue;
            }
            let key = key.clone();
            let swept = inner.store.write(move |transaction| {
                for (place, version) in old {
                    let same = transaction.get(&key, &place.0, &place.1).is_some_and(|object| object.version == version);
                    if same {
                        transaction.remove(&key, place);
                    }
                }
                Ok(())
            });
            if let Err(refusal) = swept.await {
                tracing::warn!(%refusal, "what has outlived its time was not deleted");
            }
        }
    }
}
