//! `daisy kind-config`: a kind cluster whose CIDRs are nobody else's.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use daisy_api::Cidr;
use daisy_api::broker_info::BrokerInfo;
use daisy_broker::enrol::{self, Answer, Ask};
use rand_core::OsRng;

use crate::arguments::KindConfig;

/// Asks the registrar for free ranges, which it keeps for this ID for an hour, and prints the configuration.
pub(crate) async fn run(options: KindConfig) -> Result<()> {
    let file = options.broker_info.display().to_string();
    let text = std::fs::read_to_string(&options.broker_info).with_context(|| format!("reading {file}"))?;
    let info = BrokerInfo::parse(&file, &text, jiff::Timestamp::now())?;
    let ask = Ask {
        cluster_id: options.name.clone(),
        // There is no cluster yet, and so no UID.
        cluster_uid: "kind-config".to_owned(),
        cluster_cidrs: Vec::new(),
        service_cidrs: Vec::new(),
        replace: false,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let key = ed25519_dalek::SigningKey::generate(&mut OsRng);
    let Answer::Reserved(reserved) = enrol::ask(&info, &ask, &key, Duration::from_secs(30)).await? else {
        bail!("the broker was asked for free ranges, and admitted a cluster instead: is its version this one's?");
    };
    let list = |cidrs: &[Cidr]| cidrs.iter().map(Cidr::to_string).collect::<Vec<_>>().join(",");
    let mut text = format!(
        "# Free CIDRs, kept for cluster ID {name} until {until}:\n#   kind create cluster --config THIS-FILE\n#   daisy join {file} --context kind-{name} --clusterid {name}\nkind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nname: {name}\nnetworking:\n  podSubnet: {pods}\n  serviceSubnet: {services}\nnodes:\n- role: control-plane\n",
        name = options.name,
        until = reserved.until,
        pods = list(&reserved.ranges.cluster_cidrs),
        services = list(&reserved.ranges.service_cidrs),
    );
    for _ in 0..options.workers {
        text.push_str("- role: worker\n");
    }
    crate::output::print(&text)
}
