//! Streams that are lent to who reads them: with the answer to epoll_wait(2) goes what lies ready in the sockets that it tells of,
//! and the stub answers read(2) and recv(2) from that (ADR 44).
//!
//! A loan is the stream's ([`crate::net::channel`]): whatever anybody does with that ends it first. It outlasts other calls of
//! the thread's, until it waits for events again.

use super::loan::may_lend;
use super::{Engine, GuestThread};
use crate::context::Context;
use crate::fs::file::OpenFile;
use crate::net::channel::{Channel as Stream, Lender};
use crate::net::SocketFile;
use parking_lot::Mutex;
use skerry_platform::channel::Channel;
use skerry_platform::layout::streams;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

/// What is lent to a thread.
#[derive(Default)]
pub(super) struct Lent {
    list: Mutex<Vec<Weak<Stream>>>,
    numbers: AtomicU32,
    worth: Arc<Worth>,
}

/// Whether a thread reads what is lent to it, from its last loans.
struct Worth {
    count: AtomicU32,
    /// Times that nothing was lent.
    left_out: AtomicU32,
}

impl Default for Worth {
    fn default() -> Worth {
        Worth { count: AtomicU32::new(Worth::MOST / 2), left_out: AtomicU32::new(0) }
    }
}

impl Worth {
    const MOST: u32 = 16;
    /// So often it is tried all the same.
    const TRY: u32 = 64;

    fn note(&self, was_read: bool) {
        let count = self.count.load(Ordering::Relaxed);
        self.count.store(if was_read { (count + 2).min(Worth::MOST) } else { count.saturating_sub(1) }, Ordering::Relaxed);
    }

    fn is_given(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0 || self.left_out.fetch_add(1, Ordering::Relaxed) % Worth::TRY == Worth::TRY - 1
    }
}

struct Loan {
    channel: Arc<Channel>,
    index: usize,
    number: u32,
    worth: Arc<Worth>,
}

impl Lender for Loan {
    fn take_back(&self) -> usize {
        let read = self.channel.take_stream_back(self.index, self.number).unwrap_or(0);
        self.worth.note(read > 0);
        read
    }
}

impl Engine {
    /// Lends the thread what lies ready where its call has told it to read. True: there is something.
    pub(super) fn lend_streams(&self, thread: &GuestThread, context: &mut Context) -> bool {
        let to_read = std::mem::take(&mut context.to_read);
        if to_read.is_empty() {
            return false;
        }
        let mut list = thread.streams.list.lock();
        // What was lent before lies where the new bytes go.
        list.drain(..).filter_map(|stream| stream.upgrade()).for_each(|stream| stream.end_loan_to_reader());
        if !may_lend(thread, context) || !thread.streams.worth.is_given() {
            return false;
        }
        let files = context.task.files();
        let mut start = 0;
        for (fd, file) in to_read {
            let Some(stream) = stream_behind(&file) else { continue };
            let (index, number) = (list.len(), thread.streams.numbers.fetch_add(1, Ordering::Relaxed));
            let lender = |bytes: &[u8]| {
                thread.channel.lend_stream(index, number, fd, start, bytes);
                Loan { channel: thread.channel.clone(), index, number, worth: thread.streams.worth.clone() }
            };
            let Some(length) = stream.lend(streams::DATA - start, lender) else { continue };
            start += length;
            list.push(Arc::downgrade(&stream));
            // Who closes the descriptor from here on ends the loan.
            if !files.get(fd).is_ok_and(|now| std::ptr::eq(file.as_ptr(), Arc::as_ptr(&now))) {
                stream.end_loan();
            }
        }
        !list.is_empty()
    }
}

fn stream_behind(file: &Weak<OpenFile>) -> Option<Arc<Stream>> {
    file.upgrade()?.downcast::<SocketFile>()?.socket.stream_to_read()
}
