//! ELF files and scripts that somebody has damaged: an error, or an image that lies where programs may lie.

use super::exec::parse_script_line;
use super::program::{Executable, Image};
use crate::fs::file::{OpenFile, StatusFlags};
use crate::fs::inode::{FileSystem, NewNode, NewNodeKind};
use crate::fs::Services;
use crate::image::Images;
use crate::testing::Random;
use skerry_abi::raw::general as linux;
use std::sync::Arc;

const ADDRESS_END: u64 = 0x7fff_ffff_f000;

/// A small program: interpreter, two segments (text; data with a zeroed end), a stack header.
fn program(kind: u16) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let base = if kind == 2 { 0x40_0000u64 } else { 0 };
    bytes.extend(kind.to_le_bytes());
    bytes.extend(62u16.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    for word in [base + 0x1000, 64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 4, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    let mut header = |kind: u32, flags: u32, words: [u64; 6]| {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    };
    header(3, 4, [0x200, base + 0x200, 0, 10, 10, 1]);
    header(1, 5, [0, base, 0, 0x1800, 0x1800, 0x1000]);
    header(1, 6, [0x1800, base + 0x2800, 0, 0x200, 0x3000, 0x1000]);
    header(0x6474_e551, 6, [0, 0, 0, 0, 0, 16]);
    bytes.resize(0x200, 0);
    bytes.extend(b"/lib/ld.a\0");
    bytes.resize(0x1a00, 0x90);
    bytes
}

#[test]
fn damaged_programs_are_refused_or_stay_in_their_place() {
    let services = Services::new(Arc::default()).unwrap();
    let directory = services.tmpfs(0, 0o755, "tmpfs").root();
    let node = NewNode { kind: NewNodeKind::Regular, permissions: 0o755, uid: 0, gid: 0 };
    let inode = directory.create(b"program", node).unwrap();
    let operations = inode.open_data(StatusFlags::RDWR).unwrap();
    let file = OpenFile::new(operations, StatusFlags::RDWR, None);
    let mut random = Random::new(2);
    let originals = [program(2), program(3)];
    for (index, original) in originals.iter().enumerate() {
        file.operations.write(&file, original, 0).unwrap();
        let image = Image::parse(&Executable::new(file.clone()).unwrap()).unwrap();
        assert_eq!(image.interpreter.as_deref(), Some(&b"/lib/ld.a"[..]));
        assert_eq!(image.position_independent, index == 1);
    }
    let (mut parsed, mut mapped) = (0, 0);
    while random.is_time_left() {
        let mut bytes = random.pick(&originals).clone();
        // Mostly the headers: the rest is only mapped.
        let mut headers = bytes.drain(..0x210).collect();
        random.mutate(&mut headers);
        headers.extend(bytes);
        file.operations.truncate(0).unwrap();
        file.operations.write(&file, &headers, 0).unwrap();
        let Ok(image) = Executable::new(file.clone()).and_then(|file| Image::parse(&file)) else { continue };
        parsed += 1;
        for protection in 0..8 {
            let _ = image.segments_behind(0, image.end(0), protection);
        }
        for base in [0x1000, 0x5555_5555_4000, 0x7f00_0000_0000, ADDRESS_END - 0x1000] {
            let bias = image.bias(base);
            let _ = (image.entry(bias), image.headers_address(bias), image.end(bias), image.header_count());
            let mut calls = Vec::new();
            if image.map(bias, &Images::new(&Arc::default()), &mut calls, &mut Vec::new()).is_err() {
                continue;
            }
            mapped += 1;
            let first = calls[0].arguments;
            assert_eq!(calls[0].number, u64::from(linux::__NR_mmap));
            let is_reserved = first[3] & u64::from(linux::MAP_NORESERVE) != 0;
            let end = if is_reserved { first[0].checked_add(first[1]).unwrap() } else { image.end(bias) };
            assert!(first[0] >= 0x1000 && end <= ADDRESS_END, "{first:x?}");
            // Every later step lies in what the first one has reserved, or takes a place behind the one before it that is free.
            let mut free = first[0];
            let steps = calls.iter().skip(usize::from(is_reserved));
            for call in steps.filter(|call| call.number == u64::from(linux::__NR_mmap)) {
                let [start, length, _, flags, ..] = call.arguments;
                let replaces = flags & u64::from(linux::MAP_FIXED_NOREPLACE) == 0;
                let begin = if is_reserved { first[0] } else { free };
                assert!(
                    length > 0 && start >= begin && start.checked_add(length).is_some_and(|stop| stop <= end),
                    "{:x?} in {begin:x}-{end:x}",
                    call.arguments
                );
                assert_eq!(replaces, is_reserved, "{:x?}", call.arguments);
                free = start + length;
            }
        }
    }
    println!("{parsed} parsed, {mapped} mapped");
    assert!(parsed > 0 && mapped > 0);
}

#[test]
fn script_lines_of_any_kind() {
    let mut random = Random::new(3);
    let originals: [&[u8]; 6] =
        [b"/bin/sh\n", b" /usr/bin/env python3 -u \n rest", b"\t\t/x\t y z\0", b"", b"/bin/sh", b"                  \n"];
    while random.is_time_left() {
        let mut line = random.pick(&originals).to_vec();
        random.mutate(&mut line);
        for cut_off in [false, true] {
            if let Ok((interpreter, argument)) = parse_script_line(&line, cut_off) {
                assert!(!interpreter.is_empty() && !interpreter.contains(&0) && !interpreter.contains(&b'\n'));
                assert!(argument.is_none_or(|argument| !argument.is_empty() && !argument.contains(&b'\n')));
            }
        }
    }
}
