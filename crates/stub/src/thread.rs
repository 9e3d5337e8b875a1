//! The thread block at the end of each slot.

use crate::deferred::Queue;
use crate::expected::Expected;
use crate::layout::{
    Certificate, ChannelLayout, Local, Request, Shown, BLOCK_OFFSET, BLOCK_SIZE, CERTIFICATE_OFFSET, CHANNEL_OFFSET,
    SLOTS_BASE, SLOT_SIZE, STACK_OFFSET, STACK_SIZE, WAY_OFFSET,
};
use crate::registers::Registers;
use core::cell::UnsafeCell;
use core::sync::atomic::AtomicU32;

/// Per-thread state. The gadgets read the fields from 0x40 on through gs, patched call sites the one at 0x100.
#[repr(C)]
pub struct ThreadBlock {
    pub address: u64,
    pub sequence: u32,
    _padding: u32,
    /// The error that an interrupted native call stands for.
    pub native_error: i64,
    pub native_number: u64,
    /// What the guest passed, where the native call has something else: op and timeout of futex(2), and the rest.
    pub deadline: [u64; 2],
    /// The guest set gs itself: native calls that need it are not made.
    pub gs_taken: u64,
    /// The guest's id of this thread, where the stub knows it (0: not yet).
    pub tid: u64,
    pub original_rsi: u64,
    pub original_rdx: u64,
    pub original_r10: u64,
    pub original_r9: u64,
    /// Where the guest goes on behind a native call.
    pub resume: u64,
    /// Not 0: behind the native call the guest makes its own call again; 1: but for a time that is up.
    pub call_again: u64,
    /// For a new thread: what it needs to enrol, and its first frame.
    pub token: [u64; 2],
    pub set_child_tid: u64,
    pub child_tid: u64,
    pub first_frame: u64,
    /// A word for the host to clear when the thread ends: the guest's is cleared by the stub (`park.rs`).
    pub cleared_word: u64,
    /// Whether this is a process of its own (it must renew its death signal).
    pub is_process: u64,
    /// What the last ring has returned: the number of a descriptor that came with the answer.
    pub injected: u64,
    /// The processor's clock when a native wait for `deadline` began; 0: that is not a length but a point in time.
    pub waits_since: u64,
    /// As those above it.
    pub original_rdi: u64,
    /// The number of the guest's call, which may be another one than the native one's.
    pub own_number: u64,
    /// How the thread's next request goes to the sentry: one of [`way`].
    pub way: u64,
    /// Of a process that has not presented itself: when it began, by the processor's clock.
    pub began: u64,
    _reserved_to_0x100: [u64; 5],
    /// The direct entry, where patched call sites jump to (`entry.rs`, which knows the offsets of all that follows).
    pub direct_entry: u64,
    /// The stack that it uses.
    pub direct_stack: u64,
    /// The registers of the patched call that is being served.
    pub direct: Registers,
    /// A host signal came while the stub worked: the sentry is to be asked before the guest goes on.
    pub kicked: u64,
    /// How the patched call is left; one of `entry::leave`.
    pub leaving: u64,
    /// Calls that have trapped since the sentry was last told that there are many.
    pub traps: u64,
    _reserved_to_0x1e0: [u64; 13],
    /// Where rewritten `cpuid` sites jump to (`cpuid.rs`, which knows the offsets).
    pub cpuid_entry: u64,
    /// What rax, rcx and rdx were there.
    pub cpuid_kept: [u64; 3],
    /// What is asked of the sentry, before it is put into the channel.
    pub request: Request,
    /// Of a thread that is traced (`tracing.rs`).
    pub tracing: Tracing,
    _reserved_to_0x500: [u64; 0x60 - (core::mem::size_of::<Request>() + core::mem::size_of::<Tracing>()) / 8],
    /// Of a thread that is parked, and what it begins with when it is used again (`park.rs`).
    pub parking: Parking,
    pub expected: Expected,
    _reserved_to_0x600: [u64; 0x20 - (core::mem::size_of::<Parking>() + core::mem::size_of::<Expected>()) / 8],
    /// Calls that go along with the next request.
    pub deferred: Queue,
    /// Not 0: the channel's loan and area are as the last answer left them (`loan.rs`). Its bits say which direct calls end that
    /// (`direct.rs`).
    pub has_loan: u64,
    /// Not 0: there may be streams that are lent (`streams.rs`); the next one to look at, plus one.
    pub has_streams: u64,
    /// Not 0: there may be eventfds and pipes that are lent (`objects.rs`).
    pub has_objects: u64,
    /// Not 0: the call on a direct descriptor that is being served is the sentry's (`windows.rs`, `positions.rs`).
    pub is_for_sentry: u64,
    /// Not 0: since its last request the thread has read something without the sentry, which may tell it of names (`board.rs`).
    pub has_news: u64,
    /// Waiting for shared pipes (`pipes.rs`).
    pub pipe_waits: PipeWaits,
    /// Waiting for events (`events.rs`), by looking and by giving way, and which of them comes first the next time.
    pub event_patience: Patience,
    pub event_way: Way,
    pub next_event: u64,
    /// What a process begins with that this thread makes; in that process, what it has begun with.
    pub certificate: UnsafeCell<Certificate>,
}

