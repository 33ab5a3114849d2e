//! Memory that nobody uses and that the allocator keeps, given back to the system.
//!
//! mimalloc has pages for each thread. What other threads free in them comes back only when the thread that they are
//! of looks after them, which it does when it has asked for memory often enough (after 10,000 refills of a list,
//! `generic_collect` in the options of mimalloc 3). A thread that sleeps never does, and so a server whose eight threads
//! had moved 1,000 flows kept nearly all of their memory (`docs/PERFORMANCE.md`).

#![expect(
    unsafe_code,
    reason = "mimalloc's function has no arguments that could be wrong, but is C"
)]

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::time::MissedTickBehavior;

/// How often memory is given back while there is work.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

/// The work of one thread that may leave memory worth looking for. A thread that wakes up for a timer takes some 50 µs.
const WORK: Duration = Duration::from_millis(10);

/// How long a thread waits for the others, which are to come at the same time. Sleeping ones take some 50 µs each.
const PATIENCE: Duration = Duration::from_millis(2);

/// Whether a thread has done [`WORK`] since memory was given back.
static WORKED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Since when this thread is awake, and how long it was before, both since [`WORKED`] was set by it.
    static AWAKE: Cell<(Option<Instant>, Duration)> = const { Cell::new((None, Duration::ZERO)) };
}

/// Has a runtime's threads tell whether they work, for [`give_back`].
pub(crate) fn watch(runtime: &mut Builder) {
    runtime.on_thread_start(wakes).on_thread_unpark(wakes).on_thread_park(goes_to_sleep);
}

fn wakes() {
    let (_, before) = AWAKE.get();
    AWAKE.set((Some(Instant::now()), before));
}

fn goes_to_sleep() {
    let (since, before) = AWAKE.get();
    let mut worked = before + since.map_or(Duration::ZERO, |since| since.elapsed());
    if worked >= WORK {
        worked = Duration::ZERO;
        WORKED.store(true, Ordering::Relaxed);
    }
    AWAKE.set((None, worked));
}

/// Gives back what is free, each [`INTERVAL`] in which there was work. For the thread that the runtime is entered by.
pub(crate) async fn give_back(interval: Duration) -> Infallible {
    let mut interval = tokio::time::interval(interval);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if WORKED.swap(false, Ordering::Relaxed) && !give_back_everywhere().await {
            WORKED.store(true, Ordering::Relaxed);
        }
    }
}

/// Has all threads of this runtime look after their pages. Returns whether all did.
async fn give_back_everywhere() -> bool {
    let threads = Handle::current().metrics().num_workers();
    let meeting = Arc::new((Mutex::new(0), Condvar::new()));
    let tasks: Vec<_> = (0..threads)
        .map(|_| {
            let meeting = Arc::clone(&meeting);
            tokio::spawn(async move {
                collect();
                meet(&meeting, threads)
            })
        })
        .collect();
    let mut all = true;
    for task in tasks {
        all &= task.await.unwrap_or(false);
    }
    // This thread's own, and what another one found while the system was being given the rest.
    collect();
    all
}

/// Holds this thread until as many have come as there are, so that no thread does what another one is to do. Not for
/// longer than [`PATIENCE`]: one that is at work looks after its pages the next time. Returns whether all have come.
fn meet((come, changed): &(Mutex<usize>, Condvar), threads: usize) -> bool {
    let mut number = come.lock().unwrap_or_else(PoisonError::into_inner);
    *number += 1;
    changed.notify_all();
    let (number, _) = changed
        .wait_timeout_while(number, PATIENCE, |number| *number < threads)
        .unwrap_or_else(PoisonError::into_inner);
    *number >= threads
}

/// Has the allocator look for free pages of this thread, and give the system all that no thread has a use for.
fn collect() {
    // SAFETY: it may be called by any thread at any time (mimalloc's documentation, "mi_collect").
    unsafe { libmimalloc_sys::mi_collect(true) }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

    const THREADS: usize = 4;
    const PIECES: usize = 16 * 1024;

    type Pieces = Vec<Box<[u8; 1024]>>;
    type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

    /// Bytes of memory that are this process's own.
    fn own_memory() -> TestResult<u64> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.unwrap_or_default().parse::<u64>()? * 1024)
    }

    fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
        let mut builder = Builder::new_multi_thread();
        watch(&mut builder);
        builder.worker_threads(THREADS).enable_all().build()
    }

    /// Something from each of the threads, which are all at work at the same time.
    async fn from_each<T: Send + 'static>(make: fn() -> T) -> TestResult<Vec<T>> {
        let start = Arc::new(std::sync::Barrier::new(THREADS));
        let tasks: Vec<_> = (0..THREADS)
            .map(|_| {
                let start = Arc::clone(&start);
                tokio::spawn(async move {
                    start.wait();
                    make()
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.push(task.await?);
        }
        Ok(all)
    }

    /// Memory of this thread's. It frees every second piece itself, and so keeps the pages of the others.
    fn pieces() -> Pieces {
        let begun = Instant::now();
        let all: Pieces = (0..2 * PIECES).map(|piece| Box::new([piece as u8; 1024])).collect();
        let kept = all.into_iter().step_by(2).collect();
        while begun.elapsed() < WORK {
            std::thread::yield_now();
        }
        kept
    }

    #[test]
    fn what_another_thread_frees_comes_back_from_threads_that_sleep() -> TestResult {
        runtime()?.block_on(async {
            let taken: Vec<Pieces> = from_each(pieces).await?;
            let size = (taken.len() * PIECES * 1024) as u64;
            let full = own_memory()?;
            drop(taken);
            let watching = async {
                while own_memory()? + size * 3 / 4 > full {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok(())
            };
            let given_back = async {
                tokio::select! {
                    never = give_back(Duration::from_millis(20)) => match never {},
                    seen = watching => seen,
                }
            };
            tokio::time::timeout(Duration::from_secs(30), given_back).await?
        })
    }

    #[test]
    fn one_of_two_is_not_all() {
        let meeting = (Mutex::new(0), Condvar::new());
        assert!(!meet(&meeting, 2));
        assert!(meet(&meeting, 2));
    }
}
