//! /proc/PID/maps, smaps and what counts from them: the host's, as the guest is to see them.
//!
//! The host's text is right about addresses and sizes, and wrong about three things, which are mended here: the sandbox's
//! own mappings are not shown, names of host objects become names in the guest's tree ([`MappedNames`]), and \[heap\] and
//! \[stack\] stand where the guest's are.

use parking_lot::Mutex;
use std::collections::HashMap;

/// Where the sandbox's own mappings lie in every application process: from here ...
const RESERVED_START: u64 = 0x7000_0000_0000;
/// ... to here.
const RESERVED_END: u64 = 0x7020_0000_0000;
const PAGE: u64 = 4096;
/// Names that are remembered at most.
const NAMES_MAX: usize = 1 << 16;

/// Guest names of mapped files, by what the host's maps show of them: device (major, minor) and inode.
#[derive(Default)]
pub struct MappedNames {
    names: Mutex<HashMap<(u32, u32, u64), Vec<u8>>>,
}

impl MappedNames {
    /// To be called when a file is mapped: the descriptor's device and inode on the host, and the file's guest name.
    pub fn remember(&self, device: (u32, u32), inode: u64, name: Vec<u8>) {
        let mut names = self.names.lock();
        if names.len() >= NAMES_MAX {
            names.clear();
        }
        names.insert((device.0, device.1, inode), name);
    }

    fn find(&self, device: (u32, u32), inode: u64) -> Option<Vec<u8>> {
        self.names.lock().get(&(device.0, device.1, inode)).cloned()
    }
}

/// Where the guest's heap and stack are.
#[derive(Clone, Copy, Default)]
pub(super) struct Landmarks {
    pub brk_start: u64,
    pub stack_top: u64,
}

/// The first line of a mapping.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    start: u64,
    end: u64,
    permissions: &'a str,
    offset: &'a str,
    device: &'a str,
    inode: u64,
    name: &'a [u8],
}

impl Line<'_> {
    /// `None` for a line that is no mapping's first (smaps: "Rss: ...").
    fn parse(line: &[u8]) -> Option<Line<'_>> {
        // Everything but the name is ASCII; the name may be anything.
        let mut rest = line;
        let mut word = || -> Option<&str> {
            let start = rest.iter().position(|&byte| byte != b' ')?;
            let length = rest[start..].iter().position(|&byte| byte == b' ').unwrap_or(rest.len() - start);
            let (word, behind) = rest[start..].split_at(length);
            rest = behind;
            std::str::from_utf8(word).ok()
        };
        let (start, end) = word()?.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let (permissions, offset, device, inode) = (word()?, word()?, word()?, word()?.parse().ok()?);
        let name_start = rest.iter().position(|&byte| byte != b' ').unwrap_or(rest.len());
        Some(Line { start, end, permissions, offset, device, inode, name: &rest[name_start..] })
    }

    fn is_hidden(&self) -> bool {
        self.start >= RESERVED_START && self.end <= RESERVED_END
    }

    fn device_numbers(&self) -> Option<(u32, u32)> {
        let (major, minor) = self.device.split_once(':')?;
        Some((u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?))
    }

    fn guest_name(&self, names: &MappedNames, landmarks: Landmarks) -> Vec<u8> {
        if self.inode != 0 {
            let known = self.device_numbers().and_then(|device| names.find(device, self.inode));
            return known.unwrap_or_else(|| self.name.to_vec());
        }
        if landmarks.stack_top != 0 && self.start < landmarks.stack_top && landmarks.stack_top <= self.end {
            return b"[stack]".to_vec();
        }
        if landmarks.brk_start != 0 && self.start <= landmarks.brk_start && landmarks.brk_start < self.end {
            return b"[heap]".to_vec();
        }
        match self.name {
            // The host process's own, which the guest does not use as such.
            b"[heap]" | b"[stack]" => Vec::new(),
            other => other.to_vec(),
        }
    }

    fn write(&self, text: &mut Vec<u8>, name: &[u8]) {
        // A guest sees the devices of its own file systems in stat(2); here Linux shows the same. The host's are kept
        // only as the inode's companion.
        let fixed = format!(
            "{:08x}-{:08x} {} {} {} {}",
            self.start, self.end, self.permissions, self.offset, self.device, self.inode
        );
        text.extend_from_slice(fixed.as_bytes());
        if !name.is_empty() {
            // The name begins in column 74 (proc_pid_maps(5) aligns it).
            let width = fixed.len().max(72) + 1;
            text.resize(text.len() + width - fixed.len(), b' ');
            text.extend_from_slice(name);
        } else {
            text.push(b' ');
        }
        text.push(b'\n');
    }
}

