//! Every construct is built in a namespace of its own, listed back, and compared with what `nft` reads there.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use common::Namespace;
use daisy_nftables::{
    Batch, Chain, ChainType, Data, DataType, Element, Error, Hook, IpFamily, Key, KeyType, Policy, Reject, Rule, Selector, Set,
    Socket, Spread, Table, Value, Verdict, address_type, ct_state, ct_status, priority, protocol,
};
use ipnetwork::IpNetwork;

fn network(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What `nft` lists in this thread's namespace, each line trimmed; `None` where it is not installed.
fn nft_list() -> Option<Vec<String>> {
    let out = match Command::new("nft").args(["-n", "list", "ruleset"]).output() {
        Ok(out) => out,
        Err(error) => {
            eprintln!("skipped: comparison with nft: {error}");
            return None;
        }
    };
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    Some(text.lines().map(|l| l.trim().to_owned()).collect())
}

/// Adds one rule to a chain of its own kind, and says what nft makes of it.
fn check_rules(hook: Hook, chain_type: ChainType, rules: Vec<(Rule, &'static str)>) {
    let Some(namespace) = Namespace::new("check_rules") else { return };
    namespace.run(move || {
        let mut socket = Socket::open().unwrap();
        let table = Table::inet("t");
        let mut setup = Batch::new();
        setup
            .add_table(&table)
            .add_chain(&table, &Chain::new("other"))
            .add_counter(&table, "seen")
            .add_set(&table, &Set::new("pods", [KeyType::Ipv4Addr]).interval())
            .add_set(&table, &Set::new("pods6", [KeyType::Ipv6Addr]).interval())
            .add_set(&table, &Set::new("open", [KeyType::Ipv4Addr, KeyType::InetProto, KeyType::InetService]))
            .add_set(&table, &Set::new("decide", [KeyType::Ipv4Addr, KeyType::InetService]).verdicts())
            .add_set(
                &table,
                &Set::new("target", [KeyType::Ipv4Addr, KeyType::InetProto, KeyType::InetService])
                    .values([KeyType::Ipv4Addr, KeyType::InetService]),
            )
            .add_chain(&table, &Chain::base("c", chain_type, hook, 5));
        setup.commit(&mut socket).unwrap();
        let mut wrong = Vec::new();
        for (rule, expected) in rules {
            let mut batch = Batch::new();
            batch.flush_chain(&table, "c").add_rule(&table, "c", &rule);
            batch.commit(&mut socket).unwrap_or_else(|e| panic!("{expected}: {e}"));
            assert_eq!(socket.rules(&table, Some("c")).unwrap().len(), 1);
            if let Some(lines) = nft_list() {
                let at = lines.iter().position(|l| l.starts_with("type ") && l.contains("priority")).unwrap() + 1;
                if lines[at] != expected {
                    wrong.push(format!("nft says    {}\nexpected is {expected}\n", lines[at]));
                }
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.concat());
    });
}

#[test]
fn matches_read_as_nft_writes_them() {
    check_rules(
        Hook::Prerouting,
        ChainType::Filter,
        vec![
            (Rule::new().iifname("daisy0").accept(), r#"iifname "daisy0" accept"#),
            (Rule::new().iifname("daisy*").counter().drop(), r#"iifname "daisy*" counter packets 0 bytes 0 drop"#),
            (Rule::new().not_iifname("lo").drop(), r#"iifname != "lo" drop"#),
            (Rule::new().saddr(network("10.0.0.0/8")).accept(), "ip saddr 10.0.0.0/8 accept"),
            (Rule::new().daddr(network("10.0.16.0/20")).accept(), "ip daddr 10.0.16.0/20 accept"),
            (Rule::new().not_daddr(network("10.0.0.1/32")).accept(), "ip daddr != 10.0.0.1 accept"),
            (Rule::new().saddr(network("fd00::/8")).accept(), "ip6 saddr fd00::/8 accept"),
            (Rule::new().daddr(network("0.0.0.0/0")).accept(), "meta nfproto 2 accept"),
            (Rule::new().tcp_dport(80).accept(), "tcp dport 80 accept"),
            (Rule::new().udp_sport(53).accept(), "udp sport 53 accept"),
            (Rule::new().tcp_dports(1..=1023).drop(), "tcp dport 1-1023 drop"),
            (Rule::new().dport(protocol::SCTP, 9u16).drop(), "sctp dport 9 drop"),
            (Rule::new().l4proto(protocol::TCP).accept(), "meta l4proto 6 accept"),
            (Rule::new().echo_request(IpFamily::V4).accept(), "icmp type 8 accept"),
            (Rule::new().echo_request(IpFamily::V6).accept(), "icmpv6 type 128 accept"),
            (Rule::new().mark(7).accept(), "meta mark 0x00000007 accept"),
            (Rule::new().mark_masked(0xf0, 0x10).accept(), "meta mark & 0x000000f0 == 0x00000010 accept"),
            (Rule::new().ct_state(ct_state::ESTABLISHED | ct_state::RELATED).accept(), "ct state 0x2,0x4 accept"),
            (Rule::new().ct_status(ct_status::DNAT).accept(), "ct status 0x20 accept"),
            (Rule::new().ct_mark(3).accept(), "ct mark 0x00000003 accept"),
            (Rule::new().ct_reply_direction().accept(), "ct direction 1 accept"),
            (
                Rule::new().ct_original_daddr(network("10.0.0.0/8")).accept(),
                "meta nfproto 2 ct original ip daddr 10.0.0.0/8 accept",
            ),
            (
                Rule::new().iifname("daisy0").ip_daddr_in_set("pods").tcp_dport(80).counter().accept(),
                r#"iifname "daisy0" ip daddr @pods tcp dport 80 counter packets 0 bytes 0 accept"#,
            ),
            (Rule::new().saddr_not_in_set(IpFamily::V6, "pods6").drop(), "ip6 saddr != @pods6 drop"),
            (
                Rule::new().in_set(&[Selector::IpDaddr, Selector::L4Proto, Selector::Dport], "open").accept(),
                "ip daddr . meta l4proto . th dport @open accept",
            ),
            (
                Rule::new().not_in_set(&[Selector::IpDaddr, Selector::L4Proto, Selector::Dport], "open").drop(),
                "ip daddr . meta l4proto . th dport != @open drop",
            ),
            (Rule::new().verdict_map(&[Selector::IpDaddr, Selector::TcpDport], "decide"), "ip daddr . tcp dport vmap @decide"),
            (Rule::new().one_of(&[Selector::L4Proto], [6u8, 17]).accept(), "meta l4proto { 6, 17 } accept"),
            (
                Rule::new().none_of(&[Selector::IpSaddr], [network("10.0.0.0/8"), network("192.168.0.0/16")]).drop(),
                "ip saddr != { 10.0.0.0/8, 192.168.0.0/16 } drop",
            ),
            (
                Rule::new().verdict_of(
                    &[Selector::TcpDport],
                    [Element::new(80u16).verdict(Verdict::Accept), Element::new(81u16).verdict(Verdict::Jump("other".into()))],
                ),
                "tcp dport vmap { 80 : accept, 81 : jump other }",
            ),
            (Rule::new().tcp_flags(0x17, 0x02).accept(), "tcp flags 0x2 / 0x1,0x2,0x4,0x10 accept"),
            (Rule::new().reverse_path_missing().drop(), "fib saddr . iif oif 0 drop"),
            (Rule::new().daddr_type(address_type::LOCAL).accept(), "fib daddr type 2 accept"),
        ],
    );
}

#[test]
fn actions_read_as_nft_writes_them() {
    check_rules(
        Hook::Forward,
        ChainType::Filter,
        vec![
            (Rule::new().jump("other"), "jump other"),
            (Rule::new().goto("other"), "goto other"),
            (Rule::new().return_(), "return"),
            (Rule::new().oifname("lo").drop().comment("why: \u{e9}"), "oifname \"lo\" drop comment \"why: \u{e9}\""),
            (Rule::new().named_counter("seen").accept(), r#"counter name "seen" accept"#),
            (Rule::new().set_mark(0x10), "meta mark set 0x00000010"),
            (Rule::new().set_mark_masked(0xff, 0x1f1), "meta mark set meta mark & 0xfffffff1 | 0x000000f1"),
            (Rule::new().set_ct_mark(5), "ct mark set 0x00000005"),
            (Rule::new().save_mark(), "ct mark set meta mark"),
            (Rule::new().restore_mark(), "meta mark set ct mark"),
            (Rule::new().reject(Reject::AdminProhibited), "reject with icmpx 3"),
            (Rule::new().reject(Reject::TcpReset), "meta l4proto 6 reject with tcp reset"),
            (Rule::new().limit(10, 7).accept(), "limit rate 10/second burst 7 packets accept"),
            (Rule::new().clamp_mss_to_route(), "tcp flags 0x2 / 0x2,0x4 tcp option maxseg size set rt mtu"),
            (Rule::new().clamp_mss(1200), "tcp flags 0x2 / 0x2,0x4 tcp option maxseg size set 1200"),
            (
                Rule::new().spread_verdicts(Spread::Random, [Verdict::Accept, Verdict::Goto("other".into())]),
                "numgen random mod 2 vmap { 0 : accept, 1 : goto other }",
            ),
        ],
    );
    check_rules(Hook::Prerouting, ChainType::Filter, vec![(Rule::new().notrack(), "notrack")]);
}

#[test]
fn translations_read_as_nft_writes_them() {
    check_rules(
        Hook::Postrouting,
        ChainType::Nat,
        vec![
            (Rule::new().masquerade(), "masquerade"),
            (Rule::new().snat(address("10.0.0.1"), None), "meta nfproto 2 snat ip to 10.0.0.1"),
            (
                Rule::new().l4proto(protocol::TCP).snat(address("10.0.0.1"), Some(80)),
                "meta l4proto 6 meta nfproto 2 snat ip to 10.0.0.1:80",
            ),
            (Rule::new().snat_to_saddr(IpFamily::V4), "snat ip to ip saddr"),
            (Rule::new().snat_to_saddr(IpFamily::V6), "snat ip6 to ip6 saddr"),
        ],
    );
    check_rules(
        Hook::Prerouting,
        ChainType::Nat,
        vec![
            (
                Rule::new().tcp_dport(80).dnat(address("10.0.0.1"), Some(8080)),
                "tcp dport 80 meta nfproto 2 dnat ip to 10.0.0.1:8080",
            ),
            (
                Rule::new().udp_dport(80).dnat(address("fd00::1"), Some(81)),
                "udp dport 80 meta nfproto 10 dnat ip6 to [fd00::1]:81",
            ),
            (Rule::new().dnat_to_daddr(IpFamily::V4), "dnat ip to ip daddr"),
            (Rule::new().tcp_dport(80).redirect(Some(8080)), "tcp dport 80 redirect to :8080"),
            (Rule::new().redirect(None), "redirect"),
            (
                Rule::new()
                    .l4proto(protocol::TCP)
                    .spread_dnat(Spread::Turns, &[(address("10.0.0.1"), 80), (address("10.0.0.2"), 81)]),
                "meta l4proto 6 meta nfproto 2 dnat ip to numgen inc mod 2 map { 0 : 10.0.0.1 . 80, 1 : 10.0.0.2 . 81 }",
            ),
            (
                Rule::new()
                    .l4proto(protocol::TCP)
                    .spread_dnat(Spread::IpSource, &[(address("10.0.0.1"), 80), (address("10.0.0.2"), 81)]),
                "meta l4proto 6 dnat ip to jhash ip saddr mod 2 seed 0x64616973 map { 0 : 10.0.0.1 . 80, 1 : 10.0.0.2 . 81 }",
            ),
            (
                Rule::new().dnat_map(&[Selector::IpDaddr, Selector::L4Proto, Selector::Dport], "target", IpFamily::V4),
                "dnat ip to ip daddr . meta l4proto . th dport map @target",
            ),
        ],
    );
}

#[test]
fn tables_and_chains_come_back_as_they_were_made() {
    let Some(namespace) = Namespace::new("tables_and_chains") else { return };
    namespace.run(|| {
        let mut socket = Socket::open().unwrap();
        assert!(socket.tables().unwrap().is_empty());
        let tables = [Table::inet("a"), Table::ip("a"), Table::ip6("b")];
        let chains = [
            Chain::base("in", ChainType::Filter, Hook::Input, -7).policy(Policy::Drop),
            Chain::base("out", ChainType::Route, Hook::Output, priority::MANGLE),
            Chain::base("post", ChainType::Nat, Hook::Postrouting, priority::SRCNAT - 10),
            Chain::new("regular"),
        ];
        let mut batch = Batch::new();
        for table in &tables {
            batch.add_table(table);
            chains.iter().for_each(|c| {
                batch.add_chain(table, c);
            });
        }
        batch.commit(&mut socket).unwrap();
        assert_eq!(socket.tables().unwrap(), tables);
        for table in &tables {
            assert_eq!(socket.chains(table).unwrap(), chains);
        }
        // Again: nothing is changed, nothing refused.
        batch.commit(&mut socket).unwrap();

        let mut rules = Batch::new();
        let table = &tables[0];
        rules.add_rule(table, "in", &Rule::new().accept().comment("second"));
        rules.insert_rule(table, "in", &Rule::new().counter().jump("regular").comment("first"));
        rules.commit(&mut socket).unwrap();
        let listed = socket.rules(table, Some("in")).unwrap();
        let comments: Vec<_> = listed.iter().map(|r| r.comment.as_deref().unwrap()).collect();
        assert_eq!(comments, ["first", "second"]);
        assert_eq!(listed[0].count().unwrap().packets, 0);
        Batch::new().delete_rule(table, "in", listed[0].handle).delete_chain(table, "regular").commit(&mut socket).unwrap();
        assert_eq!(socket.rules(table, None).unwrap().len(), 1);
        assert_eq!(socket.chains(table).unwrap().len(), 3);
        Batch::new().flush_table(table).commit(&mut socket).unwrap();
        assert!(socket.rules(table, None).unwrap().is_empty());

        let mut gone = Batch::new();
        tables.iter().for_each(|t| {
            gone.destroy_table(t);
        });
        gone.commit(&mut socket).unwrap();
        gone.commit(&mut socket).unwrap();
        assert!(socket.tables().unwrap().is_empty());
        assert!(socket.rules(table, None).unwrap().is_empty());
        assert!(socket.sets(table).unwrap().is_empty());
        assert!(socket.counters(table).unwrap().is_empty());
    });
}

#[test]
fn elements_come_back_as_they_were_added() {
    let Some(namespace) = Namespace::new("elements") else { return };
    namespace.run(|| {
        let mut socket = Socket::open().unwrap();
        let table = Table::inet("t");
        let v6: Ipv6Addr = "fd00::1".parse().unwrap();
        let cases: Vec<(Set, Vec<Element>)> = vec![
            (Set::new("a", [KeyType::Ipv4Addr]), vec![v4("10.0.0.1").into(), v4("10.0.0.2").into()]),
            (
                Set::new("nets", [KeyType::Ipv4Addr]).interval(),
                // Neighbours, a range, one address, and the two ends of all there is.
                vec![
                    Element::new(network("0.0.0.0/8")),
                    Element::new(network("10.0.0.0/9")),
                    Element::new(network("10.128.0.0/9")),
                    Element::new(Key::Range(v4("172.16.0.3").into(), v4("172.16.0.9").into())),
                    Element::new(v4("192.168.0.1")),
                    Element::new(network("240.0.0.0/4")),
                ],
            ),
            (Set::new("nets6", [KeyType::Ipv6Addr]).interval(), vec![Element::new(network("fd00::/8"))]),
            (
                Set::new("ports", [KeyType::InetService]).interval(),
                vec![Element::new(Key::Range(Value::U16(1), Value::U16(1023)))],
            ),
            (Set::new("names", [KeyType::IfName]), vec!["daisy0".into(), "eth0".into()]),
            (
                Set::new("open", [KeyType::Ipv4Addr, KeyType::InetProto, KeyType::InetService]),
                vec![(v4("10.0.0.1"), 6u8, 80u16).into(), (v4("10.0.0.1"), 17u8, 53u16).into()],
            ),
            (
                Set::new("zones", [KeyType::Ipv4Addr, KeyType::InetService]).interval(),
                vec![
                    (network("10.0.0.0/8"), 80u16).into(),
                    (network("10.1.0.0/16"), Key::Range(Value::U16(8000), Value::U16(8999))).into(),
                ],
            ),
            (
                Set::new("decide", [KeyType::Ipv6Addr, KeyType::InetService]).verdicts(),
                vec![
                    Element::new((v6, 80u16)).verdict(Verdict::Drop),
                    Element::new((v6, 81u16)).verdict(Verdict::Jump("other".into())),
                ],
            ),
            (
                Set::new("target", [KeyType::Mark]).values([KeyType::Ipv4Addr, KeyType::InetService]),
                vec![Element::new(1u32).values([v4("10.0.0.1").into(), 80u16.into()])],
            ),
            (
                Set::new("by-net", [KeyType::Ipv4Addr]).values([KeyType::Mark]).interval(),
                vec![Element::new(network("10.0.0.0/8")).values([7u32.into()])],
            ),
        ];
        let mut batch = Batch::new();
        batch.add_table(&table).add_chain(&table, &Chain::new("other"));
        for (set, elements) in &cases {
            batch.add_set(&table, set).add_elements(&table, set, elements.clone());
        }
        batch.commit(&mut socket).unwrap();
        assert_eq!(socket.sets(&table).unwrap(), cases.iter().map(|(s, _)| s.clone()).collect::<Vec<_>>());
        for (set, elements) in &cases {
            let listed = socket.elements(&table, set).unwrap();
            assert_eq!(&listed, elements, "{}", set.name);
        }
        if let Some(lines) = nft_list() {
            for expected in [
                "type ipv4_addr . inet_proto . inet_service",
                "10.0.0.1 . 6 . 80",
                "elements = { 0.0.0.0/8, 10.0.0.0/9,",
                "type mark : ipv4_addr . inet_service",
                "elements = { 0x00000001 : 10.0.0.1 . 80 }",
                "elements = { 10.0.0.0/8 : 0x00000007 }",
                "fd00::1 . 80 : drop",
                "elements = { fd00::/8 }",
                "10.0.0.0/8 . 80",
                r#""daisy0""#,
            ] {
                assert!(lines.iter().any(|l| l.contains(expected)), "{expected}\n{}", lines.join("\n"));
            }
        }

        // One at a time, and an interval's overlap is refused as a whole.
        let (nets, all) = &cases[1];
        for (n, element) in all.iter().enumerate() {
            Batch::new().delete_elements(&table, nets, [element.clone()]).commit(&mut socket).unwrap();
            assert_eq!(socket.elements(&table, nets).unwrap(), all[n + 1..], "without {element:?}");
        }
        for element in all.iter().rev() {
            Batch::new().add_elements(&table, nets, [element.clone()]).commit(&mut socket).unwrap();
        }
        assert_eq!(&socket.elements(&table, nets).unwrap(), all);
        let overlap = Batch::new().add_elements(&table, nets, [network("10.1.0.0/16")]).commit(&mut socket).unwrap_err();
        assert!(matches!(overlap, Error::Rejected(_)), "{overlap}");
        assert_eq!(&socket.elements(&table, nets).unwrap(), all);
        Batch::new().flush_set(&table, "nets").commit(&mut socket).unwrap();
        assert!(socket.elements(&table, nets).unwrap().is_empty());
        Batch::new().delete_set(&table, "nets").commit(&mut socket).unwrap();
        assert!(socket.elements(&table, nets).unwrap_err().is_not_found());
        let (target, _) = &cases[8];
        assert_eq!(target.data, Some(DataType::Values(vec![KeyType::Ipv4Addr, KeyType::InetService])));
        let data = &socket.elements(&table, target).unwrap()[0].data;
        assert_eq!(data, &Some(Data::Values(vec![v4("10.0.0.1").into(), 80u16.into()])));
    });
}

#[test]
fn a_large_set_is_one_transaction() {
    let Some(namespace) = Namespace::new("large_set") else { return };
    namespace.run(|| {
        let mut socket = Socket::open().unwrap();
        let table = Table::inet("t");
        let set = Set::new("open", [KeyType::Ipv4Addr, KeyType::InetProto, KeyType::InetService]);
        let all: Vec<Element> = (0..20_000u32).map(|n| (Ipv4Addr::from(0x0a00_0000 + n), 6u8, 80u16).into()).collect();
        let mut batch = Batch::new();
        batch.add_table(&table).add_set(&table, &set).add_elements(&table, &set, all.clone());
        batch.commit(&mut socket).unwrap();
        assert!(socket.elements(&table, &set).unwrap() == all);
        Batch::new().delete_elements(&table, &set, all[..19_999].to_vec()).commit(&mut socket).unwrap();
        assert_eq!(socket.elements(&table, &set).unwrap(), all[19_999..]);
    });
}

#[test]
fn a_refusal_names_its_operation_and_changes_nothing() {
    let Some(namespace) = Namespace::new("refusal") else { return };
    namespace.run(|| {
        let mut socket = Socket::open().unwrap();
        let table = Table::inet("t");
        let mut batch = Batch::new();
        batch
            .add_table(&table)
            .add_chain(&table, &Chain::new("c"))
            .add_rule(&table, "c", &Rule::new().jump("nowhere").comment("lost"))
            .delete_set(&table, "absent");
        let error = batch.commit(&mut socket).unwrap_err();
        let Error::Rejected(rejections) = &error else { panic!("{error}") };
        assert_eq!(rejections[0].index, Some(2), "{error}");
        assert!(error.to_string().contains("add rule inet t c comment \"lost\": ENOENT"), "{error}");
        assert!(error.to_string().contains("delete set inet t absent: ENOENT"), "{error}");
        assert!(error.is_not_found());
        assert!(socket.tables().unwrap().is_empty());

        // Refused here, before anything is sent.
        let both = Rule::new().tcp_dport(80).udp_dport(80);
        let wrong_family = Rule::new().saddr(network("fd00::/8"));
        for (family, rule) in [(Table::inet("t"), both), (Table::ip("t"), wrong_family)] {
            let mut batch = Batch::new();
            batch.add_table(&family).add_rule(&family, "c", &rule);
            assert!(matches!(batch.commit(&mut socket), Err(Error::Invalid { .. })));
        }
        assert!(matches!(Batch::new().add_table(&Table::inet("")).commit(&mut socket), Err(Error::Invalid { .. })));
        assert!(socket.tables().unwrap().is_empty());
        Batch::new().commit(&mut socket).unwrap();
    });
}

#[test]
fn one_family_tables_leave_the_family_out() {
    let Some(namespace) = Namespace::new("one_family") else { return };
    namespace.run(|| {
        let mut socket = Socket::open().unwrap();
        let table = Table::ip("t");
        let mut batch = Batch::new();
        batch.add_table(&table).add_chain(&table, &Chain::base("c", ChainType::Filter, Hook::Input, 0)).add_rule(
            &table,
            "c",
            &Rule::new().saddr(network("10.0.0.0/8")).echo_request(IpFamily::V4).drop(),
        );
        batch.commit(&mut socket).unwrap();
        let names: Vec<_> = socket.rules(&table, None).unwrap()[0].expressions.iter().map(|e| e.name().to_owned()).collect();
        assert_eq!(names, ["payload", "bitwise", "cmp", "meta", "cmp", "payload", "cmp", "immediate"]);
        if let Some(lines) = nft_list() {
            assert!(lines.iter().any(|l| l == "ip saddr 10.0.0.0/8 icmp type 8 drop"), "{}", lines.join("\n"));
        }
    });
}
