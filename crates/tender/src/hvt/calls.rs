//! The eight hypercalls of the hvt ABI. A guest writes the address of a structure to a port; everything in it is hostile: copied
//! once, every address checked against the memory, every length against what the device takes. Nothing of the guest's memory
//! is ever looked at but through copies, so it may be the structure, the data and the page tables all at once.

use crate::devices::{Attached, Device};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::time::{clock_gettime, ClockId};
use std::os::fd::BorrowedFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

pub const FIRST_PORT: u16 = 0x500;

const WALLTIME: u16 = 1;
const PUTS: u16 = 2;
const POLL: u16 = 3;
const BLOCK_WRITE: u16 = 4;
const BLOCK_READ: u16 = 5;
const NET_WRITE: u16 = 6;
const NET_READ: u16 = 7;
const HALT: u16 = 8;

/// What a call may answer.
const OK: u32 = 0;
const AGAIN: u32 = 1;
const INVALID: u32 = 2;
const UNSPECIFIC: u32 = 3;

/// Of a frame, a block, a piece of a line: more is not moved at once.
const ROOM: usize = 1 << 16;

/// What comes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest goes on.
    Answered,
    /// It has ended itself.
    Ended(u8),
    /// What no guest may ask.
    Refused,
}

/// What is wrong with a call in a way that has no answer: an address outside of the memory.
struct Outside;

pub struct Calls<'a> {
    memory: &'a GuestMemoryMmap,
    console: BorrowedFd<'a>,
    attached: &'a [Attached],
    /// The net devices, with their places in the manifest.
    polled: Vec<PollFd<'a>>,
    places: Vec<usize>,
    buffer: Vec<u8>,
}

