//! Calls that the host kernel serves in the application's own process: memory and futexes. They concern only this
//! process; the filter bounds their arguments, and what is checked here keeps the guest from tripping over the stub.

use crate::bases;
use crate::call;
use crate::copies;
use crate::expected;
use crate::handoff;
use crate::host::{self, number};
use crate::layout::{RESERVED_END, STUB_BASE};
use crate::registers::Registers;
use crate::serve::Outcome;
use crate::thread::ThreadBlock;

const ENOMEM: i64 = -12;
const EINVAL: i64 = -22;
const EFAULT: i64 = -14;
const ENOSYS: i64 = -38;
const ERESTARTSYS: i64 = 512;
/// With a timeout: EINTR if a handler runs, else the wait goes on.
const ERESTARTNOHAND: i64 = 514;

/// In `ThreadBlock::call_again`: the guest makes its own call again behind the native one, and 2: even where a time is up.
const AGAIN: u64 = 1;
pub const ALWAYS_AGAIN: u64 = 2;

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;

const MAP_SHARED: u64 = 1;
const MAP_TYPE: u64 = 0xf;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
/// PRIVATE|SHARED, FIXED, ANONYMOUS, 32BIT, DENYWRITE, EXECUTABLE, NORESERVE, POPULATE, NONBLOCK, STACK, FIXED_NOREPLACE.
const MAP_NATIVE: u64 =
    0x3 | MAP_FIXED | MAP_ANONYMOUS | 0x40 | 0x800 | 0x1000 | 0x4000 | 0x8000 | 0x1_0000 | 0x2_0000 | MAP_FIXED_NOREPLACE;
/// GROWSDOWN, LOCKED, HUGETLB: taken for what they also are without them.
const MAP_DROPPED: u64 = 0x100 | 0x2000;

/// READ, WRITE, EXEC.
const PROTECTION: u64 = 7;
const PROT_SEM: u64 = 8;

const FUTEX_WAIT: u64 = 0;
const FUTEX_WAKE: u64 = 1;
const FUTEX_REQUEUE: u64 = 3;
const FUTEX_CMP_REQUEUE: u64 = 4;
const FUTEX_WAKE_OP: u64 = 5;
const FUTEX_LOCK_PI: u64 = 6;
const FUTEX_UNLOCK_PI: u64 = 7;
const FUTEX_TRYLOCK_PI: u64 = 8;
const FUTEX_LOCK_PI2: u64 = 13;
const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_WAKE_BITSET: u64 = 10;
const FUTEX_PRIVATE: u64 = 128;
const FUTEX_CLOCK_REALTIME: u64 = 256;
const BITSET_MATCH_ANY: u64 = 0xffff_ffff;

