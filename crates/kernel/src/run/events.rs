//! Interest lists that are lent to the thread that waits on them, as far as its process sees by itself what is in them: its stub
//! answers epoll_wait(2) (ADR 53).
//!
//! A loan is the list's ([`crate::event::epoll`]): whatever anybody does with that, or with what is in it, ends it first. It outlasts
//! other calls of the thread's.

use super::loan::may_lend;
use super::{Engine, GuestThread};
use crate::context::Context;
use crate::event::epoll::{Epoll, EventLender};
use crate::fs::file::OpenFile;
use crate::sync::Hears;
use parking_lot::Mutex;
use skerry_platform::channel::{Channel, ReturnedEvents};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// What is lent to a thread.
#[derive(Default)]
pub(super) struct Lent(Mutex<Last>);

#[derive(Default)]
struct Last {
    list: Weak<OpenFile>,
    number: u32,
}

struct Loan {
    channel: Arc<Channel>,
    number: u32,
    /// The thread may change them by itself.
    may_change: bool,
}

impl EventLender for Loan {
    fn take_back(&self) -> ReturnedEvents {
        let mut returned = self.channel.take_events_back(self.number);
        if !self.may_change {
            returned.changed.clear();
        }
        returned
    }
}

impl Lent {
    /// Nothing is lent to the thread any more.
    pub(super) fn end(&self) {
        let list = std::mem::take(&mut self.0.lock().list);
        if let Some(list) = list.upgrade() {
            list.operations.end_loan();
        }
    }
}

impl Engine {
    /// Lends the thread the list that it has just waited on.
    pub(super) fn lend_events(&self, thread: &GuestThread, context: &mut Context) {
        let Some((fd, list, told)) = context.waited.take() else { return };
        let Some(epoll) = list.downcast::<Epoll>() else { return };
        let files = context.task.files();
        if !may_lend(thread, context) || !files.may_be_direct() {
            return;
        }
        // There is one place for it.
        thread.events.end();
        let mut last = thread.events.0.lock();
        last.number = last.number.wrapping_add(1);
        let number = last.number;
        // As calls that are put off: not where each one is to be seen, or ruled on.
        let may_change = context.kernel().deferral.load(Ordering::Relaxed);
        let left = |file: &OpenFile, fd: i32, hears: Hears| file.operations.left_to_look(&thread.space, fd, hears);
        let is_lent = epoll.lend(&told, left, |interests| {
            thread.channel.lend_events(number, fd, interests, may_change);
            Box::new(Loan { channel: thread.channel.clone(), number, may_change })
        });
        if is_lent {
            last.list = Arc::downgrade(&list);
            drop(last);
            // Who closes the descriptor from here on ends the loan.
            if !files.get(fd).is_ok_and(|now| Arc::ptr_eq(&now, &list)) || !files.may_be_direct() {
                thread.events.end();
            }
        }
    }
}
