//! Answers to `cpuid`: in a virtual machine each is a trap to the hypervisor, of microseconds, and the dynamic linker asks
//! some eighty times before a program begins.
//!
//! The zygote asks the processor once, and every process forked from it then has the answers. Rewritten sites jump here by
//! way of gs:0x1e0, the address that they go on at in rdx (a `cpuid` overwrites rdx and rbx). What is not in the table
//! is asked of the processor: what differs from one CPU to the next (leaves 1, 0xb and 0x1f have its number), and anything
//! that nobody asks often. A table that a program changes in its own memory is its own affair.

use crate::context::Context;
use core::arch::{global_asm, x86_64::__cpuid_count};

#[repr(C)]
#[derive(Clone, Copy)]
struct Answer {
    leaf: u32,
    /// [`ANY`]: whatever ecx is.
    subleaf: u32,
    eax: u32,
    ebx: u32,
    ecx: u32,
    edx: u32,
}

const ANY: u32 = !0;
/// As a leaf: the table's end.
const END: u32 = !0;
const ANSWERS: usize = 64;

static mut TABLE: [Answer; ANSWERS] = [Answer { leaf: END, subleaf: 0, eax: 0, ebx: 0, ecx: 0, edx: 0 }; ANSWERS];

/// Leaves that have no subleaves.
const PLAIN: [u32; 15] = [
    2,
    0,
    3,
    5,
    6,
    9,
    0x8000_0000,
    0x8000_0001,
    0x8000_0002,
    0x8000_0003,
    0x8000_0004,
    0x8000_0005,
    0x8000_0006,
    0x8000_0007,
    0x8000_0008,
];
/// Leaves with subleaves, and how many of them are looked up.
const STRUCTURED: [(u32, u32); 7] = [(4, 6), (7, 3), (0xd, 20), (0x14, 2), (0x18, 1), (0x19, 1), (0x8000_001d, 5)];
/// Leaf 7, edx: not all of the CPUs are alike.
const HYBRID: u32 = 1 << 15;

/// Fills the table. For the zygote: it has one thread, and none of its code is a guest's.
pub fn fill() {
    let (largest, extended) = (ask(0, 0).eax, ask(0x8000_0000, 0).eax);
    if largest < 7 || ask(7, 0).edx & HYBRID != 0 {
        return;
    }
    let mut count = 0;
    let mut add = |answer: Answer| {
        // The last one stays the end.
        if count < ANSWERS - 1 {
            // SAFETY: within the table, which nobody else uses.
            unsafe { (&raw mut TABLE).cast::<Answer>().add(count).write(answer) };
            count += 1;
        }
    };
    let is_known = |leaf: u32| leaf <= if leaf >= 0x8000_0000 { extended } else { largest };
    for leaf in PLAIN.into_iter().filter(|leaf| is_known(*leaf)) {
        add(Answer { subleaf: ANY, ..ask(leaf, 0) });
    }
    for (leaf, subleaves) in STRUCTURED.into_iter().filter(|(leaf, _)| is_known(*leaf)) {
        for subleaf in 0..subleaves {
            let answer = ask(leaf, subleaf);
            add(answer);
            if matches!(leaf, 4 | 0x8000_001d) && answer.eax & 0x1f == 0 {
                break;
            }
        }
    }
}

fn ask(leaf: u32, subleaf: u32) -> Answer {
    // SAFETY: x86-64 has the instruction. Newer compilers need not be told.
    #[allow(unused_unsafe)]
    let answer = unsafe { __cpuid_count(leaf, subleaf) };
    Answer { leaf, subleaf, eax: answer.eax, ebx: answer.ebx, ecx: answer.ecx, edx: answer.edx }
}

// What it needs to begin again is kept in the thread block, where a handler that interrupts it finds it.
global_asm!(
    r#"
    .text
    .globl cpuid_entry
cpuid_entry:
    mov gs:[0x1e8], rax
    mov gs:[0x1f0], rcx
    mov gs:[0x1f8], rdx
    .globl cpuid_kept
cpuid_kept:
    lea rbx, [rip + {table}]
2:  cmp dword ptr [rbx], -1
    je 5f
    cmp [rbx], eax
    jne 3f
    cmp dword ptr [rbx + 4], -1
    je 4f
    cmp [rbx + 4], ecx
    je 4f
3:  add rbx, 24
    jmp 2b
4:  mov eax, [rbx + 8]
    mov ecx, [rbx + 16]
    mov edx, [rbx + 20]
    mov ebx, [rbx + 12]
    jmp qword ptr gs:[0x1f8]
5:  cpuid
    jmp qword ptr gs:[0x1f8]
    .globl cpuid_end
cpuid_end:
"#,
    table = sym TABLE,
);

extern "C" {
    fn cpuid_entry();
    fn cpuid_kept();
    fn cpuid_end();
}

pub fn entry_address() -> u64 {
    cpuid_entry as *const () as u64
}

/// If the thread was interrupted within the entry, puts it back to its beginning; whether it was.
pub fn begin_again(context: &mut Context, kept: [u64; 3]) -> bool {
    let begin = entry_address();
    if !(begin..cpuid_end as *const () as u64).contains(&context.rip) {
        return false;
    }
    if context.rip >= cpuid_kept as *const () as u64 {
        [context.rax, context.rcx, context.rdx] = kept;
    }
    context.rip = begin;
    true
}
