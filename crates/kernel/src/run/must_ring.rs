//! Which call of a thread is to ring although somebody would see it in the channel: descriptors can be given to a thread that
//! has rung only.

use crate::context::Call;
use skerry_platform::layout::Request;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// So many others may want it meanwhile, before one of them has its turn: the call may never be made again.
const PATIENCE: u32 = 256;

pub(super) struct MustRing {
    call: AtomicU64,
    passed: AtomicU32,
}

impl Default for MustRing {
    fn default() -> MustRing {
        MustRing { call: AtomicU64::new(u64::MAX), passed: AtomicU32::new(0) }
    }
}

impl MustRing {
    /// The next call like this one is to ring. Only one is: the first that wants to, or several that take turns would never.
    pub fn next_time(&self, call: &Call) {
        let this = key(call.number, call.arguments[0]);
        let first = self.call.load(Ordering::Relaxed);
        if first == u64::MAX || self.passed.fetch_add(1, Ordering::Relaxed) >= PATIENCE {
            self.call.store(this, Ordering::Relaxed);
            self.passed.store(0, Ordering::Relaxed);
        }
    }

    /// Whether this is the one. It is once.
    pub fn takes(&self, request: &Request) -> bool {
        let this = key(request.number, request.arguments[0]);
        self.call.load(Ordering::Relaxed) == this && self.call.swap(u64::MAX, Ordering::Relaxed) == this
    }
}

/// A call and its descriptor.
fn key(number: u64, descriptor: u64) -> u64 {
    number << 32 | descriptor & 0xffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: u64, descriptor: u64) -> Call {
        Call { number, arguments: [descriptor, 0, 0, 0, 0, 0], ..Call::default() }
    }

    fn takes(must_ring: &MustRing, call: &Call) -> bool {
        must_ring.takes(&Request { number: call.number, arguments: call.arguments, ..Request::default() })
    }

    #[test]
    fn calls_that_take_turns_each_have_theirs() {
        let must_ring = MustRing::default();
        let calls = [call(44, 4), call(45, 3), call(44, 3)];
        let mut rung = [0; 3];
        for _ in 0..9 {
            for (call, rung) in calls.iter().zip(&mut rung) {
                if takes(&must_ring, call) {
                    *rung += 1;
                } else {
                    must_ring.next_time(call);
                }
            }
        }
        assert!(rung.iter().all(|&rung| rung >= 2), "{rung:?}");
    }

    #[test]
    fn one_that_is_never_made_again_does_not_stand_in_the_way_for_ever() {
        let must_ring = MustRing::default();
        must_ring.next_time(&call(44, 4));
        assert!((0..2 * PATIENCE).any(|_| {
            must_ring.next_time(&call(45, 3));
            takes(&must_ring, &call(45, 3))
        }));
        assert!(!takes(&must_ring, &call(44, 4)) && !takes(&must_ring, &call(45, 3)));
    }
}
