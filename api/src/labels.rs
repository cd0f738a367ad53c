//! Every name of ours that stands in a cluster: namespaces, labels, annotations, ports, devices.

/// The API group of Daisy's kinds.
pub const GROUP: &str = "daisy.supercluster.local";
/// The version of Daisy's kinds.
pub const VERSION: &str = "v1alpha1";
/// Where Daisy lives in a member cluster.
pub const SYSTEM_NAMESPACE: &str = "daisy-system";
/// Where the broker keeps Members, Invitations and JoinRequests.
pub const BROKER_NAMESPACE: &str = "daisy-broker";
/// A cluster's own namespace on the broker is this and its ID.
pub const BROKER_CLUSTER_NAMESPACE_PREFIX: &str = "daisy-cluster-";

/// Says that an object is Daisy's (the recommended Kubernetes label).
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`] on everything that is Daisy's.
pub const MANAGED_BY_DAISY: &str = "daisy";
/// The version of Daisy that an object is of; on namespace `daisy-broker`, the broker's.
pub const APP_VERSION: &str = "app.kubernetes.io/version";
/// The ClusterProperty that is the cluster's ID (KEP-2149).
pub const CLUSTER_PROPERTY: &str = "cluster.clusterset.k8s.io";
/// The ClusterProperty that is the clusterset's ID, there as long as the cluster is a member (KEP-2149).
pub const CLUSTERSET_PROPERTY: &str = "clusterset.k8s.io";
/// Which role an object or pod belongs to: `syncer`, `gateway`, `route-agent`, `dns`, `broker`.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// `true` on a Node that is to be a gateway.
pub const GATEWAY_NODE: &str = "daisy.supercluster.local/gateway";
/// On a Cluster in `daisy-system`: `local` for this cluster's own, `remote` for the others.
pub const CLUSTER_ROLE: &str = "daisy.supercluster.local/cluster-role";
/// [`CLUSTER_ROLE`] of this cluster's own record.
pub const CLUSTER_ROLE_LOCAL: &str = "local";
/// [`CLUSTER_ROLE`] of another cluster's record.
pub const CLUSTER_ROLE_REMOTE: &str = "remote";
/// On an import's Service and EndpointSlices: the namespace of what is imported.
pub const IMPORT_NAMESPACE: &str = "daisy.supercluster.local/import-namespace";
/// On an import's Service and EndpointSlices: the name of what is imported.
pub const IMPORT_NAME: &str = "daisy.supercluster.local/import-name";
/// Annotation on an import's Service: the clusters that export it, since when, and at which sequence of their Export records
/// (`a=2026-01-01T00:00:00Z#1767225600000,b=…`), so that a syncer that starts while the broker is away, or from an old copy, knows
/// whose import this is.
pub const IMPORT_EXPORTS: &str = "daisy.supercluster.local/import-exports";
/// Annotation on an import's Service: the ClusterIPs that its exported Services have in their own clusters
/// (`a=10.96.0.7,b=10.97.0.9 fd00:97::9`): where the names of single clusters lead.
pub const CLUSTER_IPS: &str = "daisy.supercluster.local/cluster-ips";
/// Annotation on an import's EndpointSlice: the sequence of the ExportEndpoints record that it was made of, so that a syncer that
/// starts anew does not take an older one from a broker that was restored from an old copy.
pub const RECORD_SEQUENCE: &str = "daisy.supercluster.local/record-sequence";
/// Annotation on a remote Cluster in `daisy-system`: the sequence of a heartbeat by which the cluster vouched for all its records. What a
/// broker shows of an earlier sequence, and is not imported, was withdrawn before.
pub const VOUCHED_SEQUENCE: &str = "daisy.supercluster.local/vouched-sequence";
/// Annotation on a Cluster in `daisy-system`: its Member as it was last seen (JSON), so that a syncer that starts while the broker
/// is away, empty or restored from an old copy still knows it.
pub const MEMBER: &str = "daisy.supercluster.local/member";
/// On ExportEndpoints: [`crate::ServiceKey::id`] of what is exported, to select by.
pub const EXPORT_ID: &str = "daisy.supercluster.local/export-id";
/// On a Namespace: `true` makes and keeps a ServiceExport for each of its Services.
pub const EXPORT_ALL: &str = "daisy.supercluster.local/export";
/// On a ServiceExport that the namespace's [`EXPORT_ALL`] made, so that it goes with it.
pub const EXPORTED_BY_NAMESPACE: &str = "daisy.supercluster.local/exported-by-namespace";
/// Annotation on a Service: `false` keeps it out of its namespace's bulk export.
pub const EXPORT_EXCLUDE: &str = "daisy.supercluster.local/export";
/// Annotation on a Node: its address in the cluster's node range, set by the syncer.
pub const NODE_ADDRESS: &str = "daisy.supercluster.local/node-address";
/// Annotation on a Node: the public address that other clusters reach it at, set by the operator of the cluster.
pub const PUBLIC_ADDRESS: &str = "daisy.supercluster.local/public-address";
/// Annotation on a Node: set by its route-agent to `clean` once nothing of Daisy's is left on it after a leave.
pub const NODE_STATE: &str = "daisy.supercluster.local/node-state";
/// Annotation on a Node: why its route-agent cannot bring it into the state that it is to be in.
pub const NODE_PROBLEM: &str = "daisy.supercluster.local/node-problem";
/// Annotation on a Member: the grant of the invitation by which it joined. Where it is absent or differs from the Member's grant,
/// an administrator has set that, and a rejoin leaves it.
pub const INVITED_GRANT: &str = "daisy.supercluster.local/invited-grant";
/// The MCS API's label on an EndpointSlice: the Service it belongs to.
pub const MCS_SERVICE_NAME: &str = "multicluster.kubernetes.io/service-name";
/// The MCS API's label on an EndpointSlice: the cluster it came from.
pub const MCS_SOURCE_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";
/// Kubernetes' label on an EndpointSlice: the Service it belongs to.
pub const SLICE_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Kubernetes' label on an EndpointSlice: who writes it.
pub const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The value of [`SLICE_MANAGED_BY`] on what Daisy writes.
pub const SLICE_MANAGED_BY_DAISY: &str = "daisy.supercluster.local";
/// Kubernetes' label on an EndpointSlice of a headless Service.
pub const SLICE_HEADLESS: &str = "service.kubernetes.io/headless";

