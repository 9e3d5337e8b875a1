//! Calls on a file that the sentry has lent: the one that the thread's last request opened, or was about.
//!
//! Programs mostly do several things with a file in a row: open it, ask what it is, read it, close it. With the answer to
//! the first one come the file's attributes, and its data (a directory's entries) where it is small; as long as the thread asks the sentry nothing
//! else, calls on the descriptor are answered from that. What they change (the position, that it is closed) is one word in
//! the channel, which the sentry takes back before it serves the thread's next request, or any call of others that could
//! make a difference. Then the word's bits are not what they were, and nothing is answered here.
//!
//! Nothing here is a wall: a program that writes other things there harms its own view of its own file.

use crate::copies;
use crate::direct::{SEEK_CUR, SEEK_END, SEEK_SET};
use crate::host::{self, number, HIGHEST, MOST};
use crate::layout::loan::{
    filled, known, name_size, ACCESSED, ACCESSED_THEN, CLOSED, DIRECT, DIRECTORY, ENTRY, INDEX, INDEX_MASK, KNOWN, LEFT, LENT,
    LONGEST_NAME, MAY_BE_COPIED, MODE, NAME, ON_SHELF, OPENED, POSITION, READ, REPEATED, SHOWN, SHOWS_READING, STATUS, VALID,
    WRITTEN,
};
use crate::layout::marshal::AREA;
use crate::layout::shelf::{self, Ahead, Opened, BESIDE, CLOSES, LEFT_READ, SHOWS};
use crate::layout::{Loan, SHELF_OFFSET};
use crate::thread::ThreadBlock;
use core::sync::atomic::{AtomicU64, Ordering};

const ENOENT: i64 = -2;
const ENOTTY: i64 = -25;
const AT_EMPTY_PATH: u64 = 0x1000;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const AT_FDCWD: u64 = 0xffff_ff9c;
const PROT_READ: u64 = 1;
const MAP_PRIVATE: u64 = 2;
/// R_OK | W_OK | X_OK.
const MODES: u64 = 7;
const F_GETFD: u64 = 1;
const F_SETFD: u64 = 2;
const F_GETFL: u64 = 3;
/// In a `struct linux_dirent64`: where its length is, and how long it is at the least.
const RECORD_LENGTH: u64 = 16;
const RECORD: u64 = 24;
/// Requests of ioctl(2) that only terminals know (TCGETS, TIOCGWINSZ): how programs ask whether a file is one.
const TERMINAL_REQUESTS: [u64; 2] = [0x5401, 0x5413];

/// What [`ThreadBlock::has_loan`] is behind an answer with this entry.
pub fn lent(entry: u64) -> u64 {
    if entry & ENTRY == LENT {
        entry
    } else {
        0
    }
}

/// The result of a call on the file that is lent, if it is known.
#[inline(always)]
pub fn try_loan(thread: &mut ThreadBlock, call_number: u64, arguments: &[u64; 6]) -> Option<i64> {
    if thread.has_loan == 0 {
        return None;
    }
    answer(thread, call_number, arguments)
}

/// As a stub reads it; the sentry, which alone writes it but for the word, does so before the answer that lends.
struct Lent {
    word: &'static AtomicU64,
    /// What the word was when the call began.
    before: u64,
    until: u64,
    data: u64,
    size: u64,
    /// Where the data is, and the status.
    bytes: u64,
    status: u64,
    flags: u32,
    was_read: bool,
}

impl Lent {
    fn position(&self) -> u64 {
        self.before & POSITION
    }

    fn is_fresh(&self) -> bool {
        is_before(self.until)
    }

    /// Takes effect, if nobody has taken the file back meanwhile.
    fn becomes(&self, word: u64) -> Option<()> {
        self.word.compare_exchange(self.before, word, Ordering::AcqRel, Ordering::Relaxed).ok().map(|_| ())
    }

    /// The same for a call that changes nothing.
    fn still_stands(&self) -> Option<()> {
        (self.word.load(Ordering::Acquire) == self.before).then_some(())
    }

    fn moves_to(&self, position: u64) -> Option<()> {
        self.becomes(self.before & !POSITION | position)
    }

