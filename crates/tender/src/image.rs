//! The image of a unikernel: an ELF file that nobody has looked at, and that says where it wants to lie. Everything is bounded
//! and checked before anything is loaded, and read once.

use crate::manifest::{self, Manifest};
use skerry_platform::unikernel::{GuestMemory, Protection};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use thiserror::Error;

pub const ABI_VERSION: u32 = 2;
/// The ABIs that there are, by their numbers.
const TARGETS: [&str; 7] = ["", "hvt", "spt", "virtio", "muen", "genode", "xen"];

/// Images lie at this address or above.
pub const LOWEST: u64 = 0x10_0000;
/// A unikernel starts with a stack at the end of its memory: there must be some.
pub const LEAST_STACK: u64 = 0x1_0000;
const PAGE: u64 = 4096;

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
const MOST_PROGRAM_HEADERS: u16 = 128;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const OWNER: &[u8] = b"Solo5\0\0\0";
const NOTE_HEADER: usize = 12 + OWNER.len();
const ABI_NOTE: u32 = 0x3149_4241;
const ABI_NOTE_SIZE: usize = 16;
const MANIFEST_NOTE: u32 = 0x3154_464d;
/// The manifest is aligned to eight bytes, and the end of its note's header is not.
const MANIFEST_PADDING: usize = 4;

#[derive(Debug, Error)]
pub enum Error {
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("it is cut off: {0} is not all there")]
    CutOff(&'static str),
    #[error("it is no unikernel: {0}")]
    NoUnikernel(&'static str),
    #[error("it is no unikernel for Solo5: it has no note that names its ABI")]
    NoAbi,
    #[error("the image is for {0}, neither spt nor hvt")]
    OtherTarget(String),
    #[error("the image is for version {1} of the {0} ABI, not version 2")]
    OtherVersion(&'static str, u32),
    #[error("it has no manifest of the devices that it wants")]
    NoManifest,
    #[error("{0}")]
    Manifest(#[from] manifest::Error),
    #[error("the note of its {0} has a wrong size")]
    NoteSize(&'static str),
    #[error("it has {0} program headers; at most 128 are read")]
    TooManyHeaders(u16),
    #[error("segment {0}: {1}")]
    Segment(usize, &'static str),
    #[error("its entry point {0:#x} is in no executable segment")]
    Entry(u64),
    #[error("it is larger than the page tables of a machine can say")]
    TooLarge,
    #[error("it takes {needed} bytes of memory, and has {given}: give it more (--memory)")]
    Memory { needed: u64, given: u64 },
}

/// Where an image's bytes come from.
pub trait Source {
    /// All of `buffer`, or an error of the kind `UnexpectedEof`.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Source for File {
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        // The host takes offsets that are signed.
        if i64::try_from(offset).ok().and_then(|offset| offset.checked_add_unsigned(buffer.len() as u64)).is_none() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_exact_at(buffer, offset)
    }
}

impl Source for [u8] {
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).ok();
        let part = from.and_then(|from| self.get(from..from.checked_add(buffer.len())?)).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(part);
        Ok(())
    }
}

/// An error of the host's, without its number.
pub fn reason(error: &io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

fn read(source: &(impl Source + ?Sized), buffer: &mut [u8], offset: u64, what: &'static str) -> Result<(), Error> {
    source.read(buffer, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::CutOff(what),
        _ => Error::Unreadable(reason(&error)),
    })
}

/// A segment that is loaded: whole pages of the guest's memory, none of them another segment's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub pages: Range<u64>,
    pub protection: Protection,
    /// Where the bytes of the file go, and where in the file they are.
    bytes: Range<u64>,
    offset: u64,
}

impl Part {
    pub fn protected(&self) -> (Range<u64>, Protection) {
        (self.pages.clone(), self.protection)
    }

    #[cfg(test)]
    pub fn fills(&self) -> Range<u64> {
        self.bytes.clone()
    }
}

/// Who runs it: the host behind a filter, or a machine of KVM's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Hvt = 1,
    Spt = 2,
}

/// What is to be loaded.
#[derive(Clone, Debug)]
pub struct Image {
    pub target: Target,
    pub entry: u64,
    /// In ascending order.
    pub parts: Vec<Part>,
    /// Behind the last page that it takes.
    pub end: u64,
    pub manifest: Manifest,
}

