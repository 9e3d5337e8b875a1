//! Debug registers of a tracee: what its tracer sets by PTRACE_POKEUSER, as the processor has them (Intel SDM volume 3, "Debug Registers").
//!
//! The tracee's stub makes them true, step by step (its `watching.rs`): with each request of the thread's it is told of them, where that
//! shows its registers. It asks here what its next instruction reads and writes.

use super::registers::{UserRegisters, ADDRESS_END};
use super::{access, with_frame};
use crate::task::Task;
use crate::{Errno, Result};
use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register, UsedMemory};
use skerry_platform::layout::Shown;
use skerry_platform::memory::GuestMemory;
use std::mem::offset_of;
use zerocopy::IntoBytes;

/// DR0 to DR3, DR6, DR7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DebugRegisters {
    addresses: [u64; 4],
    /// Without the bits that are always set.
    status: u64,
    control: u64,
}

const STATUS_ALWAYS: u64 = 0xffff_0ff0;
const CONTROL_RESERVED: u64 = 0xffff_ffff_0000_fc00;
/// Two bits each.
const EXECUTION: u64 = 0;
const PORTS: u64 = 2;
const LONGEST_INSTRUCTION: usize = 15;

impl DebugRegisters {
    /// One of the eight. DR4 and DR5 are zero.
    pub fn get(&self, index: usize) -> u64 {
        match index {
            0..4 => self.addresses[index],
            6 => self.status ^ STATUS_ALWAYS,
            7 => self.control,
            _ => 0,
        }
    }

    /// EINVAL: for what no program can have, or the processor does not do; EIO: DR4, DR5.
    pub fn set(&mut self, index: usize, value: u64) -> Result<()> {
        let mut wanted = *self;
        match index {
            0..4 => wanted.addresses[index] = value,
            6 => wanted.status = value ^ STATUS_ALWAYS,
            7 => wanted.control = value & !CONTROL_RESERVED,
            _ => return Err(Errno::EIO),
        }
        if wanted.addresses.iter().any(|address| *address >= ADDRESS_END) || !(0..4).all(|index| wanted.is_right(index)) {
            return Err(Errno::EINVAL);
        }
        *self = wanted;
        Ok(())
    }

    fn is_enabled(&self, index: usize) -> bool {
        self.control >> (2 * index) & 3 != 0
    }

    fn length(&self, index: usize) -> u64 {
        [1, 2, 8, 4][(self.control >> (18 + 4 * index) & 3) as usize]
    }

    fn is_right(&self, index: usize) -> bool {
        let length = self.length(index);
        match self.control >> (16 + 4 * index) & 3 {
            _ if !self.is_enabled(index) => true,
            PORTS => false,
            EXECUTION => length == 1,
            _ => self.addresses[index] % length == 0,
        }
    }

    /// A step or a hit; DR6 says of the last one only.
    pub fn hit(&mut self, hits: u64) {
        self.status = hits & 0x400f;
    }

    /// Tells the stub, whose request shows its registers at `shown`.
    pub fn lay_down(&self, memory: &GuestMemory, shown: u64) {
        let [a, b, c, d] = self.addresses;
        let control = if (0..4).any(|index| self.is_enabled(index)) { self.control } else { 0 };
        // If that cannot be written, the thread has taken its own memory away.
        memory.write(shown.wrapping_add(offset_of!(Shown, watched) as u64), [a, b, c, d, control].as_bytes());
    }

    /// Which of the watched places the instruction reads or writes that comes next, by bits.
    fn touched(&self, registers: &UserRegisters, code: &[u8]) -> u64 {
        let mut decoder = Decoder::with_ip(64, code, registers.rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return 0;
        }
        let mut factory = InstructionInfoFactory::new();
        let accesses = factory.info(&instruction).used_memory().iter();
        let mut touched = 0;
        for used in accesses.filter(|used| used.access() != OpAccess::NoMemAccess) {
            let Some(start) = address_of(used, registers, instruction.next_ip()) else { continue };
            let length = used.memory_size().size().max(1) as u64;
            for index in 0..4 {
                let watched = self.addresses[index];
                let meets = start < watched + self.length(index) && watched < start.saturating_add(length);
                touched |= u64::from(self.is_enabled(index) && meets) << index;
            }
        }
        touched
    }
}

