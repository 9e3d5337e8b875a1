//! One function's code: where its system calls and its cpuid instructions are, where it branches to, and whether it can run
//! on past its end.
//!
//! A function is decoded from its first byte to its last. Only if that comes out even, with every instruction known and
//! every branch within the function leading to the start of one, is any of it believed.

use super::elf::Function;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register, RflagsBits};
use std::ops::Range;

/// The longest function that is looked at.
pub(super) const MAXIMUM_FUNCTION: u64 = 1 << 20;

/// A `syscall` instruction, by its offset in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub at: u64,
    /// The instruction before it, if that loads the call's number and is long enough for a jump.
    pub load: Option<Load>,
}

impl Site {
    /// The bytes that a jump replaces; the `syscall` behind a load stays.
    pub fn replaced(&self) -> Range<u64> {
        match self.load {
            Some(load) => {
                let end = self.at - load.between.map_or(0, |between| between.length as u64);
                end - load.length..end
            }
            None => self.at..self.at + 2,
        }
    }
}

/// `mov $n,%eax` (5 bytes) or `mov $n,%rax` (7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub number: u32,
    pub length: u64,
    /// What comes between it, if that has 5 bytes, and the call.
    pub between: Option<Between>,
}

/// A 64-bit `lea` that does not look at rax and leaves it as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Between {
    pub length: usize,
    pub bytes: [u8; 8],
    /// Where in it there is a distance (of 32 bits) from the instruction pointer.
    pub distance: Option<usize>,
}

/// A `cpuid` instruction with room for a jump: the load before it, or else as many instructions after it as that needs, which can be run
/// elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identification {
    /// Its offset in the file.
    pub at: u64,
    /// The instruction immediately before it, if that loads a register and is long enough.
    pub load: Option<[u8; JUMP_LENGTH as usize]>,
    /// Else the bytes behind the `cpuid` that are to be moved: whole instructions, which nothing leads to.
    pub moved: Vec<u8>,
    /// Where in `moved` there are distances (of 32 bits) from the instruction pointer.
    pub distances: Vec<usize>,
}

impl Identification {
    /// Where the code goes on behind all of it.
    pub fn end(&self) -> u64 {
        self.at + CPUID_LENGTH + self.moved.len() as u64
    }

    /// The bytes that a jump replaces; the `cpuid` behind a load stays, for whoever comes to it.
    pub fn replaced(&self) -> Range<u64> {
        match self.load {
            Some(_) => self.at - JUMP_LENGTH..self.at,
            None => self.at..self.end(),
        }
    }
}

const CPUID_LENGTH: u64 = 2;
/// A `jmp rel32`.
pub(super) const JUMP_LENGTH: u64 = 5;

/// What is known of a function.
#[derive(Debug, Default)]
pub(super) struct Code {
    pub sites: Vec<Site>,
    pub identifications: Vec<Identification>,
    /// Where its direct branches lead outside of it (offsets in the file as well).
    pub leads_to: Vec<u64>,
    /// Nothing runs on behind its last instruction.
    pub ends: bool,
    /// What only fills the space between two pieces of it (start, end): nothing runs on into that, and nothing leads there.
    pub fillings: Vec<(u64, u64)>,
}

/// `None` where the bytes are no function that can be believed.
pub(super) fn decode(function: Function, bytes: &[u8]) -> Option<Code> {
    let mut code = Code::default();
    let mut decoder = Decoder::with_ip(64, bytes, function.start, DecoderOptions::NONE);
    let mut starts = Vec::with_capacity(bytes.len() / 4);
    let mut targets = Vec::new();
    let mut instruction = Instruction::default();
    let (mut load, mut loads): (Option<Load>, bool) = (None, false);
    let mut cpuids = Vec::new();
    let mut has_table = false;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            return None;
        }
        starts.push(instruction.ip());
        if instruction.mnemonic() == Mnemonic::Cpuid {
            cpuids.push((instruction.ip(), loads));
        }
        has_table |= instruction.flow_control() == FlowControl::IndirectBranch;
        if instruction.mnemonic() == Mnemonic::Syscall && instruction.len() == 2 {
            code.sites.push(Site { at: instruction.ip(), load });
        }
        let between = load.filter(|load| load.length == JUMP_LENGTH && load.between.is_none());
        load = match between.zip(passes_by(&instruction, &decoder, bytes, function.start)) {
            Some((load, between)) => Some(Load { between: Some(between), ..load }),
            None => loads_number(&instruction),
        };
        loads = loads_register(&instruction);
        match code.fillings.last_mut() {
            Some((_, end)) if *end == instruction.ip() && instruction.mnemonic() == Mnemonic::Nop => {
                *end = instruction.next_ip()
            }
            _ if code.ends && instruction.mnemonic() == Mnemonic::Nop => {
                code.fillings.push((instruction.ip(), instruction.next_ip()));
            }
            _ => {}
        }
        if matches!(instruction.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64) {
            let target = instruction.near_branch_target();
            if (function.start..function.end).contains(&target) {
                targets.push(target);
            } else {
                code.leads_to.push(target);
            }
        }
        code.ends = ends_here(&instruction);
    }
    let believable = targets.iter().all(|target| starts.binary_search(target).is_ok());
    if !believable || decoder.ip() != function.end {
        return None;
    }
    // Where a table says which way to go, any instruction could be a target.
    let entered = |from: u64, to: u64| has_table || targets.iter().any(|target| (from..to).contains(target));
    code.fillings.retain(|(start, end)| !entered(*start, *end));
    let found = cpuids.into_iter().filter_map(|(at, loads)| identification(function, bytes, at, loads));
    code.identifications = found.filter(|one| one.load.is_some() || !entered(one.at + 1, one.end())).collect();
    Some(code)
}

