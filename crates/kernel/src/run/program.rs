//! Programs: ELF images (elf(5)) and the stack that a program finds (execve(2), "System V ABI, AMD64 supplement" 3.4.1).
//!
//! Everything in a file is the guest's: sizes and offsets are checked before they are added.

use crate::fs::file::{MappingRequest, OpenFile};
use crate::image::Images;
use crate::run::PlainCode;
use crate::{Errno, Result};
use skerry_abi::raw::{auxvec, general as linux};
use skerry_platform::engine::NativeCall;
use skerry_platform::layout::{MAXIMUM_EXPECTED, RESERVED_END, STUB_BASE};
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const PAGE: u64 = 4096;
/// One past the highest address that a program may use.
const ADDRESS_END: u64 = 0x7fff_ffff_f000;
const MAXIMUM_PROGRAM_HEADERS: usize = 64;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct FileHeader {
    pub identification: [u8; 16],
    pub kind: u16,
    pub machine: u16,
    pub version: u32,
    pub entry: u64,
    pub program_headers: u64,
    pub section_headers: u64,
    pub flags: u32,
    pub header_size: u16,
    pub program_header_size: u16,
    pub program_header_count: u16,
    pub section_header_size: u16,
    pub section_header_count: u16,
    pub section_names: u16,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ProgramHeader {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub address: u64,
    pub physical: u64,
    pub file_size: u64,
    pub memory_size: u64,
    pub alignment: u64,
}

pub(crate) const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
pub(crate) const PF_X: u32 = 1;
pub(crate) const PF_W: u32 = 2;
const PF_R: u32 = 4;

/// A checked ELF file, ready to be mapped.
pub(crate) struct Image {
    pub(super) file: Arc<OpenFile>,
    headers: Vec<ProgramHeader>,
    pub position_independent: bool,
    entry: u64,
    program_headers_offset: u64,
    /// Page-aligned.
    low: u64,
    high: u64,
    pub interpreter: Option<Vec<u8>>,
}

/// A file that is to be executed, and its start: what the headers of most programs fit into.
pub(crate) struct Executable {
    pub file: Arc<OpenFile>,
    start: Vec<u8>,
}

/// What is read of a file at once. A script's first line is looked for in its first 256 bytes (execve(2)).
const START: usize = 1024;

impl Executable {
    pub fn new(file: Arc<OpenFile>) -> Result<Executable> {
        let mut start = vec![0; START];
        let mut count = 0;
        while count < START {
            match file.operations.read(&file, &mut start[count..], count as u64)? {
                0 => break,
                more => count += more,
            }
        }
        start.truncate(count);
        Ok(Executable { file, start })
    }

    /// At most the first `length` bytes.
    pub fn start(&self, length: usize) -> &[u8] {
        &self.start[..length.min(self.start.len())]
    }

    /// As [`read_exactly`].
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let known = usize::try_from(offset).ok().and_then(|offset| self.start.get(offset..offset.checked_add(buffer.len())?));
        match known {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => read_exactly(&self.file, buffer, offset),
        }
    }
}

/// Reads exactly `buffer.len()` bytes, or ENOEXEC.
fn read_exactly(file: &OpenFile, buffer: &mut [u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match file.operations.read(file, &mut buffer[done..], offset.checked_add(done as u64).ok_or(Errno::ENOEXEC)?)? {
            0 => return Err(Errno::ENOEXEC),
            count => done += count,
        }
    }
    Ok(())
}

