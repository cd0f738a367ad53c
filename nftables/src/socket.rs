//! The netlink socket: requests, acknowledgements, listings.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{SndBuf, SndBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, setsockopt, socket,
};

use crate::error::Error;
use crate::sys;
use crate::wire::{Attributes, MessageHeader, Writer, messages};

/// The kernel's dump messages have at most 32 KiB; acknowledgements far less.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// How often a listing is begun anew when the rules change under it.
const LIST_TRIES: u32 = 16;

/// A blocking netlink socket to nf_tables. It belongs to the network namespace that the thread was in when it was opened.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
    send_buffer: usize,
}

/// An answer to one message of a batch: success or the kernel's refusal.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) sequence: u32,
    pub(crate) result: Result<(), (Errno, Option<String>)>,
}

fn failed(what: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Socket { what, source: io::Error::from(errno) }
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// No file descriptors left, or a kernel without nf_tables' netlink family.
    pub fn open() -> Result<Self, Error> {
        let descriptor = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
            .map_err(failed("open a netlink socket"))?;
        // Connected to the kernel (port 0), the socket takes messages from nobody else.
        connect(descriptor.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed("connect the netlink socket"))?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            // Kernels before 4.12 lack the first: errors then come without a text.
            let _ = set_netlink_option(&descriptor, option);
        }
        Ok(Self { descriptor, sequence: 0, send_buffer: 0 })
    }

    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        // A batch is one datagram, and the default send buffer holds about 200 kB. Forcing needs CAP_NET_ADMIN in the initial
        // user namespace; elsewhere net.core.wmem_max is the limit, and the kernel says EMSGSIZE beyond it.
        if bytes.len() > 100_000 && bytes.len() > self.send_buffer {
            if setsockopt(&self.descriptor, SndBufForce, &bytes.len()).is_err() {
                setsockopt(&self.descriptor, SndBuf, &bytes.len()).map_err(failed("enlarge the send buffer"))?;
            }
            self.send_buffer = bytes.len();
        }
        loop {
            match send(self.descriptor.as_raw_fd(), bytes, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed("send to the kernel")(errno)),
            }
        }
    }

    fn receive(&mut self, buffer: &mut [u8], flags: MsgFlags) -> Result<Option<usize>, Error> {
        loop {
            match recv(self.descriptor.as_raw_fd(), buffer, flags | MsgFlags::MSG_TRUNC) {
                Ok(length) if length > buffer.len() => return Err(failed("receive a message that long")(Errno::EMSGSIZE)),
                Ok(length) => return Ok(Some(length)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(failed("receive from the kernel")(errno)),
            }
        }
    }

    /// Sends a batch and collects what the kernel says of its messages. The kernel works through a batch before the call that
    /// sends it returns, so all answers wait by then and nothing has to be timed.
    pub(crate) fn transact(&mut self, bytes: &[u8]) -> Result<Vec<Answer>, Error> {
        let mut buffer = vec![0; RECEIVE_BUFFER];
        // What an earlier, failed exchange may have left.
        while matches!(self.receive(&mut buffer, MsgFlags::MSG_DONTWAIT), Ok(Some(_))) {}
        self.send(bytes)?;
        let mut answers = Vec::new();
        while let Some(length) = self.receive(&mut buffer, MsgFlags::MSG_DONTWAIT)? {
            for message in messages(&buffer[..length])? {
                if message.kind == sys::NLMSG_ERROR {
                    answers.push(Answer { sequence: message.sequence, result: acknowledgement(message.flags, message.body)? });
                }
            }
        }
        Ok(answers)
    }

    /// Lists: the bodies of all messages of type `answer` that the kernel sends for a dump request of type `request`.
    pub(crate) fn dump(&mut self, list: &List<'_>) -> Result<Vec<Vec<u8>>, Error> {
        for _ in 0..LIST_TRIES {
            if let Some(found) = self.dump_once(list)? {
                return Ok(found);
            }
        }
        Err(Error::Interrupted { what: list.what, tries: LIST_TRIES })
    }

    /// `None` if what was listed changed meanwhile.
    fn dump_once(&mut self, list: &List<'_>) -> Result<Option<Vec<Vec<u8>>>, Error> {
        let sequence = self.next_sequence();
        let mut writer = Writer::new();
        let header = MessageHeader {
            kind: sys::message_type(list.request),
            flags: sys::NLM_F_REQUEST | sys::NLM_F_DUMP,
            sequence,
            family: list.family,
            resource: 0,
        };
        writer.message(header, |w| (list.filter)(w));
        let bytes = writer.finish().ok_or(Error::Invalid {
            operation: format!("list {}", list.what),
            cause: crate::error::Invalid::TooLong("the request"),
        })?;
        self.send(&bytes)?;
        let mut buffer = vec![0; RECEIVE_BUFFER];
        let (mut found, mut interrupted) = (Vec::new(), false);
        loop {
            let Some(length) = self.receive(&mut buffer, MsgFlags::empty())? else { return Err(Error::NoAnswer) };
            for message in messages(&buffer[..length])? {
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & sys::NLM_F_DUMP_INTR != 0;
                match message.kind {
                    sys::NLMSG_DONE => return Ok((!interrupted).then_some(found)),
                    sys::NLMSG_ERROR => match acknowledgement(message.flags, message.body)? {
                        Ok(()) => return Ok((!interrupted).then_some(found)),
                        Err((Errno::EINTR, _)) => return Ok(None),
                        Err((errno, _)) => return Err(Error::List { what: list.what, errno }),
                    },
                    kind if kind == sys::message_type(list.answer) => found.push(message.body.to_vec()),
                    _ => {}
                }
            }
        }
    }
}

