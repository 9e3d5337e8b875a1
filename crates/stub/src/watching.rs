//! Memory and code that a tracer watches with debug registers (ptrace(2), PTRACE_POKEUSER).
//!
//! The processor's own are the host's. So a thread whose tracer has set some makes one step after the other, by the trap flag, and looks
//! behind each: whether what is watched has another value, or a watched instruction comes next. Only the sentry can read instructions: where
//! memory is watched for being read, it is asked before each step (STEPS). The trap flag is seen by nobody: it is taken out of the
//! frame before each request, and out of what the program pushes.

use crate::context::Context;
use crate::handlers::{self, Place};
use crate::host;
use crate::layout::{request, Shown};
use crate::thread::ThreadBlock;
use crate::tracing;

/// si_code of SIGTRAP: a step; a debug register was hit (sigaction(2)).
pub const TRAP_TRACE: i32 = 2;
const TRAP_HWBKPT: i32 = 4;

const TRAP_FLAG: u64 = 0x100;
/// A step, in DR6.
const STEP: u64 = 0x4000;
const REGISTERS: usize = 4;

#[derive(Clone, Copy, PartialEq)]
enum Watched {
    Execution,
    Writes,
    Accesses,
}

/// What one debug register says.
struct Breakpoint {
    address: u64,
    length: u64,
    watched: Watched,
}

fn breakpoint(shown: &Shown, index: usize) -> Option<Breakpoint> {
    let control = shown.control;
    let watched = match control >> (16 + 4 * index) & 3 {
        0 => Watched::Execution,
        1 => Watched::Writes,
        _ => Watched::Accesses,
    };
    let length = match control >> (18 + 4 * index) & 3 {
        0 => 1,
        1 => 2,
        2 => 8,
        _ => 4,
    };
    let is_enabled = control >> (2 * index) & 3 != 0;
    is_enabled.then_some(Breakpoint { address: shown.watched[index], length, watched })
}

impl Breakpoint {
    /// What is there; 0 where nothing can be read. It lies within one aligned word.
    fn value(&self) -> u64 {
        let word = host::load(self.address & !7).unwrap_or(0);
        let bits = 8 * self.length;
        let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        word >> (8 * (self.address & 7)) & mask
    }
}

/// What the sentry has written there last.
fn shown(thread: &ThreadBlock) -> Shown {
    // SAFETY: in the thread's own block, plain data.
    unsafe { core::ptr::read_volatile(&raw const thread.tracing.shown) }
}

fn is_watched(thread: &ThreadBlock) -> bool {
    // SAFETY: as above.
    let control = unsafe { core::ptr::read_volatile(&raw const thread.tracing.shown.control) };
    control != 0 && tracing::is_traced(thread)
}

/// The thread goes on where `context` is: step by step, if something is watched.
#[inline(always)]
pub fn goes_on(thread: &mut ThreadBlock, context: &mut Context) {
    if thread.tracing.shown.control != 0 {
        take_a_step(thread, context);
    }
}

#[inline(never)]
fn take_a_step(thread: &mut ThreadBlock, context: &mut Context) {
    while is_watched(thread) {
        let mut now = shown(thread);
        let mut touches = 0;
        if (0..REGISTERS).any(|index| breakpoint(&now, index).is_some_and(|one| one.watched == Watched::Accesses)) {
            let at = context.rip;
            handlers::new_request(thread, at, context.rsp, request::STEPS);
            tracing::ask(thread, context);
            handlers::carry_out(thread, context, Place::OwnCode);
            now = shown(thread);
            if context.rip != at {
                // A handler comes first.
                continue;
            }
            touches = now.touched;
        }
        let watching = &mut thread.tracing.watching;
        watching.touches = touches;
        for (index, seen) in watching.seen.iter_mut().enumerate() {
            *seen = breakpoint(&now, index).map_or(0, |one| one.value());
        }
        if context.eflags & TRAP_FLAG == 0 {
            context.eflags |= TRAP_FLAG;
            watching.steps = 1;
        }
        watching.pushes_flags = u64::from(watching.steps != 0 && pushes_flags(context.rip));
        return;
    }
}

/// Whether the instruction there is a `pushf`.
fn pushes_flags(address: u64) -> bool {
    let [first, second, ..] = host::load(address).unwrap_or(0).to_le_bytes();
    // The prefixes that it can have are for its size.
    let code = if matches!(first, 0x40..=0x4f | 0x66) { second } else { first };
    code == 0x9c
}

/// Behind a step. What the guest, or its tracer, is to hear of it (si_code); `None`: nothing.
pub fn stepped(thread: &mut ThreadBlock, context: &mut Context) -> Option<i32> {
    let is_own = thread.tracing.watching.steps != 0;
    if core::mem::take(&mut thread.tracing.watching.pushes_flags) != 0 {
        let pushed = host::load(context.rsp).unwrap_or(0);
        host::store(context.rsp, pushed & !TRAP_FLAG);
    }
    let mut hits = 0;
    if is_watched(thread) {
        let now = shown(thread);
        let watching = &thread.tracing.watching;
        for index in 0..REGISTERS {
            let Some(one) = breakpoint(&now, index) else { continue };
            let is_hit = match one.watched {
                Watched::Execution => context.rip == one.address,
                Watched::Writes => one.value() != watching.seen[index],
                Watched::Accesses => watching.touches >> index & 1 != 0 || one.value() != watching.seen[index],
            };
            hits |= u64::from(is_hit) << index;
        }
    } else if is_own {
        give_up(thread, context);
    }
    if is_own && hits == 0 {
        return None;
    }
    thread.tracing.watching.hits = if is_own { hits } else { hits | STEP };
    Some(if is_own { TRAP_HWBKPT } else { TRAP_TRACE })
}

/// Takes our trap flag out of the frame. What has been hit, once.
pub fn give_up(thread: &mut ThreadBlock, context: &mut Context) -> u64 {
    let watching = &mut thread.tracing.watching;
    if core::mem::take(&mut watching.steps) != 0 {
        context.eflags &= !TRAP_FLAG;
    }
    core::mem::take(&mut watching.hits)
}
