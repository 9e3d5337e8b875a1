//! Unikernels for Solo5's hvt ABI, version 2: the image is the guest of a virtual machine of KVM's, of one processor and one
//! piece of memory, and asks for what it needs by eight hypercalls.
//!
//! `tables` (what lies in memory before the first instruction), `calls` (the hypercalls, their arguments checked). The machine
//! itself is `skerry_platform::virtual_machine`. Around all of it lies a filter that lets the loop run the machine and do what
//! the devices need, and nothing else.

mod calls;
mod tables;

use crate::devices::{Attached, Device};
use crate::image::{self, Image};
use crate::{filter, Error, Loading, Parts};
use calls::{Calls, Outcome, FIRST_PORT};
use skerry_platform::virtual_machine::{end, End, Exit, VirtualMachine};
use std::os::fd::{AsFd, AsRawFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// A guest that is loaded into a machine which runs.
pub struct Ready {
    memory: GuestMemoryMmap,
    machine: VirtualMachine,
    attached: Vec<Attached>,
}

impl Ready {
    pub fn load(parts: Parts<'_, impl image::Source + ?Sized>) -> Result<Ready, Loading> {
        let Parts { file, image, attached, memory_size, command_line } = parts;
        let size = memory_size.min(tables::MOST_MEMORY) / tables::LARGE_PAGE * tables::LARGE_PAGE;
        image.fits(size).map_err(Loading::Image)?;
        let failed = |what: String| Loading::Host(Error::Host(what));
        let pieces = tables::build(&image.parts, size).ok_or(Loading::Image(image::Error::TooLarge))?;
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size as usize)])
            .map_err(|error| failed(format!("{size} bytes of memory cannot be had here; ask for less: {error}")))?;
        let mut machine = VirtualMachine::make(&memory).map_err(|error| failed(without_kvm(&error)))?;
        let written = pieces.iter().all(|(at, bytes)| memory.write_slice(bytes, GuestAddress(*at)).is_ok());
        if !written {
            return Err(failed("its memory cannot be written".into()));
        }
        greet(&mut machine, size).map_err(failed)?;
        image.load_in_pieces(file, |at, bytes| memory.write_slice(bytes, GuestAddress(at)).is_ok()).map_err(Loading::Image)?;
        let khz = machine.counter_khz().ok_or_else(|| failed("/dev/kvm: it does not say how fast the clock goes".into()))?;
        let information = boot_information(image, size, u64::from(khz) * 1000, command_line);
        let written = memory.write_slice(&information, GuestAddress(tables::INFORMATION)).is_ok();
        machine.set(&tables::start(Some(image.entry), size)).map_err(|error| failed(without_kvm(&error)))?;
        match written {
            true => Ok(Ready { memory, machine, attached }),
            false => Err(failed("its memory cannot be written".into())),
        }
    }

    /// Drops all that the loop does not need, and runs the guest to its end, which is ours. Returns only where that cannot be.
    pub fn enter(mut self) -> Error {
        if let Err(error) = crate::drop_privileges() {
            return Error::host("privileges cannot be dropped", error);
        }
        let processor = self.machine.descriptor();
        let console = std::io::stdout();
        let nets = self.attached.iter().filter(|one| one.device == Device::Net).count();
        let filter = filter::for_hvt(processor, nets, &self.attached);
        let devices = self.attached.iter().map(|one| one.descriptor.as_raw_fd());
        skerry_platform::foreground::close_all_but(devices.chain([1, 2, processor]));
        let mut calls = Calls::new(&self.memory, console.as_fd(), &self.attached);
        if let Err(error) = self.machine.confine(&filter) {
            return Error::host("the filter of system calls", error);
        }
        end(run(&mut self.machine, &mut calls))
    }
}

/// From here on there is the filter.
fn run(machine: &mut VirtualMachine, calls: &mut Calls) -> End {
    loop {
        match machine.run() {
            Exit::Interrupted => {}
            Exit::Out { port, value } => match port.checked_sub(FIRST_PORT).map(|number| calls.serve(number, value)) {
                Some(Outcome::Answered) => {}
                Some(Outcome::Ended(status)) => return End::Status(status),
                Some(Outcome::Refused) | None => return End::Refused,
            },
            // Whoever has handlers of its own does not come here; whoever only says so ends itself.
            Exit::OutByte { port: tables::EXCEPTION_PORT, value } => return of_exception(value),
            Exit::OutByte { .. } | Exit::Port => return End::Refused,
            Exit::Fault | Exit::Broken(_) => return End::Memory,
        }
    }
}

/// The signal that a program would have got.
fn of_exception(number: u8) -> End {
    match number {
        0 | 16 | 19 => End::Arithmetic,
        1 | 3 => End::Trap,
        6 => End::Instruction,
        _ => End::Memory,
    }
}

/// A /dev/kvm that opens proves nothing: the machine says a word of ours first, by our own page tables.
fn greet(machine: &mut VirtualMachine, size: u64) -> Result<(), String> {
    machine.set(&tables::start(None, size)).map_err(|error| without_kvm(&error))?;
    loop {
        match machine.run() {
            Exit::Interrupted => {}
            Exit::OutByte { port: tables::EXCEPTION_PORT, value: tables::GREETING } => return Ok(()),
            other => {
                let why = format!("a machine's first instructions did not run: {other:?}");
                return Err(without_kvm(&("/dev/kvm", std::io::Error::other(why))));
            }
        }
    }
}

fn without_kvm((what, why): &(&'static str, std::io::Error)) -> String {
    format!("the image is for hvt, and that takes KVM: {what}: {}; where there is none, build it for spt", image::reason(why))
}

fn boot_information(image: &Image, size: u64, hertz: u64, command_line: &[u8]) -> Vec<u8> {
    const WORDS: u64 = 5;
    let manifest = image.manifest.bytes();
    let manifest_at = tables::INFORMATION + 8 * WORDS;
    let command_line_at = manifest_at + manifest.len() as u64;
    let mut bytes: Vec<u8> = Vec::new();
    for word in [size, image.end, hertz, command_line_at, manifest_at] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(manifest);
    bytes.extend(command_line);
    bytes.push(0);
    bytes
}
