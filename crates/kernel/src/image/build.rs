//! Makes a file's image: finds the sites, chooses the pages that are worth it, rewrites, and puts the result into a memfd.

use super::code::{self, Code, Identification, Site};
use super::elf::{CodeSegment, Elf, Function, Source};
use super::padding::Padding;
use super::rewrite::{self, Patch};
use super::{Image, Run, Segment, PAGE};
use rustix::fs::{MemfdFlags, SealFlags};
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

/// The longest segment that is searched.
const MAXIMUM_SEGMENT: u64 = 32 << 20;
/// Segments up to this size are patched whole: fewer mappings for few pages.
const WHOLE_SEGMENT: u64 = 256 << 10;
/// The most runs of one segment: each is a mapping of its own in every process.
const MAXIMUM_RUNS: usize = 8;
/// What a run and a page cost, in sites.
const RUN_COST: f64 = 8.0;
const PAGE_COST: f64 = 0.5;
/// Zeros behind a segment's end that are worth their page.
const WORTHY_TAIL: u64 = 256;
const CHUNK: u64 = 1 << 20;

/// The image of a file; `None` where it has no sites that are worth one, or cannot be understood.
pub(super) fn image(file: &OwnedFd) -> Option<Image> {
    let source = Source(file);
    let elf = Elf::read(&source)?;
    let mut functions = None;
    let mut segments = Vec::new();
    let mut all = Vec::new();
    let mut moved = Vec::new();
    for segment in &elf.segments {
        if segment.end - segment.start > MAXIMUM_SEGMENT {
            continue;
        }
        let candidates = candidates(&source, *segment)?;
        if candidates.is_empty() {
            continue;
        }
        if functions.is_none() {
            functions = Some(elf.functions(&source)?);
        }
        let Some(known) = &functions else { continue };
        if let Some((runs, patches, identifications)) = patch_segment(&source, *segment, known, &candidates) {
            segments.push(Segment { runs });
            moved.extend(identifications.iter().filter(|one| one.load.is_none()).map(|one| (one.at, one.end())));
            all.extend(patches);
        }
    }
    if segments.is_empty() {
        return None;
    }
    let pages = Arc::new(write_pages(&source, &segments, &all)?);
    moved.retain(|(start, _)| all.iter().any(|patch| patch.at == *start));
    Some(Image { pages, segments, moved, late_pages: OnceLock::new() })
}

/// The pages of `image` with what was moved left where it is in the file.
pub(super) fn late_pages(image: &Image, file: &OwnedFd) -> Option<OwnedFd> {
    let source = Source(file);
    let original = |(start, end): &(u64, u64)| Some(Patch { at: *start, bytes: source.read(*start, end - start)? });
    let originals = image.moved.iter().map(original).collect::<Option<Vec<_>>>()?;
    write_pages(&Source(&image.pages), &image.segments, &originals)
}

/// Where the bytes of a `syscall` or `cpuid` are, if there are enough of the former with a number before them to bother.
fn candidates(source: &Source, segment: CodeSegment) -> Option<Vec<u64>> {
    let mut found = Vec::new();
    let mut with_number = 0;
    for_each_chunk(source, segment, 2, |at, bytes| {
        for index in memchr::memchr_iter(0x0f, bytes) {
            match bytes.get(index + 1) {
                Some(0xa2) => found.push(at + index as u64),
                Some(0x05) => {
                    found.push(at + index as u64);
                    let before = index.checked_sub(5).and_then(|start| bytes.get(start..index));
                    with_number += usize::from(matches!(before, Some([0xb8, _, 0..=3, 0, 0])));
                }
                _ => {}
            }
        }
    })?;
    found.sort_unstable();
    found.dedup();
    Some(if with_number < RUN_COST as usize { Vec::new() } else { found })
}

/// Reads a segment piece by piece, each beginning `overlap - 1` bytes before the end of the last.
fn for_each_chunk(source: &Source, segment: CodeSegment, overlap: u64, mut look: impl FnMut(u64, &[u8])) -> Option<()> {
    let mut at = segment.start;
    while at < segment.end {
        let length = (segment.end - at).min(CHUNK);
        look(at, &source.read(at, length)?);
        if at + length == segment.end {
            break;
        }
        at += length - (overlap - 1);
    }
    Some(())
}

fn decode(source: &Source, function: Function) -> Option<Code> {
    if function.end - function.start > code::MAXIMUM_FUNCTION {
        return None;
    }
    code::decode(function, &source.read(function.start, function.end - function.start)?)
}

fn patch_segment(
    source: &Source,
    segment: CodeSegment,
    functions: &[Function],
    candidates: &[u64],
) -> Option<(Vec<Run>, Vec<Patch>, Vec<Identification>)> {
    let found = find(source, functions, candidates);
    let tail = free_tail(source, segment)?;
    let runs = choose_runs(segment, &found, tail);
    if runs.is_empty() {
        return None;
    }
    let (padding, found) = room(source, segment, functions, found, tail, &runs)?;
    let patches = rewrite::rewrite(&found.sites, &found.identifications, padding, &runs);
    let runs = trim(runs, &patches);
    (!runs.is_empty()).then_some((runs, patches, found.identifications))
}

