//! The manifest of a unikernel: the devices that it wants, as its image says, and what it is told of those that it got.

use thiserror::Error;

const VERSION: u32 = 1;
const HEADER: usize = 8;
const ENTRY: usize = 104;
const NAME: usize = 68;
/// With the first, which is none.
pub const MOST_ENTRIES: usize = 64;
/// The longest there is, with the four bytes before it that align it.
pub const LONGEST_NOTE: usize = 4 + HEADER + MOST_ENTRIES * ENTRY;

const BLOCK: u32 = 1;
const NET: u32 = 2;
const FIRST: u32 = 1 << 30;

/// Where in an entry what is.
const TYPE_AT: usize = 68;
const FACTS_AT: usize = 72;
const DESCRIPTOR_AT: usize = 88;
const ATTACHED_AT: usize = 96;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    #[error("its manifest is of version {0}, and not of version 1")]
    Version(u32),
    #[error("its manifest has {0} entries; there must be from 1 to 64")]
    Count(u32),
    #[error("its manifest is {found} bytes, and its entries take {wanted}")]
    Size { found: usize, wanted: usize },
    #[error("the first entry of its manifest is not the empty one")]
    First,
    #[error("entry {0} of its manifest has no name of 1 to 67 letters and digits")]
    Name(usize),
    #[error("entry {0} of its manifest is attached already")]
    Attached(usize),
    #[error("entry {0} of its manifest is of the unknown type {1}")]
    Type(usize, u32),
    #[error("its manifest names the device '{0}' twice")]
    Twice(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Block,
    Net,
}

/// What a unikernel is told of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facts {
    Block { capacity: u64, block_size: u16 },
    Net { mac: [u8; 6], mtu: u16 },
}

/// One device that is wanted. `index`: its place in the manifest, by which the unikernel knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub index: usize,
    pub name: String,
    pub kind: Kind,
    attached: Option<(Facts, i32)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    pub wishes: Vec<Wish>,
}

impl Manifest {
    /// From the bytes of the image's note, without those that align it.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, Error> {
        let number =
            |at: usize| bytes.get(at..at + 4).map_or(0, |four| u32::from_le_bytes(four.try_into().unwrap_or_default()));
        let (version, count) = (number(0), number(4));
        if version != VERSION {
            return Err(Error::Version(version));
        }
        if !(1..=MOST_ENTRIES as u32).contains(&count) {
            return Err(Error::Count(count));
        }
        let wanted = HEADER + count as usize * ENTRY;
        if bytes.len() != wanted {
            return Err(Error::Size { found: bytes.len(), wanted });
        }
        let mut wishes: Vec<Wish> = Vec::new();
        for (index, entry) in bytes[HEADER..].chunks_exact(ENTRY).enumerate() {
            let kind = u32::from_le_bytes(entry[TYPE_AT..TYPE_AT + 4].try_into().unwrap_or_default());
            let name = entry[..NAME].split(|byte| *byte == 0).next().unwrap_or_default();
            if entry[ATTACHED_AT] != 0 {
                return Err(Error::Attached(index));
            }
            if index == 0 {
                if kind != FIRST || !name.is_empty() {
                    return Err(Error::First);
                }
                continue;
            }
            let kind = match kind {
                BLOCK => Kind::Block,
                NET => Kind::Net,
                other => return Err(Error::Type(index, other)),
            };
            if name.is_empty() || name.len() >= NAME || !name.iter().all(u8::is_ascii_alphanumeric) {
                return Err(Error::Name(index));
            }
            let name = String::from_utf8_lossy(name).into_owned();
            if wishes.iter().any(|wish| wish.name == name) {
                return Err(Error::Twice(name));
            }
            wishes.push(Wish { index, name, kind, attached: None });
        }
        Ok(Manifest { wishes })
    }

    /// As the unikernel reads it: made anew, so that nothing of the image's is in it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + (1 + self.wishes.len()) * ENTRY];
        bytes[..4].copy_from_slice(&VERSION.to_le_bytes());
        bytes[4..8].copy_from_slice(&(1 + self.wishes.len() as u32).to_le_bytes());
        bytes[HEADER + TYPE_AT..][..4].copy_from_slice(&FIRST.to_le_bytes());
        for wish in &self.wishes {
            let entry = &mut bytes[HEADER + wish.index * ENTRY..][..ENTRY];
            entry[..wish.name.len()].copy_from_slice(wish.name.as_bytes());
            let kind = match wish.kind {
                Kind::Block => BLOCK,
                Kind::Net => NET,
            };
            entry[TYPE_AT..][..4].copy_from_slice(&kind.to_le_bytes());
            let Some((facts, descriptor)) = wish.attached else { continue };
            match facts {
                Facts::Block { capacity, block_size } => {
                    entry[FACTS_AT..][..8].copy_from_slice(&capacity.to_le_bytes());
                    entry[FACTS_AT + 8..][..2].copy_from_slice(&block_size.to_le_bytes());
                }
                Facts::Net { mac, mtu } => {
                    entry[FACTS_AT..][..6].copy_from_slice(&mac);
                    entry[FACTS_AT + 6..][..2].copy_from_slice(&mtu.to_le_bytes());
                }
            }
            entry[DESCRIPTOR_AT..][..4].copy_from_slice(&descriptor.to_le_bytes());
            entry[ATTACHED_AT] = 1;
        }
        bytes
    }
}

