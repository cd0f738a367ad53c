//! What tokens cannot do, that of an invitation and that of a member, on an embedded broker and on a Kubernetes cluster (see
//! `common`): refused by the API server where it can see it. What it cannot see every reader drops (`daisy-broker-core::policy`).
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod common;

use common::{Broker, cluster, code, join, key};
use daisy_api::keys::{PublicKey, VerifyingKey};
use daisy_api::labels::EXPORT_ID;
use daisy_api::{Cluster, Export, ExportEndpoints, Heartbeat, Invitation, JoinRequest, JoinRequestSpec, Member, ServiceKey};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

const BROKER: &str = "daisy-broker";

/// Each scenario on an embedded broker, and those that a Kubernetes API server can judge on one, too.
macro_rules! scenarios {
    (both: $($both:ident),*; embedded: $($embedded:ident),*) => {
        mod embedded {
            use super::common::Broker;
            $(scenarios!(@embedded $both);)*
            $(scenarios!(@embedded $embedded);)*
        }
        mod kubernetes {
            use super::common::Broker;
            $(
                #[tokio::test]
                async fn $both() {
                    let Some(broker) = Broker::kubernetes().await else { return };
                    super::$both(&broker).await;
                    broker.stop().await;
                }
            )*
        }
    };
    (@embedded $name:ident) => {
        #[tokio::test]
        async fn $name() {
            let data = tempfile::tempdir().unwrap();
            let broker = Broker::start(data.path()).await;
            super::$name(&broker).await;
            broker.stop().await;
        }
    };
}

scenarios! {
    both: an_invitations_token_asks_and_nothing_else, a_member_writes_its_own_records_as_its_member_allows, a_member_has_nothing_of_others, nobody_poses_as_another, an_invitation_has_so_many_requests_at_a_time, a_flood_drowns_nobody;
    embedded: not_even_the_administrator_makes_members_overlap
}

fn request(invitation: &str, name: &str) -> JoinRequest {
    let spec = JoinRequestSpec {
        invitation: invitation.to_owned(),
        cluster_id: common::id("guest"),
        cluster_uid: "uid".into(),
        cluster_cidrs: Vec::new(),
        service_cidrs: Vec::new(),
        sealing_key: PublicKey::from_bytes([1; 32]),
        signing_key: VerifyingKey::from_bytes([1; 32]),
        signature: None,
        replace: false,
        version: String::new(),
    };
    JoinRequest::new(name, spec)
}

fn of<K>(client: &Client, namespace: &str) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), namespace)
}