    /// Copies what is at `position`; how much, if that is known.
    fn read(&self, position: u64, address: u64, count: u64) -> Option<u64> {
        if address > HIGHEST || self.flags & (DIRECTORY | WRITTEN | DIRECT) != 0 || !self.is_fresh() {
            return None;
        }
        let wanted = count.min(MOST).min(self.size.saturating_sub(position));
        if position + wanted > self.data && wanted != 0 {
            return None;
        }
        host::copy(address, self.bytes + position, wanted).then_some(wanted)
    }

    /// Copies the next entries, as many as there is room for; how many bytes.
    fn list(&self, address: u64, room: u64) -> Option<u64> {
        let start = self.position();
        if address > HIGHEST || self.flags & DIRECTORY == 0 || self.data != self.size || start > self.data || !self.is_fresh() {
            return None;
        }
        let mut end = start;
        while end + RECORD <= self.data {
            // SAFETY: within the area.
            let length = u64::from(unsafe { ((self.bytes + end + RECORD_LENGTH) as *const u16).read_volatile() });
            if length < RECORD || end + length > self.data || end + length - start > room {
                break;
            }
            end += length;
        }
        if end == start && start != self.data {
            return None;
        }
        host::copy(address, self.bytes + start, end - start).then_some(end - start)
    }

    /// Maps the file, where a copy will do.
    fn map(&self, length: u64) -> Option<i64> {
        if self.flags & MAY_BE_COPIED == 0 || self.data != self.size || !self.is_fresh() {
            return None;
        }
        let address = copies::map(self.bytes, self.size, length)?;
        if self.becomes(self.before | READ).is_none() {
            // Taken back meanwhile, and perhaps changed.
            copies::unmap(address, length);
            return None;
        }
        Some(address as i64)
    }

    fn show(&self, address: u64) -> Option<i64> {
        if address > HIGHEST || !self.is_fresh() {
            return None;
        }
        let is_shown = if self.flags & SHOWS_READING == 0 {
            host::copy(address, self.status, STATUS as u64)
        } else {
            // SAFETY: within the area, and aligned.
            let mut status = unsafe { (self.status as *const [u64; STATUS / 8]).read_volatile() };
            if self.was_read {
                [status[ACCESSED], status[ACCESSED + 1]] = [status[ACCESSED_THEN], status[ACCESSED_THEN + 1]];
            }
            [status[ACCESSED_THEN], status[ACCESSED_THEN + 1]] = [0; 2];
            host::copy(address, &raw const status as u64, STATUS as u64)
        };
        if !is_shown {
            return None;
        }
        self.still_stands()?;
        Some(0)
    }
}

