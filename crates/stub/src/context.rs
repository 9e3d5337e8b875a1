//! The host's signal frame (as `rt_sigframe` has it on x86-64) and the guest's, which has the same shape.

use crate::host;
use crate::layout::{Frame, SignalStack};

/// `ucontext_t` with `mcontext_t` inside, up to the signal mask.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Context {
    pub flags: u64,
    pub link: u64,
    pub stack: SignalStack,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub eflags: u64,
    pub segments: u64,
    pub error: u64,
    pub trap: u64,
    pub old_mask: u64,
    pub cr2: u64,
    pub floating_point: u64,
    pub reserved: [u64; 8],
    pub mask: u64,
}

/// `siginfo_t`, as far as the stub reads it.
#[repr(C)]
pub struct Info {
    pub signal: i32,
    pub errno: i32,
    pub code: i32,
    _padding: i32,
    pub address: u64,
    pub syscall: i32,
    pub arch: u32,
}

const INFO_SIZE: u64 = 128;
const CONTEXT_SIZE: u64 = core::mem::size_of::<Context>() as u64;
/// Return address, context, info.
const FRAME_SIZE: u64 = 8 + CONTEXT_SIZE + INFO_SIZE;
const RED_ZONE: u64 = 128;

const LEGACY_SIZE: u64 = 512;
/// Offset of `struct _fpx_sw_bytes` in the legacy area, and its first magic number.
const SOFTWARE_BYTES: u64 = 464;
const MAGIC1: u32 = 0x4650_5853;
const HEADER_SIZE: u64 = 64;
/// MXCSR, and its default.
const MXCSR_OFFSET: u64 = 24;
const MXCSR_DEFAULT: u32 = 0x1f80;
const CONTROL_WORD_DEFAULT: u16 = 0x37f;

/// Flags that a handler starts without: trap, direction, resume.
const FLAGS_CLEARED: u64 = 0x100 | 0x400 | 0x1_0000;
/// Flags that a guest may set by rt_sigreturn: the arithmetic ones, trap, direction, resume, alignment check.
const FLAGS_RESTORABLE: u64 = 0x5_0dd5 | 0x100;

impl Context {
    /// Size in bytes of the whole floating-point and vector state behind `floating_point`, trailing magic included.
    fn vector_state_size(&self) -> u64 {
        if self.floating_point == 0 {
            return 0;
        }
        // SAFETY: the host put the state there, in this very frame.
        let (magic, size) = unsafe {
            let software = (self.floating_point + SOFTWARE_BYTES) as *const u32;
            (software.read(), software.add(1).read())
        };
        if magic == MAGIC1 {
            size.into()
        } else {
            LEGACY_SIZE
        }
    }

    /// Builds the guest's frame on its stack and makes this context start the handler. False: the stack is not writable.
    pub fn push_frame(&mut self, frame: &Frame) -> bool {
        let vector_size = self.vector_state_size();
        let top = if frame.stack_top != 0 { frame.stack_top } else { self.rsp.wrapping_sub(RED_ZONE) };
        let vector = top.wrapping_sub(vector_size) & !63;
        let start = (vector.wrapping_sub(FRAME_SIZE) & !15).wrapping_sub(8);
        let context_at = start + 8;
        let info_at = context_at + CONTEXT_SIZE;
        let mut saved = *self;
        saved.stack = frame.saved_stack;
        saved.mask = frame.mask;
        saved.link = 0;
        saved.floating_point = if vector_size != 0 { vector } else { 0 };
        if !(host::copy(vector, self.floating_point, vector_size)
            && host::copy(start, &frame.restorer as *const u64 as u64, 8)
            && host::copy(context_at, &saved as *const Context as u64, CONTEXT_SIZE)
            && host::copy(info_at, frame.signal_info.as_ptr() as u64, INFO_SIZE))
        {
            return false;
        }
        self.rdi = frame.signal_info[0] & 0xffff_ffff;
        self.rsi = info_at;
        self.rdx = context_at;
        self.rax = 0;
        self.rip = frame.handler;
        self.rsp = start;
        self.eflags &= !FLAGS_CLEARED;
        self.reset_vector_state();
        true
    }