impl Wish {
    pub fn attach(&mut self, facts: Facts, descriptor: i32) {
        self.attached = Some((facts, descriptor));
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// As an image has it.
    pub fn written(devices: &[(&str, u32)]) -> Vec<u8> {
        let mut bytes = [VERSION.to_le_bytes(), (1 + devices.len() as u32).to_le_bytes()].concat();
        for (name, kind) in [("", FIRST)].iter().chain(devices) {
            let mut entry = [0; ENTRY];
            entry[..name.len()].copy_from_slice(name.as_bytes());
            entry[TYPE_AT..TYPE_AT + 4].copy_from_slice(&kind.to_le_bytes());
            bytes.extend(entry);
        }
        bytes
    }

    #[test]
    fn devices_are_read_and_told() {
        let mut manifest = Manifest::parse(&written(&[("storage", BLOCK), ("service0", NET)])).unwrap();
        assert_eq!(manifest.wishes.iter().map(|wish| wish.name.as_str()).collect::<Vec<_>>(), ["storage", "service0"]);
        assert_eq!(manifest.bytes(), written(&[("storage", BLOCK), ("service0", NET)]));
        manifest.wishes[0].attach(Facts::Block { capacity: 1 << 33, block_size: 4096 }, 7);
        manifest.wishes[1].attach(Facts::Net { mac: [2, 1, 1, 1, 1, 1], mtu: 9000 }, 8);
        let bytes = manifest.bytes();
        assert_eq!(bytes[8 + 104 + 72..][..10], [0, 0, 0, 0, 2, 0, 0, 0, 0, 16]);
        assert_eq!((bytes[8 + 104 + 88], bytes[8 + 104 + 96]), (7, 1));
        assert_eq!(bytes[8 + 208 + 72..][..8], [2, 1, 1, 1, 1, 1, 0x28, 0x23]);
        assert_eq!((bytes[8 + 208 + 88], bytes[8 + 208 + 96]), (8, 1));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let whole = written(&[("storage", BLOCK)]);
        let with = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            Manifest::parse(&bytes).unwrap_err()
        };
        let second = HEADER + ENTRY;
        assert_eq!(with(0, 2), Error::Version(2));
        assert_eq!(with(4, 0), Error::Count(0));
        assert_eq!(with(4, 65), Error::Count(65));
        assert_eq!(with(4, 3), Error::Size { found: whole.len(), wanted: HEADER + 3 * ENTRY });
        assert_eq!(with(HEADER, b'a'), Error::First);
        assert_eq!(with(HEADER + TYPE_AT, 1), Error::First);
        assert_eq!(with(second, b'/'), Error::Name(1));
        assert_eq!(with(second, 0), Error::Name(1));
        assert_eq!(with(second + TYPE_AT, 3), Error::Type(1, 3));
        assert_eq!(with(second + ATTACHED_AT, 1), Error::Attached(1));
        assert_eq!(Manifest::parse(&written(&[("a", 1), ("a", 2)])), Err(Error::Twice("a".into())));
        assert_eq!(Manifest::parse(&written(&[(&"x".repeat(68), 1)])), Err(Error::Name(1)));
        assert!(Manifest::parse(&written(&[(&"x".repeat(67), 1)])).is_ok());
        assert_eq!(Manifest::parse(&[]), Err(Error::Version(0)));
    }
}
