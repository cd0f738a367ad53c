use super::*;

const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

struct End {
    identity: Identity,
    session: BoringTun,
}

fn pair() -> (End, End) {
    let (a, b) = (Identity::new(PrivateKey::generate()), Identity::new(PrivateKey::generate()));
    let (to_b, to_a) = (a.session(&b.public_key(), 7), b.session(&a.public_key(), 9));
    (End { identity: a, session: to_b }, End { identity: b, session: to_a })
}

fn at(seconds: u64) -> Moment {
    Moment::from_micros(seconds * 1_000_000)
}

/// An IPv4 packet of 30 bytes that says so.
fn packet(mark: u8) -> [u8; 30] {
    let mut packet = [mark; 30];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 30]);
    packet
}

fn handshake(a: &End, b: &End, now: Moment) {
    let (mut first, mut second) = ([0; 2048], [0; 2048]);
    let length = a.session.initiate(now, &mut first).expect("initiates");
    assert_eq!(b.identity.recognise(SOURCE, &first[..length], &mut second), Sender::Key(a.identity.public_key()));
    let Opened::Initiation(length) = b.session.open(now, SOURCE, &first[..length], &mut second) else { panic!("refused") };
    assert_eq!(a.identity.recognise(SOURCE, &second[..length], &mut first), Sender::Index(7));
    let Opened::Response(length) = a.session.open(now, SOURCE, &second[..length], &mut first) else { panic!("refused") };
    assert_eq!(b.identity.recognise(SOURCE, &first[..length], &mut second), Sender::Index(9));
    assert_eq!(b.session.open(now, SOURCE, &first[..length], &mut second), Opened::Keepalive { fresh: true });
    assert_eq!(b.session.open(now, SOURCE, &first[..length], &mut second), Opened::Rejected, "a repetition");
}

#[test]
fn packets_wait_for_the_handshake_and_go_both_ways_after_it() {
    let (a, b) = pair();
    let (mut sealed, mut opened) = ([0; 2048], [0; 2048]);
    assert_eq!(a.session.seal(at(0), &packet(1), &mut sealed), Sealed::Held);
    assert_eq!(a.session.seal_held(at(0), &mut sealed), None, "there is no session yet");
    handshake(&a, &b, at(1));
    let length = a.session.seal_held(at(1), &mut sealed).expect("held before");
    assert_eq!(b.session.open(at(1), SOURCE, &sealed[..length], &mut opened), Opened::Packet { length: 30, fresh: false });
    assert_eq!(opened[..30], packet(1));
    assert_eq!(a.session.seal_held(at(1), &mut sealed), None);
    let Sealed::Datagram(length) = b.session.seal(at(1), &packet(2), &mut sealed) else { panic!("no session") };
    assert_eq!(length, 30 + DATA_OVERHEAD);
    assert_eq!(a.session.open(at(1), SOURCE, &sealed[..length], &mut opened), Opened::Packet { length: 30, fresh: false });
    sealed[20] ^= 1;
    assert_eq!(a.session.open(at(1), SOURCE, &sealed[..length], &mut opened), Opened::Rejected, "tampered with");
}

#[test]
fn what_was_held_for_long_is_not_sent() {
    let (a, b) = pair();
    let mut sealed = [0; 2048];
    assert_eq!(a.session.seal(at(0), &packet(1), &mut sealed), Sealed::Held);
    handshake(&a, &b, at(6));
    assert_eq!(a.session.seal_held(at(6), &mut sealed), None);
}

#[test]
fn late_packets_of_an_earlier_session_prove_no_new_one() {
    let (a, b) = pair();
    let (mut late, mut opened) = ([0; 2048], [0; 2048]);
    handshake(&a, &b, at(1));
    let Sealed::Datagram(length) = a.session.seal(at(1), &packet(1), &mut late) else { panic!("no session") };
    handshake(&a, &b, at(100));
    assert_eq!(b.session.open(at(101), SOURCE, &late[..length], &mut opened), Opened::Packet { length: 30, fresh: false });
}

#[test]
fn a_session_that_is_never_renewed_ends() {
    let (a, b) = pair();
    let mut out = [0; 2048];
    handshake(&a, &b, at(1));
    assert_eq!(b.session.handle_timeout(at(180), &mut out), Due::Nothing);
    assert_eq!(b.session.handle_timeout(at(181), &mut out), Due::Ended);
    assert_eq!(b.session.handle_timeout(at(182), &mut out), Due::Nothing);
    assert_eq!(b.session.seal(at(182), &packet(1), &mut out), Sealed::Held);
}

#[test]
fn garbage_short_buffers_and_strangers_are_nobody_s() {
    let (a, b) = pair();
    handshake(&a, &b, at(1));
    let stranger = Identity::new(PrivateKey::generate());
    let mut out = [0; 2048];
    let mut initiation = [0; 2048];
    // One that does not know our public key gets nothing; one that does is a stranger by its key.
    let length = a.session.initiate(at(2), &mut initiation).expect("initiates");
    assert_eq!(stranger.recognise(SOURCE, &initiation[..length], &mut out), Sender::Nobody);
    let length = stranger.session(&b.identity.public_key(), 1).initiate(at(2), &mut initiation).expect("initiates");
    assert_eq!(b.identity.recognise(SOURCE, &initiation[..length], &mut out), Sender::Key(stranger.public_key()));
    assert_eq!(b.session.open(at(2), SOURCE, &initiation[..length], &mut out), Opened::Rejected);
    assert_eq!(b.session.open(at(2), SOURCE, &initiation[..length], &mut [0; 20]), Opened::Rejected);
    assert_eq!(b.session.seal(at(2), &packet(1), &mut [0; 40]), Sealed::Refused);
    for kind in 0..6 {
        for length in 0..200 {
            let mut garbage = vec![0x5a; length];
            if let Some(head) = garbage.first_chunk_mut::<4>() {
                *head = u32::to_le_bytes(kind);
            }
            if let Some(counter) = garbage.get_mut(8..16) {
                counter.fill(0xff);
            }
            let _ = b.identity.recognise(SOURCE, &garbage, &mut out);
            assert_eq!(b.session.open(at(2), SOURCE, &garbage, &mut out), Opened::Rejected);
        }
    }
}

#[test]
fn under_load_an_address_is_to_be_proved() {
    let (a, b) = pair();
    let (mut initiation, mut out) = ([0; 2048], [0; 2048]);
    let length = a.session.initiate(at(1), &mut initiation).expect("initiates");
    for _ in 0..HANDSHAKES_A_SECOND {
        assert!(matches!(b.identity.recognise(SOURCE, &initiation[..length], &mut out), Sender::Key(_)));
    }
    let Sender::Cookie(cookie) = b.identity.recognise(SOURCE, &initiation[..length], &mut out) else { panic!("no cookie") };
    let reply = out;
    assert_eq!(a.session.open(at(1), SOURCE, &reply[..cookie], &mut out), Opened::Cookie);
    let length = a.session.initiate(at(2), &mut initiation).expect("initiates");
    assert!(
        matches!(b.identity.recognise(SOURCE, &initiation[..length], &mut out), Sender::Key(_)),
        "with the cookie it is let in"
    );
}

#[test]
fn private_keys_are_read_as_written_and_never_printed() {
    let key = PrivateKey::generate();
    let text = key.to_base64();
    assert_eq!(PrivateKey::from_base64(&format!("{text}\n")).expect("a key").public_key(), key.public_key());
    assert!(!format!("{key:?}").contains(&text));
    assert_eq!(PrivateKey::from_base64("AAAA").err(), Some(PrivateKeyError));
}
