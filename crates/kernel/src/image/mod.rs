//! Patched images: the executable pages of hot files with their system call sites rewritten, so that programs which use
//! them (the dynamic linker, the C library, static programs) enter the stub without a trap from their first call on.
//!
//! The application maps the file itself, and over it, page by page where there are sites, the same pages from a sealed
//! memfd ([`Image`]) that has them at the same offsets. Everything that a rewritten site needs lies within these pages
//! (in the dead bytes between functions and behind the last one), so that nothing else has to be mapped, moved or freed
//! with them: see `rewrite` for the forms, `code` for what is known of the file's code, `padding` for what is dead.
//!
//! A process that has mapped a file before there was an image gets it later, when many of its calls have trapped
//! (`run/patch.rs`).
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

pub use cache::{Images, Later, Plain};

use skerry_platform::engine::NativeCall;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

const PAGE: u64 = 4096;

/// Bytes `start..end` of a file, whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub start: u64,
    pub end: u64,
}

impl Run {
    pub fn length(self) -> u64 {
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
    /// Where instructions have been moved away (from, to): nobody may stand within.
    moved: Vec<(u64, u64)>,
    /// The pages without that, once they have been asked for.
    late_pages: OnceLock<Option<Arc<OwnedFd>>>,
}

impl Image {
    /// The memory that its pages take.
    fn bytes(&self) -> u64 {
        let one: u64 = self.segments.iter().flat_map(|segment| &segment.runs).map(|run| run.length()).sum();
        one * if matches!(self.late_pages.get(), Some(Some(_))) { 2 } else { 1 }
    }

    /// What is patched of the bytes from `offset` to `end`. A segment that is not mapped whole stays as it is: its sites
    /// lead to its last pages.
    fn runs_within(&self, offset: u64, end: u64) -> impl Iterator<Item = &Run> {
        let is_whole = move |segment: &&Segment| {
            segment.runs.first().is_some_and(|run| offset <= run.start) && segment.runs.last().is_some_and(|run| run.end <= end)
        };
        self.segments.iter().filter(is_whole).flat_map(|segment| &segment.runs)
    }

    /// The arguments of the mmap(2) that lays `run` over the file's own page at `address`.
    fn arguments(run: Run, address: u64, protection: u64) -> [u64; 6] {
        use skerry_abi::raw::general as linux;
        let flags = u64::from(linux::MAP_PRIVATE | linux::MAP_FIXED);
        [address, run.length(), protection, flags, 0, run.start]
    }

    /// The host calls that lay the patched pages over a mapping of the file, of `length` bytes from `offset` on, that the
    /// call before them makes.
    pub fn lay_over(&self, offset: u64, length: u64, protection: u64, calls: &mut Vec<NativeCall>) {
        let end = offset.saturating_add(length);
        for run in self.runs_within(offset, end) {
            // All of it is patched: then the file need not be mapped first.
            if let Some((_, descriptor)) =
                calls.last_mut().and_then(|call| call.descriptor.as_mut()).filter(|_| (run.start, run.end) == (offset, end))
            {
                *descriptor = self.pages.clone();
                continue;
            }
            let arguments = Image::arguments(*run, run.start - offset, protection);
            calls.push(NativeCall::over_last(skerry_abi::raw::general::__NR_mmap, arguments, 4, self.pages.clone()));
        }
    }

    /// As [`Image::lay_over`], over a mapping at `address` that is there already; and what each of them replaces. The pages
    /// are those of [`Later::Ready`].
    pub fn replace(
        &self,
        pages: &Arc<OwnedFd>,
        address: u64,
        (offset, length): (u64, u64),
        protection: u64,
    ) -> Vec<(Run, NativeCall)> {
        let runs = self.runs_within(offset, offset.saturating_add(length));
        let call = |run: &Run| {
            let arguments = Image::arguments(*run, address + (run.start - offset), protection);
            NativeCall::with_descriptor(skerry_abi::raw::general::__NR_mmap, arguments, 4, pages.clone())
        };
        runs.map(|run| (*run, call(run))).collect()
    }
}
