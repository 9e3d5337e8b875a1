//! What a stopped thread has in its registers: `struct user_regs_struct` and the vector state (ptrace(2), PTRACE_GETREGSET;
//! sys/user.h), from and to the frame that its stub has laid down.

use crate::{Errno, Result};
use skerry_platform::layout::Shown;
use skerry_platform::memory::GuestMemory;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct user_regs_struct`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct UserRegisters {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

/// `ucontext_t` from its general registers to where its vector state is.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Machine {
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    eflags: u64,
    segments: u64,
    error: u64,
    trap: u64,
    old_mask: u64,
    cr2: u64,
    vector_state: u64,
}

/// Where it begins in `ucontext_t`.
const MACHINE: u64 = 40;
/// User mode's segments on x86-64.
const CODE_SEGMENT: u64 = 0x33;
const STACK_SEGMENT: u64 = 0x2b;
/// What a tracer may set of the flags: the arithmetic ones, trap, direction, resume, alignment check.
const SETTABLE_FLAGS: u64 = 0x5_0dd5;
pub(crate) const TRAP_FLAG: u64 = 0x100;
/// Behind the last address of a program.
pub(super) const ADDRESS_END: u64 = 0x7fff_ffff_f000;

/// `struct _fpx_sw_bytes` in the first 512 bytes of the vector state, which have their own format in a signal frame.
const SOFTWARE_BYTES: usize = 464;
const LEGACY_SIZE: usize = 512;
/// What follows it where there is more.
const HEADER_SIZE: usize = 64;
const MAGIC: u32 = 0x4650_5853;
/// More than any processor has.
const LARGEST_STATE: usize = 64 << 10;

/// A thread's frame, in its own memory: anything may lie there.
pub(crate) struct Frame<'a> {
    memory: &'a GuestMemory,
    shown_at: u64,
    shown: [u64; 3],
}

impl<'a> Frame<'a> {
    /// What the thread's stub shows at `address`. ESRCH where there is nothing.
    pub fn at(memory: &'a GuestMemory, address: u64) -> Result<Frame<'a>> {
        let mut shown = [0u64; 3];
        const { assert!(std::mem::offset_of!(Shown, hits) == 24) };
        if memory.read(address, shown.as_mut_bytes()) != 24 {
            return Err(Errno::ESRCH);
        }
        Ok(Frame { memory, shown_at: address, shown })
    }

    fn machine(&self) -> Result<Machine> {
        let mut machine = Machine::default();
        let bytes = machine.as_mut_bytes();
        if self.memory.read(self.shown[0].wrapping_add(MACHINE), bytes) != bytes.len() {
            return Err(Errno::ESRCH);
        }
        Ok(machine)
    }

    fn put_machine(&self, machine: &Machine) -> Result<()> {
        let bytes = machine.as_bytes();
        match self.memory.write(self.shown[0].wrapping_add(MACHINE), bytes) == bytes.len() {
            true => Ok(()),
            false => Err(Errno::ESRCH),
        }
    }

    /// All but `orig_rax`, which the frame does not have.
    pub fn registers(&self) -> Result<UserRegisters> {
        let machine = self.machine()?;
        let [_, fs_base, gs_base] = self.shown;
        Ok(UserRegisters {
            r15: machine.r15,
            r14: machine.r14,
            r13: machine.r13,
            r12: machine.r12,
            rbp: machine.rbp,
            rbx: machine.rbx,
            r11: machine.r11,
            r10: machine.r10,
            r9: machine.r9,
            r8: machine.r8,
            rax: machine.rax,
            rcx: machine.rcx,
            rdx: machine.rdx,
            rsi: machine.rsi,
            rdi: machine.rdi,
            orig_rax: u64::MAX,
            rip: machine.rip,
            cs: CODE_SEGMENT,
            eflags: machine.eflags,
            rsp: machine.rsp,
            ss: STACK_SEGMENT,
            fs_base,
            gs_base,
            ..UserRegisters::default()
        })
    }

    /// EIO for addresses that are none of a program's, and for segments other than those that there are.
    pub fn set_registers(&self, registers: &UserRegisters) -> Result<()> {
        let is_segment = |segment: u64, one: u64| segment as u16 == one as u16 || segment as u16 == 0;
        let segments_fit = is_segment(registers.cs, CODE_SEGMENT)
            && is_segment(registers.ss, STACK_SEGMENT)
            && [registers.ds, registers.es, registers.fs, registers.gs].iter().all(|segment| is_segment(*segment, 0));
        if !segments_fit || registers.fs_base >= ADDRESS_END || registers.gs_base >= ADDRESS_END {
            return Err(Errno::EIO);
        }
        let before = self.machine()?;
        self.put_machine(&Machine {
            r8: registers.r8,
            r9: registers.r9,
            r10: registers.r10,
            r11: registers.r11,
            r12: registers.r12,
            r13: registers.r13,
            r14: registers.r14,
            r15: registers.r15,
            rdi: registers.rdi,
            rsi: registers.rsi,
            rbp: registers.rbp,
            rbx: registers.rbx,
            rdx: registers.rdx,
            rax: registers.rax,
            rcx: registers.rcx,
            rsp: registers.rsp,
            rip: registers.rip,
            eflags: before.eflags & !SETTABLE_FLAGS | registers.eflags & SETTABLE_FLAGS,
            ..before
        })?;
        if registers.fs_base != self.shown[1] {
            let base = registers.fs_base.to_ne_bytes();
            self.memory.write(self.shown_at.wrapping_add(8), &base);
        }
        Ok(())
    }

    pub fn set_rax(&self, rax: u64) -> Result<()> {
        let machine = self.machine()?;
        self.put_machine(&Machine { rax, ..machine })
    }

    pub fn set_trap_flag(&self, on: bool) -> Result<()> {
        let machine = self.machine()?;
        let flag = if on { TRAP_FLAG } else { 0 };
        self.put_machine(&Machine { eflags: machine.eflags & !TRAP_FLAG | flag, ..machine })
    }

    /// Where the vector state is, and how long it is by what it says itself (without the magic number behind it), with the
    /// features that it can have.
    fn vector_state(&self) -> Result<(u64, Vec<u8>, u64)> {
        let address = self.machine()?.vector_state;
        let mut legacy = vec![0u8; LEGACY_SIZE];
        if address == 0 || self.memory.read(address, &mut legacy) != LEGACY_SIZE {
            return Err(Errno::EIO);
        }
        let word = |at: usize| u32::from_ne_bytes([legacy[at], legacy[at + 1], legacy[at + 2], legacy[at + 3]]);
        let features = u64::from(word(SOFTWARE_BYTES + 8)) | u64::from(word(SOFTWARE_BYTES + 12)) << 32;
        let size = if word(SOFTWARE_BYTES) == MAGIC { word(SOFTWARE_BYTES + 16) as usize } else { LEGACY_SIZE };
        if size != LEGACY_SIZE && !(LEGACY_SIZE + HEADER_SIZE..=LARGEST_STATE).contains(&size) {
            return Err(Errno::EIO);
        }
        let mut state = vec![0u8; size];
        if self.memory.read(address, &mut state) != size {
            return Err(Errno::EIO);
        }
        Ok((address, state, features))
    }

    /// NT_PRFPREG: `struct user_fpregs_struct`.
    pub fn floating_point(&self) -> Result<Vec<u8>> {
        let (_, mut state, _) = self.vector_state()?;
        state.truncate(LEGACY_SIZE);
        state[SOFTWARE_BYTES..].fill(0);
        Ok(state)
    }

    /// NT_X86_XSTATE: the processor's own format, with the features that there are where a frame has its software bytes.
    pub fn extended(&self) -> Result<Vec<u8>> {
        let (_, mut state, features) = self.vector_state()?;
        state[SOFTWARE_BYTES..LEGACY_SIZE].fill(0);
        state[SOFTWARE_BYTES..SOFTWARE_BYTES + 8].copy_from_slice(&features.to_ne_bytes());
        Ok(state)
    }

    /// The same, from the tracer; what it has for features that the thread's frame has no room for is passed over. EINVAL where
    /// that is less than the least.
    pub fn set_vector_state(&self, given: &[u8], extended: bool) -> Result<()> {
        let (address, mut state, features) = self.vector_state()?;
        let least = if extended && state.len() > LEGACY_SIZE { LEGACY_SIZE + HEADER_SIZE } else { LEGACY_SIZE };
        if given.len() < least {
            return Err(Errno::EINVAL);
        }
        state[..SOFTWARE_BYTES].copy_from_slice(&given[..SOFTWARE_BYTES]);
        // Bits of MXCSR that there are not would be a fault on the way back.
        state[26..28].fill(0);
        if least > LEGACY_SIZE {
            let common = state.len().min(given.len());
            state[LEGACY_SIZE..common].copy_from_slice(&given[LEGACY_SIZE..common]);
            for (byte, allowed) in state[LEGACY_SIZE..LEGACY_SIZE + 8].iter_mut().zip(features.to_ne_bytes()) {
                *byte &= allowed;
            }
            state[LEGACY_SIZE + 8..LEGACY_SIZE + HEADER_SIZE].fill(0);
        } else if state.len() > LEGACY_SIZE {
            // What was given counts, whether it was in use before or not.
            state[LEGACY_SIZE] |= 3;
        }
        match self.memory.write(address, &state) == state.len() {
            true => Ok(()),
            false => Err(Errno::EIO),
        }
    }
}