/// What there is to rewrite.
#[derive(Default)]
struct Found {
    sites: Vec<Site>,
    identifications: Vec<Identification>,
}

/// Those candidates that decoding from a function's start finds to be what they look like, and that are worth rewriting.
fn find(source: &Source, functions: &[Function], candidates: &[u64]) -> Found {
    let mut found = Found::default();
    let mut decoded_to = 0;
    for &candidate in candidates.iter() {
        if candidate < decoded_to {
            continue;
        }
        let index = functions.partition_point(|function| function.start <= candidate);
        let Some(function) = index.checked_sub(1).and_then(|index| functions.get(index)) else { continue };
        if candidate < function.end {
            decoded_to = function.end;
            if let Some(code) = decode(source, *function) {
                found.sites.extend(code.sites.into_iter().filter(rewrite::is_wanted));
                found.identifications.extend(code.identifications);
            }
        }
    }
    found
}

/// The zeros between the segment's last byte and the end of its page (start, end), as the file has them; what is behind
/// the file's end reads as zeros in a mapping.
fn free_tail(source: &Source, segment: CodeSegment) -> Option<(u64, u64)> {
    let end = segment.end.next_multiple_of(PAGE);
    let mut bytes = vec![0; (end - segment.end) as usize];
    source.fill_start(&mut bytes, segment.end)?;
    Some(if bytes.iter().all(|byte| *byte == 0) { (segment.end, end) } else { (end, end) })
}

/// The pages to patch: those runs of pages whose sites are worth more than mapping them costs.
fn choose_runs(segment: CodeSegment, found: &Found, tail: (u64, u64)) -> Vec<Run> {
    let first_page = segment.start / PAGE;
    let end_page = segment.end.div_ceil(PAGE);
    let mut counts = vec![0u32; (end_page - first_page) as usize];
    let places = || found.sites.iter().map(|site| site.at).chain(found.identifications.iter().map(|one| one.at));
    for at in places() {
        if let Some(count) = (at / PAGE).checked_sub(first_page).and_then(|index| counts.get_mut(index as usize)) {
            *count += 1;
        }
    }
    if segment.end - segment.start <= WHOLE_SEGMENT {
        let enough = places().count() as f64 >= RUN_COST;
        return if enough { vec![Run { start: first_page * PAGE, end: end_page * PAGE }] } else { Vec::new() };
    }
    let mut runs = best_runs(&counts);
    runs.sort_by(|one, other| other.1.total_cmp(&one.1));
    runs.truncate(MAXIMUM_RUNS - 1);
    let mut runs: Vec<Run> = runs
        .into_iter()
        .map(|((start, end), _)| Run { start: (first_page + start as u64) * PAGE, end: (first_page + end as u64) * PAGE })
        .collect();
    runs.sort_by_key(|run| run.start);
    if let Some(last) = runs.last_mut().filter(|_| tail.1 - tail.0 >= WORTHY_TAIL) {
        let tail_run = Run { start: tail.1 - PAGE, end: tail.1 };
        if (tail_run.start.saturating_sub(last.end) / PAGE) as f64 * PAGE_COST < RUN_COST {
            last.end = tail_run.end;
        } else {
            runs.push(tail_run);
        }
    }
    runs
}

/// The disjoint runs of pages whose sites together exceed their cost by most, each with by how much it does.
fn best_runs(counts: &[u32]) -> Vec<((usize, usize), f64)> {
    let mut runs = Vec::new();
    let mut start = 0;
    while start < counts.len() {
        // How far a run from here is best extended: up to where it has lost as much as a new run would cost.
        let (mut worth, mut best, mut best_end) = (0.0, 0.0, start);
        for (page, &count) in counts.iter().enumerate().skip(start) {
            worth += f64::from(count) - PAGE_COST;
            if worth > best {
                (best, best_end) = (worth, page + 1);
            } else if worth <= 0.0 || best - worth >= RUN_COST {
                break;
            }
        }
        if best > RUN_COST {
            runs.push(((start, best_end), best - RUN_COST));
        }
        start = best_end.max(start + 1);
    }
    runs
}

