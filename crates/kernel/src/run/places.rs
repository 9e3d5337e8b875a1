//! On which CPU an answered thread goes on: on ours, or where the host's scheduler finds a free one.
//!
//! The host wakes who is answered on the CPU of who answers ([`skerry_platform::listener`]), whoever else wants that CPU. Where a
//! descriptor was given, or a worker was still awake elsewhere, that is not the CPU that rang; so two threads that compute come to
//! stand on one CPU, and the other one has nothing to do. The scheduler leaves them there for milliseconds, as they switch to us and
//! back all the time and it takes them for cache-hot.
//!
//! So we remember whom we let go on where, until it rings again. Who is answered on a CPU where another one still is, goes on by the
//! scheduler's choice: at once if it rang elsewhere, and else once the two have gone on beside each other for longer than waking an idle CPU
//! takes. Threads that answer each other wait before that, and stay together ([`super::wake`]).
//!
//! What a thread says about its CPU is its own affair: it changes only where it goes on itself.

use super::wake::WORTH_A_CPU;
use skerry_platform::processor::{ticks, Cpus};
use std::sync::atomic::{AtomicU64, Ordering};

/// For how long somebody is taken to be where it was let go on: a turn on a CPU that is shared, and some more. It may have gone to sleep
/// without us.
const FRESH: u64 = 10_000_000;
/// Between two times that a thread leaves a CPU which it has shared.
const SETTLES: u64 = 2_500_000;

/// Who was let go on on each CPU.
pub(super) struct Places(Box<[Place]>);

/// Two of those on one CPU, by when that was; 0: nobody, or it has rung since. Each CPU's in a cache line of its own, as CPUs write to
/// their own ones.
#[derive(Default)]
#[repr(align(64))]
struct Place([AtomicU64; 2]);

/// What is known of a thread.
#[derive(Default)]
pub(super) struct Standing {
    /// The CPU that it rang from, and one; 0: it has not told.
    rang_on: AtomicU64,
    /// Where it was let go on, and one; 0: not known.
    let_go_on: AtomicU64,
    /// And when.
    since: AtomicU64,
    /// Since when somebody has shared its CPU, or from when on that is looked at again; 0: nobody does.
    shares_since: AtomicU64,
}

impl Places {
    pub fn new() -> Places {
        Places((0..Cpus::usable().end()).map(|_| Place::default()).collect())
    }

    /// A thread has rung, on a CPU of which it tells the number, and one.
    pub fn leave(&self, standing: &Standing, rang_on: u64) {
        standing.rang_on.store(rang_on, Ordering::Relaxed);
        let let_go_on = standing.let_go_on.swap(0, Ordering::Relaxed);
        let since = standing.since.load(Ordering::Relaxed);
        for slot in self.at(let_go_on) {
            let _ = slot.compare_exchange(since, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Its ring is about to be answered on the CPU `here`, by who has received it, and it has not waited. True: where it goes on is the
    /// scheduler's to choose.
    pub fn is_crowded(&self, standing: &Standing, here: u32) -> bool {
        let now = ticks();
        let here = u64::from(here) + 1;
        let Some(other) = self.at(here).iter().filter_map(|slot| fresh(slot, now)).min() else {
            standing.shares_since.store(0, Ordering::Relaxed);
            return false;
        };
        let rang_on = standing.rang_on.load(Ordering::Relaxed);
        if rang_on != 0 && rang_on != here {
            return true;
        }
        let since = match standing.shares_since.load(Ordering::Relaxed) {
            0 => other,
            since => since,
        };
        let leaves = now.wrapping_sub(since) as i64 > WORTH_A_CPU as i64;
        standing.shares_since.store(if leaves { now.wrapping_add(SETTLES) } else { since }, Ordering::Relaxed);
        leaves
    }

    /// It has waited: whoever is where it was has not been in its way.
    pub fn has_waited(standing: &Standing) {
        let since = standing.shares_since.load(Ordering::Relaxed);
        if ticks().wrapping_sub(since) as i64 > 0 {
            standing.shares_since.store(0, Ordering::Relaxed);
        }
    }

    /// It goes on on the CPU `here`.
    pub fn enter(&self, standing: &Standing, here: u32) {
        let now = ticks();
        let here = u64::from(here) + 1;
        if let Some(slot) = self.at(here).iter().find(|slot| fresh(slot, now).is_none()) {
            standing.since.store(now, Ordering::Relaxed);
            standing.let_go_on.store(here, Ordering::Relaxed);
            slot.store(now, Ordering::Relaxed);
        }
    }

    /// The CPU with the number `number` - 1.
    fn at(&self, number: u64) -> &[AtomicU64] {
        let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        index.and_then(|index| self.0.get(index)).map_or(&[], |place| &place.0)
    }
}

/// Since when somebody is there.
fn fresh(slot: &AtomicU64, now: u64) -> Option<u64> {
    let since = slot.load(Ordering::Relaxed);
    (since != 0 && now.wrapping_sub(since) < FRESH).then_some(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places((0..2).map(|_| Place::default()).collect())
    }

    #[test]
    fn who_is_alone_stays() {
        let (places, thread) = (places(), Standing::default());
        for _ in 0..100 {
            places.leave(&thread, 1);
            assert!(!places.is_crowded(&thread, 0));
            places.enter(&thread, 0);
        }
        // Nobody is there, wherever it rang.
        places.leave(&thread, 2);
        assert!(!places.is_crowded(&thread, 0));
    }

    #[test]
    fn who_rang_elsewhere_does_not_come_between() {
        let (places, one, other) = (places(), Standing::default(), Standing::default());
        places.enter(&one, 0);
        places.leave(&other, 2);
        assert!(places.is_crowded(&other, 0));
        assert!(!places.is_crowded(&other, 1));
        // The one has rung and waits.
        places.leave(&one, 1);
        assert!(!places.is_crowded(&other, 0));
    }

    #[test]
    fn who_shares_a_cpu_for_long_leaves_it_once() {
        let (places, one, other) = (places(), Standing::default(), Standing::default());
        places.enter(&one, 0);
        places.leave(&other, 1);
        assert!(!places.is_crowded(&other, 0));
        let start = ticks();
        while ticks().wrapping_sub(start) < 2 * WORTH_A_CPU {}
        assert!(places.is_crowded(&other, 0));
        assert!(!places.is_crowded(&other, 0));
        // Not even if it waits in between.
        Places::has_waited(&other);
        assert!(!places.is_crowded(&other, 0));
    }

    #[test]
    fn who_waits_again_and_again_does_not_leave() {
        let (places, one, other) = (places(), Standing::default(), Standing::default());
        for _ in 0..100 {
            places.enter(&one, 0);
            places.leave(&other, 1);
            assert!(!places.is_crowded(&other, 0));
            Places::has_waited(&other);
            places.leave(&one, 1);
        }
    }

    #[test]
    fn what_is_told_of_other_cpus_is_nothing() {
        let (places, thread) = (places(), Standing::default());
        for told in [0, 3, 1 << 40, u64::MAX] {
            places.leave(&thread, told);
            assert!(!places.is_crowded(&thread, 1));
            places.enter(&thread, 7);
        }
    }
}
