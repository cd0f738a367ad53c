//! What a newer member writes, an older one reads: fields that it does not know change nothing.
#![allow(clippy::unwrap_used, missing_docs)]

use daisy_api::{
    ClusterSpec, ExportEndpointsSpec, ExportSpec, HeartbeatSpec, InvitationSpec, JoinRequestSpec, JoinRequestStatus, MemberSpec,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A field that no version has, in every object of this value but those whose keys are the user's.
fn with_more(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.iter_mut().filter(|(name, _)| !name.starts_with("exported")).for_each(|(_, value)| with_more(value));
            fields.insert("ofAVersionToCome".to_owned(), json!({"deep": [1]}));
        }
        Value::Array(items) => items.iter_mut().for_each(with_more),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn same<T: DeserializeOwned + Serialize>(known: Value) {
    let read: T = serde_json::from_value(known.clone()).unwrap();
    let mut newer = known;
    with_more(&mut newer);
    assert!(newer.to_string().contains("ofAVersionToCome"));
    let read_newer: T = serde_json::from_value(newer).unwrap();
    let json = |value: &T| serde_json::to_value(value).unwrap();
    assert_eq!(json(&read_newer), json(&read), "{}", std::any::type_name::<T>());
}

#[test]
fn every_record_at_the_broker_is_read_as_without_them() {
    let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let envelope = json!({"sequence": 7});
    same::<ExportSpec>(json!({
        "envelope": envelope, "namespace": "shop", "name": "web", "type": "ClusterSetIP", "exportedAt": "2026-01-01T00:00:00Z",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}], "clusterIPs": ["10.1.0.5"], "ipFamilies": ["IPv4"],
        "exportedLabels": {"team": "a"},
    }));
    same::<ExportEndpointsSpec>(json!({
        "envelope": envelope, "namespace": "shop", "name": "web", "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.9"], "hostname": "web-0"}], "ports": [{"port": 8080}],
    }));
    same::<ClusterSpec>(json!({
        "envelope": envelope, "clusterCidrs": ["10.1.0.0/16"], "serviceCidrs": ["10.2.0.0/16"], "nodeCidr": "100.80.0.0/20",
        "exporter": true, "consumes": ["b"], "version": "0.1.0",
        "gateways": [{"node": "n", "publicKey": key, "address": "100.80.0.1",
            "endpoints": [{"address": "198.51.100.3:41820", "reach": "Private"}]}],
    }));
    same::<HeartbeatSpec>(json!({"sequence": 9, "digest": "d", "records": 3, "intervalSeconds": 10}));
    same::<MemberSpec>(json!({
        "clusterUid": "u", "clusterCidrs": ["10.1.0.0/16"], "serviceCidrs": ["10.2.0.0/16"], "nodeCidr": "100.80.0.0/20",
        "grant": ["web-*"], "signingKey": key, "invitation": "one",
    }));
    same::<InvitationSpec>(json!({"grant": [], "expires": "2026-01-01T00:00:00Z", "maxUses": 3}));
    same::<JoinRequestSpec>(json!({
        "invitation": "one", "clusterId": "a", "clusterUid": "u", "clusterCidrs": ["10.1.0.0/16"], "serviceCidrs": ["10.2.0.0/16"],
        "sealingKey": key, "signingKey": key, "version": "0.1.0",
    }));
    same::<JoinRequestStatus>(json!({
        "phase": "Reserved", "reason": "Reserved", "message": "m", "reservedUntil": "2026-01-01T00:00:00Z",
        "ranges": {"clusterCidrs": ["10.1.0.0/16"], "serviceCidrs": ["10.2.0.0/16"]},
    }));
}
