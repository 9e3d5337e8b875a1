//! Eventfds and pipes that are lent to the thread that alone uses them: its stub answers read(2) and write(2) (ADR 45).
//!
//! A loan is the object's ([`crate::fs::lending`]): whatever anybody else does with that ends it first. It outlasts other calls
//! of the thread's. Lock order: `Lent::places` > the object's own lock.

use super::loan::may_lend;
use super::{Engine, GuestThread};
use crate::context::Context;
use crate::fs::file::OpenFile;
use crate::fs::lending::{Lender, LentState, LentWatch, Returned};
use parking_lot::Mutex;
use skerry_platform::channel::{Channel, LentObject};
use skerry_platform::layout::objects;
use std::sync::{Arc, Weak};

/// What is lent to a thread.
#[derive(Default)]
pub(super) struct Lent {
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    /// By which each is read; some are lent no more.
    files: [Weak<OpenFile>; objects::MOST],
    next: usize,
    number: u32,
}

impl Places {
    /// Where `file` goes: where it was, else the place that was filled first, which is free then.
    fn free_for(&mut self, file: &Arc<OpenFile>) -> usize {
        if let Some(index) = self.files.iter().position(|present| std::ptr::eq(present.as_ptr(), Arc::as_ptr(file))) {
            return index;
        }
        let index = self.next;
        self.next = (index + 1) % objects::MOST;
        if let Some(other) = std::mem::take(&mut self.files[index]).upgrade() {
            other.operations.end_loan();
        }
        index
    }
}

impl Lent {
    /// Nothing is lent to the thread any more.
    pub(super) fn end(&self) {
        let files = std::mem::take(&mut self.places.lock().files);
        files.iter().filter_map(Weak::upgrade).for_each(|file| file.operations.end_loan());
    }
}

struct Loan {
    channel: Arc<Channel>,
    index: usize,
    number: u32,
    is_pipe: bool,
}

impl Lender for Loan {
    fn take_back(&self) -> Option<Returned> {
        let returned = self.channel.take_object_back(self.index, self.number)?;
        let state = if self.is_pipe {
            LentState::Bytes(self.channel.copy_object_data(self.index, returned))
        } else {
            LentState::Counter(returned.counter())
        };
        Some(Returned { calls: returned.calls, state, watched: LentWatch::default(), has_edge: false })
    }
}

impl Engine {
    /// Lends the thread the eventfd or pipe that its call has used, where nobody else has use of it. True: it has it.
    pub(super) fn lend_object(&self, thread: &GuestThread, context: &mut Context) -> bool {
        let Some((reader, writer)) = context.used_alone.take() else { return false };
        if !may_lend(thread, context) {
            return false;
        }
        let files = context.task.files();
        let (Ok(reading), Ok(writing)) = (files.get(reader), files.get(writer)) else { return false };
        let mut places = thread.objects.places.lock();
        let index = places.free_for(&reading);
        places.number = places.number.wrapping_add(1);
        let number = places.number;
        let is_lent = reading.operations.lend(&reading, &writing, &mut |object| {
            thread.channel.lend_object(index, number, reader, writer, object);
            let is_pipe = matches!(object, LentObject::Pipe { .. });
            Box::new(Loan { channel: thread.channel.clone(), index, number, is_pipe })
        });
        if !is_lent {
            reading.operations.usage().inspect(|usage| usage.note_loan(0));
            return false;
        }
        places.files[index] = Arc::downgrade(&reading);
        // Who loses a descriptor from here on ends the loan.
        let still = |fd, file: &Arc<OpenFile>| files.get(fd).is_ok_and(|now| Arc::ptr_eq(&now, file));
        if !still(reader, &reading) || !still(writer, &writing) {
            reading.operations.end_loan();
        }
        true
    }
}