impl<'a> Calls<'a> {
    /// Takes all that calls need of the host besides what the filter allows: memory, and where the host's clock is read.
    pub fn new(memory: &'a GuestMemoryMmap, console: BorrowedFd<'a>, attached: &'a [Attached]) -> Calls<'a> {
        let nets = || attached.iter().filter(|one| one.device == Device::Net);
        let polled = nets().map(|one| PollFd::new(&one.descriptor, PollFlags::IN)).collect();
        let places = nets().map(|one| one.index).collect();
        let _ = clock_gettime(ClockId::Realtime);
        Calls { memory, console, attached, polled, places, buffer: vec![0; ROOM] }
    }

    /// The call `number`, whose structure is at `address`.
    pub fn serve(&mut self, number: u16, address: u32) -> Outcome {
        let address = u64::from(address);
        let served = match number {
            WALLTIME => self.walltime(address),
            PUTS => self.puts(address),
            POLL => self.poll(address),
            BLOCK_WRITE => self.block_write(address),
            BLOCK_READ => self.block_read(address),
            NET_WRITE => self.net_write(address),
            NET_READ => self.net_read(address),
            HALT => return self.halt(address).unwrap_or(Outcome::Refused),
            _ => return Outcome::Refused,
        };
        match served {
            Ok(()) => Outcome::Answered,
            Err(Outside) => Outcome::Refused,
        }
    }

    /// {out nanoseconds}
    fn walltime(&mut self, address: u64) -> Result<(), Outside> {
        let now = clock_gettime(ClockId::Realtime);
        let nanoseconds = (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64);
        self.write(address, &nanoseconds.to_le_bytes())
    }

    /// {in data, in length}
    fn puts(&mut self, address: u64) -> Result<(), Outside> {
        let [data, length] = self.words(address)?;
        self.check(data, length)?;
        let mut done = 0;
        while done < length {
            let part = &mut self.buffer[..(length - done).min(ROOM as u64) as usize];
            self.memory.read_slice(part, GuestAddress(data + done)).map_err(|_| Outside)?;
            match rustix::io::write(self.console, part) {
                Ok(count @ 1..) => done += count as u64,
                Err(Errno::INTR) => {}
                // Nobody reads it, and nobody is told.
                Ok(_) | Err(_) => break,
            }
        }
        Ok(())
    }

    /// {in nanoseconds, out devices, out answer: whether there are any}
    fn poll(&mut self, address: u64) -> Result<(), Outside> {
        let [nanoseconds] = self.words(address)?;
        self.check(address, 20)?;
        let seconds = (nanoseconds / 1_000_000_000) as i64;
        let timeout = Timespec { tv_sec: seconds, tv_nsec: (nanoseconds % 1_000_000_000) as _ };
        for one in &mut self.polled {
            one.clear_revents();
        }
        // A signal that stops us ends a wait: the guest asks again.
        let ready = poll(&mut self.polled, Some(&timeout)).unwrap_or(0);
        let mut devices = 0u64;
        if ready > 0 {
            let which = self.places.iter().zip(&self.polled).filter(|(_, one)| !one.revents().is_empty());
            which.for_each(|(place, _)| devices |= 1 << place);
        }
        self.write(address + 8, &devices.to_le_bytes())?;
        self.write(address + 16, &u32::from(devices != 0).to_le_bytes())
    }

    /// {in device, in offset, in data, in length, out answer}
    fn block_write(&mut self, address: u64) -> Result<(), Outside> {
        let [device, offset, data, length] = self.words(address)?;
        self.check(address, 36)?;
        let answer = match self.block(device, offset, length) {
            Some((descriptor, true)) => {
                let part = &mut self.buffer[..length as usize];
                read(self.memory, data, part)?;
                let done = rustix::io::retry_on_intr(|| rustix::io::pwrite(descriptor, part, offset));
                whole(done, length)
            }
            _ => INVALID,
        };
        self.write(address + 32, &answer.to_le_bytes())
    }

    /// {in device, in offset, in data, in and out length, out answer}
    fn block_read(&mut self, address: u64) -> Result<(), Outside> {
        let [device, offset, data, length] = self.words(address)?;
        self.check(address, 36)?;
        let answer = match self.block(device, offset, length) {
            Some((descriptor, _)) => {
                self.check(data, length)?;
                let part = &mut self.buffer[..length as usize];
                let done = rustix::io::retry_on_intr(|| rustix::io::pread(descriptor, &mut *part, offset));
                let answer = whole(done, length);
                if answer == OK {
                    self.memory.write_slice(part, GuestAddress(data)).map_err(|_| Outside)?;
                }
                answer
            }
            None => INVALID,
        };
        self.write(address + 32, &answer.to_le_bytes())
    }

    /// {in device, in data, in length, out answer}
    fn net_write(&mut self, address: u64) -> Result<(), Outside> {
        let [device, data, length] = self.words(address)?;
        self.check(address, 28)?;
        let answer = match self.net(device).filter(|_| length <= ROOM as u64) {
            Some(descriptor) => {
                let part = &mut self.buffer[..length as usize];
                read(self.memory, data, part)?;
                whole(rustix::io::retry_on_intr(|| rustix::io::write(descriptor, part)), length)
            }
            None => INVALID,
        };
        self.write(address + 24, &answer.to_le_bytes())
    }

    /// {in device, in data, in and out length, out answer}
    fn net_read(&mut self, address: u64) -> Result<(), Outside> {
        let [device, data, length] = self.words(address)?;
        self.check(address, 28)?;
        let (answer, count) = match self.net(device) {
            Some(descriptor) => {
                self.check(data, length)?;
                let part = &mut self.buffer[..length.min(ROOM as u64) as usize];
                match rustix::io::retry_on_intr(|| rustix::io::read(descriptor, &mut *part)) {
                    Ok(count) => {
                        self.memory.write_slice(&part[..count], GuestAddress(data)).map_err(|_| Outside)?;
                        (OK, count as u64)
                    }
                    Err(Errno::AGAIN) => (AGAIN, 0),
                    Err(_) => (UNSPECIFIC, 0),
                }
            }
            None => (INVALID, 0),
        };
        self.write(address + 16, &count.to_le_bytes())?;
        self.write(address + 24, &answer.to_le_bytes())
    }

    /// {in cookie, in status}: what the cookie points to is the guest's own matter.
    fn halt(&mut self, address: u64) -> Option<Outcome> {
        let mut status = [0; 4];
        self.check(address, 12).ok()?;
        read(self.memory, address + 8, &mut status).ok()?;
        Some(Outcome::Ended(status[0]))
    }

    /// One block, in its place, inside of the device as it was when it was attached; and whether it may be written to.
    fn block(&self, index: u64, offset: u64, length: u64) -> Option<(BorrowedFd<'a>, bool)> {
        let one = self.attached.iter().find(|one| one.index as u64 == index)?;
        let Device::Block { capacity, block_size, writable } = one.device else { return None };
        let size = u64::from(block_size);
        let inside = length == size && offset % size == 0 && offset.checked_add(size).is_some_and(|end| end <= capacity);
        inside.then(|| (std::os::fd::AsFd::as_fd(&one.descriptor), writable))
    }

    fn net(&self, index: u64) -> Option<BorrowedFd<'a>> {
        let one = self.attached.iter().find(|one| one.index as u64 == index && one.device == Device::Net)?;
        Some(std::os::fd::AsFd::as_fd(&one.descriptor))
    }

