//! WireGuard by boringtun, behind the core's [`Session`].
//!
//! boringtun 0.7.1 takes `&mut self` both ways and calls the clock itself, so it is locked here, and the time that is passed in
//! serves for what this layer adds: the end of a session after 180 s without a new one (REJECT_AFTER_TIME of the WireGuard paper,
//! section 6.1, which boringtun keeps only three times over), and packets held while there is none.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;
use daisy_api::keys::PublicKey;
use daisy_gateway_core::Moment;
use daisy_gateway_core::engine::{DATA_OVERHEAD, Due, INITIATION_LENGTH, Opened, Sealed, Session};
use rand_core::OsRng;
use thiserror::Error;

/// So many handshakes a second are computed before those who ask must prove their address by a cookie.
const HANDSHAKES_A_SECOND: u64 = 200;
/// REJECT_AFTER_TIME of WireGuard.
const SESSION_MAX: Duration = Duration::from_secs(180);
/// How many packets wait for a session, and for how long: the first of a few connections, no more.
const HELD_MAX: usize = 64;
const HELD_FOR: Duration = Duration::from_secs(5);
/// As many as boringtun keeps.
const PROVED_MAX: usize = 8;
/// No counter beyond this is sent by anyone who keeps to the protocol (REJECT_AFTER_MESSAGES); boringtun's window adds to it.
const COUNTER_MAX: u64 = u64::MAX - (1 << 13);

/// A WireGuard private key. Never printed.
#[derive(Clone)]
pub struct PrivateKey(x25519::StaticSecret);

/// What is wrong with a private key's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a WireGuard private key is the standard base64 of 32 bytes")]
pub struct PrivateKeyError;

impl PrivateKey {
    /// A new one.
    #[must_use]
    pub fn generate() -> Self {
        Self(x25519::StaticSecret::random_from_rng(OsRng))
    }

    /// Reads what [`Self::to_base64`] wrote.
    ///
    /// # Errors
    /// Anything else.
    pub fn from_base64(text: &str) -> Result<Self, PrivateKeyError> {
        let bytes = STANDARD.decode(text.trim()).map_err(|_| PrivateKeyError)?;
        Ok(Self(x25519::StaticSecret::from(<[u8; 32]>::try_from(bytes).map_err(|_| PrivateKeyError)?)))
    }

    /// As WireGuard's tools write it.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0.to_bytes())
    }

    /// Its public key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey::from_bytes(x25519::PublicKey::from(&self.0).to_bytes())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// Whose a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// A handshake initiation by the holder of this key, which may be a stranger's.
    Key(PublicKey),
    /// It belongs to the session with this index.
    Index(u32),
    /// We are under load: this many bytes of a cookie are in the buffer, to be sent back.
    Cookie(usize),
    /// Nobody's that we could know.
    Nobody,
}

/// This gateway's key, and what tells whose a datagram is.
pub(crate) struct Identity {
    key: PrivateKey,
    public: x25519::PublicKey,
    admission: RateLimiter,
    /// Sessions verify once more what was admitted; that must not count again.
    admitted: Arc<RateLimiter>,
}

impl Identity {
    pub(crate) fn new(key: PrivateKey) -> Self {
        let public = x25519::PublicKey::from(&key.0);
        let admission = RateLimiter::new(&public, HANDSHAKES_A_SECOND);
        Self { key, public, admission, admitted: Arc::new(RateLimiter::new(&public, u64::MAX)) }
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey::from_bytes(self.public.to_bytes())
    }

    /// A session with the holder of a key; `index` (24 bits) is to be no other session's.
    pub(crate) fn session(&self, peer: &PublicKey, index: u32) -> BoringTun {
        let peer = x25519::PublicKey::from(*peer.as_bytes());
        let tunn = Tunn::new(self.key.0.clone(), peer, None, None, index, Some(Arc::clone(&self.admitted)));
        BoringTun { state: Mutex::new(State { tunn, confirmed: None, proved: VecDeque::new(), held: VecDeque::new() }) }
    }

    /// Whose a datagram is. `out` has room for a cookie.
    pub(crate) fn recognise(&self, source: IpAddr, datagram: &[u8], out: &mut [u8]) -> Sender {
        match Tunn::parse_incoming_packet(datagram) {
            // The upper 24 bits of an index name the session's owner, the lower 8 count its handshakes.
            Ok(Packet::HandshakeResponse(packet)) => Sender::Index(packet.receiver_idx >> 8),
            Ok(Packet::PacketCookieReply(packet)) => Sender::Index(packet.receiver_idx >> 8),
            Ok(Packet::PacketData(packet)) => Sender::Index(packet.receiver_idx >> 8),
            Ok(Packet::HandshakeInit(_)) => self.recognise_initiation(source, datagram, out),
            Err(_) => Sender::Nobody,
        }
    }

    fn recognise_initiation(&self, source: IpAddr, datagram: &[u8], out: &mut [u8]) -> Sender {
        // Cheap checks first: without our public key there is no MAC, and nothing is computed or said.
        match self.admission.verify_packet(Some(source), datagram, out) {
            Ok(Packet::HandshakeInit(initiation)) => {
                let known = parse_handshake_anon(&self.key.0, &self.public, &initiation);
                known.map_or(Sender::Nobody, |half| Sender::Key(PublicKey::from_bytes(half.peer_static_public)))
            }
            Err(TunnResult::WriteToNetwork(cookie)) => Sender::Cookie(cookie.len()),
            Ok(_) | Err(_) => Sender::Nobody,
        }
    }

