//! Pipes in memory that their users share: a process that reads and one that writes, or one that does both with several
//! threads (ADR 48). Their stubs read and write there; the sentry takes the pipe back when anybody else looks at it.
//!
//! Each of the two gets the memory with the answer to a call on the pipe. From then on lending it is one word.
//!
//! Lock order: `AddressSpace::pipes` is innermost; the pipe's own lock is taken with nothing of this held.

use super::loan::may_lend;
use super::{Engine, GuestThread};
use crate::context::Context;
use crate::fs::file::{StatusFlags, Transfer};
use crate::ipc::pipe::sharing::{SharedRing, User};
use crate::ipc::pipe::{PipeEnd, Side};
use skerry_platform::layout::{operation, pipes, Operation};
use skerry_platform::pipe_ring::{Nonblocking, PipeRing};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// How many there are at once: each has a descriptor of ours, and 68 KiB.
const MOST_SHARED: usize = 256;

/// What an address space has of them, by place.
pub(super) type Places = [Option<Arc<SharedRing>>; pipes::MOST];

impl Engine {
    /// Lends a pipe that the thread's call has used to the two processes that use it, where nobody else does. What the thread
    /// has to do for that, before its call returns, is added to `operations`.
    pub(super) fn share_pipe(&self, thread: &GuestThread, context: &mut Context, operations: &mut Vec<Operation>) {
        let Some((fd, file, direction)) = context.used_pipe.take() else { return };
        if context.used_alone.is_some() || file.path.is_some() || !may_lend(thread, context) {
            return;
        }
        let operations_of = file.operations.clone();
        let Some(end) = operations_of.as_any().downcast_ref::<PipeEnd>() else { return };
        let side = if direction == Transfer::Read { Side::Read } else { Side::Write };
        if end.side() != side {
            return;
        }
        let user = User {
            space: Arc::downgrade(&thread.space),
            files: Arc::downgrade(&context.task.files()),
            file: Arc::downgrade(&file),
            fd,
        };
        drop(file);
        let Some((reader, writer)) = end.users(side, user) else { return };
        let make = || {
            let number = (self.pipes_made.fetch_add(1, Ordering::Relaxed) % u32::from(u16::MAX)) as u16 + 1;
            let counted = self.pipes_shared.clone();
            if Arc::strong_count(&counted) > MOST_SHARED {
                return None;
            }
            let (ring, memory) = PipeRing::create(number).ok()?;
            Some(SharedRing::new(ring, memory, &reader, &writer, counted))
        };
        let Some(ring) = end.ring_of(&reader, &writer, make) else { return };
        if !ring.is_had_by(side) && !self.give_pipe(thread, context, &ring, operations) {
            return;
        }
        if ring.is_had_by_both() {
            lend(end, &ring);
        }
    }

    /// Has the thread map the pipe. False: not now.
    fn give_pipe(
        &self,
        thread: &GuestThread,
        context: &Context,
        ring: &Arc<SharedRing>,
        operations: &mut Vec<Operation>,
    ) -> bool {
        // Descriptors can be given to a thread that has rung only.
        let Some(rung) = thread.state.lock().ring else {
            thread.ring_next_time(&context.call);
            return false;
        };
        let mut places = thread.space.pipes.lock();
        let is_free = |place: &Option<Arc<SharedRing>>| place.as_ref().is_none_or(|present| present.is_free());
        let Some(index) = places.iter().position(is_free) else { return false };
        let Ok(descriptor) = thread.listener.listener.inject(rung, ring.memory.as_fd()) else { return false };
        thread.process.was_given(descriptor);
        let told = |user: &User| if user.is_in(&thread.space) { user.fd as u64 } else { pipes::NONE };
        let (number, may_spin) = (ring.ring.number().into(), self.spinner.is_possible().into());
        let arguments = [descriptor as u64, index as u64, number, told(&ring.reader), told(&ring.writer), may_spin];
        operations.push(Operation { kind: operation::PIPE, number: 0, arguments });
        places[index] = Some(ring.clone());
        ring.given_to(&thread.space);
        true
    }
}

fn lend(end: &PipeEnd, ring: &Arc<SharedRing>) {
    let nonblocking = || {
        let (reader, writer) = (ring.reader.open_file()?, ring.writer.open_file()?);
        // Between two processes, each is to have its end for itself: what one says of it concerns nobody else then. Its table's,
        // and ours.
        if !ring.is_one_process() && (Arc::strong_count(&reader) > 2 || Arc::strong_count(&writer) > 2) {
            return None;
        }
        let is_nonblocking = |flags: StatusFlags| flags.contains(StatusFlags::NONBLOCK);
        let (reader, writer) = (reader.flags(), writer.flags());
        let is_plain = !writer.contains(StatusFlags::DIRECT);
        is_plain.then(|| Nonblocking { reader: is_nonblocking(reader), writer: is_nonblocking(writer) })
    };
    let Some(how) = nonblocking() else { return };
    // Who changes any of that from here on ends the loan.
    if end.lend_shared(ring, how) && nonblocking() != Some(how) {
        end.end_shared();
    }
}
