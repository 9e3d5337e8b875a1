//! Trampolines of patched call sites, as the sentry writes them into the pages of files (and the stub itself next to sites
//! that it patches): the number into eax, the return address into rcx, and `jmp *%gs:0x100`, with jumps between them.
//!
//! To the guest there are none: a thread that is interrupted within one is in front of its call. It is known by the
//! bytes at its instruction pointer alone, since nothing else leads to that last jump.

use crate::context::Context;
use crate::host::{self, PAGE};

/// `jmp *%gs:0x100`.
const ENTER: [u8; 8] = [0x65, 0xff, 0x24, 0x25, 0x00, 0x01, 0x00, 0x00];
/// `lea rel32(%rip),%rcx`.
const LOAD_RETURN: [u8; 3] = [0x48, 0x8d, 0x0d];
const MOV_EAX: u8 = 0xb8;
/// Of that load.
const LOAD_LENGTH: u64 = 5;
const JUMP: u8 = 0xe9;
const SHORT_JUMP: u8 = 0xeb;
/// Jumps and instructions that a trampoline has at most, with those of the site.
const STEPS: u32 = 8;

/// Whether the thread stands in a trampoline, or on a site that leads to one.
pub fn is_within(context: &Context) -> bool {
    find(context).is_some()
}

/// If the thread stands in a trampoline, puts it in front of its call: at the site's own address, where the call is made
/// whatever is there now (the `syscall`, or the jump in its place).
pub fn leave(context: &mut Context) {
    if let Some(found) = find(context) {
        context.rip = found.behind.wrapping_sub(2);
        match found.number {
            // In front of the load, which comes before it.
            Some(_) if found.lea != 0 => context.rip -= LOAD_LENGTH + found.lea,
            Some(number) => context.rax = u64::from(number),
            None => {}
        }
    }
}

/// Where a trampoline leads to.
struct Found {
    /// The number that is still to be loaded, if it is.
    number: Option<u32>,
    /// The address behind the call.
    behind: u64,
    /// The length of the `lea` that is still to be made, which comes right before the call; 0: of none.
    lea: u64,
}

/// Follows the code without running it: jumps, and loads of eax and rcx, have no effect but those.
fn find(context: &Context) -> Option<Found> {
    let mut at = context.rip;
    let (mut number, mut behind) = (None, context.rcx);
    let mut lea = 0;
    let first = fetch(at)?;
    if matches!(first[..2], [0x48..=0x4f, 0x8d]) && first[..3] != LOAD_RETURN {
        lea = lea_length(first[2], first[3]);
        at = at.wrapping_add(lea);
        if fetch(at)?[0] != MOV_EAX {
            return None;
        }
    }
    for _ in 0..STEPS {
        let bytes = fetch(at)?;
        if bytes == ENTER {
            return Some(Found { number, behind, lea });
        }
        let distance = |from: usize| bytes.get(from..)?.first_chunk().map(|bytes| i32::from_le_bytes(*bytes));
        at = match bytes[0] {
            MOV_EAX => {
                number = distance(1).map(|value| value as u32);
                at.wrapping_add(5)
            }
            JUMP => at.wrapping_add(5).wrapping_add_signed(distance(1)?.into()),
            SHORT_JUMP => at.wrapping_add(2).wrapping_add_signed((bytes[1] as i8).into()),
            _ if bytes[..3] == LOAD_RETURN => {
                behind = at.wrapping_add(7).wrapping_add_signed(distance(3)?.into());
                at.wrapping_add(7)
            }
            _ => return None,
        };
    }
    None
}

/// The length of a `lea` with one prefix, by the bytes that follow its opcode.
fn lea_length(mode: u8, scale: u8) -> u64 {
    let has_scale = mode & 7 == 4;
    let distance = match mode >> 6 {
        0 if mode & 7 == 5 || has_scale && scale & 7 == 5 => 4,
        0 => 0,
        1 => 1,
        _ => 4,
    };
    3 + u64::from(has_scale) + distance
}

/// The eight bytes from `at` on; zeros for those that lie on a page which cannot be read.
fn fetch(at: u64) -> Option<[u8; 8]> {
    let mut bytes = [0u8; 8];
    let to = &raw mut bytes as u64;
    if host::copy(to, at, 8) {
        return Some(bytes);
    }
    let left = (PAGE - at % PAGE).min(8);
    (left < 8 && host::copy(to, at, left)).then_some(bytes)
}
