//! Workers: threads that serve clients. Each has a runtime, listeners and connections to endpoints of its
//! own, so that no request waits for another thread.

use std::{cell::Cell, future::Future, io};

use tokio::runtime::Builder;

thread_local! {
    /// The number of the worker that this thread is; 0 on all other threads.
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// Runs a future on this thread as the worker with this number. Numbers begin at 1, see
/// [`Settings::workers`](crate::Settings::workers).
///
/// # Errors
///
/// If the kernel does not provide what a runtime needs, e.g. a file descriptor.
pub fn work<F: Future>(number: usize, work: F) -> io::Result<F::Output> {
    NUMBER.set(number);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
}

/// A value for each worker, and one for all other threads.
#[derive(Debug)]
pub(crate) struct PerWorker<T> {
    others: Padded<T>,
    workers: Box<[Padded<T>]>,
}

/// Fills cache lines, so that a worker that writes its value does not slow down the others.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Padded<T>(T);

impl<T: Default> PerWorker<T> {
    /// Values for this number of workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            others: Padded::default(),
            workers: (0..workers).map(|_| Padded::default()).collect(),
        }
    }

    /// The value of this thread.
    pub(crate) fn own(&self) -> &T {
        let worker = NUMBER.get().checked_sub(1);
        let own = worker.and_then(|worker| self.workers.get(worker));
        &own.unwrap_or(&self.others).0
    }

    /// The values of all threads.
    pub(crate) fn all(&self) -> impl Iterator<Item = &T> {
        let all = [&self.others].into_iter().chain(&self.workers);
        all.map(|Padded(value)| value)
    }
}

impl<T: Default> Default for PerWorker<T> {
    fn default() -> Self {
        Self::new(0)
    }
}