/// Serves the call if it is one of these. `None`: it is the sentry's.
#[link_section = ".calls"]
pub fn try_native(thread: &mut ThreadBlock, registers: &mut Registers) -> Option<Outcome> {
    let call_number = registers.rax;
    let [a, b, c, d, e, f] = registers.arguments();
    let result = match call_number {
        number::MMAP => {
            if d & MAP_ANONYMOUS == 0 {
                return expected::take(thread, &[a, b, c, d, e, f]).map(Outcome::Return);
            }
            expected::forget(thread);
            let flags = d & !MAP_DROPPED;
            if flags & !MAP_NATIVE != 0 || !matches!(flags & MAP_TYPE, MAP_SHARED | 2) {
                return None;
            }
            if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 && touches_stub(a, b) {
                ENOMEM
            } else {
                if flags & MAP_FIXED != 0 {
                    copies::forget(a, b);
                }
                if a != 0 {
                    copies::let_go(a, b);
                }
                // A hint into the reserved range is only a hint.
                let hint = if touches_stub(a, b) { 0 } else { a };
                // Unknown protection bits are passed over, as by Linux.
                let mut mapped: i64 = call!(number::MMAP, hint, b, c & PROTECTION, flags, -1i64, f);
                if mapped == ENOMEM && copies::let_all_go() {
                    mapped = call!(number::MMAP, hint, b, c & PROTECTION, flags, -1i64, f);
                }
                if mapped > 0 && touches_stub(mapped as u64, b) {
                    // The rest of the address space is full: the reserved range is not for the guest.
                    call!(number::MUNMAP, mapped, b);
                    ENOMEM
                } else {
                    mapped
                }
            }
        }
        number::MUNMAP => {
            if touches_stub(a, b) {
                EINVAL
            } else {
                copies::munmap(a, b)
            }
        }
        number::MPROTECT => {
            // GROWSDOWN and GROWSUP need a mapping that grows, of which there is none.
            if touches_stub(a, b) || c & !(PROTECTION | PROT_SEM) != 0 {
                EINVAL
            } else {
                copies::let_go(a, b);
                call!(number::MPROTECT, a, b, c & PROTECTION)
            }
        }
        number::MADVISE => {
            if touches_stub(a, b) {
                EINVAL
            } else {
                copies::let_go(a, b);
                if c > 8 {
                    copies::set_apart(a, b);
                }
                match c {
                    // DONTNEED, FREE.
                    4 | 8 => copies::reset(a, b, c),
                    // NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTFORK, DOFORK, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP, WIPEONFORK, KEEPONFORK, POPULATE_*
                    0..=3 | 10 | 11 | 14..=19 | 22 | 23 => call!(number::MADVISE, a, b, c),
                    // MERGEABLE, UNMERGEABLE, COLD, PAGEOUT, COLLAPSE: hints that need not be taken.
                    12 | 13 | 20 | 21 | 25 => 0,
                    9 => return None,
                    _ => EINVAL,
                }
            }
        }
        number::MREMAP => {
            // MAYMOVE, FIXED; not DONTUNMAP.
            if touches_stub(a, b) || d & 2 != 0 && touches_stub(e, c) || d & !3 != 0 {
                EINVAL
            } else {
                // Behind a mapping that grows there may be room, too.
                copies::let_all_go();
                if d & 2 != 0 {
                    copies::forget(e, c);
                }
                let result = call!(number::MREMAP, a, b, c, d, e);
                if result >= 0 {
                    copies::moved(a, b, result as u64, c);
                }
                result
            }
        }
        number::SCHED_YIELD => call!(number::SCHED_YIELD),
        // Every thread of a C library's asks at its start, and goes on without.
        number::RSEQ => ENOSYS,
        number::ARCH_PRCTL => {
            let tell = |base: u64| if host::store(b, base) { 0 } else { EFAULT };
            match a & 0xffff_ffff {
                ARCH_SET_FS => bases::set_fs(b),
                ARCH_GET_FS => tell(bases::fs()),
                ARCH_SET_GS => {
                    let result = bases::set_gs(b);
                    if result == 0 {
                        thread.gs_taken = 1;
                    }
                    result
                }
                ARCH_GET_GS => tell(if thread.gs_taken != 0 { bases::gs() } else { 0 }),
                _ => EINVAL,
            }
        }
        number::FUTEX => return futex(thread, registers),
        _ => return None,
    };
    Some(Outcome::Return(result))
}

fn touches_stub(address: u64, length: u64) -> bool {
    address < RESERVED_END && address.saturating_add(length.max(1)) > STUB_BASE
}

/// futex(2). Waits are made in the guest's own context, through the gadget.
fn futex(thread: &mut ThreadBlock, registers: &mut Registers) -> Option<Outcome> {
    let operation = registers.rsi & 0xffff_ffff;
    let command = operation & !(FUTEX_PRIVATE | FUTEX_CLOCK_REALTIME);
    match command {
        FUTEX_WAKE | FUTEX_REQUEUE | FUTEX_CMP_REQUEUE | FUTEX_WAKE_OP | FUTEX_WAKE_BITSET => {
            let [address, _, third, fourth, fifth, sixth] = registers.arguments();
            Some(Outcome::Return(call!(number::FUTEX, address, operation, third, fourth, fifth, sixth)))
        }
        FUTEX_WAIT | FUTEX_WAIT_BITSET => Some(futex_wait(thread, registers, operation, command)),
        FUTEX_LOCK_PI | FUTEX_LOCK_PI2 | FUTEX_TRYLOCK_PI | FUTEX_UNLOCK_PI if thread.gs_taken == 0 && thread.tid != 0 => {
            Some(owned::serve(thread, registers, operation, command))
        }
        _ => None,
    }
}

