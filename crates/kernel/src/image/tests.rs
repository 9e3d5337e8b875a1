//! Whether rewritten code is what it should be: by hand for each form, and by following every site of real files.

use super::code::{self, Between, Identification, Load, Site};
use super::elf::{Elf, Function, Source};
use super::padding::Padding;
use super::rewrite::{self, Patch};
use super::{build, Image, Run};
use iced_x86::{Decoder, DecoderOptions, Mnemonic, Register};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

const ENTER: [u8; 8] = [0x65, 0xff, 0x24, 0x25, 0, 1, 0, 0];
const IDENTIFY: [u8; 8] = [0x65, 0xff, 0x24, 0x25, 0xe0, 1, 0, 0];
const WHOLE: [Run; 1] = [Run { start: 0, end: 0x2000 }];

fn room(pieces: &[(u64, u64)]) -> Padding {
    let mut padding = Padding::default();
    for (start, end) in pieces {
        padding.add(*start, *end);
    }
    padding
}

fn loaded(at: u64, number: u32, length: u64) -> Site {
    Site { at, load: Some(Load { number, length, between: None }) }
}

fn patch(at: u64, bytes: &[u8]) -> Patch {
    Patch { at, bytes: bytes.to_vec() }
}

#[test]
fn a_site_behind_its_number_keeps_its_syscall() {
    let patches = rewrite::rewrite(&[loaded(0x105, 39, 5)], &[], room(&[(0x200, 0x208), (0x300, 0x314)]), &WHOLE);
    let mut trampoline = vec![0xb8, 39, 0, 0, 0, 0x48, 0x8d, 0x0d, 0xfb, 0xfd, 0xff, 0xff];
    trampoline.extend(ENTER);
    assert_eq!(patches, [patch(0x200, &ENTER), patch(0x300, &trampoline), patch(0x100, &[0xe9, 0xfb, 0x01, 0, 0])]);
}

#[test]
fn a_longer_load_is_filled_up() {
    let patches = rewrite::rewrite(&[loaded(0x107, 39, 7)], &[], room(&[(0x200, 0x208), (0x300, 0x314)]), &WHOLE);
    assert_eq!(patches.last(), Some(&patch(0x100, &[0xe9, 0xfb, 0x01, 0, 0, 0x90, 0x90])));
}

#[test]
fn a_trampoline_shares_its_end_or_comes_in_two_where_there_is_less_room() {
    let shared = rewrite::rewrite(&[loaded(0x105, 39, 5)], &[], room(&[(0x200, 0x208), (0x300, 0x311)]), &WHOLE);
    let bytes = [0xb8, 39, 0, 0, 0, 0x48, 0x8d, 0x0d, 0xfb, 0xfd, 0xff, 0xff, 0xe9, 0xef, 0xfe, 0xff, 0xff];
    assert_eq!(shared[1], patch(0x300, &bytes));
    let split = rewrite::rewrite(&[loaded(0x105, 39, 5)], &[], room(&[(0x200, 0x208), (0x300, 0x30c), (0x400, 0x40a)]), &WHOLE);
    assert_eq!(split[1], patch(0x300, &[0x48, 0x8d, 0x0d, 0, 0xfe, 0xff, 0xff, 0xe9, 0xf4, 0xfe, 0xff, 0xff]));
    assert_eq!(split[2], patch(0x400, &[0xb8, 39, 0, 0, 0, 0xe9, 0xf6, 0xfe, 0xff, 0xff]));
    assert_eq!(split[3].at, 0x100);
}

