//! The registers that a system call is made of, whichever way it came in: taken from the host's signal frame where it
//! trapped, saved by the direct entry where its site is patched.

use crate::context::Context;

/// `entry.rs` knows the offsets.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Registers {
    pub rsp: u64,
    /// The number; behind a native call's gadget its result.
    pub rax: u64,
    /// Behind the `syscall`: where the guest goes on. The two bytes before it make the call again (a `syscall`, or the
    /// jump that took its place).
    pub rip: u64,
    pub flags: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub r10: u64,
    pub r8: u64,
    pub r9: u64,
}

const _: () = assert!(core::mem::offset_of!(Registers, flags) == 0x18);
const _: () = assert!(core::mem::offset_of!(Registers, r9) == 0x48);

impl Registers {
    pub fn of(context: &Context) -> Registers {
        Registers {
            rsp: context.rsp,
            rax: context.rax,
            rip: context.rip,
            flags: context.eflags,
            rdi: context.rdi,
            rsi: context.rsi,
            rdx: context.rdx,
            r10: context.r10,
            r8: context.r8,
            r9: context.r9,
        }
    }

    /// Makes the context what the processor's `syscall` leaves behind: rcx and r11 hold rip and the flags.
    pub fn put_into(&self, context: &mut Context) {
        context.rsp = self.rsp;
        context.rax = self.rax;
        (context.rip, context.rcx) = (self.rip, self.rip);
        (context.eflags, context.r11) = (self.flags, self.flags);
        context.rdi = self.rdi;
        context.rsi = self.rsi;
        context.rdx = self.rdx;
        context.r10 = self.r10;
        context.r8 = self.r8;
        context.r9 = self.r9;
    }

    pub fn arguments(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }
}