#[inline(never)]
fn answer(thread: &mut ThreadBlock, call_number: u64, arguments: &[u64; 6]) -> Option<i64> {
    let [first, second, third, fourth, fifth, sixth] = *arguments;
    let channel = thread.channel();
    // SAFETY: within the channel, which is mapped as long as the thread lives; the word is accessed atomically only.
    let (loan, word, area) = unsafe {
        let loan = &raw mut (*channel).loan;
        (core::ptr::read_volatile(loan), AtomicU64::from_ptr(&raw mut (*loan).word), &raw const (*channel).area as u64)
    };
    let is_on_shelf = loan.flags & ON_SHELF != 0;
    let area = if is_on_shelf { channel as u64 + SHELF_OFFSET } else { area };
    match call_number {
        number::NEWFSTATAT if fourth & 0xffff_ffff == AT_SYMLINK_NOFOLLOW => {
            return show_name(&loan, word, area, first & 0xffff_ffff, second, third);
        }
        number::STAT => return repeat(&loan, word, area, AT_FDCWD, first, known::STATUS, second),
        number::NEWFSTATAT if fourth & 0xffff_ffff == 0 => {
            return repeat(&loan, word, area, first & 0xffff_ffff, second, known::STATUS, third);
        }
        number::ACCESS if second & 0xffff_ffff <= MODES => {
            return repeat(&loan, word, area, AT_FDCWD, first, known::ACCESS | second as u32, 0);
        }
        number::FACCESSAT if third & 0xffff_ffff <= MODES => {
            return repeat(&loan, word, area, first & 0xffff_ffff, second, known::ACCESS | third as u32, 0);
        }
        number::UNLINK => return not_there(&loan, word, area, AT_FDCWD, first),
        number::UNLINKAT if third & 0xffff_ffff == 0 => return not_there(&loan, word, area, first & 0xffff_ffff, second),
        number::LSTAT => return show_name(&loan, word, area, AT_FDCWD, first, second),
        number::OPEN => return open_known(&loan, word, area, AT_FDCWD, first, second),
        number::OPENAT => return open_known(&loan, word, area, first & 0xffff_ffff, second, third),
        _ => {}
    }
    let descriptor = if call_number == number::MMAP { fifth } else { first };
    let Loan { until, data, size, start, flags, status_flags, descriptor_flags, .. } = loan;
    let before = word.load(Ordering::Acquire);
    if before & VALID == 0 {
        return None;
    }
    let status = (AREA - STATUS) as u64;
    let index = (before & INDEX_MASK) >> INDEX;
    let opened = opened(&loan, area);
    let is_beside = is_beside(&opened);
    let own = opened.filter(|_| is_beside && index != 0).map_or(loan.descriptor, |opened| opened.descriptor);
    if u64::from(own) != descriptor & 0xffff_ffff {
        let opened = opened.filter(|opened| u64::from(opened.directory) == descriptor & 0xffff_ffff && before & LEFT == 0)?;
        if call_number == number::CLOSE && opened.how & CLOSES != 0 {
            word.compare_exchange(before, before | LEFT, Ordering::AcqRel, Ordering::Relaxed).ok()?;
            return Some(0);
        }
        let address = match call_number {
            number::FSTAT => second,
            number::NEWFSTATAT if fourth & 0xffff_ffff == AT_EMPTY_PATH && is_empty(second) => third,
            _ => return None,
        };
        if !is_beside {
            let empty = 0u8;
            return show_name(&loan, word, area, descriptor & 0xffff_ffff, &raw const empty as u64, address);
        }
        if opened.how & SHOWS == 0 {
            return None;
        }
        let was_read = opened.left_at & LEFT_READ != 0;
        return Lent { word, before, until, data: 0, size: 0, bytes: 0, status: area + status, flags, was_read }.show(address);
    }
    if before & CLOSED != 0 {
        return None;
    }
    let end = if is_on_shelf { shelf::SIZE as u64 } else { status };
    let start = u64::from(start).min(end);
    let data = u64::from(data).min(end - start);
    let was_read = before & READ != 0;
    let mut lent = Lent { word, before, until, data, size, bytes: area + start, status: area + status, flags, was_read };
    if index != 0 {
        let (ahead, _) = ahead(&loan, area, index)?;
        let start = ahead.start() as u64;
        let (data, size) = (ahead.data.into(), ahead.size);
        lent = Lent { data, size, bytes: area + start, status: area + u64::from(ahead.status), flags: ahead.flags, ..lent };
    }
    let flags = lent.flags;
    match call_number {
        number::READ => {
            let position = lent.position();
            let count = lent.read(position, second, third)?;
            lent.becomes((before | READ) & !POSITION | position.checked_add(count).filter(|end| *end <= POSITION)?)?;
            Some(count as i64)
        }
        number::PREAD64 if fourth <= POSITION => {
            let count = lent.read(fourth, second, third)?;
            lent.becomes(before | READ)?;
            Some(count as i64)
        }
        number::GETDENTS64 => {
            let count = lent.list(second, third & 0xffff_ffff)?;
            lent.becomes((before | READ) & !POSITION | (lent.position() + count))?;
            Some(count as i64)
        }
        number::MMAP if first == 0 && third == PROT_READ && fourth == MAP_PRIVATE && sixth == 0 => lent.map(second),
        number::FSTAT => lent.show(second),
        number::NEWFSTATAT if fourth & 0xffff_ffff == AT_EMPTY_PATH && is_empty(second) => lent.show(third),
        number::LSEEK if flags & (DIRECTORY | DIRECT) == 0 => {
            let base = match third & 0xffff_ffff {
                SEEK_SET => 0,
                SEEK_CUR => lent.position(),
                SEEK_END if lent.is_fresh() => lent.size,
                _ => return None,
            };
            let position =
                (base as i64).checked_add(second as i64).filter(|position| (0..=POSITION as i64).contains(position))?;
            lent.moves_to(position as u64)?;
            Some(position)
        }
        number::IOCTL if TERMINAL_REQUESTS.contains(&(second & 0xffff_ffff)) => {
            lent.still_stands()?;
            Some(ENOTTY)
        }
        number::FCNTL if index == 0 || !is_beside => {
            let result = match second & 0xffff_ffff {
                F_GETFL => status_flags,
                F_GETFD => descriptor_flags,
                // As it is.
                F_SETFD if third & 1 == u64::from(descriptor_flags) => 0,
                _ => return None,
            };
            lent.still_stands()?;
            Some(result.into())
        }
        number::CLOSE if flags & DIRECT == 0 => {
            lent.becomes(before | CLOSED)?;
            Some(0)
        }
        _ => None,
    }
}

