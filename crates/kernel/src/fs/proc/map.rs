//! /proc/PID/maps, smaps and what counts from them: the host's, as the guest is to see them.
//!
//! The host's text is right about addresses and sizes, and wrong about four things, which are mended here: the sandbox's
//! own mappings are not shown, names of host objects become names in the guest's tree ([`MappedNames`]), \[heap\] and
//! \[stack\] stand where the guest's are, and the patched pages of a file ([`crate::image`]) are the file's.

use crate::fs::inode::Device;
use crate::fs::path::Path;
use crate::Kernel;
use parking_lot::Mutex;
use std::borrow::Cow;
use std::collections::HashMap;
use std::os::fd::OwnedFd;

/// Where the sandbox's own mappings lie in every application process: from here ...
const RESERVED_START: u64 = 0x7000_0000_0000;
/// ... to here.
const RESERVED_END: u64 = 0x7020_0000_0000;
const PAGE: u64 = 4096;
/// Names that are remembered at most.
const NAMES_MAX: usize = 1 << 16;

/// Mapped files as the guest knows them, by what the host's maps show of them: device (major, minor) and inode.
#[derive(Default)]
pub struct MappedNames {
    files: Mutex<HashMap<(u32, u32, u64), MappedFile>>,
    images: Mutex<HashMap<(u32, u32, u64), ImageOf>>,
}

/// The host's file that a patched image has pages of.
#[derive(Clone)]
struct ImageOf {
    device: (u32, u32),
    inode: u64,
    name: Vec<u8>,
}

/// A file's name, device and inode in the guest's tree.
#[derive(Clone)]
struct MappedFile {
    name: Vec<u8>,
    device: Device,
    inode: u64,
}

impl MappedNames {
    /// To be called when the file at `path` is mapped by `descriptor`.
    pub fn remember(&self, descriptor: &OwnedFd, path: &Path, kernel: &Kernel) {
        let (Ok(host), Ok(guest)) = (rustix::fs::fstat(descriptor), path.inode().metadata()) else { return };
        let Some(root) = kernel.mounts.root() else { return };
        let host_device = Device::decode(host.st_dev);
        let file = MappedFile { name: path.absolute_name(&root), device: guest.device, inode: guest.inode };
        self.insert((host_device.major, host_device.minor), host.st_ino, file);
    }

    fn insert(&self, device: (u32, u32), inode: u64, file: MappedFile) {
        let mut files = self.files.lock();
        if files.len() >= NAMES_MAX {
            files.clear();
        }
        files.insert((device.0, device.1, inode), file);
    }

    /// Pages of the host object `image` (device, inode) are to be shown as those of `file`, which the host calls `name`.
    pub fn stands_for(&self, image: ((u32, u32), u64), file: ((u32, u32), u64), name: Vec<u8>) {
        let mut images = self.images.lock();
        if images.len() >= NAMES_MAX {
            images.clear();
        }
        let ((major, minor), inode) = image;
        images.insert((major, minor, inode), ImageOf { device: file.0, inode: file.1, name });
    }

    fn image_of(&self, device: (u32, u32), inode: u64) -> Option<ImageOf> {
        self.images.lock().get(&(device.0, device.1, inode)).cloned()
    }

