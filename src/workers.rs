//! Threads that share a list of jobs.
//!
//! This module owns the order in which jobs are taken, when no more jobs are handed out, and how a panic is
//! passed on. It does not know what the jobs are.

use std::iter;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Returns the number of cores this process may use, at least 1.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A list of jobs, each handed out once, to any number of threads.
#[derive(Debug)]
pub(crate) struct Queue<'a, T> {
    jobs: &'a [T],
    /// Positions in the list, in the order of handing out.
    order: Vec<usize>,
    next: AtomicUsize,
}

impl<'a, T> Queue<'a, T> {
    /// Creates a queue that hands out the jobs in the order of the list.
    pub(crate) fn new(jobs: &'a [T]) -> Self {
        Queue { jobs, order: (0..jobs.len()).collect(), next: AtomicUsize::new(0) }
    }

    /// Creates a queue that hands out the largest job first, so that no large job runs alone at the end.
    pub(crate) fn largest_first(jobs: &'a [T], size: impl Fn(&T) -> u64) -> Self {
        let mut queue = Queue::new(jobs);
        queue.order.sort_by_key(|at| jobs.get(*at).map(|job| std::cmp::Reverse(size(job))));
        queue
    }

    /// Takes the next job, with its position in the list. Returns `None` when no jobs are left or the queue
    /// is closed.
    pub(crate) fn take(&self) -> Option<(usize, &'a T)> {
        // The counter cannot overflow: each thread stops at its first `None`.
        let at = *self.order.get(self.next.fetch_add(1, Ordering::Relaxed))?;
        Some((at, self.jobs.get(at)?))
    }

    /// Closes the queue: no more jobs are handed out. Jobs that were taken are not affected.
    pub(crate) fn close(&self) {
        self.next.store(self.order.len(), Ordering::Relaxed);
    }
}

/// Closes a queue when the thread panics, because the panic ends the whole work.
struct CloseOnPanic<'a, 'b, T>(&'a Queue<'b, T>);

impl<T> Drop for CloseOnPanic<'_, '_, T> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.close();
        }
    }
}

/// Returns the results of `work` for each job, in the order of the list. At most `threads` threads work,
/// including the calling thread. After a failure no more jobs are handed out.
///
/// # Errors
/// If several jobs failed, the failure of the first of them in the order of the list.
///
/// # Panics
/// As `work`, with the same payload.
pub(crate) fn try_map<T: Sync, R: Send, E: Send>(
    queue: &Queue<'_, T>,
    threads: usize,
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let share = || {
        let _guard = CloseOnPanic(queue);
        let mut done = Vec::new();
        while let Some((at, job)) = queue.take() {
            let result = work(job);
            if result.is_err() {
                queue.close();
            }
            done.push((at, result));
        }
        done
    };
    let others = threads.min(queue.jobs.len()).saturating_sub(1);
    let mut done = beside(others, share, share);
    done.0.extend(done.1.into_iter().flatten());
    done.0.sort_unstable_by_key(|(at, _)| *at);
    done.0.into_iter().map(|(_, result)| result).collect()
}

/// Runs a clone of `work` on each of `threads` threads, or fewer if the system starts no more, and `own` on the calling thread at the same time.
/// Returns the results when all have ended. Values owned by `work` are dropped with the last of these
/// threads.
///
/// # Panics
/// As `work` or `own`, with the same payload, once all have ended.
pub(crate) fn beside<W: Send, R>(
    threads: usize,
    work: impl FnOnce() -> W + Clone + Send,
    own: impl FnOnce() -> R,
) -> (R, Vec<W>) {
    thread::scope(|scope| {
        // If the system has no more threads, the others do all the work.
        let start = |work| thread::Builder::new().spawn_scoped(scope, work).ok();
        let threads: Vec<_> = iter::repeat_n(work, threads).map_while(start).collect();
        let result = own();
        let ended =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        (result, ended.collect())
    })
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc::channel;
    use std::sync::{Barrier, Mutex};

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_list() {
        let jobs: Vec<u64> = (0..1000).collect();
        for queue in [Queue::new(&jobs), Queue::largest_first(&jobs, |job| job % 7)] {
            let squares = try_map(&queue, 4, |job| Ok::<_, ()>(job * job)).unwrap();
            assert_eq!(squares, jobs.iter().map(|job| job * job).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_largest_job_is_handed_out_first_and_equals_in_their_order() {
        let jobs = [3, 9, 3, 5];
        let queue = Queue::largest_first(&jobs, |job| *job);
        let taken: Vec<usize> = iter::from_fn(|| queue.take()).map(|(at, _)| at).collect();
        assert_eq!(taken, [1, 3, 0, 2]);
    }

    #[test]
    fn every_job_is_done_once_by_as_many_threads_as_allowed() {
        let jobs = [(); 3];
        let together = Barrier::new(3);
        // Passes only if three threads, including the calling one, work at the same time.
        let threads = try_map(&Queue::new(&jobs), 8, |()| {
            together.wait();
            Ok::<_, ()>(thread::current().id())
        });
        assert!(threads.unwrap().contains(&thread::current().id()));
        let alone = try_map(&Queue::new(&jobs), 0, |()| Ok::<_, ()>(thread::current().id()));
        assert_eq!(alone.unwrap(), [thread::current().id(); 3]);
    }

    #[test]
    fn the_first_failure_in_the_order_of_the_list_is_returned() {
        let jobs = [1, 2];
        let together = Barrier::new(2);
        // Both fail, and the second is handed out first.
        let failed = try_map(&Queue::largest_first(&jobs, |job| *job), 2, |job| {
            together.wait();
            Err::<(), _>(*job)
        });
        assert_eq!(failed, Err(1));
    }

    #[test]
    fn after_a_failure_no_more_jobs_are_handed_out() {
        let jobs: Vec<usize> = (0..10).collect();
        let done = Mutex::new(Vec::new());
        let failed = try_map(&Queue::new(&jobs), 1, |job| {
            done.lock().unwrap().push(*job);
            if *job == 3 { Err(*job) } else { Ok(()) }
        });
        assert_eq!((failed, done.into_inner().unwrap()), (Err(3), vec![0, 1, 2, 3]));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_ends_the_handing_out() {
        let jobs: Vec<usize> = (0..1000).collect();
        let queue = Queue::new(&jobs);
        let together = Barrier::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| {
            try_map(&queue, 2, |job| {
                if *job < 2 {
                    together.wait();
                    std::panic::panic_any(format!("job {job}"));
                }
                Ok::<_, ()>(())
            })
        }));
        assert!(result.unwrap_err().downcast::<String>().unwrap().starts_with("job "));
        assert!(queue.take().is_none());
    }

    #[test]
    fn what_the_threads_own_is_dropped_with_the_last_of_them() {
        let (sender, received) = channel();
        let work = move || sender.send(1).unwrap();
        // This would wait forever if a sender outlived the threads.
        let (sum, _) = beside(3, work, || received.iter().sum::<i32>());
        assert_eq!(sum, 3);
        let (sender, received) = channel::<()>();
        let (count, _) = beside(0, move || drop(sender), || received.iter().count());
        assert_eq!(count, 0);
    }
}