impl Image {
    pub fn parse(source: &(impl Source + ?Sized)) -> Result<Image, Error> {
        let mut header = [0; HEADER_SIZE];
        read(source, &mut header, 0, "the ELF header")?;
        if header[..4] != *b"\x7fELF" {
            return Err(Error::NoUnikernel("it is no ELF file"));
        }
        // 64 bits, little-endian, version 1.
        if header[4..7] != [2, 1, 1] || half(&header, 18) != 62 || word(&header, 20) != 1 {
            return Err(Error::NoUnikernel("it is not for x86-64"));
        }
        if half(&header, 16) != 2 {
            return Err(Error::NoUnikernel("its addresses are not fixed (ET_EXEC)"));
        }
        if usize::from(half(&header, 52)) != HEADER_SIZE || usize::from(half(&header, 54)) != PROGRAM_HEADER_SIZE {
            return Err(Error::NoUnikernel("its headers have a wrong size"));
        }
        let count = half(&header, 56);
        if count > MOST_PROGRAM_HEADERS {
            return Err(Error::TooManyHeaders(count));
        }
        let mut headers = vec![0; usize::from(count) * PROGRAM_HEADER_SIZE];
        read(source, &mut headers, long(&header, 32), "the table of program headers")?;
        let headers: Vec<&[u8]> = headers.chunks_exact(PROGRAM_HEADER_SIZE).collect();

        let mut abi = None;
        let mut manifest = None;
        for header in headers.iter().filter(|header| word(header, 0) == PT_NOTE) {
            match Note::read(source, header)? {
                Some(Note { kind: ABI_NOTE, content }) if abi.is_none() => abi = Some(content),
                Some(Note { kind: MANIFEST_NOTE, content }) if manifest.is_none() => manifest = Some(content),
                _ => {}
            }
        }
        let target = target_of(&abi.ok_or(Error::NoAbi)?)?;
        let manifest = manifest.ok_or(Error::NoManifest)?;
        let manifest = Manifest::parse(manifest.get(MANIFEST_PADDING..).ok_or(Error::NoteSize("manifest"))?)?;

        let parts = parts(&headers)?;
        let entry = long(&header, 24);
        if !parts.iter().any(|part| part.protection.execute && part.pages.contains(&entry)) {
            return Err(Error::Entry(entry));
        }
        let end = parts.last().map_or(LOWEST, |part| part.pages.end);
        Ok(Image { target, entry, parts, end, manifest })
    }

    /// Whether a memory of `size` bytes has room for it and a stack.
    pub fn fits(&self, size: u64) -> Result<(), Error> {
        let needed = self.end.saturating_add(LEAST_STACK);
        if needed <= size / PAGE * PAGE {
            Ok(())
        } else {
            Err(Error::Memory { needed, given: size })
        }
    }

    /// Reads it to where it belongs. The memory is new: what no byte of the file is for is zero.
    pub fn load(&self, source: &(impl Source + ?Sized), memory: &mut GuestMemory) -> Result<(), Error> {
        for (index, part) in self.parts.iter().enumerate() {
            let place = memory.bytes(part.bytes.clone()).ok_or(Error::Segment(index, "it lies outside of the memory"))?;
            read(source, place, part.offset, "a segment")?;
        }
        Ok(())
    }

    /// The same for a memory that is written through `put`, which says whether it was inside.
    pub fn load_in_pieces(
        &self,
        source: &(impl Source + ?Sized),
        mut put: impl FnMut(u64, &[u8]) -> bool,
    ) -> Result<(), Error> {
        let mut piece = vec![0; PIECE];
        for (index, part) in self.parts.iter().enumerate() {
            let (mut at, mut offset) = (part.bytes.start, part.offset);
            while at < part.bytes.end {
                let place = &mut piece[..(part.bytes.end - at).min(PIECE as u64) as usize];
                read(source, place, offset, "a segment")?;
                if !put(at, place) {
                    return Err(Error::Segment(index, "it lies outside of the memory"));
                }
                (at, offset) = (at + place.len() as u64, offset + place.len() as u64);
            }
        }
        Ok(())
    }
}

/// What is copied at once.
const PIECE: usize = 1 << 16;