/// What would have to be moved for a jump to be made of the `cpuid` at `at`, or of what `loads` a register before it. `None` where that
/// cannot be done.
fn identification(function: Function, bytes: &[u8], at: u64, loads: bool) -> Option<Identification> {
    let behind = at + CPUID_LENGTH;
    let index = (at - function.start) as usize;
    let rest = bytes.get(index + CPUID_LENGTH as usize..)?;
    if !flags_are_free(rest, behind) {
        return None;
    }
    let mut found = Identification { at, load: None, moved: Vec::new(), distances: Vec::new() };
    if loads {
        found.load = bytes.get(..index)?.last_chunk().copied();
        return found.load.is_some().then_some(found);
    }
    let mut decoder = Decoder::with_ip(64, rest, behind, DecoderOptions::NONE);
    while found.end() < at + JUMP_LENGTH {
        let instruction = decoder.decode();
        let special = matches!(instruction.mnemonic(), Mnemonic::Cpuid | Mnemonic::Syscall);
        if instruction.is_invalid() || special || instruction.flow_control() != FlowControl::Next {
            return None;
        }
        if instruction.is_ip_rel_memory_operand() {
            let offsets = decoder.get_constant_offsets(&instruction);
            if offsets.displacement_size() != 4 {
                return None;
            }
            found.distances.push(found.moved.len() + offsets.displacement_offset());
        }
        let start = found.moved.len();
        found.moved.extend_from_slice(rest.get(start..start + instruction.len())?);
    }
    Some(found)
}

/// Whether the code from here on sets all flags before it looks at any: a cpuid leaves them as they are.
fn flags_are_free(bytes: &[u8], at: u64) -> bool {
    const STATUS: u32 = RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;
    let mut decoder = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE);
    let mut left = STATUS;
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.rflags_read() & left != 0 {
            return false;
        }
        left &= !instruction.rflags_modified();
        match instruction.flow_control() {
            _ if left == 0 => return true,
            FlowControl::Next => {}
            // No function hands over flags, and none is handed any.
            FlowControl::Return | FlowControl::Call | FlowControl::IndirectCall => return true,
            _ => return false,
        }
    }
    false
}

fn loads_number(instruction: &Instruction) -> Option<Load> {
    if instruction.mnemonic() != Mnemonic::Mov || instruction.op0_kind() != OpKind::Register {
        return None;
    }
    let length = instruction.len() as u64;
    match (instruction.op0_register(), instruction.op1_kind(), length) {
        (Register::EAX, OpKind::Immediate32, 5) => Some(Load { number: instruction.immediate32(), length, between: None }),
        (Register::RAX, OpKind::Immediate32to64, 7) => {
            let number = u32::try_from(instruction.immediate32to64()).ok()?;
            Some(Load { number, length, between: None })
        }
        _ => None,
    }
}

/// A `lea` that can be made before the call's number is loaded as well as behind that.
fn passes_by(instruction: &Instruction, decoder: &Decoder, bytes: &[u8], start: u64) -> Option<Between> {
    let is_rax = |register: Register| register.full_register() == Register::RAX;
    let registers = [instruction.op0_register(), instruction.memory_base(), instruction.memory_index()];
    if instruction.code() != iced_x86::Code::Lea_r64_m || registers.into_iter().any(is_rax) {
        return None;
    }
    let at = (instruction.ip() - start) as usize;
    let mut between = Between { length: instruction.len(), bytes: [0; 8], distance: None };
    between.bytes.get_mut(..between.length)?.copy_from_slice(bytes.get(at..at + between.length)?);
    // With no other prefix, so that the stub knows its length.
    if !matches!(between.bytes[..2], [0x48..=0x4f, 0x8d]) {
        return None;
    }
    if instruction.is_ip_rel_memory_operand() {
        let offsets = decoder.get_constant_offsets(instruction);
        between.distance = (offsets.displacement_size() == 4).then(|| offsets.displacement_offset());
        between.distance?;
    }
    Some(between)
}

/// `mov $n` to one of the first eight registers, 32 bits of it: long enough for a jump, and the same wherever it is run.
fn loads_register(instruction: &Instruction) -> bool {
    instruction.code() == iced_x86::Code::Mov_r32_imm32 && instruction.len() as u64 == JUMP_LENGTH
}

fn ends_here(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Ret | Mnemonic::Jmp | Mnemonic::Ud2 | Mnemonic::Hlt | Mnemonic::Int3)
}

/// Whether bytes do nothing but fill: `nop` in its many forms, or `int3`.
pub(super) fn is_filling(bytes: &[u8], at: u64) -> bool {
    let mut decoder = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if !matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3) {
            return false;
        }
    }
    true
}
