//! Reading of sockets whose bytes the sentry has lent (ADR 44).
//!
//! With the answer to epoll_wait(2) comes what lies ready in the streams that it tells of. read(2) and recv(2) take it from the
//! channel; how much was taken is one word there. Whoever else looks at the stream in the sentry takes the loan back before,
//! by exchanging the word: then nothing is read here any more.
//!
//! Nothing here is a wall: a program that writes other things there harms what itself reads.

use crate::host::{self, number, HIGHEST};
use crate::layout::streams::{DATA, MOST, READ, VALID};
use crate::thread::ThreadBlock;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const MSG_DONTWAIT: u64 = 0x40;
const MSG_NOSIGNAL: u64 = 0x4000;

/// The result of a call that reads what is lent.
#[inline(always)]
pub fn try_read(thread: &mut ThreadBlock, call_number: u64, arguments: &[u64; 6]) -> Option<i64> {
    if thread.has_streams == 0 {
        return None;
    }
    let [descriptor, address, count, flags, source, _] = *arguments;
    match call_number {
        number::READ => {}
        number::RECVFROM if flags & 0xffff_ffff & !(MSG_DONTWAIT | MSG_NOSIGNAL) == 0 && source == 0 => {}
        _ => return None,
    }
    if address > HIGHEST || count == 0 {
        return None;
    }
    read(thread, descriptor & 0xffff_ffff, address, count)
}

#[inline(never)]
fn read(thread: &mut ThreadBlock, descriptor: u64, address: u64, count: u64) -> Option<i64> {
    let channel = thread.channel();
    // SAFETY: within the channel, which is mapped as long as the thread lives; accessed atomically.
    let answers = unsafe { AtomicU32::from_ptr(&raw mut (*channel).local.enabled) };
    if answers.load(Ordering::Acquire) == 0 {
        return None;
    }
    let mut stands = false;
    // They are read in the order in which they were told, most often.
    let first = thread.has_streams as usize - 1;
    for step in 0..MOST {
        let index = (first + step) % MOST;
        // SAFETY: as above; what is beside the word only the sentry writes, before the answer that lends.
        let (word, stream) = unsafe {
            let stream = &raw mut (*channel).streams.streams[index];
            (AtomicU64::from_ptr(&raw mut (*stream).word), core::ptr::read_volatile(stream))
        };
        let before = word.load(Ordering::Acquire);
        if before & VALID == 0 {
            continue;
        }
        stands = true;
        if u64::from(stream.descriptor) != descriptor {
            continue;
        }
        let start = u64::from(stream.start).min(DATA as u64);
        let left = u64::from(stream.length).min(DATA as u64 - start).saturating_sub(before & READ);
        let wanted = count.min(left);
        // SAFETY: only an address is made.
        let data = unsafe { &raw const (*channel).streams.data as u64 };
        if wanted == 0 || !host::copy(address, data + start + (before & READ), wanted) {
            return None;
        }
        thread.has_streams = index as u64 + 1;
        let taken = word.compare_exchange(before, before + wanted, Ordering::AcqRel, Ordering::Relaxed);
        return taken.is_ok().then_some(wanted as i64);
    }
    thread.has_streams = u64::from(stands);
    None
}
