//! Interests that are lent to a thread which waits for them (ADR 53).
//!
//! What a process shares with who is at the other end, pipes and connections, it can see by itself. So can its stub tell
//! epoll_wait(2) of it, as long as nothing else in the list is ready, nobody else waits, and the list stays as it is: whoever has to
//! do with the list ends the loan first, in [`Epoll::end_loan`]. Who puts something into the ready list ends it behind that;
//! who lends looks at the ready list once the loan is begun: one of the two sees the other.
//!
//! Of what is lent nobody tells the sentry while it is. So all of it goes into the ready list when the loan ends: who looks next
//! looks at each, and is told of changes from then on. Of edge-triggered items only those do so for which something has come that
//! was not told of ([`Left::Edges`]), and those that are in the list when the loan begins leave it.
//!
//! Lent is what was told of lately. The others are told of as ever, and end the loan.
//!
//! What is lent the thread may change, as epoll_ctl(2) would (ADR 59). That is made up for when the loan ends, before anybody
//! can see that it has ended; so whoever looks at the list finds it as the thread has left it ([`Epoll::settled`]).

use super::{is_in, Epoll, Item, Items, Wanted, EPOLLEXCLUSIVE, EPOLLONESHOT};
use crate::fs::file::{Events, OpenFile};
use crate::fs::lending::Left;
use crate::sync::{Hears, Wake as _};
use parking_lot::{Mutex, MutexGuard};
use skerry_platform::channel::ReturnedEvents;
use skerry_platform::layout::{events, Interest};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// Where the interests are that are lent.
pub trait EventLender: Send + Sync {
    /// Ends the loan. What the thread has done with them.
    fn take_back(&self) -> ReturnedEvents;
}

#[derive(Default)]
pub(super) struct Lending {
    /// Something is lent, or about to be.
    stands: AtomicBool,
    loan: Mutex<Loan>,
    begun: AtomicU64,
    warm: Mutex<Warm>,
}

impl Lending {
    fn begin(&self) -> Option<u64> {
        let mut loan = self.loan.lock();
        if !matches!(*loan, Loan::None) {
            return None;
        }
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        *loan = Loan::Begun(number);
        self.stands.store(true, Ordering::Release);
        Some(number)
    }
}

#[derive(Default)]
enum Loan {
    #[default]
    None,
    Begun(u64),
    Lent {
        items: Vec<LentItem>,
        lender: Box<dyn EventLender>,
    },
}

struct LentItem {
    item: Arc<Item>,
    left: Left,
}

/// What was told of lately, and whether it was worth lending.
#[derive(Default)]
struct Warm {
    items: Vec<Weak<Item>>,
    /// Loans in a row from which nothing was told.
    in_vain: u32,
    left_out: u32,
}

/// Waits without being told of after which an item is not lent any more: as many as can be lent, so that those that are told of one
/// after the other stay.
const HEAT: u32 = events::MOST as u32;
/// Loans in vain after which there is one in [`SELDOM`] waits only.
const IN_VAIN: u32 = 8;
const SELDOM: u32 = 32;

impl Warm {
    fn heat(&mut self, item: &Arc<Item>) {
        if item.heat.swap(HEAT, Ordering::Relaxed) == 0 && self.items.len() < events::MOST {
            self.items.push(Arc::downgrade(item));
        }
    }

    /// One wait later; those that are warm still.
    fn cool(&mut self) -> Vec<Arc<Item>> {
        let mut warm = Vec::with_capacity(self.items.len());
        self.items.retain(|item| {
            let Some(item) = item.upgrade() else { return false };
            let left = item.heat.load(Ordering::Relaxed).saturating_sub(1);
            item.heat.store(left, Ordering::Relaxed);
            if left > 0 {
                warm.push(item);
            }
            left > 0
        });
        warm
    }

    fn is_worth_it(&mut self) -> bool {
        self.left_out += 1;
        let is_worth_it = self.in_vain < IN_VAIN || self.left_out >= SELDOM;
        if is_worth_it {
            self.left_out = 0;
        }
        is_worth_it
    }
}

/// Those of which it is not known that they are not ready, once the process does not look any more.
fn may_be_ready(lent: Vec<LentItem>) -> Vec<Arc<Item>> {
    let is_left_to_tell = |lent: &LentItem| match &lent.left {
        Left::Levels => true,
        Left::Edges(edges) => edges.take_back(),
    };
    lent.into_iter().filter(is_left_to_tell).map(|lent| lent.item).collect()
}

impl Epoll {
    /// Nothing is lent any more, and all that was is to be looked at.
    pub(super) fn end_loan(&self) {
        if !self.lending.stands.load(Ordering::Acquire) {
            return;
        }
        let is_any_ready = {
            let mut loan = self.lending.loan.lock();
            let is_any_ready = match std::mem::take(&mut *loan) {
                Loan::Lent { items, lender } => self.take_over(items, lender.take_back()),
                Loan::Begun(_) | Loan::None => false,
            };
            self.lending.stands.store(false, Ordering::Release);
            is_any_ready
        };
        if is_any_ready {
            self.queue.wake_all();
        }
    }