    fn find(&self, device: (u32, u32), inode: u64) -> Option<MappedFile> {
        self.files.lock().get(&(device.0, device.1, inode)).cloned()
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

impl<'a> Line<'a> {
    /// `None` for a line that is no mapping's first (smaps: "Rss: ...").
    fn parse(line: &'a [u8]) -> Option<Line<'a>> {
        // Everything but the name is ASCII; the name may be anything.
        let mut rest = line;
        let mut word = || -> Option<&'a str> {
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

    /// The sandbox's own, and what the host process began with.
    fn is_hidden(&self, landmarks: Landmarks) -> bool {
        self.is_reserved() || matches!(self.name, b"[heap]" | b"[stack]") && self.label(landmarks).is_none()
    }

    fn is_reserved(&self) -> bool {
        self.start >= RESERVED_START && self.end <= RESERVED_END
    }

    fn device_numbers(&self) -> Option<(u32, u32)> {
        let (major, minor) = self.device.split_once(':')?;
        Some((u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?))
    }

    /// What is not a file has at the guest's own places.
    fn label(&self, landmarks: Landmarks) -> Option<&'static [u8]> {
        if self.inode != 0 {
            None
        } else if landmarks.stack_top != 0 && self.start < landmarks.stack_top && landmarks.stack_top <= self.end {
            Some(b"[stack]")
        } else if landmarks.brk_start != 0 && self.start <= landmarks.brk_start && landmarks.brk_start < self.end {
            Some(b"[heap]")
        } else {
            None
        }
    }

    /// As the guest is to see it.
    fn shown(&self, names: &MappedNames, landmarks: Landmarks) -> Shown<'a> {
        let host = if self.inode == 0 { None } else { self.device_numbers() };
        let image = host.and_then(|device| names.image_of(device, self.inode));
        let (host, inode) = match &image {
            Some(file) => (Some(file.device), file.inode),
            None => (host, self.inode),
        };
        let known = host.and_then(|device| names.find(device, inode));
        // What stat(2) shows of a file in the guest is what is shown here.
        let (device, inode, name) = match (known, &image, host) {
            (Some(file), _, _) => (format!("{:02x}:{:02x}", file.device.major, file.device.minor), file.inode, file.name),
            (None, Some(file), Some((major, minor))) => (format!("{major:02x}:{minor:02x}"), inode, file.name.clone()),
            _ => (self.device.to_owned(), inode, self.label(landmarks).unwrap_or(self.name).to_vec()),
        };
        Shown {
            start: self.start,
            end: self.end,
            permissions: self.permissions,
            offset: u64::from_str_radix(self.offset, 16).unwrap_or(0),
            device,
            inode,
            name,
            is_patched: image.is_some(),
            details: Vec::new(),
        }
    }
}

/// A mapping as the guest sees it, with the lines about it that smaps has.
struct Shown<'a> {
    start: u64,
    end: u64,
    permissions: &'a str,
    offset: u64,
    device: String,
    inode: u64,
    name: Vec<u8>,
    is_patched: bool,
    details: Vec<Cow<'a, [u8]>>,
}

impl<'a> Shown<'a> {
    /// Whether the two are one mapping of the guest's, in which pages have been patched.
    fn goes_on_with(&self, next: &Shown) -> bool {
        (self.is_patched || next.is_patched)
            && self.end == next.start
            && self.offset.checked_add(self.end.wrapping_sub(self.start)) == Some(next.offset)
            && (self.permissions, self.inode, &self.device, &self.name)
                == (next.permissions, next.inode, &next.device, &next.name)
    }

    fn append(&mut self, next: Shown<'a>) {
        self.end = next.end;
        self.is_patched = next.is_patched;
        if self.details.len() != next.details.len() {
            return;
        }
        for (own, other) in self.details.iter_mut().zip(&next.details) {
            if let Some((name, sum)) = amount(own).zip(amount(other)).map(|((name, one), (_, two))| (name, one + two)) {
                *own = Cow::Owned(detail(name, sum).into_bytes());
            }
        }
    }

