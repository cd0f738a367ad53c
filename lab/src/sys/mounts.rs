//! Mounts of the lab's private mount namespace.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

const NONE: Option<&str> = None;

fn context(what: &'static str, path: &Path) -> impl FnOnce(nix::Error) -> io::Error {
    let path = path.to_owned();
    move |e| {
        let e = io::Error::from(e);
        io::Error::new(e.kind(), format!("{what} {}: {e}", path.display()))
    }
}

/// Nothing that is mounted from here on reaches the mount namespace that this one was copied from.
pub(crate) fn make_private() -> io::Result<()> {
    let root = Path::new("/");
    mount(NONE, root, NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(context("making private", root))
}

/// A `/proc` of the PID namespace that the caller is in.
pub(crate) fn mount_proc() -> io::Result<()> {
    let path = Path::new("/proc");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), path, Some("proc"), flags, NONE).map_err(context("mounting proc on", path))
}

/// An empty file system in memory, `mode` in octal as mount options have it.
pub(crate) fn tmpfs(path: &Path, mode: &str) -> io::Result<()> {
    let options = format!("mode={mode}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str())).map_err(context("mounting a tmpfs on", path))
}

/// Shows `from` at `to` too. Links are followed on both sides.
pub(crate) fn bind(from: &Path, to: &Path) -> io::Result<()> {
    mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE).map_err(context("binding to", to))
}

/// Shows the file `from` instead of `to`. Where `to` is a link whose end is missing (a resolver's file in the `/run` that the lab
/// masks), the end is made; where there is no `to` at all, nothing is done: the system does not use that file.
pub(crate) fn cover(from: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(to).is_err() {
        return Ok(());
    }
    if fs::metadata(to).is_err() {
        let end = to.parent().unwrap_or(to).join(fs::read_link(to)?);
        let folder = end.parent().unwrap_or(&end);
        fs::create_dir_all(folder).and_then(|()| fs::write(&end, b"")).map_err(|e| {
            let text = format!("{} is a link to {}, which cannot be made: {e}", to.display(), end.display());
            io::Error::new(e.kind(), text)
        })?;
    }
    bind(from, to)
}

/// A handle on a file or directory that mounts made later do not hide; it is at `/proc/self/fd/N`.
pub(crate) fn open_path(path: &Path) -> io::Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(context("opening", path))
}

/// Makes everything that is mounted now read-only. Devices stay writable: that is not the mount's to say.
pub(crate) fn make_read_only() -> io::Result<()> {
    set_attributes(Path::new("/"), libc::AT_RECURSIVE, MOUNT_ATTR_RDONLY, 0)
}

/// Makes the one mount at `path` writable again.
pub(crate) fn make_writable(path: &Path) -> io::Result<()> {
    set_attributes(path, 0, 0, MOUNT_ATTR_RDONLY)
}

/// From `linux/mount.h`.
const MOUNT_ATTR_RDONLY: u64 = 1;

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

#[expect(unsafe_code, reason = "mount_setattr(2) has no wrapper")]
fn set_attributes(path: &Path, flags: i32, set: u64, clear: u64) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let attributes = MountAttributes { set, clear, propagation: 0, userns_fd: 0 };
    // SAFETY: both pointers are to live values, and the size is that of the structure passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            name.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if done == 0 {
        return Ok(());
    }
    let e = io::Error::last_os_error();
    Err(io::Error::new(e.kind(), format!("changing the mount at {}: {e} (Linux 5.12 or newer is needed)", path.display())))
}

/// The path by which this process reaches what an [`OwnedFd`] is open on.
pub(crate) fn fd_path(fd: &OwnedFd) -> std::path::PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}
