//! How the binary is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=RUSTC_LINKER");
    let target = std::env::var("TARGET").unwrap_or_default();
    // rustc links with its own lld here. Much of the code is the same function made for one kind of object after another: folded
    // into one, less of the binary is mapped into each role's memory. A linker of the user's own may not know the option.
    if target == "x86_64-unknown-linux-gnu" && std::env::var_os("RUSTC_LINKER").is_none() {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}
