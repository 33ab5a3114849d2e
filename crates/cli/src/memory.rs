//! Memory that nobody uses and that the allocator keeps, given back to the system.
//!
//! mimalloc has pages for each thread. What other threads free in a page that a thread still holds comes back only when
//! that thread looks after its pages, which it does when it has asked for memory often enough (after 10,000 refills of a
//! list, `generic_collect` in the options of mimalloc 3), and not while it sleeps (`docs/PERFORMANCE.md`).

#![expect(
    unsafe_code,
    reason = "mimalloc's function has no arguments that could be wrong, but is C"
)]

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::time::MissedTickBehavior;

/// How often memory is given back while there is work.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

/// How often it is given back after work, the last time included: some is freed later, by timers.
const ROUNDS: u32 = 3;

/// The work of all threads in an [`INTERVAL`], in µs, that may leave memory worth looking for. To wake up for a timer takes
/// a thread some 50 µs.
const WORK: u64 = 10_000;

/// How long the threads that have come wait for the others, in µs: for all together, and for each.
const PATIENCE: (u64, u64) = (2_000, 100);

/// The work of all threads since the last [`INTERVAL`] ended, in µs.
static WORKED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Since when this thread is awake, as far as that is no part of [`WORKED`].
    static AWAKE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Has a runtime's threads tell how much they work, for [`give_back`].
pub(crate) fn watch(runtime: &mut Builder) {
    runtime.on_thread_start(wakes).on_thread_unpark(wakes).on_thread_park(goes_to_sleep);
}

fn wakes() {
    AWAKE.set(Some(Instant::now()));
}

fn goes_to_sleep() {
    if let Some(since) = AWAKE.take() {
        let worked = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        WORKED.fetch_add(worked, Ordering::Relaxed);
    }
}

/// Gives back what is free, each [`INTERVAL`] in which there was work, and some times after it. To be polled by the thread
/// that enters the runtime, so that its memory is looked after too.
pub(crate) async fn give_back(interval: Duration) -> Infallible {
    let mut interval = tokio::time::interval(interval);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rounds: u32 = 0;
    loop {
        interval.tick().await;
        if WORKED.swap(0, Ordering::Relaxed) >= WORK {
            rounds = ROUNDS;
        }
        if let Some(left) = rounds.checked_sub(1) {
            rounds = left;
            give_back_everywhere().await;
        }
    }
}

/// Has all worker threads of this runtime, and this thread, look after their pages.
async fn give_back_everywhere() {
    let threads = Handle::current().metrics().num_workers();
    let meeting = Arc::new(Meeting::default());
    let tasks: Vec<_> = (0..threads)
        .map(|_| {
            let meeting = Arc::clone(&meeting);
            tokio::spawn(async move {
                collect();
                meeting.attend(threads);
                // What this took is no work that leaves anything.
                wakes();
            })
        })
        .collect();
    for task in tasks {
        let _ = task.await;
    }
    // mimalloc has one thread at a time give pages to the system, and others skip it then.
    collect();
}

/// Where each thread waits for the others, so that each task is run by another thread.
#[derive(Default)]
struct Meeting {
    come: Mutex<(usize, Option<Instant>)>,
    changed: Condvar,
}

impl Meeting {
    /// Holds this thread until as many have come as there are, or until [`PATIENCE`] is over since the first one came: a
    /// thread that is at work looks after its pages another time. Returns whether all have come.
    fn attend(&self, threads: usize) -> bool {
        let mut come = self.come.lock().unwrap_or_else(PoisonError::into_inner);
        come.0 += 1;
        let now = Instant::now();
        let each = PATIENCE.1.saturating_mul(threads as u64);
        let end = *come.1.get_or_insert(now + Duration::from_micros(PATIENCE.0 + each));
        self.changed.notify_all();
        let (come, _) = self
            .changed
            .wait_timeout_while(come, end.saturating_duration_since(now), |come| come.0 < threads)
            .unwrap_or_else(PoisonError::into_inner);
        come.0 >= threads
    }
}

/// Has the allocator look for free pages of this thread, and give the system all that no thread has a use for.
fn collect() {
    // SAFETY: it touches pages of the calling thread alone, and what threads share with atomics (mimalloc 3.3,
    // `mi_theap_collect_ex`).
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
        let all: Pieces = (0..2 * PIECES).map(|piece| Box::new([piece as u8; 1024])).collect();
        all.into_iter().step_by(2).collect()
    }

    #[test]
    fn what_another_thread_frees_comes_back_from_threads_that_sleep() -> TestResult {
        runtime()?.block_on(async {
            let before = own_memory()?;
            let taken: Vec<Pieces> = from_each(pieces).await?;
            let full = own_memory()?;
            drop(taken);
            let watching = async {
                while own_memory()?.saturating_sub(before) * 8 > full - before {
                    WORKED.store(WORK, Ordering::Relaxed);
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
        let meeting = Meeting::default();
        assert!(!meeting.attend(2));
        assert!(meeting.attend(2));
    }
}
