//! How a cluster asks a broker to let it join: what `daisy join` and `daisy kind-config` do with a broker-info file.
//!
//! ```text
//! BrokerInfo, Ask ──JoinRequest (signed, unguessable name)──▶ broker ──▶ status ──unsealed──▶ Answer
//! ```

use std::error::Error as StdError;
use std::time::Duration;

use daisy_api::broker_info::BrokerInfo;
use daisy_api::keys::VerifyingKey;
use daisy_api::labels::BROKER_NAMESPACE;
use daisy_api::{Cidr, ClusterId, JoinPhase, JoinRequest, JoinRequestSpec, JoinRequestStatus, Ranges};
use daisy_broker_core::registrar::request::{REQUEST_NAME_PREFIX, REQUESTS_PER_INVITATION, sign};
use daisy_kubernetes::Api;
use ed25519_dalek::SigningKey;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::PostParams;
use kube::config::{AuthInfo, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;

use crate::sealing::{self, SealError, SecretKey};

pub use crate::sealing::Credential;

/// How long an API server may take to show its certificate.
const VERIFY_WITHIN: Duration = Duration::from_secs(5);

/// What keeps a cluster from joining.
#[derive(Debug, Error)]
pub enum EnrolError {
    /// The address in the file is none.
    #[error("server {server:?} in the broker-info file is no URL ({cause}); ask for the file again (daisy invite)")]
    Server {
        /// The address.
        server: String,
        /// What is wrong.
        cause: String,
    },
    /// The certificate in the file is none.
    #[error("ca in the broker-info file is no PEM certificate; ask for the file again (daisy invite)")]
    Ca,
    /// Nobody answers at the address.
    #[error("the broker at {server} cannot be reached: {cause}; is it up, and may this machine connect to it?")]
    Unreachable {
        /// The address.
        server: String,
        /// What the system says.
        cause: String,
    },
    /// Who answers is not the broker meant.
    #[error(
        "whoever answers at {server} is not the broker of this file: its certificate is not of the authority pinned there ({cause}); \
         nothing was sent. If the broker was made anew, ask for a new file (daisy invite)"
    )]
    OtherBroker {
        /// The address.
        server: String,
        /// What is wrong with the certificate.
        cause: String,
    },
    /// The certificate is not valid at this time.
    #[error(
        "the broker at {server} has a certificate that is not valid now ({cause}); it is {now} here: is this machine's clock right?"
    )]
    Clock {
        /// The address.
        server: String,
        /// What is wrong with the certificate.
        cause: String,
        /// The time here.
        now: Timestamp,
    },
    /// The broker does not know the invitation's token.
    #[error(
        "the broker at {server} does not take this file's invitation: it has expired, was revoked, or is of a broker whose data is gone; \
         ask for a new one (daisy invite)"
    )]
    Invitation {
        /// The address.
        server: String,
    },
    /// The broker does not take the request.
    #[error("the broker at {server} does not take the request: {message}")]
    NotTaken {
        /// The address.
        server: String,
        /// What it says.
        message: String,
    },
    /// The registrar has deleted the request unanswered.
    #[error(
        "the broker at {server} has dropped the request: this invitation has {REQUESTS_PER_INVITATION} requests there already, which are deleted an hour \
         after their answer; ask again later, or for another invitation (daisy invite)"
    )]
    Dropped {
        /// The address.
        server: String,
    },
    /// The registrar refused.
    #[error("refused ({reason}): {message}")]
    Refused {
        /// Why, in CamelCase.
        reason: String,
        /// Why, and what to do.
        message: String,
        /// Free ranges to take instead, where refused for overlap.
        ranges: Option<Box<Ranges>>,
    },
    /// No answer in time.
    #[error(
        "the broker at {server} took the request, but no registrar has answered within {seconds} s; is it running there? Ask again later"
    )]
    NoAnswer {
        /// The address.
        server: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The answer cannot be used.
    #[error("the answer of the broker at {server} cannot be used: {cause}")]
    Answer {
        /// The address.
        server: String,
        /// Why.
        cause: String,
    },
}

/// What a cluster asks for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The ID that it would have.
    pub cluster_id: ClusterId,
    /// The UID of its namespace `kube-system`. Any text where the cluster has yet to be made.
    pub cluster_uid: String,
    /// Its pod CIDRs; empty, with `service_cidrs`, to have ranges reserved.
    pub cluster_cidrs: Vec<Cidr>,
    /// Its service CIDRs.
    pub service_cidrs: Vec<Cidr>,
    /// Whether it takes the place of a member of the same ID.
    pub replace: bool,
    /// The Daisy version that asks.
    pub version: String,
}