/// What is known holds until then.
pub fn is_before(until: u64) -> bool {
    // SAFETY: reads a register.
    let now = unsafe { core::arch::x86_64::_rdtsc() };
    until.wrapping_sub(now) as i64 > 0
}

/// open(2) of a file that is known while the descriptor of the last one is closed: it gets that, which is the lowest one free
/// still.
fn open_known(loan: &Loan, word: &AtomicU64, area: u64, directory: u64, path: u64, flags: u64) -> Option<i64> {
    let before = word.load(Ordering::Acquire);
    // Behind a directory that was closed, its number is the lowest one free.
    if before & VALID == 0 || before & LEFT != 0 || path > HIGHEST || !is_before(loan.until) {
        return None;
    }
    if before & CLOSED != 0 && before & INDEX_MASK == 0 {
        if let Some(descriptor) = open_again(loan, word, area, directory, path, flags) {
            return Some(descriptor);
        }
    }
    let opened = opened(loan, area)?;
    let is_beside = opened.how & BESIDE != 0;
    let leaves = is_beside && before & INDEX_MASK == 0;
    // The number that it gets is the lowest one free.
    let is_free = (before & CLOSED == 0) == leaves;
    if !is_free || u64::from(opened.directory) != directory || u64::from(opened.flags) != flags & 0xffff_ffff {
        return None;
    }
    let next = find_ahead(loan, area, path, ((before & INDEX_MASK) >> INDEX) + 1)?.0;
    let mut kept = before & !(CLOSED | POSITION | INDEX_MASK);
    if leaves {
        kept &= !READ;
        let was_read = if before & READ != 0 { LEFT_READ } else { 0 };
        // SAFETY: within the shelf, and aligned.
        unsafe { (&raw mut (*opened_at(area)).left_at).write_volatile((before & POSITION) as u32 | was_read) };
    }
    word.compare_exchange(before, kept | next << INDEX, Ordering::AcqRel, Ordering::Relaxed).ok()?;
    Some(if is_beside { opened.descriptor } else { loan.descriptor }.into())
}

/// What is said of files that were opened ahead.
fn opened(loan: &Loan, shelf: u64) -> Option<Opened> {
    // SAFETY: within the shelf, and aligned.
    (loan.flags & ON_SHELF != 0).then(|| unsafe { opened_at(shelf).read_volatile() })
}

fn opened_at(shelf: u64) -> *mut Opened {
    (shelf + shelf::OPENED as u64) as *mut Opened
}

/// What was lent is a directory, and stays open when files in it are.
fn is_beside(opened: &Option<Opened>) -> bool {
    opened.is_some_and(|opened| opened.how & BESIDE != 0)
}

/// The thread has closed the directory `descriptor`, which was lent.
fn is_closed(opened: &Option<Opened>, before: u64, descriptor: u64) -> bool {
    let Some(opened) = opened.filter(|opened| u64::from(opened.directory) == descriptor) else { return false };
    before & LEFT != 0 || opened.how & BESIDE != 0 && before & INDEX_MASK == 0 && before & CLOSED != 0
}

/// One of them, from 1 on, and where its name is.
fn ahead(loan: &Loan, shelf: u64, index: u64) -> Option<(Ahead, u64)> {
    let count = u64::from(opened(loan, shelf)?.count).min(shelf::MOST as u64);
    if index == 0 || index > count {
        return None;
    }
    let place = shelf + (shelf::OPENED + size_of::<Opened>()) as u64 + (index - 1) * size_of::<Ahead>() as u64;
    // SAFETY: within the shelf, and aligned.
    let ahead = unsafe { (place as *const Ahead).read_volatile() };
    let is_within =
        ahead.name_length as usize <= LONGEST_NAME && ahead.start().checked_add(ahead.data as usize)? <= shelf::SIZE;
    is_within.then_some((ahead, shelf + ahead.name() as u64))
}

