//! Netlink's wire format: headers, attributes, and the datagrams that an answer is cut into.

use crate::Errno;

pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;
pub const NLMSG_MIN_TYPE: u16 = 0x10;
pub const NLM_F_REQUEST: u16 = 1;
pub const NLM_F_MULTI: u16 = 2;
pub const NLM_F_ACK: u16 = 4;
/// NLM_F_ROOT | NLM_F_MATCH.
pub const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CAPPED: u16 = 0x100;
const HEADER_SIZE: usize = 16;
/// Datagrams of a dump are cut at this: what the smallest buffers in use (a page) take.
const DATAGRAM_SIZE: usize = 4096;

/// `struct nlmsghdr`, without the length.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub port: u32,
}

impl Header {
    /// The first message of `bytes`: header, payload, and what follows. `None` at the end, or where it is malformed
    /// (which Linux passes over in silence).
    pub fn split(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
        let length = read_u32(bytes, 0)? as usize;
        let payload = bytes.get(HEADER_SIZE..length)?;
        let header = Header {
            kind: read_u16(bytes, 4)?,
            flags: read_u16(bytes, 6)?,
            sequence: read_u32(bytes, 8)?,
            port: read_u32(bytes, 12)?,
        };
        let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((header, payload, next))
    }

    pub fn is_dump(&self) -> bool {
        self.flags & NLM_F_DUMP == NLM_F_DUMP
    }
}

pub fn read_u16(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..offset + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub fn read_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Attributes (`struct rtattr`): type and payload of each.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(read_u16(rest, 0)?);
        let kind = read_u16(rest, 2)? & 0x3fff;
        let payload = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// One message that is being built.
pub struct Message(Vec<u8>);

impl Message {
    /// `fixed` is the family's own header (`struct ifinfomsg` and the like).
    pub fn new(fixed: &[u8]) -> Message {
        let mut bytes = vec![0; HEADER_SIZE];
        bytes.extend(fixed);
        Message(bytes)
    }

    pub fn attribute(mut self, kind: u16, payload: &[u8]) -> Message {
        let length = (4 + payload.len()).min(usize::from(u16::MAX));
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.0.extend((length as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(&payload[..length - 4]);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub fn u32(self, kind: u16, value: u32) -> Message {
        self.attribute(kind, &value.to_ne_bytes())
    }

    pub fn u8(self, kind: u16, value: u8) -> Message {
        self.attribute(kind, &[value])
    }

    /// With the zero behind it.
    pub fn string(self, kind: u16, value: &str) -> Message {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }
}

/// The answer to one request.
pub struct Reply {
    sequence: u32,
    port: u32,
    multi: bool,
    datagrams: Vec<Vec<u8>>,
}

impl Reply {
    pub fn new(request: &Header, port: u32) -> Reply {
        Reply { sequence: request.sequence, port, multi: request.is_dump(), datagrams: Vec::new() }
    }

    /// One message of the answer.
    pub fn add(&mut self, kind: u16, message: Message) {
        let flags = if self.multi { NLM_F_MULTI } else { 0 };
        self.push(kind, flags, message.0);
    }

    fn push(&mut self, kind: u16, flags: u16, mut bytes: Vec<u8>) {
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.port.to_ne_bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        match self.datagrams.last_mut() {
            // The end of a dump and an error come by themselves, as Linux sends them.
            Some(last) if self.multi && kind >= NLMSG_MIN_TYPE && last.len() + bytes.len() <= DATAGRAM_SIZE => {
                last.extend(bytes)
            }
            _ => self.datagrams.push(bytes),
        }
    }

    /// The end of a dump.
    pub fn done(&mut self) {
        self.push(NLMSG_DONE, NLM_F_MULTI, Message::new(&0i32.to_ne_bytes()).0);
    }

    pub fn acknowledge(&mut self, request: &Header) {
        self.status(0, request, &[], NLM_F_CAPPED);
    }

    pub fn error(&mut self, errno: Errno, request: &Header, payload: &[u8]) {
        self.status(-errno.0, request, payload, if payload.is_empty() { NLM_F_CAPPED } else { 0 });
    }

    /// `struct nlmsgerr`.
    fn status(&mut self, error: i32, request: &Header, payload: &[u8], flags: u16) {
        let mut fixed = error.to_ne_bytes().to_vec();
        fixed.extend(((HEADER_SIZE + payload.len()) as u32).to_ne_bytes());
        fixed.extend(request.kind.to_ne_bytes());
        fixed.extend(request.flags.to_ne_bytes());
        fixed.extend(request.sequence.to_ne_bytes());
        fixed.extend(request.port.to_ne_bytes());
        fixed.extend(payload);
        self.push(NLMSG_ERROR, flags, Message::new(&fixed).0);
    }

    pub fn finish(self) -> Vec<Vec<u8>> {
        self.datagrams
    }
}
