//! inotify(7): events on files, as descriptors.
//!
//! An [`Inotify`] has its watches by number; each [`Watch`] hangs on an inode in the kernel's registry
//! ([`crate::fs::notify`]). Lock order: `Inotify::state` > wait queues; the registry is called with it released.

use crate::fs::file::{Events, FileOperations, OpenFile};
use crate::fs::inode::{Inode, Metadata};
use crate::fs::notify::{NotifyMask, Watcher};
use crate::fs::path::same_inode;
use crate::sync::WaitQueue;
use crate::{Context, Errno, Kernel, Result};
use parking_lot::Mutex;
use skerry_abi::raw::ioctl::FIONREAD;
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

pub const IN_ALL_EVENTS: u32 = 0xfff;
pub const IN_Q_OVERFLOW: u32 = 0x4000;
pub const IN_IGNORED: u32 = 0x8000;
pub const IN_ONLYDIR: u32 = 0x0100_0000;
pub const IN_DONT_FOLLOW: u32 = 0x0200_0000;
pub const IN_EXCL_UNLINK: u32 = 0x0400_0000;
pub const IN_MASK_CREATE: u32 = 0x1000_0000;
pub const IN_MASK_ADD: u32 = 0x2000_0000;
pub const IN_ISDIR: u32 = 0x4000_0000;
pub const IN_ONESHOT: u32 = 0x8000_0000;
/// Always told.
const UNASKED: u32 = NotifyMask::UNMOUNT.bits() | IN_IGNORED | IN_Q_OVERFLOW;

/// /proc/sys/fs/inotify: max_queued_events, max_user_instances, max_user_watches.
const MOST_QUEUED: usize = 16384;
const MOST_INSTANCES: usize = 128;
const MOST_WATCHES: usize = 65536;

/// `struct inotify_event` without the name.
const HEADER_SIZE: usize = 16;

/// What all instances of a sandbox share.
#[derive(Default)]
pub struct InotifyLimits {
    instances: AtomicUsize,
    watches: AtomicUsize,
}

/// An instance.
pub struct Inotify {
    this: Weak<Inotify>,
    kernel: Weak<Kernel>,
    limits: Arc<InotifyLimits>,
    state: Mutex<State>,
    queue: WaitQueue,
}

#[derive(Default)]
struct State {
    last_number: i32,
    watches: BTreeMap<i32, Arc<Watch>>,
    events: VecDeque<Event>,
    /// Bytes that all events take in a read.
    bytes: usize,
}

/// One watched inode.
pub struct Watch {
    number: i32,
    inode: Arc<dyn Inode>,
    mask: Mutex<u32>,
    owner: Weak<Inotify>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    watch: i32,
    mask: u32,
    cookie: u32,
    name: Vec<u8>,
}

impl Event {
    /// With its zero, in whole headers' sizes.
    fn name_size(&self) -> usize {
        if self.name.is_empty() {
            0
        } else {
            (self.name.len() + 1).next_multiple_of(HEADER_SIZE)
        }
    }

    fn size(&self) -> usize {
        HEADER_SIZE + self.name_size()
    }

    /// `target` has [`Event::size`] bytes.
    fn encode(&self, target: &mut [u8]) {
        let header = [self.watch as u32, self.mask, self.cookie, self.name_size() as u32];
        target.fill(0);
        for (place, word) in target.chunks_exact_mut(4).zip(header) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        for (place, byte) in target.iter_mut().skip(HEADER_SIZE).zip(&self.name) {
            *place = *byte;
        }
    }
}