/// The one that is called so, from `first` on.
fn find_ahead(loan: &Loan, shelf: u64, path: u64, first: u64) -> Option<(u64, Ahead)> {
    let mut name = [0u8; LONGEST_NAME + 1];
    let length = host::copy_string(&raw mut name as u64, path, name.len() as u64).checked_sub(1)?;
    (first..=shelf::MOST as u64).map_while(|index| Some((index, ahead(loan, shelf, index)?))).find_map(
        |(index, (ahead, there))| {
            let is_it = u64::from(ahead.name_length) == length && is_called(&name[..length as usize], there);
            is_it.then_some((index, ahead))
        },
    )
}

/// open(2) of the file that has just been closed here: it stands at its start again.
fn open_again(loan: &Loan, word: &AtomicU64, area: u64, directory: u64, path: u64, flags: u64) -> Option<i64> {
    let record = u64::from(loan.opened);
    let end = (AREA - STATUS) as u64;
    let before = word.load(Ordering::Acquire);
    if before & CLOSED == 0 || before & INDEX_MASK != 0 || record == 0 {
        return None;
    }
    let mut name = [0u8; LONGEST_NAME + 1];
    let length = host::copy_string(&raw mut name as u64, path, name.len() as u64).checked_sub(1)?;
    if record % 8 != 0 || record + OPENED as u64 + length > end {
        return None;
    }
    // SAFETY: within the area, and aligned.
    let [head, its_flags] = unsafe { ((area + record) as *const [u64; 2]).read_volatile() };
    let is_same = head == length | directory << 32 && its_flags == flags & 0xffff_ffff;
    if !is_same || !is_called(&name[..length as usize], area + record + OPENED as u64) {
        return None;
    }
    let open = before & !(CLOSED | POSITION);
    word.compare_exchange(before, open, Ordering::AcqRel, Ordering::Relaxed).ok()?;
    Some(loan.descriptor.into())
}

/// lstat(2) of a name that was looked at, or opened, ahead; or is known not to be there.
fn show_name(loan: &Loan, word: &AtomicU64, area: u64, directory: u64, path: u64, address: u64) -> Option<i64> {
    let opened = opened(loan, area);
    if path > HIGHEST
        || address > HIGHEST
        || !is_before(loan.until)
        || is_closed(&opened, word.load(Ordering::Acquire), directory)
    {
        return None;
    }
    if opened.is_some_and(|opened| u64::from(opened.directory) == directory) {
        if let Some((_, ahead)) = find_ahead(loan, area, path, 1) {
            if !host::copy(address, area + u64::from(ahead.status), STATUS as u64) {
                return None;
            }
            return (word.load(Ordering::Acquire) & VALID != 0).then_some(0);
        }
    }
    let result = match find_name(loan, area, directory, path) {
        Some(status) if is_absent(status) => ENOENT,
        Some(status) if host::copy(address, status, STATUS as u64) => 0,
        None if is_not_filled(loan, area, directory, path) => ENOENT,
        _ => return None,
    };
    let before = word.load(Ordering::Acquire);
    if before & VALID == 0 {
        return None;
    }
    word.compare_exchange(before, before | SHOWN, Ordering::AcqRel, Ordering::Relaxed).ok()?;
    Some(result)
}

/// unlink(2) of a name that is known not to be there.
fn not_there(loan: &Loan, word: &AtomicU64, area: u64, directory: u64, path: u64) -> Option<i64> {
    if path > HIGHEST || !is_before(loan.until) || !is_absent(find_name(loan, area, directory, path)?) {
        return None;
    }
    (word.load(Ordering::Acquire) & VALID != 0).then_some(ENOENT)
}

