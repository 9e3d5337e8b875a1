//! The line to the virtual machine: a stream on which each Ethernet frame has its length before it, as QEMU's network backends
//! `stream` and `socket` write it. What comes may be cut anywhere; what goes waits in a bounded buffer.

use crate::ethernet;
use rustix::io::Errno;
use rustix::net::{recv, send, RecvFlags, SendFlags};
use std::os::fd::OwnedFd;

/// Before each frame, big endian.
const LENGTH: usize = 4;
/// QEMU's own bound is a little above that of an IP packet.
const LONGEST_FRAME: usize = 4096 + 65536;
const INPUT: usize = 256 << 10;
/// From there on connections put nothing more there.
const FULL: usize = 512 << 10;
/// From there on nothing is read that could ask for answers.
const OVERFULL: usize = 2 << 20;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the other end is closed")]
    End,
    #[error("a frame of {0} bytes was announced; the longest has {LONGEST_FRAME}")]
    Length(usize),
    #[error("{0}")]
    Socket(Errno),
}

/// What has come, up to the last byte that is there.
pub struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for Input {
    fn default() -> Input {
        Input { bytes: vec![0; INPUT], start: 0, end: 0 }
    }
}

impl Input {
    /// Reads once; true: there may be more.
    pub fn read(&mut self, socket: &OwnedFd) -> Result<bool, Error> {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        match rustix::io::retry_on_intr(|| recv(socket, &mut self.bytes[self.end..], RecvFlags::DONTWAIT)) {
            Ok((_, 0)) | Err(Errno::CONNRESET) => Err(Error::End),
            Ok((_, count)) => {
                self.end += count;
                Ok(self.end == self.bytes.len())
            }
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(Error::Socket(error)),
        }
    }

    /// The next frame that is there in whole.
    pub fn frame(&mut self) -> Result<Option<&[u8]>, Error> {
        let Some((length, rest)) = self.bytes[self.start..self.end].split_first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > LONGEST_FRAME {
            return Err(Error::Length(length));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let from = self.start + LENGTH;
        self.start = from + length;
        Ok(Some(&self.bytes[from..from + length]))
    }

    #[cfg(test)]
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        self.bytes[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }
}

/// What goes to the guest.
#[derive(Default)]
pub struct Output {
    bytes: Vec<u8>,
    start: usize,
    /// The guest's, as it was last seen.
    pub guest: Option<ethernet::Address>,
}

impl Output {
    pub fn is_full(&self) -> bool {
        self.len() >= FULL
    }

    pub fn is_overfull(&self) -> bool {
        self.len() >= OVERFULL
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// An IP packet of `length` bytes, which `fill` writes.
    pub fn packet<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = self.header(length);
        let result = fill(&mut self.bytes[start..]);
        let version = self.bytes.get(start).map_or(0, |first| first >> 4);
        ethernet::set_type(&mut self.bytes[start - ethernet::HEADER..start], version);
        result
    }

    /// The IP packet, where it is all that is there.
    pub fn only_packet(&self) -> Option<&[u8]> {
        self.bytes.get(LENGTH + ethernet::HEADER..)
    }

    /// A frame that is no IP packet.
    pub fn frame(&mut self, kind: u16, payload: &[u8]) {
        let start = self.header(payload.len());
        self.bytes[start..].copy_from_slice(payload);
        self.bytes[start - 2..start].copy_from_slice(&kind.to_be_bytes());
    }

    /// Makes place behind a header; where it begins.
    fn header(&mut self, length: usize) -> usize {
        self.bytes.extend_from_slice(&((ethernet::HEADER + length) as u32).to_be_bytes());
        self.bytes.extend_from_slice(&self.guest.unwrap_or(ethernet::EVERYBODY));
        self.bytes.extend_from_slice(&ethernet::GATEWAY);
        self.bytes.extend_from_slice(&[0, 0]);
        let start = self.bytes.len();
        self.bytes.resize(start + length, 0);
        start
    }

    /// Writes as much as the socket takes.
    pub fn write(&mut self, socket: &OwnedFd) -> Result<(), Error> {
        while self.start < self.bytes.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::io::retry_on_intr(|| send(socket, &self.bytes[self.start..], flags)) {
                Ok(count) => self.start += count,
                Err(Errno::AGAIN) => {
                    // What is left moves to the front when that is cheap.
                    if self.start >= self.bytes.len() / 2 {
                        self.bytes.drain(..self.start);
                        self.start = 0;
                    }
                    return Ok(());
                }
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Error::End),
                Err(error) => return Err(Error::Socket(error)),
            }
        }
        self.bytes.clear();
        self.start = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_whole_however_the_stream_is_cut() {
        let mut stream = Vec::new();
        let frames: Vec<Vec<u8>> = (0..40u8).map(|one| vec![one; usize::from(one) * 13 % 97]).collect();
        for frame in &frames {
            stream.extend_from_slice(&(frame.len() as u32).to_be_bytes());
            stream.extend_from_slice(frame);
        }
        for size in 1..stream.len() {
            let mut input = Input::default();
            let mut found = Vec::new();
            for piece in stream.chunks(size) {
                input.put(piece);
                while let Some(frame) = input.frame().unwrap() {
                    found.push(frame.to_vec());
                }
            }
            assert_eq!(found, frames, "{size}");
        }
    }

    #[test]
    fn a_length_that_cannot_be_is_an_error() {
        let mut input = Input::default();
        input.put(&[0, 1, 0x10, 1]);
        assert_eq!(input.frame(), Err(Error::Length(0x11001)));
        let mut input = Input::default();
        input.put(&[0xff; 3]);
        assert_eq!(input.frame(), Ok(None));
        input.put(&[0xff]);
        assert_eq!(input.frame(), Err(Error::Length(0xffff_ffff)));
    }
}
