//! Network namespaces of the tests' own: a thread in each, closures to run there, and devices between them.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code, reason = "every test file uses its part of this")]

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread;

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{LinkAttribute, State};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, gone with this value.
pub struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
    /// The namespace itself, for devices to be moved into.
    pub file: File,
}

impl Namespace {
    /// A new namespace; `None` where this process may not make one. With `CI=true` in the environment, that is a failure.
    pub fn new(test: &str) -> Option<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::spawn(move || {
            let made = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .map(|()| File::open("/proc/thread-self/ns/net").expect("the namespace's file"));
            // Link-local addresses that are usable at once: before, a router asks for no neighbour.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
            let may = made.is_ok();
            ready.send(made).expect("the test waits");
            if may {
                queue.into_iter().for_each(|job| job());
            }
        });
        match is_ready.recv().expect("the thread answers") {
            Ok(file) => Some(Self { jobs: Some(jobs), thread: Some(thread), file }),
            Err(errno) => {
                assert!(std::env::var("CI").as_deref() != Ok("true"), "{test}: cannot make a network namespace: {errno}");
                eprintln!("skipped: {test}: cannot make a network namespace: {errno}");
                None
            }
        }
    }

    /// Runs this in the namespace.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        match self.start(job).recv() {
            Ok(value) => value,
            Err(_) => panic!("a job in the namespace panicked: see above"),
        }
    }

    /// Begins to run this in the namespace, after what was begun there before.
    pub fn start<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
        let (done, result) = mpsc::channel();
        let job: Job = Box::new(move || {
            let _ = done.send(job());
        });
        self.jobs.as_ref().expect("lives").send(job).expect("an earlier job panicked");
        result
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs this with a route netlink connection of the calling thread's namespace.
pub fn netlink<T, F: Future<Output = T>>(job: impl FnOnce(Handle) -> F) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        let connection = tokio::spawn(connection);
        let out = job(handle).await;
        connection.abort();
        out
    })
}

/// The index of the device of this name.
pub async fn index_of(handle: &Handle, name: &str) -> u32 {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    links.try_next().await.unwrap().unwrap().header.index
}

/// Brings a device up.
pub async fn set_up(handle: &Handle, name: &str) {
    let index = index_of(handle, name).await;
    handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.unwrap();
}

/// Waits until a device carries packets, for two seconds at most.
async fn wait_until_up(handle: &Handle, name: &str) {
    for _ in 0..400 {
        let link = handle.link().get().match_name(name.to_owned()).execute().try_next().await.unwrap().unwrap();
        if link.attributes.iter().any(|a| matches!(a, LinkAttribute::OperState(State::Up))) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Gives a device an address; IPv6 without duplicate address detection, to be usable at once.
pub async fn add_address(handle: &Handle, name: &str, network: IpNetwork) {
    let index = index_of(handle, name).await;
    let mut request = handle.address().add(index, network.ip(), network.prefix());
    let message = request.message_mut();
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes.retain(|a| !matches!(a, AddressAttribute::Broadcast(_)));
    request.execute().await.unwrap();
}

/// Routes a network through a gateway.
pub async fn add_route(handle: &Handle, network: IpNetwork, gateway: IpAddr) {
    let route = RouteMessageBuilder::<IpAddr>::new().destination_prefix(network.ip(), network.prefix()).unwrap();
    handle.route().add(route.gateway(gateway).unwrap().build()).execute().await.unwrap();
}

impl Namespace {
    /// Connects two namespaces: a device here, another one there, each with its addresses, both up.
    pub fn connect(&self, (here, ours): (&'static str, &[&str]), other: &Self, (there, theirs): (&'static str, &[&str])) {
        let file = other.file.as_raw_fd();
        self.run(move || {
            netlink(|handle| async move {
                // Both ends may have one name, once they are apart.
                handle.link().add(LinkVeth::new(here, "other-end").build()).execute().await.unwrap();
                let index = index_of(&handle, "other-end").await;
                let there = LinkUnspec::new_with_index(index).setns_by_fd(file).name(there).build();
                handle.link().set(there).execute().await.unwrap();
            });
        });
        for (namespace, device) in [(self, here), (other, there)] {
            namespace.run(move || netlink(|handle| async move { set_up(&handle, device).await }));
        }
        // Addresses of IPv6 are usable once the device knows that its other end is there.
        for (namespace, device) in [(self, here), (other, there)] {
            namespace.run(move || netlink(|handle| async move { wait_until_up(&handle, device).await }));
        }
        self.configure(here, ours);
        other.configure(there, theirs);
    }

    /// Brings a device up, and the loopback device too, and gives it addresses.
    pub fn configure(&self, device: &'static str, addresses: &[&str]) {
        let addresses: Vec<IpNetwork> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        self.run(move || {
            netlink(|handle| async move {
                set_up(&handle, "lo").await;
                set_up(&handle, device).await;
                for address in addresses {
                    add_address(&handle, device, address).await;
                }
            });
        });
    }

    /// Routes networks through gateways.
    pub fn route(&self, routes: &[(&str, &str)]) {
        let routes: Vec<(IpNetwork, IpAddr)> = routes.iter().map(|(n, g)| (n.parse().unwrap(), g.parse().unwrap())).collect();
        self.run(move || {
            netlink(|handle| async move {
                for (network, gateway) in routes {
                    add_route(&handle, network, gateway).await;
                }
            });
        });
    }

    /// Lets packets pass through.
    pub fn forward(&self) {
        self.run(|| {
            for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{file}"), "1").unwrap();
            }
        });
    }
}
