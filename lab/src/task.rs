//! Tasks. They are boxed, since what tokio adds to a task is compiled once for each type of future.

use std::future::Future;

use futures::FutureExt;
use tokio::task::{JoinHandle, JoinSet};

/// Runs `future` beside its caller.
pub(crate) fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(future.boxed())
}

/// Runs `future` beside its caller, for as long as the set is there.
pub(crate) fn spawn_in(set: &mut JoinSet<()>, future: impl Future<Output = ()> + Send + 'static) {
    set.spawn(future.boxed());
}