fn address_of(used: &UsedMemory, registers: &UserRegisters, next: u64) -> Option<u64> {
    used.virtual_address(0, |register, _, _| {
        let whole = match register.full_register() {
            Register::RAX => registers.rax,
            Register::RBX => registers.rbx,
            Register::RCX => registers.rcx,
            Register::RDX => registers.rdx,
            Register::RSI => registers.rsi,
            Register::RDI => registers.rdi,
            Register::RBP => registers.rbp,
            Register::RSP => registers.rsp,
            Register::R8 => registers.r8,
            Register::R9 => registers.r9,
            Register::R10 => registers.r10,
            Register::R11 => registers.r11,
            Register::R12 => registers.r12,
            Register::R13 => registers.r13,
            Register::R14 => registers.r14,
            Register::R15 => registers.r15,
            Register::RIP => next,
            Register::FS => registers.fs_base,
            Register::GS => registers.gs_base,
            Register::CS | Register::DS | Register::ES | Register::SS => 0,
            _ => return None,
        };
        Some(if register.size() == 4 { whole & 0xffff_ffff } else { whole })
    })
}

/// A thread is about to make a step (`request::STEPS`): its stub is told of what that touches.
pub(crate) fn about_to_step(task: &Task) {
    let Some((debug, shown)) = task.ptrace.lock().as_ref().and_then(|tracing| Some((tracing.debug, tracing.shown?))) else {
        return;
    };
    let Ok(registers) = with_frame(task, |frame| frame.registers()) else { return };
    let memory = task.memory();
    let mut code = [0; LONGEST_INSTRUCTION];
    // It may be the last one before what is not mapped.
    let length = access::read(&memory, registers.rip, &mut code).unwrap_or(0);
    let touched = debug.touched(&registers, &code[..length]);
    memory.write(shown.wrapping_add(offset_of!(Shown, touched) as u64), touched.as_bytes());
}

/// A trap of the thread's own steps, or of its tracer's: what DR6 says of it.
pub(crate) fn trapped(task: &Task) {
    let mut state = task.ptrace.lock();
    let Some((tracing, shown)) = state.as_mut().and_then(|tracing| tracing.shown.map(|shown| (tracing, shown))) else { return };
    let mut hits = 0u64;
    task.memory().read(shown.wrapping_add(offset_of!(Shown, hits) as u64), hits.as_mut_bytes());
    tracing.debug.hit(hits);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DR7 with the first register enabled, of this kind (two bits) and length code.
    fn control(kind: u64, length: u64) -> u64 {
        1 | kind << 16 | length << 18
    }

    #[test]
    fn what_the_processor_does_not_do_is_refused() {
        let mut debug = DebugRegisters::default();
        assert_eq!(debug.set(0, 0xffff_8000_0000_0000), Err(Errno::EINVAL));
        debug.set(0, 0x1002).unwrap();
        for (kind, length) in [(1, 3), (1, 2), (3, 3), (PORTS, 0), (EXECUTION, 1)] {
            assert_eq!(debug.set(7, control(kind, length)), Err(Errno::EINVAL), "{kind} {length}");
        }
        debug.set(7, control(1, 1)).unwrap();
        assert_eq!(debug.set(0, 0x1001), Err(Errno::EINVAL));
        assert_eq!((debug.get(0), debug.get(7)), (0x1002, control(1, 1)));
        assert_eq!((debug.set(4, 0), debug.get(4), debug.get(6)), (Err(Errno::EIO), 0, STATUS_ALWAYS));
    }

    #[test]
    fn an_instruction_touches_what_it_reads_and_writes() {
        let mut debug = DebugRegisters::default();
        debug.set(0, 0x2000).unwrap();
        debug.set(7, control(3, 3)).unwrap();
        let registers = UserRegisters { rip: 0x1000, rbx: 0x1ffc, rsp: 0x2008, fs_base: 0x1f00, ..Default::default() };
        let touched = |code: &[u8]| debug.touched(&registers, code);
        assert_eq!(touched(&[0x8b, 0x43, 0x04]), 1, "mov 4(%rbx), %eax");
        assert_eq!(touched(&[0x48, 0x8b, 0x03]), 1, "mov (%rbx), %rax: eight bytes");
        assert_eq!(touched(&[0x8b, 0x03]), 0, "mov (%rbx), %eax");
        assert_eq!(touched(&[0x8d, 0x43, 0x04]), 0, "lea");
        assert_eq!(touched(&[0x50]), 1, "push %rax");
        assert_eq!(touched(&[0x64, 0x8b, 0x04, 0x25, 0, 1, 0, 0]), 1, "mov %fs:0x100, %eax");
        assert_eq!(touched(&[0x8b, 0x05, 0xfa, 0x0f, 0, 0]), 1, "mov 0xffa(%rip), %eax");
        assert_eq!(touched(&[0x8b]), 0, "cut off");
    }
}
