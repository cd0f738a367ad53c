//! Answers.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WARNING, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use serde_json::Value;

use crate::flow::Ticket;
use crate::read::{Form, WatchStream};
use crate::refusal::Refusal;

/// The body of an answer: whole, or a stream.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;
/// An answer.
pub(super) type Answer = Response<Body>;

fn answer(code: u16, media_type: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    // Answers are nobody else's to keep, and are what their type says.
    answer.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    answer.headers_mut().insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    answer
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A text.
pub(super) fn text(code: u16, text: &'static str) -> Answer {
    answer(code, "text/plain; charset=utf-8", full(text))
}

/// JSON that is there already.
pub(super) fn bytes(code: u16, media_type: &'static str, json: Bytes) -> Answer {
    answer(code, media_type, full(json))
}

/// JSON.
pub(super) fn json(code: u16, value: &Value) -> Answer {
    bytes(code, "application/json", value.to_string().into())
}

/// A refusal, as a `Status`.
pub(super) fn refusal(refusal: &Refusal) -> Answer {
    let mut answer = json(refusal.code, &refusal.to_status());
    if let Some(seconds) = refusal.retry_after {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if refusal.code == 401 {
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

/// Adds warnings that kubectl shows (RFC 9111 section 5.5's predecessor, as Kubernetes uses it).
pub(super) fn warn(answer: &mut Answer, warnings: &[String]) {
    for warning in warnings.iter().take(16) {
        let plain: String = warning.chars().filter(|c| c.is_ascii() && !c.is_ascii_control()).take(256).collect();
        let quoted = plain.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            answer.headers_mut().append(WARNING, value);
        }
    }
}

/// A watch: its lines, as they come.
pub(super) fn watch(stream: WatchStream, ticket: Option<Ticket>, form: Form) -> Answer {
    let lines = stream::unfold((stream, ticket), |(mut stream, ticket)| async move {
        let chunk = stream.next().await?;
        Some((chunk, (stream, ticket)))
    });
    let frames = lines.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
    answer(200, form.media_type(), StreamBody::new(frames).boxed_unsync())
}
