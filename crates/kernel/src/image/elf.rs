//! What an ELF file (elf(5)) says of its code: executable segments, and where functions begin and end.
//!
//! Functions come from `.eh_frame` (by way of `.eh_frame_hdr`, which stripped files have too), or else from the symbol
//! table. Everything in the file is taken as hostile: a number that does not fit means that there is no image.

use crate::run::program::{FileHeader, ProgramHeader, PF_W, PF_X, PT_LOAD};
use gimli::{BaseAddresses, EhFrame, EhFrameHdr, NativeEndian, UnwindSection};
use std::os::fd::OwnedFd;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const MAXIMUM_HEADERS: u16 = 64;
const MAXIMUM_SECTIONS: u16 = 1024;
/// The most that is read of unwind tables or symbols.
const MAXIMUM_TABLE: u64 = 16 << 20;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const SHT_SYMTAB: u32 = 2;
const STT_FUNC: u8 = 2;

/// Reads at an offset of the file.
pub(super) struct Source<'a>(pub &'a OwnedFd);

impl Source<'_> {
    /// Fills `buffer`, or `None`: the file is shorter, or cannot be read.
    pub fn fill(&self, buffer: &mut [u8], offset: u64) -> Option<()> {
        (self.fill_start(buffer, offset)? == buffer.len()).then_some(())
    }

    /// Fills as much of `buffer` as the file has; returns how much.
    pub fn fill_start(&self, buffer: &mut [u8], offset: u64) -> Option<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match rustix::io::retry_on_intr(|| rustix::io::pread(self.0, &mut buffer[done..], offset + done as u64)) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(_) => return None,
            }
        }
        Some(done)
    }

    pub fn read(&self, offset: u64, length: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        offset.checked_add(length)?;
        self.fill(&mut bytes, offset)?;
        Some(bytes)
    }

    fn array<T: FromBytes + Immutable + KnownLayout>(&self, offset: u64, count: usize) -> Option<Vec<T>> {
        let bytes = self.read(offset, (count * size_of::<T>()) as u64)?;
        Some(bytes.chunks_exact(size_of::<T>()).filter_map(|chunk| T::read_from_bytes(chunk).ok()).collect())
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SectionHeader {
    name: u32,
    kind: u32,
    flags: u64,
    address: u64,
    offset: u64,
    size: u64,
    link: u32,
    information: u32,
    alignment: u64,
    entry_size: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Symbol {
    name: u32,
    information: u8,
    other: u8,
    section: u16,
    value: u64,
    size: u64,
}

/// An executable segment: bytes `start..end` of the file, in memory `bias` further up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CodeSegment {
    pub start: u64,
    pub end: u64,
    bias: u64,
}

impl CodeSegment {
    /// Where in the file code at `address` lies, if it is in this segment.
    fn file_offset(&self, address: u64) -> Option<u64> {
        let offset = address.wrapping_sub(self.bias);
        (self.start..=self.end).contains(&offset).then_some(offset)
    }
}

/// A function, as bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Function {
    pub start: u64,
    pub end: u64,
}

/// An ELF file's code.
pub(super) struct Elf {
    header: FileHeader,
    programs: Vec<ProgramHeader>,
    pub segments: Vec<CodeSegment>,
}

impl Elf {
    pub fn read(source: &Source) -> Option<Elf> {
        const EM_X86_64: u16 = 62;
        let header = source.array::<FileHeader>(0, 1)?.pop()?;
        let is_ours = header.identification.starts_with(b"\x7fELF\x02\x01")
            && header.machine == EM_X86_64
            && usize::from(header.program_header_size) == size_of::<ProgramHeader>()
            && header.program_header_count <= MAXIMUM_HEADERS;
        if !is_ours {
            return None;
        }
        let programs: Vec<ProgramHeader> = source.array(header.program_headers, header.program_header_count.into())?;
        let mut segments = Vec::new();
        for program in &programs {
            if program.kind == PT_LOAD && program.flags & PF_X != 0 && program.flags & PF_W == 0 && program.file_size > 0 {
                segments.push(CodeSegment {
                    start: program.offset,
                    end: program.offset.checked_add(program.file_size)?,
                    bias: program.address.wrapping_sub(program.offset),
                });
            }
        }
        Some(Elf { header, programs, segments })
    }

