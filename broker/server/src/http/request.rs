//! One request: who, where to, and within their share?

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::Instant;

use super::path::Target;
use super::query::Query;
use super::respond::{self, Answer};
use super::{discovery, negotiate, openapi, resource};
use crate::auth::{Claims, User};
use crate::rbac::Attributes;
use crate::refusal::Refusal;
use crate::server::Inner;

/// A body that is too large is still read, and forgotten, up to so many times the limit: only then does the client see why.
const SWALLOWED: usize = 8;

/// A request of a known user.
pub(super) struct Asked<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) parts: &'a Parts,
    pub(super) query: Query,
    pub(super) user: User,
    pub(super) claims: Claims,
}

/// Answers a request, one way or the other.
pub(super) async fn answer(inner: &Arc<Inner>, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let answer = match route(inner, &parts, body).await {
        Ok(answer) => answer,
        Err(refusal) => {
            if refusal.code >= 500 {
                tracing::warn!(method = %parts.method, path = parts.uri.path(), %refusal, "a request failed");
            }
            respond::refusal(&refusal)
        }
    };
    tracing::debug!(method = %parts.method, path = parts.uri.path(), code = answer.status().as_u16(), "answered");
    answer
}

async fn route(inner: &Arc<Inner>, parts: &Parts, body: Incoming) -> Result<Answer, Refusal> {
    let target = Target::parse(parts.uri.path());
    let reads = parts.method == Method::GET || parts.method == Method::HEAD;
    if reads && target == Target::Health {
        return Ok(respond::text(200, "ok"));
    }
    if reads && target == Target::Version {
        return Ok(respond::json(200, &version()));
    }
    let (user, claims) = bearer(parts).and_then(|token| inner.authenticate(token)).ok_or_else(Refusal::unauthorized)?;
    if parts.headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Err(Refusal::new(403, "Forbidden", "impersonation is not served: use a token of that user"));
    }
    let _ticket = inner.flow.request(&user, Instant::now())?;
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let asked = Asked { inner, parts, query, user, claims };
    if let Target::Resource(path) = target {
        // Before rights are asked: a client that is still sending would not see the answer.
        let body = asked.body(body).await?;
        return resource::answer(&asked, path, &body).await;
    }
    let verb = parts.method.as_str().to_ascii_lowercase();
    inner.store.read().rbac.authorize(&asked.user, &Attributes::Path { verb: &verb, path: parts.uri.path() })?;
    if !reads {
        return Err(if target == Target::Unknown {
            Refusal::no_such_path()
        } else {
            Refusal::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        });
    }
    asked.describe(&target)
}

impl Asked<'_> {
    pub(super) fn header(&self, name: http::HeaderName) -> &str {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// All values of the `Accept` header.
    pub(super) fn accept(&self) -> String {
        let all: Vec<_> = self.parts.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        all.join(",")
    }

    pub(super) fn content_type(&self) -> &str {
        self.header(CONTENT_TYPE)
    }

    /// Reads the body, within its limits of size and time.
    async fn body(&self, mut body: Incoming) -> Result<Bytes, Refusal> {
        let limits = &self.inner.limits;
        let collect = async {
            let mut read = BytesMut::new();
            let mut length = 0;
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| Refusal::bad_request(format!("the body ended early: {error}")))?;
                let Ok(data) = frame.into_data() else { continue };
                length += data.len();
                if length <= limits.body_bytes {
                    read.extend_from_slice(&data);
                } else if length > limits.body_bytes.saturating_mul(SWALLOWED) {
                    break;
                }
            }
            if length > limits.body_bytes { Err(Refusal::too_large(limits.body_bytes)) } else { Ok(read.freeze()) }
        };
        let late = |_| Refusal::new(408, "Timeout", "the body took too long to arrive");
        tokio::time::timeout(limits.body_time, collect).await.map_err(late)?
    }

    /// Discovery and OpenAPI.
    fn describe(&self, target: &Target) -> Result<Answer, Refusal> {
        let accept = self.accept();
        let state = self.inner.store.read();
        let catalog = &state.catalog;
        if let (Target::CoreVersions | Target::Groups, Some(version)) = (target, negotiate::aggregated(&accept)) {
            let media_type = if version == "v2" {
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
            } else {
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
            };
            let list = discovery::aggregated(catalog, *target == Target::CoreVersions, version);
            return Ok(respond::bytes(200, media_type, list.to_string().into()));
        }
        negotiate::plain(&accept)?;
        let found = match target {
            Target::CoreVersions => Some(discovery::core_versions(catalog)),
            Target::Groups => Some(discovery::groups(catalog)),
            Target::Group(group) => discovery::group(catalog, group),
            Target::Resources { group, version } => discovery::resources(catalog, group, version),
            Target::OpenApiV2 => Some(openapi::v2()),
            Target::OpenApiV3 => Some(openapi::v3(&state)),
            Target::OpenApiV3Of { group, version } => openapi::v3_of(&state, group, version),
            Target::Health | Target::Version | Target::Resource(_) | Target::Unknown => None,
        };
        found.map(|found| respond::json(200, &found)).ok_or_else(Refusal::no_such_path)
    }
}

fn bearer(parts: &Parts) -> Option<&str> {
    let (scheme, token) = parts.headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The API of this Kubernetes version is what clients may expect, as far as it is served.
fn version() -> serde_json::Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": concat!("v1.33.0+daisy.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}
