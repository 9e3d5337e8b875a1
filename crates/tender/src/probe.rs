//! The smallest unikernel there is: it ends with status 0. Whoever can run it can run others.

use crate::image::{self, Image, Target};
use crate::{Error, Loaded, Loading, Parts};

/// mov $231 (exit_group), %eax; xor %edi, %edi; syscall
const SPT: &[u8] = &[0xb8, 231, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
/// push $0; push $0; mov %rsp, %rax; mov $0x508 (halt), %dx; out %eax, %dx
const HVT: &[u8] = &[0x6a, 0, 0x6a, 0, 0x48, 0x89, 0xe0, 0x66, 0xba, 0x08, 0x05, 0xef];

/// Returns only where this host runs none.
pub fn run(target: Target) -> Error {
    let bytes = built(target);
    let ready = Image::parse(&bytes[..]).map_err(Loading::Image).and_then(|image| {
        let file = &bytes[..];
        Loaded::load(Parts { file, image: &image, attached: Vec::new(), memory_size: 4 << 20, command_line: b"" })
    });
    match ready {
        Ok(ready) => ready.enter(),
        Err(Loading::Host(error)) => error,
        Err(Loading::Image(why)) => Error::Image { path: "the probe".into(), why },
    }
}

/// An ELF file of one segment and the two notes.
fn built(target: Target) -> Vec<u8> {
    let text = match target {
        Target::Spt => SPT,
        Target::Hvt => HVT,
    };
    const SEGMENT: u64 = 64 + 3 * 56;
    let abi_at = SEGMENT + text.len() as u64;
    const NOTE: u64 = 20;
    let first_entry = [&[0; 68][..], &0x4000_0000u32.to_le_bytes(), &[0; 32]].concat();
    let abi = [target as u32, image::ABI_VERSION, 0, 0].map(u32::to_le_bytes).concat();
    let manifest = [&[0; 4][..], &1u32.to_le_bytes(), &1u32.to_le_bytes(), &first_entry].concat();
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [image::LOWEST + SEGMENT, 64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend([0, 0, 0, 0, 64, 0, 56, 0, 3, 0, 64, 0, 0, 0, 0, 0]);
    let manifest_at = abi_at + NOTE + abi.len() as u64;
    for (kind, flags, offset, address, size) in [
        (1u32, 5u32, 0, image::LOWEST, abi_at),
        (4, 4, abi_at, 0, NOTE + abi.len() as u64),
        (4, 4, manifest_at, 0, NOTE + manifest.len() as u64),
    ] {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        for word in [offset, address, 0, size, size, 4u64] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes.extend(text);
    for (kind, content) in [(0x3149_4241u32, abi), (0x3154_464d, manifest)] {
        bytes.extend([6u32, content.len() as u32, kind].map(u32::to_le_bytes).concat());
        bytes.extend(b"Solo5\0\0\0");
        bytes.extend(content);
    }
    bytes
}