/// The dead bytes in the runs, and the sites there that nothing leads into the middle of.
fn room(
    source: &Source,
    segment: CodeSegment,
    functions: &[Function],
    mut found: Found,
    tail: (u64, u64),
    runs: &[Run],
) -> Option<(Padding, Found)> {
    let holds = |offset: u64| runs.iter().any(|run| (run.start..run.end).contains(&offset));
    let mut padding = Padding::default();
    let mut led_to = Vec::new();
    let first = functions.partition_point(|function| runs.first().is_some_and(|run| function.end < run.start));
    let mut previous: Option<(Function, Option<Code>)> = None;
    for function in functions.iter().skip(first).take_while(|function| function.start < segment.end) {
        let near = runs.iter().any(|run| function.end + 256 > run.start && function.start < run.end + 256);
        let code = if near { decode(source, *function) } else { None };
        if let Some(code) = &code {
            led_to.extend_from_slice(&code.leads_to);
            for (start, end) in &code.fillings {
                if holds(*start) && holds(*end - 1) {
                    padding.add(*start, *end);
                }
            }
        }
        if let (Some((before, Some(before_code))), Some(_)) = (&previous, &code) {
            add_gap(source, &mut padding, before_code, before.end, function.start, &holds)?;
        }
        previous = Some((*function, code));
    }
    if holds(tail.0) {
        padding.add(tail.0, tail.1);
    }
    led_to.retain(|target| holds(*target));
    for_each_chunk(source, segment, 6, |at, bytes| led_to.extend(far_targets(at, bytes).filter(|target| holds(*target))))?;
    led_to.sort_unstable();
    led_to.dedup();
    for target in &led_to {
        padding.remove(*target);
    }
    let entered =
        |from: u64, to: u64| led_to.partition_point(|target| *target < from) != led_to.partition_point(|target| *target < to);
    let is_safe = |site: &Site| {
        let replaced = site.replaced();
        let is_whole = !entered(replaced.start + 1, replaced.end) && !entered(site.at + 1, site.at + 2);
        holds(replaced.start) && holds(site.at + 1) && is_whole
    };
    found.sites.retain(is_safe);
    found.identifications.retain(|one| {
        let replaced = one.replaced();
        holds(replaced.start) && holds(replaced.end - 1) && !entered(replaced.start + 1, replaced.end)
    });
    Some((padding, found))
}

/// The bytes between two functions, if nothing runs on into them and they are nothing but filling.
fn add_gap(
    source: &Source,
    padding: &mut Padding,
    before: &Code,
    from: u64,
    to: u64,
    holds: &impl Fn(u64) -> bool,
) -> Option<()> {
    const LONGEST: u64 = 256;
    if before.ends
        && to > from
        && to - from <= LONGEST
        && holds(from)
        && holds(to - 1)
        && code::is_filling(&source.read(from, to - from)?, from)
    {
        padding.add(from, to);
    }
    Some(())
}

/// Where any bytes that could be a far direct branch (wherever an instruction may begin) would lead.
fn far_targets(at: u64, bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    memchr::memchr3_iter(0xe8, 0xe9, 0x0f, bytes).filter_map(move |index| {
        let rest = match bytes.get(index..)? {
            [0x0f, 0x80..=0x8f, rest @ ..] | [0xe8 | 0xe9, rest @ ..] => rest,
            _ => return None,
        };
        let next = at + (bytes.len() - rest.len()) as u64 + 4;
        Some(next.wrapping_add_signed(i32::from_le_bytes(*rest.first_chunk()?).into()))
    })
}

/// Without the pages at either end of a run that are as they were.
fn trim(runs: Vec<Run>, patches: &[Patch]) -> Vec<Run> {
    let trimmed = runs.into_iter().filter_map(|run| {
        let inside = || patches.iter().filter(|patch| run.start <= patch.at && patch.at < run.end);
        let first = inside().map(|patch| patch.at).min()?;
        let last = inside().map(|patch| patch.at + patch.bytes.len() as u64).max()?;
        let whole = run.end - run.start <= WHOLE_SEGMENT;
        Some(if whole { run } else { Run { start: first / PAGE * PAGE, end: last.next_multiple_of(PAGE) } })
    });
    trimmed.collect()
}

/// A sealed memfd with the patched pages.
fn write_pages(source: &Source, segments: &[Segment], patches: &[Patch]) -> Option<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know NOEXEC_SEAL; it concerns execve(2), not mappings.
    let memory = rustix::fs::memfd_create("skerry-image", flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| rustix::fs::memfd_create("skerry-image", flags))
        .ok()?;
    let runs = || segments.iter().flat_map(|segment| &segment.runs);
    rustix::fs::ftruncate(&memory, runs().map(|run| run.end).max()?).ok()?;
    for run in runs() {
        let mut bytes = vec![0; usize::try_from(run.length()).ok()?];
        source.fill_start(&mut bytes, run.start)?;
        for patch in patches.iter().filter(|patch| (run.start..run.end).contains(&patch.at)) {
            let start = (patch.at - run.start) as usize;
            bytes.get_mut(start..start + patch.bytes.len())?.copy_from_slice(&patch.bytes);
        }
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::retry_on_intr(|| rustix::io::pwrite(&memory, rest, run.start + done as u64)).ok()? {
                0 => return None,
                count => done += count,
            }
        }
    }
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL).ok()?;
    Some(memory)
}