    /// The functions that lie in an executable segment, by their starts; none of them overlaps another.
    pub fn functions(&self, source: &Source) -> Option<Vec<Function>> {
        let mut functions = Vec::new();
        let mut add = |address: u64, size: u64| {
            let place = |segment: &CodeSegment| {
                let start = segment.file_offset(address)?;
                let end = start.checked_add(size).filter(|end| *end <= segment.end)?;
                (end > start).then_some(Function { start, end })
            };
            functions.extend(self.segments.iter().find_map(place));
        };
        if self.programs.iter().any(|program| program.kind == PT_GNU_EH_FRAME) {
            self.unwind_entries(source, &mut add)?;
        } else {
            self.symbols(source, &mut add)?;
        }
        functions.sort_unstable();
        functions.dedup();
        // Of several that begin together (symbols of parts) none is known to be right; nor of overlapping ones.
        let mut apart: Vec<Function> = Vec::with_capacity(functions.len());
        let mut reached = 0;
        for function in functions {
            if function.start >= reached {
                apart.push(function);
            } else if apart.last().is_some_and(|last| last.end > function.start) {
                apart.pop();
            }
            reached = reached.max(function.end);
        }
        Some(apart)
    }

    fn unwind_entries(&self, source: &Source, add: &mut impl FnMut(u64, u64)) -> Option<()> {
        let table = self.programs.iter().find(|program| program.kind == PT_GNU_EH_FRAME)?;
        if table.file_size > MAXIMUM_TABLE {
            return None;
        }
        let bytes = source.read(table.offset, table.file_size)?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(table.address);
        let header = EhFrameHdr::new(&bytes, NativeEndian).parse(&bases, 8).ok()?;
        let gimli::Pointer::Direct(frames_at) = header.eh_frame_ptr() else { return None };
        let holds = |program: &&ProgramHeader| {
            program.kind == PT_LOAD && program.address <= frames_at && frames_at - program.address < program.file_size
        };
        let program = self.programs.iter().find(holds)?;
        let into = frames_at - program.address;
        let frame_bytes = source.read(program.offset.checked_add(into)?, (program.file_size - into).min(MAXIMUM_TABLE))?;
        let frames = EhFrame::new(&frame_bytes, NativeEndian);
        let bases = bases.set_eh_frame(frames_at);
        let entries = header.table()?;
        let mut positions = entries.iter(&bases);
        while let Some((_, pointer)) = positions.next().ok()? {
            let offset = entries.pointer_to_offset(pointer).ok()?;
            let entry = frames.fde_from_offset(&bases, offset, EhFrame::cie_from_offset).ok()?;
            add(entry.initial_address(), entry.len());
        }
        Some(())
    }

    fn symbols(&self, source: &Source, add: &mut impl FnMut(u64, u64)) -> Option<()> {
        let count = self.header.section_header_count;
        if usize::from(self.header.section_header_size) != size_of::<SectionHeader>() || count > MAXIMUM_SECTIONS {
            return None;
        }
        let sections: Vec<SectionHeader> = source.array(self.header.section_headers, count.into())?;
        let table = sections.iter().find(|section| section.kind == SHT_SYMTAB)?;
        if table.size > MAXIMUM_TABLE {
            return None;
        }
        for symbol in source.array::<Symbol>(table.offset, table.size as usize / size_of::<Symbol>())? {
            if symbol.information & 0xf == STT_FUNC && symbol.section != 0 && symbol.size > 0 {
                add(symbol.value, symbol.size);
            }
        }
        Some(())
    }
}
