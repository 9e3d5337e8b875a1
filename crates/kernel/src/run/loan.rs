//! Files that are lent to threads: what a stub may answer by itself about the file that its last call was about (ADR 26).
//!
//! A loan begins with the answer to a call, when nobody can change the file behind the sentry's back, and no other
//! descriptor stands for the open file. It is taken back before the thread's next request is served, whatever that is,
//! before any call of those who share its descriptors, and around any call of others that could change a file or look
//! at what they have open ([`only_looks`]). Taking it back is one exchange of a word in the channel, and then what the stub has
//! done is done here: the file's position is set, the descriptor closed. So nobody can tell that it was not a call.
//!
//! A thread that opens many files has its loans on the channel's shelf (ADR 47), where they stay while it makes calls that
//! leave files alone ([`leaves_files`]): then the loan is *asleep*, and goes on with the answer, if nothing has happened meanwhile.
//! There, files that come next can have been opened ahead ([`opens`]): the loan holds them, and the word says which of them the
//! descriptor is.
//!
//! What the thread says is believed as far as it could have called: where its own file stands, that its own descriptor is
//! closed. Lock order: `Loans::list` is outside of descriptor tables and files.

use super::attributes::{self, Until};
use super::{ahead, known, opens, Engine, GuestThread};
use crate::context::Context;
use crate::fs::clock;
use crate::fs::close::closed;
use crate::fs::direct::is_watched;
use crate::fs::fd_table::FdTable;
use crate::fs::file::{AtRest, OpenFile, StatusFlags};
use crate::fs::inode::{FileType, Metadata, Names};
use crate::fs::path::inode_key;
use crate::fs::text::counts_of;
use crate::fs::walk::Walker;
use crate::syscall::directory::{cursor_at, names_of, rest_of};
use crate::task::Process;
use crate::Errno;
use parking_lot::Mutex;
use skerry_abi::raw::general as linux;
use skerry_abi::structs::TimeSpec;
use skerry_platform::channel::{Lent, Returned};
use skerry_platform::layout::{loan, request, shelf};
use skerry_platform::own::descriptor_limit;
use skerry_platform::processor::ticks;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use zerocopy::IntoBytes;

/// So often a loan on the shelf is given more time, when what is lent has been looked at once more.
const RENEWALS: u32 = 16;
/// So much of a directory goes onto the shelf.
const LISTING: usize = 32 * 1024;
/// For so many ticks of the processor's clock a stub believes what it was told: about a millisecond. It bounds how old an
/// answer can be where the host's own processes change a file.
const LIFE: u64 = 2_500_000;
/// Of a file that does not fit into the channel only this much goes along: what is looked at first, or one block of stdio(3).
pub(super) const HEAD: usize = 4096;
/// And only this much, where files are read to their ends.
const WHOLE: usize = 180 * 1024;
/// Larger files are not copied where they are mapped.
pub(super) const COPIED: usize = 8192;
/// From so many loans of files that it has opened on, a thread has its shelf.
const SHELF_FROM: u32 = 8;
/// So many threads have one at most: each can take up 450 KiB.
const SHELVES: usize = 128;
/// Of files that were opened ahead, so many are held at most, by all together, before no more are; and an eighth of the descriptors that the
/// host grants us.
const MOST_HELD: usize = 256;
/// From [`Reading`] of this on data goes along.
const READS: u32 = 2;
const MOST_READS: u32 = 3;

/// All loans of a sandbox.
#[derive(Default)]
pub(super) struct Loans {
    /// Length of the list, so that nothing is locked where there is none.
    count: AtomicUsize,
    list: Mutex<Vec<Loan>>,
    numbers: AtomicU32,
    /// Moved on before and behind each call that could change a file.
    changes: AtomicU64,
    /// Moved on behind each call that reads: that may show in the time of access.
    reads: AtomicU64,
    /// They stand for good (a test wants to see that nothing in the sandbox leans on time).
    for_good: AtomicBool,
    /// Threads that have a shelf.
    shelves: Arc<AtomicUsize>,
}

/// It keeps nothing alive but what was opened ahead: who lets go of a table last closes what is in it.
struct Loan {
    thread: Weak<GuestThread>,
    number: u16,
    files: Weak<FdTable>,
    process: Weak<Process>,
    fd: i32,
    file: Weak<OpenFile>,
    position: u32,
    /// Data could go along: whether that was of use tells whether it is to the next time.
    predicts: bool,
    /// It is open to be written: that it is closed matters to whoever makes a call.
    writes: bool,
    /// The time of access that reading it shows.
    accessed: TimeSpec,
    /// It tells of names that come next, of what is known of names, of those that are not there.
    tells_names: bool,
    tells_filled: bool,
    tells_known: bool,
    /// Reading these inodes changes what it shows.
    read: [Option<usize>; 2],
    /// Of a directory: its entries, as they lie in the channel.
    listing: Option<Vec<u8>>,
    /// Data could have gone along beyond [`HEAD`].
    is_large: bool,
    /// What it needs to be lent again, where it lies on the shelf.
    shelved: Option<Shelved>,
}

/// Of a loan on the shelf.
struct Shelved {
    /// The thread is in a call, and may do nothing by itself.
    is_asleep: bool,
    until: u64,
    /// [`Loans::changes`] when it was looked at, and [`FdTable::changes`] when it fell asleep.
    changes: u64,
    table: u64,
    close_on_exec: bool,
    /// Which file the descriptor is, and whether it is closed.
    index: usize,
    is_closed: bool,
    was_read: bool,
    /// What the descriptor's file was said to be, if it can be told whether it is so still.
    status: Option<Status>,
    /// What was opened ahead, and is still to come; and what has come and was closed.
    ahead: Vec<Option<AheadFile>>,
    passed: Vec<AheadFile>,
    renewals: u32,
    /// The loan is of a directory until the first file in it comes, which gets this descriptor.
    beside: Option<i32>,
    /// The directory of these files, where the thread may close it, or has.
    directory: Option<(i32, Weak<OpenFile>)>,
    has_left: bool,
}

/// A `struct stat`.
pub(super) type Status = [u8; loan::STATUS];

/// A file that was opened ahead, and [`Shelved::status`] of it.
pub(super) type AheadFile = (Arc<OpenFile>, Option<Status>);

/// What a file with `metadata` is said to be, if equal ones mean equal data from now on.
pub(super) fn lasting(metadata: &Metadata, status: &Status) -> Option<Status> {
    clock::is_settled(metadata.changed).then_some(*status)
}

fn is_still(file: &OpenFile, status: &Option<Status>) -> bool {
    let now = file.metadata().ok().map(|metadata| metadata.stat());
    status.as_ref().is_some_and(|status| now.is_some_and(|now| now.as_bytes() == &status[..]))
}

