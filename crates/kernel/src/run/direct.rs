//! Making descriptors direct: at the end of a call on a file's data, while the caller still waits for the answer, the
//! file's host descriptor goes into its process, and the table entry that lets its stub use it. See [`crate::fs::direct`].

use super::{Engine, GuestThread};
use crate::context::Context;
use crate::fs::direct::{self, DirectTable};
use crate::fs::file::OpenFile;
use crate::Kernel;
use skerry_abi::raw::general as linux;
use skerry_platform::direct::Rights;
use skerry_platform::layout::{operation, Operation};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// Descriptors that one answer has closed at most.
const CLOSED_AT_ONCE: usize = 32;

fn operation(kind: u64, number: u32, argument: u64) -> Operation {
    Operation { kind, number: number.into(), arguments: [argument, 0, 0, 0, 0, 0] }
}

impl Engine {
    /// What the thread is to do for its process's direct descriptors before its call returns `value`; nothing, usually.
    pub(super) fn direct_operations(&self, thread: &GuestThread, context: &mut Context, value: i64) -> Vec<Operation> {
        let mut operations = Vec::new();
        self.share_pipe(thread, context, &mut operations);
        if let Some((fd, file)) = context.direct_offer.take() {
            self.make_direct(thread, context, fd, &file, &mut operations);
        }
        // The memory that a vfork(2) child uses is its parent's; descriptors are not.
        if context.may_carry_operations && thread.space.has_direct.load(Ordering::Acquire) {
            if let Some(table) = context.task.files().present_direct_table(thread.process.pid) {
                let close = |descriptor: i32| operation(operation::ALWAYS, linux::__NR_close, descriptor as u64);
                operations.extend(table.take_closing(CLOSED_AT_ONCE).into_iter().map(close));
            }
        }
        if !operations.is_empty() {
            operations.push(operation(operation::VALUE, 0, value as u64));
        }
        operations
    }

    fn make_direct(
        &self,
        thread: &GuestThread,
        context: &Context,
        fd: i32,
        file: &Arc<OpenFile>,
        operations: &mut Vec<Operation>,
    ) {
        let kernel = context.kernel();
        let (process, task) = (context.process(), context.task);
        let Some(registry) = kernel.direct_registry() else { return };
        let pid = thread.process.pid;
        if !may_have_direct(kernel, thread, context) {
            return;
        }
        let files = task.files();
        let limited = process.rlimit(linux::RLIMIT_FSIZE).current != u64::MAX;
        // What is mapped there would count where the host holds the limit.
        let has_windows = kernel.windows.load(Ordering::Relaxed) && process.rlimit(linux::RLIMIT_AS).current == u64::MAX;
        let life = if has_windows { self.loans.life() } else { 0 };
        let present = files.present_direct_table(pid);
        if let Some(table) = &present {
            let is_refreshed = || registry.refresh(table, fd, file, file.direct_rights(limited), life);
            if file.direct().is_some() && is_refreshed() {
                return lend_position(context, table, fd, file);
            }
            if !table.has_room_for(fd) {
                return;
            }
        }
        if direct::is_watched(&kernel.watches, file) {
            return;
        }
        let own = if file.operations.is_null() {
            None
        } else {
            let Ok(Some(host)) = file.hand_over() else { return file.stays_mediated() };
            let rights = file.direct_rights(limited);
            if !rights.read && rights.write_end.is_none() {
                return;
            }
            Some((host, rights))
        };
        let Some(ring) = thread.state.lock().ring else { return thread.must_ring.next_time(&context.call) };
        let mut memory = None;
        let made = || {
            let (table, pages) = DirectTable::create(pid).ok()?;
            memory = Some(pages);
            Some(table)
        };
        let Some(table) = present.or_else(|| files.direct_table(pid, made)) else { return };
        if let Some(memory) = memory {
            if !self.inject_table(thread, ring, &memory, operations) {
                files.leave_direct();
                return;
            }
            thread.space.has_direct.store(true, Ordering::Release);
        }
        let own = match own {
            Some((host, rights)) => match self.inject_to_stay(thread, ring, host.descriptor.as_fd(), operations) {
                Some(descriptor) => Some((descriptor, rights)),
                None => return,
            },
            None => None,
        };
        if own.is_some() {
            file.position.is_used_by(&table, fd);
        }
        let set = |window| files.set_direct(&table, fd, file, own.map(|(own, rights)| (own, Rights { window, ..rights })));
        let add = || registry.add(&kernel.watches, &table, fd, file, life, set);
        // From then on the file changes without a call, if only in its time of access.
        let is_added = if own.is_some() { self.loans.with_none(add) } else { add() };
        if !is_added {
            if let Some((descriptor, _)) = own {
                table.close_later(descriptor);
            }
        } else if own.is_some() {
            lend_position(context, &table, fd, file);
        }
    }

    /// A descriptor that stays does not have the number 0: a ring that returns 0 has brought nothing if that is not open
    /// (`handoff.rs` in the stub).
    fn inject_to_stay(
        &self,
        thread: &GuestThread,
        ring: u64,
        source: BorrowedFd<'_>,
        operations: &mut Vec<Operation>,
    ) -> Option<i32> {
        let inject = || {
            let descriptor = thread.listener.listener.inject(ring, source).ok()?;
            thread.process.was_given(descriptor);
            Some(descriptor)
        };
        let first = inject()?;
        if first != 0 {
            return Some(first);
        }
        operations.push(operation(operation::ALWAYS, linux::__NR_close, 0));
        inject()
    }

    fn inject_table(&self, thread: &GuestThread, ring: u64, memory: &OwnedFd, operations: &mut Vec<Operation>) -> bool {
        match thread.listener.listener.inject(ring, memory.as_fd()) {
            Ok(descriptor) => {
                thread.process.was_given(descriptor);
                operations.push(operation(operation::DIRECT_TABLE, 0, descriptor as u64));
                true
            }
            Err(_) => false,
        }
    }
}

/// Lends the process where the file stands, which it reads from there on. The calling thread is its only one: others could be about to
/// use the host's offset.
fn lend_position(context: &Context, table: &Arc<DirectTable>, fd: i32, file: &Arc<OpenFile>) {
    let reads_on = matches!(context.call.number as u32, linux::__NR_read | linux::__NR_readv);
    if reads_on && context.process().threads.lock().len() == 1 {
        file.position.lend(table, fd, |position| table.lend_position(fd, file, position));
    }
}

/// A vfork(2) child's table would lie in its parent's memory.
fn may_have_direct(kernel: &Kernel, thread: &GuestThread, context: &Context) -> bool {
    kernel.direct_data.load(Ordering::Relaxed) && context.may_carry_operations && thread.acts_unseen(context)
}