    /// A handler starts with the initial floating-point state, as on Linux.
    fn reset_vector_state(&mut self) {
        let size = self.vector_state_size();
        if size == 0 {
            return;
        }
        // SAFETY: within the state that the host put into this frame.
        unsafe {
            let base = self.floating_point as *mut u8;
            (base as *mut u16).write(CONTROL_WORD_DEFAULT);
            (base.add(2) as *mut u16).write(0);
            // Tag word: all empty (abridged form).
            (base.add(4) as *mut u16).write(0);
            (base.add(MXCSR_OFFSET as usize) as *mut u32).write(MXCSR_DEFAULT);
            if size > LEGACY_SIZE + 8 {
                // No feature is in use: the processor loads their initial states.
                (base.add(LEGACY_SIZE as usize) as *mut u64).write(0);
            }
        }
    }

    /// rt_sigreturn: takes the registers and the vector state from the frame at the guest's stack pointer. Returns the
    /// mask and the alternate stack that the frame holds; `None`: it is not readable.
    pub fn pop_frame(&mut self) -> Option<(u64, SignalStack)> {
        let mut saved = *self;
        if !host::copy(&mut saved as *mut Context as u64, self.rsp, CONTEXT_SIZE) {
            return None;
        }
        if !self.load_vector_state(saved.floating_point) {
            return None;
        }
        let eflags = (self.eflags & !FLAGS_RESTORABLE) | (saved.eflags & FLAGS_RESTORABLE);
        let ours = *self;
        *self = Context {
            flags: ours.flags,
            link: ours.link,
            stack: ours.stack,
            eflags,
            segments: ours.segments,
            error: ours.error,
            trap: ours.trap,
            old_mask: ours.old_mask,
            cr2: ours.cr2,
            floating_point: ours.floating_point,
            reserved: ours.reserved,
            mask: ours.mask,
            ..saved
        };
        Some((saved.mask, saved.stack))
    }

    /// Copies the guest's vector state over this frame's, keeping what only the host may say (sizes, features).
    fn load_vector_state(&mut self, source: u64) -> bool {
        let size = self.vector_state_size();
        if size == 0 {
            return true;
        }
        if source == 0 {
            self.reset_vector_state();
            return true;
        }
        let mut magic = 0u32;
        if !host::copy(&mut magic as *mut u32 as u64, source.wrapping_add(SOFTWARE_BYTES), 4) {
            return false;
        }
        let destination = self.floating_point;
        if !host::copy(destination, source, SOFTWARE_BYTES) {
            return false;
        }
        // SAFETY: all addresses lie in the state that the host put into this frame, `size` bytes long.
        unsafe {
            let mxcsr = (destination + MXCSR_OFFSET) as *mut u32;
            *mxcsr &= 0xffff;
            if size < LEGACY_SIZE + HEADER_SIZE + 4 {
                return true;
            }
            let features = ((destination + SOFTWARE_BYTES + 8) as *const u64).read();
            let header = (destination + LEGACY_SIZE) as *mut u64;
            if magic == MAGIC1 {
                if !host::copy(destination + LEGACY_SIZE, source.wrapping_add(LEGACY_SIZE), size - LEGACY_SIZE - 4) {
                    return false;
                }
                *header &= features;
            } else {
                *header = 3;
            }
            for index in 1..8 {
                *header.add(index) = 0;
            }
        }
        true
    }

    /// Copies this frame (context and vector state) to the top of another stack; returns where its context lies.
    /// The caller says that `top` is writable and large enough.
    pub fn copy_to(&self, top: u64) -> u64 {
        let size = self.vector_state_size();
        let vector = (top - size) & !63;
        // The kernel wants the frame's alignment as it makes it: 8 below a multiple of 16, the context behind it.
        let context_at = (vector - CONTEXT_SIZE - INFO_SIZE) & !15;
        host::copy(vector, self.floating_point, size);
        let mut copy = *self;
        if size != 0 {
            copy.floating_point = vector;
        }
        host::copy(context_at, &copy as *const Context as u64, CONTEXT_SIZE);
        context_at
    }
}