/// Makes the guest's maps or smaps from the host's.
pub(super) fn guest_maps(host: &[u8], names: &MappedNames, landmarks: Landmarks) -> Vec<u8> {
    let mut text = Vec::with_capacity(host.len());
    let mut hidden = false;
    for line in host.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        match Line::parse(line) {
            Some(mapping) => {
                hidden = mapping.is_hidden();
                if !hidden {
                    mapping.write(&mut text, &mapping.guest_name(names, landmarks));
                }
            }
            None if hidden => {}
            None => {
                text.extend_from_slice(line);
                text.push(b'\n');
            }
        }
    }
    text
}

/// Pages that the sandbox's own mappings take.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Hidden {
    pub size: u64,
    pub text: u64,
    pub data: u64,
}

pub(super) fn hidden_pages(maps: &[u8]) -> Hidden {
    let mut hidden = Hidden::default();
    for line in maps.split(|&byte| byte == b'\n').filter_map(Line::parse).filter(Line::is_hidden) {
        let pages = line.end.saturating_sub(line.start) / PAGE;
        hidden.size += pages;
        // What mm/ counts as data: private and writable.
        if line.permissions.starts_with("rw") && line.permissions.ends_with('p') {
            hidden.data += pages;
        }
    }
    hidden
}

/// smaps_rollup: the sums of the guest's own smaps.
pub(super) fn rollup(guest_smaps: &[u8]) -> Vec<u8> {
    let mut bounds: Option<(u64, u64)> = None;
    let mut sums: Vec<(String, u64)> = Vec::new();
    for line in guest_smaps.split(|&byte| byte == b'\n') {
        if let Some(mapping) = Line::parse(line) {
            bounds = Some((bounds.map_or(mapping.start, |(start, _)| start), mapping.end));
            continue;
        }
        let Some((name, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(':')) else { continue };
        let value = value.trim().strip_suffix(" kB").and_then(|value| value.trim().parse::<u64>().ok());
        let Some(value) = value else { continue };
        if matches!(name, "Size" | "KernelPageSize" | "MMUPageSize") {
            continue;
        }
        match sums.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += value,
            None => sums.push((name.to_owned(), value)),
        }
    }
    let (start, end) = bounds.unwrap_or_default();
    let mut text = format!("{start:08x}-{end:08x} ---p 00000000 00:00 0                                  [rollup]\n");
    for (name, value) in sums {
        text.push_str(&format!("{:<16}{value:>8} kB\n", format!("{name}:")));
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &[u8] = b"55cf14d56000-55cf14d58000 r--p 00000000 fe:00 247026                     /usr/bin/cat\n\
        55cf20000000-55cf20021000 rw-p 00000000 00:00 0 \n\
        700000000000-700000010000 r-xp 00000000 00:01 5                          /memfd:stub (deleted)\n\
        701000000000-701000001000 rw-p 00000000 00:00 0 \n\
        7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 \n\
        7ffd28ce5000-7ffd28ce7000 r-xp 00000000 00:00 0                          [vdso]\n";

    #[test]
    fn own_mappings_are_hidden_and_labels_put_back() {
        let names = MappedNames::default();
        names.remember((0xfe, 0), 247026, b"/bin/cat with space".to_vec());
        let landmarks = Landmarks { brk_start: 0x55cf_2000_0000, stack_top: 0x7ffd_0002_1000 };
        let text = String::from_utf8(guest_maps(MAPS, &names, landmarks)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0], "55cf14d56000-55cf14d58000 r--p 00000000 fe:00 247026                     /bin/cat with space");
        assert!(lines[1].ends_with("[heap]"));
        assert!(lines[2].ends_with("[stack]"));
        assert!(lines[3].ends_with("[vdso]"));
    }

    #[test]
    fn hidden_pages_are_counted() {
        assert_eq!(hidden_pages(MAPS), Hidden { size: 17, text: 0, data: 1 });
    }

    #[test]
    fn smaps_lose_the_details_of_hidden_mappings_and_are_summed() {
        let smaps = b"1000-2000 rw-p 00000000 00:00 0 \nRss:                   8 kB\nVmFlags: rd\n\
            700000000000-700000010000 r-xp 00000000 00:01 5  /memfd:stub\nRss:                  64 kB\n\
            3000-4000 rw-p 00000000 00:00 0 \nRss:                   4 kB\n";
        let guest = guest_maps(smaps, &MappedNames::default(), Landmarks::default());
        assert!(!String::from_utf8_lossy(&guest).contains("64 kB"));
        let sums = String::from_utf8(rollup(&guest)).unwrap();
        assert!(sums.starts_with("00001000-00004000 ---p"));
        assert!(sums.contains("Rss:                  12 kB\n"));
    }

    #[test]
    fn anything_can_be_parsed_without_harm() {
        for line in [&b""[..], b"-", b"1-", b"1-2 3", b"zz-1 r 0 0:0 0", b"1-2 rwxp 0 zz:zz 1 \xff\xfe", b"Rss: 1 kB"] {
            let _ = Line::parse(line);
            let _ = guest_maps(line, &MappedNames::default(), Landmarks::default());
        }
    }
}