    /// The words that a structure begins with.
    fn words<const COUNT: usize>(&self, address: u64) -> Result<[u64; COUNT], Outside> {
        let mut words = [0; COUNT];
        let mut bytes = [0; 8 * 4];
        read(self.memory, address, &mut bytes[..8 * COUNT])?;
        for (word, eight) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(eight.try_into().unwrap_or_default());
        }
        Ok(words)
    }

    fn check(&self, address: u64, length: u64) -> Result<(), Outside> {
        check(self.memory, address, length)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Outside> {
        self.check(address, bytes.len() as u64)?;
        self.memory.write_slice(bytes, GuestAddress(address)).map_err(|_| Outside)
    }
}

/// All of it lies in the memory.
fn check(memory: &GuestMemoryMmap, address: u64, length: u64) -> Result<(), Outside> {
    let end = memory.last_addr().0;
    let inside = address <= end && length.saturating_sub(1) <= end - address;
    inside.then_some(()).ok_or(Outside)
}

fn read(memory: &GuestMemoryMmap, address: u64, into: &mut [u8]) -> Result<(), Outside> {
    check(memory, address, into.len() as u64)?;
    memory.read_slice(into, GuestAddress(address)).map_err(|_| Outside)
}

fn whole(done: Result<usize, Errno>, length: u64) -> u32 {
    match done {
        Ok(count) if count as u64 == length => OK,
        Err(Errno::AGAIN) => AGAIN,
        _ => UNSPECIFIC,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{memfd_create, MemfdFlags};
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::UnixDatagram;

    const SIZE: u64 = 2 << 20;
    const AT: u32 = 0x1000;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), SIZE as usize)]).unwrap()
    }

    fn file(content: &[u8]) -> OwnedFd {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&file, content).unwrap();
        file
    }

    fn disk(size: usize, writable: bool) -> Attached {
        let device = Device::Block { capacity: size as u64, block_size: 512, writable };
        Attached { index: 1, descriptor: file(&vec![7; size]), device }
    }

    fn net() -> (Attached, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Attached { index: 2, descriptor: ours.into(), device: Device::Net }, theirs)
    }

    struct Guest<'a> {
        memory: &'a GuestMemoryMmap,
        calls: Calls<'a>,
    }

    impl Guest<'_> {
        /// A call with these words in its structure at `at`; what comes of it.
        fn at(&mut self, at: u32, number: u16, words: &[u64]) -> Outcome {
            for (index, word) in words.iter().enumerate() {
                let _ = self.memory.write_slice(&word.to_le_bytes(), GuestAddress(u64::from(at) + 8 * index as u64));
            }
            self.calls.serve(number, at)
        }

        /// The same, and the answer that stands behind these words.
        fn ask(&mut self, number: u16, words: &[u64]) -> u32 {
            assert_eq!(self.at(AT, number, words), Outcome::Answered);
            self.memory.read_obj(GuestAddress(u64::from(AT) + 8 * words.len() as u64)).unwrap()
        }

        fn word(&self, at: u64) -> u64 {
            self.memory.read_obj(GuestAddress(at)).unwrap()
        }
    }

    fn with(attached: &[Attached], test: impl FnOnce(&mut Guest<'_>, &OwnedFd)) {
        let (memory, console) = (memory(), file(b""));
        let calls = Calls::new(&memory, console.as_fd(), attached);
        test(&mut Guest { memory: &memory, calls }, &console);
    }

    #[test]
    fn each_call_does_its_work() {
        let (net, wire) = net();
        let attached = [disk(2048, true), net];
        with(&attached, |guest, console| {
            assert_eq!(guest.at(AT, WALLTIME, &[]), Outcome::Answered);
            assert!(guest.word(AT.into()) > 1_600_000_000_000_000_000);
            guest.memory.write_slice(b"hello", GuestAddress(0x2000)).unwrap();
            assert_eq!(guest.at(AT, PUTS, &[0x2000, 5]), Outcome::Answered);
            let mut said = [0; 8];
            assert_eq!(rustix::io::pread(console, &mut said, 0), Ok(5));
            assert_eq!(&said[..5], b"hello");
            assert_eq!(guest.ask(BLOCK_WRITE, &[1, 512, 0x2000, 512]), OK);
            assert_eq!(guest.ask(BLOCK_READ, &[1, 512, 0x3000, 512]), OK);
            assert_eq!(guest.word(0x3000), guest.word(0x2000));
            assert_eq!(guest.ask(BLOCK_READ, &[1, 1536, 0x3000, 512]), OK);
            assert_eq!(guest.word(0x3000), u64::from_le_bytes([7; 8]));
            assert_eq!(guest.ask(NET_READ, &[2, 0x3000, 100]), AGAIN);
            assert_eq!(guest.at(AT, POLL, &[0, 9, 9]), Outcome::Answered);
            assert_eq!((guest.word(0x1008), guest.word(0x1010) as u32), (0, 0));
            wire.send(b"frame").unwrap();
            assert_eq!(guest.at(AT, POLL, &[u64::MAX, 9, 9]), Outcome::Answered);
            assert_eq!((guest.word(0x1008), guest.word(0x1010) as u32), (4, 1));
            assert_eq!(guest.ask(NET_READ, &[2, 0x3000, 100]), OK);
            assert_eq!(guest.word(0x1010), 5);
            assert_eq!(guest.ask(NET_WRITE, &[2, 0x3000, 5]), OK);
            assert_eq!(wire.recv(&mut said).unwrap(), 5);
            assert_eq!(guest.at(AT, HALT, &[u64::MAX, 0x1_0000_0107]), Outcome::Ended(7));
        });
    }

    /// Addresses that wrap, that end one byte behind the memory, that lie far away: for the structure and for what it names.
    #[test]
    fn addresses_outside_of_the_memory_are_refused() {
        let (net, _wire) = net();
        let attached = [disk(2048, true), net];
        with(&attached, |guest, console| {
            let sizes = [
                (WALLTIME, 8),
                (PUTS, 16),
                (POLL, 20),
                (BLOCK_WRITE, 36),
                (BLOCK_READ, 36),
                (NET_WRITE, 28),
                (NET_READ, 28),
                (HALT, 12),
            ];
            for (number, size) in sizes {
                let last = SIZE as u32 - size;
                for at in
                    [last + 1, last + size - 1, SIZE as u32, SIZE as u32 + 1, 1 << 31, u32::MAX - size, u32::MAX - 7, u32::MAX]
                {
                    assert_eq!(guest.at(at, number, &[0, 0]), Outcome::Refused, "{number} {at:#x}");
                }
                if number != HALT {
                    assert_eq!(guest.at(last, number, &[0, 0]), Outcome::Answered, "{number}");
                }
            }
            let outside =
                [SIZE - 511, SIZE, SIZE + 1, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX - 511, u64::MAX - 510, u64::MAX];
            for data in outside {
                for (number, words) in [
                    (PUTS, vec![data, 512]),
                    (BLOCK_WRITE, vec![1, 0, data, 512]),
                    (BLOCK_READ, vec![1, 0, data, 512]),
                    (NET_WRITE, vec![2, data, 512]),
                    (NET_READ, vec![2, data, 512]),
                ] {
                    assert_eq!(guest.at(AT, number, &words), Outcome::Refused, "{number} {data:#x}");
                }
            }
            for length in [SIZE - 0x2000 + 1, SIZE, 1 << 32, 1 << 63, u64::MAX - 0x2000, u64::MAX] {
                assert_eq!(guest.at(AT, PUTS, &[0x2000, length]), Outcome::Refused, "{length:#x}");
                assert_eq!(guest.at(AT, NET_READ, &[2, 0x2000, length]), Outcome::Refused, "{length:#x}");
            }
            assert_eq!(rustix::fs::fstat(console).unwrap().st_size, 0);
            assert_eq!(rustix::fs::fstat(&attached[0].descriptor).unwrap().st_size, 2048);
            // What ends with the memory is inside of it.
            assert_eq!(guest.at(AT, PUTS, &[SIZE - 512, 512]), Outcome::Answered);
            assert_eq!(guest.ask(BLOCK_READ, &[1, 0, SIZE - 512, 512]), OK);
        });
    }

    #[test]
    fn devices_take_whole_blocks_in_their_place_and_nothing_else() {
        let (net, _wire) = net();
        let attached = [disk(2048, false), net];
        with(&attached, |guest, _| {
            for words in [
                [1, 2048, 0x2000, 512],
                [1, 1, 0x2000, 512],
                [1, 511, 0x2000, 512],
                [1, u64::MAX - 511, 0x2000, 512],
                [1, u64::MAX, 0x2000, 512],
                [1, 0, 0x2000, 1024],
                [1, 0, 0x2000, 0],
                [1, 0, 0x2000, 511],
                [1, 0, 0x2000, (1 << 32) + 512],
                [0, 0, 0x2000, 512],
                [2, 0, 0x2000, 512],
                [3, 0, 0x2000, 512],
                [(1 << 32) + 1, 0, 0x2000, 512],
                [u64::MAX, 0, 0x2000, 512],
            ] {
                assert_eq!(guest.ask(BLOCK_READ, &words), INVALID, "{words:x?}");
            }
            // It is read-only.
            assert_eq!(guest.ask(BLOCK_WRITE, &[1, 0, 0x2000, 512]), INVALID);
            for device in [0, 1, 3, 64, (1 << 32) + 2, u64::MAX] {
                assert_eq!(guest.ask(NET_WRITE, &[device, 0x2000, 64]), INVALID);
                assert_eq!(guest.ask(NET_READ, &[device, 0x2000, 64]), INVALID);
            }
            assert_eq!(guest.ask(NET_WRITE, &[2, 0x2000, ROOM as u64 + 1]), INVALID);
            for number in [0, 9, 10, 255, u16::MAX] {
                assert_eq!(guest.at(AT, number, &[]), Outcome::Refused);
            }
        });
    }

    /// The structure in its own data, and the data in the structure.
    #[test]
    fn what_overlaps_is_copied() {
        let (net, wire) = net();
        let attached = [disk(2048, true), net];
        with(&attached, |guest, _| {
            let at = u64::from(AT);
            for shift in [-511i64, -36, -8, 0, 8, 24, 35] {
                let data = at.wrapping_add_signed(shift);
                assert_eq!(guest.at(AT, BLOCK_WRITE, &[1, 0, data, 512]), Outcome::Answered);
                // The answer is written last.
                let mut answer = [9; 4];
                assert_eq!(guest.at(AT, BLOCK_READ, &[1, 0, data, 512]), Outcome::Answered);
                read(guest.memory, at + 32, &mut answer).ok().unwrap();
                assert_eq!(answer, OK.to_le_bytes(), "{shift}");
            }
            wire.send(&[0xff; 64]).unwrap();
            assert_eq!(guest.at(AT, NET_READ, &[2, at, u64::from(AT)]), Outcome::Answered);
            assert_eq!((guest.word(at), guest.word(at + 16), guest.word(at + 24) as u32), (u64::MAX, 64, OK));
        });
    }

    /// Nothing that a guest can say makes anything of ours fail.
    #[test]
    fn whatever_is_asked_is_answered_or_refused() {
        let (net, wire) = net();
        wire.set_nonblocking(true).unwrap();
        let attached = [disk(2048, true), net];
        let mut random = crate::fuzz_tests::Random::new(11);
        let edges =
            [0, 1, 2, 511, 512, AT.into(), SIZE - 512, SIZE - 1, SIZE, u32::MAX.into(), 1 << 63, u64::MAX - 511, u64::MAX];
        with(&attached, |guest, _| {
            for _ in 0..20_000 {
                let word = |random: &mut crate::fuzz_tests::Random| match random.below(4) {
                    0 => random.next(),
                    1 => random.next() % (SIZE + 4096),
                    _ => edges[random.below(edges.len())],
                };
                let mut words = [0; 5].map(|_| word(&mut random));
                let number = random.below(11) as u16;
                if number == POLL {
                    words[0] %= 1000;
                }
                if number == PUTS {
                    words[1] %= 4096;
                }
                let at = if random.below(8) == 0 { word(&mut random) as u32 } else { AT };
                if number == POLL && at != AT {
                    continue; // it may wait for long
                }
                guest.at(at, number, &words);
                let _ = wire.recv(&mut [0; 16]);
            }
        });
        assert_eq!(rustix::fs::fstat(&attached[0].descriptor).unwrap().st_size, 2048);
    }
}