impl Shelved {
    /// Whether all that is to come is what it was; once it has been said long enough that it is.
    fn renew(&mut self, current: Option<&OpenFile>) -> bool {
        self.renewals += 1;
        let is_there = |file: &Option<AheadFile>| file.as_ref().is_none_or(|(file, status)| is_still(file, status));
        self.renewals <= RENEWALS && current.is_none_or(|file| is_still(file, &self.status)) && self.ahead.iter().all(is_there)
    }
}

/// How a thread uses its shelf.
#[derive(Default)]
pub(super) struct Shelf {
    loans: AtomicU32,
    place: OnceLock<Place>,
    /// Whether it reads on in files that are larger than [`HEAD`].
    whole: Whole,
    opens: Mutex<opens::Opens>,
    /// Files were opened with their directory: one of them was asked for, or none.
    entered: AtomicBool,
    in_vain: AtomicBool,
}

/// A [`Reading`] that has to be shown first.
struct Whole(Reading);

impl Default for Whole {
    fn default() -> Whole {
        Whole(Reading(AtomicU32::new(0)))
    }
}

/// One of [`SHELVES`].
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shelf {
    fn is_in_use(&self) -> bool {
        self.place.get().is_some()
    }

    /// A file that was opened has been lent. From some number on it has a shelf, if there are few enough, `count`.
    fn note_loan(&self, count: &Arc<AtomicUsize>) {
        if self.is_in_use() || self.loans.fetch_add(1, Ordering::Relaxed) < SHELF_FROM {
            return;
        }
        let place = Place(count.clone());
        if count.fetch_add(1, Ordering::Relaxed) < SHELVES {
            let _ = self.place.set(place);
        }
    }
}

/// What is laid into the channel of a file.
struct Snapshot {
    metadata: Metadata,
    data: Data,
    size: u64,
    position: u32,
    flags: u32,
}

/// A file's bytes, or a directory's entries.
enum Data {
    Here(Vec<u8>),
    /// So many lie on the shelf already.
    Shelved(usize),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Data::Here(bytes) => bytes.len(),
            Data::Shelved(length) => *length,
        }
    }
}

/// Whether a thread reads the files that it opens, from its last ones.
pub(super) struct Reading(AtomicU32);

impl Default for Reading {
    fn default() -> Reading {
        Reading(AtomicU32::new(READS))
    }
}

impl Reading {
    pub(super) fn is_usual(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= READS
    }

    pub(super) fn note(&self, has_read: bool) {
        let count = self.0.load(Ordering::Relaxed);
        self.0.store(if has_read { (count + 1).min(MOST_READS) } else { count.saturating_sub(1) }, Ordering::Relaxed);
    }
}

/// What a request does with the descriptor of a file that was lent until then.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    Reads,
    /// fcntl(2): it has another one, too.
    Copies,
    Other,
}

/// What a call may do to others' loans; from [`Loans::before`] to [`Loans::behind`].
#[derive(Clone, Copy)]
pub(crate) struct Watch {
    only_looks: bool,
    /// It may read a file's data, or a directory.
    reads_data: bool,
    /// [`Loans::changes`] when the call began, and [`Loans::reads`].
    changes: u64,
    reads: u64,
    /// [`FdTable::changes`] then.
    table: u64,
    /// The descriptor of the file that was lent to the thread until now, and that it has not closed.
    lent: Option<i32>,
}

impl Loans {
    /// A request of `thread` begins. What was held for the loans that end with it can be let go behind the answer.
    pub fn before(&self, thread: &Arc<GuestThread>, context: &Context, kind: u32) -> (Watch, Ended) {
        let is_call = kind == request::SYSCALL;
        let only_looks = if is_call { only_looks(context) } else { kind != request::NATIVE_DONE };
        if !only_looks {
            self.changes.fetch_add(1, Ordering::SeqCst);
        }
        let files = context.task.files();
        let (mut lent, mut ended) = (None, Ended::default());
        if self.count.load(Ordering::SeqCst) != 0 {
            let sleeps = (is_call || kind == request::CHANGED) && leaves_files(context);
            let reads = matches!(
                context.call.number as u32,
                linux::__NR_read | linux::__NR_pread64 | linux::__NR_readv | linux::__NR_getdents64
            );
            let maps = context.call.number as u32 == linux::__NR_mmap;
            let [first, .., fifth, _] = context.call.arguments;
            let copies = copies_descriptor(context);
            let next = |fd: i32| match fd {
                _ if !is_call => Next::Other,
                _ if reads && first as i32 == fd || maps && fifth as i32 == fd => Next::Reads,
                _ if copies && first as i32 == fd => Next::Copies,
                _ => Next::Other,
            };
            let ends = |loan: &Loan| !only_looks || loan.writes || is(&loan.thread, thread) || is(&loan.files, &files);
            ended = self.take_back(ends, next, |loan, is_closed| {
                if !is(&loan.thread, thread) {
                    return false;
                }
                if !is_closed {
                    lent = Some(loan.fd);
                }
                sleeps
            });
            if !is_call || !is_brief(context.call.number) {
                ended = Ended::default();
            }
        }
        let reads_data = is_call && reads_data(context.call.number);
        let watch = Watch {
            only_looks,
            reads_data,
            changes: self.changes.load(Ordering::SeqCst),
            reads: self.reads.load(Ordering::SeqCst),
            table: files.changes(),
            lent,
        };
        (watch, ended)
    }

