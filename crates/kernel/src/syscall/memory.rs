//! Memory: what needs the guest kernel. Anonymous mappings, munmap(2), mprotect(2) and the like are served by the host
//! straight from the stub; what comes here is mappings of files, the heap's end, and what is out of the ordinary.

use super::UserAddress;
use crate::context::Continuation;
use crate::fs::file::MappingRequest;
use crate::fs::file::OpenFile;
use crate::fs::host_file::HostFile;
use crate::fs::mount::MountFlags;
use crate::run::program::{Executable, Image, Segment};
use crate::run::{AddressSpace, Brk, PlainCode};
use crate::task::Task;
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_platform::engine::NativeCall;
use skerry_platform::layout::{RESERVED_END, STUB_BASE};
use std::sync::atomic::Ordering;
use std::sync::Arc;

const PAGE: u64 = 4096;
pub(super) const ADDRESS_END: u64 = 0x7fff_ffff_f000;

/// Notes where code lies that may be patched later; its addresses count from where the host puts the mapping.
fn remember_plain_code(plain: Vec<PlainCode>, space: Arc<AddressSpace>) -> Continuation {
    Box::new(move |_, result| {
        if result < 0 {
            return Err(Errno(-result as i32));
        }
        for code in plain {
            space.add_plain_code(PlainCode { address: code.address.wrapping_add(result as u64), ..code });
        }
        Ok(result as u64)
    })
}

/// The segments that the dynamic linker is about to map over the mapping of `file` that a call asks for. Only where nobody sees
/// that they are there before, and nobody else can do anything in between.
fn segments_behind(context: &Context, file: &Arc<OpenFile>, is_code_allowed: bool) -> Option<Vec<Segment>> {
    let [address, length, protection, flags, _, offset] = context.call.arguments;
    let expected = u64::from(linux::MAP_PRIVATE | linux::MAP_DENYWRITE);
    let is_alone = || context.task.address_space().is_some_and(|space| space.has_one_thread());
    let may_be = context.kernel().lending.load(Ordering::Relaxed) && is_code_allowed && !context.task.is_watched();
    if flags as u32 != expected as u32 || address != 0 || !may_be || !is_alone() {
        return None;
    }
    Image::parse(&Executable::new(file.clone()).ok()?).ok()?.segments_behind(offset, length, protection)
}

