use super::*;
use crate::wire::Attributes;
use proptest::prelude::*;

fn register() -> impl Strategy<Value = Register> {
    (0u8..16).prop_map(Register)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..=64)
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let name = "[a-z]{1,40}";
    prop_oneof![
        Just(Verdict::Accept),
        Just(Verdict::Drop),
        Just(Verdict::Continue),
        Just(Verdict::Return),
        name.prop_map(Verdict::Jump),
        name.prop_map(Verdict::Goto),
    ]
}

fn loads() -> impl Strategy<Value = Expression> {
    let maybe = || prop::option::of(register());
    prop_oneof![
        (prop::sample::select(MetaKey::ALL), register()).prop_map(|(key, to)| Expression::Meta { key, to }),
        (prop::sample::select(MetaKey::ALL), register()).prop_map(|(key, from)| Expression::MetaSet { key, from }),
        (prop::sample::select(PayloadBase::ALL), any::<u32>(), any::<u32>(), register())
            .prop_map(|(base, offset, length, to)| Expression::Payload { base, offset, length, to }),
        (prop::sample::select(CtKey::ALL), prop::option::of(0u8..2), register())
            .prop_map(|(key, direction, to)| Expression::Ct { key, direction, to }),
        (prop::sample::select(CtKey::ALL), register()).prop_map(|(key, from)| Expression::CtSet { key, from }),
        (register(), any::<u32>(), any::<bool>(), any::<u32>()).prop_map(|(to, modulus, random, offset)| Expression::Numgen {
            to,
            modulus,
            random,
            offset
        }),
        (register(), any::<u32>(), register(), any::<u32>(), prop::option::of(any::<u32>())).prop_map(
            |(from, length, to, modulus, seed)| Expression::Hash { from, length, to, modulus, seed, offset: modulus }
        ),
        (register(), any::<u32>(), any::<u32>()).prop_map(|(to, result, flags)| Expression::Fib { to, result, flags }),
        (any::<u8>(), any::<u32>(), any::<bool>(), register())
            .prop_map(|(option, n, present, to)| { Expression::TcpOption { option, offset: n, length: n, present, to } }),
        (any::<u8>(), any::<u32>(), register()).prop_map(|(option, n, from)| Expression::TcpOptionSet {
            option,
            offset: n,
            length: n,
            from
        }),
        register().prop_map(|to| Expression::RouteMss { to }),
        (maybe(), any::<u32>()).prop_map(|(port, flags)| Expression::Redirect { port, flags }),
        (prop::sample::select(NatKind::ALL), any::<u32>(), maybe(), maybe())
            .prop_map(|(kind, n, address, port)| { Expression::Nat { kind, family: n, address, port, flags: n } }),
    ]
}

fn rest() -> impl Strategy<Value = Expression> {
    prop_oneof![
        (register(), prop::sample::select(Comparison::ALL), bytes())
            .prop_map(|(register, comparison, value)| Expression::Compare { register, comparison, value }),
        (register(), any::<bool>(), bytes(), bytes()).prop_map(|(register, inverted, first, last)| Expression::Range {
            register,
            inverted,
            first,
            last
        }),
        (register(), register(), bytes()).prop_map(|(from, to, mask)| Expression::Bitwise {
            from,
            to,
            xor: mask.clone(),
            mask
        }),
        (register(), register(), any::<u32>()).prop_map(|(from, to, n)| Expression::ToNetworkOrder {
            from,
            to,
            length: n,
            size: n
        }),
        ("[a-z]{1,20}", prop::option::of(any::<u32>()), register(), prop::option::of(register()), any::<bool>()).prop_map(
            |(set, set_id, key, to, inverted)| {
                Expression::Lookup { set, set_id, key, to_verdict: to.is_none() && !inverted, to, inverted }
            }
        ),
        (any::<u64>(), any::<u64>()).prop_map(|(packets, bytes)| Expression::Counter { packets, bytes }),
        "[a-z]{1,20}".prop_map(|name| Expression::NamedCounter { name }),
        (bytes(), register()).prop_map(|(bytes, to)| Expression::Load { bytes, to }),
        verdict().prop_map(Expression::Verdict),
        (any::<u32>(), any::<u8>()).prop_map(|(kind, code)| Expression::Reject { kind, code }),
        any::<u32>().prop_map(|flags| Expression::Masquerade { flags }),
        Just(Expression::Notrack),
        (any::<u64>(), any::<u64>(), any::<u32>(), any::<bool>()).prop_map(|(rate, unit, burst, inverted)| Expression::Limit {
            rate,
            unit,
            burst,
            inverted
        }),
    ]
}

proptest! {
    #[test]
    fn reading_is_the_inverse_of_writing(all in prop::collection::vec(prop_oneof![loads(), rest()], 0..8)) {
        let mut w = Writer::new();
        all.iter().for_each(|e| e.write(&mut w));
        let bytes = w.finish().expect("short");
        let list = Attributes::parse(&bytes).expect("well formed");
        let read: Vec<_> = list.iter().map(|a| Expression::read(*a).expect("readable")).collect();
        prop_assert_eq!(read, all);
    }

    #[test]
    fn garbage_never_panics(name in prop::sample::select(vec!["meta", "cmp", "lookup", "nat", "exthdr", "immediate", "ct"]), body in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(attributes) = Attributes::parse(&body) {
            let _ = codec::read_named(name.to_owned(), &attributes);
        }
    }
}
