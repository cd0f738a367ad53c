//! Hosts in network namespaces of their own, joined by veth pairs: nothing of it is on the machine's own network, and all of it
//! goes with the threads that hold it.

#![allow(dead_code)]

pub(crate) mod api_server;
pub(crate) mod site;

use std::fs::File;
use std::future::Future;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use futures::TryStreamExt;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// Says whether the test of this name can run here. Without root it runs itself again in a user namespace, where it is root; where
/// that is refused it is skipped by name, but fails in CI.
pub(crate) fn enter(test: &str) -> bool {
    const INSIDE: &str = "DAISY_TEST_IN_USER_NAMESPACE";
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let unable = |why: &str| {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{test}: {why}");
        eprintln!("SKIPPED {test}: {why}");
        false
    };
    if std::env::var_os(INSIDE).is_some() {
        return unable("neither root nor a user namespace to be root in");
    }
    if File::options().read(true).write(true).open("/dev/net/tun").is_err() {
        return unable("not root, and /dev/net/tun is not for others here");
    }
    let (user, group) = (nix::unistd::getuid(), nix::unistd::getgid());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    let become_root = move || {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("0 {group} 1"))
    };
    #[expect(unsafe_code, reason = "between fork and exec; it calls the kernel, and allocates only what one thread may")]
    // SAFETY: the child has one thread; what runs before exec takes no lock that another thread could have held but the
    // allocator's, which the C library makes safe to use after fork.
    unsafe {
        command.pre_exec(become_root);
    }
    match command.status() {
        Ok(status) => {
            assert!(status.success(), "{test} failed inside its user namespace");
            false
        }
        Err(error) => unable(&format!("no user namespace: {error}")),
    }
}

type Job = Box<dyn FnOnce(&tokio::runtime::Runtime) + Send>;

/// A host: a network namespace, held by a thread that does what it is told.
pub(crate) struct Host {
    jobs: Option<Sender<Job>>,
    namespace: File,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// A host with nothing but its loopback device.
    pub(crate) fn new() -> Self {
        let (jobs, inbox) = channel::<Job>();
        let (told, namespace) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            told.send(File::open("/proc/thread-self/ns/net").expect("this thread's namespace")).expect("awaited");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            for job in inbox {
                job(&runtime);
            }
        });
        let host = Self { jobs: Some(jobs), namespace: namespace.recv().expect("a namespace"), thread: Some(thread) };
        host.netlink(|handle| async move {
            let lo = index_of(&handle, "lo").await;
            handle.link().set(LinkUnspec::new_with_index(lo).up().build()).execute().await.expect("loopback up");
        });
        host
    }

    /// Does something in the host's namespace, and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce(&tokio::runtime::Runtime) -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let job: Job = Box::new(move |runtime| drop(done.send(job(runtime))));
        self.jobs.as_ref().expect("running").send(job).expect("running");
        result.recv().expect("the job panicked")
    }

    /// Starts a thread in the host's namespace.
    pub(crate) fn spawn<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.run(move |_| std::thread::spawn(job))
    }

    /// Runs what is to be awaited in the host's namespace.
    pub(crate) fn block_on<T: Send + 'static, F: Future<Output = T>>(&self, future: impl FnOnce() -> F + Send + 'static) -> T {
        self.run(move |runtime| runtime.block_on(async { future().await }))
    }

    /// Talks netlink in the host's namespace.
    pub(crate) fn netlink<T: Send + 'static, F: Future<Output = T>>(
        &self,
        run: impl FnOnce(Handle) -> F + Send + 'static,
    ) -> T {
        self.block_on(move || async move {
            let (connection, handle, _) = rtnetlink::new_connection().expect("netlink");
            let task = tokio::spawn(connection);
            let value = run(handle).await;
            task.abort();
            value
        })
    }

    /// Joins two hosts by a veth pair with these names and MTU, both ends up.
    pub(crate) fn join(&self, name: &'static str, other: &Self, other_name: &'static str, mtu: u32) {
        let namespace = other.namespace.as_raw_fd();
        self.netlink(move |handle| async move {
            handle.link().add(LinkVeth::new(name, other_name).build()).execute().await.expect("a veth pair");
            let far = index_of(&handle, other_name).await;
            handle.link().set(LinkUnspec::new_with_index(far).setns_by_fd(namespace).build()).execute().await.expect("moved");
        });
        for (host, name) in [(self, name), (other, other_name)] {
            host.netlink(move |handle| async move {
                let index = index_of(&handle, name).await;
                handle.link().set(LinkUnspec::new_with_index(index).mtu(mtu).up().build()).execute().await.expect("up");
            });
        }
    }

    /// Gives a device an address, usable at once.
    pub(crate) fn add_address(&self, device: &'static str, address: &str) {
        let (address, prefix) = split(address);
        self.netlink(move |handle| async move {
            let index = index_of(&handle, device).await;
            let mut add = handle.address().add(index, address, prefix);
            if address.is_ipv6() {
                use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
                add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Permanent));
            }
            add.execute().await.expect("an address");
        });
    }

    /// Takes an address from a device.
    pub(crate) fn delete_address(&self, device: &'static str, address: &str) {
        let (address, _) = split(address);
        self.netlink(move |handle| async move {
            let index = index_of(&handle, device).await;
            let request = handle.address().get().set_link_index_filter(index).set_address_filter(address).execute();
            for message in request.try_collect::<Vec<_>>().await.expect("addresses") {
                handle.address().del(message).execute().await.expect("deleted");
            }
        });
    }

    /// Routes a network to a gateway, or to a device.
    pub(crate) fn add_route(&self, network: &str, gateway: Option<&str>, device: Option<&'static str>) {
        let (address, prefix) = split(network);
        let gateway: Option<IpAddr> = gateway.map(|text| text.parse().unwrap());
        self.netlink(move |handle| async move {
            let mut route = RouteMessageBuilder::<IpAddr>::new().destination_prefix(address, prefix).unwrap();
            if let Some(gateway) = gateway {
                route = route.gateway(gateway).unwrap();
            }
            if let Some(device) = device {
                route = route.output_interface(index_of(&handle, device).await);
            }
            handle.route().add(route.build()).replace().execute().await.expect("a route");
        });
    }

    /// Lets the host forward packets of both families.
    pub(crate) fn forward(&self) {
        self.run(|_| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("forwarding");
        });
    }

    /// The device of this name, if there is one.
    pub(crate) fn device(&self, name: &'static str) -> Option<LinkMessage> {
        self.netlink(
            move |handle| async move { handle.link().get().match_name(name).execute().try_next().await.ok().flatten() },
        )
    }

    /// Removes the device of this name.
    pub(crate) fn delete_device(&self, name: &'static str) {
        self.netlink(move |handle| async move {
            let index = index_of(&handle, name).await;
            handle.link().del(index).execute().await.expect("deleted");
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn index_of(handle: &Handle, name: &str) -> u32 {
    let link = handle.link().get().match_name(name).execute().try_next().await;
    link.ok().flatten().unwrap_or_else(|| panic!("device {name}")).header.index
}

fn split(network: &str) -> (IpAddr, u8) {
    let (address, prefix) = network.split_once('/').unwrap();
    (address.parse().unwrap(), prefix.parse().unwrap())
}