/// What a cluster is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It is a member.
    Admitted(Box<Admitted>),
    /// These ranges are kept for it.
    Reserved(Reserved),
}

/// What a member is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// What it writes and reads the broker with.
    pub credential: Credential,
    /// The ranges that it has.
    pub ranges: Ranges,
    /// For people: what it may export.
    pub message: String,
}

/// What a cluster that has yet to be made is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Reserved {
    /// The ranges.
    pub ranges: Ranges,
    /// Until when they are kept.
    pub until: Timestamp,
    /// For people: the flags to join with.
    pub message: String,
}

/// A client of the broker at `server` that trusts this certificate authority alone, and shows this token.
///
/// # Errors
/// An address that is no URL, or no certificate.
pub fn client(server: &str, ca_pem: &str, token: &str) -> Result<Client, EnrolError> {
    use_ring();
    let failed = |cause: String| EnrolError::Server { server: server.to_owned(), cause };
    Client::try_from(config(server, ca_pem, token)?).map_err(|error| failed(error.to_string()))
}

fn config(server: &str, ca_pem: &str, token: &str) -> Result<Config, EnrolError> {
    let failed = |cause: String| EnrolError::Server { server: server.to_owned(), cause };
    let url: http::Uri = server.parse().map_err(|error: http::uri::InvalidUri| failed(error.to_string()))?;
    if url.scheme_str() != Some("https") {
        return Err(failed("it does not begin with https://".to_owned()));
    }
    let mut config = Config::new(url);
    config.root_cert = Some(authorities(ca_pem).map_err(|NoAuthority| EnrolError::Ca)?);
    config.auth_info = AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() };
    Ok(config)
}

/// A text without a certificate, or with one that TLS cannot take.
#[derive(Debug, Error)]
#[error("no certificate that TLS can take is in it")]
pub(crate) struct NoAuthority;

/// The certificates in this text, in DER, all of them such as TLS can trust.
pub(crate) fn authorities(ca_pem: &str) -> Result<Vec<Vec<u8>>, NoAuthority> {
    let mut trusted = rustls::RootCertStore::empty();
    let mut all = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|_| NoAuthority)?;
        all.push(certificate.as_ref().to_vec());
        trusted.add(certificate).map_err(|_| NoAuthority)?;
    }
    if all.is_empty() { Err(NoAuthority) } else { Ok(all) }
}

/// Whether the API server that is reached at `at` is one that `ca_pem` vouches for at the address `server`, by which others will
/// know it. Nothing secret is sent.
///
/// # Errors
/// [`EnrolError::Unreachable`] where nobody answers; the others where an answer cannot be trusted.
pub async fn verify(at: &str, server: &str, ca_pem: &str) -> Result<(), EnrolError> {
    use_ring();
    let failed = |cause: String| EnrolError::Server { server: server.to_owned(), cause };
    let url: http::Uri = server.parse().map_err(|error: http::uri::InvalidUri| failed(error.to_string()))?;
    let mut config = config(at, ca_pem, "nobody")?;
    config.tls_server_name = url.host().map(|host| host.trim_matches(['[', ']']).to_owned());
    let client = Client::try_from(config).map_err(|error| failed(error.to_string()))?;
    match tokio::time::timeout(VERIFY_WITHIN, client.apiserver_version()).await {
        Ok(Ok(_) | Err(kube::Error::Api(_))) => Ok(()),
        Ok(Err(error)) => Err(explain(server, &error)),
        Err(_) => {
            let cause = format!("no answer within {} s", VERIFY_WITHIN.as_secs());
            Err(EnrolError::Unreachable { server: server.to_owned(), cause })
        }
    }
}