/// The segments that take memory, checked against each other.
fn parts(headers: &[&[u8]]) -> Result<Vec<Part>, Error> {
    let mut parts: Vec<Part> = Vec::new();
    for (index, header) in headers.iter().enumerate() {
        let (flags, offset, address) = (word(header, 4), long(header, 8), long(header, 16));
        let (file_size, memory_size, alignment) = (long(header, 32), long(header, 40), long(header, 48));
        if word(header, 0) != PT_LOAD || memory_size == 0 && file_size == 0 {
            continue;
        }
        let bad = |why| Err(Error::Segment(index, why));
        if memory_size < file_size {
            return bad("it has more bytes in the file than in memory");
        }
        if address < LOWEST {
            return bad("it lies below 0x100000");
        }
        let Some(end) = address.checked_add(memory_size).and_then(|end| end.checked_next_multiple_of(PAGE)) else {
            return bad("it lies beyond the end of all addresses");
        };
        if offset.checked_add(file_size).is_none() {
            return bad("it lies beyond the end of all files");
        }
        if alignment > 1 && !alignment.is_power_of_two() {
            return bad("its alignment is no power of two");
        }
        let start = address / PAGE * PAGE;
        if parts.last().is_some_and(|last| start < last.pages.end) {
            return bad("it lies over the one before it, or before it");
        }
        let protection = Protection { read: flags & 4 != 0, write: flags & 2 != 0, execute: flags & 1 != 0 };
        if protection.write && protection.execute {
            return bad("it is writable and executable");
        }
        parts.push(Part { pages: start..end, protection, bytes: address..address + file_size, offset });
    }
    Ok(parts)
}

/// A note of Solo5's.
struct Note {
    kind: u32,
    content: Vec<u8>,
}

impl Note {
    /// The first note of a segment, if it is one of ours: an image has each in a segment of its own.
    fn read(source: &(impl Source + ?Sized), header: &[u8]) -> Result<Option<Note>, Error> {
        let (offset, size) = (long(header, 8), long(header, 32));
        if size < NOTE_HEADER as u64 {
            return Ok(None);
        }
        let mut head = [0; NOTE_HEADER];
        read(source, &mut head, offset, "a note")?;
        let (name_size, size_said, kind) = (word(&head, 0), word(&head, 4) as usize, word(&head, 8));
        // With its zero byte, without those that fill up.
        if name_size != 6 || head[12..] != *OWNER {
            return Ok(None);
        }
        let (name, least, most) = match kind {
            ABI_NOTE => ("ABI", ABI_NOTE_SIZE, ABI_NOTE_SIZE),
            MANIFEST_NOTE => ("manifest", MANIFEST_PADDING + 8, manifest::LONGEST_NOTE),
            _ => return Ok(None),
        };
        if !(least..=most).contains(&size_said) || (size_said + NOTE_HEADER) as u64 > size {
            return Err(Error::NoteSize(name));
        }
        let mut content = vec![0; size_said];
        let at = offset.checked_add(NOTE_HEADER as u64).ok_or(Error::CutOff("a note"))?;
        read(source, &mut content, at, "a note")?;
        Ok(Some(Note { kind, content }))
    }
}

fn target_of(content: &[u8]) -> Result<Target, Error> {
    let (number, version) = (word(content, 0), word(content, 4));
    let known = TARGETS.get(number as usize).filter(|name| !name.is_empty());
    let target = match number {
        1 => Target::Hvt,
        2 => Target::Spt,
        _ => {
            let name = known.map_or_else(|| format!("the unknown target {number}"), |name| (*name).to_owned());
            return Err(Error::OtherTarget(name));
        }
    };
    match version {
        ABI_VERSION => Ok(target),
        _ => Err(Error::OtherVersion(TARGETS[number as usize], version)),
    }
}