impl Image {
    /// ENOEXEC where it is not an x86-64 ELF program.
    pub fn parse(executable: &Executable) -> Result<Image> {
        let mut bytes = [0u8; size_of::<FileHeader>()];
        executable.read(&mut bytes, 0)?;
        let header = FileHeader::read_from_bytes(&bytes).map_err(|_| Errno::ENOEXEC)?;
        let is_ours = header.identification.starts_with(b"\x7fELF\x02\x01") && header.machine == EM_X86_64;
        if !is_ours || !matches!(header.kind, ET_EXEC | ET_DYN) {
            return Err(Errno::ENOEXEC);
        }
        let count = usize::from(header.program_header_count);
        if count == 0
            || count > MAXIMUM_PROGRAM_HEADERS
            || usize::from(header.program_header_size) != size_of::<ProgramHeader>()
        {
            return Err(Errno::ENOEXEC);
        }
        let mut bytes = vec![0u8; count * size_of::<ProgramHeader>()];
        executable.read(&mut bytes, header.program_headers)?;
        let headers: Vec<ProgramHeader> = bytes
            .chunks_exact(size_of::<ProgramHeader>())
            .filter_map(|chunk| ProgramHeader::read_from_bytes(chunk).ok())
            .collect();
        let (mut low, mut high) = (u64::MAX, 0);
        let mut previous_end = 0;
        for load in headers.iter().filter(|header| header.kind == PT_LOAD) {
            let end = load.address.checked_add(load.memory_size).filter(|end| *end <= ADDRESS_END).ok_or(Errno::ENOEXEC)?;
            let congruent = load.address % PAGE == load.offset % PAGE;
            if load.file_size > load.memory_size
                || !congruent
                || load.offset.checked_add(load.file_size).is_none()
                || load.address < previous_end
            {
                return Err(Errno::ENOEXEC);
            }
            previous_end = end;
            low = low.min(load.address / PAGE * PAGE);
            high = high.max(end.next_multiple_of(PAGE));
        }
        if low >= high {
            return Err(Errno::ENOEXEC);
        }
        let interpreter = match headers.iter().find(|header| header.kind == PT_INTERP) {
            Some(header) => Some(read_interpreter(executable, header)?),
            None => None,
        };
        Ok(Image {
            file: executable.file.clone(),
            headers,
            position_independent: header.kind == ET_DYN,
            entry: header.entry,
            program_headers_offset: header.program_headers,
            low,
            high,
            interpreter,
        })
    }

    /// Where it ends, loaded with `bias`.
    pub fn end(&self, bias: u64) -> u64 {
        self.high.wrapping_add(bias)
    }

    /// What is added to its addresses when it is loaded at `base` (0 for fixed ones).
    pub fn bias(&self, base: u64) -> u64 {
        if self.position_independent {
            base.wrapping_sub(self.low)
        } else {
            0
        }
    }

    pub fn entry(&self, bias: u64) -> u64 {
        self.entry.wrapping_add(bias)
    }

    /// AT_PHDR: where the program headers are in memory.
    pub fn headers_address(&self, bias: u64) -> u64 {
        let at = self.program_headers_offset;
        let holds =
            |header: &&ProgramHeader| header.kind == PT_LOAD && header.offset <= at && at - header.offset < header.file_size;
        match self.headers.iter().find(holds) {
            Some(header) => (at - header.offset).wrapping_add(header.address).wrapping_add(bias),
            None => at.wrapping_add(self.low).wrapping_add(bias),
        }
    }

    pub fn header_count(&self) -> u64 {
        self.headers.len() as u64
    }

    /// Pages between its segments that none of them has.
    fn has_gaps(&self) -> bool {
        let loads = self.headers.iter().filter(|header| header.kind == PT_LOAD && header.memory_size > 0);
        let mut end = self.low;
        for load in loads {
            if load.address / PAGE * PAGE != end {
                return true;
            }
            end = (load.address + load.memory_size).next_multiple_of(PAGE);
        }
        end != self.high
    }

    /// What the dynamic linker (ld.so(8)) maps behind an mmap(2) of `length` bytes from `offset` on with `protection`, as glibc's
    /// does: the whole range of the library first, and then over that, one after the other, each segment but the first. `None`:
    /// this is another mapping.
    pub fn segments_behind(&self, offset: u64, length: u64, protection: u64) -> Option<Vec<Segment>> {
        let loads: Vec<ProgramHeader> = self.headers.iter().filter(|header| header.kind == PT_LOAD).copied().collect();
        if self.position_independent {
            segments_behind(&loads, offset, length, protection)
        } else {
            None
        }
    }

