//! The smallest unikernel there is: it ends with status 0. Whoever can run it can run others.

use crate::image::{self, Image};
use crate::{Error, Loading, Ready};

/// mov $231 (exit_group), %eax; xor %edi, %edi; syscall
const TEXT: [u8; 9] = [0xb8, 231, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];

/// Returns only where this host runs none.
pub fn run() -> Error {
    let bytes = built();
    let memory = image::LOWEST + 0x1000 + image::LEAST_STACK;
    let ready = Image::parse(&bytes[..])
        .map_err(Loading::Image)
        .and_then(|image| Ready::load(&bytes[..], &image, Vec::new(), memory, b""));
    match ready {
        Ok(ready) => ready.enter(),
        Err(Loading::Host(error)) => error,
        Err(Loading::Image(why)) => Error::Image { path: "the probe".into(), why },
    }
}

/// An ELF file of one segment and the two notes.
fn built() -> Vec<u8> {
    const SEGMENT: u64 = 64 + 3 * 56;
    const ABI: u64 = SEGMENT + TEXT.len() as u64;
    const NOTE: u64 = 20;
    let first_entry = [&[0; 68][..], &0x4000_0000u32.to_le_bytes(), &[0; 32]].concat();
    let abi = [2u32, image::ABI_VERSION, 0, 0].map(u32::to_le_bytes).concat();
    let manifest = [&[0; 4][..], &1u32.to_le_bytes(), &1u32.to_le_bytes(), &first_entry].concat();
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [image::LOWEST + SEGMENT, 64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend([0, 0, 0, 0, 64, 0, 56, 0, 3, 0, 64, 0, 0, 0, 0, 0]);
    let manifest_at = ABI + NOTE + abi.len() as u64;
    for (kind, flags, offset, address, size) in [
        (1u32, 5u32, 0, image::LOWEST, ABI),
        (4, 4, ABI, 0, NOTE + abi.len() as u64),
        (4, 4, manifest_at, 0, NOTE + manifest.len() as u64),
    ] {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        for word in [offset, address, 0, size, size, 4u64] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes.extend(TEXT);
    for (kind, content) in [(0x3149_4241u32, abi), (0x3154_464d, manifest)] {
        bytes.extend([6u32, content.len() as u32, kind].map(u32::to_le_bytes).concat());
        bytes.extend(b"Solo5\0\0\0");
        bytes.extend(content);
    }
    bytes
}
