//! The bases of fs and gs: the guest's thread pointer, and the stub's own block. Where the host lets programs set them
//! (FSGSBASE, Linux 5.9) no call is made for that, and the filter has none.

use crate::call;
use crate::host::number;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;

const EPERM: i64 = -1;
/// Behind the last address that a base can be, as arch_prctl(2) takes it.
const END: u64 = 0x7fff_ffff_f000;

/// The processor's instructions are there for us. The zygote says so before it forks.
#[link_section = ".data"]
static INSTRUCTIONS: AtomicBool = AtomicBool::new(false);

pub fn use_instructions(are_there: bool) {
    INSTRUCTIONS.store(are_there, Ordering::Relaxed);
}

fn are_there() -> bool {
    INSTRUCTIONS.load(Ordering::Relaxed)
}

/// 0, or EPERM.
pub fn set_fs(address: u64) -> i64 {
    if !are_there() {
        return call!(number::ARCH_PRCTL, ARCH_SET_FS, address);
    }
    if address >= END {
        return EPERM;
    }
    // SAFETY: fs is the guest's; the stub does not use it. The address is one that the processor takes.
    unsafe { asm!("wrfsbase {}", in(reg) address, options(nomem, nostack, preserves_flags)) };
    0
}

pub fn fs() -> u64 {
    let mut address = 0u64;
    if are_there() {
        // SAFETY: reads a register.
        unsafe { asm!("rdfsbase {}", out(reg) address, options(nomem, nostack, preserves_flags)) };
    } else {
        call!(number::ARCH_PRCTL, ARCH_GET_FS, &raw mut address);
    }
    address
}

/// 0, or EPERM.
pub fn set_gs(address: u64) -> i64 {
    if !are_there() {
        return call!(number::ARCH_PRCTL, ARCH_SET_GS, address);
    }
    if address >= END {
        return EPERM;
    }
    // SAFETY: nothing of this code uses gs; patched sites and gadgets do only where it is the block's. As above.
    unsafe { asm!("wrgsbase {}", in(reg) address, options(nomem, nostack, preserves_flags)) };
    0
}

pub fn gs() -> u64 {
    let mut address = 0u64;
    if are_there() {
        // SAFETY: reads a register.
        unsafe { asm!("rdgsbase {}", out(reg) address, options(nomem, nostack, preserves_flags)) };
    } else {
        call!(number::ARCH_PRCTL, ARCH_GET_GS, &raw mut address);
    }
    address
}
