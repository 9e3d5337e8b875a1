//! A process's memory, for those who may look into it: read and written whatever its protection, as breakpoints are written
//! over code (ptrace(2), PTRACE_POKETEXT; proc_pid_mem(5)). A private mapping gets its own copy.

use crate::{Errno, Result};
use skerry_platform::layout::{RESERVED_END, STUB_BASE};
use skerry_platform::memory::GuestMemory;

/// What is ours in a process is not there for anybody else.
fn is_guests(address: u64, length: usize) -> bool {
    let end = address.checked_add(length as u64);
    end.is_some_and(|end| end <= STUB_BASE || address >= RESERVED_END)
}

/// How much could be read. EIO: nothing, as it is not mapped.
pub(crate) fn read(memory: &GuestMemory, address: u64, bytes: &mut [u8]) -> Result<usize> {
    let count = if is_guests(address, bytes.len()) { memory.read_whatever(address, bytes) } else { 0 };
    if count == 0 && !bytes.is_empty() {
        return Err(Errno::EIO);
    }
    Ok(count)
}

/// How much could be written. EIO: nothing, as it is not mapped, or a file's that cannot be written.
pub(crate) fn write(memory: &GuestMemory, address: u64, bytes: &[u8]) -> Result<usize> {
    let count = if is_guests(address, bytes.len()) { memory.write_whatever(address, bytes) } else { 0 };
    if count == 0 && !bytes.is_empty() {
        return Err(Errno::EIO);
    }
    Ok(count)
}

/// A word, or EIO.
pub(crate) fn read_word(memory: &GuestMemory, address: u64) -> Result<u64> {
    let mut word = [0; 8];
    match read(memory, address, &mut word)? {
        8 => Ok(u64::from_ne_bytes(word)),
        _ => Err(Errno::EIO),
    }
}

/// As [`read_word`].
pub(crate) fn write_word(memory: &GuestMemory, address: u64, word: u64) -> Result<()> {
    match write(memory, address, &word.to_ne_bytes())? {
        8 => Ok(()),
        _ => Err(Errno::EIO),
    }
}
