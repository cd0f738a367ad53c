//! The token for the broker renews itself, at half of its life.

use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, PostParams};
use serde::Deserialize;
use tokio::sync::watch as channel;
use tracing::{info, warn};

use super::access;
use super::metrics::Metrics;
use crate::lease::Turn;

/// How long a token is asked for, in seconds.
const LIFE: i64 = 86_400;
/// How long to wait after a renewal that failed, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    #[serde(default)]
    iat: Option<i64>,
    exp: Option<i64>,
}

fn claims(token: &str) -> Option<Claims> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// How long until half of the token's life is over; nothing where it does not say, so that its successor does.
fn until_half(token: &str, now: Timestamp) -> Duration {
    let Some((from, until)) = claims(token).and_then(|claims| Some((claims.iat.unwrap_or(now.as_second()), claims.exp?)))
    else {
        return Duration::ZERO;
    };
    let half = from.saturating_add(until.saturating_sub(from) / 2);
    Duration::from_secs(u64::try_from(half.saturating_sub(now.as_second())).unwrap_or(0))
}

/// Whose token it is: `system:serviceaccount:NAMESPACE:NAME`.
fn account(token: &str) -> Option<(String, String)> {
    let subject = claims(token)?.sub;
    let (namespace, name) = subject.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    Some((namespace.to_owned(), name.to_owned()))
}

/// How often a replica that does not write looks whether it does.
const STANDBY: Duration = Duration::from_secs(1);

/// Renews the token for as long as the syncer runs, while it is this replica's turn. The new one goes into the Secret, whose watch
/// makes a client of it.
pub(super) fn renew(
    client: Client,
    mut broker: channel::Receiver<Option<Client>>,
    secrets: channel::Receiver<access::Sight>,
    turn: Turn,
    metrics: Metrics,
) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let mut pause = AGAIN.0;
        // The one that was renewed last, until the Secret holds its successor; and one that cannot be.
        let (mut renewed, mut hopeless) = (String::new(), String::new());
        // Until the broker was heard of once there is nobody to ask.
        broker.wait_for(Option::is_some).await.context("no client of the broker")?;
        loop {
            let token = access::token(&secrets).filter(|token| turn.is_ours() && *token != renewed && *token != hopeless);
            let Some(token) = token else {
                tokio::time::sleep(STANDBY).await;
                continue;
            };
            let wait = until_half(&token, Timestamp::now());
            if wait > Duration::ZERO {
                // The wall clock may jump, and a machine may sleep: look again now and then.
                tokio::time::sleep(wait.min(Duration::from_secs(60))).await;
                continue;
            }
            let at_broker = broker.borrow().clone();
            let new = match (at_broker, account(&token)) {
                (Some(at_broker), Some(account)) => request(&at_broker, account).await,
                (_, None) => {
                    warn!(
                        "the token for the broker is no ServiceAccount's: it cannot be renewed; join again before it ends: daisy join"
                    );
                    hopeless = token;
                    continue;
                }
                (None, _) => continue,
            };
            let stored = match new {
                Ok(new) => access::store_token(&client, &new).await.context("storing the token"),
                Err(error) => Err(error),
            };
            metrics.renewed(stored.is_ok());
            match stored {
                Ok(()) => {
                    info!("the token for the broker is renewed");
                    (renewed, pause) = (token, AGAIN.0);
                }
                Err(error) => {
                    warn!(
                        "the token for the broker could not be renewed, and is tried again in {} s: {error:#}",
                        pause.as_secs()
                    );
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(AGAIN.1);
                }
            }
        }
    })
}

async fn request(broker: &Client, (namespace, name): (String, String)) -> anyhow::Result<String> {
    let api: Api<ServiceAccount> = Api::namespaced(broker.clone(), &namespace);
    let spec = TokenRequestSpec { audiences: Vec::new(), expiration_seconds: Some(LIFE), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let parameters = PostParams::default();
    let asking = api.create_token_request(&name, &parameters, &request);
    let answer = tokio::time::timeout(Duration::from_secs(15), asking).await.context("the broker did not answer in 15 s")?;
    let status = answer.with_context(|| format!("asking for a token of ServiceAccount {namespace}/{name}"))?.status;
    status.map(|status| status.token).filter(|token| !token.is_empty()).context("the broker's answer has no token")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_token_is_renewed_at_half_of_its_life() {
        let text = token(r#"{"sub":"system:serviceaccount:daisy-cluster-a:syncer","iat":1000,"exp":3000}"#);
        let at = |second| Timestamp::from_second(second).expect("in range");
        assert_eq!(until_half(&text, at(1000)), Duration::from_secs(1000));
        assert_eq!(until_half(&text, at(2000)), Duration::ZERO);
        assert_eq!(until_half(&text, at(9000)), Duration::ZERO);
        assert_eq!(account(&text), Some(("daisy-cluster-a".to_owned(), "syncer".to_owned())));
    }

    #[test]
    fn what_says_no_time_is_renewed_at_once() {
        for text in ["", "opaque", "a.b.c", &token("{}"), &token("[]")] {
            assert_eq!(until_half(text, Timestamp::UNIX_EPOCH), Duration::ZERO, "{text}");
        }
    }
}
