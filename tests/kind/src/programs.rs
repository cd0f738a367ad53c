//! The programs of this machine that clusters of kind need, and the Debian packages that have them.

use anyhow::Result;
use daisy_kubernetes_tests::programs;

/// A program, and the Debian package that it is in.
const NEEDED: &[(&str, &str)] = &[
    ("dockerd", "docker.io"),
    ("runc", "runc"),
    ("mmdebstrap", "mmdebstrap"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("xtables-nft-multi", "iptables"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("tar", "tar"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("getent", "libc-bin"),
    ("busybox", "busybox-static"),
    ("ldd", "libc-bin"),
    ("strip", "binutils"),
    ("rustc", "a Rust toolchain"),
];

/// Says all that is missing at once, with the line that installs it.
///
/// # Errors
/// When something is missing.
pub fn check() -> Result<()> {
    programs::complain(&programs::absent(NEEDED))
}