    /// The host calls that map it. ENOEXEC where it would lie over the stub.
    /// What of it has no image goes to `plain`.
    pub fn map(&self, bias: u64, images: &Arc<Images>, calls: &mut Vec<NativeCall>, plain: &mut Vec<PlainCode>) -> Result<()> {
        let start = self.low.wrapping_add(bias);
        let end = self.high.wrapping_add(bias);
        if start < 0x1000 || end > ADDRESS_END || start < RESERVED_END && end > STUB_BASE {
            return Err(Errno::ENOEXEC);
        }
        let private = linux::MAP_PRIVATE as u64;
        let anonymous = (linux::MAP_PRIVATE | linux::MAP_ANONYMOUS) as u64;
        // The whole range first, so that nothing else is between the segments and nothing of the stub is replaced. Where they leave
        // nothing free it is enough that none may replace anything: what is mapped over other mappings costs more.
        let fixed = if self.has_gaps() {
            let reserve = linux::MAP_PRIVATE | linux::MAP_ANONYMOUS | linux::MAP_FIXED_NOREPLACE | linux::MAP_NORESERVE;
            calls.push(NativeCall::new(linux::__NR_mmap, [start, end - start, 0, reserve.into(), u64::MAX, 0]));
            u64::from(linux::MAP_FIXED)
        } else {
            u64::from(linux::MAP_FIXED_NOREPLACE)
        };
        for load in self.headers.iter().filter(|header| header.kind == PT_LOAD && header.memory_size > 0) {
            let protection = protection(load.flags);
            let address = load.address.wrapping_add(bias);
            let page = address / PAGE * PAGE;
            let file_end = address + load.file_size;
            let memory_end = address + load.memory_size;
            let file_pages_end = file_end.next_multiple_of(PAGE);
            if load.file_size > 0 {
                let request = MappingRequest {
                    shared: false,
                    writable: false,
                    offset: load.offset / PAGE * PAGE,
                    length: file_pages_end - page,
                };
                let descriptor = self.file.operations.mapping_descriptor(request)?;
                let arguments = [page, file_pages_end - page, protection, private | fixed, 0, request.offset];
                calls.push(NativeCall::with_descriptor(linux::__NR_mmap, arguments, 4, descriptor));
                if load.flags & PF_X != 0 && load.flags & PF_W == 0 {
                    let (offset, length) = (request.offset, request.length);
                    let file = images.lay_over(&*self.file.operations, (offset, length), protection, calls);
                    plain.extend(file.map(|file| PlainCode { file, address: page, offset, length, protection }));
                }
                if memory_end > file_end && load.flags & PF_W != 0 && file_pages_end > file_end {
                    calls.push(NativeCall::zero(file_end, file_pages_end - file_end));
                }
            }
            let zero_start = if load.file_size > 0 { file_pages_end } else { page };
            let zero_end = memory_end.next_multiple_of(PAGE);
            if zero_end > zero_start {
                calls.push(NativeCall::new(
                    linux::__NR_mmap,
                    [zero_start, zero_end - zero_start, protection, anonymous | fixed, u64::MAX, 0],
                ));
            }
        }
        Ok(())
    }
}

/// A part of a library, as it is mapped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// From the library's first address on.
    pub start: u64,
    pub length: u64,
    pub protection: u64,
    pub offset: u64,
}

/// [`Image::segments_behind`], of the headers that are loaded.
fn segments_behind(loads: &[ProgramHeader], offset: u64, length: u64, protection: u64) -> Option<Vec<Segment>> {
    let (first, last) = (loads.first()?, loads.last()?);
    let page = |address: u64| address / PAGE * PAGE;
    let is_first = offset == page(first.offset)
        && length == last.address + last.memory_size - page(first.address)
        && protection == self::protection(first.flags)
        && loads.iter().all(|load| load.alignment <= PAGE);
    // The linker protects the holes that it finds before it goes on.
    let has_holes = loads.windows(2).any(|pair| file_pages_end(&pair[0]) != page(pair[1].address));
    if !is_first || has_holes {
        return None;
    }
    let segment = |load: &ProgramHeader| Segment {
        start: page(load.address) - page(first.address),
        length: file_pages_end(load) - page(load.address),
        protection: self::protection(load.flags),
        offset: page(load.offset),
    };
    let segments: Vec<Segment> = loads[1..].iter().map(segment).collect();
    let are_plain = segments.len() <= MAXIMUM_EXPECTED && segments.iter().all(|segment| segment.length > 0);
    are_plain.then_some(segments)
}

