//! One function's code: where its system calls are, where it branches to, and whether it can run on past its end.
//!
//! A function is decoded from its first byte to its last. Only if that comes out even, with every instruction known and
//! every branch within the function leading to the start of one, is any of it believed.

use super::elf::Function;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// The longest function that is looked at.
pub(super) const MAXIMUM_FUNCTION: u64 = 1 << 20;

/// A `syscall` instruction, by its offset in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub at: u64,
    /// The instruction immediately before it, if that loads the call's number and is long enough for a jump.
    pub load: Option<Load>,
}

/// `mov $n,%eax` (5 bytes) or `mov $n,%rax` (7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub number: u32,
    pub length: u64,
}

/// What is known of a function.
#[derive(Debug, Default)]
pub(super) struct Code {
    pub sites: Vec<Site>,
    /// Where its direct branches lead outside of it (offsets in the file as well).
    pub leads_to: Vec<u64>,
    /// Nothing runs on behind its last instruction.
    pub ends: bool,
}

/// `None` where the bytes are no function that can be believed.
pub(super) fn decode(function: Function, bytes: &[u8]) -> Option<Code> {
    let mut code = Code::default();
    let mut decoder = Decoder::with_ip(64, bytes, function.start, DecoderOptions::NONE);
    let mut starts = Vec::with_capacity(bytes.len() / 4);
    let mut targets = Vec::new();
    let mut instruction = Instruction::default();
    let mut load = None;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            return None;
        }
        starts.push(instruction.ip());
        if instruction.mnemonic() == Mnemonic::Syscall && instruction.len() == 2 {
            code.sites.push(Site { at: instruction.ip(), load });
        }
        load = loads_number(&instruction);
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
    (believable && decoder.ip() == function.end).then_some(code)
}

fn loads_number(instruction: &Instruction) -> Option<Load> {
    if instruction.mnemonic() != Mnemonic::Mov || instruction.op0_kind() != OpKind::Register {
        return None;
    }
    let length = instruction.len() as u64;
    match (instruction.op0_register(), instruction.op1_kind(), length) {
        (Register::EAX, OpKind::Immediate32, 5) => Some(Load { number: instruction.immediate32(), length }),
        (Register::RAX, OpKind::Immediate32to64, 7) => {
            let number = u32::try_from(instruction.immediate32to64()).ok()?;
            Some(Load { number, length })
        }
        _ => None,
    }
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
