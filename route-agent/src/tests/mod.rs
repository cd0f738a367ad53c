//! Nodes, pods and another cluster in network namespaces.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../../nftables/tests/common/mod.rs"]
mod common;
mod objects;
mod role;
mod site;

use std::net::{IpAddr, TcpStream, UdpSocket};
use std::time::Duration;

use site::{CLUSTER_IP, HOLD, INTERNAL, NODE_ADDRESS, OTHER, POD, SECRET_IP, Site, ask, is_closed, local, sees, tell_all};

const START: Duration = Duration::from_secs(1);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Names what is more or less than it is to be.
fn assert_same(now: &[String], before: &[String]) {
    let lacking = |a: &[String], b: &[String]| -> Vec<String> { a.iter().filter(|l| !b.contains(l)).cloned().collect() };
    let (more, less) = (lacking(now, before), lacking(before, now));
    assert!(more.is_empty() && less.is_empty(), "more: {more:#?}\nless: {less:#?}");
}

#[test]
fn pods_reach_the_other_cluster_with_their_own_addresses() {
    let Some(site) = Site::new("pods_reach_the_other_cluster") else { return };
    site.join(START);
    Site::serve(&site.other, 80);
    for (index, pod) in site.pods.iter().enumerate() {
        for (other, own) in OTHER.into_iter().zip(POD[index]) {
            assert_eq!(sees(pod, other, 80), Some(ip(own)), "pod-{} to {other}", index + 1);
        }
    }
    for (host, address) in site.nodes.iter().zip(NODE_ADDRESS) {
        assert_eq!(sees(&host.namespace, OTHER[0], 80), Some(ip(address)), "a host has its node address");
    }
    // By a socket that insists on the address of the node network.
    let bound = site.nodes[1].namespace.run(|| {
        let socket = UdpSocket::bind((INTERNAL[1], 0)).unwrap();
        socket.send_to(b"x", (OTHER[0], 9)).is_ok()
    });
    assert!(bound);
}

#[test]
fn the_other_cluster_reaches_what_is_exported_and_nothing_else() {
    let Some(site) = Site::new("exported_and_nothing_else") else { return };
    site.join(START);
    for pod in &site.pods {
        Site::serve(pod, 8080);
        Site::serve(pod, 8081);
    }
    for host in &site.nodes {
        Site::serve(&host.namespace, 8080);
    }
    for pod in POD.into_iter().flatten() {
        let own = OTHER.into_iter().find(|o| ip(o).is_ipv6() == ip(pod).is_ipv6()).unwrap();
        assert_eq!(sees(&site.other, pod, 8080), Some(ip(own)), "{pod} is exported and sees the source");
        assert!(is_closed(&site.other, pod, 8081), "{pod}: another port is not");
    }
    // The pod of both Services is the same, and answers to one of them only.
    assert_eq!(sees(&site.other, CLUSTER_IP, 80), Some(ip(NODE_ADDRESS[0])), "translated, with the gateway's node address");
    assert!(is_closed(&site.other, SECRET_IP, 80));
    for host in NODE_ADDRESS.into_iter().chain(INTERNAL).chain(["10.10.1.1"]) {
        assert!(is_closed(&site.other, host, 8080), "hosts are out of reach: {host}");
    }
    let refused = site.nodes[0].dropped("refused");
    assert!(refused >= 9, "{refused}");
    assert_eq!(site.nodes[1].dropped("refused"), 0, "all of it was refused at the gateway");

    // One endpoint less, by the elements alone.
    for host in &site.nodes {
        host.tell_only(START, |agent| {
            agent.openings().handle_slice(&objects::slice("web", &[(POD[0][0], "node-1")]));
        });
    }
    assert_eq!(sees(&site.other, POD[0][0], 8080), Some(ip(OTHER[0])));
    assert!(is_closed(&site.other, POD[1][0], 8080));
    // Exported no more.
    for host in &site.nodes {
        host.tell_only(START, |agent| agent.openings().forget_export("shop", "web"));
    }
    assert!(is_closed(&site.other, POD[0][0], 8080));
    assert!(is_closed(&site.other, CLUSTER_IP, 80));
}