/// Where what is mapped of the file for it ends. Checked when it was parsed.
fn file_pages_end(load: &ProgramHeader) -> u64 {
    (load.address + load.file_size).next_multiple_of(PAGE)
}

fn protection(flags: u32) -> u64 {
    let mut protection = 0;
    if flags & PF_R != 0 {
        protection |= linux::PROT_READ;
    }
    if flags & PF_W != 0 {
        protection |= linux::PROT_WRITE;
    }
    if flags & PF_X != 0 {
        protection |= linux::PROT_EXEC;
    }
    protection.into()
}

fn read_interpreter(executable: &Executable, header: &ProgramHeader) -> Result<Vec<u8>> {
    let size = usize::try_from(header.file_size).map_err(|_| Errno::ENOEXEC)?;
    if !(2..=crate::context::PATH_MAX).contains(&size) {
        return Err(Errno::ENOEXEC);
    }
    let mut path = vec![0u8; size];
    executable.read(&mut path, header.offset)?;
    if path.pop() != Some(0) || path.contains(&0) {
        return Err(Errno::ENOEXEC);
    }
    Ok(path)
}

/// The strings and vectors of a program's stack.
pub(super) struct StackLayout<'a> {
    pub arguments: &'a [Vec<u8>],
    pub environment: &'a [Vec<u8>],
    /// AT_EXECFN.
    pub path: &'a [u8],
    pub random: [u8; 16],
    /// Without AT_RANDOM, AT_EXECFN and AT_PLATFORM, whose values are addresses here.
    pub auxiliary: Vec<(u64, u64)>,
}

/// Where things are on a stack that has been laid out.
pub(super) struct LaidOut {
    pub stack_pointer: u64,
    pub bytes: Vec<u8>,
    pub arguments: (u64, u64),
    pub environment: (u64, u64),
    pub auxiliary: Vec<(u64, u64)>,
}

