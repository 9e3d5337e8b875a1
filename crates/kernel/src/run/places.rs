//! On which CPU an answered thread goes on: on ours, or where one is free.
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
//! The scheduler has a choice only where a thread is in no queue. One that has had more than its share of the CPU when it rings is in its
//! queue still, and so is a worker; so the thread is taken over to a CPU where nobody is before it is answered
//! ([`skerry_platform::beside`]), and a worker that serves rings of another CPU than its own goes there.
//!
//! What a thread says about its CPU is its own affair: it changes only where it goes on itself, and where its worker does, now
//! and then.

use super::wake::WORTH_A_CPU;
use skerry_platform::processor::{ticks, Cpus};
use std::sync::atomic::{AtomicU64, Ordering};

/// For how long somebody is taken to be where it was let go on: a turn on a CPU that is shared, and some more. It may have gone to sleep
/// without us.
const FRESH: u64 = 10_000_000;
/// Between two times that a thread leaves a CPU which it has shared.
const SETTLES: u64 = 2_500_000;
/// Between two times that a worker follows who rings on another CPU: many times what it costs, as some of several threads may be on each.
pub(super) const FOLLOWS: u64 = 250_000;

/// Where a thread goes on whose ring is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// On our CPU.
    Here,
    /// Where the host's scheduler likes.
    Anywhere,
    /// As before, once it is out of our CPU's queue and in the one of this CPU, where nobody is.
    Over(u32),
    /// Most likely on this CPU, from which it has rung.
    Back(u32),
}

/// Who was let go on on each CPU.
pub(super) struct Places(Box<[Place]>);