#[test]
fn forged_sources_and_foreign_vxlan_are_dropped() {
    let Some(site) = Site::new("forged_sources") else { return };
    site.join(START);
    site.other.configure("tun", &["10.66.0.1/32"]);
    Site::serve(&site.pods[0], 8080);
    let forged = site.other.run(|| {
        let socket = UdpSocket::bind(("10.66.0.1", 0)).unwrap();
        socket.send_to(b"x", (POD[0][0], 8080)).unwrap()
    });
    assert_eq!(forged, 1);
    // A pod to its own node's VXLAN port, and to the other node's, where it arrives with its node's address.
    site.pods[1].run(|| {
        let socket = UdpSocket::bind("10.10.2.5:0").unwrap();
        for to in ["10.10.2.1", INTERNAL[0]] {
            socket.send_to(b"frame", (to, daisy_api::labels::VXLAN_PORT)).unwrap();
        }
    });
    std::thread::sleep(Duration::from_millis(100));
    // A wire in a tunnel's place brings neighbour discovery along, which is not another cluster's either.
    assert!(site.nodes[0].dropped("forged") >= 1);
    assert_eq!(site.nodes[1].dropped("vxlan-refused"), 1);
    assert_eq!(site.nodes[1].dropped("vxlan-forwarded"), 1);
}

#[test]
fn segments_fit_the_way() {
    let Some(site) = Site::new("segments_fit") else { return };
    Site::serve(&site.other, 80);
    site.nodes[0].with(|_| {
        common::netlink(|handle| async move {
            let index = common::index_of(&handle, "daisy0").await;
            handle.link().set(rtnetlink::LinkUnspec::new_with_index(index).mtu(1400).build()).execute().await.unwrap();
        });
    });
    site.join(START);
    // 1400 less 40 of headers, 12 of options.
    assert_eq!(ask(&site.pods[0], OTHER[0], 80).unwrap().1, 1348);
    assert_eq!(ask(&site.pods[1], OTHER[0], 80).unwrap().1, 1348);
    assert_eq!(ask(&site.pods[1], OTHER[1], 80).unwrap().1, 1328);
}

#[test]
fn a_lost_gateway_is_silence_first_and_then_a_refusal() {
    let Some(site) = Site::new("a_lost_gateway") else { return };
    site.join(START);
    Site::serve(&site.other, 80);
    assert!(sees(&site.pods[0], OTHER[0], 80).is_some());
    site.remove_tunnel();
    let error = |at: Duration| {
        site.nodes[0].tell(at, |_| {});
        site.pods[0].run(|| {
            let to = format!("{}:80", OTHER[0]).parse().unwrap();
            TcpStream::connect_timeout(&to, Duration::from_millis(300)).unwrap_err().kind()
        })
    };
    assert_eq!(error(START), std::io::ErrorKind::TimedOut, "held");
    assert_eq!(error(START + HOLD - Duration::from_millis(1)), std::io::ErrorKind::TimedOut, "still held");
    let refused = error(START + HOLD);
    assert!(
        matches!(refused, std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable),
        "told: {refused:?}"
    );
    site.add_tunnel();
    site.nodes[0].tell(START + HOLD * 2, |_| {});
    assert!(sees(&site.pods[0], OTHER[0], 80).is_some(), "back again");
}