impl State {
    fn push(&mut self, event: Event) {
        // The same again before it was read is told once.
        if self.events.back() == Some(&event) {
            return;
        }
        let event = match self.events.len().cmp(&MOST_QUEUED) {
            std::cmp::Ordering::Less => event,
            std::cmp::Ordering::Equal => Event { watch: -1, mask: IN_Q_OVERFLOW, cookie: 0, name: Vec::new() },
            std::cmp::Ordering::Greater => return,
        };
        self.bytes += event.size();
        self.events.push_back(event);
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while let Some(event) = self.events.front() {
            let size = event.size();
            let Some(target) = buffer.get_mut(filled..filled + size) else { break };
            event.encode(target);
            filled += size;
            self.bytes -= size;
            self.events.pop_front();
        }
        match (filled, self.events.is_empty()) {
            (0, true) => Err(Errno::EAGAIN),
            (0, false) => Err(Errno::EINVAL),
            _ => Ok(filled),
        }
    }

    fn find(&self, inode: &Arc<dyn Inode>) -> Option<Arc<Watch>> {
        self.watches.values().find(|watch| same_inode(&watch.inode, inode)).cloned()
    }
}

impl Inotify {
    /// EMFILE where the sandbox has too many.
    pub fn new(kernel: &Arc<Kernel>) -> Result<Arc<Inotify>> {
        let limits = kernel.inotify_limits.clone();
        if limits.instances.fetch_add(1, Ordering::Relaxed) >= MOST_INSTANCES {
            limits.instances.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::EMFILE);
        }
        Ok(Arc::new_cyclic(|this| Inotify {
            this: this.clone(),
            kernel: Arc::downgrade(kernel),
            limits,
            state: Mutex::default(),
            queue: WaitQueue::new(),
        }))
    }

    /// inotify_add_watch(2) on an inode that the caller may read: the watch's number. EEXIST (IN_MASK_CREATE), ENOSPC.
    pub fn add_watch(&self, kernel: &Kernel, inode: &Arc<dyn Inode>, mask: u32) -> Result<i32> {
        let kept = mask & (IN_ALL_EVENTS | IN_ONESHOT | IN_EXCL_UNLINK);
        let watch = {
            let mut state = self.state.lock();
            if let Some(watch) = state.find(inode) {
                if mask & IN_MASK_CREATE != 0 {
                    return Err(Errno::EEXIST);
                }
                let mut present = watch.mask.lock();
                *present = if mask & IN_MASK_ADD != 0 { *present | kept } else { kept };
                return Ok(watch.number);
            }
            if self.limits.watches.fetch_add(1, Ordering::Relaxed) >= MOST_WATCHES {
                self.limits.watches.fetch_sub(1, Ordering::Relaxed);
                return Err(Errno::ENOSPC);
            }
            // Numbers are not used again until they run out.
            let mut number = state.last_number;
            loop {
                number = if number == i32::MAX { 1 } else { number + 1 };
                if !state.watches.contains_key(&number) {
                    break;
                }
            }
            state.last_number = number;
            let watch = Arc::new(Watch { number, inode: inode.clone(), mask: Mutex::new(kept), owner: self.this.clone() });
            state.watches.insert(number, watch.clone());
            watch
        };
        let number = watch.number;
        kernel.watches.watch(inode, watch);
        if let Some(direct) = kernel.direct_registry() {
            direct.clear_watched(inode);
        }
        Ok(number)
    }

    /// inotify_rm_watch(2): IN_IGNORED follows. EINVAL.
    pub fn remove_watch(&self, number: i32) -> Result<()> {
        let watch = {
            let mut state = self.state.lock();
            let watch = state.watches.remove(&number).ok_or(Errno::EINVAL)?;
            state.push(Event { watch: number, mask: IN_IGNORED, cookie: 0, name: Vec::new() });
            watch
        };
        self.release(watch);
        self.queue.wake_all();
        Ok(())
    }

    /// Takes a watch that is in no list any more off its inode.
    fn release(&self, watch: Arc<Watch>) {
        self.limits.watches.fetch_sub(1, Ordering::Relaxed);
        if let Some(kernel) = self.kernel.upgrade() {
            let inode = watch.inode.clone();
            let watcher: Arc<dyn Watcher> = watch;
            kernel.watches.unwatch(&inode, &watcher);
        }
    }
}

