//! A pool of persistent threads that runs the tasks of one kernel at a time.
//!
//! The calling thread works too; tasks are handed out by an atomic counter; `run` returns when all
//! are done. A worker *enters* a job through the state word while the job is open, and `run` waits
//! only for those that entered, so a worker that wakes late costs nothing. Idle workers spin for a
//! few microseconds (the next kernel usually follows at once), then sleep. Nothing is allocated per
//! job.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::hint::spin_loop;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::simd::Isa;

/// Rounds of `spin_loop` before an idle worker sleeps: about ten microseconds.
const IDLE_SPINS: u32 = 1_000;
/// Rounds of `spin_loop` before the caller sleeps while workers finish their last tasks.
const FINISH_SPINS: u32 = 4_000;

/// Set in the state word while workers may enter the job.
const OPEN: u64 = 1 << 63;
/// One step of the job number, which fills the bits between `OPEN` and the count of entered
/// workers.
const JOB: u64 = 1 << 16;
/// The bits that count the workers inside the job.
const INSIDE: u64 = JOB - 1;

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// The current job. Written by the caller only while no worker is inside.
struct Job {
    task: *const Task<'static>,
    num_tasks: usize,
}

struct Shared {
    /// `OPEN`, job number and number of workers inside, in one word so that entering is one
    /// exchange.
    state: AtomicU64,
    next_task: AtomicUsize,
    job: UnsafeCell<Job>,
    num_sleeping: AtomicUsize,
    is_stopping: AtomicBool,
    /// The first panic of a task in the current job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    gate: Mutex<()>,
    work: Condvar,
    finished: Condvar,
}

// SAFETY: `job` is written only by the caller of `run` while the state word is closed with nobody
// inside, and read only by workers that entered through that word, whose orderings publish the
// write. The task pointer is `Sync` by its type and outlives the job, since `run` waits for all who
// entered.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Locks, also after a panic: the guarded data has no invariant that a panic could break.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Runs tasks until none is left, keeping the first panic.
    fn work(&self, task: &Task<'_>, num_tasks: usize) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next_task.fetch_add(1, Ordering::Relaxed);
                if index >= num_tasks {
                    break;
                }
                task(index);
            }
        }));
        if let Err(payload) = result {
            self.next_task.store(num_tasks, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(payload);
        }
    }

    /// Enters the open job of `state`, works, leaves. Does nothing if the job has closed meanwhile.
    fn enter(&self, state: u64) -> bool {
        let entered = self.state.compare_exchange_weak(
            state,
            state + 1,
            Ordering::Acquire,
            Ordering::Relaxed,
        );
        if entered.is_err() {
            return false;
        }
        // SAFETY: entered, so the caller neither rewrites the job nor returns before `leave` below.
        let (task, num_tasks) = unsafe {
            let job = &*self.job.get();
            (&*job.task, job.num_tasks)
        };
        self.work(task, num_tasks);
        let left = self.state.fetch_sub(1, Ordering::AcqRel) - 1;
        if left & (OPEN | INSIDE) == 0 {
            drop(lock(&self.gate));
            self.finished.notify_one();
        }
        true
    }

    /// A worker's life: wait for an open job that is not the last one, take part, repeat.
    fn serve(&self) {
        let mut last_job = 0;
        let has_work = |last_job: u64| {
            let state = self.state.load(Ordering::SeqCst);
            (state & OPEN != 0 && state & !INSIDE != last_job).then_some(state)
        };
        loop {
            let state = (0..IDLE_SPINS).find_map(|_| {
                spin_loop();
                has_work(last_job)
            });
            if let Some(state) = state {
                if self.enter(state) {
                    last_job = state & !INSIDE;
                }
                continue;
            }
            let mut gate = lock(&self.gate);
            self.num_sleeping.fetch_add(1, Ordering::SeqCst);
            while has_work(last_job).is_none() && !self.is_stopping.load(Ordering::SeqCst) {
                gate = self.work.wait(gate).unwrap_or_else(PoisonError::into_inner);
            }
            self.num_sleeping.fetch_sub(1, Ordering::SeqCst);
            drop(gate);
            if self.is_stopping.load(Ordering::SeqCst) {
                return;
            }
        }
    }

    /// Publishes a job and wakes as many sleepers as it has use for.
    fn open(&self, task: *const Task<'static>, num_tasks: usize) {
        // SAFETY: the state word is closed and nobody is inside: `run` left it so.
        unsafe { *self.job.get() = Job { task, num_tasks } };
        self.next_task.store(0, Ordering::Relaxed);
        let number = self.state.load(Ordering::Relaxed).wrapping_add(JOB) & !(OPEN | INSIDE);
        self.state.store(OPEN | number, Ordering::SeqCst);
        let num_sleeping = self.num_sleeping.load(Ordering::SeqCst);
        if num_sleeping > 0 {
            drop(lock(&self.gate));
            for _ in 0..num_sleeping.min(num_tasks - 1) {
                self.work.notify_one();
            }
        }
    }

    /// Closes the job and waits until everyone who entered has left.
    fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::SeqCst);
        let is_done = || self.state.load(Ordering::Acquire) & INSIDE == 0;
        for _ in 0..FINISH_SPINS {
            if is_done() {
                return;
            }
            spin_loop();
        }
        let mut gate = lock(&self.gate);
        while !is_done() {
            gate = self.finished.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The threads that run kernels, and the instruction set they run with.
///
/// Belongs to one engine thread: it can be sent but not shared, so one job runs at a time and a
/// task cannot start another. Results of kernels do not depend on the number of threads.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// let pool = folio_kernels::cpu::Pool::new(2);
/// let sum = AtomicUsize::new(0);
/// pool.run(10, &|index| {
///     sum.fetch_add(index, Ordering::Relaxed);
/// });
/// assert_eq!(sum.into_inner(), 45);
/// ```
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    isa: Isa,
    /// Makes the pool `!Sync`.
    not_shared: PhantomData<Cell<()>>,
}