    /// The thread's loan that is asleep, if there is one, is no more in the list.
    fn take_asleep(&self, thread: &Arc<GuestThread>) -> Option<Loan> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut list = self.list.lock();
        let index = list.iter().position(|loan| loan.is_asleep() && is(&loan.thread, thread))?;
        let loan = list.swap_remove(index);
        self.count.store(list.len(), Ordering::SeqCst);
        Some(loan)
    }

    /// Whether few enough files are held that were opened ahead.
    fn may_hold_more(&self) -> bool {
        let held = |loan: &Loan| loan.shelved.as_ref().map_or(0, |shelved| shelved.ahead.iter().flatten().count());
        self.list.lock().iter().map(held).sum::<usize>() < MOST_HELD.min(descriptor_limit() / 8)
    }

    /// From now on the processor's time ends none.
    pub fn never_expire(&self) {
        self.for_good.store(true, Ordering::Relaxed);
    }

    /// How long what was looked at is believed, in ticks.
    pub(super) fn life(&self) -> u64 {
        if self.for_good.load(Ordering::Relaxed) {
            u64::MAX >> 2
        } else {
            LIFE
        }
    }

    /// The call has had its effect. What has been looked at since then can be told of with its answer.
    pub fn behind(&self, watch: Watch, thread: &Arc<GuestThread>, context: &Context) -> Watch {
        if watch.only_looks {
            if self.count.load(Ordering::SeqCst) != 0 {
                // A descriptor may be another one now, of which somebody was told meanwhile.
                let files = context.task.files();
                if files.changes() != watch.table {
                    let _ = self.take_back(
                        |loan| is(&loan.files, &files) && !is(&loan.thread, thread),
                        |_| Next::Other,
                        |_, _| false,
                    );
                }
            }
            return if watch.reads_data { self.behind_reading(watch, context) } else { watch };
        }
        self.changed();
        Watch { changes: self.changes.load(Ordering::SeqCst), ..watch }
    }

    fn behind_reading(&self, watch: Watch, context: &Context) -> Watch {
        let reads = self.reads.fetch_add(1, Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) != 0 {
            let read = inode_read(context);
            let _ = self.take_back(|loan| read.is_some() && loan.read.contains(&read), |_| Next::Other, |_, _| false);
        }
        // Unless others have read meanwhile.
        Watch { reads: if reads == watch.reads { reads + 1 } else { watch.reads }, ..watch }
    }

    /// Runs `change`, while nothing is lent.
    pub fn with_none<T>(&self, change: impl FnOnce() -> T) -> T {
        let mut list = self.list.lock();
        self.changes.fetch_add(1, Ordering::SeqCst);
        let gone = self.end(&mut list, |_| true, |_| Next::Other, |_, _| false);
        let result = change();
        self.changes.fetch_add(1, Ordering::SeqCst);
        drop(list);
        drop(gone);
        result
    }

    /// Somebody has changed what files there are, or is about to look at what others have open.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) != 0 {
            let _ = self.take_back(|_| true, |_| Next::Other, |_, _| false);
        }
    }

    /// `next`: what is done with a descriptor now; `sleeps`: whether one may fall asleep; it is told whether the file is closed.
    fn take_back(
        &self,
        which: impl Fn(&Loan) -> bool,
        next: impl Fn(i32) -> Next,
        sleeps: impl FnMut(&Loan, bool) -> bool,
    ) -> Ended {
        // With the lock held, so that who comes behind sees all of it.
        self.end(&mut self.list.lock(), which, next, sleeps)
    }

    /// What has ended, to be let go behind the lock: files that were opened ahead go with it.
    fn end(
        &self,
        list: &mut Vec<Loan>,
        which: impl Fn(&Loan) -> bool,
        next: impl Fn(i32) -> Next,
        mut sleeps: impl FnMut(&Loan, bool) -> bool,
    ) -> Ended {
        let mut gone = Vec::new();
        let mut index = 0;
        while index < list.len() {
            let thread = list[index].thread.upgrade();
            if thread.is_some() && !which(&list[index]) {
                index += 1;
                continue;
            }
            let mut loan = list.swap_remove(index);
            let Some(thread) = thread.filter(|_| !loan.is_asleep()) else {
                gone.push(loan);
                continue;
            };
            let (was_read, is_closed) = loan.end(&thread);
            let next = next(loan.fd);
            let reads = next == Next::Reads;
            let goes_on = sleeps(&loan, is_closed) && loan.falls_asleep(was_read, is_closed);
            // Of what goes on, or is lent anew, it shows later that it was not read.
            let shows = |so: bool| so || !goes_on && next != Next::Copies;
            if loan.predicts && shows(was_read || reads) {
                let reading = if loan.listing.is_some() { &thread.listing } else { &thread.reading };
                reading.note(was_read || reads);
            }
            let reads_on = loan.position as usize > HEAD || reads;
            if loan.is_large && shows(reads_on) {
                thread.shelf.whole.0.note(reads_on);
                loan.is_large = false;
            }
            if !goes_on && loan.shelved.as_ref().is_some_and(|shelved| shelved.beside.is_some() && !shelved.ahead.is_empty()) {
                thread.shelf.in_vain.store(true, Ordering::Relaxed);
            }
            if goes_on {
                list.push(loan);
                // It was the last one, or another one has come to its place; and it must not come again itself.
                let last = list.len() - 1;
                list.swap(index, last);
                index += 1;
            } else {
                gone.push(loan);
            }
        }
        self.count.store(list.len(), Ordering::SeqCst);
        gone.iter().for_each(Loan::is_over);
        Ended(gone)
    }
}

