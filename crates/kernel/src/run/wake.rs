//! Where a call that was waited for goes on: on the CPU of who woke it, or where it was before.
//!
//! Two threads that answer each other are fastest on one CPU: the one waits anyway when the other goes on, and nothing has
//! to wake an idle CPU. A server that wakes one client after another is not: its clients would stand in line behind it.
//! So it is measured for each thread how long it goes on after it has woken another one, until it waits itself.

use skerry_platform::processor::ticks;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// In ticks of the processor's clock: about what it costs to wake an idle CPU.
pub(super) const WORTH_A_CPU: u64 = 70_000;
/// A single time counts no more than this: what was long once is not for ever.
const LONGEST: u64 = 8 * WORTH_A_CPU;
/// The last one's part of the average.
const PART: u64 = 4;

/// A time that is measured again and again, on average, in ticks.
#[derive(Default)]
struct Average(AtomicU64);

impl Average {
    fn count(&self, time: u64) {
        let before = self.get();
        let after = before - before / PART + time.min(LONGEST) / PART;
        self.0.store(after, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a thread goes on after it has woken others.
#[derive(Default)]
pub(super) struct AfterWaking {
    /// When it first woke another one since it last waited; 0: it has not.
    woke: AtomicU64,
    /// For how long it goes on then.
    goes_on: Average,
}

impl AfterWaking {
    /// A call of the thread's is done; it has woken others, and began to wait at `waited`, as it may be. True: those that it
    /// has woken had better go on where they were.
    pub fn count(&self, wakes: bool, waited: Option<u64>) -> bool {
        if let Some(waited) = waited {
            let woke = self.woke.swap(0, Ordering::Relaxed);
            if woke != 0 {
                self.goes_on.count(waited.saturating_sub(woke));
            }
        }
        if !wakes {
            return false;
        }
        let now = ticks();
        match self.woke.load(Ordering::Relaxed) {
            0 => self.woke.store(now, Ordering::Relaxed),
            woke if now.saturating_sub(woke) > LONGEST => {
                // It may never wait.
                self.woke.store(now, Ordering::Relaxed);
                self.goes_on.count(LONGEST);
            }
            _ => {}
        }
        self.goes_on.get() > WORTH_A_CPU
    }
}

/// How the processes begin that a thread makes.
#[derive(Default)]
pub(super) struct Children {
    /// For how long they run until they first call, be it to end.
    first_run: Average,
}

impl Children {
    /// They are done before another CPU would have been woken for them, or nearly so.
    pub fn are_brief(&self) -> bool {
        self.first_run.get() < 4 * WORTH_A_CPU
    }
}

/// The beginning of a process.
pub(super) struct FirstRun {
    began: u64,
    maker: Arc<Children>,
}

impl FirstRun {
    pub fn new(maker: &Arc<Children>) -> FirstRun {
        FirstRun::since(ticks(), maker)
    }

    /// As the process itself says.
    pub fn since(began: u64, maker: &Arc<Children>) -> FirstRun {
        FirstRun { began, maker: maker.clone() }
    }

    /// Its first call is here.
    pub fn end(self) {
        self.maker.first_run.count(ticks().saturating_sub(self.began));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_at_once_keeps_those_it_wakes_on_its_cpu() {
        let thread = AfterWaking::default();
        for _ in 0..20 {
            assert!(!thread.count(true, None));
            thread.count(false, Some(ticks()));
        }
    }

    #[test]
    fn children_are_brief_until_several_of_them_have_not_been() {
        let maker = Arc::new(Children::default());
        for _ in 0..3 {
            assert!(maker.are_brief());
            FirstRun { began: 0, maker: maker.clone() }.end();
        }
        assert!(!maker.are_brief());
        for _ in 0..20 {
            FirstRun::new(&maker).end();
        }
        assert!(maker.are_brief());
    }

    #[test]
    fn who_goes_on_for_long_leaves_them_where_they_were() {
        let thread = AfterWaking::default();
        for _ in 0..20 {
            thread.count(true, None);
            thread.count(false, Some(ticks() + LONGEST));
        }
        assert!(thread.count(true, None));
        // It changes its ways.
        for _ in 0..20 {
            thread.count(true, None);
            thread.count(false, Some(ticks()));
        }
        assert!(!thread.count(true, None));
    }
}
