//! From a request to what is sent back: what is the same for every zone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use daisy_dns_core::{Answer, QueryName, QueryType, Question, Rcode};
use hickory_proto::op::{Edns, Header, HeaderCounts, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::DNSClass;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tracing::{debug, warn};

use crate::metrics::Metrics;
use crate::upstream;
use crate::wire::{self, Sections};

/// The largest UDP answer that is sent, in bytes: it passes every path of 1280 bytes unfragmented (DNS flag day 2020).
pub(crate) const UDP_PAYLOAD: u16 = 1232;
/// What a client takes that says nothing (RFC 1035 section 4.2.1).
const UDP_PAYLOAD_MIN: u16 = 512;

/// What is to be sent back.
#[derive(Debug, Clone)]
pub enum Reply {
    /// This.
    Answer(Answer),
    /// What the first of these servers that answers says.
    Forward(Arc<[SocketAddr]>),
}

/// Who knows what is to be sent back.
pub trait Respond: Send + Sync + Unpin + 'static {
    /// The reply to a question of class IN. It must not block.
    fn respond(&self, question: &Question<'_>) -> Reply;
}

/// Answers requests by what a [`Respond`] says.
pub(crate) struct Handler {
    // Boxed, so that the server is compiled in this crate alone and not for each responder again.
    responder: Box<dyn Respond>,
    metrics: Metrics,
}

impl Handler {
    pub(crate) fn new(responder: Box<dyn Respond>, metrics: Metrics) -> Self {
        Self { responder, metrics }
    }
}

/// A response before it is written.
struct Response {
    metadata: Metadata,
    sections: Sections,
    zone: Option<usize>,
}

impl Response {
    fn bare(request: &Request, code: ResponseCode) -> Self {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = code;
        Self { metadata, sections: Sections::default(), zone: None }
    }
}

impl Handler {
    async fn respond(&self, request: &Request) -> Response {
        if request.metadata.op_code != OpCode::Query {
            return Response::bare(request, ResponseCode::NotImp);
        }
        if request.version() > 0 {
            // RFC 6891 section 6.1.3.
            return Response::bare(request, ResponseCode::BADVERS);
        }
        let [query] = request.queries.queries() else { return Response::bare(request, ResponseCode::FormErr) };
        if query.query_class() != DNSClass::IN {
            return Response::bare(request, ResponseCode::Refused);
        }
        let original = query.original().name();
        let Some(name) = QueryName::from_labels(original.iter()) else {
            return Response::bare(request, ResponseCode::FormErr);
        };
        let kind = QueryType::from(u16::from(query.query_type()));
        let question = Question { name: &name, kind, turn: usize::from(request.metadata.id) };
        match self.responder.respond(&question) {
            Reply::Answer(answer) => {
                let mut response = Response::bare(request, code(answer.rcode));
                response.metadata.authoritative = answer.authoritative;
                response.zone = answer.zone;
                response.sections = wire::sections(&answer, original);
                response
            }
            Reply::Forward(servers) => forward(request, &servers).await,
        }
    }
}

async fn forward(request: &Request, servers: &[SocketAddr]) -> Response {
    match upstream::exchange(request.as_slice(), servers, request.protocol() == Protocol::Tcp).await {
        Ok(message) => {
            let metadata = message.metadata;
            let sections = Sections {
                answers: message.answers,
                authority: message.authorities,
                additional: message.additionals,
                truncated: message.metadata.truncation,
            };
            Response { metadata, sections, zone: None }
        }
        Err(error) => {
            debug!("forwarding: {error}");
            Response::bare(request, ResponseCode::ServFail)
        }
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<H: ResponseHandler, T: Time>(&self, request: &Request, mut handle: H) -> ResponseInfo {
        let start = Instant::now();
        let mut response = self.respond(request).await;
        let edns = request.edns.as_ref().map(our_edns);
        let limit = match (request.protocol(), &request.edns) {
            (Protocol::Udp, Some(edns)) => edns.max_payload().clamp(UDP_PAYLOAD_MIN, UDP_PAYLOAD),
            (Protocol::Udp, None) => UDP_PAYLOAD_MIN,
            (_, _) => u16::MAX,
        };
        response.sections.fit(&request.queries, limit, edns.is_some());
        response.metadata.truncation = response.sections.truncated;
        let (metadata, sections) = (response.metadata, &response.sections);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let message = builder.build(metadata, &sections.answers, &sections.authority, [], &sections.additional);
        self.metrics.answered(response.zone, metadata.response_code, sections.truncated, start.elapsed());
        handle.send_response(message).await.unwrap_or_else(|error| {
            warn!("an answer could not be sent: {error}");
            ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
        })
    }
}

/// The OPT record that goes with every answer to a request that has one (RFC 6891 section 6.1.1); the DO bit is copied (RFC 3225).
fn our_edns(theirs: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(theirs.flags().dnssec_ok);
    edns
}

fn code(rcode: Rcode) -> ResponseCode {
    match rcode {
        Rcode::NoError => ResponseCode::NoError,
        Rcode::ServFail => ResponseCode::ServFail,
        Rcode::NxDomain => ResponseCode::NXDomain,
        Rcode::Refused => ResponseCode::Refused,
    }
}