#[test]
fn a_lea_between_load_and_site_is_made_in_the_trampoline() {
    // mov $14,%eax; lea 0x20(%rip),%rsi; syscall
    let code = [0xb8, 14, 0, 0, 0, 0x48, 0x8d, 0x35, 0x20, 0, 0, 0, 0x0f, 0x05];
    let between = Between { length: 7, bytes: [0x48, 0x8d, 0x35, 0x20, 0, 0, 0, 0], distance: Some(3) };
    let site = Site { at: 0x100c, load: Some(Load { number: 14, length: 5, between: Some(between) }) };
    assert_eq!((decoded(&code).unwrap().sites, site.replaced()), (vec![site], 0x1000..0x1005));
    let patches = rewrite::rewrite(&[site], &[], room(&[(0x1200, 0x1208), (0x1300, 0x131b)]), &WHOLE);
    // What was 0x20 from 0x100c is 0x2db less from 0x1307.
    let mut trampoline =
        vec![0x48, 0x8d, 0x35, 0x25, 0xfd, 0xff, 0xff, 0xb8, 14, 0, 0, 0, 0x48, 0x8d, 0x0d, 0xfb, 0xfc, 0xff, 0xff];
    trampoline.extend(ENTER);
    assert_eq!(patches[1..], [patch(0x1300, &trampoline), patch(0x1000, &[0xe9, 0xfb, 0x02, 0, 0])]);
    let is_loaded = |code: &[u8]| decoded(code).unwrap().sites[0].load.is_some();
    // lea 8(%rsp),%rsi with a byte for its distance and for its scale; lea 8(%rax),%rsi; lea 8(%rsi),%rax; mov %rsi,%rdi.
    assert!(is_loaded(&[0xb8, 14, 0, 0, 0, 0x48, 0x8d, 0x74, 0x24, 8, 0x0f, 0x05]));
    assert!(!is_loaded(&[0xb8, 14, 0, 0, 0, 0x48, 0x8d, 0x70, 8, 0x0f, 0x05]));
    assert!(!is_loaded(&[0xb8, 14, 0, 0, 0, 0x48, 0x8d, 0x46, 8, 0x0f, 0x05]));
    assert!(!is_loaded(&[0xb8, 14, 0, 0, 0, 0x48, 0x89, 0xf7, 0x0f, 0x05]));
}

#[test]
fn a_bare_site_jumps_near_and_then_far() {
    let site = Site { at: 0x100, load: None };
    let patches = rewrite::rewrite(&[site], &[], room(&[(0x180, 0x185), (0x200, 0x208), (0x300, 0x30f)]), &WHOLE);
    let mut trampoline = vec![0x48, 0x8d, 0x0d, 0xfb, 0xfd, 0xff, 0xff];
    trampoline.extend(ENTER);
    let near = patch(0x180, &[0xe9, 0x7b, 0x01, 0, 0]);
    assert_eq!(patches, [patch(0x200, &ENTER), patch(0x300, &trampoline), near, patch(0x100, &[0xeb, 0x7e])]);
    let far_only = rewrite::rewrite(&[site], &[], room(&[(0x182, 0x187), (0x200, 0x208), (0x300, 0x30f)]), &WHOLE);
    assert_eq!(far_only.len(), 1, "nothing within reach");
}

#[test]
fn what_a_forked_child_calls_leads_close_to_it() {
    // A last part that is far away, and fits best; a piece that fits best, as far; and two close ones.
    let room = || room(&[(0x100, 0x108), (0x200, 0x211), (0x9000, 0x9009), (0x9100, 0x9112)]);
    let begins = |number: u32| {
        let patches = rewrite::rewrite(&[loaded(0x8005, number, 5)], &[], room(), &[Run { start: 0, end: 0x10000 }]);
        (
            patches.iter().map(|patch| patch.at).filter(|at| *at != 0x8000).collect::<Vec<_>>(),
            patches.last().unwrap().bytes.clone(),
        )
    };
    assert_eq!(begins(231).0, [0x100, 0x9100, 0x9000]);
    assert_eq!(begins(231).1, ENTER);
    assert_eq!(begins(39).0, [0x100, 0x200]);
}

#[test]
fn without_room_or_outside_of_the_pages_a_site_stays() {
    assert_eq!(rewrite::rewrite(&[loaded(0x105, 39, 5)], &[], room(&[]), &WHOLE), []);
    assert_eq!(rewrite::rewrite(&[loaded(0x105, 39, 5)], &[], room(&[(0x200, 0x208), (0x300, 0x30b)]), &WHOLE).len(), 1);
    let across =
        rewrite::rewrite(&[loaded(0x1001, 39, 5)], &[], room(&[(0x1200, 0x1300)]), &[Run { start: 0x1000, end: 0x2000 }]);
    assert_eq!(across.len(), 1, "its load begins on a page that is not patched");
}

#[test]
fn calls_that_others_know_by_their_bytes_stay() {
    for number in [15, 58, 59, 60, 322, 435] {
        assert_eq!(rewrite::rewrite(&[loaded(0x105, number, 5)], &[], room(&[(0x200, 0x300)]), &WHOLE).len(), 1, "{number}");
    }
}