impl StackLayout<'_> {
    /// Lays the stack out downwards from `top`.
    pub fn lay_out(mut self, top: u64) -> LaidOut {
        // From the top: null word, file name, environment, arguments, platform, random bytes; then the vectors.
        let mut strings = Vec::new();
        let mut argument_offsets = Vec::with_capacity(self.arguments.len());
        let mut environment_offsets = Vec::with_capacity(self.environment.len());
        let mut push = |bytes: &[u8]| {
            let offset = strings.len() as u64;
            strings.extend_from_slice(bytes);
            strings.push(0);
            offset
        };
        let platform = push(b"x86_64");
        let arguments_start = b"x86_64".len() as u64 + 1;
        for argument in self.arguments {
            argument_offsets.push(push(argument));
        }
        let arguments_size: u64 = self.arguments.iter().map(|argument| argument.len() as u64 + 1).sum();
        for variable in self.environment {
            environment_offsets.push(push(variable));
        }
        let environment_size: u64 = self.environment.iter().map(|variable| variable.len() as u64 + 1).sum();
        let name = push(self.path);
        strings.extend_from_slice(&[0; 8]);
        let strings_at = top - strings.len() as u64;
        let random_at = (strings_at - 16) & !15;
        let arguments_at = strings_at + arguments_start;
        let environment_at = arguments_at + arguments_size;

        self.auxiliary.push((auxvec::AT_RANDOM.into(), random_at));
        self.auxiliary.push((auxvec::AT_EXECFN.into(), strings_at + name));
        self.auxiliary.push((auxvec::AT_PLATFORM.into(), strings_at + platform));
        let mut words: Vec<u64> = vec![self.arguments.len() as u64];
        words.extend(argument_offsets.iter().map(|offset| strings_at + offset));
        words.push(0);
        words.extend(environment_offsets.iter().map(|offset| strings_at + offset));
        words.push(0);
        for (key, value) in &self.auxiliary {
            words.extend([*key, *value]);
        }
        words.extend([0, 0]);
        let stack_pointer = (random_at - words.len() as u64 * 8) & !15;
        let mut bytes = Vec::with_capacity((top - stack_pointer) as usize);
        for word in words {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.resize((random_at - stack_pointer) as usize, 0);
        bytes.extend_from_slice(&self.random);
        bytes.resize((strings_at - stack_pointer) as usize, 0);
        bytes.extend_from_slice(&strings);
        LaidOut {
            stack_pointer,
            bytes,
            arguments: (arguments_at, environment_at),
            environment: (environment_at, environment_at + environment_size),
            auxiliary: self.auxiliary,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: u32, (offset, file_size): (u64, u64), (address, memory_size): (u64, u64)) -> ProgramHeader {
        ProgramHeader { kind: PT_LOAD, flags, offset, address, physical: 0, file_size, memory_size, alignment: PAGE }
    }

    #[test]
    fn a_librarys_segments_are_what_the_linker_maps_behind_its_first_one() {
        let loads = [
            load(PF_R, (0, 0x25ac8), (0, 0x25ac8)),
            load(PF_R | PF_X, (0x26000, 0x155a00), (0x26000, 0x155a00)),
            load(PF_R | PF_W, (0x17b8d0, 0x4f30), (0x17c8d0, 0x10f30)),
        ];
        let read = u64::from(linux::PROT_READ);
        let whole = 0x17c8d0 + 0x10f30;
        let segment = |start, length, protection: u32, offset| Segment { start, length, protection: protection.into(), offset };
        let expected = vec![
            segment(0x26000, 0x156000, linux::PROT_READ | linux::PROT_EXEC, 0x26000),
            segment(0x17c000, 0x6000, linux::PROT_READ | linux::PROT_WRITE, 0x17b000),
        ];
        assert_eq!(segments_behind(&loads, 0, whole, read), Some(expected));
        // Others map the whole file, or a part of it, or to write there.
        assert_eq!(segments_behind(&loads, 0, 0x180800, read), None);
        assert_eq!(segments_behind(&loads, 0x1000, whole, read), None);
        assert_eq!(segments_behind(&loads, 0, whole, read | u64::from(linux::PROT_WRITE)), None);
        let with_hole = [loads[0], load(PF_R | PF_X, (0x26000, 0x155a00), (0x27000, 0x155a00)), loads[2]];
        assert_eq!(segments_behind(&with_hole, 0, whole, read), None);
        assert_eq!(segments_behind(&[], 0, 0, read), None);
    }

    #[test]
    fn a_stack_is_aligned_and_its_pointers_lead_to_the_strings() {
        for count in 0..5 {
            let arguments: Vec<Vec<u8>> = (0..count).map(|index| vec![b'a'; index]).collect();
            let environment = vec![b"K=v".to_vec()];
            let top = 0x7eee_0000_0000;
            let layout = StackLayout {
                arguments: &arguments,
                environment: &environment,
                path: b"/bin/x",
                random: [7; 16],
                auxiliary: vec![(6, 4096)],
            };
            let laid = layout.lay_out(top);
            assert_eq!(laid.stack_pointer % 16, 0);
            assert_eq!(laid.stack_pointer + laid.bytes.len() as u64, top);
            let word = |index: usize| u64::from_le_bytes(laid.bytes[index * 8..][..8].try_into().unwrap());
            let string = |address: u64| {
                let start = (address - laid.stack_pointer) as usize;
                laid.bytes[start..].split(|byte| *byte == 0).next().unwrap().to_vec()
            };
            assert_eq!(word(0), count as u64);
            for (index, argument) in arguments.iter().enumerate() {
                assert_eq!(&string(word(1 + index)), argument);
            }
            assert_eq!(word(1 + count), 0);
            assert_eq!(string(word(2 + count)), b"K=v");
            assert_eq!(string(laid.environment.0), b"K=v");
            let random = laid.auxiliary.iter().find(|(key, _)| *key == 25).unwrap().1;
            assert_eq!(&laid.bytes[(random - laid.stack_pointer) as usize..][..16], &[7; 16]);
        }
    }
}