/// mmap(2) of a file (and of anonymous memory with flags that the stub does not know).
pub fn mmap(
    context: &mut Context,
    address: u64,
    length: u64,
    protection: u32,
    flags: u32,
    fd: i32,
    offset: u64,
) -> Result<u64> {
    const SYNC: u32 = 0x8_0000;
    /// MAP_TYPE, and all flags from MAP_FIXED to MAP_FIXED_NOREPLACE that have a meaning, with the sizes of huge pages.
    const KNOWN: u32 = 0xfc1f_f97f;
    // Unknown bits are passed over, as by Linux.
    let protection = protection & (linux::PROT_READ | linux::PROT_WRITE | linux::PROT_EXEC);
    let kind = flags & linux::MAP_TYPE;
    // A wrong descriptor is found before any wrong argument.
    let file = if flags & linux::MAP_ANONYMOUS == 0 { Some(context.file(fd)?) } else { None };
    let shared = matches!(kind, linux::MAP_SHARED | linux::MAP_SHARED_VALIDATE);
    if length == 0 || offset % PAGE != 0 || !(shared || kind == linux::MAP_PRIVATE) {
        return Err(Errno::EINVAL);
    }
    let length = length.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?;
    let fixed = flags & (linux::MAP_FIXED | linux::MAP_FIXED_NOREPLACE) != 0;
    if fixed && address % PAGE != 0 {
        return Err(Errno::EINVAL);
    }
    let end = address.checked_add(length).ok_or(Errno::ENOMEM)?;
    if length > ADDRESS_END || fixed && (end > ADDRESS_END || address < RESERVED_END && end > STUB_BASE) {
        return Err(Errno::ENOMEM);
    }
    if flags & linux::MAP_HUGETLB != 0 {
        // No huge pages are reserved in a sandbox.
        return Err(Errno::ENOMEM);
    }
    if kind == linux::MAP_SHARED_VALIDATE && (flags & SYNC != 0 || flags & !KNOWN != 0) {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut host_flags = flags
        & (linux::MAP_FIXED
            | linux::MAP_FIXED_NOREPLACE
            | linux::MAP_NORESERVE
            | linux::MAP_POPULATE
            | linux::MAP_NONBLOCK
            | linux::MAP_32BIT
            | linux::MAP_STACK);
    host_flags |= if shared { linux::MAP_SHARED } else { linux::MAP_PRIVATE };
    let hint = if !fixed && address < RESERVED_END && end > STUB_BASE { 0 } else { address };
    let Some(file) = file else {
        host_flags |= linux::MAP_ANONYMOUS;
        let arguments = [hint, length, protection.into(), host_flags.into(), u64::MAX, 0];
        return context.run_native(vec![NativeCall::new(linux::__NR_mmap, arguments)], None);
    };
    offset.checked_add(length).ok_or(Errno::EOVERFLOW)?;
    let wants_write = protection & linux::PROT_WRITE != 0;
    if !file.is_readable() || shared && wants_write && !file.is_writable() {
        return Err(Errno::EACCES);
    }
    let may_execute = file.path.as_ref().is_none_or(|path| !path.mount.flags().contains(MountFlags::NOEXEC));
    if protection & linux::PROT_EXEC != 0 && !may_execute {
        return Err(Errno::EPERM);
    }
    // A shared mapping of a writable file may become writable later.
    let request = MappingRequest { shared, writable: shared && file.is_writable(), offset, length };
    if context.kernel().maps_copies() && file.downcast::<HostFile>().is_some() {
        // Of the caller's own files there is no copy: they may be read.
        return Err(Errno::ENODEV);
    }
    let descriptor = file.operations.mapping_descriptor(request)?;
    if let Some(path) = &file.path {
        context.kernel().mapped_names.remember(&descriptor, path, context.kernel());
    }
    let arguments = [hint, length, protection.into(), host_flags.into(), 0, offset];
    let mut calls = vec![NativeCall::with_descriptor(linux::__NR_mmap, arguments, 4, descriptor)];
    // A static program that maps the code of others reads and translates it (Valgrind): it gets what the file has.
    let links = context.process().program.read().has_interpreter;
    let may_have_image = !shared && links;
    let images = &context.kernel().images;
    let mut plain = Vec::new();
    let mut lay_over = |segment: &Segment, calls: &mut Vec<NativeCall>| {
        let Segment { start, length, protection, offset } = *segment;
        if may_have_image && protection & u64::from(linux::PROT_EXEC | linux::PROT_WRITE) == u64::from(linux::PROT_EXEC) {
            let first = calls.len();
            let file = images.lay_over(&*file.operations, (offset, length), protection, calls);
            calls[first..].iter_mut().for_each(|call| call.arguments[0] += start);
            plain.extend(file.map(|file| PlainCode { file, address: start, offset, length, protection }));
        }
    };
    lay_over(&Segment { start: 0, length, protection: protection.into(), offset }, &mut calls);
    let ahead = if may_have_image { segments_behind(context, &file, may_execute) } else { None };
    for segment in ahead.unwrap_or_default() {
        let Segment { start, length, protection, offset } = segment;
        let request = MappingRequest { shared: false, writable: false, offset, length };
        let Ok(descriptor) = file.operations.mapping_descriptor(request) else { break };
        let flags = linux::MAP_PRIVATE | linux::MAP_FIXED;
        let arguments = [start, length, protection, flags.into(), 0, offset];
        calls.push(NativeCall::over_last(linux::__NR_mmap, arguments, 4, descriptor));
        lay_over(&segment, &mut calls);
        let expected = [start, length, protection, (flags | linux::MAP_DENYWRITE).into(), fd as u32 as u64, offset];
        calls.push(NativeCall::expect(expected));
    }
    let then = match context.task.address_space() {
        Some(space) if !plain.is_empty() => Some(remember_plain_code(plain, space)),
        _ => None,
    };
    context.run_native(calls, then)
}

/// brk(2): the new end, or the old one where the heap cannot be as asked.
pub fn brk(context: &mut Context, wanted: u64) -> Result<u64> {
    let space = context.task.address_space().ok_or(Errno::ENOMEM)?;
    let brk = space.heap(context.task);
    let limit = context.process().rlimit(linux::RLIMIT_DATA).current;
    let (old_end, new_end) = (page_up(brk.current), page_up(wanted));
    if wanted < brk.start || wanted >= STUB_BASE || wanted - brk.start > limit {
        return Ok(brk.current);
    }
    // Only its stub knows better where the heap ends, and only as long as nobody else can move that.
    let moves_to = move |task: &Task, space: &AddressSpace, end| {
        let heap = Brk { current: end, ..brk };
        *space.brk.lock() = heap;
        task.tell_heap(space.has_one_thread().then_some(heap));
    };
    moves_to(context.task, &space, wanted);
    if new_end == old_end {
        return Ok(wanted);
    }
    let keep: Continuation = Box::new(move |context, result| {
        if result < 0 {
            moves_to(context.task, &space, brk.current);
            return Ok(brk.current);
        }
        Ok(wanted)
    });
    let call = if new_end > old_end {
        let flags = linux::MAP_PRIVATE | linux::MAP_ANONYMOUS | linux::MAP_FIXED_NOREPLACE;
        let protection = linux::PROT_READ | linux::PROT_WRITE;
        NativeCall::new(linux::__NR_mmap, [old_end, new_end - old_end, protection.into(), flags.into(), u64::MAX, 0])
    } else {
        NativeCall::new(linux::__NR_munmap, [new_end, old_end - new_end, 0, 0, 0, 0])
    };
    context.run_native_for(vec![call], wanted, keep)
}

fn page_up(address: u64) -> u64 {
    address.div_ceil(PAGE).saturating_mul(PAGE)
}

/// madvise(2) with advice that the stub passes on: MADV_REMOVE on shared memory is not supported.
pub fn madvise(_context: &mut Context, _address: u64, _length: u64, _advice: i32) -> Result<()> {
    Err(Errno::EINVAL)
}

/// msync(2). What is mapped is the host's pages of the file, so that there is nothing to do but to have them written: the host
/// trees that are written, all of them, as who asks for it and closes the file first is not to be told apart.
pub fn msync(context: &mut Context, address: u64, length: u64, flags: u32) -> Result<()> {
    let both = linux::MS_ASYNC | linux::MS_SYNC;
    if flags & !(both | linux::MS_INVALIDATE) != 0 || flags & both == both || address % PAGE != 0 {
        return Err(Errno::EINVAL);
    }
    let length = length.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?;
    let end = address.checked_add(length).filter(|end| *end <= ADDRESS_END).ok_or(Errno::ENOMEM)?;
    if !context.memory().is_mapped(address, end) {
        return Err(Errno::ENOMEM);
    }
    if flags & linux::MS_SYNC != 0 {
        super::data::sync(context)?;
    }
    Ok(())
}

/// mincore(2): every page of a mapping is said to be resident; which host pages are is not the guest's to know.
pub fn mincore(context: &mut Context, address: u64, length: u64, vector: UserAddress) -> Result<()> {
    if address % PAGE != 0 {
        return Err(Errno::EINVAL);
    }
    let end = address.checked_add(length).filter(|end| *end <= ADDRESS_END).ok_or(Errno::ENOMEM)?;
    let pages = length.div_ceil(PAGE);
    if !context.memory().is_mapped(address, end) {
        return Err(Errno::ENOMEM);
    }
    let ones = [1u8; 4096];
    let mut done = 0;
    while done < pages {
        let count = (pages - done).min(4096);
        context.write_bytes(vector.0.checked_add(done).ok_or(Errno::EFAULT)?, &ones[..count as usize])?;
        done += count;
    }
    Ok(())
}

/// futex(2) operations that the host must not serve for the guest (priority inheritance), and unknown ones.
pub fn futex(_context: &mut Context, _address: u64, _operation: i32) -> Result<()> {
    Err(Errno::ENOSYS)
}

/// Calls that the stub serves without asking; here only for arguments that it does not take.
pub fn served_by_the_stub(_context: &mut Context) -> Result<()> {
    Err(Errno::EINVAL)
}