fn futex_wait(thread: &mut ThreadBlock, registers: &mut Registers, operation: u64, command: u64) -> Outcome {
    let mut timeout = 0;
    thread.waits_since = 0;
    if registers.r10 != 0 {
        let mut given = [0u64; 2];
        if !host::copy(&raw mut given as u64, registers.r10, 16) {
            return Outcome::Return(EFAULT);
        }
        if given[1] >= 1_000_000_000 || (given[0] as i64) < 0 {
            return Outcome::Return(EINVAL);
        }
        if command == FUTEX_WAIT {
            // So that the rest of it can be waited after a kick.
            thread.waits_since = handoff::ticks();
        }
        thread.deadline = given;
        timeout = &raw const thread.deadline as u64;
    }
    if thread.gs_taken != 0 {
        return Outcome::Return(wait_a_little(registers, operation, command));
    }
    thread.native_error = if timeout == 0 { ERESTARTSYS } else { ERESTARTNOHAND };
    thread.call_again = 0;
    wait_natively(thread, registers, operation, registers.rdx, timeout, registers.r9)
}

/// Where the guest has gs, which the gadget needs: a bounded wait, and a wake-up that may be spurious, as futex(2) allows.
fn wait_a_little(registers: &Registers, operation: u64, command: u64) -> i64 {
    const EINTR: i64 = -4;
    const ETIMEDOUT: i64 = -110;
    const TEN_MILLISECONDS: [u64; 2] = [0, 10_000_000];
    const PAST: [u64; 2] = [0, 0];
    let plain = operation & FUTEX_PRIVATE | FUTEX_WAIT;
    let result = if command == FUTEX_WAIT || registers.r9 & BITSET_MATCH_ANY == BITSET_MATCH_ANY {
        call!(number::FUTEX, registers.rdi, plain, registers.rdx, TEN_MILLISECONDS.as_ptr())
    } else {
        // Only to a time of a clock, and which it is nobody here knows: a look at the word, and a rest.
        let operation = operation & !FUTEX_CLOCK_REALTIME;
        let result = call!(number::FUTEX, registers.rdi, operation, registers.rdx, PAST.as_ptr(), 0, registers.r9);
        if result == ETIMEDOUT {
            let nobodys = 0u32;
            call!(number::FUTEX, &raw const nobodys, FUTEX_PRIVATE | FUTEX_WAIT, 0, TEN_MILLISECONDS.as_ptr());
        }
        result
    };
    if matches!(result, ETIMEDOUT | EINTR) {
        0
    } else {
        result
    }
}

/// What is left of a wait for some time that has been interrupted. `nanoseconds`: of 2^32 ticks.
pub fn wait_for_the_rest(thread: &mut ThreadBlock, nanoseconds: u64) {
    const SECOND: u64 = 1_000_000_000;
    if thread.waits_since == 0 {
        return;
    }
    let now = handoff::ticks();
    // Another CPU's clock may be behind.
    let ticks = (now.wrapping_sub(thread.waits_since) as i64).max(0) as u64;
    let passed = (u128::from(ticks) * u128::from(nanoseconds)) >> 32;
    // Rather a little late than early.
    let passed = passed - (passed >> 12);
    let [seconds, rest] = thread.deadline;
    // A hundred years are enough.
    let whole = seconds.min(u32::MAX.into()) * SECOND + rest;
    let left = whole.saturating_sub(passed.min(u64::MAX.into()) as u64);
    thread.deadline = [left / SECOND, left % SECOND];
    thread.waits_since = now;
}

/// Has a call wait until the word at `address` is not `value` any more, or for `time`, and then be made again. Only a thread
/// whose gs is the stub's can.
pub fn wait_and_call_again(
    thread: &mut ThreadBlock,
    registers: &mut Registers,
    address: u64,
    value: u32,
    time: [u64; 2],
) -> Outcome {
    thread.native_error = ERESTARTSYS;
    thread.waits_since = 0;
    thread.deadline = time;
    thread.call_again = ALWAYS_AGAIN;
    let timeout = &raw const thread.deadline as u64;
    let outcome = wait_natively(thread, registers, FUTEX_WAIT, value.into(), timeout, 0);
    registers.rdi = address;
    outcome
}

/// Wakes all who wait so.
pub fn wake_all(address: u64) {
    call!(number::FUTEX, address, FUTEX_WAKE, i32::MAX);
}

/// A wait by the gadget; what it replaces in the registers is put back behind it.
fn wait_natively(
    thread: &mut ThreadBlock,
    registers: &mut Registers,
    operation: u64,
    value: u64,
    timeout: u64,
    bitset: u64,
) -> Outcome {
    thread.native_number = number::FUTEX;
    thread.own_number = registers.rax;
    thread.original_rdi = registers.rdi;
    thread.original_rsi = registers.rsi;
    thread.original_rdx = registers.rdx;
    thread.original_r10 = registers.r10;
    thread.original_r9 = registers.r9;
    thread.resume = registers.rip;
    registers.rax = number::FUTEX;
    registers.rsi = operation;
    registers.rdx = value;
    registers.r10 = timeout;
    registers.r9 = bitset;
    Outcome::Native
}