/// Loans that are no more. What was held for them is closed on the host when this goes.
#[derive(Default)]
pub(super) struct Ended(#[expect(dead_code, reason = "it is held")] Vec<Loan>);

impl Loan {
    /// What is held for it does not count as open any more.
    fn is_over(&self) {
        let held = self.shelved.iter().flat_map(|shelved| shelved.ahead.iter().flatten().chain(&shelved.passed));
        held.for_each(|(file, _)| drop(file.counted.lock().take()));
    }

    fn is_asleep(&self) -> bool {
        self.shelved.as_ref().is_some_and(|shelved| shelved.is_asleep)
    }

    /// True: it can be lent again when the call is over, if nothing happens until then.
    fn falls_asleep(&mut self, was_read: bool, is_closed: bool) -> bool {
        let (Some(shelved), Some(files)) = (&mut self.shelved, self.files.upgrade()) else { return false };
        (shelved.was_read, shelved.is_closed) = (was_read, is_closed);
        shelved.table = files.changes();
        shelved.is_asleep = true;
        true
    }

    /// What the stub has done is done here. Whether it has read, and closed.
    fn end(&mut self, thread: &GuestThread) -> (bool, bool) {
        let Some(Returned { position, index, was_read, is_closed, has_repeated, was_shown, has_left }) =
            thread.channel.take_loan_back(self.number)
        else {
            self.shelved = None;
            return (false, true);
        };
        if self.tells_names {
            thread.ahead.lock().was_told(was_shown);
        }
        if self.tells_filled {
            thread.filled.lock().was_told(was_shown);
        }
        if self.tells_known {
            thread.last_name.lock().was_told(has_repeated);
        }
        let (Some(files), Some(process)) = (self.files.upgrade(), self.process.upgrade()) else { return (was_read, true) };
        if index != 0 {
            self.leaves_directory(thread);
        }
        self.becomes(index, &files, &process);
        let is_there = self.takes_effect(position, was_read);
        if is_closed {
            close(&files, &process, self.fd, &self.file);
        }
        if let Some(shelved) = self.shelved.as_mut().filter(|shelved| has_left && !shelved.has_left) {
            shelved.has_left = true;
            if let Some((fd, directory)) = &shelved.directory {
                close(&files, &process, *fd, directory);
            }
        }
        (was_read, is_closed || !is_there)
    }

    /// The file stands at `position`, and `was_read`. False: it is gone.
    fn takes_effect(&mut self, position: u32, was_read: bool) -> bool {
        let Some(file) = self.file.upgrade() else { return false };
        if was_read {
            file.operations.was_read(&file, self.accessed);
        }
        // Of a direct one, only the host knows it.
        if position != self.position && file.position.handed_over().is_none() {
            let cursor = match &self.listing {
                // It cannot stand within an entry.
                Some(listing) => cursor_at(listing, position as usize),
                None => Some(position.into()),
            };
            let _ = cursor.map(|cursor| file.position.lock().set(cursor));
            self.position = position;
        }
        true
    }

    /// A file in the directory that was lent has come beside it: from now on the loan is of that.
    fn leaves_directory(&mut self, thread: &GuestThread) {
        let Some(fd) = self.shelved.as_mut().and_then(|shelved| shelved.beside.take()) else { return };
        let (position, was_read) = thread.channel.left_at();
        self.takes_effect(position, was_read);
        thread.listing.note(was_read);
        thread.shelf.entered.store(true, Ordering::Relaxed);
        (self.fd, self.file, self.position, self.listing) = (fd, Weak::new(), 0, None);
    }

    /// The descriptor is the file `index` now, as the thread says; those before it are closed.
    fn becomes(&mut self, index: usize, files: &FdTable, process: &Process) {
        let Some(shelved) = &mut self.shelved else { return };
        let passed = shelved.index..index;
        if passed.is_empty() {
            return;
        }
        let new = shelved.ahead.get_mut(index - 1).and_then(Option::take);
        let Some((new, status)) = new else { return };
        shelved.status = status;
        shelved.passed.extend(shelved.ahead[passed.start..index - 1].iter_mut().filter_map(Option::take));
        let is_there = match self.file.upgrade() {
            Some(old) if !shelved.is_closed => {
                let gone = files.replace(self.fd, &old, new.clone());
                drop(old);
                let is_there = gone.is_some();
                gone.into_iter().for_each(|gone| closed(process, gone));
                is_there
            }
            _ => files.install_where_free(new.clone(), self.fd, shelved.close_on_exec),
        };
        (shelved.index, shelved.is_closed) = (index, false);
        self.file = if is_there { Arc::downgrade(&new) } else { Weak::new() };
        self.position = 0;
    }

    /// Whether nobody else has the file, whose position would be theirs too.
    fn is_own(&self, files: &FdTable) -> bool {
        self.fd < 0 || self.file.upgrade().is_some_and(|file| is_own(&file, files))
    }
}

/// The thread has closed `fd`, if it is this file still.
fn close(files: &FdTable, process: &Process, fd: i32, file: &Weak<OpenFile>) {
    if files.get(fd).is_ok_and(|present| is(file, &present)) {
        if let Ok(removed) = files.remove(fd) {
            closed(process, removed);
        }
    }
}

/// All descriptors of it are this table's, and one reference is the caller's: nobody else moves its position.
fn is_own(file: &Arc<OpenFile>, files: &FdTable) -> bool {
    Arc::strong_count(file) == files.count_of(file) + 1 && !file.flags().intersects(StatusFlags::PATH | StatusFlags::DIRECT)
}

impl Engine {
    /// Lends the thread what its call was about, if that can be: a file, the names that it will look at next. Its answer is to
    /// have this in [`Reply::entry`]; 0: nothing is lent. The first `results` bytes of the channel's area are in use.
    ///
    /// [`Reply::entry`]: skerry_platform::layout::Reply::entry
    pub(super) fn lend(&self, thread: &Arc<GuestThread>, context: &Context, value: i64, results: usize) -> u64 {
        let Some(watch) = context.watch else { return 0 };
        let reads = self.loans.reads.load(Ordering::SeqCst);
        let asleep = self.loans.take_asleep(thread);
        if asleep.is_some_and(|loan| self.lend_again(thread, context, watch, reads, loan)) {
            return loan::LENT;
        }
        let subject = if value >= 0 { Subject::of(context, value).or_else(|| Subject::before(context, watch)) } else { None };
        if !(subject.is_some() || context.looked.is_some()) || !may_lend(thread, context) {
            return 0;
        }
        let files = context.task.files();
        let table = files.changes();
        let is_shelved = thread.shelf.is_in_use();
        let start = if is_shelved { 0 } else { results.next_multiple_of(8) };
        let Some(room) = loan::DATA.checked_sub(start) else { return 0 };
        // On the shelf data has a place of its own, and is looked at first.
        let mut file = match subject {
            Some(Subject::File(fd)) if is_shelved => file_to_lend(thread, context, &files, fd, None),
            _ => None,
        };
        let life = self.loans.life();
        let looked = ticks();
        let ahead = match &file {
            Some(file) if self.loans.may_hold_more() => open_ahead(thread, context, &files, file),
            _ => None,
        }
        .unwrap_or_default();
        let opens = ahead::looks(context.call.number);
        let mut names = match (&context.seen, opens) {
            (Some(seen), Some(opens)) if (watch.only_looks || context.linked.is_some()) && ahead.files.is_empty() => {
                thread.ahead.lock().look(context, seen, opens, room)
            }
            _ => None,
        }
        .unwrap_or_default();
        let linked = linked_to(context);
        let linked = linked.as_ref().map(|(descriptor, name, metadata)| (*descriptor, &name[..], metadata));
        let next = ahead.names.iter().map(|(directory, name, metadata)| (*directory, &name[..], metadata));
        // What is linked next is made sure not to be there.
        let absent = if names.count != 0 { absent_next(thread, context) } else { None };
        for (descriptor, name, metadata) in linked.into_iter().chain(next) {
            if let Ok(status) = Status::try_from(metadata.stat().as_bytes()) {
                names.add(descriptor, name, &status, room);
            }
        }
        if let Some((descriptor, name)) = absent {
            names.add_absent(descriptor, &name, room);
        }
        // fts(3) makes sure that what it has opened is what it had looked at.
        if let (Some(file), Some((descriptor, path, _))) = (&file, &context.seen) {
            if file.lent.flags & loan::DIRECTORY != 0
                && opened_to_look(context).is_some_and(|flags| flags & linux::O_NOFOLLOW != 0)
            {
                names.add(*descriptor, path, &file.status, room);
            }
        }
        if let Some(Subject::File(fd)) = subject {
            if let Some((descriptor, name, metadata)) = behind_directory(thread, context, &files, fd) {
                if let Ok(status) = Status::try_from(metadata.stat().as_bytes()) {
                    names.add(descriptor, &name, &status, room);
                }
            }
        }
        let mut ends = Until::default();
        if let Some((said, its)) = known::said(thread, context) {
            names.set_known(&said, room - names.records.len());
            ends = its;
        }
        let made = match subject {
            Some(Subject::File(fd)) => files.get(fd).ok().filter(|file| file.created.load(Ordering::Relaxed)),
            _ => None,
        };
        match (&made, &context.seen, context.call.number as u32) {
            (Some(_), Some(seen), _) => thread.filled.lock().note(seen),
            (Some(made), None, linux::__NR_write) => {
                thread.filled.lock().tell(context, made, &mut names, room.saturating_sub(loan::OPENED));
            }
            _ => {}
        }
        // With it, another one would have the file, too.
        drop(made);
        let room = room - names.records.len();
        if let (Some(Subject::File(fd)), false) = (subject, is_shelved) {
            file = file_to_lend(thread, context, &files, fd, Some(room));
        }
        if file.is_none() && names.count == 0 && names.known.is_none() {
            return 0;
        }
        if let (Some(file), Some((directory, path, _)), Some(flags)) = (&file, &context.seen, opened_to_look(context)) {
            let taken = if is_shelved { 0 } else { file.data.len() };
            names.set_opened(*directory, path, flags, room.saturating_sub(taken));
            thread.shelf.note_loan(&self.loans.shelves);
        }
        let ToLend { mut lent, status, data, file, predicts, ends: of_file, lasting, accessed, .. } =
            file.unwrap_or_else(ToLend::nothing_but_names);
        let until = looked.wrapping_add(life);
        lent.until = until;
        let is_large = predicts && lent.flags & loan::DIRECTORY == 0 && lent.size > HEAD as u64;
        if let (Data::Here(bytes), true) = (&data, is_shelved) {
            thread.channel.shelve(shelf::DATA, bytes);
        }
        let own = ends.own | of_file.own;
        let read = [ends.read, of_file.read];
        // What a thread's own calls end, without us, is never lent again.
        let may_sleep = own == 0 && names.known.is_none();
        let opens::Ahead { files: ahead, opened, directory, .. } =
            if is_shelved && may_sleep { ahead } else { opens::Ahead::default() };
        let is_beside = opened.how & shelf::BESIDE != 0;
        let closes = opened.how & shelf::CLOSES != 0;
        let mut list = self.loans.list.lock();
        // A call that may change files has begun meanwhile, or has ended; or one that reads has; or what descriptors there are has
        // changed.
        let Loans { changes, reads, .. } = &self.loans;
        if changes.load(Ordering::SeqCst) != watch.changes
            || read != [None; 2] && reads.load(Ordering::SeqCst) != watch.reads
            || files.changes() != table
        {
            return 0;
        }
        let number = self.loans.numbers.fetch_add(1, Ordering::Relaxed) as u16;
        let shelved = (is_shelved && may_sleep).then(|| Shelved {
            is_asleep: false,
            until,
            changes: watch.changes,
            table,
            close_on_exec: if is_beside { opened.flags & linux::O_CLOEXEC != 0 } else { lent.descriptor_flags != 0 },
            index: 0,
            is_closed: false,
            was_read: false,
            status: lasting,
            ahead,
            passed: Vec::new(),
            renewals: 0,
            beside: is_beside.then_some(opened.descriptor as i32),
            directory: closes.then_some((opened.directory as i32, directory)),
            has_left: false,
        });
        match &data {
            Data::Here(bytes) if !is_shelved => thread.channel.lend(number, &lent, &status, start, bytes, &names),
            data => thread.channel.lend_on_shelf(number, &lent, &status, data.len(), &names, &opened),
        }
        list.push(Loan {
            thread: Arc::downgrade(thread),
            number,
            files: Arc::downgrade(&files),
            process: Arc::downgrade(context.process()),
            fd: lent.descriptor as i32,
            file,
            position: lent.position,
            predicts,
            writes: lent.flags & loan::WRITTEN != 0,
            accessed,
            tells_names: names.count != 0,
            tells_filled: names.filled.is_some(),
            tells_known: names.known.is_some(),
            read,
            listing: match data {
                Data::Here(entries) if lent.flags & loan::DIRECTORY != 0 => Some(entries),
                _ => None,
            },
            is_large,
            shelved,
        });
        self.loans.count.store(list.len(), Ordering::SeqCst);
        loan::LENT | ends.own | of_file.own
    }

    /// The thread's loan goes on as it was when its call began, if that has left files alone, and so has everybody else.
    /// `reads`: [`Loans::reads`] when it was last known to stand.
    fn lend_again(&self, thread: &Arc<GuestThread>, context: &Context, watch: Watch, reads: u64, mut loan: Loan) -> bool {
        let files = context.task.files();
        let Some(shelved) = &loan.shelved else { return false };
        let left = shelved.until.wrapping_sub(ticks()) as i64;
        if !watch.only_looks || !is(&loan.files, &files) || !may_lend(thread, context) {
            return false;
        }
        if !shelved.is_closed && !loan.is_own(&files) {
            return false;
        }
        let current = if shelved.is_closed { None } else { loan.file.upgrade() };
        let Some(shelved) = &mut loan.shelved else { return false };
        // Looked at once more, it is as good as new, but for names alone, which are gone then.
        let renewed = left < LIFE as i64 / 2;
        let until = ticks().wrapping_add(self.loans.life());
        if renewed && !shelved.renew(current.as_deref()) {
            return false;
        }
        drop(current);
        let mut list = self.loans.list.lock();
        if self.loans.changes.load(Ordering::SeqCst) != shelved.changes
            || loan.read != [None; 2] && self.loans.reads.load(Ordering::SeqCst) != reads
            || files.changes() != shelved.table
        {
            return false;
        }
        loan.number = self.loans.numbers.fetch_add(1, Ordering::Relaxed) as u16;
        if renewed {
            shelved.until = until;
            thread.channel.renew_loan(until);
        }
        shelved.is_asleep = false;
        let Shelved { index, was_read, is_closed, has_left, .. } = *shelved;
        let returned = Returned { index, position: loan.position, was_read, is_closed, has_left, ..Returned::default() };
        thread.channel.lend_again(loan.number, returned);
        list.push(loan);
        self.loans.count.store(list.len(), Ordering::SeqCst);
        true
    }

    /// What threads have done with files that were lent to them is done, for somebody who looks at others' descriptors, or
    /// changes files without a call.
    pub(crate) fn take_loans_back(&self) {
        self.loans.changed();
    }
}

fn is<T>(one: &Weak<T>, other: &Arc<T>) -> bool {
    std::ptr::eq(one.as_ptr(), Arc::as_ptr(other))
}

/// What a call was about.
#[derive(Clone, Copy)]
enum Subject {
    File(i32),
    /// A name alone.
    Name,
}

impl Subject {
    fn of(context: &Context, value: i64) -> Option<Subject> {
        let arguments = context.call.arguments;
        let fd = match context.call.number as u32 {
            linux::__NR_open | linux::__NR_openat => value as i32,
            linux::__NR_read | linux::__NR_fstat | linux::__NR_lseek | linux::__NR_getdents64 => arguments[0] as i32,
            linux::__NR_write if !is_no_file(context, arguments[0] as i32) => arguments[0] as i32,
            linux::__NR_mmap if arguments[3] as u32 & linux::MAP_ANONYMOUS == 0 => arguments[4] as i32,
            linux::__NR_newfstatat if arguments[3] as u32 & linux::AT_EMPTY_PATH != 0 => arguments[0] as i32,
            linux::__NR_fcntl if copies_descriptor(context) => arguments[0] as i32,
            linux::__NR_link | linux::__NR_linkat if context.linked.is_some() => return Some(Subject::Name),
            linux::__NR_newfstatat | linux::__NR_lstat if context.seen.is_some() => return Some(Subject::Name),
            _ => return None,
        };
        Some(Subject::File(fd))
    }

    /// Of a call that sends what was read from a file: that, which is closed next.
    fn before(context: &Context, watch: Watch) -> Option<Subject> {
        let sends = matches!(
            context.call.number as u32,
            linux::__NR_write | linux::__NR_writev | linux::__NR_sendto | linux::__NR_sendmsg | linux::__NR_sendfile
        );
        watch.lent.filter(|fd| sends && watch.only_looks && *fd >= 0).map(Subject::File)
    }
}

/// What is said of a file.
struct ToLend {
    lent: Lent,
    status: Status,
    data: Data,
    file: Weak<OpenFile>,
    /// Its data could go along.
    predicts: bool,
    ends: Until,
    /// [`Shelved::status`].
    lasting: Option<Status>,
    /// [`Loan::accessed`].
    accessed: TimeSpec,
    /// Of a directory: how its names stood before they were listed, if that is to be known.
    listed_at: Names,
}

impl ToLend {
    fn nothing_but_names() -> ToLend {
        let lent =
            Lent { descriptor: loan::NONE, position: 0, size: 0, until: 0, flags: 0, status_flags: 0, descriptor_flags: 0 };
        let (status, data) = ([0; loan::STATUS], Data::Here(Vec::new()));
        let (ends, accessed) = (Until::default(), TimeSpec::default());
        ToLend {
            lent,
            status,
            data,
            file: Weak::new(),
            predicts: false,
            ends,
            lasting: None,
            accessed,
            listed_at: Names::Changing,
        }
    }
}

/// The name that a link was given, as it was given, and what lstat(2) says of it.
fn linked_to<'a>(context: &'a Context) -> Option<(i32, &'a [u8], Metadata)> {
    let (descriptor, path, directory) = context.linked.as_ref()?;
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    let credentials = context.task.credentials();
    let walker = Walker::new(&context.kernel().mounts, context.task.fs().root, &credentials).of(context.task);
    let (place, shown) = walker.step_shown(directory, name).ok()?;
    let metadata = shown.map_or_else(|| place.inode().metadata(), Ok).ok()?;
    place.inode().is_at_rest().then_some((*descriptor, path, metadata))
}

