//! Mappings that were made before the program asked for them.
//!
//! The dynamic linker maps a library whole, and then one segment after the other over that. The sentry, which sees the first of
//! these calls, knows the others from the file's headers, has all of it mapped at once, and says what to expect. Each of
//! the calls that follow has its result here, as long as they are these, and nothing else has happened in between.

use crate::layout::MAXIMUM_EXPECTED;
use crate::thread::ThreadBlock;

/// What a thread is about to map, and has mapped.
#[repr(C)]
pub struct Expected {
    /// How many of `calls` there are, and have been made.
    count: u32,
    done: u32,
    /// Arguments of mmap(2).
    calls: [[u64; 6]; MAXIMUM_EXPECTED],
}

/// One more is expected, behind those that are.
pub fn add(thread: &mut ThreadBlock, arguments: &[u64; 6]) {
    let expected = &mut thread.expected;
    if let Some(place) = expected.calls.get_mut(expected.count as usize) {
        *place = *arguments;
        expected.count += 1;
    }
}

/// Nothing is expected any more.
#[inline(always)]
pub fn forget(thread: &mut ThreadBlock) {
    (thread.expected.count, thread.expected.done) = (0, 0);
}

/// The result of an mmap(2) that was expected.
pub fn take(thread: &mut ThreadBlock, arguments: &[u64; 6]) -> Option<i64> {
    let expected = &mut thread.expected;
    let (count, done) = ((expected.count as usize).min(MAXIMUM_EXPECTED), expected.done as usize);
    let next = expected.calls[..count].get(done)?;
    // Of the protection, the flags and the descriptor the host takes 32 bits.
    let is_same = |index: usize| match index {
        2..=4 => next[index] as u32 == arguments[index] as u32,
        _ => next[index] == arguments[index],
    };
    if !(0..6).all(is_same) {
        return None;
    }
    expected.done += 1;
    Some(arguments[0] as i64)
}