/// Locks whose word holds the owner's id (futex(2), "Priority-inheritance futexes"), without what gives them their name:
/// priorities are not the guest's to give. The host must not see them, since the ids in the words are the guest's; who
/// has to wait does so on an ordinary futex, and then makes its call again.
///
/// FUTEX_WAITERS stays set as long as somebody may wait: a lock that is let go has only that bit, which keeps others from
/// taking it behind the stub's back, until an owner finds nobody to wake.
mod owned {
    use super::*;
    use core::sync::atomic::{AtomicU32, Ordering};

    const WAITERS: u32 = 0x8000_0000;
    const OWNER_DIED: u32 = 0x4000_0000;
    const TID: u32 = 0x3fff_ffff;
    const EPERM: i64 = -1;
    const EAGAIN: i64 = -11;
    const EDEADLK: i64 = -35;
    const ERESTARTNOINTR: i64 = 513;

    pub fn serve(thread: &mut ThreadBlock, registers: &mut Registers, operation: u64, command: u64) -> Outcome {
        let address = registers.rdi;
        if address % 4 != 0 || touches_stub(address, 4) {
            return Outcome::Return(EINVAL);
        }
        // Another thread that takes the memory away meanwhile makes it a fault of the guest's.
        if !host::is_writable(address) {
            return Outcome::Return(EFAULT);
        }
        // SAFETY: aligned, and the guest's to use with atomic instructions; what it does to its own memory harms itself.
        let word = unsafe { &*(address as *const AtomicU32) };
        let tid = thread.tid as u32 & TID;
        let private = operation & FUTEX_PRIVATE;
        if command == FUTEX_UNLOCK_PI {
            return Outcome::Return(unlock(word, tid, private));
        }
        let seen = match take(word, tid, command == FUTEX_TRYLOCK_PI) {
            Ok(result) => return Outcome::Return(result),
            Err(seen) => seen,
        };
        let mut timeout = 0;
        if registers.r10 != 0 {
            if !host::copy(&raw mut thread.deadline as u64, registers.r10, 16) {
                return Outcome::Return(EFAULT);
            }
            if thread.deadline[1] >= 1_000_000_000 || (thread.deadline[0] as i64) < 0 {
                return Outcome::Return(EINVAL);
            }
            timeout = &raw const thread.deadline as u64;
        }
        let clock = if command == FUTEX_LOCK_PI { FUTEX_CLOCK_REALTIME } else { operation & FUTEX_CLOCK_REALTIME };
        thread.native_error = ERESTARTNOINTR;
        thread.waits_since = 0;
        thread.call_again = AGAIN;
        wait_natively(thread, registers, FUTEX_WAIT_BITSET | private | clock, seen.into(), timeout, BITSET_MATCH_ANY)
    }

    /// The call's result, or the word as it is to be waited on.
    fn take(word: &AtomicU32, tid: u32, only_try: bool) -> Result<i64, u32> {
        let mut seen = word.load(Ordering::Acquire);
        loop {
            let wanted = match seen & TID {
                0 => seen & (WAITERS | OWNER_DIED) | tid,
                owner if owner == tid => return Ok(EDEADLK),
                _ if only_try => return Ok(EAGAIN),
                _ => seen | WAITERS,
            };
            if seen == wanted {
                return Err(seen);
            }
            match word.compare_exchange(seen, wanted, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) if seen & TID == 0 => return Ok(0),
                Ok(_) => return Err(wanted),
                Err(now) => seen = now,
            }
        }
    }

    fn unlock(word: &AtomicU32, tid: u32, private: u64) -> i64 {
        let mut seen = word.load(Ordering::Acquire);
        loop {
            if seen & TID != tid {
                return EPERM;
            }
            match word.compare_exchange(seen, seen & WAITERS, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        if seen & WAITERS != 0 && call!(number::FUTEX, word as *const AtomicU32, FUTEX_WAKE | private, 1) == 0 {
            // Nobody waits, and nobody begins to while the word has no owner.
            let _ = word.compare_exchange(WAITERS, 0, Ordering::AcqRel, Ordering::Acquire);
        }
        0
    }
}