/// Numbers in what has been read; zero where it is too short, which nothing that is read here is.
fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |two| u16::from_le_bytes(two.try_into().unwrap_or_default()))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_le_bytes(four.try_into().unwrap_or_default()))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |eight| u64::from_le_bytes(eight.try_into().unwrap_or_default()))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::manifest::tests::written;

    fn note(kind: u32, padding: usize, content: &[u8]) -> Vec<u8> {
        let size = (padding + content.len()) as u32;
        let mut bytes = [6u32.to_le_bytes(), size.to_le_bytes(), kind.to_le_bytes()].concat();
        bytes.extend(OWNER);
        bytes.resize(bytes.len() + padding, 0);
        bytes.extend(content);
        bytes
    }

    /// A small image: text, data with zeros behind it, and the two notes.
    pub fn built(target: u32, version: u32, devices: &[(&str, u32)]) -> Vec<u8> {
        let abi: Vec<u8> = [target, version, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        let (abi, manifest) = (note(ABI_NOTE, 0, &abi), note(MANIFEST_NOTE, MANIFEST_PADDING, &written(devices)));
        let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend(2u16.to_le_bytes());
        bytes.extend(62u16.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        for word in [LOWEST, 64, 0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 4, 64, 0, 0] {
            bytes.extend(half.to_le_bytes());
        }
        let notes = 0x400 + abi.len() as u64;
        for (kind, flags, words) in [
            (PT_LOAD, 5u32, [0x200, LOWEST, 0, 0x100, 0x100, 0x1000]),
            (PT_LOAD, 6, [0x300, LOWEST + 0x1000, 0, 0x100, 0x2100, 0x1000]),
            (PT_NOTE, 4, [0x400, 0, 0, abi.len() as u64, 0, 4]),
            (PT_NOTE, 4, [notes, 0, 0, manifest.len() as u64, 0, 4]),
        ] {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            words.iter().for_each(|word: &u64| bytes.extend(word.to_le_bytes()));
        }
        bytes.resize(0x200, 0);
        bytes.resize(0x300, 0x90);
        bytes.resize(0x400, 1);
        bytes.extend(abi);
        bytes.extend(manifest);
        bytes
    }

    fn refused(bytes: &[u8]) -> String {
        Image::parse(bytes).unwrap_err().to_string()
    }

    #[test]
    fn an_image_is_read() {
        let image = Image::parse(&built(2, 2, &[("storage", 1)])[..]).unwrap();
        assert_eq!(image.target, Target::Spt);
        assert_eq!(Image::parse(&built(1, 2, &[])[..]).unwrap().target, Target::Hvt);
        assert_eq!((image.entry, image.end, image.parts.len()), (LOWEST, LOWEST + 0x4000, 2));
        assert_eq!(image.parts[1].pages, LOWEST + 0x1000..LOWEST + 0x4000);
        assert_eq!(image.manifest.wishes[0].name, "storage");
        assert!(image.fits(LOWEST + 0x4000 + LEAST_STACK).is_ok());
        assert!(image.fits(LOWEST + 0x4000 + LEAST_STACK - 1).is_err());
    }

    #[test]
    fn what_is_wrong_is_told() {
        let whole = built(2, 2, &[]);
        let with = |changes: &[(usize, u8)]| {
            let mut bytes = whole.clone();
            changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
            refused(&bytes)
        };
        let second = 64 + 56;
        assert_eq!(refused(&built(3, 2, &[])), "the image is for virtio, neither spt nor hvt");
        assert_eq!(refused(&built(9, 2, &[])), "the image is for the unknown target 9, neither spt nor hvt");
        assert_eq!(refused(&built(1, 3, &[])), "the image is for version 3 of the hvt ABI, not version 2");
        assert_eq!(refused(&built(2, 1, &[])), "the image is for version 1 of the spt ABI, not version 2");
        assert!(with(&[(0, 0)]).contains("no ELF file"));
        assert!(with(&[(4, 1)]).contains("x86-64"));
        assert!(with(&[(16, 3)]).contains("not fixed"));
        assert!(with(&[(54, 57)]).contains("wrong size"));
        assert!(with(&[(56, 129)]).contains("129 program headers"));
        assert!(with(&[(56, 0)]).contains("no note that names its ABI"));
        assert!(with(&[(56, 3)]).contains("no manifest"));
        assert!(with(&[(39, 0x70)]).contains("the table of program headers is not all there"));
        assert!(with(&[(24, 0xff), (25, 0x1f)]).contains("entry point"));
        assert!(with(&[(64 + 4, 7)]).contains("segment 0: it is writable and executable"));
        assert!(with(&[(64 + 18, 0)]).contains("below 0x100000"));
        assert!(with(&[(second + 17, 0)]).contains("segment 1: it lies over the one before it"));
        assert!(with(&[(second + 41, 0), (second + 33, 2)]).contains("more bytes in the file"));
        let everywhere: Vec<_> = (second + 41..second + 48).map(|at| (at, 0xff)).collect();
        assert!(with(&everywhere).contains("beyond the end of all addresses"));
        assert!(with(&[(second + 49, 3)]).contains("power of two"));
        assert!(with(&[(0x404, 17)]).contains("the note of its ABI has a wrong size"));
        for length in 0..whole.len() {
            assert!(Image::parse(&whole[..length]).is_err(), "{length}");
        }
    }
}