/// Where what is said of a name that was looked at ahead lies.
fn find_name(loan: &Loan, area: u64, directory: u64, path: u64) -> Option<u64> {
    if loan.names_count == 0 {
        return None;
    }
    let mut name = [0u8; LONGEST_NAME + 1];
    let length = host::copy_string(&raw mut name as u64, path, name.len() as u64).checked_sub(1)?;
    let end = area + (AREA - STATUS) as u64;
    let mut record = area + u64::from(loan.names);
    for _ in 0..loan.names_count {
        if record + NAME as u64 > end {
            return None;
        }
        // SAFETY: within the area, and aligned.
        let head = unsafe { (record as *const u64).read_volatile() };
        let its_length = head & 0xffff_ffff;
        let next = record + name_size(its_length.min(LONGEST_NAME as u64) as usize) as u64;
        if next > end {
            return None;
        }
        if head == length | directory << 32 && is_called(&name[..length as usize], record + NAME as u64) {
            return Some(record + 8);
        }
        record = next;
    }
    None
}

/// Whether it is a name in a directory all names of which are known, and none of these.
fn is_not_filled(loan: &Loan, area: u64, directory: u64, path: u64) -> bool {
    const NAMED: u64 = (8 + filled::WORDS * 8) as u64;
    let record = u64::from(loan.filled);
    let end = (AREA - STATUS) as u64;
    if record == 0 || record % 8 != 0 || record + NAMED > end {
        return false;
    }
    let mut name = [0u8; LONGEST_NAME + 1];
    let length = host::copy_string(&raw mut name as u64, path, name.len() as u64).saturating_sub(1) as usize;
    // SAFETY: within the area, and aligned.
    let head = unsafe { ((area + record) as *const u64).read_volatile() };
    let prefix = (head & 0xffff_ffff) as usize;
    if head >> 32 != directory || prefix >= length || record + NAMED + prefix as u64 > end {
        return false;
    }
    let (before, last) = name[..length].split_at(prefix);
    if !is_called(before, area + record + NAMED) || last.contains(&b'/') || matches!(last, b"." | b"..") {
        return false;
    }
    let bit = filled::bit(last);
    // SAFETY: as above.
    let word = unsafe { ((area + record + 8) as *const u64).add(bit / 64).read_volatile() };
    word & 1 << (bit % 64) == 0
}

/// Of a `struct stat` within the area.
fn is_absent(status: u64) -> bool {
    // SAFETY: within the area, and aligned.
    unsafe { (status as *const u64).add(MODE).read_volatile() as u32 == 0 }
}

/// A call that has been answered before. `shown`: where the status goes.
fn repeat(loan: &Loan, word: &AtomicU64, area: u64, directory: u64, path: u64, kind: u32, shown: u64) -> Option<i64> {
    let before = word.load(Ordering::Acquire);
    let record = u64::from(loan.known);
    let end = (AREA - STATUS) as u64;
    let is_there = record != 0 && record % 8 == 0 && record + KNOWN as u64 <= end;
    if before & VALID == 0 || !is_there || path > HIGHEST || shown > HIGHEST || !is_before(loan.until) {
        return None;
    }
    let mut name = [0u8; LONGEST_NAME + 1];
    let length = host::copy_string(&raw mut name as u64, path, name.len() as u64).checked_sub(1)?;
    // SAFETY: within the area, and aligned.
    let [head, what] = unsafe { ((area + record) as *const [u64; 2]).read_volatile() };
    let (its_kind, error) = (what as u32, what >> 32);
    let status = if its_kind & known::STATUS != 0 && error == 0 { STATUS as u64 } else { 0 };
    let its_name = record + KNOWN as u64 + status;
    let is_it = head == length | directory << 32 && its_kind & !known::SHOWS_READING == kind;
    if !is_it || its_name + length > end || !is_called(&name[..length as usize], area + its_name) {
        return None;
    }
    let outdated = its_kind & known::SHOWS_READING != 0 && before & READ != 0;
    if outdated || !host::copy(shown, area + record + KNOWN as u64, status) {
        return None;
    }
    word.compare_exchange(before, before | REPEATED, Ordering::AcqRel, Ordering::Relaxed).ok()?;
    Some(-(error as i64))
}

fn is_called(name: &[u8], there: u64) -> bool {
    // SAFETY: within the area, as the caller has looked.
    name.iter().enumerate().all(|(index, byte)| unsafe { (there as *const u8).add(index).read_volatile() } == *byte)
}

fn is_empty(path: u64) -> bool {
    let mut first = 0xffu8;
    path <= HIGHEST && host::copy(&raw mut first as u64, path, 1) && first == 0
}
