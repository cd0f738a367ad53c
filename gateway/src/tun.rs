//! The TUN device's file descriptor.
//!
//! The device is persistent: it, its address and the routes to it outlive the process, and the next start adopts it. What arrives
//! meanwhile is dropped at the device, not sent elsewhere.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::GatewayError;

const DEVICE_FILE: &str = "/dev/net/tun";

mod ioctl {
    nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_write_int_bad!(set_persistent, libc::TUNSETPERSIST);
}

/// An open TUN device. Packets are read and written one at a time, without a header before them.
#[derive(Debug)]
pub(crate) struct Tun {
    descriptor: OwnedFd,
    name: String,
}

impl Tun {
    /// Opens the device of this name, makes it if it is not there, and makes it persistent.
    pub(crate) fn open(name: &str) -> Result<Self, GatewayError> {
        Self::open_by(Path::new(DEVICE_FILE), name)
    }

    fn open_by(file: &Path, name: &str) -> Result<Self, GatewayError> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(file);
        let file = file.map_err(|cause| match cause.raw_os_error() {
            // Without the module behind it, the file may be there all the same.
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => GatewayError::NoTunDevice,
            Some(libc::EACCES | libc::EPERM) => GatewayError::NoRights { what: format!("open {DEVICE_FILE}"), cause },
            _ => GatewayError::Device { name: name.to_owned(), what: "opening /dev/net/tun", cause: cause.to_string() },
        })?;
        let tun = Self { descriptor: file.into(), name: name.to_owned() };
        tun.attach()?;
        tun.set_persistent(true)?;
        Ok(tun)
    }

    #[expect(unsafe_code, reason = "an ioctl on a descriptor and a structure that live through the call")]
    fn attach(&self) -> Result<(), GatewayError> {
        // SAFETY: ifreq is a plain C structure, for which all zeros are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last byte stays zero: the name ends there.
        for (slot, byte) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(self.name.bytes()) {
            *slot = byte.cast_signed();
        }
        request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap_or(0);
        // SAFETY: the descriptor is open, and the kernel reads and writes no more than an ifreq.
        let done = unsafe { ioctl::set_interface(self.descriptor.as_raw_fd(), &raw const request) };
        done.map(drop).map_err(|errno| match errno as i32 {
            libc::EPERM | libc::EACCES => {
                GatewayError::NoRights { what: format!("make the TUN device {}", self.name), cause: errno.into() }
            }
            libc::EBUSY => GatewayError::DeviceBusy { name: self.name.clone() },
            libc::EINVAL => GatewayError::NameTaken { name: self.name.clone() },
            _ => GatewayError::Device { name: self.name.clone(), what: "attaching", cause: errno.to_string() },
        })
    }

    /// Whether the device outlives its descriptor.
    #[expect(unsafe_code, reason = "an ioctl on a descriptor that lives through the call")]
    pub(crate) fn set_persistent(&self, persistent: bool) -> Result<(), GatewayError> {
        // SAFETY: the descriptor is open, and the argument is a number.
        let done = unsafe { ioctl::set_persistent(self.descriptor.as_raw_fd(), i32::from(persistent)) };
        let failed = |errno: nix::Error| GatewayError::Device {
            name: self.name.clone(),
            what: "making it persistent",
            cause: errno.to_string(),
        };
        done.map(drop).map_err(failed)
    }

    /// Reads the next packet. `WouldBlock` where there is none.
    pub(crate) fn read(&self, packet: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(&self.descriptor, packet)?)
    }

    /// Writes a packet.
    pub(crate) fn write(&self, packet: &[u8]) -> io::Result<()> {
        Ok(nix::unistd::write(&self.descriptor, packet).map(drop)?)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn without_the_device_file_it_says_what_to_do() {
        let error = Tun::open_by(Path::new("/nowhere/net/tun"), "daisy-test").expect_err("it is not there");
        assert!(matches!(error, GatewayError::NoTunDevice), "{error}");
        let text = error.to_string();
        assert!(text.contains("/dev/net/tun is not there") && text.contains("modprobe tun"), "{text}");
    }

    #[test]
    fn what_is_no_tun_device_is_not_taken_for_one() {
        let error = Tun::open_by(Path::new("/dev/null"), "daisy-test").expect_err("it is another device");
        assert!(error.to_string().starts_with("device daisy-test: attaching failed"), "{error}");
    }

    /// In a user namespace of its own a process has no rights on the network namespace that it came from.
    #[test]
    #[expect(unsafe_code, reason = "one system call between fork and exec")]
    fn without_rights_it_says_which() {
        const INSIDE: &str = "DAISY_TEST_WITHOUT_RIGHTS";
        const NAME: &str = "tun::tests::without_rights_it_says_which";
        if std::env::var_os(INSIDE).is_some() {
            let error = Tun::open("daisy-test").expect_err("it has no rights");
            assert!(matches!(error, GatewayError::NoRights { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("no rights to") && text.contains("CAP_NET_ADMIN"), "{text}");
            return;
        }
        if !Path::new(DEVICE_FILE).exists() {
            eprintln!("SKIPPED {NAME}: there is no {DEVICE_FILE} here");
            return;
        }
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", NAME, "--test-threads=1"]).env(INSIDE, "1");
        let leave_rights = || Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?);
        // SAFETY: the child has one thread, and calls the kernel only.
        unsafe { command.pre_exec(leave_rights) };
        match command.output() {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(
                    output.status.success() && said.contains("1 passed"),
                    "{said}{}",
                    String::from_utf8_lossy(&output.stderr)
                );
            }
            // Where user namespaces are switched off, this cannot be tried.
            Err(error) => eprintln!("SKIPPED {NAME}: {error}"),
        }
    }
}