/// Waits until JoinRequests are held to their invitation: a new broker on Kubernetes takes a second or so.
async fn in_force(invited: &Client, own: &str) {
    let (requests, try_only) = (of::<JoinRequest>(invited, BROKER), PostParams { dry_run: true, field_manager: None });
    let started = std::time::Instant::now();
    let stolen = request("nobodys", "join-abcdefghijklmnopqrstuvwxyz");
    while requests.create(&try_only, &stolen).await.is_ok() {
        assert!(started.elapsed() < std::time::Duration::from_secs(20), "requests of invitation {own} are not judged");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn an_invitations_token_asks_and_nothing_else(broker: &Broker) {
    let (info, other) = (broker.invite("none", 10).await, broker.invite("all", 10).await);
    let victim = join(&other, &cluster("victim", 61), &key(1)).await;
    let client = broker.invited(&info);
    in_force(&client, &info.invitation.name).await;
    let (post, list, patch, delete) =
        (PostParams::default(), ListParams::default(), PatchParams::default(), DeleteParams::default());
    let requests: Api<JoinRequest> = of(&client, BROKER);
    let own = &info.invitation.name;

    let name = "join-abcdefghijklmnopqrstuvwxyz";
    let mut made = request(own, name);
    // A status of the asker's own making is dropped: nobody reserves or admits himself.
    made.status = Some(
        serde_json::from_value(json!({"phase": "Reserved", "ranges": {"clusterCidrs": ["10.0.0.0/8"], "serviceCidrs": []},
        "reservedUntil": "2099-01-01T00:00:00Z"}))
        .unwrap(),
    );
    let made = requests.create(&post, &made).await.unwrap();
    assert!(made.status.is_none_or(|status| status.ranges.is_none()));
    assert!(requests.get(name).await.is_ok());

    assert_eq!(code(requests.list(&list).await), 403);
    assert_eq!(code(requests.delete(name, &delete).await), 403);
    assert_eq!(code(requests.patch(name, &patch, &Patch::Merge(json!({"spec": {"replace": true}}))).await), 403);
    assert_eq!(code(requests.patch_status(name, &patch, &Patch::Merge(json!({"status": {"phase": "Admitted"}}))).await), 403);
    let mut again = request(own, name);
    assert_eq!(code(requests.create(&post, &again).await), 409, "what is there is not overwritten");
    again.metadata.resource_version = Some("1".into());
    assert_eq!(code(requests.replace(name, &post, &again).await), 403);
    let stolen = request(&other.invitation.name, "join-abcdefghijklmnopqrstuvwxyy");
    assert_eq!(code(requests.create(&post, &stolen).await), 403, "the grant of another invitation is not to be had");
    assert_eq!(code(requests.create(&post, &request(own, "join-guessable")).await), 403);
    let mut generated = request(own, "");
    generated.metadata.name = None;
    generated.metadata.generate_name = Some("join-".into());
    assert_eq!(code(requests.create(&post, &generated).await), 403);
    let mut kept = request(own, "join-abcdefghijklmnopqrstuvwxyx");
    kept.metadata.finalizers = Some(vec!["daisy.supercluster.local/forever".into()]);
    assert_eq!(code(requests.create(&post, &kept).await), 403);
    let elsewhere: Api<JoinRequest> = of(&client, "default");
    assert_eq!(code(elsewhere.create(&post, &request(own, "join-abcdefghijklmnopqrstuvwxyw")).await), 403);

    assert_eq!(code(of::<Member>(&client, BROKER).list(&list).await), 403);
    assert_eq!(code(of::<Member>(&client, BROKER).get("victim").await), 403);
    assert_eq!(code(of::<Invitation>(&client, BROKER).list(&list).await), 403);
    assert_eq!(code(of::<Secret>(&client, BROKER).list(&list).await), 403);
    assert_eq!(code(of::<ServiceAccount>(&client, BROKER).list(&list).await), 403);
    assert_eq!(code(Api::<Cluster>::all(client.clone()).list(&list).await), 403);
    assert_eq!(code(Api::<Namespace>::all(client.clone()).list(&list).await), 403);
    let token = k8s_openapi::api::authentication::v1::TokenRequest::default();
    let accounts: Api<ServiceAccount> = of(&client, &victim.namespace);
    assert_eq!(code(accounts.create_token_request("syncer", &post, &token).await), 403);
    let accounts: Api<ServiceAccount> = of(&client, BROKER);
    assert_eq!(code(accounts.create_token_request(&format!("invitation-{own}"), &post, &token).await), 403);
}

async fn an_invitation_has_so_many_requests_at_a_time(broker: &Broker) {
    let (info, other) = (broker.invite("none", 10).await, broker.invite("none", 10).await);
    let (post, requests) = (PostParams::default(), of::<JoinRequest>(&broker.invited(&info), BROKER));
    let name = |n: usize| format!("join-{n:026}");
    for n in 0..100 {
        requests.create(&post, &request(&info.invitation.name, &name(n))).await.unwrap();
    }
    let beyond = requests.create(&post, &request(&info.invitation.name, &name(100))).await;
    if broker.is_kubernetes() {
        // Its policies cannot count: there the registrar deletes it, sooner than anybody fills the quota.
        beyond.unwrap();
        let gone = || async { requests.get_opt(&name(100)).await.unwrap().is_none() };
        let started = std::time::Instant::now();
        while !gone().await {
            assert!(started.elapsed() < std::time::Duration::from_secs(20), "it is still there");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    } else {
        assert_eq!(code(beyond), 403);
    }
    // Nobody else is kept from asking.
    join(&other, &cluster("guest", 61), &key(1)).await;
}

fn export(namespace: &str, cluster_ip: &str) -> Export {
    serde_json::from_value(json!({
        "apiVersion": "daisy.supercluster.local/v1alpha1", "kind": "Export", "metadata": {"name": format!("web.{namespace}")},
        "spec": {"envelope": {"sequence": 1}, "namespace": namespace, "name": "web", "type": "ClusterSetIP",
                 "exportedAt": "2026-01-01T00:00:00Z", "ports": [{"port": 80}], "clusterIPs": [cluster_ip]},
    }))
    .unwrap()
}

fn endpoints(address: &str) -> ExportEndpoints {
    let id = ServiceKey::parse("shop", "web").unwrap().id();
    serde_json::from_value(json!({
        "apiVersion": "daisy.supercluster.local/v1alpha1", "kind": "ExportEndpoints",
        "metadata": {"name": "web.shop.0a", "labels": {EXPORT_ID: id}},
        "spec": {"envelope": {"sequence": 1}, "namespace": "shop", "name": "web", "addressType": "IPv4",
                 "endpoints": [{"addresses": [address]}], "ports": [{"port": 8080}]},
    }))
    .unwrap()
}

async fn a_member_writes_its_own_records_as_its_member_allows(broker: &Broker) {
    let info = broker.invite("shop", 10).await;
    let credential = join(&info, &cluster("guest", 61), &key(1)).await;
    let client = broker.member(&credential);
    let own = credential.namespace.as_str();
    let (post, patch) = (PostParams::default(), PatchParams::default());
    broker.in_force(&credential, &export("bank", "10.161.0.5")).await;

    let exports: Api<Export> = of(&client, own);
    exports.create(&post, &export("shop", "10.161.0.5")).await.unwrap();
    assert_eq!(code(exports.create(&post, &export("bank", "10.161.0.5")).await), 403, "outside the grant");
    let widened = json!({"spec": {"clusterIPs": ["10.61.0.5"]}});
    assert_eq!(code(exports.patch("web.shop", &patch, &Patch::Merge(widened)).await), 403, "no ClusterIP of the cluster");
    let renamed = json!({"spec": {"namespace": "bank"}});
    assert_eq!(code(exports.patch("web.shop", &patch, &Patch::Merge(renamed)).await), 403);

    let slices: Api<ExportEndpoints> = of(&client, own);
    for address in ["10.161.0.5", "10.62.0.5", "8.8.8.8", "169.254.169.254", "127.0.0.1", "0.0.0.0"] {
        assert_eq!(code(slices.create(&post, &endpoints(address)).await), 403, "{address}");
    }
    let mut labelled = endpoints("10.61.0.5");
    labelled.metadata.labels = Some([(EXPORT_ID.to_owned(), "0123456789abcdef".to_owned())].into());
    if !broker.is_kubernetes() {
        // A hash, which CEL cannot say. Whoever selects by the label of an export gets these too, and drops them: they say of
        // themselves what they belong to.
        assert_eq!(code(slices.create(&post, &labelled).await), 403);
    }
    slices.create(&post, &endpoints("10.61.0.5")).await.unwrap();

    let clusters: Api<Cluster> = of(&client, own);
    let nodes = of::<Member>(&broker.admin, BROKER).get("guest").await.unwrap().spec.node_cidr;
    let record = |cidr: &str| -> Cluster {
        serde_json::from_value(json!({"apiVersion": "daisy.supercluster.local/v1alpha1", "kind": "Cluster", "metadata": {"name": "guest"},
            "spec": {"envelope": {"sequence": 1}, "clusterCidrs": [cidr], "serviceCidrs": ["10.161.0.0/16"], "nodeCidr": nodes}}))
        .unwrap()
    };
    assert_eq!(code(clusters.create(&post, &record("10.0.0.0/8")).await), 403, "others' addresses");
    clusters.create(&post, &record("10.61.0.0/16")).await.unwrap();
    let heartbeats: Api<Heartbeat> = of(&client, own);
    let beat = |name: &str| -> Heartbeat {
        serde_json::from_value(
            json!({"apiVersion": "daisy.supercluster.local/v1alpha1", "kind": "Heartbeat", "metadata": {"name": name},
            "spec": {"sequence": 1, "digest": "0".repeat(64), "records": 0, "intervalSeconds": 60}}),
        )
        .unwrap()
    };
    assert_eq!(code(heartbeats.create(&post, &beat("victim")).await), 403);
    heartbeats.create(&post, &beat("guest")).await.unwrap();
    let mut second = record("10.61.0.0/16");
    second.metadata.name = Some("second".into());
    assert_eq!(code(clusters.create(&post, &second).await), 403);

    // A grant taken away holds at once, and what was written before stays its owner's to delete.
    daisy_broker::setup::grant(&broker.admin, &common::id("guest"), &"none".parse().unwrap()).await.unwrap();
    let touched = json!({"spec": {"envelope": {"sequence": 2}}});
    let started = std::time::Instant::now();
    loop {
        // At once, or within the moment that a Kubernetes API server takes to see its parameter change.
        match exports.patch("web.shop", &patch, &Patch::Merge(&touched)).await {
            Ok(_) if broker.is_kubernetes() && started.elapsed().as_secs() < 20 => {}
            other => break assert_eq!(code(other), 403),
        }
    }
    exports.delete("web.shop", &DeleteParams::default()).await.unwrap();
}

async fn a_member_has_nothing_of_others(broker: &Broker) {
    let info = broker.invite("shop", 10).await;
    let victim = join(&info, &cluster("victim", 61), &key(1)).await;
    of::<Export>(&broker.member(&victim), &victim.namespace)
        .create(&PostParams::default(), &export("shop", "10.161.0.5"))
        .await
        .unwrap();
    let credential = join(&info, &cluster("guest", 62), &key(2)).await;
    let client = broker.member(&credential);
    let (post, list, patch, delete) =
        (PostParams::default(), ListParams::default(), PatchParams::default(), DeleteParams::default());

    // It reads what is offered.
    assert!(of::<Export>(&client, &victim.namespace).get("web.shop").await.is_ok());
    // It writes there nothing.
    let theirs: Api<Export> = of(&client, &victim.namespace);
    assert_eq!(code(theirs.create(&post, &export("shop", "10.162.0.5")).await), 403);
    assert_eq!(code(theirs.patch("web.shop", &patch, &Patch::Merge(json!({"spec": {"ports": []}}))).await), 403);
    assert_eq!(code(theirs.delete("web.shop", &delete).await), 403);
    assert_eq!(code(theirs.delete_collection(&delete, &list).await), 403);
    for namespace in ["default", BROKER, "kube-system", "daisy-cluster-nobody"] {
        assert_eq!(
            code(of::<Export>(&client, namespace).create(&post, &export("shop", "10.162.0.5")).await),
            403,
            "{namespace}"
        );
    }

    let members: Api<Member> = of(&client, BROKER);
    let known = members.list(&list).await.unwrap().items;
    assert!(["victim", "guest"].iter().all(|id| known.iter().any(|member| member.metadata.name.as_deref() == Some(*id))));
    let wider = Patch::Merge(json!({"spec": {"grant": ["*"]}}));
    assert_eq!(code(members.patch("guest", &patch, &wider).await), 403);
    assert_eq!(code(members.delete("victim", &delete).await), 403);
    for namespace in [BROKER, victim.namespace.as_str(), credential.namespace.as_str(), "kube-system"] {
        assert_eq!(code(of::<Secret>(&client, namespace).list(&list).await), 403, "{namespace}");
        assert_eq!(code(of::<Secret>(&client, namespace).get("any").await), 403, "{namespace}");
        assert_eq!(code(of::<ConfigMap>(&client, namespace).list(&list).await), 403, "{namespace}");
    }
    assert_eq!(code(Api::<Secret>::all(client.clone()).list(&list).await), 403);
    assert_eq!(code(of::<JoinRequest>(&client, BROKER).list(&list).await), 403);
    assert_eq!(
        code(of::<JoinRequest>(&client, BROKER).create(&post, &request("any", "join-abcdefghijklmnopqrstuvwxyz")).await),
        403
    );
    assert_eq!(code(of::<Invitation>(&client, BROKER).list(&list).await), 403);

    // Nor does it make itself rights.
    let own = credential.namespace.as_str();
    let accounts: Api<ServiceAccount> = of(&client, &victim.namespace);
    let token = k8s_openapi::api::authentication::v1::TokenRequest::default();
    assert_eq!(code(accounts.create_token_request("syncer", &post, &token).await), 403);
    assert_eq!(code(of::<ServiceAccount>(&client, own).list(&list).await), 403);
    let everything = json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    assert_eq!(code(of::<Role>(&client, own).patch("syncer", &patch, &Patch::Merge(&everything)).await), 403);
    assert_eq!(
        code(Api::<ClusterRole>::all(client.clone()).patch("daisy-broker-reader", &patch, &Patch::Merge(&everything)).await),
        403
    );
    assert_eq!(code(of::<RoleBinding>(&client, own).delete("syncer", &delete).await), 403);
    assert_eq!(code(Api::<ClusterRoleBinding>::all(client.clone()).delete(&victim.namespace, &delete).await), 403);
    assert_eq!(code(Api::<Namespace>::all(client.clone()).delete(&victim.namespace, &delete).await), 403);
}

/// The administrator's own mistakes, where two members would have the same addresses.
async fn not_even_the_administrator_makes_members_overlap(broker: &Broker) {
    let info = broker.invite("all", 10).await;
    join(&info, &cluster("victim", 61), &key(1)).await;
    join(&info, &cluster("guest", 62), &key(2)).await;
    let members: Api<Member> = of(&broker.admin, BROKER);
    let same = Patch::Merge(json!({"spec": {"clusterCidrs": ["10.61.0.0/16"]}}));
    let error = members.patch("guest", &PatchParams::default(), &same).await.unwrap_err();
    assert!(error.to_string().contains("victim"), "{error}");
    let free = Patch::Merge(json!({"spec": {"clusterCidrs": ["10.63.0.0/16"]}}));
    members.patch("guest", &PatchParams::default(), &free).await.unwrap();
}

/// A request as somebody else, which no token of ours may make.
async fn pose(client: &Client, header: &str, value: &str) -> u16 {
    let path = "/apis/daisy.supercluster.local/v1alpha1/namespaces/daisy-broker/joinrequests";
    let request = http::Request::get(path).header(header, value).body(Vec::new()).unwrap();
    code(client.request_text(request).await)
}

async fn nobody_poses_as_another(broker: &Broker) {
    let info = broker.invite("shop", 10).await;
    let victim = join(&info, &cluster("victim", 61), &key(1)).await;
    let guest = join(&info, &cluster("guest", 62), &key(2)).await;
    let of_victim = format!("system:serviceaccount:{}:{}", victim.namespace, victim.service_account);
    for client in [broker.invited(&info), broker.member(&guest)] {
        for (header, value) in [
            ("Impersonate-User", "admin"),
            ("Impersonate-User", of_victim.as_str()),
            ("Impersonate-User", "system:serviceaccount:daisy-broker:daisy-registrar"),
        ] {
            assert_eq!(pose(&client, header, value).await, 403, "{header}: {value}");
        }
    }
    // A token is its own API server's, and whole.
    let forged = format!("{}x", guest.token);
    let address = broker.address();
    let forger = daisy_broker::enrol::client(&address.server, &address.ca, &forged).unwrap();
    assert_eq!(code(of::<Member>(&forger, BROKER).list(&ListParams::default()).await), 401);
}

/// Writes without end are slowed or refused, and whoever else writes meanwhile is served.
async fn a_flood_drowns_nobody(broker: &Broker) {
    let info = broker.invite("shop", 10).await;
    let victim = join(&info, &cluster("victim", 61), &key(1)).await;
    let guest = join(&info, &cluster("guest", 62), &key(2)).await;
    broker.in_force(&guest, &export("bank", "10.162.0.5")).await;
    let flooding = broker.member(&guest);
    let flood = (0..20).map(|lane: usize| {
        let (exports, invited) = (of::<Export>(&flooding, &guest.namespace), of::<JoinRequest>(&broker.invited(&info), BROKER));
        let invitation = info.invitation.name.clone();
        tokio::spawn(async move {
            for n in 0..20 {
                // Of each kind: what is refused for what it says, what is taken, and what asks to join.
                let _ = exports.create(&PostParams::default(), &export("bank", "10.162.0.5")).await;
                let _ = exports.create(&PostParams::default(), &export("shop", "10.162.0.5")).await;
                let name = format!("join-flood-{lane:04}-{n:016}");
                let _ = invited.create(&PostParams::default(), &request(&invitation, &name)).await;
            }
        })
    });
    let flood: Vec<_> = flood.collect();
    let exports: Api<Export> = of(&broker.member(&victim), &victim.namespace);
    for n in 0..10 {
        let started = std::time::Instant::now();
        let mut own = export("shop", "10.161.0.5");
        own.spec.envelope.sequence = n;
        let done = exports.patch("web.shop", &PatchParams::default(), &Patch::Merge(&own)).await;
        match done {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {
                drop(exports.create(&PostParams::default(), &own).await.unwrap())
            }
            Err(error) => panic!("the victim was not served: {error}"),
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "the victim waited {:?}", started.elapsed());
    }
    for lane in flood {
        lane.await.unwrap();
    }
    let asked = of::<JoinRequest>(&broker.admin, BROKER).list(&ListParams::default()).await.unwrap().items.len();
    let most = if broker.is_kubernetes() { 2_000 } else { 102 };
    assert!(asked <= most, "{asked} requests are kept");
}
