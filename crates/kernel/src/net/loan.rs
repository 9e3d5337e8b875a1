//! Bytes that are lent to a thread: what waits in the sockets that its epoll_wait(2) tells of travels with the answer, so
//! that the read(2) that mostly follows needs no call (the stub's `loans.rs`, ADR 21).
//!
//! The bytes stay in the socket's [`Channel`], which knows its [`Loan`] and ends it before it does or tells anything that
//! depends on what is there ([`Loan::end`]): with one exchange of a word that both sides see the thread can take no more,
//! and what it has taken is gone from the channel. Whoever else has the socket sees no difference to a call that came just
//! before. The word says no more than how many of its own bytes the thread has taken, which it might as well have received.
//!
//! Lock order: `Channel::state` > `Lender::lent`; the table of descriptors > both.

use super::channel::Channel;
use parking_lot::Mutex;
use skerry_platform::channel::Channel as ThreadChannel;
use skerry_platform::layout::loan::{COUNT, HEADER, LIMIT, REVOKED};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

/// Loans in a row of which nothing was taken, after which a thread gets no more: it reads in another way.
const PATIENCE: u32 = 64;

/// What a thread is lent by.
pub struct Lender {
    channel: Arc<ThreadChannel>,
    last_number: AtomicU32,
    lent: Mutex<Vec<Weak<Channel>>>,
    unused: AtomicU32,
}

impl Lender {
    pub fn new(channel: Arc<ThreadChannel>) -> Arc<Lender> {
        Arc::new(Lender { channel, last_number: AtomicU32::new(0), lent: Mutex::default(), unused: AtomicU32::new(0) })
    }

    /// Ends all loans of the thread.
    pub fn settle(&self) {
        let lent = std::mem::take(&mut *self.lent.lock());
        for channel in lent.iter().filter_map(Weak::upgrade) {
            channel.settle();
        }
    }

    pub fn is_of_use(&self) -> bool {
        self.unused.load(Ordering::Relaxed) < PATIENCE
    }
}

/// Bytes at the start of a channel that a thread can take.
pub struct Loan {
    lender: Arc<Lender>,
    index: usize,
    number: u32,
    length: usize,
}

impl Loan {
    /// How many bytes have been taken. The thread can take none from now on.
    pub fn end(self) -> usize {
        let word = self.lender.channel.exchange_loan(self.index, REVOKED);
        let taken = if (word >> 32) as u32 == self.number { (word as u32 as usize).min(self.length) } else { 0 };
        if taken > 0 {
            self.lender.unused.store(0, Ordering::Relaxed);
        } else {
            self.lender.unused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }
}

/// The loans of one answer.
pub struct Offer<'a> {
    lender: &'a Arc<Lender>,
    records: Vec<u8>,
    count: usize,
}

impl<'a> Offer<'a> {
    /// Ends what the thread has been lent before.
    pub fn new(lender: &'a Arc<Lender>) -> Offer<'a> {
        lender.settle();
        Offer { lender, records: Vec::new(), count: 0 }
    }

    pub fn is_full(&self) -> bool {
        self.count >= COUNT
    }

    /// Lends `length` bytes of `channel`, which `peek` copies. `None`: too many.
    pub fn add(&mut self, descriptor: i32, channel: &Arc<Channel>, length: usize, peek: impl FnOnce(&mut [u8])) -> Option<Loan> {
        if self.is_full() || length == 0 || length > LIMIT {
            return None;
        }
        let number = self.lender.last_number.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1);
        let index = self.count;
        self.count += 1;
        let start = self.records.len();
        self.records.extend((u64::from(number) << 32 | u64::from(descriptor as u32)).to_ne_bytes());
        self.records.extend((length as u64).to_ne_bytes());
        self.records.resize(start + HEADER + length.next_multiple_of(8), 0);
        peek(&mut self.records[start + HEADER..start + HEADER + length]);
        self.lender.channel.exchange_loan(index, u64::from(number) << 32);
        self.lender.lent.lock().push(Arc::downgrade(channel));
        Some(Loan { lender: self.lender.clone(), index, number, length })
    }

    /// What travels with the answer.
    pub fn into_records(self) -> Vec<u8> {
        self.records
    }
}