/// Two of those on one CPU, by when that was; 0: nobody, or it has rung since. Each CPU's in a cache line of its own, as CPUs write to
/// their own ones.
#[repr(align(64))]
struct Place {
    slots: [AtomicU64; 2],
    /// The sandbox may use that CPU.
    is_usable: bool,
}

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
        let cpus = Cpus::usable();
        Places::of((0..cpus.end()).map(|cpu| cpus.has(cpu)))
    }

    fn of(usable: impl Iterator<Item = bool>) -> Places {
        Places(usable.map(|is_usable| Place { slots: Default::default(), is_usable }).collect())
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

    /// Its ring is about to be answered on the CPU `here`, by who has received it, and it has not waited.
    pub fn choose(&self, standing: &Standing, here: u32) -> Destination {
        let now = ticks();
        let Some(other) = self.at(u64::from(here) + 1).iter().filter_map(|slot| fresh(slot, now)).min() else {
            standing.shares_since.store(0, Ordering::Relaxed);
            return Destination::Here;
        };
        let rang_on = standing.rang_on.load(Ordering::Relaxed);
        if rang_on != 0 && rang_on != u64::from(here) + 1 {
            return if self.at(rang_on).is_empty() { Destination::Anywhere } else { Destination::Back((rang_on - 1) as u32) };
        }
        let since = match standing.shares_since.load(Ordering::Relaxed) {
            0 => other,
            since => since,
        };
        if now.wrapping_sub(since) as i64 <= WORTH_A_CPU as i64 {
            standing.shares_since.store(since, Ordering::Relaxed);
            return Destination::Here;
        }
        standing.shares_since.store(now.wrapping_add(SETTLES), Ordering::Relaxed);
        self.room_beside(here, now).map_or(Destination::Anywhere, Destination::Over)
    }

    /// The next CPU behind `here` where nobody is, as far as we know.
    fn room_beside(&self, here: u32, now: u64) -> Option<u32> {
        let has_room = |place: &Place| place.is_usable && place.slots.iter().all(|slot| fresh(slot, now).is_none());
        let numbered = || (0u32..).zip(&self.0);
        let behind = numbered().filter(|(cpu, _)| *cpu > here).chain(numbered().filter(|(cpu, _)| *cpu < here));
        behind.filter(|(_, place)| has_room(place)).map(|(cpu, _)| cpu).next()
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
        index.and_then(|index| self.0.get(index)).map_or(&[], |place| &place.slots)
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
        Places::of([true, true].into_iter())
    }

    #[test]
    fn who_is_alone_stays() {
        let (places, thread) = (places(), Standing::default());
        for _ in 0..100 {
            places.leave(&thread, 1);
            assert_eq!(places.choose(&thread, 0), Destination::Here);
            places.enter(&thread, 0);
        }
        // Nobody is there, wherever it rang.
        places.leave(&thread, 2);
        assert_eq!(places.choose(&thread, 0), Destination::Here);
    }

    #[test]
    fn who_rang_elsewhere_does_not_come_between() {
        let (places, one, other) = (places(), Standing::default(), Standing::default());
        places.enter(&one, 0);
        places.leave(&other, 2);
        assert_eq!(places.choose(&other, 0), Destination::Back(1));
        assert_eq!(places.choose(&other, 1), Destination::Here);
        // The one has rung and waits.
        places.leave(&one, 1);
        assert_eq!(places.choose(&other, 0), Destination::Here);
    }

    #[test]
    fn who_shares_a_cpu_for_long_leaves_it_once() {
        let (places, one, other) = (places(), Standing::default(), Standing::default());
        places.enter(&one, 0);
        places.leave(&other, 1);
        assert_eq!(places.choose(&other, 0), Destination::Here);
        let start = ticks();
        while ticks().wrapping_sub(start) < 2 * WORTH_A_CPU {}
        assert_eq!(places.choose(&other, 0), Destination::Over(1));
        assert_eq!(places.choose(&other, 0), Destination::Here);
        // Not even if it waits in between.
        Places::has_waited(&other);
        assert_eq!(places.choose(&other, 0), Destination::Here);
    }

    #[test]
    fn where_there_is_no_room_the_scheduler_decides() {
        let third = Standing::default();
        let crowded = |places: &Places| {
            let one = Standing::default();
            places.enter(&one, 0);
            let start = ticks();
            while ticks().wrapping_sub(start) < 2 * WORTH_A_CPU {}
            let third = Standing::default();
            places.choose(&third, 0)
        };
        let places = places();
        places.enter(&third, 1);
        assert_eq!(crowded(&places), Destination::Anywhere);
        places.leave(&third, 2);
        assert_eq!(crowded(&places), Destination::Over(1));
        // The one behind it that may be used, and from the beginning behind the last one.
        assert_eq!(crowded(&Places::of([true, false, true].into_iter())), Destination::Over(2));
        assert_eq!(crowded(&Places::of([true, false].into_iter())), Destination::Anywhere);
        let places = Places::of([true, true, true].into_iter());
        places.enter(&third, 1);
        assert_eq!(places.room_beside(2, ticks()), Some(0));
        assert_eq!(places.room_beside(0, ticks()), Some(2));
        assert_eq!(places.room_beside(7, ticks()), Some(0));
    }

    #[test]
    fn who_waits_again_and_again_does_not_leave() {
        let (places, one, other) = (places(), Standing::default(), Standing::default());
        for _ in 0..100 {
            places.enter(&one, 0);
            places.leave(&other, 1);
            assert_eq!(places.choose(&other, 0), Destination::Here);
            Places::has_waited(&other);
            places.leave(&one, 1);
        }
    }

    #[test]
    fn what_is_told_of_other_cpus_is_nothing() {
        let (places, thread) = (places(), Standing::default());
        for told in [0, 3, 1 << 40, u64::MAX] {
            places.leave(&thread, told);
            assert_eq!(places.choose(&thread, 1), Destination::Here);
            places.enter(&thread, 7);
        }
        // Nor where somebody is in its way.
        places.enter(&Standing::default(), 1);
        for told in [3, 1 << 40, u64::MAX] {
            places.leave(&thread, told);
            assert_eq!(places.choose(&thread, 1), Destination::Anywhere);
            places.enter(&thread, 7);
        }
    }
}
