//! What a process has mapped, and with which rights: asked mapping by mapping (PROCMAP_QUERY, Linux 6.11), or read from
//! the text of /proc/PID/maps, no further than needed.
//!
//! Nothing is remembered: the guest's threads change their mappings at any time without telling anybody.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Mapped, be it without any right.
    Any,
    Read,
    Write,
    /// A private mapping that is run and cannot be written.
    Code,
}

/// One mapping: from, to (exclusive), and its rights.
struct Mapping {
    start: u64,
    end: u64,
    readable: bool,
    writable: bool,
    executable: bool,
    shared: bool,
}

impl Mapping {
    fn has(&self, right: Right) -> bool {
        match right {
            Right::Any => true,
            Right::Read => self.readable,
            Right::Write => self.writable,
            Right::Code => self.readable && self.executable && !self.writable && !self.shared,
        }
    }
}

/// `struct procmap_query`.
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    query_flags: u64,
    address: u64,
    start: u64,
    end: u64,
    flags: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    device: [u32; 2],
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

const PROCMAP_QUERY: u64 = 0xc068_6611;
const QUERY_READABLE: u64 = 1;
const QUERY_WRITABLE: u64 = 2;
const QUERY_EXECUTABLE: u64 = 4;
const QUERY_SHARED: u64 = 8;

/// Off once the host's kernel has said that it does not know the query.
static QUERIES: AtomicBool = AtomicBool::new(true);

/// The mappings of one process.
pub struct Mappings {
    pid: i32,
    /// Its /proc/PID/maps, kept for queries.
    file: OnceLock<Option<File>>,
}

impl Mappings {
    pub fn new(pid: i32) -> Mappings {
        Mappings { pid, file: OnceLock::new() }
    }

    /// How many of the `length` bytes from `address` on are mapped with this right, without a hole.
    pub fn reach(&self, address: u64, length: usize, right: Right) -> usize {
        let end = address.saturating_add(length as u64);
        let reached = self.reach_by_query(address, end, right).unwrap_or_else(|| self.reach_by_text(address, end, right));
        reached.clamp(address, end).saturating_sub(address) as usize
    }

    /// `None` where the host cannot be asked this way.
    fn reach_by_query(&self, mut address: u64, end: u64, right: Right) -> Option<u64> {
        if !QUERIES.load(Ordering::Relaxed) {
            return None;
        }
        let file = self.file.get_or_init(|| self.open()).as_ref()?;
        while address < end {
            let mut query = Query { size: size_of::<Query>() as u64, address, ..Query::default() };
            // SAFETY: the structure has the size that it names, and asks for neither name nor build id.
            if unsafe { libc::ioctl(file.as_raw_fd(), PROCMAP_QUERY as _, &mut query) } < 0 {
                return match std::io::Error::last_os_error().raw_os_error() {
                    Some(libc::ENOTTY | libc::ENOSYS | libc::EINVAL | libc::EPERM) => {
                        QUERIES.store(false, Ordering::Relaxed);
                        None
                    }
                    Some(libc::EINTR) => continue,
                    _ => Some(address), // ENOENT: nothing is mapped there; ESRCH: it is gone
                };
            }
            let mapping = Mapping {
                start: query.start,
                end: query.end,
                readable: query.flags & QUERY_READABLE != 0,
                writable: query.flags & QUERY_WRITABLE != 0,
                executable: query.flags & QUERY_EXECUTABLE != 0,
                shared: query.flags & QUERY_SHARED != 0,
            };
            if !mapping.has(right) || mapping.end <= address {
                break;
            }
            address = mapping.end;
        }
        Some(address)
    }

    fn reach_by_text(&self, mut address: u64, end: u64, right: Right) -> u64 {
        let Some(file) = self.open() else { return address };
        let mut lines = BufReader::new(file);
        let mut line = Vec::new();
        while address < end {
            line.clear();
            if !matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
                break;
            }
            let Some(mapping) = parse(&line) else { continue };
            if mapping.end <= address {
                continue;
            }
            if mapping.start > address || !mapping.has(right) {
                break;
            }
            address = mapping.end;
        }
        address
    }

    fn open(&self) -> Option<File> {
        File::open(format!("/proc/{}/maps", self.pid)).ok()
    }
}

/// A line of /proc/PID/maps: `start-end rwxp ...`.
fn parse(line: &[u8]) -> Option<Mapping> {
    // File names, which may be any bytes, come after the first 72.
    let text = std::str::from_utf8(line.get(..line.len().min(64))?).ok()?;
    let (range, rights) = text.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        readable: rights.starts_with('r'),
        writable: rights.as_bytes().get(1) == Some(&b'w'),
        executable: rights.as_bytes().get(2) == Some(&b'x'),
        shared: rights.as_bytes().get(3) == Some(&b's'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_agree() {
        let mappings = Mappings::new(std::process::id() as i32);
        let local = [0u8; 3 << 12];
        let addresses = [local.as_ptr() as u64, both_ways_agree as *const () as u64, 4096, 0, u64::MAX - 100];
        for address in addresses {
            for right in [Right::Any, Right::Read, Right::Write, Right::Code] {
                let end = address.saturating_add(8192);
                let by_text = mappings.reach_by_text(address, end, right).min(end);
                if let Some(by_query) = mappings.reach_by_query(address, end, right) {
                    assert_eq!(by_query.min(end), by_text, "{address:#x} {right:?}");
                }
            }
        }
        assert_eq!(mappings.reach(addresses[0], 8192, Right::Write), 8192);
        assert_eq!(mappings.reach(addresses[1], 1, Right::Write), 0);
        assert_eq!(mappings.reach(addresses[1], 1, Right::Read), 1);
        assert_eq!(mappings.reach(4096, 1, Right::Any), 0);
        assert_eq!(mappings.reach(addresses[1], 1, Right::Code), 1);
        assert_eq!(mappings.reach(addresses[0], 1, Right::Code), 0);
    }

    #[test]
    fn lines_are_read() {
        let mapping = parse(b"7f00-8000 r--p 00000000 00:00 0\n").unwrap();
        assert_eq!((mapping.start, mapping.end, mapping.readable, mapping.writable), (0x7f00, 0x8000, true, false));
    }
}
