//! Threads that work in lock step: a phase starts and ends within microseconds.
//!
//! Workers spin for a while after a phase and park only when nothing comes, so the hundreds of
//! phases of a decoding step pay no system call. The calling thread is worker 0. Tasks are handed
//! out by a counter; which thread runs a task never shows in a result, because every task writes
//! its own part of the output and computes it alone.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::disjoint::Disjoint;

/// Rounds of spinning before a worker parks: about 50 microseconds.
const SPINS_BEFORE_PARKING: u32 = 2_000;

/// Rounds of spinning before the caller gives its core away while it waits for the others.
const SPINS_BEFORE_YIELDING: u32 = 2_000;

/// A phase's body: it gets the worker's index. The lifetime is erased; `ThreadPool::run` keeps the
/// original alive until every worker has left it.
type Job = &'static (dyn Fn(usize) + Sync);

struct Shared {
    /// Counts phases; a change tells workers that `job` is new.
    phase: AtomicUsize,
    /// Workers still inside the current phase.
    busy: AtomicUsize,
    /// Workers that are parked or about to park.
    parked: AtomicUsize,
    stop: AtomicBool,
    job: Mutex<Option<Job>>,
    wake: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Locks; a panic while holding one of these locks leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A fixed set of threads.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl ThreadPool {
    /// A pool of `threads` threads, the caller's included.
    ///
    /// # Errors
    /// The system refused a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            phase: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            job: Mutex::new(None),
            wake: Condvar::new(),
            panic: Mutex::new(None),
        });
        let mut pool = Self {
            shared,
            workers: Vec::new(),
        };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("micota-{index}"))
                .spawn(move || work(&shared, index))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `body` once on every thread, with the thread's index, and returns when all are done.
    ///
    /// # Panics
    /// With the first panic of a body, after all threads have left it.
    pub(crate) fn run(&mut self, body: impl Fn(usize) + Sync) {
        if self.workers.is_empty() {
            return body(0);
        }
        let shared = &*self.shared;
        let job: &(dyn Fn(usize) + Sync) = &body;
        // SAFETY: only the lifetime changes. Workers use the job between the phase's start and
        // their decrement of `busy`; this function does not return, nor unwind, before `busy` is
        // zero, so `body` outlives every use. `&mut self` keeps a second phase out.
        let job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
        *lock(&shared.job) = Some(job);
        shared.busy.store(self.workers.len(), SeqCst);
        shared.phase.fetch_add(1, SeqCst);
        if shared.parked.load(SeqCst) > 0 {
            // Taking the lock orders this after a worker's last look at the phase.
            drop(lock(&shared.job));
            shared.wake.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(|| body(0)));
        let mut spins = 0_u32;
        while shared.busy.load(SeqCst) > 0 {
            if spins < SPINS_BEFORE_YIELDING {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        *lock(&shared.job) = None;
        let panic = own.err().or_else(|| lock(&shared.panic).take());
        if let Some(panic) = panic {
            lock(&shared.panic).take();
            resume_unwind(panic);
        }
    }

    /// Runs `task` for every index below `tasks`, in any order, on any thread.
    pub(crate) fn for_each(&mut self, tasks: usize, task: impl Fn(usize) + Sync) {
        let mut states = vec![(); self.threads()];
        self.for_each_with(&mut states, tasks, |(), index| task(index));
    }

    /// The same, with a state of its own for each thread.
    ///
    /// # Panics
    /// There are fewer states than threads, or a task panics.
    pub(crate) fn for_each_with<T: Send>(
        &mut self,
        states: &mut [T],
        tasks: usize,
        task: impl Fn(&mut T, usize) + Sync,
    ) {
        assert!(states.len() >= self.threads(), "a state for each thread");
        if tasks <= 1 {
            // No reason to wake anyone.
            return (0..tasks).for_each(|index| task(&mut states[0], index));
        }
        let states = Disjoint::new(states);
        let next = AtomicUsize::new(0);
        self.run(|worker| {
            // SAFETY: each worker has its own index.
            let state = &mut unsafe { states.range(worker..worker + 1) }[0];
            loop {
                let index = next.fetch_add(1, SeqCst);
                if index >= tasks {
                    break;
                }
                task(state, index);
            }
        });
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.phase.fetch_add(1, SeqCst);
        drop(lock(&self.shared.job));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches its panics, so there is nothing to hear from it.
            let _ = worker.join();
        }
    }
}

fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        await_phase(shared, seen);
        seen = seen.wrapping_add(1);
        if shared.stop.load(SeqCst) {
            return;
        }
        let job = lock(&shared.job).expect("a job is set before its phase starts");
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(index))) {
            lock(&shared.panic).get_or_insert(panic);
        }
        shared.busy.fetch_sub(1, SeqCst);
    }
}

/// Returns when the phase is past `seen`.
fn await_phase(shared: &Shared, seen: usize) {
    for _ in 0..SPINS_BEFORE_PARKING {
        if shared.phase.load(SeqCst) != seen {
            return;
        }
        std::hint::spin_loop();
    }
    let mut guard = lock(&shared.job);
    shared.parked.fetch_add(1, SeqCst);
    while shared.phase.load(SeqCst) == seen {
        guard = shared
            .wake
            .wait(guard)
            .unwrap_or_else(PoisonError::into_inner);
    }
    shared.parked.fetch_sub(1, SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_on_any_number_of_threads() {
        for threads in 1..=3 {
            let mut pool = ThreadPool::new(threads).unwrap();
            for tasks in [0, 1, 2, 7, 100] {
                let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.for_each(tasks, |index| {
                    counts[index].fetch_add(1, SeqCst);
                });
                assert!(counts.iter().all(|count| count.load(SeqCst) == 1));
            }
        }
    }

    #[test]
    fn phases_follow_each_other_also_after_the_workers_have_parked() {
        let mut pool = ThreadPool::new(2).unwrap();
        let total = AtomicUsize::new(0);
        for round in 0..50 {
            if round % 10 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            pool.run(|_| {
                total.fetch_add(1, SeqCst);
            });
        }
        assert_eq!(total.load(SeqCst), 100);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = ThreadPool::new(2).unwrap();
        for guilty in 0..2 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(|worker| assert!(worker != guilty, "as arranged"));
            }));
            assert!(caught.is_err());
        }
        let total = AtomicUsize::new(0);
        pool.run(|_| {
            total.fetch_add(1, SeqCst);
        });
        assert_eq!(total.load(SeqCst), 2);
    }
}
