//! Patched images: the executable pages of hot files with their system call sites rewritten, so that programs which use
//! them (the dynamic linker, the C library, static programs) enter the stub without a trap from their first call on.
//!
//! The application maps the file itself, and over it, page by page where there are sites, the same pages from a sealed
//! memfd ([`Image`]) that has them at the same offsets. Everything that a rewritten site needs lies within these pages
//! (in the dead bytes between functions and behind the last one), so that nothing else has to be mapped, moved or freed
//! with them: see `rewrite` for the forms, `code` for what is known of the file's code, `padding` for what is dead.
//!
//! [`Images`] decides which files: those that nothing in the sandbox can write, once they are mapped again and again. A
//! thread of low priority makes the image; until it is there, programs get the plain file. Sites come from our own
//! decoding of the file's bytes and nothing else, an image is only ever used for the very file it was made of (device,
//! inode, size and both times), and no sandbox has another's.

mod build;
mod cache;
mod code;
mod elf;
mod padding;
mod rewrite;
#[cfg(test)]
mod tests;

pub use cache::Images;

use skerry_platform::engine::NativeCall;
use std::os::fd::OwnedFd;
use std::sync::Arc;

const PAGE: u64 = 4096;

/// Bytes `start..end` of a file, whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub start: u64,
    pub end: u64,
}

impl Run {
    fn length(self) -> u64 {
        self.end - self.start
    }
}

/// The patched pages of one executable segment.
#[derive(Debug, PartialEq, Eq)]
pub struct Segment {
    /// In ascending order, apart from each other.
    pub runs: Vec<Run>,
}

/// A file's patched pages.
#[derive(Debug)]
pub struct Image {
    /// Sealed; has the pages of all runs at their offsets in the file, and nothing else.
    pub pages: Arc<OwnedFd>,
    pub segments: Vec<Segment>,
}

impl Image {
    /// The memory that its pages take.
    fn bytes(&self) -> u64 {
        self.segments.iter().flat_map(|segment| &segment.runs).map(|run| run.length()).sum()
    }

    /// The host calls that lay the patched pages over a mapping of the file, of `length` bytes from `offset` on, that the
    /// call before them makes. A segment that is not mapped whole stays as it is: its sites lead to its last pages.
    pub fn lay_over(&self, offset: u64, length: u64, protection: u64, calls: &mut Vec<NativeCall>) {
        use skerry_abi::raw::general as linux;
        let end = offset.saturating_add(length);
        for segment in &self.segments {
            let (Some(first), Some(last)) = (segment.runs.first(), segment.runs.last()) else { continue };
            if first.start < offset || last.end > end {
                continue;
            }
            for run in &segment.runs {
                let flags = u64::from(linux::MAP_PRIVATE | linux::MAP_FIXED);
                let arguments = [run.start - offset, run.length(), protection, flags, 0, run.start];
                calls.push(NativeCall::over_last(linux::__NR_mmap, arguments, 4, self.pages.clone()));
            }
        }
    }
}