pub mod way {
    pub const RING: u64 = 0;
    /// By the host's clone(2) that the request is about.
    pub const FORK: u64 = 1;
    /// With the token of a process that has no channel yet.
    pub const FIRST: u64 = crate::layout::WAY_FIRST;
}

#[repr(C)]
pub struct Tracing {
    pub shown: Shown,
    /// What rax is behind the call, or at the program's start, that ends in `tracing.rs`'s trap.
    pub kept: u64,
    /// Where the guest goes on there.
    pub resume: u64,
    /// Not 0: there a program starts, and no call has been made.
    pub starts: u64,
    /// Not 0: a call has begun for the tracer, and what it shows is right.
    pub in_call: u64,
    /// Not 0: the sentry has answered the last request on the way out of its call.
    pub has_ended: u64,
    pub watching: Watching,
}

/// Of a thread whose tracer has set debug registers (`watching.rs`).
#[repr(C)]
pub struct Watching {
    /// Not 0: the trap flag in the frame is not the tracer's.
    pub steps: u64,
    /// What was there before the step.
    pub seen: [u64; 4],
    /// Which the step reads or writes, by bits.
    pub touches: u64,
    /// Not 0: the step lays the flags down, `pushf`.
    pub pushes_flags: u64,
    /// Which were hit, as DR6 says it.
    pub hits: u64,
}

#[repr(C)]
pub struct PipeWaits {
    /// When the call that is made again began to wait, by the processor's clock; 0: it has not.
    pub since: u64,
    /// How much it has written before that.
    pub done: u64,
    /// Not 0: that is all, and the sentry is to be told.
    pub tells: u64,
    pub patience: Patience,
}

/// Whether giving way pays for a thread that waits.
#[repr(C)]
pub struct Way {
    /// So many waits from now on it is not tried.
    pub left_out: u64,
    /// How many there were the last time.
    pub before: u64,
}

/// Whether spinning pays for a thread that waits.
#[repr(C)]
pub struct Patience {
    /// How long it takes until there is something, on average.
    pub spins: u64,
    /// So many waits from now on it is not tried, and how many there were the last time, where it has not paid then.
    pub left_out: u32,
    pub before: u32,
}

#[repr(C)]
pub struct Parking {
    /// One of `park::state`.
    pub state: AtomicU32,
    _padding: u32,
    /// Its thread pointer.
    pub tls: u64,
    /// Where a word is cleared when it ends; 0: nowhere.
    pub clear_child_tid: u64,
    /// Not 0: it has begun without the sentry's being asked (`births.rs`), and has asked nothing since.
    pub is_unasked: u64,
}

const _: () = assert!(core::mem::offset_of!(ThreadBlock, request) == 0x200 && core::mem::size_of::<Request>() <= 0x100);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, parking) == 0x500);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, way) == WAY_OFFSET as usize);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, certificate) == CERTIFICATE_OFFSET as usize);
const _: () = assert!(
    core::mem::offset_of!(ThreadBlock, deferred) == 0x600 && core::mem::size_of::<ThreadBlock>() <= BLOCK_SIZE as usize
);

const _: () = assert!(core::mem::offset_of!(ThreadBlock, original_rsi) == 0x40);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, original_rdx) == 0x48);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, original_r10) == 0x50);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, original_r9) == 0x58);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, resume) == 0x60);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, call_again) == 0x68);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, original_rdi) == 0xb8);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, own_number) == 0xc0);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, direct_entry) == 0x100);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, direct_stack) == 0x108);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, direct) == 0x110);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, kicked) == 0x160);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, leaving) == 0x168);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, cpuid_entry) == 0x1e0);
const _: () = assert!(core::mem::offset_of!(ThreadBlock, cpuid_kept) == 0x1e8);

/// Where the block of a slot is.
pub fn block_address(slot: u64) -> u64 {
    SLOTS_BASE + slot * SLOT_SIZE + BLOCK_OFFSET
}

/// The block of the running handler: its stack lies in the slot.
#[inline(always)]
pub fn current() -> &'static mut ThreadBlock {
    let stack_pointer: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rsp", out(reg) stack_pointer, options(nomem, nostack, preserves_flags)) };
    at((stack_pointer & !(SLOT_SIZE - 1)) + BLOCK_OFFSET)
}

pub fn at(address: u64) -> &'static mut ThreadBlock {
    // SAFETY: the slot was mapped before the thread that uses it started, and only that thread (or, before it starts,
    // its maker) uses the block.
    unsafe { &mut *(address as *mut ThreadBlock) }
}

impl ThreadBlock {
    fn slot(&self) -> u64 {
        self.address - BLOCK_OFFSET
    }
    pub fn channel(&self) -> *mut ChannelLayout {
        (self.slot() + CHANNEL_OFFSET) as *mut ChannelLayout
    }
    /// What is known of the thread: in its channel, or before it has one in what it has begun with.
    #[inline(always)]
    pub fn local(&self) -> *mut Local {
        if self.way == way::FIRST {
            // SAFETY: in the block; this makes no access.
            unsafe { &raw mut (*self.certificate.get()).local }
        } else {
            // SAFETY: within the channel; this makes no access.
            unsafe { &raw mut (*self.channel()).local }
        }
    }
    pub fn stack_base(&self) -> u64 {
        self.slot() + STACK_OFFSET
    }
    pub fn stack_top(&self) -> u64 {
        self.stack_base() + STACK_SIZE
    }
}
