//! Waits until it is killed: the process that holds a pod's namespaces. Compiled by itself, into an image of its own.

fn main() {
    loop {
        std::thread::park();
    }
}
