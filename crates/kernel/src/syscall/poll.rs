//! poll(2), ppoll(2), select(2), pselect6(2).

use super::UserAddress;
use crate::event::poll::{self, Interest, Timeout};
use crate::fs::file::{Events, StatusFlags};
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_abi::signal::SignalSet;
use skerry_abi::structs::{PollFd, TimeSpec, TimeVal};

/// The most descriptors that a table can hold; what is over it cannot be open.
const MOST_DESCRIPTORS: usize = 1 << 20;

/// Makes `mask` the task's signal mask (EINVAL where `size` is not that of a set) while `call` runs. Where a signal ends
/// the call, the mask stays until the signal's handler has been set up, as sigsuspend(2) needs it too.
pub(super) fn with_mask<T>(
    context: &mut Context,
    mask: UserAddress,
    size: u64,
    call: impl FnOnce(&mut Context) -> Result<T>,
) -> Result<T> {
    let Some(address) = mask.non_null() else { return call(context) };
    if size != size_of::<SignalSet>() as u64 {
        return Err(Errno::EINVAL);
    }
    let set: SignalSet = context.read(address)?;
    crate::signal::set_temporary_mask(context, set);
    let result = call(context);
    let interrupted = matches!(result, Err(Errno::EINTR | Errno::ERESTARTSYS | Errno::ERESTARTNOHAND));
    if !interrupted {
        // At once: a signal that only the call's own mask let through stays pending.
        let before = context.task.signals.lock().saved_mask.take();
        if let Some(before) = before {
            crate::signal::set_blocked(context.task, before);
        }
    }
    result
}

/// The events that end a poll(2): those asked for, and errors.
fn accepted(events: i16) -> Events {
    Events::from_bits_truncate(u32::from(events as u16)).difference(Events::NVAL) | Events::ERR | Events::HUP
}

fn poll_descriptors(context: &mut Context, address: UserAddress, count: u32, timeout: Timeout) -> Result<usize> {
    let limit = context.process().rlimit(linux::RLIMIT_NOFILE).current.min(MOST_DESCRIPTORS as u64);
    if u64::from(count) > limit {
        return Err(Errno::EINVAL);
    }
    let mut descriptors: Vec<PollFd> = context.read_array(address.0, count as usize)?;
    let files = context.task.files();
    let mut interests: Vec<Interest> = descriptors
        .iter()
        .map(|descriptor| {
            if descriptor.fd < 0 {
                return Interest::answered(Events::empty());
            }
            match files.get(descriptor.fd) {
                Ok(file) if !file.flags().contains(StatusFlags::PATH) => Interest::new(file, accepted(descriptor.events)),
                _ => Interest::answered(Events::NVAL),
            }
        })
        .collect();
    let ready = poll::wait(context, &mut interests, timeout)?;
    for (descriptor, interest) in descriptors.iter_mut().zip(&interests) {
        descriptor.revents = interest.ready.bits() as i16;
    }
    context.write(address.0, descriptors.as_slice())?;
    Ok(ready)
}

/// poll(2): `timeout_ms` below 0 waits for ever. EINTR on a signal with a handler; after a stop it goes on for the rest.
pub fn poll(context: &mut Context, descriptors: UserAddress, count: u32, timeout_ms: i32) -> Result<usize> {
    let timeout = match u64::try_from(timeout_ms) {
        Err(_) => Timeout::Never,
        Ok(ms) => Timeout::after(ms * 1_000_000),
    };
    restartable_poll(context, descriptors, count, timeout)
}

fn restartable_poll(context: &mut Context, descriptors: UserAddress, count: u32, timeout: Timeout) -> Result<usize> {
    match (poll_descriptors(context, descriptors, count, timeout), timeout) {
        (Err(Errno::ERESTARTSYS), Timeout::At(_)) => {
            *context.task.restart.lock() =
                Some(Box::new(move |context| restartable_poll(context, descriptors, count, timeout).map(|ready| ready as u64)));
            Err(Errno::ERESTART_RESTARTBLOCK)
        }
        (Err(Errno::ERESTARTSYS), _) => Err(Errno::ERESTARTNOHAND),
        (other, _) => other,
    }
}

/// ppoll(2): the time left is written back.
pub fn ppoll(
    context: &mut Context,
    descriptors: UserAddress,
    count: u32,
    timeout: UserAddress,
    mask: UserAddress,
    mask_size: u64,
) -> Result<usize> {
    let limit = timespec_timeout(context, timeout)?;
    let result = with_mask(context, mask, mask_size, |context| {
        poll_descriptors(context, descriptors, count, limit).map_err(no_restart_with_handler)
    });
    write_back_timespec(context, timeout, limit);
    result
}

fn no_restart_with_handler(error: Errno) -> Errno {
    if error == Errno::ERESTARTSYS {
        Errno::ERESTARTNOHAND
    } else {
        error
    }
}