/// The Secret in `daisy-system` with what the syncer needs at the broker: keys `server`, `ca`, `token`, `brokerId`,
/// `clusterId`, `signingKey`.
pub const BROKER_ACCESS_SECRET: &str = "daisy-broker-access";
/// The namespace of the gateways' keys, which holds nothing else: who reads Secrets here reads those alone.
pub const GATEWAY_KEYS_NAMESPACE: &str = "daisy-gateway-keys";
/// A gateway's WireGuard private key is in the Secret of this name and `-NODE` there, key `privateKey` (base64).
pub const GATEWAY_KEY_SECRET_PREFIX: &str = "daisy-gateway-key-";
/// What Daisy's DNS servers together call themselves: the name server of their zones, in `daisy-system`.
pub const DNS_SERVICE: &str = "daisy-dns";
/// The DNS servers, each a Deployment and a Service of this name: where a single node takes pods, the first alone.
pub const DNS_SERVERS: [&str; 2] = ["daisy-dns-a", "daisy-dns-b"];

/// The UDP port of a gateway's tunnels (51820 and 51871 are others').
pub const TUNNEL_PORT: u16 = 41820;
/// The UDP port of the VXLAN between nodes and gateways (4789 and 4800 are others').
pub const VXLAN_PORT: u16 = 4841;
/// The VXLAN network identifier between nodes and gateways.
pub const VXLAN_VNI: u32 = 4841;
/// The UDP port that probes are addressed to, inside tunnels.
pub const PROBE_PORT: u16 = 4842;
/// The TUN device of a gateway.
pub const TUNNEL_DEVICE: &str = "daisy0";
/// The VXLAN device of a node.
pub const VXLAN_DEVICE: &str = "daisy-vx";
/// The routing table of traffic to other clusters.
pub const ROUTE_TABLE: u32 = 4841;
/// The routing table, on a gateway, of what came out of a tunnel for another node's pods.
pub const DELIVERY_TABLE: u32 = 4842;
/// The preference of our rules: before `main` (32766), after what CNIs commonly use.
pub const RULE_PREFERENCE: u32 = 1841;
/// The route protocol number that marks routes as ours (unassigned in `rtnetlink.h`).
pub const ROUTE_PROTOCOL: u8 = 184;
/// The nftables table that holds all our rules on a node.
pub const NFTABLES_TABLE: &str = "daisy";
/// The least MTU on our devices (RFC 8200 section 5).
pub const MTU_MIN: u32 = 1280;
/// What WireGuard adds over IPv4 and over IPv6, in bytes: 20 or 40 of IP, 8 of UDP, 32 of its own.
pub const WIREGUARD_OVERHEAD: (u32, u32) = (60, 80);
/// What VXLAN adds over IPv4 and over IPv6, in bytes: 20 or 40 of IP, 8 of UDP, 8 of its own, 14 of Ethernet.
pub const VXLAN_OVERHEAD: (u32, u32) = (50, 70);

/// The zone that holds every import, local first.
pub const SUPERCLUSTER_ZONE: &str = "supercluster.local";
/// The zone of the MCS specification.
pub const CLUSTERSET_ZONE: &str = "clusterset.local";
