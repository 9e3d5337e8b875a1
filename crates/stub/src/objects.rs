//! Reading and writing of eventfds and pipes that the sentry has lent (ADR 45).
//!
//! As long as nobody but this thread uses an eventfd or a pipe, what it holds is here: an eventfd's counter is in a word of the
//! channel; a pipe's bytes lie beside it, and the word says from where to where. read(2) and write(2) change the word by
//! compare-and-exchange. Whoever else looks at the object in the sentry takes the loan back before, by exchanging the word: then
//! nothing is answered here any more. What would have to wait, fails, or is odd, is the sentry's to answer.
//!
//! Nothing here is a wall: a program that writes other things there harms what it could have written by calls.

use crate::host::{self, number, HIGHEST};
use crate::layout::objects::{after_call, DATA, EVENTFD, MOST, PIPE, READ, SEMAPHORE, VALID, VALUE, WRITTEN};
use crate::layout::ChannelLayout;
use crate::thread::ThreadBlock;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bytes that an eventfd is read and written by.
const COUNT: u64 = 8;

/// The result of a call that reads or writes what is lent.
#[inline(always)]
pub fn try_object(thread: &mut ThreadBlock, call_number: u64, arguments: &[u64; 6]) -> Option<i64> {
    if thread.has_objects == 0 || call_number > number::WRITE {
        return None;
    }
    answer(thread, call_number == number::WRITE, arguments)
}

#[inline(never)]
fn answer(thread: &mut ThreadBlock, writes: bool, arguments: &[u64; 6]) -> Option<i64> {
    let [descriptor, address, count, ..] = *arguments;
    let channel = thread.channel();
    // SAFETY: within the channel, which is mapped as long as the thread lives; accessed atomically.
    let answers = unsafe { AtomicU32::from_ptr(&raw mut (*channel).local.enabled) };
    if answers.load(Ordering::Acquire) == 0 || address > HIGHEST || count == 0 {
        return None;
    }
    let mut stands = false;
    for index in 0..MOST {
        // SAFETY: as above; what is beside the word only the sentry writes, before the answer that lends.
        let (word, object) = unsafe {
            let object = &raw mut (*channel).objects.objects[index];
            (AtomicU64::from_ptr(&raw mut (*object).word), core::ptr::read_volatile(object))
        };
        let before = word.load(Ordering::Acquire);
        if before & VALID == 0 {
            continue;
        }
        stands = true;
        if u64::from(if writes { object.writer } else { object.reader }) != descriptor & 0xffff_ffff {
            continue;
        }
        let (result, value) = match object.kind {
            PIPE if writes => write_pipe(data_of(channel, index), before, address, count)?,
            PIPE => read_pipe(data_of(channel, index), before, address, count)?,
            EVENTFD | SEMAPHORE if count != COUNT => return None,
            EVENTFD | SEMAPHORE if writes => (COUNT, add(before & VALUE, address)?),
            EVENTFD => (COUNT, take(before & VALUE, before & VALUE, address)?),
            SEMAPHORE => (COUNT, take(before & VALUE, 1, address)?),
            _ => return None,
        };
        let taken = word.compare_exchange(before, after_call(before, value), Ordering::AcqRel, Ordering::Relaxed);
        return taken.is_ok().then_some(result as i64);
    }
    thread.has_objects = u64::from(stands);
    None
}

/// The counter after what is at `address` has been added. `None`: it would be more than is kept here.
fn add(counter: u64, address: u64) -> Option<u64> {
    counter.checked_add(host::load(address)?).filter(|sum| *sum <= VALUE)
}

/// The counter after `taken` of it has been read to `address`. `None`: it is 0.
fn take(counter: u64, taken: u64, address: u64) -> Option<u64> {
    (counter != 0 && host::store(address, taken)).then(|| counter - taken)
}

fn data_of(channel: *mut ChannelLayout, index: usize) -> u64 {
    // SAFETY: within the channel; only an address is made.
    unsafe { &raw mut (*channel).objects.data[index] as u64 }
}

/// Bytes copied, and the positions behind that. `None`: there is no room for all, or the positions go no further.
fn write_pipe(data: u64, word: u64, address: u64, count: u64) -> Option<(u64, u64)> {
    let (read, written) = positions(word);
    let room = (DATA as u64).checked_sub(written.checked_sub(read)?)?;
    if count > room || written + count > WRITTEN {
        return None;
    }
    let (start, first) = first_piece(written, count);
    if !host::copy(data + start, address, first) || !host::copy(data, address + first, count - first) {
        return None;
    }
    Some((count, read << READ | written + count))
}

/// The same for reading. `None`: there is nothing.
fn read_pipe(data: u64, word: u64, address: u64, count: u64) -> Option<(u64, u64)> {
    let (read, written) = positions(word);
    let count = count.min(written.checked_sub(read)?).min(DATA as u64);
    let (start, first) = first_piece(read, count);
    if count == 0 || !host::copy(address, data + start, first) || !host::copy(address + first, data, count - first) {
        return None;
    }
    Some((count, read + count << READ | written))
}

fn positions(word: u64) -> (u64, u64) {
    ((word & VALUE) >> READ, word & WRITTEN)
}

/// Where in the data the position is, and how many of `count` bytes lie from there on; the rest is at the beginning.
fn first_piece(position: u64, count: u64) -> (u64, u64) {
    let start = position % DATA as u64;
    (start, count.min(DATA as u64 - start))
}