/// TLS takes its cryptography from ring, unless the program has chosen before.
pub(crate) fn use_ring() {
    // An error says that it has.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Asks, and waits up to `timeout` for the answer.
///
/// `signing_key` is the cluster's own, kept with its credential: a member that asks again is known by it.
///
/// # Errors
/// What keeps the cluster from joining. Nothing is changed anywhere then, but for a request that the broker deletes in time.
pub async fn ask(info: &BrokerInfo, ask: &Ask, signing_key: &SigningKey, timeout: Duration) -> Result<Answer, EnrolError> {
    let client = client(&info.server, &info.ca, &info.invitation.token)?;
    let requests: Api<JoinRequest> = Api::namespaced(client, BROKER_NAMESPACE);
    let (secret, sealing_key) = sealing::key();
    let name = format!("{REQUEST_NAME_PREFIX}{}", crate::setup::random_name(32));
    let mut spec = JoinRequestSpec {
        invitation: info.invitation.name.clone(),
        cluster_id: ask.cluster_id.clone(),
        cluster_uid: ask.cluster_uid.clone(),
        cluster_cidrs: ask.cluster_cidrs.clone(),
        service_cidrs: ask.service_cidrs.clone(),
        sealing_key,
        signing_key: VerifyingKey::from_bytes(signing_key.verifying_key().to_bytes()),
        signature: None,
        replace: ask.replace,
        version: ask.version.clone(),
    };
    sign(signing_key, &info.broker_id, &name, &mut spec);
    let request = JoinRequest::new(&name, spec);
    requests.create(&PostParams::default(), &request).await.map_err(|error| explain(&info.server, &error))?;
    let status = tokio::time::timeout(timeout, answered(&requests, &name, &info.server)).await;
    let status = status.map_err(|_| EnrolError::NoAnswer { server: info.server.clone(), seconds: timeout.as_secs() })??;
    read(info, &ask.cluster_id, &secret, status)
}

/// Waits for the request's answer. It is asked for again and again: an invitation's token can get its request, and not watch.
async fn answered(requests: &Api<JoinRequest>, name: &str, server: &str) -> Result<JoinRequestStatus, EnrolError> {
    let mut pause = Duration::from_millis(10);
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_secs(1));
        match requests.get(name).await {
            Ok(request) => {
                if let Some(status) = request.status.filter(|status| status.phase != JoinPhase::Pending) {
                    return Ok(status);
                }
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                return Err(EnrolError::Dropped { server: server.to_owned() });
            }
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                return Err(explain(server, &kube::Error::Api(status)));
            }
            // The broker went away for a moment; it keeps what it took.
            Err(_) => {}
        }
    }
}

fn read(info: &BrokerInfo, id: &ClusterId, secret: &SecretKey, status: JoinRequestStatus) -> Result<Answer, EnrolError> {
    let unusable = |cause: &str| EnrolError::Answer { server: info.server.clone(), cause: cause.to_owned() };
    let JoinRequestStatus { phase, reason, message, ranges, reserved_until, sealed_credential } = status;
    match phase {
        JoinPhase::Admitted => {
            let sealed = sealed_credential.ok_or_else(|| unusable("it holds no credential"))?;
            let credential = Credential::open(secret, &sealed).map_err(|error: SealError| unusable(&error.to_string()))?;
            if credential.broker_id != info.broker_id {
                return Err(unusable("its credential is of another broker than the file's"));
            }
            if credential.cluster_id != *id || credential.namespace != id.broker_namespace() {
                return Err(unusable("its credential is another cluster's"));
            }
            let ranges = ranges.ok_or_else(|| unusable("it holds no ranges"))?;
            Ok(Answer::Admitted(Box::new(Admitted { credential, ranges, message })))
        }
        JoinPhase::Reserved => {
            let ranges = ranges.ok_or_else(|| unusable("it holds no ranges"))?;
            let until = reserved_until.ok_or_else(|| unusable("it does not say until when the ranges are kept"))?.0;
            Ok(Answer::Reserved(Reserved { ranges, until, message }))
        }
        JoinPhase::Refused => Err(EnrolError::Refused { reason, message, ranges: ranges.map(Box::new) }),
        JoinPhase::Pending => Err(unusable("it is none")),
    }
}

/// What an error of the connection or the API server means for who joins.
fn explain(server: &str, error: &kube::Error) -> EnrolError {
    let server = server.to_owned();
    if let kube::Error::Api(status) = error {
        return match status.code {
            401 => EnrolError::Invitation { server },
            _ => EnrolError::NotTaken { server, message: status.message.clone() },
        };
    }
    if let Some(rustls::Error::InvalidCertificate(error)) = tls_error(error) {
        use rustls::CertificateError as E;
        let cause = error.to_string();
        let time = matches!(error, E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. });
        return if time {
            EnrolError::Clock { server, cause, now: Timestamp::now() }
        } else {
            EnrolError::OtherBroker { server, cause }
        };
    }
    // The last cause says most, as "connection refused".
    let mut cause: &dyn StdError = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    EnrolError::Unreachable { server, cause: cause.to_string() }
}

/// The TLS error beneath, if that is what it is.
fn tls_error(error: &kube::Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // An io::Error's source is that of what it wraps, not what it wraps.
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