#[test]
fn a_cpuid_takes_what_follows_it_along() {
    // cpuid; mov 0x10(%rip),%eax; and on behind.
    let one = Identification { at: 0x100, load: None, moved: vec![0x8b, 0x05, 0x10, 0, 0, 0], distances: vec![2] };
    let patches = rewrite::rewrite(&[], std::slice::from_ref(&one), room(&[(0x200, 0x208), (0x300, 0x31a)]), &WHOLE);
    let mut trampoline = vec![0x48, 0x8d, 0x15, 8, 0, 0, 0];
    trampoline.extend(IDENTIFY);
    // What was 0x10 from 0x108 is 0x20d less from 0x315.
    trampoline.extend([0x8b, 0x05, 0x03, 0xfe, 0xff, 0xff, 0xe9, 0xee, 0xfd, 0xff, 0xff]);
    assert_eq!(patches[1..], [patch(0x300, &trampoline), patch(0x100, &[0xe9, 0xfb, 0x01, 0, 0, 0x90, 0x90, 0x90])]);
    assert_eq!(rewrite::rewrite(&[], &[one], room(&[(0x200, 0x208), (0x300, 0x319)]), &WHOLE).len(), 1, "no room");
}

#[test]
fn a_cpuid_behind_a_load_stays() {
    let load = [0xb8, 2, 0, 0, 0];
    let one = Identification { at: 0x105, load: Some(load), moved: vec![], distances: vec![] };
    let patches = rewrite::rewrite(&[], std::slice::from_ref(&one), room(&[(0x200, 0x208), (0x300, 0x314)]), &WHOLE);
    let mut trampoline = load.to_vec();
    trampoline.extend([0x48, 0x8d, 0x15, 0xfb, 0xfd, 0xff, 0xff]);
    trampoline.extend(IDENTIFY);
    assert_eq!(patches[1..], [patch(0x300, &trampoline), patch(0x100, &[0xe9, 0xfb, 0x01, 0, 0])]);
    // mov $2,%eax; cpuid; test %eax,%eax; and a table of branches: jmp *%rax
    let found = decoded(&[0xb8, 2, 0, 0, 0, 0x0f, 0xa2, 0x85, 0xc0, 0xff, 0xe0]).unwrap().identifications;
    assert_eq!(found, [Identification { at: 0x1005, load: Some(load), moved: vec![], distances: vec![] }]);
    // mov $2,%r8d is longer, and another instruction is in between.
    assert_eq!(decoded(&[0x41, 0xb8, 2, 0, 0, 0, 0x0f, 0xa2, 0x85, 0xc0, 0xff, 0xe0]).unwrap().identifications, []);
    assert_eq!(decoded(&[0xb8, 2, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2, 0x85, 0xc0, 0xff, 0xe0]).unwrap().identifications, []);
}

#[test]
fn a_cpuid_is_moved_only_where_nothing_can_tell() {
    let moved = |bytes: &[u8]| decoded(bytes).unwrap().identifications;
    // cpuid; mov %eax,%edx; and $31,%edx; ret
    let plain = [0x0f, 0xa2, 0x89, 0xc2, 0x83, 0xe2, 0x1f, 0xc3];
    assert_eq!(moved(&plain), [Identification { at: 0x1000, load: None, moved: plain[2..7].to_vec(), distances: vec![] }]);
    assert_eq!(moved(&[0x0f, 0xa2, 0x89, 0xc2, 0x19, 0xd2, 0xc3]), [], "sbb looks at a flag that is older");
    assert_eq!(moved(&[0x0f, 0xa2, 0x89, 0xc2, 0xc3]), [], "too few bytes up to the end");
    assert_eq!(moved(&[0x0f, 0xa2, 0x89, 0xc2, 0x83, 0xe2, 0x1f, 0xeb, 0xfb]), [], "a branch into what would be moved");
    assert_eq!(moved(&[0x0f, 0xa2, 0x89, 0xc2, 0x83, 0xe2, 0x1f, 0xeb, 0xf7]).len(), 1, "a branch to the cpuid");
    assert_eq!(moved(&[0x0f, 0xa2, 0x89, 0xc2, 0x83, 0xe2, 0x1f, 0xff, 0xe0]), [], "a table of branches");
    let two = moved(&[0x0f, 0xa2, 0x89, 0xc2, 0x0f, 0xa2, 0x83, 0xe2, 0x1f, 0xc3]);
    assert_eq!(two.iter().map(|one| one.at).collect::<Vec<_>>(), [0x1004], "another right behind");
    // cpuid; mov 0x10(%rip),%eax; ret
    assert_eq!(moved(&[0x0f, 0xa2, 0x8b, 0x05, 0x10, 0, 0, 0, 0xc3])[0].distances, [2]);
}