    /// To be called about once a second.
    pub(crate) fn handle_second(&self) {
        self.admission.reset_count();
    }
}

struct State {
    tunn: Tunn,
    /// Since when the newest session that the peer proved stands.
    confirmed: Option<Moment>,
    /// The indices of the last sessions that were proved: a late packet of one of them proves nothing new.
    proved: VecDeque<u32>,
    held: VecDeque<(Moment, Vec<u8>)>,
}

/// A session of boringtun's.
pub(crate) struct BoringTun {
    state: Mutex<State>,
}

impl BoringTun {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside boringtun leaves at worst a broken session, which the next handshake replaces.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session for BoringTun {
    fn seal(&self, now: Moment, packet: &[u8], out: &mut [u8]) -> Sealed {
        // boringtun panics where the buffer is too short.
        if packet.is_empty() || out.len() < (packet.len() + DATA_OVERHEAD).max(INITIATION_LENGTH) {
            return Sealed::Refused;
        }
        let mut state = self.lock();
        if state.confirmed.is_none() {
            if state.held.len() == HELD_MAX {
                state.held.pop_front();
            }
            state.held.push_back((now, packet.to_vec()));
            return Sealed::Held;
        }
        if let TunnResult::WriteToNetwork(datagram) = state.tunn.encapsulate(packet, out)
            && datagram.first() == Some(&4)
        {
            return Sealed::Datagram(datagram.len());
        }
        Sealed::Refused
    }

    fn open(&self, now: Moment, source: IpAddr, datagram: &[u8], out: &mut [u8]) -> Opened {
        if out.len() < datagram.len().max(INITIATION_LENGTH) {
            return Opened::Rejected;
        }
        let (index, counter) = match Tunn::parse_incoming_packet(datagram) {
            Ok(Packet::PacketData(packet)) => (packet.receiver_idx, datagram.get(8..16)),
            Ok(Packet::HandshakeResponse(packet)) => (packet.receiver_idx, None),
            Ok(Packet::PacketCookieReply(_) | Packet::HandshakeInit(_)) => (0, None),
            Err(_) => return Opened::Rejected,
        };
        let counter = counter.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()).map(u64::from_le_bytes);
        if counter.is_some_and(|counter| counter >= COUNTER_MAX) {
            return Opened::Rejected;
        }
        let mut state = self.lock();
        let result = match state.tunn.decapsulate(Some(source), datagram, out) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Opened::Packet { length: packet.len(), fresh: false }
            }
            TunnResult::Done if counter.is_some() => Opened::Keepalive { fresh: false },
            TunnResult::Done => Opened::Cookie,
            TunnResult::WriteToNetwork(answer) if datagram.first() == Some(&1) => Opened::Initiation(answer.len()),
            TunnResult::WriteToNetwork(answer) if datagram.first() == Some(&2) => Opened::Response(answer.len()),
            TunnResult::WriteToNetwork(_) | TunnResult::Err(_) => Opened::Rejected,
        };
        let proves = !state.proved.contains(&index);
        match result {
            Opened::Response(length) => {
                state.prove(index, now);
                Opened::Response(length)
            }
            Opened::Packet { length, .. } if proves => {
                state.prove(index, now);
                Opened::Packet { length, fresh: true }
            }
            Opened::Keepalive { .. } if proves => {
                state.prove(index, now);
                Opened::Keepalive { fresh: true }
            }
            other @ (Opened::Packet { .. }
            | Opened::Keepalive { .. }
            | Opened::Initiation(_)
            | Opened::Cookie
            | Opened::Rejected) => other,
        }
    }

    fn seal_held(&self, now: Moment, out: &mut [u8]) -> Option<usize> {
        let mut state = self.lock();
        state.confirmed?;
        while let Some((since, packet)) = state.held.pop_front() {
            if now.since(since) > HELD_FOR || out.len() < (packet.len() + DATA_OVERHEAD).max(INITIATION_LENGTH) {
                continue;
            }
            if let TunnResult::WriteToNetwork(datagram) = state.tunn.encapsulate(&packet, out) {
                return Some(datagram.len());
            }
        }
        None
    }

    fn initiate(&self, _now: Moment, out: &mut [u8]) -> Option<usize> {
        match self.lock().tunn.format_handshake_initiation(out, true) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            TunnResult::Done | TunnResult::Err(_) | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => None,
        }
    }

    fn handle_timeout(&self, now: Moment, out: &mut [u8]) -> Due {
        if out.len() < INITIATION_LENGTH {
            return Due::Nothing;
        }
        let mut state = self.lock();
        let overdue = state.confirmed.is_some_and(|since| now.since(since) >= SESSION_MAX);
        let (due, expired) = match state.tunn.update_timers(out) {
            TunnResult::WriteToNetwork(datagram) => (Due::Datagram(datagram.len()), false),
            TunnResult::Err(error) => (Due::Nothing, matches!(error, WireGuardError::ConnectionExpired)),
            TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => (Due::Nothing, false),
        };
        if (overdue || expired) && state.end() { Due::Ended } else { due }
    }
}

impl State {
    fn prove(&mut self, index: u32, now: Moment) {
        if self.proved.len() == PROVED_MAX {
            self.proved.pop_front();
        }
        self.proved.push_back(index);
        self.confirmed = Some(now);
    }

    /// Forgets the sessions, and says whether there was one.
    fn end(&mut self) -> bool {
        self.proved.clear();
        self.confirmed.take().is_some()
    }
}

#[cfg(test)]
mod tests;
