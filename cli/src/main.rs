//! Daisy.
fn main() {}