/// Behind a link(2) that keeps a file's name: the name that the file that comes next is going to be given, if it is not there.
fn absent_next(thread: &GuestThread, context: &Context) -> Option<(i32, Vec<u8>)> {
    let (descriptor, path, directory) = context.linked.as_ref()?;
    let (_, old, _) = context.seen.as_ref()?;
    let last = |path: &[u8]| path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let (prefix, name) = path.split_at(last(path));
    if old[last(old)..] != *name || directory.inode().file_system().is_volatile() {
        return None;
    }
    let next = thread.ahead.lock().next()?.to_vec();
    let credentials = context.task.credentials();
    let walker = Walker::new(&context.kernel().mounts, context.task.fs().root, &credentials).of(context.task);
    let is_absent = matches!(walker.step(directory, &next), Err(Errno::ENOENT));
    is_absent.then(|| (*descriptor, [prefix, &next].concat()))
}

/// Of a directory that is asked about once all in it has come: what comes next.
fn behind_directory(thread: &GuestThread, context: &Context, files: &FdTable, fd: i32) -> Option<(i32, Vec<u8>, Metadata)> {
    if !matches!(context.call.number as u32, linux::__NR_fstat | linux::__NR_newfstatat) || !thread.shelf.is_in_use() {
        return None;
    }
    let file = files.get(fd).ok()?;
    let path = file.path.as_ref().filter(|path| path.inode().kind() == FileType::Directory)?;
    thread.shelf.opens.lock().behind_all(context, path)
}

