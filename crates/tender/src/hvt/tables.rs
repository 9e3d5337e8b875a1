//! What a processor in long mode wants to find in memory before its first instruction: page tables, descriptors, handlers of
//! exceptions. All of it lies below the lowest address of an image, and is written once.
//!
//! Memory is mapped where it is. What an image's segments say of their pages holds by page tables: a guest is in ring 0 and
//! can change them, so that is its own protection, and the machine's border is the wall.

use crate::image::Part;
use skerry_platform::virtual_machine::{Start, Table};

pub const PAGE: u64 = 4096;
pub const LARGE_PAGE: u64 = 2 << 20;
const GIGABYTE: u64 = 1 << 30;
/// Hypercalls take addresses of 32 bits, and the end of these is KVM's.
pub const MOST_MEMORY: u64 = 3 * GIGABYTE;

/// Descriptors, gates and the task state: read only.
const DESCRIPTORS: u64 = 0x1000;
const GATES: u64 = DESCRIPTORS + 0x100;
const TASK_STATE: u64 = DESCRIPTORS + 0x800;
/// What an exception runs: executable only.
const HANDLERS: u64 = 0x2000;
/// The stack of exceptions.
const STACK: u64 = 0x3000;
const ROOT: u64 = 0x4000;
const SECOND: u64 = 0x5000;
/// One for each gigabyte.
const DIRECTORIES: u64 = 0x6000;
/// Boot information, manifest, command line: to be read and written.
pub const INFORMATION: u64 = 0x1_0000;
pub const INFORMATION_END: u64 = 0x1_4000;
/// One for each two megabytes that have pages of different kinds.
const PAGE_TABLES: u64 = 0x2_0000;
const PAGE_TABLES_END: u64 = crate::image::LOWEST;

const CODE: u16 = 8;
const DATA: u16 = 16;
const TASK_STATE_SIZE: u64 = 104;
const EXCEPTIONS: u64 = 32;
const HANDLER_SIZE: u64 = 8;

/// Where a handler says which exception came.
pub const EXCEPTION_PORT: u16 = 0xf0;
/// What the machine says before anything else, to that port: no exception's number.
pub const GREETING: u8 = 0x5a;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
/// Accessed and dirty: the processor has nothing to note.
const USED: u64 = 1 << 5 | 1 << 6;
const LARGE: u64 = 1 << 7;
const NOT_EXECUTABLE: u64 = 1 << 63;

const DATA_PAGE: u64 = PRESENT | WRITABLE | USED | NOT_EXECUTABLE;
const CONSTANT_PAGE: u64 = PRESENT | USED | NOT_EXECUTABLE;
const CODE_PAGE: u64 = PRESENT | USED;
const TABLE: u64 = PRESENT | WRITABLE | USED;

/// Bytes, and where they belong.
pub type Piece = (u64, Vec<u8>);

/// All that is written before the start. `None`: the image is so large that its page tables have no room.
pub fn build(parts: &[Part], size: u64) -> Option<Vec<Piece>> {
    debug_assert!(size % LARGE_PAGE == 0 && size <= MOST_MEMORY);
    let mut pieces = vec![descriptors(), gates(), task_state(), handlers()];
    let mut directories = Vec::new();
    let mut next = PAGE_TABLES;
    for start in (0..size).step_by(LARGE_PAGE as usize) {
        let mixed = start == 0 || parts.iter().any(|part| part.pages.start < start + LARGE_PAGE && start < part.pages.end);
        if !mixed {
            directories.push(start | DATA_PAGE | LARGE);
            continue;
        }
        if next == PAGE_TABLES_END {
            return None;
        }
        let table = (start..start + LARGE_PAGE).step_by(PAGE as usize).map(|page| entry(parts, page));
        pieces.push((next, table.flat_map(u64::to_le_bytes).collect()));
        directories.push(next | TABLE);
        next += PAGE;
    }
    let gigabytes = size.div_ceil(GIGABYTE);
    pieces.push((DIRECTORIES, directories.into_iter().flat_map(u64::to_le_bytes).collect()));
    pieces.push((SECOND, (0..gigabytes).flat_map(|number| ((DIRECTORIES + number * PAGE) | TABLE).to_le_bytes()).collect()));
    pieces.push((ROOT, (SECOND | TABLE).to_le_bytes().to_vec()));
    Some(pieces)
}

/// Of one page; pages that are not there are zero.
fn entry(parts: &[Part], page: u64) -> u64 {
    if let Some(part) = parts.iter().find(|part| part.pages.contains(&page)) {
        let kind = match (part.protection.write, part.protection.execute, part.protection.read) {
            (true, _, _) => DATA_PAGE,
            (false, true, _) => CODE_PAGE,
            (false, false, true) => CONSTANT_PAGE,
            (false, false, false) => return 0,
        };
        return page | kind;
    }
    match page {
        DESCRIPTORS => page | CONSTANT_PAGE,
        HANDLERS => page | CODE_PAGE,
        STACK => page | DATA_PAGE,
        _ if (INFORMATION..INFORMATION_END).contains(&page) => page | DATA_PAGE,
        _ if page < crate::image::LOWEST => 0,
        _ => page | DATA_PAGE,
    }
}

/// None, code of 64 bits, data: all accessed already.
fn descriptors() -> Piece {
    (DESCRIPTORS, [0u64, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff].into_iter().flat_map(u64::to_le_bytes).collect())
}

