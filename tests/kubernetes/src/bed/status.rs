//! Which beds there are, and what runs in them.

use std::collections::HashMap;
use std::fs;

use anyhow::Result;

use super::config::{self, Folders};
use super::plan::{INTERNET, Role};
use super::{Bed, init, state};

/// Prints each bed with its hosts: what runs there, and how much memory it takes.
///
/// # Errors
/// When the beds cannot be read.
pub fn status() -> Result<String> {
    let mut text = String::new();
    for folder in state::folders()? {
        let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        match Bed::open(&name) {
            Ok(bed) => text.push_str(&bed.describe()?),
            Err(_) => {
                text.push_str(&format!("bed {name} does not run; `cargo xtask kubernetes down --name {name}` removes it\n"))
            }
        }
    }
    if text.is_empty() {
        text.push_str("no beds; `cargo xtask kubernetes up` makes one\n");
    }
    Ok(text)
}

impl Bed {
    fn describe(&self) -> Result<String> {
        let mut text = format!("bed {}: {}\n", self.plan.name, self.folder.display());
        let children = children();
        let folders = Folders::new(&self.folder);
        let mut all = 0;
        for (host, role) in self.plan.hosts() {
            let init = init::find(&self.folder, init::HOST, Some(&host));
            let memory = init.map_or(0, |pid| memory_below(pid, &children));
            all += memory;
            let state = if init.is_some() { "runs" } else { "DOWN" };
            let what = match role {
                Role::Internet | Role::Broker => String::new(),
                Role::Router(c) => format!("{} {}", c.public_address(), if c.nat { "NAT" } else { "routed" }),
                Role::ControlPlane(c) => c.control_plane_address().to_string(),
                Role::Node(c, n) => format!("{}, pods {}", c.node_address(n), c.node_pod_cidrs(n).join(", ")),
            };
            let processes: Vec<_> = config::processes(&folders, &host, role).iter().map(|p| p.name).collect();
            text.push_str(&format!("  {host:24} {state}  {:5} MiB  {what}  {}\n", memory / 1024, processes.join(" ")));
        }
        text.push_str(&format!("  {:24}       {:5} MiB\n", "all", all / 1024));
        Ok(text)
    }

    /// How much memory a host's processes have of their own, in KiB.
    #[must_use]
    pub fn memory(&self, host: &str) -> u64 {
        init::find(&self.folder, init::HOST, Some(host)).map_or(0, |pid| memory_below(pid, &children()))
    }

    /// What the internet has dropped because it bore an inner address: packets, by `from CIDR` and `to CIDR`.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn dropped(&self) -> Result<Vec<(String, u64)>> {
        let listed: serde_json::Value = serde_json::from_str(&self.run(INTERNET, super::network::DROPPED)?)?;
        let rules = listed["nftables"].as_array().cloned().unwrap_or_default();
        let counted = rules.iter().filter_map(|entry| {
            let rule = &entry["rule"];
            let packets = rule["expr"].as_array()?.iter().find_map(|e| e["counter"]["packets"].as_u64())?;
            Some((rule["comment"].as_str()?.to_owned(), packets))
        });
        Ok(counted.collect())
    }
}

/// Every process's children.
fn children() -> HashMap<i32, Vec<i32>> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for (pid, _) in init::processes() {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The second field is a name in brackets, which may hold anything.
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).and_then(|p| p.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    children
}

/// Proportional set size: what several processes share is counted once.
fn memory_below(pid: i32, children: &HashMap<i32, Vec<i32>>) -> u64 {
    let own = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let below = children.get(&pid).into_iter().flatten().map(|child| memory_below(*child, children));
    own.unwrap_or(0) + below.sum::<u64>()
}