/// Null: for ever. EFAULT; EINVAL where it is no valid time.
pub(super) fn timespec_timeout(context: &Context, address: UserAddress) -> Result<Timeout> {
    match address.non_null() {
        None => Ok(Timeout::Never),
        Some(address) => {
            let time: TimeSpec = context.read(address)?;
            Ok(Timeout::after(time.to_nanos().ok_or(Errno::EINVAL)?))
        }
    }
}

/// Failure is not told: a timeout in read-only memory is the caller's right (select(2), "The timeout").
fn write_back_timespec(context: &Context, address: UserAddress, timeout: Timeout) {
    if let (Some(address), Timeout::At(_)) = (address.non_null(), timeout) {
        let _ = context.write(address, &TimeSpec::from_nanos(timeout.remaining_nanos()));
    }
}

/// The three sets of select(2).
const READ_SET: Events = Events::IN.union(Events::RDNORM).union(Events::RDBAND).union(Events::HUP).union(Events::ERR);
const WRITE_SET: Events = Events::OUT.union(Events::WRNORM).union(Events::WRBAND).union(Events::ERR);
const EXCEPT_SET: Events = Events::PRI;

/// One descriptor set: its address, the bits that came in, and what a set bit asks for.
struct Set {
    address: UserAddress,
    bits: Vec<u64>,
    events: Events,
}

impl Set {
    fn read(context: &Context, address: UserAddress, words: usize, events: Events) -> Result<Set> {
        let bits = match address.non_null() {
            Some(address) => context.read_array(address, words)?,
            None => Vec::new(),
        };
        Ok(Set { address, bits, events })
    }

    fn contains(&self, fd: usize) -> bool {
        self.bits.get(fd / 64).is_some_and(|word| word & (1 << (fd % 64)) != 0)
    }
}

fn select_descriptors(
    context: &mut Context,
    count: i32,
    read: UserAddress,
    write: UserAddress,
    except: UserAddress,
    timeout: Timeout,
) -> Result<usize> {
    let mut count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let files = context.task.files();
    if count > 1024 {
        // Linux looks no farther than the descriptor table goes.
        let open = files.descriptors().last().map_or(0, |&fd| fd as usize + 1);
        count = count.min(open.next_multiple_of(64).max(256));
    }
    let words = count.div_ceil(64);
    let mut sets = [
        Set::read(context, read, words, READ_SET)?,
        Set::read(context, write, words, WRITE_SET)?,
        Set::read(context, except, words, EXCEPT_SET)?,
    ];
    let mut descriptors = Vec::new();
    let mut interests = Vec::new();
    for fd in 0..count {
        let mut asked = Events::empty();
        for set in &sets {
            if set.contains(fd) {
                asked |= set.events;
            }
        }
        if asked.is_empty() {
            continue;
        }
        descriptors.push(fd);
        interests.push(Interest::new(context.file(fd as i32)?, asked));
    }
    poll::wait(context, &mut interests, timeout)?;
    let mut total = 0;
    for set in &mut sets {
        let Some(address) = set.address.non_null() else { continue };
        let mut out = vec![0u64; words];
        for (fd, interest) in descriptors.iter().zip(&interests) {
            if set.contains(*fd) && interest.ready.intersects(set.events) {
                if let Some(word) = out.get_mut(fd / 64) {
                    *word |= 1 << (fd % 64);
                    total += 1;
                }
            }
        }
        set.bits = out;
        context.write(address, set.bits.as_slice())?;
    }
    Ok(total)
}

/// select(2): the time left is written back, also when a signal ends it.
pub fn select(
    context: &mut Context,
    count: i32,
    read: UserAddress,
    write: UserAddress,
    except: UserAddress,
    timeout: UserAddress,
) -> Result<usize> {
    let limit = match timeout.non_null() {
        None => Timeout::Never,
        Some(address) => {
            let time: TimeVal = context.read(address)?;
            // More microseconds than a second are carried over here, unlike elsewhere.
            let carried = TimeVal { sec: time.sec.saturating_add(time.usec / 1_000_000), usec: time.usec % 1_000_000 };
            Timeout::after(carried.to_nanos().ok_or(Errno::EINVAL)?)
        }
    };
    let result = select_descriptors(context, count, read, write, except, limit).map_err(no_restart_with_handler);
    if let (Some(address), Timeout::At(_)) = (timeout.non_null(), limit) {
        let _ = context.write(address, &TimeVal::from_nanos(limit.remaining_nanos()));
    }
    result
}

/// pselect6(2): `mask` points to the address and the size of a signal set.
pub fn pselect6(
    context: &mut Context,
    count: i32,
    read: UserAddress,
    write: UserAddress,
    except: UserAddress,
    timeout: UserAddress,
    mask: UserAddress,
) -> Result<usize> {
    let (set, size) = match mask.non_null() {
        Some(address) => {
            let pair: [u64; 2] = context.read(address)?;
            (UserAddress(pair[0]), pair[1])
        }
        None => (UserAddress(0), 0),
    };
    let limit = timespec_timeout(context, timeout)?;
    let result = with_mask(context, set, size, |context| {
        select_descriptors(context, count, read, write, except, limit).map_err(no_restart_with_handler)
    });
    write_back_timespec(context, timeout, limit);
    result
}