/// An interrupt gate for each exception, on the first stack of the task state's.
fn gates() -> Piece {
    let gate = |number: u64| {
        let handler = HANDLERS + number * HANDLER_SIZE;
        let low = handler & 0xffff | u64::from(CODE) << 16 | 1 << 32 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
        [low, handler >> 32].into_iter().flat_map(u64::to_le_bytes)
    };
    (GATES, (0..EXCEPTIONS).flat_map(gate).collect())
}

fn task_state() -> Piece {
    let mut bytes = vec![0; TASK_STATE_SIZE as usize];
    bytes[36..44].copy_from_slice(&(STACK + PAGE).to_le_bytes()); // the first of its stacks for interrupts
    bytes[102..104].copy_from_slice(&(TASK_STATE_SIZE as u16).to_le_bytes()); // no ports for other rings
    (TASK_STATE, bytes)
}

/// Each says its number and stops; behind them the greeting.
fn handlers() -> Piece {
    let say = |number: u8| [0xb0, number, 0xe6, EXCEPTION_PORT as u8, 0xf4, 0xeb, 0xfd, 0x90]; // mov, out, hlt, jmp
    (HANDLERS, (0..EXCEPTIONS as u8).chain([GREETING]).flat_map(say).collect())
}

/// Where the processor starts: at the greeting, or in the image.
pub fn start(entry: Option<u64>, size: u64) -> Start {
    Start {
        entry: entry.unwrap_or(HANDLERS + EXCEPTIONS * HANDLER_SIZE),
        stack: size - 8,
        argument: INFORMATION,
        page_tables: ROOT,
        descriptors: Table { base: DESCRIPTORS, limit: 23 },
        interrupts: Table { base: GATES, limit: (EXCEPTIONS * 16 - 1) as u16 },
        task_state: Table { base: TASK_STATE, limit: (TASK_STATE_SIZE - 1) as u16 },
        code: CODE,
        data: DATA,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::built;
    use crate::image::{Image, LOWEST};

    /// What a processor makes of an address: the place in memory, writable, executable.
    fn walk(pieces: &[Piece], address: u64) -> Option<(u64, bool, bool)> {
        let read = |at: u64| {
            let found = pieces.iter().find(|(start, bytes)| (*start..start + bytes.len() as u64).contains(&at));
            found.map_or(0, |(start, bytes)| {
                let from = (at - start) as usize;
                u64::from_le_bytes(bytes[from..from + 8].try_into().unwrap())
            })
        };
        let (mut table, mut writable, mut executable) = (ROOT, true, true);
        for shift in [39, 30, 21, 12] {
            let entry = read(table + (address >> shift & 511) * 8);
            if entry & PRESENT == 0 {
                return None;
            }
            writable &= entry & WRITABLE != 0;
            executable &= entry & NOT_EXECUTABLE == 0;
            table = entry & 0x000f_ffff_ffff_f000;
            if shift == 21 && entry & LARGE != 0 {
                return Some((table + (address & (LARGE_PAGE - 1)), writable, executable));
            }
        }
        Some((table + (address & (PAGE - 1)), writable, executable))
    }

    #[test]
    fn every_page_is_where_it_is_and_what_its_segment_says() {
        let image = Image::parse(&built(1, 2, &[])[..]).unwrap();
        let size = GIGABYTE + LARGE_PAGE;
        let pieces = build(&image.parts, size).unwrap();
        for (start, bytes) in &pieces {
            assert!(*start >= DESCRIPTORS && start + bytes.len() as u64 <= LOWEST);
            let others = pieces.iter().filter(|(other, _)| other != start);
            assert!(others
                .into_iter()
                .all(|(other, more)| start + bytes.len() as u64 <= *other || other + more.len() as u64 <= *start));
        }
        let expected = |page: u64| match page {
            DESCRIPTORS => Some((page, false, false)),
            HANDLERS => Some((page, false, true)),
            STACK => Some((page, true, false)),
            INFORMATION..INFORMATION_END => Some((page, true, false)),
            0..LOWEST => None,
            LOWEST => Some((page, false, true)),
            _ => Some((page, true, false)),
        };
        for page in (0..8 << 20).step_by(PAGE as usize).chain((8 << 20..size).step_by(LARGE_PAGE as usize)) {
            assert_eq!(walk(&pieces, page), expected(page), "{page:#x}");
        }
        for outside in [size, size + GIGABYTE, MOST_MEMORY, 1 << 32, 1 << 39, 1 << 47, u64::MAX] {
            assert_eq!(walk(&pieces, outside), None, "{outside:#x}");
        }
        // Nothing that is writable is executable.
        assert!((0..size).step_by(PAGE as usize * 7).all(|page| walk(&pieces, page).is_none_or(|(_, w, x)| !(w && x))));
    }

    #[test]
    fn an_image_of_all_sizes_has_page_tables_or_none() {
        let mut image = Image::parse(&built(1, 2, &[])[..]).unwrap();
        let last = image.parts.last_mut().unwrap();
        last.pages.end = (PAGE_TABLES_END - PAGE_TABLES) / PAGE * LARGE_PAGE;
        assert!(build(&image.parts, MOST_MEMORY).is_some());
        image.parts.last_mut().unwrap().pages.end += PAGE;
        assert!(build(&image.parts, MOST_MEMORY).is_none());
    }

    #[test]
    fn what_boot_information_there_can_be_has_room() {
        let most = 40 + crate::manifest::LONGEST_NOTE + crate::COMMAND_LINE_SIZE;
        assert!(INFORMATION + most as u64 <= INFORMATION_END);
    }
}