#[test]
fn a_restart_takes_over_and_a_leave_leaves_nothing() {
    let Some(site) = Site::new("a_restart_and_a_leave") else { return };
    let before: Vec<_> = site.nodes.iter().map(site::Host::dump).collect();
    site.join(START);
    Site::serve(&site.pods[1], 8080);
    assert!(sees(&site.other, POD[1][0], 8080).is_some());
    let joined: Vec<_> = site.nodes.iter().map(site::Host::dump).collect();
    for (host, name) in site.nodes.iter().zip(["node-1", "node-2"]) {
        host.restart(name);
        host.tell(START, |agent| tell_all(agent, START));
    }
    for (host, joined) in site.nodes.iter().zip(&joined) {
        assert_same(&host.dump(), joined);
    }
    assert!(sees(&site.other, POD[1][0], 8080).is_some());

    let leave = START + HOLD;
    for host in &site.nodes {
        host.tell(leave, move |agent| {
            agent.handle_cluster(&local(true), leave);
            agent.forget_cluster("other", leave);
        });
    }
    assert!(is_closed(&site.other, POD[1][0], 8080));
    assert_ne!(site.nodes.iter().map(site::Host::dump).collect::<Vec<_>>(), before, "held");
    for host in &site.nodes {
        host.tell(leave + HOLD, |_| {});
        let annotation = host.with(|part| part.agent.annotation());
        assert_eq!(annotation, Some(daisy_route_agent_core::Annotation::Clean));
    }
    for (host, before) in site.nodes.iter().zip(&before) {
        assert_same(&host.dump(), before);
    }
}

#[test]
fn others_things_are_left_alone() {
    let Some(site) = Site::new("others_things") else { return };
    site.nodes[0].with(|_| {
        common::netlink(|handle| async move {
            use rtnetlink::RouteMessageBuilder;
            let index = common::index_of(&handle, "eth0").await;
            // In our own tables, even.
            let route = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix("10.77.0.0".parse().unwrap(), 16)
                .output_interface(index)
                .table_id(daisy_api::labels::ROUTE_TABLE)
                .priority(10);
            handle.route().add(route.build()).execute().await.unwrap();
            let rule = handle.rule().add().v4().table_id(daisy_api::labels::ROUTE_TABLE).priority(5000);
            rule.action(rtnetlink::packet_route::rule::RuleAction::ToTable).execute().await.unwrap();
        });
    });
    let before = site.nodes[0].dump();
    site.join(START);
    for line in &before {
        assert!(site.nodes[0].dump().contains(line), "{line}");
    }
    site.nodes[0].tell(START, move |agent| agent.handle_cluster(&local(true), START));
    site.nodes[0].tell(START + HOLD, |_| {});
    assert_same(&site.nodes[0].dump(), &before);
}

#[test]
fn a_port_in_use_is_named_and_leaves_nothing_half_done() {
    use daisy_api::labels::{VXLAN_DEVICE, VXLAN_PORT, VXLAN_VNI};
    let Some(site) = Site::new("a_port_in_use") else { return };
    let host = &site.nodes[1];
    let refused = || {
        let problem = host.with(|part| {
            tell_all(&mut part.agent, START);
            part.try_step(START)
        });
        let problem = problem.expect("the port is another's");
        assert!(problem.contains("UDP port 4841") && problem.contains("daisy join --vxlan-port"), "{problem}");
        assert!(!host.dump().iter().any(|line| line.contains(VXLAN_DEVICE)), "no device that is not up: {:#?}", host.dump());
    };
    let holder = host.namespace.run(|| UdpSocket::bind(("0.0.0.0", VXLAN_PORT)).unwrap());
    refused();
    // Told again, it is refused again, and not taken for done.
    refused();
    drop(holder);
    // Another VXLAN of the same number and port.
    host.with(|_| {
        common::netlink(|handle| async move {
            let link = rtnetlink::LinkVxlan::new("another", VXLAN_VNI).port(VXLAN_PORT).build();
            handle.link().add(link).execute().await.unwrap();
        });
    });
    refused();
    host.with(|_| {
        common::netlink(|handle| async move {
            let index = common::index_of(&handle, "another").await;
            handle.link().del(index).execute().await.unwrap();
        });
    });
    site.join(START);
    Site::serve(&site.other, 80);
    assert!(sees(&site.pods[1], OTHER[0], 80).is_some(), "once the port is free, all is well");
}
