//! From the core's records to those of the wire, and as many of them as fit.

use daisy_dns_core::{Answer, Data, DomainName, Owner};
use hickory_proto::op::{MessageType, Metadata, OpCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::zone_handler::{MessageResponseBuilder, Queries};

/// An OPT record without options, in bytes (RFC 6891 section 6.1.2).
const OPT_LENGTH: u16 = 11;
/// The header, in bytes.
const HEADER_LENGTH: usize = 12;

/// The records of an answer.
#[derive(Debug, Default)]
pub(crate) struct Sections {
    pub(crate) answers: Vec<Record>,
    pub(crate) authority: Vec<Record>,
    pub(crate) additional: Vec<Record>,
    /// Whether records that were asked for had to be left out.
    pub(crate) truncated: bool,
}

/// The answer's records, those of the question's name spelled as it was.
pub(crate) fn sections(answer: &Answer, question: &Name) -> Sections {
    let convert = |list: &[daisy_dns_core::Record]| list.iter().filter_map(|r| record(r, question)).collect();
    Sections {
        answers: convert(&answer.answers),
        authority: convert(&answer.authority),
        additional: convert(&answer.additional),
        truncated: false,
    }
}

/// `None` never comes: the core's names are names.
fn record(record: &daisy_dns_core::Record, question: &Name) -> Option<Record> {
    let owner = match &record.owner {
        Owner::Question => question.clone(),
        Owner::Name(owner) => name(owner)?,
    };
    let seconds = |s: u32| i32::try_from(s).unwrap_or(i32::MAX);
    let data = match &record.data {
        Data::A(address) => RData::A(A(*address)),
        Data::Aaaa(address) => RData::AAAA(AAAA(*address)),
        Data::Srv { priority, weight, port, target } => RData::SRV(SRV::new(*priority, *weight, *port, name(target)?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![(*text).to_owned()])),
        Data::Ns(server) => RData::NS(NS(name(server)?)),
        Data::Cname(target) => RData::CNAME(CNAME(name(target)?)),
        Data::Soa(soa) => RData::SOA(SOA::new(
            name(&soa.server)?,
            name(&soa.mailbox)?,
            soa.serial,
            seconds(soa.refresh),
            seconds(soa.retry),
            seconds(soa.expire),
            soa.minimum,
        )),
    };
    Some(Record::from_rdata(owner, record.ttl, data))
}

fn name(name: &DomainName) -> Option<Name> {
    Name::from_labels(name.as_str().split('.').map(str::as_bytes)).ok()
}

impl Sections {
    /// Leaves out what does not fit in `limit` bytes. Where that is of the answer, the client is told to ask by TCP; what is
    /// left stays, since a client that cannot is served by any of the addresses. Additional records go without a word (RFC 2181
    /// section 9). Room is kept for the OPT record, which an answer must have where the request has one.
    pub(crate) fn fit(&mut self, queries: &Queries, limit: u16, opt: bool) {
        if self.bound(queries) + usize::from(OPT_LENGTH) <= usize::from(limit) {
            return;
        }
        let mut bytes = Vec::with_capacity(usize::from(limit));
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(if opt { limit.saturating_sub(OPT_LENGTH) } else { limit });
        let metadata = Metadata::new(0, MessageType::Response, OpCode::Query);
        let message =
            MessageResponseBuilder::new(queries, None).build(metadata, &self.answers, &self.authority, [], &self.additional);
        // What cannot be written at all will fail in the same way when it is sent, and be answered SERVFAIL there.
        let Ok(written) = message.destructive_emit(&mut encoder) else { return };
        let counts = written.counts();
        let (answers, authority) = (usize::from(counts.answers), usize::from(counts.authorities));
        if answers < self.answers.len() || authority < self.authority.len() {
            self.truncated = true;
            self.answers.truncate(answers);
            self.authority.truncate(authority);
            self.additional.clear();
        } else {
            self.additional.truncate(usize::from(counts.additionals));
        }
    }

    /// No message of these records is longer, in bytes: names are counted whole, as if nothing were compressed.
    fn bound(&self, queries: &Queries) -> usize {
        let records = self.answers.iter().chain(&self.authority).chain(&self.additional);
        let data = |record: &Record| {
            if let RData::A(_) = &record.data {
                4
            } else if let RData::AAAA(_) = &record.data {
                16
            } else if let RData::SOA(soa) = &record.data {
                soa.mname.len() + soa.rname.len() + 22
            } else {
                // More than any small message holds: then it is measured.
                1024
            }
        };
        HEADER_LENGTH + queries.as_bytes().len() + records.map(|r| r.name.len() + 11 + data(r)).sum::<usize>()
    }
}
