//! Threads for slow requests.
//!
//! The threads that take requests from the kernel must not wait for a slow source, or a few reads would delay
//! every `ls`. Such reads run on the threads of this module. It owns how many requests may wait at the same
//! time. It does not know what the requests are. Threads are started when they are needed, so a mount of a
//! local image has none.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Maximum number of threads, one for each waiting request. Waiting threads use no CPU time. Further requests
/// are queued; the kernel limits their number.
const MAX_THREADS: usize = 32;

type Job = Box<dyn FnOnce() + Send>;

/// The threads and their queue. Dropping it drops queued jobs; each thread ends after its current job.
#[derive(Debug, Default)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    arrival: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    ended: bool,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("jobs", &self.jobs.len()).field("threads", &self.threads).finish()
    }
}

impl Pool {
    /// Runs `job` on a separate thread, or queues it if all threads are busy. `job` must not panic.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.lock();
        queue.jobs.push_back(Box::new(job));
        if queue.idle >= queue.jobs.len() {
            self.shared.arrival.notify_one();
        } else if queue.threads < MAX_THREADS {
            let shared = Arc::clone(&self.shared);
            match thread::Builder::new().name("fuse-slow".into()).spawn(move || shared.serve()) {
                Ok(_) => queue.threads += 1,
                Err(cause) if queue.threads == 0 => {
                    log::warn!("cannot start a thread, reads run one after another: {cause}");
                    let jobs = std::mem::take(&mut queue.jobs);
                    drop(queue);
                    jobs.into_iter().for_each(|job| job());
                }
                // An existing thread will take the job.
                Err(cause) => log::debug!("cannot start a thread: {cause}"),
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.ended = true;
        let jobs = std::mem::take(&mut queue.jobs);
        self.shared.arrival.notify_all();
        drop(queue);
        drop(jobs);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        while let Some(job) = self.next() {
            job();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.ended {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            queue.idle += 1;
            queue = self.arrival.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{channel, sync_channel};
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_job_that_waits_holds_up_no_other_until_there_are_too_many() {
        let pool = Pool::default();
        let (started, starts) = channel();
        let (release, gate) = sync_channel::<()>(0);
        let gate = Arc::new(Mutex::new(gate));
        for job in 0..MAX_THREADS + 3 {
            let (started, gate) = (started.clone(), Arc::clone(&gate));
            pool.run(move || {
                started.send(job).unwrap();
                let _ = gate.lock().unwrap().recv();
            });
        }
        let mut running: Vec<usize> =
            (0..MAX_THREADS).map(|_| starts.recv_timeout(PATIENCE).unwrap()).collect();
        running.sort_unstable();
        assert_eq!(running, Vec::from_iter(0..MAX_THREADS));
        assert_eq!(pool.shared.lock().jobs.len(), 3, "the others are queued");
        drop(release);
        let rest = [(); 3].map(|()| starts.recv_timeout(PATIENCE).unwrap());
        assert_eq!(rest.iter().sum::<usize>(), 3 * MAX_THREADS + 3);
    }

    #[test]
    fn a_thread_that_is_idle_takes_the_next_job() {
        let pool = Pool::default();
        assert_eq!(pool.shared.lock().threads, 0, "none before there is a job");
        for _ in 0..10 {
            let (done, result) = channel();
            pool.run(move || done.send(()).unwrap());
            result.recv_timeout(PATIENCE).unwrap();
            while pool.shared.lock().idle == 0 {
                thread::yield_now();
            }
        }
        assert_eq!(pool.shared.lock().threads, 1);
    }

    #[test]
    fn what_is_queued_when_the_pool_ends_is_dropped_and_nobody_waits_for_what_runs() {
        let pool = Pool::default();
        let (release, gate) = channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let (started, starts) = channel();
        let (done, results) = channel();
        for job in 0..=MAX_THREADS {
            let (started, done, gate) = (started.clone(), done.clone(), Arc::clone(&gate));
            pool.run(move || {
                started.send(()).unwrap();
                let _ = gate.lock().unwrap().recv();
                done.send(job).unwrap();
            });
        }
        (0..MAX_THREADS).for_each(|_| starts.recv_timeout(PATIENCE).unwrap());
        drop(done);
        drop(pool);
        drop(release);
        let mut finished: Vec<usize> = results.iter().collect();
        finished.sort_unstable();
        assert_eq!(finished, Vec::from_iter(0..MAX_THREADS), "all that ran, and none of the queue");
    }
}
