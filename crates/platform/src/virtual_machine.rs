//! What `skerry-tender` needs of KVM: a machine of one processor with one piece of memory, without interrupts, clocks or devices,
//! and ways to end as its guest did.

use kvm_bindings::{
    kvm_dtable, kvm_enable_cap, kvm_regs, kvm_segment, kvm_userspace_memory_region, CpuId, KVM_API_VERSION,
    KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_MAX_CPUID_ENTRIES,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::io;
use std::os::fd::AsRawFd;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};

/// ioctl(2)'s request to run a processor.
pub const RUN: u64 = 0xae80;

/// Two places that KVM takes for itself on processors of Intel; a guest's memory ends below both.
const IDENTITY_MAP: u64 = 0xfffb_c000;
const TASK_STATE: usize = 0xfffb_d000;

/// How the processor starts: in long mode, in ring 0.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    pub entry: u64,
    pub stack: u64,
    pub argument: u64,
    pub page_tables: u64,
    pub descriptors: Table,
    pub interrupts: Table,
    /// Where the task state segment is: it says which stack exceptions use.
    pub task_state: Table,
    pub code: u16,
    pub data: u16,
}

/// A table of the processor's: where it begins, and its last byte's offset.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    pub base: u64,
    pub limit: u16,
}

/// Why the processor has stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Exit {
    /// It wrote four bytes to a port.
    Out { port: u16, value: u32 },
    /// It wrote one.
    OutByte { port: u16, value: u8 },
    /// Another use of a port.
    Port,
    /// It reached for memory that is not there, stopped, or lost its way.
    Fault,
    /// A signal came.
    Interrupted,
    /// KVM does not go on.
    Broken(&'static str),
}

pub struct VirtualMachine {
    processor: VcpuFd,
    _machine: VmFd,
    /// What the machine reads and writes stays mapped as long as it.
    _memory: GuestMemoryMmap,
}

/// What could not be had, and why.
pub type Failure = (&'static str, io::Error);

impl VirtualMachine {
    /// With that memory, which is one piece from address zero on, below the places that KVM takes.
    pub fn make(memory: &GuestMemoryMmap) -> Result<VirtualMachine, Failure> {
        let failed = |what| move |error: kvm_ioctls::Error| (what, io::Error::from_raw_os_error(error.errno()));
        let kvm = Kvm::new().map_err(failed("/dev/kvm"))?;
        if kvm.get_api_version() != KVM_API_VERSION as i32 {
            return Err(("/dev/kvm", io::Error::other("its version is not 12")));
        }
        let machine = kvm.create_vm().map_err(failed("/dev/kvm: a machine"))?;
        machine.set_identity_map_address(IDENTITY_MAP).map_err(failed("/dev/kvm: an identity map"))?;
        machine.set_tss_address(TASK_STATE).map_err(failed("/dev/kvm: a task state"))?;
        let (memory_size, userspace_addr) = one_piece(memory).ok_or(("its memory", io::ErrorKind::InvalidInput.into()))?;
        let region = kvm_userspace_memory_region { slot: 0, flags: 0, guest_phys_addr: 0, memory_size, userspace_addr };
        // SAFETY: the region is a mapping of `memory`, of which a copy is kept as long as the machine; who else looks at it
        // does so through `vm_memory`, which takes nothing there for fixed.
        unsafe { machine.set_user_memory_region(region) }.map_err(failed("/dev/kvm: its memory"))?;
        let processor = machine.create_vcpu(0).map_err(failed("/dev/kvm: a processor"))?;
        let mut features = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("/dev/kvm: its features"))?;
        narrow(&mut features);
        processor.set_cpuid2(&features).map_err(failed("/dev/kvm: its features"))?;
        // What KVM offers to guests that know it is not there: hosts from before Linux 5.10 have it all the same.
        let only = kvm_enable_cap { cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID, args: [1, 0, 0, 0], ..Default::default() };
        let _ = processor.enable_cap(&only);
        Ok(VirtualMachine { processor, _machine: machine, _memory: memory.clone() })
    }

    /// Puts the processor where it starts.
    pub fn set(&self, start: &Start) -> Result<(), Failure> {
        let failed = |error: kvm_ioctls::Error| ("/dev/kvm: its registers", io::Error::from_raw_os_error(error.errno()));
        let mut special = self.processor.get_sregs().map_err(failed)?;
        let segment = |selector, kind, long| kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector,
            type_: kind,
            present: 1,
            s: 1,
            l: long,
            db: 1 - long,
            g: 1,
            ..Default::default()
        };
        special.cs = segment(start.code, 11, 1);
        let data = segment(start.data, 3, 0);
        (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
        special.tr = kvm_segment {
            base: start.task_state.base,
            limit: start.task_state.limit.into(),
            type_: 11,
            present: 1,
            ..Default::default()
        };
        special.ldt = kvm_segment { unusable: 1, ..Default::default() };
        let table = |table: Table| kvm_dtable { base: table.base, limit: table.limit, ..Default::default() };
        (special.gdt, special.idt) = (table(start.descriptors), table(start.interrupts));
        // Protection and paging; what is read-only is so for ring 0 too; the x87's own exceptions.
        special.cr0 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1;
        special.cr3 = start.page_tables;
        // Long mode's tables; SSE.
        special.cr4 = 1 << 5 | 1 << 9 | 1 << 10;
        // Long mode, wanted and active; pages that are not executable.
        special.efer = 1 << 8 | 1 << 10 | 1 << 11;
        self.processor.set_sregs(&special).map_err(failed)?;
        let registers = kvm_regs { rip: start.entry, rsp: start.stack, rdi: start.argument, rflags: 2, ..Default::default() };
        self.processor.set_regs(&registers).map_err(failed)
    }

    /// How fast its time stamp counter goes, in kHz.
    pub fn counter_khz(&self) -> Option<u32> {
        self.processor.get_tsc_khz().ok().filter(|khz| *khz > 0)
    }

    /// The descriptor that [`RUN`] is asked of.
    pub fn descriptor(&self) -> i32 {
        self.processor.as_raw_fd()
    }

    /// Goes on until something is to be done.
    pub fn run(&mut self) -> Exit {
        match self.processor.run() {
            Ok(VcpuExit::IoOut(port, [a, b, c, d])) => Exit::Out { port, value: u32::from_le_bytes([*a, *b, *c, *d]) },
            Ok(VcpuExit::IoOut(port, [one])) => Exit::OutByte { port, value: *one },
            Ok(VcpuExit::IoOut(..) | VcpuExit::IoIn(..)) => Exit::Port,
            Ok(VcpuExit::Intr) => Exit::Interrupted,
            Ok(VcpuExit::FailEntry(..)) => Exit::Broken("the processor cannot be entered"),
            Ok(VcpuExit::Unknown) => Exit::Broken("it stopped for a reason that it does not know"),
            Ok(_) => Exit::Fault,
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => Exit::Interrupted,
                // Its memory is not there.
                libc::EFAULT | libc::EHWPOISON => Exit::Fault,
                _ => Exit::Broken("it does not run"),
            },
        }
    }

    /// Puts the process behind `filter`, which must allow [`RUN`].
    pub fn confine(&self, filter: &[u64]) -> io::Result<()> {
        crate::agent::reset_signals();
        crate::agent::install_filter(filter, false).map(drop)
    }
}