fn decoded(bytes: &[u8]) -> Option<code::Code> {
    code::decode(Function { start: 0x1000, end: 0x1000 + bytes.len() as u64 }, bytes)
}

#[test]
fn functions_are_decoded_from_their_start() {
    // mov $39,%eax; syscall; ret
    let code = decoded(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3]).unwrap();
    assert_eq!((code.sites, code.ends), (vec![loaded(0x1005, 39, 5)], true));
    // mov $39,%rax; syscall; falls out
    let code = decoded(&[0x48, 0xc7, 0xc0, 39, 0, 0, 0, 0x0f, 0x05]).unwrap();
    assert_eq!((code.sites, code.ends), (vec![loaded(0x1007, 39, 7)], false));
    // mov $0x050f,%eax; ret: bytes that only look like a call
    assert_eq!(decoded(&[0xb8, 0x0f, 0x05, 0, 0, 0xc3]).unwrap().sites, []);
    // xor %eax,%eax; syscall; jmp to before the function
    let code = decoded(&[0x31, 0xc0, 0x0f, 0x05, 0xeb, 0xf0]).unwrap();
    assert_eq!((code.sites, code.leads_to, code.ends), (vec![Site { at: 0x1002, load: None }], vec![0xff6], true));
    // call at the end: whatever it calls might come back
    assert!(!decoded(&[0x0f, 0x05, 0xe8, 0, 0, 0, 1]).unwrap().ends);
}

#[test]
fn filling_within_a_function_is_dead_where_nothing_leads_there() {
    // je over it; xor %eax,%eax; syscall; ret; nopw; ret
    let with = |jump: u8, last: &[u8]| {
        let start = [0x74, jump, 0x31, 0xc0, 0x0f, 0x05, 0xc3, 0x66, 0x0f, 0x1f, 0x44, 0, 0, 0x90];
        decoded(&[&start, last].concat()).unwrap().fillings
    };
    assert_eq!(with(12, &[0xc3]), [(0x1007, 0x100e)]);
    assert_eq!(with(5, &[0xc3]), [], "somebody goes there");
    assert_eq!(with(11, &[0xc3]), [], "to its end");
    assert_eq!(with(12, &[0xff, 0xe0]), [], "jmp *%rax: anybody might");
}

#[test]
fn what_does_not_come_out_even_is_not_believed() {
    assert!(decoded(&[0xb8, 39, 0, 0]).is_none(), "cut off");
    assert!(decoded(&[0x06, 0xc3]).is_none(), "no instruction");
    // A branch into the middle of the `mov` before the call.
    assert!(decoded(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf9, 0xc3]).is_none());
    // To its start, and to the call itself: fine.
    assert!(decoded(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]).is_some());
    assert!(decoded(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xfc]).is_some());
}

#[test]
fn filling_is_told_from_code() {
    assert!(code::is_filling(&[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, 0x90, 0xcc, 0x66, 0x90], 0));
    assert!(!code::is_filling(&[0x90, 0xc3, 0x90], 0));
    assert!(!code::is_filling(&[0x0f, 0x1f], 0));
}

/// A file's bytes, once as they are and once as the image has them.
struct Both {
    plain: Vec<u8>,
    patched: Vec<u8>,
}

impl Both {
    fn of(path: &str) -> Option<(Both, Image)> {
        let file: OwnedFd = std::fs::File::open(path).ok()?.into();
        let image = build::image(&file)?;
        let plain = std::fs::read(path).unwrap();
        let mut patched = plain.clone();
        let pages = Source(&image.pages);
        for run in image.segments.iter().flat_map(|segment| &segment.runs) {
            patched.resize(patched.len().max(run.end as usize), 0);
            pages.fill(&mut patched[run.start as usize..run.end as usize], run.start).unwrap();
        }
        let mut plain = plain;
        plain.resize(patched.len(), 0);
        Some((Both { plain, patched }, image))
    }

