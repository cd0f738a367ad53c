//! No acknowledged write is lost to kill -9, and the resourceVersion never goes back.
//!
//! The server runs in a process of its own: this test program again, told by its environment to be one. Writers write until it is
//! killed at a random moment; the next one on the same data must have everything that was acknowledged, and nothing that was never
//! asked for. `DAISY_CRASH_SEED` repeats a run, `DAISY_CRASH_ROUNDS` makes it longer.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{client, config_map, get, try_ask, version};
use daisy_api_server::{Options, Server};
use http::Method;
use kube::Client;
use serde_json::json;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CHILD: &str = "DAISY_CRASH_CHILD";
const WRITERS: u64 = 12;

/// The server process. Without its environment this is no test.
#[test]
fn server_process() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let folder = Path::new(&folder);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let server = Server::open(Options::new(folder.join("data"))).expect("opens");
        let listeners = Server::bind(&["127.0.0.1:0".to_owned()]).expect("a port");
        let url = format!("https://{}", listeners[0].local_addr().unwrap());
        let written = folder.join("kubeconfig");
        server.write_admin_kubeconfig(&written, &url, "test").expect("written");
        // Ends with the test, should that end first.
        let parent = std::os::unix::process::parent_id();
        let orphaned = async {
            while std::os::unix::process::parent_id() == parent {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        server.serve(listeners, orphaned).await.expect("serves");
    });
}

struct Process(Child);

impl Process {
    async fn start(folder: &Path) -> (Self, Client) {
        let kubeconfig = folder.join("kubeconfig");
        let _ = std::fs::remove_file(&kubeconfig);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["server_process", "--exact", "--nocapture"])
            .env(CHILD, folder)
            .stdout(Stdio::null())
            .spawn()
            .expect("starts");
        let process = Self(child);
        let began = Instant::now();
        loop {
            if let Ok(text) = std::fs::read_to_string(&kubeconfig) {
                return (process, client(&text, None).await);
            }
            assert!(began.elapsed() < Duration::from_secs(60), "the server process does not come up");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a writer knows of its object: `None` where it is not there.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// What was acknowledged.
    sure: Option<u64>,
    /// What was asked for after that, without an answer.
    perhaps: Option<Option<u64>>,
}

#[derive(Default)]
struct Ledger {
    objects: BTreeMap<String, Known>,
    version: u64,
    writes: u64,
}

/// xorshift: a seed gives the same run again, as far as the machine does.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

async fn write(client: Client, writer: u64, ledger: Arc<Mutex<Ledger>>, mut random: Random) {
    for step in 0.. {
        let name = format!("w{writer}-{}", random.below(4));
        let path = format!("{MAPS}/{name}");
        let known = ledger.lock().unwrap().objects.get(&name).copied().unwrap_or_default();
        let next = known.sure.unwrap_or(step * 1000) + 1;
        let wanted = (known.sure.is_none() || random.below(4) > 0).then_some(next);
        ledger.lock().unwrap().objects.insert(name.clone(), Known { perhaps: Some(wanted), ..known });
        let asked = async {
            match (known.sure, wanted) {
                (None, _) => {
                    let made = config_map(&name, json!({"n": next.to_string()}));
                    try_ask(&client, Method::POST, MAPS, "application/json", Some(made)).await
                }
                (Some(_), Some(_)) => {
                    let change = json!({"data": {"n": next.to_string()}});
                    try_ask(&client, Method::PATCH, &path, "application/merge-patch+json", Some(change)).await
                }
                (Some(_), None) => try_ask(&client, Method::DELETE, &path, "application/json", None).await,
            }
        };
        // A request to a process that was killed gets no answer.
        let Some((code, answer)) = asked.await else { return };
        assert!([200, 201].contains(&code), "{name} {known:?}: {answer}");
        let mut ledger = ledger.lock().unwrap();
        ledger.objects.insert(name, Known { sure: wanted, perhaps: None });
        ledger.writes += 1;
        if wanted.is_some() {
            ledger.version = ledger.version.max(version(&answer));
        }
    }
}

async fn check(client: &Client, ledger: &Mutex<Ledger>) {
    let (_, list) = get(client, MAPS).await;
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for item in list["items"].as_array().unwrap() {
        let name = item["metadata"]["name"].as_str().unwrap().to_owned();
        found.insert(name, item["data"]["n"].as_str().unwrap().parse().unwrap());
        assert!(version(item) <= version(&list));
    }
    let mut ledger = ledger.lock().unwrap();
    assert!(version(&list) >= ledger.version, "the version went back from {} to {}", ledger.version, version(&list));
    ledger.version = version(&list);
    for (name, known) in &mut ledger.objects {
        let is = found.remove(name);
        assert!(
            is == known.sure || known.perhaps == Some(is),
            "{name}: {is:?} is neither acknowledged nor asked for: {known:?}"
        );
        *known = Known { sure: is, perhaps: None };
    }
    assert!(found.is_empty(), "nobody asked for {found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("DAISY_CRASH_SEED").unwrap_or(now) | 1;
    let rounds = number("DAISY_CRASH_ROUNDS").unwrap_or(8);
    println!("DAISY_CRASH_SEED={seed}");
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    for round in 0..=rounds {
        let (process, client) = Process::start(folder.path()).await;
        check(&client, &ledger).await;
        if round == rounds {
            break;
        }
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| tokio::spawn(write(client.clone(), writer, ledger.clone(), Random(random.below(u64::MAX) | 1))))
            .collect();
        tokio::time::sleep(Duration::from_millis(20 + random.below(500))).await;
        drop(process);
        for writer in writers {
            writer.await.expect("a writer stops when its server is gone");
        }
    }
    let writes = ledger.lock().unwrap().writes;
    println!("{writes} acknowledged writes over {rounds} kills");
    assert!(writes > rounds, "something was written");
}