    fn write(&self, text: &mut Vec<u8>) {
        let fixed = format!(
            "{:08x}-{:08x} {} {:08x} {} {}",
            self.start, self.end, self.permissions, self.offset, self.device, self.inode
        );
        text.extend_from_slice(fixed.as_bytes());
        if self.name.is_empty() {
            text.push(b' ');
        } else {
            // The name begins in column 74 (proc_pid_maps(5) aligns it).
            let width = fixed.len().max(72) + 1;
            text.resize(text.len() + width - fixed.len(), b' ');
            text.extend_from_slice(&self.name);
        }
        text.push(b'\n');
        for line in &self.details {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
    }
}

/// What a line of smaps says that adds up: "Rss:   8 kB".
fn amount(line: &[u8]) -> Option<(&str, u64)> {
    let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
    let value = value.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    (!matches!(name, "KernelPageSize" | "MMUPageSize")).then_some((name, value))
}

fn detail(name: &str, kib: u64) -> String {
    format!("{:<16}{kib:>8} kB", format!("{name}:"))
}

/// Makes the guest's maps or smaps from the host's.
pub(super) fn guest_maps(host: &[u8], names: &MappedNames, landmarks: Landmarks) -> Vec<u8> {
    let mut shown: Vec<Shown> = Vec::new();
    let mut hidden = false;
    // The last is not joined to the one before it until its details are known.
    let join = |shown: &mut Vec<Shown>| {
        if let Some(last) = shown.pop() {
            match shown.last_mut().filter(|before| before.goes_on_with(&last)) {
                Some(before) => before.append(last),
                None => shown.push(last),
            }
        }
    };
    for line in host.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        match Line::parse(line) {
            Some(mapping) => {
                hidden = mapping.is_hidden(landmarks);
                if !hidden {
                    join(&mut shown);
                    shown.push(mapping.shown(names, landmarks));
                }
            }
            None if hidden => {}
            None => {
                if let Some(last) = shown.last_mut() {
                    last.details.push(Cow::Borrowed(line));
                }
            }
        }
    }
    join(&mut shown);
    let mut text = Vec::with_capacity(host.len());
    for mapping in shown {
        mapping.write(&mut text);
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
    for line in maps.split(|&byte| byte == b'\n').filter_map(Line::parse).filter(Line::is_reserved) {
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
        let Some((name, value)) = amount(line).filter(|(name, _)| *name != "Size") else { continue };
        match sums.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += value,
            None => sums.push((name.to_owned(), value)),
        }
    }
    let (start, end) = bounds.unwrap_or_default();
    let mut text = format!("{start:08x}-{end:08x} ---p 00000000 00:00 0                                  [rollup]\n");
    for (name, value) in sums {
        text.push_str(&format!("{}\n", detail(&name, value)));
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &[u8] = b"55cf14d56000-55cf14d58000 r--p 00000000 fe:00 247026                     /usr/bin/cat\n\
        55cf20000000-55cf20021000 rw-p 00000000 00:00 0 \n\
        700000000000-700000010000 r-xp 00000000 00:01 5                          /memfd:stub (deleted)\n\
        700000106000-700000110000 rw-p 00000000 00:00 0 \n\
        7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 \n\
        7ffd10000000-7ffd10021000 rw-p 00000000 00:00 0                          [stack]\n\
        7ffd28ce5000-7ffd28ce7000 r-xp 00000000 00:00 0                          [vdso]\n";

    #[test]
    fn own_mappings_are_hidden_and_labels_put_back() {
        let names = MappedNames::default();
        let file = MappedFile { name: b"/bin/cat with space".to_vec(), device: Device::new(0, 0x8001), inode: 7 };
        names.insert((0xfe, 0), 247026, file);
        let landmarks = Landmarks { brk_start: 0x55cf_2000_0000, stack_top: 0x7ffd_0002_1000 };
        let text = String::from_utf8(guest_maps(MAPS, &names, landmarks)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0], "55cf14d56000-55cf14d58000 r--p 00000000 00:8001 7                        /bin/cat with space");
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
    fn patched_pages_are_shown_as_the_file_and_their_details_added_up() {
        let smaps = b"1000-2000 r--p 00000000 fe:00 7  /lib/x\nRss:                   4 kB\n\
            2000-4000 r-xp 00001000 fe:00 7  /lib/x\nSize:                  8 kB\nRss:                   8 kB\nKernelPageSize:        4 kB\nVmFlags: rd\n\
            4000-5000 r-xp 00003000 00:01 99  /memfd:image (deleted)\nSize:                  4 kB\nRss:                   4 kB\nKernelPageSize:        4 kB\nVmFlags: rd\n\
            5000-6000 r-xp 00004000 fe:00 7  /lib/x\nSize:                  4 kB\nRss:                   0 kB\nKernelPageSize:        4 kB\nVmFlags: rd\n\
            6000-7000 r-xp 00009000 fe:00 7  /lib/x\nSize:                  4 kB\nRss:                   0 kB\nKernelPageSize:        4 kB\nVmFlags: rd\n\
            7000-8000 r--p 0000a000 fe:00 7  /lib/x\nRss:                   4 kB\n";
        let names = MappedNames::default();
        names.stands_for(((0, 1), 99), ((0xfe, 0), 7), b"/lib/x".to_vec());
        let text = String::from_utf8(guest_maps(smaps, &names, Landmarks::default())).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let mappings: Vec<&&str> = lines.iter().filter(|line| line.contains("/lib/x")).collect();
        assert_eq!(mappings.len(), 4, "{text}");
        assert!(mappings[1].starts_with("00002000-00006000 r-xp 00001000 fe:00 7 "));
        assert!(mappings[2].starts_with("00006000-00007000 r-xp 00009000 fe:00 7 "));
        assert_eq!(
            lines[3..7],
            ["Size:                 16 kB", "Rss:                  12 kB", "KernelPageSize:        4 kB", "VmFlags: rd"]
        );
        assert!(!text.contains("memfd"));
    }

    #[test]
    fn anything_can_be_parsed_without_harm() {
        for line in [&b""[..], b"-", b"1-", b"1-2 3", b"zz-1 r 0 0:0 0", b"1-2 rwxp 0 zz:zz 1 \xff\xfe", b"Rss: 1 kB"] {
            let _ = Line::parse(line);
            let _ = guest_maps(line, &MappedNames::default(), Landmarks::default());
        }
    }
}