    /// Follows the code at `at` to the direct entry: (number, return address).
    /// What comes `between` the load and the call at `site` is made on the way.
    fn follow(&self, mut at: u64, between: Option<Between>, site: u64) -> Option<(Option<u32>, u64)> {
        let (mut number, mut behind) = (None, None);
        let decode = |bytes: &[u8], at: u64| Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
        if let Some(between) = between {
            at = decode(&self.patched[at as usize..], at).near_branch_target();
            let (was, is) = (site - between.length as u64, at);
            let (before, after) = (decode(&self.plain[was as usize..], was), decode(&self.patched[is as usize..], is));
            assert_eq!((before.code(), before.op0_register()), (after.code(), after.op0_register()));
            assert_eq!(before.memory_displacement64(), after.memory_displacement64());
            at = after.next_ip();
        }
        for _ in 0..8 {
            let bytes = &self.patched[at as usize..];
            if bytes.starts_with(&ENTER) {
                return Some((number, behind?));
            }
            let instruction = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
            at = instruction.next_ip();
            match instruction.mnemonic() {
                Mnemonic::Mov if instruction.op0_register() == Register::EAX => number = Some(instruction.immediate32()),
                Mnemonic::Lea if instruction.op0_register() == Register::RCX => {
                    behind = Some(instruction.ip_rel_memory_address())
                }
                Mnemonic::Jmp => at = instruction.near_branch_target(),
                _ => return None,
            }
        }
        None
    }
}

impl Both {
    /// Checks that a `cpuid` is made by the stub, and that what was moved does what it did.
    fn check_identification(&self, one: &Identification) {
        let decode = |bytes: &[u8], at: u64| Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
        let start = one.replaced().start;
        let mut trampoline = decode(&self.patched[start as usize..], start).near_branch_target();
        if let Some(load) = one.load {
            assert!(self.plain[start as usize..].starts_with(&load) && self.patched[trampoline as usize..].starts_with(&load));
            assert_eq!(self.patched[one.at as usize..][..2], [0x0f, 0xa2]);
            trampoline += load.len() as u64;
        }
        let lea = decode(&self.patched[trampoline as usize..], trampoline);
        let mut at = lea.next_ip();
        assert_eq!((lea.mnemonic(), lea.op0_register()), (Mnemonic::Lea, Register::RDX));
        assert!(self.patched[at as usize..].starts_with(&IDENTIFY));
        at += IDENTIFY.len() as u64;
        if one.load.is_some() {
            return assert_eq!(lea.ip_rel_memory_address(), one.end());
        }
        assert_eq!(lea.ip_rel_memory_address(), at);
        let mut was = one.at + 2;
        while was < one.end() {
            let (before, after) = (decode(&self.plain[was as usize..], was), decode(&self.patched[at as usize..], at));
            assert_eq!(before.code(), after.code());
            assert_eq!(before.is_ip_rel_memory_operand(), after.is_ip_rel_memory_operand());
            if before.is_ip_rel_memory_operand() {
                assert_eq!(before.ip_rel_memory_address(), after.ip_rel_memory_address());
            } else {
                assert_eq!(before, after);
            }
            (was, at) = (before.next_ip(), after.next_ip());
        }
        assert_eq!(decode(&self.patched[at as usize..], at).near_branch_target(), one.end());
    }
}

/// Every site of a real file's image leads to the entry with its own number and return address, and nothing else but
/// filling was changed. Returns how many of the file's sites there are, and how many are patched.
fn examine(path: &str) -> Option<(usize, usize)> {
    let (both, image) = Both::of(path)?;
    let file: OwnedFd = std::fs::File::open(path).unwrap().into();
    let source = Source(&file);
    let elf = Elf::read(&source).unwrap();
    let functions = elf.functions(&source).unwrap();
    let mut changed: BTreeSet<u64> =
        (0..both.plain.len()).filter(|index| both.plain[*index] != both.patched[*index]).map(|index| index as u64).collect();
    let (mut all, mut patched, mut identified, mut cpuids) = (0, 0, 0, 0);
    for function in &functions {
        let bytes = &both.plain[function.start as usize..function.end as usize];
        let Some(code) = code::decode(*function, bytes) else { continue };
        for site in code.sites {
            all += 1;
            let start = site.replaced().start;
            if !(start..site.at + 2).any(|at| changed.contains(&at)) {
                continue;
            }
            patched += 1;
            let expected = (site.load.map(|load| load.number), site.at + 2);
            let between = site.load.and_then(|load| load.between);
            assert_eq!(both.follow(start, between, site.at), Some(expected), "{path} at {:#x}", site.at);
            if site.load.is_some() {
                assert_eq!(both.patched[site.at as usize..][..2], [0x0f, 0x05]);
            }
            changed.retain(|at| !(start..site.at + 2).contains(at));
        }
        for one in &code.identifications {
            cpuids += 1;
            if changed.range(one.replaced()).next().is_some() {
                both.check_identification(one);
                changed.retain(|at| !one.replaced().contains(at));
                identified += 1;
            }
        }
        for (start, end) in &code.fillings {
            changed.retain(|at| !(*start..*end).contains(at));
        }
        assert!(changed.range(function.start..function.end).next().is_none(), "{path}: code of {function:x?} was changed");
    }
    for at in &changed {
        let end = functions[functions.partition_point(|function| function.start < *at) - 1].end;
        assert!(end <= *at, "{path}: {at:#x}");
        let run = image.segments.iter().flat_map(|segment| &segment.runs).find(|run| (run.start..run.end).contains(at));
        assert!(run.is_some());
    }
    println!("{path}: {identified} of {cpuids} cpuid");
    Some((all, patched))
}