impl Pool {
    /// A pool of `num_threads` threads, the caller's included, with the fastest instruction set
    /// here.
    ///
    /// Zero counts as one. If the system refuses a thread, the pool has fewer: see
    /// [`Pool::num_threads`].
    pub fn new(num_threads: usize) -> Self {
        Self::with_isa(num_threads, Isa::detect())
    }

    /// As [`Pool::new`] with a chosen instruction set, which must be available on this machine.
    pub fn with_isa(num_threads: usize, isa: Isa) -> Self {
        assert!(isa.is_available(), "instruction set {isa:?} is not available on this machine");
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            next_task: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { task: &|_| (), num_tasks: 0 }),
            num_sleeping: AtomicUsize::new(0),
            is_stopping: AtomicBool::new(false),
            panic: Mutex::new(None),
            gate: Mutex::new(()),
            work: Condvar::new(),
            finished: Condvar::new(),
        });
        let num_workers = num_threads.clamp(1, INSIDE as usize) - 1;
        let spawn = |index| {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("folio-cpu-{index}"));
            builder.spawn(move || shared.serve()).ok()
        };
        let workers = (0..num_workers).map_while(spawn).collect();
        Self { shared, workers, isa, not_shared: PhantomData }
    }

    /// Number of threads that take part in a job, the caller's included.
    pub fn num_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The instruction set that kernels on this pool use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Calls `task(0)`, …, `task(num_tasks - 1)` once each, on any thread in any order, and returns
    /// when all have returned.
    ///
    /// If a task panics, tasks not yet begun may be left out and the first panic goes on in the
    /// caller, after every running task has ended; the pool stays usable.
    pub fn run(&self, num_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() || num_tasks <= 1 {
            (0..num_tasks).for_each(task);
            return;
        }
        // SAFETY: only the lifetime changes; `close` below waits for every thread that could use
        // it.
        let erased = unsafe { std::mem::transmute::<&Task<'_>, &Task<'static>>(task) };
        self.shared.open(erased, num_tasks);
        self.shared.work(task, num_tasks);
        self.shared.close();
        let payload = lock(&self.shared.panic).take();
        if let Some(payload) = payload {
            resume_unwind(payload);
        }
    }

    /// Runs `task(first, last)` over ranges that together cover `0..num_items`.
    ///
    /// `item_cost` is a rough count of scalar operations per item; small work stays on the caller.
    pub(crate) fn run_ranges(
        &self,
        num_items: usize,
        item_cost: usize,
        task: &(dyn Fn(usize, usize) + Sync),
    ) {
        /// Operations worth handing to another thread: a few microseconds.
        const MIN_TASK_COST: usize = 1 << 15;
        /// Tasks per thread: enough that a thread which loses its core does not hold up the rest.
        const TASKS_PER_THREAD: usize = 4;
        let affordable = num_items.saturating_mul(item_cost) / MIN_TASK_COST;
        let num_tasks = (self.num_threads() * TASKS_PER_THREAD).min(affordable).min(num_items);
        let num_tasks = num_tasks.max(1);
        self.run(num_tasks, &|index| {
            let (first, last) =
                (index * num_items / num_tasks, (index + 1) * num_items / num_tasks);
            task(first, last);
        });
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("num_threads", &self.num_threads())
            .field("isa", &self.isa)
            .finish_non_exhaustive()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.gate));
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // A worker's own code does not panic, and a drop has nobody to tell.
            drop(worker.join());
        }
    }
}
