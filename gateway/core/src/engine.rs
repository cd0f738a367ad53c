//! The seam between the data path and what does WireGuard's cryptography.
//!
//! A session is sans-IO: bytes and time in, bytes out. Its methods take `&self`, so that one thread may seal while another opens;
//! an engine that cannot do that (boringtun 0.7.1 takes `&mut self` for both, and calls the clock itself) locks inside, in the
//! shell.

use std::net::IpAddr;

use crate::moment::Moment;

/// The room that a sealed packet needs beyond the packet: header, counter and tag (WireGuard, section 5.4.6).
pub const DATA_OVERHEAD: usize = 32;
/// The length of a handshake initiation, the longest message that carries no packet.
pub const INITIATION_LENGTH: usize = 148;

/// What sealing a packet gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// A datagram of this length is in the buffer: send it.
    Datagram(usize),
    /// There is no session: the packet is held until there is, and the peer is to be dialled.
    Held,
    /// It cannot be sealed.
    Refused,
}

/// What opening a datagram gave. Everything but [`Opened::Rejected`] and [`Opened::Cookie`] is authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// A packet of this length is in the buffer. `fresh`: it is the first in a new session, and proves that.
    Packet {
        /// Its length in bytes.
        length: usize,
        /// Whether it proves a new session.
        fresh: bool,
    },
    /// A packet of no bytes. `fresh` as above.
    Keepalive {
        /// Whether it proves a new session.
        fresh: bool,
    },
    /// The peer's handshake initiation; the answer, of this length, is in the buffer: send it back where it came from.
    Initiation(usize),
    /// The peer's handshake response; a keepalive of this length, which proves the session to it, is in the buffer: send it back.
    Response(usize),
    /// The peer is under load and wants the cookie that it sent: dial again.
    Cookie,
    /// It is none of the peer's, a repetition, or broken.
    Rejected,
}

/// What the session's own timers ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// A keepalive, or a handshake initiation that renews the session, of this length is in the buffer: send it.
    Datagram(usize),
    /// The session is at its end.
    Ended,
}

/// A WireGuard session with one peer, through all its handshakes.
pub trait Session: Send + Sync {
    /// Seals a packet into `out`, which has room for it and [`DATA_OVERHEAD`], and at least for [`INITIATION_LENGTH`].
    fn seal(&self, now: Moment, packet: &[u8], out: &mut [u8]) -> Sealed;

    /// Opens a datagram that came from `source` into `out`, which is no shorter than it and than [`INITIATION_LENGTH`].
    fn open(&self, now: Moment, source: IpAddr, datagram: &[u8], out: &mut [u8]) -> Opened;

    /// After [`Opened::Response`] or a fresh packet: seals the next packet that was held, if there is one.
    fn seal_held(&self, now: Moment, out: &mut [u8]) -> Option<usize>;

    /// Writes a handshake initiation and returns its length; one that is under way already counts no longer.
    fn initiate(&self, now: Moment, out: &mut [u8]) -> Option<usize>;

    /// What is due. To be called every 100 ms or so.
    fn handle_timeout(&self, now: Moment, out: &mut [u8]) -> Due;
}
