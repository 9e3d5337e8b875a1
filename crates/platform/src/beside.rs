//! Keeping two threads on one CPU while one of them hands something to the other.
//!
//! The host's scheduler gives a thread that is woken an idle CPU, where there is one. That CPU has to be woken itself, which takes 20 to 80
//! us in a virtual machine; and who has woken it sleeps by then, so that it has to be woken the same way for the answer. Where both
//! wait for each other, nothing is gained by that.
//!
//! And the other way round: taking a thread over to a CPU that has nothing to do. Since Linux 6.12 a thread that goes to sleep when it has had more
//! than its share of a CPU stays in that CPU's queue until the others have caught up, and where it is woken before, it goes on there, whatever
//! else is idle. On a CPU that two threads share, that is how most calls of theirs end.

use crate::processor::current_cpu;
use rustix::process::Pid;
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;

/// A thread that may run on one CPU only, until this is dropped.
pub struct Bound {
    /// `None`: the calling one.
    thread: Option<Pid>,
    usual: CpuSet,
    is_gone: AtomicBool,
}

impl Bound {
    /// Binds the thread `tid` to the CPU of the calling thread, which may leave it at once.
    pub fn thread(tid: i32) -> Option<Bound> {
        Bound::to_cpu(Some(Pid::from_raw(tid)?), current_cpu())
    }

    fn to_cpu(thread: Option<Pid>, cpu: u32) -> Option<Bound> {
        let usual = sched_getaffinity(thread).ok()?;
        let cpu = cpu as usize;
        // On a machine with one CPU there is nothing to be done.
        if cpu >= CpuSet::MAX_CPU || usual.count() < 2 || !usual.is_set(cpu) {
            return None;
        }
        let mut one = CpuSet::new();
        one.set(cpu);
        sched_setaffinity(thread, &one).ok()?;
        Some(Bound { thread, usual: lasting(usual), is_gone: AtomicBool::new(false) })
    }

    /// The thread has ended: its number may be another one's before long.
    pub fn forget_thread(&self) {
        self.is_gone.store(true, Ordering::Release);
    }

    /// Where it, and whoever has come from it meanwhile, may run usually.
    pub fn usual(&self) -> CpuSet {
        self.usual
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if !self.is_gone.load(Ordering::Acquire) {
            let _ = sched_setaffinity(self.thread, &self.usual);
        }
    }
}

/// Lets the thread `tid` run on `cpus`.
pub fn let_run(tid: i32, cpus: &CpuSet) {
    if let Some(thread) = Pid::from_raw(tid) {
        let _ = sched_setaffinity(Some(thread), cpus);
    }
}

/// Lets the thread `tid` run on those of `cpus` that are not ours; if there are none, where it did.
pub fn let_run_elsewhere(tid: i32, cpus: &CpuSet) {
    let mut others = *cpus;
    others.unset(current_cpu() as usize);
    let_run(tid, &others);
}

/// Has the calling thread and the thread `tid` stay on this CPU during `work`, in which they wait for each other.
pub fn together<T>(tid: i32, work: impl FnOnce() -> T) -> T {
    let _ours = Bound::to_cpu(None, current_cpu());
    let _its = Bound::thread(tid);
    work()
}

/// Takes the thread `tid`, which waits in a ring, to the CPU `cpu`, if it may run there and is in a queue: it is bound to it for a moment, in which
/// it does not run. Its number is its own as long as it waits; were it another one's by now, that would run where it did.
pub fn take_over(tid: i32, cpu: u32) {
    drop(Pid::from_raw(tid).and_then(|thread| Bound::to_cpu(Some(thread), cpu)));
}

/// Has the calling thread go on on the CPU `cpu`, if it may run there. It costs some microseconds.
pub fn go_over(cpu: u32) {
    drop(Bound::to_cpu(None, cpu));
}

/// What a set of CPUs is given back as: where it is all that the host gives us, whatever it gives us later is meant, too.
fn lasting(cpus: CpuSet) -> CpuSet {
    static WHOLE: OnceLock<CpuSet> = OnceLock::new();
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    let whole = WHOLE.get_or_init(|| {
        let ours = sched_getaffinity(None).unwrap_or_default();
        let _ = sched_setaffinity(None, &all);
        let whole = sched_getaffinity(None).unwrap_or_default();
        let _ = sched_setaffinity(None, &ours);
        whole
    });
    if cpus == *whole {
        all
    } else {
        cpus
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn both_are_on_this_cpu_and_run_where_they_did_afterwards() {
        let (told, asked) = (channel(), channel::<()>());
        let other = std::thread::spawn(move || {
            told.0.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            let _ = asked.1.recv();
        });
        let tid = told.1.recv().unwrap();
        let of = |tid: i32| sched_getaffinity(Pid::from_raw(tid)).unwrap();
        let before = (of(0), of(tid));
        together(tid, || {
            let both = (of(0), of(tid));
            assert!(both.0 == both.1 && both.0.count() == 1 && both.0.is_set(current_cpu() as usize));
        });
        assert!((of(0), of(tid)) == before);
        if let Some(bound) = Bound::thread(tid) {
            bound.forget_thread();
            drop(bound);
            assert_eq!(of(tid).count(), 1);
            let_run(tid, &before.1);
        }
        assert!(of(tid) == before.1);
        if before.1.count() > 1 && before.1.is_set(current_cpu() as usize) {
            let here = loop {
                let here = current_cpu();
                let_run_elsewhere(tid, &before.1);
                if current_cpu() == here {
                    break here;
                }
            };
            let elsewhere = of(tid);
            assert!(!elsewhere.is_set(here as usize) && elsewhere.count() == before.1.count() - 1);
        }
        drop(asked.0);
        other.join().unwrap();
    }
    #[test]
    fn who_is_taken_over_goes_on_there_and_may_leave() {
        use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
        static SEEN: AtomicU32 = AtomicU32::new(0);
        static TID: AtomicI32 = AtomicI32::new(0);
        let runs = std::thread::spawn(|| {
            TID.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Release);
            while TID.load(Ordering::Relaxed) != 0 {
                SEEN.store(current_cpu(), Ordering::Relaxed);
            }
        });
        let tid = loop {
            match TID.load(Ordering::Acquire) {
                0 => std::thread::yield_now(),
                tid => break tid,
            }
        };
        let usual = sched_getaffinity(None).unwrap();
        let of = |tid: i32| sched_getaffinity(Pid::from_raw(tid)).unwrap();
        // The scheduler may take either away again at once.
        let sometimes = |is_there: &dyn Fn() -> bool| (0..1000).any(|_| is_there());
        let allowed = |cpu: &u32| usual.is_set(*cpu as usize);
        for cpu in (0..CpuSet::MAX_CPU as u32).filter(allowed).take(3) {
            assert!(sometimes(&|| {
                take_over(tid, cpu);
                std::thread::sleep(std::time::Duration::from_micros(50));
                SEEN.load(Ordering::Relaxed) == cpu
            }));
            assert!(sometimes(&|| {
                go_over(cpu);
                current_cpu() == cpu
            }));
            assert!(of(tid) == usual && of(0) == usual);
        }
        if let Some(none) = (0..CpuSet::MAX_CPU as u32).find(|cpu| !allowed(cpu)) {
            take_over(tid, none);
            go_over(none);
            assert!(of(tid) == usual && of(0) == usual);
        }
        TID.store(0, Ordering::Relaxed);
        runs.join().unwrap();
    }
}