/// Opens what comes behind a file that was opened to be read, or in a directory.
fn open_ahead(thread: &GuestThread, context: &Context, files: &FdTable, file: &ToLend) -> Option<opens::Ahead> {
    let ToLend { lent, data, predicts, listed_at, .. } = file;
    let (seen, flags) = (context.seen.as_ref()?, opened_to_look(context)?);
    if !predicts || !thread.reading.is_usual() {
        return None;
    }
    let used = (shelf::DATA + data.len()).next_multiple_of(64);
    let limits = opens::Limits { used, whole: thread.shelf.whole.0.is_usual() };
    let mut opens = thread.shelf.opens.lock();
    let took = |flag: &AtomicBool| flag.swap(false, Ordering::Relaxed);
    opens.note_entered(took(&thread.shelf.entered), took(&thread.shelf.in_vain));
    if lent.flags & loan::DIRECTORY != 0 {
        let listing = match data {
            Data::Here(entries) if lent.size == entries.len() as u64 => names_of(entries),
            _ => return None,
        };
        let entered = opens::Entered { descriptor: lent.descriptor as i32, seen, listing, listed_at: *listed_at };
        let mut ahead = opens.enter(thread, context, entered, limits)?;
        ahead.opened.descriptor = files.lowest_free(context.process().rlimit(linux::RLIMIT_NOFILE).current)? as u32;
        ahead.opened.how = shelf::BESIDE | shelf::CLOSES | shelf::SHOWS;
        ahead.directory = file.file.clone();
        return Some(ahead);
    }
    if lent.flags & (loan::SHOWS_READING | loan::WRITTEN) != 0 {
        return None;
    }
    let mut ahead = opens.open_next(thread, context, seen, flags, limits)?;
    let descriptor = ahead.opened.directory as i32;
    let directory =
        if ahead.is_all { files.get(descriptor).ok().filter(|file| may_be_left(context, files, file)) } else { None };
    if let Some(directory) = directory {
        // What it is may be asked, and it is closed, when all in it has come.
        ahead.names.push((descriptor, Vec::new(), directory.metadata().ok()?));
        ahead.opened.how = shelf::CLOSES;
        ahead.directory = Arc::downgrade(&directory);
    }
    Some(ahead)
}

/// Whether nobody but its owner can tell when this directory is closed.
fn may_be_left(context: &Context, files: &FdTable, file: &Arc<OpenFile>) -> bool {
    let is_directory = file.path.as_ref().is_some_and(|path| path.inode().kind() == FileType::Directory);
    is_directory && is_own(file, files) && file.is_plain() && is_left_alone(context, file)
}