impl Watcher for Watch {
    fn event(&self, mask: NotifyMask, name: &[u8], cookie: u32) {
        let Some(owner) = self.owner.upgrade() else { return };
        let wanted = *self.mask.lock();
        if mask.contains(NotifyMask::UNLINKED_CHILD) && wanted & IN_EXCL_UNLINK != 0 {
            return;
        }
        let mask = mask.difference(NotifyMask::UNLINKED_CHILD);
        if mask.bits() & (wanted & IN_ALL_EVENTS | UNASKED) == 0 && !mask.contains(NotifyMask::DELETE_SELF) {
            return;
        }
        // The inode is going: no more can come.
        let is_last = mask.intersects(NotifyMask::DELETE_SELF | NotifyMask::UNMOUNT) || wanted & IN_ONESHOT != 0;
        let removed = {
            let mut state = owner.state.lock();
            if !state.watches.contains_key(&self.number) {
                return;
            }
            if mask.bits() & (wanted & IN_ALL_EVENTS | UNASKED) != 0 {
                state.push(Event { watch: self.number, mask: mask.bits(), cookie, name: name.to_vec() });
            }
            if is_last {
                state.push(Event { watch: self.number, mask: IN_IGNORED, cookie: 0, name: Vec::new() });
                state.watches.remove(&self.number)
            } else {
                None
            }
        };
        if let Some(watch) = removed {
            owner.release(watch);
        }
        owner.queue.wake_all();
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        self.limits.instances.fetch_sub(1, Ordering::Relaxed);
        for watch in std::mem::take(&mut self.state.get_mut().watches).into_values() {
            self.release(watch);
        }
    }
}

impl FileOperations for Inotify {
    fn read(&self, _file: &OpenFile, buffer: &mut [u8], _offset: u64) -> Result<usize> {
        self.state.lock().read(buffer)
    }

    fn poll(&self) -> Events {
        if self.state.lock().events.is_empty() {
            Events::empty()
        } else {
            Events::IN | Events::RDNORM
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(super::anonymous_metadata())
    }

    fn ioctl(&self, context: &mut Context, _file: &OpenFile, request: u32, argument: u64) -> Result<u64> {
        match request {
            FIONREAD => {
                let bytes = self.state.lock().bytes as i32;
                context.write(argument, &bytes)?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn fdinfo(&self) -> String {
        let mut text = String::new();
        for watch in self.state.lock().watches.values() {
            let Ok(metadata) = watch.inode.metadata() else { continue };
            let _ = writeln!(
                text,
                "inotify wd:{:x} ino:{:x} sdev:{:x} mask:{:x} ignored_mask:0",
                watch.number,
                metadata.inode,
                metadata.device.encode(),
                *watch.mask.lock()
            );
        }
        text
    }

    fn anonymous_name(&self) -> String {
        "anon_inode:inotify".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(watch: i32, name: &[u8]) -> Event {
        Event { watch, mask: 0x100, cookie: 0, name: name.to_vec() }
    }

    #[test]
    fn events_are_whole_padded_and_told_once() {
        let mut state = State::default();
        state.push(event(1, b"name"));
        state.push(event(1, b"name"));
        state.push(event(2, b""));
        assert_eq!(state.bytes, 48);
        assert_eq!(state.read(&mut [0; 31]), Err(Errno::EINVAL));
        let mut buffer = [0xff; 40];
        assert_eq!(state.read(&mut buffer), Ok(32));
        assert_eq!(buffer[..16], [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0]);
        assert_eq!(&buffer[16..32], b"name\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(state.read(&mut buffer), Ok(16));
        assert_eq!(state.read(&mut buffer), Err(Errno::EAGAIN));
        assert_eq!(state.bytes, 0);
    }

    #[test]
    fn the_queue_overflows_once() {
        let mut state = State::default();
        for number in 0..20_000 {
            state.push(event(number, b""));
        }
        assert_eq!(state.events.len(), MOST_QUEUED + 1);
        assert_eq!(state.events.back().map(|event| (event.watch, event.mask)), Some((-1, IN_Q_OVERFLOW)));
    }
}