    /// The interest list, of which nothing is lent as long as that is held.
    pub(super) fn settled(&self) -> MutexGuard<'_, Items> {
        loop {
            self.end_loan();
            let items = self.items.lock();
            if !self.lending.stands.load(Ordering::Acquire) {
                return items;
            }
        }
    }

    /// Makes up for what a thread has done with `lent`. Nobody has told of these for a while: all are to be looked at, later, as who ends a
    /// loan may hold a file's lock. Whether any is to be.
    fn take_over(&self, lent: Vec<LentItem>, returned: ReturnedEvents) -> bool {
        {
            let mut warm = self.lending.warm.lock();
            warm.in_vain = if returned.told == 0 { warm.in_vain.saturating_add(1) } else { 0 };
            let was_told = |index: usize| returned.told & 1 << (index % events::MOST) != 0;
            lent.iter().enumerate().filter(|(index, _)| was_told(*index)).for_each(|(_, lent)| warm.heat(&lent.item));
        }
        for (item, now) in returned.changed.iter().filter_map(|(index, now)| Some((&lent.get(*index)?.item, now))) {
            let mut items = self.items.lock();
            if now.events != events::NOT_LISTED {
                // What nobody may ask for is left out.
                let _ = is_in(&items, item).then(|| item.change(Wanted::new(now.events, now.data)));
            } else if self.take_out(&mut items, item) {
                self.leaving.lock().push(item.clone());
            }
        }
        self.put_into_ready(may_be_ready(lent), true)
    }

    /// Lends what was told of lately, as far as `left` says that the process sees it by itself. `told`: what has just been told of.
    /// `lend` lays it down for the thread. False: not now.
    pub(crate) fn lend(
        &self,
        told: &[Arc<Item>],
        left: impl Fn(&OpenFile, i32, Hears) -> Option<Left>,
        lend: impl FnOnce(&[Interest]) -> Box<dyn EventLender>,
    ) -> bool {
        let warm = {
            let mut warm = self.lending.warm.lock();
            told.iter().for_each(|item| warm.heat(item));
            let items = warm.cool();
            if items.is_empty() || !warm.is_worth_it() {
                return false;
            }
            items
        };
        let Some(number) = self.lending.begin() else { return false };
        let (mut items, mut interests) = (Vec::with_capacity(warm.len()), Vec::with_capacity(warm.len()));
        for item in warm {
            // Whoever changes it meanwhile has the list's lock.
            let Some(file) = item.file.upgrade().filter(|_| self.has(&item)) else { continue };
            let wanted = *item.wanted.lock();
            let hears = item.hears();
            // The edges that a process sees are those of what comes.
            let is_plain = wanted.events & (EPOLLONESHOT | EPOLLEXCLUSIVE) == 0
                && (hears == Hears::Levels || wanted.accepted().intersects(Events::IN | Events::RDNORM));
            let Some(left) = is_plain.then(|| left(&file, item.fd, hears)).flatten() else { continue };
            interests.push(Interest { descriptor: item.fd as u32, events: wanted.events, data: wanted.data });
            items.push(LentItem { item, left });
        }
        let may_be_lent = !items.is_empty() && self.queue.is_empty() && self.leave_ready(&items);
        {
            let mut loan = self.lending.loan.lock();
            // Whoever has ended it meanwhile has changed something.
            let stands = matches!(*loan, Loan::Begun(begun) if begun == number);
            if may_be_lent && stands {
                *loan = Loan::Lent { lender: lend(&interests), items };
                return true;
            }
            if stands {
                *loan = Loan::None;
                self.lending.stands.store(false, Ordering::Release);
            }
        }
        self.make_ready(may_be_ready(items), true);
        false
    }

    /// Leaves what is in the ready list to who is lent these. False: that has something else, too.
    fn leave_ready(&self, items: &[LentItem]) -> bool {
        let mut ready = self.ready.lock();
        let lent = |item: &Arc<Item>| items.iter().find(|lent| Arc::ptr_eq(&lent.item, item));
        if !ready.iter().all(|item| lent(item).is_some()) {
            return false;
        }
        ready.retain(|item| match lent(item).map(|lent| &lent.left) {
            Some(Left::Edges(edges)) if edges.add() => {
                item.queued.store(false, Ordering::Relaxed);
                false
            }
            _ => true,
        });
        // Of one that could not be left, nobody would tell.
        ready.iter().all(|item| lent(item).is_some_and(|lent| matches!(lent.left, Left::Levels)))
    }
}