#[test]
fn every_site_of_the_c_library_and_its_linker_leads_to_the_entry() {
    let mut seen = 0;
    for path in ["/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib64/libc.so.6"] {
        let Ok(path) = std::fs::canonicalize(path) else { continue };
        let path = path.to_str().unwrap();
        let begun = std::time::Instant::now();
        let Some((all, patched)) = examine(path) else { panic!("{path} has no image") };
        let (_, image) = Both::of(path).unwrap();
        let runs: Vec<_> = image.segments.iter().flat_map(|segment| &segment.runs).collect();
        println!("{path}: {patched} of {all} sites, {} KiB in {} runs, {:?}", image.bytes() >> 10, runs.len(), begun.elapsed());
        assert!(patched * 10 >= all * 7, "{path}: only {patched} of {all} sites");
        seen += 1;
    }
    println!("{seen} files");
}

#[test]
fn pages_for_a_program_that_runs_already_have_all_sites_and_nothing_moved() {
    let Ok(path) = std::fs::canonicalize("/lib64/ld-linux-x86-64.so.2") else { return };
    let file: OwnedFd = std::fs::File::open(path).unwrap().into();
    let image = build::image(&file).unwrap();
    let late = build::late_pages(&image, &file).unwrap();
    let (mut moved, mut sites) = (0, 0);
    for run in image.segments.iter().flat_map(|segment| &segment.runs) {
        let of = |file: &OwnedFd| super::Images::plain_bytes(file, *run).unwrap();
        let (plain, patched, late) = (of(&file), of(&image.pages), of(&late));
        for (index, byte) in late.iter().enumerate() {
            let at = run.start + index as u64;
            let is_moved = image.moved.iter().any(|(start, end)| (*start..*end).contains(&at));
            assert_eq!(*byte, if is_moved { plain[index] } else { patched[index] }, "{at:#x}");
            moved += usize::from(is_moved);
            sites += usize::from(*byte != plain[index]);
        }
    }
    assert!(sites > 0 && (moved > 0 || image.moved.is_empty()));
    println!("{moved} bytes in their old place");
}

#[test]
fn other_files_come_to_no_harm() {
    for path in ["/usr/local/go/bin/go", "/usr/bin/python3", "/usr/bin/busybox", "/bin/sh", "/usr/bin/git", "/etc/passwd"] {
        if std::fs::metadata(path).is_ok() {
            println!("{path}: {:?}", examine(path));
        }
    }
}

#[test]
fn damaged_files_come_to_no_harm() {
    let Ok(plain) = std::fs::read("/lib64/ld-linux-x86-64.so.2") else { return };
    let mut state = 88172645463325252u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let place = rustix::fs::memfd_create("damaged", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    for round in 0..200 {
        let mut bytes = plain.clone();
        let reach = if round % 2 == 0 { 0x400 } else { bytes.len() as u64 };
        for _ in 0..8 {
            let at = (next() % reach) as usize;
            bytes[at] = next() as u8;
        }
        if round % 10 == 0 {
            bytes.truncate((next() % plain.len() as u64) as usize);
        }
        rustix::fs::ftruncate(&place, 0).unwrap();
        rustix::io::pwrite(&place, &bytes, 0).unwrap();
        let _ = build::image(&place);
    }
}