/// A listing: request and answer types, family (0 for all), filter attributes.
pub(crate) struct List<'a> {
    pub(crate) what: &'static str,
    pub(crate) request: u16,
    pub(crate) answer: u16,
    pub(crate) family: u8,
    pub(crate) filter: &'a dyn Fn(&mut Writer),
}

type Acknowledged = Result<(), (Errno, Option<String>)>;

/// Reads an NLMSG_ERROR body: the negative error number, the header of the message it is about, then (where the flags say so)
/// attributes of the extended acknowledgement.
fn acknowledgement(flags: u16, body: &[u8]) -> Result<Acknowledged, crate::error::Malformed> {
    let malformed = || crate::error::Malformed::new("netlink acknowledgement");
    let code = body.get(..4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes).ok_or_else(malformed)?;
    if code == 0 {
        return Ok(Ok(()));
    }
    let mut text = None;
    if flags & sys::NLM_F_ACK_TLVS != 0 {
        let original = body.get(4..8).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes).ok_or_else(malformed)?;
        // Capped: of the original message only its header came back.
        let length = if flags & sys::NLM_F_CAPPED != 0 { crate::wire::MESSAGE_HEADER } else { original as usize };
        if let Some(attributes) = body.get(4 + length..).and_then(|rest| Attributes::parse(rest).ok()) {
            text = attributes.find(sys::NLMSGERR_ATTR_MSG).map(|a| a.string()).filter(|t| !t.is_empty());
        }
    }
    Ok(Err((Errno::from_raw(code.saturating_neg()), text)))
}

#[expect(unsafe_code, reason = "setsockopt(2) of netlink options, which nix does not wrap")]
fn set_netlink_option(descriptor: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(4);
    // SAFETY: the descriptor is open, and `on` is a valid c_int of the length given, which the kernel only reads.
    let result =
        unsafe { libc::setsockopt(descriptor.as_raw_fd(), libc::SOL_NETLINK, option, std::ptr::from_ref(&on).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn garbage_acknowledgements_never_panic(flags: u16, body in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = acknowledgement(flags, &body);
        }
    }
}
