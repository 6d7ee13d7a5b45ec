//! The pool runs every task once, survives panics and outlives many jobs.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use folio_kernels::cpu::Pool;

#[test]
fn every_task_runs_exactly_once() {
    for num_threads in [1, 2, 3, 7] {
        let pool = Pool::new(num_threads);
        assert_eq!(pool.num_threads(), num_threads);
        for num_tasks in [0, 1, 2, 5, 64, 1000] {
            let counts: Vec<AtomicU32> = (0..num_tasks).map(|_| AtomicU32::new(0)).collect();
            pool.run(num_tasks, &|index| {
                counts[index].fetch_add(1, Ordering::Relaxed);
            });
            assert!(
                counts.iter().all(|count| count.load(Ordering::Relaxed) == 1),
                "{num_threads} threads, {num_tasks} tasks: {counts:?}"
            );
        }
    }
}

#[test]
fn writes_of_a_job_are_seen_by_the_next() {
    let pool = Pool::new(4);
    let cells: Vec<AtomicUsize> = (0..16).map(|_| AtomicUsize::new(0)).collect();
    for round in 0..20_000 {
        pool.run(cells.len(), &|index| {
            let old = cells[(index + round) % 16].load(Ordering::Relaxed);
            assert_eq!(old, round);
            cells[(index + round) % 16].store(round + 1, Ordering::Relaxed);
        });
    }
}

#[test]
fn zero_threads_count_as_one() {
    assert_eq!(Pool::new(0).num_threads(), 1);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
    for num_threads in [1, 2, 4] {
        let pool = Pool::new(num_threads);
        for bad in [0, 7, 31] {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.run(32, &|index| assert!(index != bad, "task {index} fails"));
            }));
            let payload = result.expect_err("the panic must propagate");
            let message = payload.downcast_ref::<String>().expect("a formatted message");
            assert_eq!(message, &format!("task {bad} fails"));
            let count = AtomicUsize::new(0);
            pool.run(32, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 32);
        }
    }
}

#[test]
fn workers_wake_after_they_have_slept() {
    let pool = Pool::new(2);
    for _ in 0..20 {
        // Long enough for the idle worker to sleep, by doing something else.
        let sum: u64 = (0..2_000_000u64).map(std::hint::black_box).sum();
        assert!(sum > 0);
        let count = AtomicUsize::new(0);
        pool.run(8, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 8);
    }
}

#[test]
fn a_pool_can_move_to_another_thread() {
    let pool = Pool::new(2);
    let handle = std::thread::spawn(move || {
        let count = AtomicUsize::new(0);
        pool.run(3, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        count.into_inner()
    });
    assert_eq!(handle.join().expect("no panic"), 3);
}