/// Nobody has locked it, or watches it.
fn is_left_alone(context: &Context, file: &OpenFile) -> bool {
    let kernel = context.kernel();
    let is_locked = file.path.as_ref().is_some_and(|path| kernel.locks.is_locked(path.inode()));
    !is_locked && !is_watched(&kernel.watches, file)
}

/// `room`: for data in the area; `None`: it goes onto the shelf.
fn file_to_lend(thread: &GuestThread, context: &Context, files: &FdTable, fd: i32, room: Option<usize>) -> Option<ToLend> {
    let file = files.get(fd).ok()?;
    let flags = file.flags();
    if !is_own(&file, files) || !file.is_plain() {
        return None;
    }
    let path = file.path.as_ref()?;
    let opens = matches!(context.call.number as u32, linux::__NR_open | linux::__NR_openat);
    let is_direct = file.position.handed_over().is_some();
    let (mut ends, mut listed_at) = (Until::default(), Names::Changing);
    let mut what_it_shows = || {
        let (metadata, flags, until) = attributes::alone(thread, context, files, &file)?;
        let position = if is_direct { 0 } else { position_of(&file)? };
        ends = until;
        Some(Snapshot { size: metadata.size, metadata, data: Data::Here(Vec::new()), position, flags })
    };
    let (snapshot, predicts) = match path.inode().kind() {
        // It is mapped behind this answer: that may move the time of access.
        FileType::Regular if is_direct && context.call.number as u32 == linux::__NR_mmap => return None,
        FileType::Regular if is_direct => (what_it_shows()?, false),
        FileType::Regular if flags.intersects(StatusFlags::WRONLY | StatusFlags::RDWR) => {
            (of_written(&file).or_else(what_it_shows)?, false)
        }
        FileType::Regular => match of_regular(thread, &file, opens && thread.reading.is_usual(), room) {
            Some(snapshot) => (snapshot, opens),
            None => (what_it_shows()?, false),
        },
        FileType::Directory => {
            let room = if thread.listing.is_usual() { room.unwrap_or(LISTING) } else { 0 };
            if opens && thread.shelf.opens.lock().enters() {
                listed_at = path.inode().names().if_settled();
            }
            // Who has come to its end is not going to read it.
            (of_directory(&file, room)?, file.position.lock().get() == 0)
        }
        _ => return None,
    };
    if !is_left_alone(context, &file) {
        return None;
    }
    let Snapshot { metadata, data, size, position, flags: kind } = snapshot;
    let mut status: Status = metadata.stat().as_bytes().try_into().ok()?;
    let mut lent = Lent {
        descriptor: fd as u32,
        position,
        size,
        until: 0,
        flags: kind,
        status_flags: flags.bits(),
        descriptor_flags: files.close_on_exec(fd).ok()?.into(),
    };
    if kind & loan::SHOWS_READING != 0 {
        ends.read = Some(inode_key(path.inode()));
    }
    let lasting = if opens { lasting(&metadata, &status) } else { None };
    let accessed = clock::now();
    if flags.contains(StatusFlags::NOATIME) {
        // Not by who reads it here.
        lent.flags &= !loan::SHOWS_READING;
    } else if kind & loan::SHOWS_READING != 0 {
        status[loan::ACCESSED_THEN * 8..][..size_of::<TimeSpec>()].copy_from_slice(accessed.as_bytes());
    }
    Some(ToLend { lent, status, data, file: Arc::downgrade(&file), predicts, ends, lasting, accessed, listed_at })
}

fn position_of(file: &OpenFile) -> Option<u32> {
    u32::try_from(file.position.lock().get()).ok().filter(|at| u64::from(*at) <= loan::POSITION)
}

fn of_regular(thread: &GuestThread, file: &OpenFile, reads: bool, room: Option<usize>) -> Option<Snapshot> {
    let position = position_of(file)?;
    let (rest, data) = match (room, file.operations.unchanging_descriptor()) {
        (None, Some(descriptor)) if reads => {
            let whole = thread.shelf.whole.0.is_usual();
            let most = if whole { WHOLE } else { loan::DATA };
            let length = thread.channel.shelve_file(shelf::DATA, &descriptor, most)?;
            // Behind that, as reading moves the time of access.
            let rest = file.operations.at_rest(0)?;
            let size = rest.metadata.size;
            let length = if size > length as u64 && !whole { HEAD } else { length };
            (rest, Data::Shelved(length.min(usize::try_from(size).ok()?)))
        }
        _ => {
            let mut rest = file.operations.at_rest(if reads { room.unwrap_or(loan::DATA) } else { 0 })?;
            let mut data = std::mem::take(&mut rest.data);
            if rest.metadata.size > data.len() as u64 {
                data.truncate(HEAD);
            }
            data.truncate(usize::try_from(rest.metadata.size).ok()?);
            (rest, Data::Here(data))
        }
    };
    let AtRest { metadata, shows_reading, .. } = rest;
    let size = metadata.size;
    let mut flags = if shows_reading { loan::SHOWS_READING } else { 0 };
    // Who writes it now may look for that in a mapping.
    if data.len() <= COPIED && file.path.as_ref().is_some_and(|path| counts_of(&**path.inode()).0 <= 0) {
        flags |= loan::MAY_BE_COPIED;
    }
    Some(Snapshot { metadata, data, size, position, flags })
}

/// Of a file in memory that its owner writes: what it is, and nothing of what is in it.
fn of_written(file: &OpenFile) -> Option<Snapshot> {
    let position = position_of(file)?;
    let AtRest { metadata, shows_reading, .. } = file.operations.at_rest(0)?;
    let flags = loan::WRITTEN | if shows_reading { loan::SHOWS_READING } else { 0 };
    Some(Snapshot { metadata, data: Data::Here(Vec::new()), size: metadata.size, position, flags })
}

fn of_directory(file: &OpenFile, room: usize) -> Option<Snapshot> {
    let path = file.path.as_ref()?;
    if path.inode().file_system().is_volatile() || path.dentry.is_unlinked() {
        return None;
    }
    let listing = if room == 0 { None } else { rest_of(file, room) };
    // Without one it is of a size that nothing has.
    let (data, size) = listing.map_or((Vec::new(), u64::MAX), |listing| {
        let size = listing.len() as u64;
        (listing, size)
    });
    Some(Snapshot { metadata: file.metadata().ok()?, data: Data::Here(data), size, position: 0, flags: loan::DIRECTORY })
}

pub(super) fn may_lend(thread: &GuestThread, context: &Context) -> bool {
    context.kernel().lending.load(Ordering::Relaxed) && thread.acts_unseen(context)
}