/// Size and place of a memory that is one piece from zero on.
fn one_piece(memory: &GuestMemoryMmap) -> Option<(u64, u64)> {
    let mut regions = memory.iter();
    let (region, None) = (regions.next()?, regions.next()) else { return None };
    if region.start_addr().0 != 0 || region.len() > IDENTITY_MAP {
        return None;
    }
    region.get_host_address(MemoryRegionAddress(0)).ok().map(|place| (region.len(), place as u64))
}

/// Takes out what a guest of ours has no use for, and what makes KVM do more for it: machines in machines, counters of
/// events, enclaves, traces, and the hypervisor's own leaves.
fn narrow(features: &mut CpuId) {
    features.retain(|leaf| !(0x4000_0000..0x8000_0000).contains(&leaf.function));
    for leaf in features.as_mut_slice() {
        match leaf.function {
            // VMX, MONITOR, x2APIC.
            1 => leaf.ecx &= !(1 << 5 | 1 << 3 | 1 << 21),
            // SGX, processor trace; keys for protection.
            7 if leaf.index == 0 => {
                leaf.ebx &= !(1 << 2 | 1 << 25);
                leaf.ecx &= !(1 << 3 | 1 << 4 | 1 << 30);
            }
            // Architectural counters, SGX, trace; AMD's counters.
            0xa | 0x12 | 0x14 | 0x8000_0022 => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
            // SVM, AMD's counters.
            0x8000_0001 => leaf.ecx &= !(1 << 2 | 1 << 23 | 1 << 24 | 1 << 28),
            // SVM's own leaf.
            0x8000_000a => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
            _ => {}
        }
    }
}

/// What ends a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Status(u8),
    /// SIGSEGV.
    Memory,
    /// SIGILL.
    Instruction,
    /// SIGFPE.
    Arithmetic,
    /// SIGTRAP.
    Trap,
    /// SIGSYS; needs a filter that kills for getpid(2).
    Refused,
}

/// Ends this process as its guest ended: by doing the same, so that no call of the host's is needed but exit_group(2).
pub fn end(how: End) -> ! {
    // SAFETY: each line ends the process, by its own fault or by the filter's; registers that change are named.
    unsafe {
        match how {
            End::Status(status) => libc::_exit(status.into()),
            End::Memory => std::arch::asm!("mov al, [{place}]", place = in(reg) 1u64 << 63, out("al") _),
            End::Instruction => std::arch::asm!("ud2"),
            End::Arithmetic => std::arch::asm!("div {by:e}", by = in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _),
            End::Trap => std::arch::asm!("int3"),
            End::Refused => drop(libc::syscall(libc::SYS_getpid)),
        }
        libc::_exit(125)
    }
}
