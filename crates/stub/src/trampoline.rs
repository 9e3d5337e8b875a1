//! Trampolines of patched call sites, as the sentry writes them into the pages of files (and the stub itself next to sites
//! that it patches): the number into eax, the return address into rcx, and `jmp *%gs:0x100`, with jumps between them.
//!
//! To the guest there are none: a thread that is interrupted within one is in front of its call. It is known by the
//! bytes at its instruction pointer alone, since nothing else leads to that last jump.

use crate::context::Context;
use crate::host;

/// `jmp *%gs:0x100`.
const ENTER: [u8; 8] = [0x65, 0xff, 0x24, 0x25, 0x00, 0x01, 0x00, 0x00];
/// `lea rel32(%rip),%rcx`.
const LOAD_RETURN: [u8; 3] = [0x48, 0x8d, 0x0d];
const MOV_EAX: u8 = 0xb8;
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
    if let Some((number, behind)) = find(context) {
        context.rip = behind.wrapping_sub(2);
        if let Some(number) = number {
            context.rax = u64::from(number);
        }
    }
}

/// The number that is still to be loaded, if it is, and the address behind the call. Follows the code without running
/// it: jumps, and loads of eax and rcx, have no effect but those.
fn find(context: &Context) -> Option<(Option<u32>, u64)> {
    let mut at = context.rip;
    let (mut number, mut behind) = (None, context.rcx);
    for _ in 0..STEPS {
        let bytes = fetch(at)?;
        if bytes == ENTER {
            return Some((number, behind));
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

/// The eight bytes from `at` on; zeros for those that lie on a page which cannot be read.
fn fetch(at: u64) -> Option<[u8; 8]> {
    const PAGE: u64 = 4096;
    let mut bytes = [0u8; 8];
    let to = &raw mut bytes as u64;
    if host::copy(to, at, 8) {
        return Some(bytes);
    }
    let left = (PAGE - at % PAGE).min(8);
    (left < 8 && host::copy(to, at, left)).then_some(bytes)
}