/// Whether a call neither changes a file nor shows what others have open, whoever made it. What is not known here does.
fn only_looks(context: &Context) -> bool {
    let arguments = context.call.arguments;
    match context.call.number as u32 {
        linux::__NR_open => opens_to_look(arguments[1]),
        linux::__NR_openat => opens_to_look(arguments[2]),
        // A shared mapping of a file may be written.
        linux::__NR_mmap => arguments[3] & 1 == 0 || arguments[4] as i32 == -1,
        // It may set limits, others' too.
        linux::__NR_prlimit64 => arguments[2] == 0,
        linux::__NR_write | linux::__NR_writev | linux::__NR_ioctl => is_no_file(context, arguments[0] as i32),
        linux::__NR_fcntl => matches!(
            arguments[1] as u32,
            linux::F_DUPFD | linux::F_DUPFD_CLOEXEC | linux::F_GETFD | linux::F_SETFD | linux::F_GETFL
        ),
        number => LOOKS.contains(&number),
    }
}

/// Whether a call neither waits nor takes long: one about names or descriptors.
fn is_brief(number: u64) -> bool {
    matches!(
        number as u32,
        linux::__NR_open
            | linux::__NR_openat
            | linux::__NR_close
            | linux::__NR_stat
            | linux::__NR_lstat
            | linux::__NR_newfstatat
            | linux::__NR_getdents64
    )
}

fn copies_descriptor(context: &Context) -> bool {
    let [_, command, ..] = context.call.arguments;
    context.call.number as u32 == linux::__NR_fcntl && matches!(command as u32, linux::F_DUPFD | linux::F_DUPFD_CLOEXEC)
}

/// Whether a call may read a file's data, or a directory.
fn reads_data(number: u64) -> bool {
    matches!(
        number as u32,
        linux::__NR_read
            | linux::__NR_readv
            | linux::__NR_pread64
            | linux::__NR_preadv
            | linux::__NR_getdents
            | linux::__NR_getdents64
            | linux::__NR_mmap
    )
}

/// The file or directory that such a call is about.
fn inode_read(context: &Context) -> Option<usize> {
    let [first, .., fifth, _] = context.call.arguments;
    let fd = if context.call.number as u32 == linux::__NR_mmap { fifth } else { first };
    let file = context.task.files().get(fd as i32).ok()?;
    file.path.as_ref().map(|path| inode_key(path.inode()))
}

/// Whether a call neither touches files that are open nor names: what is lent to its maker may be so behind it.
fn leaves_files(context: &Context) -> bool {
    matches!(context.call.number as u32, linux::__NR_write | linux::__NR_writev)
        && is_no_file(context, context.call.arguments[0] as i32)
}

/// The flags of a call that has opened a file to look at it.
fn opened_to_look(context: &Context) -> Option<u32> {
    let flags = match context.call.number as u32 {
        linux::__NR_open => context.call.arguments[1],
        linux::__NR_openat => context.call.arguments[2],
        _ => return None,
    };
    opens_to_look(flags).then_some(flags as u32)
}

fn opens_to_look(flags: u64) -> bool {
    /// O_TMPFILE's own bit.
    const TMPFILE: u32 = 0o20000000;
    let flags = flags as u32;
    flags & (linux::O_CREAT | linux::O_TRUNC | TMPFILE) == 0 && flags & linux::O_ACCMODE == linux::O_RDONLY
}

/// A pipe, a socket, a terminal: what is written there is in no file.
fn is_no_file(context: &Context, fd: i32) -> bool {
    context.task.files().get(fd).is_ok_and(|file| match &file.path {
        None => !file.operations.is_seekable(),
        Some(path) => matches!(path.inode().kind(), FileType::Fifo | FileType::Socket | FileType::CharacterDevice),
    })
}

// Not here: what gives others an open file, whose position would be theirs too (fork(2), sendmsg(2)).
const LOOKS: [u32; 64] = [
    linux::__NR_read,
    linux::__NR_readv,
    linux::__NR_pread64,
    linux::__NR_preadv,
    linux::__NR_lseek,
    linux::__NR_close,
    linux::__NR_dup,
    linux::__NR_dup2,
    linux::__NR_dup3,
    linux::__NR_stat,
    linux::__NR_fstat,
    linux::__NR_lstat,
    linux::__NR_newfstatat,
    linux::__NR_statx,
    linux::__NR_access,
    linux::__NR_faccessat,
    linux::__NR_faccessat2,
    linux::__NR_readlink,
    linux::__NR_readlinkat,
    linux::__NR_getdents,
    linux::__NR_getdents64,
    linux::__NR_getcwd,
    linux::__NR_umask,
    linux::__NR_fadvise64,
    linux::__NR_pipe,
    linux::__NR_pipe2,
    linux::__NR_poll,
    linux::__NR_ppoll,
    linux::__NR_select,
    linux::__NR_pselect6,
    linux::__NR_epoll_create1,
    linux::__NR_epoll_ctl,
    linux::__NR_epoll_wait,
    linux::__NR_epoll_pwait,
    linux::__NR_socket,
    linux::__NR_socketpair,
    linux::__NR_connect,
    linux::__NR_accept,
    linux::__NR_accept4,
    linux::__NR_sendto,
    linux::__NR_recvfrom,
    linux::__NR_recvmsg,
    linux::__NR_getsockopt,
    linux::__NR_setsockopt,
    linux::__NR_munmap,
    linux::__NR_mprotect,
    linux::__NR_brk,
    linux::__NR_wait4,
    linux::__NR_waitid,
    linux::__NR_getpid,
    linux::__NR_getppid,
    linux::__NR_gettid,
    linux::__NR_getuid,
    linux::__NR_geteuid,
    linux::__NR_nanosleep,
    linux::__NR_clock_nanosleep,
    linux::__NR_clock_gettime,
    linux::__NR_futex,
    linux::__NR_rt_sigaction,
    linux::__NR_rt_sigprocmask,
    linux::__NR_rt_sigsuspend,
    linux::__NR_set_robust_list,
    linux::__NR_uname,
    linux::__NR_execve,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shelf_comes_with_use_and_goes_with_its_thread() {
        let count = Arc::default();
        let shelves: Vec<Shelf> = (0..SHELVES + 3).map(|_| Shelf::default()).collect();
        let use_it = |shelf: &Shelf| (0..=SHELF_FROM).for_each(|_| shelf.note_loan(&count));
        shelves[0].note_loan(&count);
        assert!(!shelves[0].is_in_use() && !shelves[0].whole.0.is_usual());
        shelves.iter().for_each(use_it);
        assert_eq!(shelves.iter().filter(|shelf| shelf.is_in_use()).count(), SHELVES);
        assert_eq!(count.load(Ordering::Relaxed), SHELVES);
        drop(shelves);
        assert_eq!(count.load(Ordering::Relaxed), 0);
        let next = Shelf::default();
        use_it(&next);
        assert!(next.is_in_use());
    }
}
