//! POSIX message queues (mq_overview(7)).
//!
//! Queues have names of their own, outside of the tree. Lock order: the names > a queue's state > wait queues; signals
//! are sent with none held.

use crate::fs::file::{Events, FileOperations, OpenFile, StatusFlags};
use crate::fs::inode::{Device, FileType, Metadata};
use crate::net::netlink::NetlinkSocket;
use crate::net::socket::Socket;
use crate::sync::WaitQueue;
use crate::task::{AccessMode, Credentials, Process};
use crate::{Context, Errno, Result};
use parking_lot::Mutex;
use skerry_abi::signal::{Signal, SignalInfo, SI_MESGQ};
use skerry_abi::structs::TimeSpec;
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

/// /proc/sys/fs/mqueue/queues_max.
const QUEUES_MAX: usize = 256;
/// What a process without CAP_SYS_RESOURCE may ask for (msg_max, msgsize_max), and the defaults.
const MSG_MAX: u64 = 10;
const MSGSIZE_MAX: u64 = 8192;
const HARD_MSG_MAX: u64 = 65536;
const HARD_MSGSIZE_MAX: u64 = 16 << 20;
/// What all queues of a sandbox may hold when full.
const MOST_BYTES: u64 = 64 << 20;
/// Priorities are below this (sysconf _SC_MQ_PRIO_MAX).
pub const PRIORITY_MAX: u32 = 32768;
const CAP_SYS_RESOURCE: u32 = 24;

/// A sandbox's queues, by name.
#[derive(Default)]
pub struct Namespace {
    queues: Mutex<BTreeMap<Vec<u8>, Arc<Queue>>>,
    bytes: Arc<AtomicU64>,
}

/// A queue.
pub struct Queue {
    most_messages: u64,
    message_size: u64,
    inode: u64,
    permissions: u32,
    owner: (u32, u32),
    created: TimeSpec,
    state: Mutex<State>,
    wait_queue: WaitQueue,
    bytes: Arc<AtomicU64>,
}

#[derive(Default)]
struct State {
    /// By priority, each in order of arrival.
    messages: BTreeMap<u32, VecDeque<Vec<u8>>>,
    count: u64,
    held_bytes: u64,
    /// Who waits in mq_receive(3): they go before a notification.
    receivers: usize,
    notification: Option<Notification>,
}

struct Notification {
    process: Weak<Process>,
    how: NotifyBy,
}

/// How mq_notify(3) is told.
pub enum NotifyBy {
    /// SIGEV_NONE.
    Nothing,
    /// SIGEV_SIGNAL, with the value.
    Signal(Signal, u64),
    /// SIGEV_THREAD: the C library's own thread waits for the cookie on a netlink socket.
    Socket(Arc<dyn Socket>, [u8; COOKIE_SIZE]),
}

/// What the C library gives along, and what its last byte becomes: the message has come, or the notification is gone.
pub const COOKIE_SIZE: usize = 32;
const COOKIE_WOKEN_UP: u8 = 1;
const COOKIE_REMOVED: u8 = 2;

impl NotifyBy {
    fn send_cookie(&self, state: u8) {
        let NotifyBy::Socket(socket, cookie) = self else { return };
        let Some(netlink) = socket.as_any().downcast_ref::<NetlinkSocket>() else { return };
        let mut cookie = *cookie;
        cookie[COOKIE_SIZE - 1] = state;
        netlink.deliver(cookie.to_vec());
    }
}

/// A queue's size, as mq_open(3) asks for it.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    pub most_messages: i64,
    pub message_size: i64,
}

/// What mq_open(3) is to do where the name is there, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// Open only.
    Never,
    IfMissing,
    /// O_EXCL.
    Always,
}

impl Namespace {
    /// EACCES, EEXIST, ENOENT, EINVAL for bad attributes, ENOSPC, EMFILE (too much memory).
    pub fn open(
        &self,
        context: &Context,
        name: &[u8],
        creation: Creation,
        access: AccessMode,
        permissions: u32,
        attributes: Option<Attributes>,
    ) -> Result<Arc<Queue>> {
        check_name(name)?;
        let credentials = context.task.credentials();
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get(name) {
            if creation == Creation::Always {
                return Err(Errno::EEXIST);
            }
            credentials.check_access(&queue.metadata(), access)?;
            return Ok(queue.clone());
        }
        if creation == Creation::Never {
            return Err(Errno::ENOENT);
        }
        let (most_messages, message_size) = check_attributes(attributes, &credentials)?;
        if queues.len() >= QUEUES_MAX {
            return Err(Errno::ENOSPC);
        }
        let size = most_messages * message_size;
        if self.bytes.fetch_add(size, Ordering::Relaxed) + size > MOST_BYTES {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            return Err(Errno::EMFILE);
        }
        let queue = Arc::new(Queue {
            most_messages,
            message_size,
            inode: context.kernel().anonymous_inodes.next(),
            permissions: permissions & 0o777,
            owner: (credentials.fsuid, credentials.fsgid),
            created: crate::time::realtime_now(),
            state: Mutex::default(),
            wait_queue: WaitQueue::new(),
            bytes: self.bytes.clone(),
        });
        queues.insert(name.to_vec(), queue.clone());
        Ok(queue)
    }

    /// mq_unlink(3): the queue lives on while it is open. ENOENT; EPERM where it is another's (the names are sticky).
    pub fn unlink(&self, name: &[u8], credentials: &Credentials) -> Result<()> {
        check_name(name)?;
        let mut queues = self.queues.lock();
        let queue = queues.get(name).ok_or(Errno::ENOENT)?;
        if !credentials.is_owner_or_capable(queue.owner.0) {
            return Err(Errno::EPERM);
        }
        let removed = queues.remove(name);
        drop(queues);
        drop(removed);
        Ok(())
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    match name {
        b"" => Err(Errno::ENOENT),
        b"." | b".." => Err(Errno::EACCES),
        _ if name.contains(&b'/') => Err(Errno::EACCES),
        _ if name.len() > 255 => Err(Errno::ENAMETOOLONG),
        _ => Ok(()),
    }
}

fn check_attributes(attributes: Option<Attributes>, credentials: &Credentials) -> Result<(u64, u64)> {
    let Some(attributes) = attributes else { return Ok((MSG_MAX, MSGSIZE_MAX)) };
    let (Ok(messages), Ok(size)) = (u64::try_from(attributes.most_messages), u64::try_from(attributes.message_size)) else {
        return Err(Errno::EINVAL);
    };
    let (most_messages, most_size) =
        if credentials.has_capability(CAP_SYS_RESOURCE) { (HARD_MSG_MAX, HARD_MSGSIZE_MAX) } else { (MSG_MAX, MSGSIZE_MAX) };
    if messages == 0 || size == 0 || messages > most_messages || size > most_size {
        return Err(Errno::EINVAL);
    }
    Ok((messages, size))
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.most_messages * self.message_size, Ordering::Relaxed);
    }
}

impl Queue {
    /// (most messages, message size, messages now).
    pub fn attributes(&self) -> (u64, u64, u64) {
        (self.most_messages, self.message_size, self.state.lock().count)
    }

    fn metadata(&self) -> Metadata {
        Metadata {
            device: Device::new(0, 19),
            inode: self.inode,
            kind: FileType::Regular,
            permissions: self.permissions,
            links: 1,
            uid: self.owner.0,
            gid: self.owner.1,
            represents: Device::default(),
            size: 80,
            blocks: 0,
            block_size: 4096,
            accessed: self.created,
            modified: self.created,
            changed: self.created,
            created: None,
        }
    }

    /// mq_timedsend(3). EMSGSIZE, EAGAIN (O_NONBLOCK), ETIMEDOUT, ERESTARTSYS.
    pub fn send(&self, context: &Context, bytes: Vec<u8>, priority: u32, wait: Wait) -> Result<()> {
        if bytes.len() as u64 > self.message_size {
            return Err(Errno::EMSGSIZE);
        }
        let mut bytes = Some(bytes);
        let mut attempt = || {
            let mut state = self.state.lock();
            if state.count >= self.most_messages {
                return Err(Errno::EAGAIN);
            }
            Ok(state.push(bytes.take().unwrap_or_default(), priority))
        };
        let notification = match wait {
            Wait::No => attempt()?,
            Wait::Until(deadline) => context.block_on(&self.wait_queue, deadline, attempt)?,
        };
        self.wait_queue.wake_all();
        let Some(Notification { process, how }) = notification else { return Ok(()) };
        how.send_cookie(COOKIE_WOKEN_UP);
        if let (NotifyBy::Signal(signal, value), Some(process)) = (how, process.upgrade()) {
            let sender = context.task.credentials().ruid;
            process.send_signal(SignalInfo::queue(signal, SI_MESGQ, context.process().pid(), sender, value));
        }
        Ok(())
    }

    /// mq_timedreceive(3): the oldest of the highest priority. EMSGSIZE where `room` is too small, EAGAIN, ETIMEDOUT,
    /// ERESTARTSYS.
    pub fn receive(&self, context: &Context, room: u64, wait: Wait) -> Result<(Vec<u8>, u32)> {
        if room < self.message_size {
            return Err(Errno::EMSGSIZE);
        }
        let taken = match wait {
            Wait::No => self.state.lock().pop()?,
            Wait::Until(deadline) => {
                let mut counted = false;
                let result = context.block_on(&self.wait_queue, deadline, || {
                    let mut state = self.state.lock();
                    let taken = state.pop();
                    if taken.is_err() && !counted {
                        state.receivers += 1;
                        counted = true;
                    }
                    taken
                });
                if counted {
                    self.state.lock().receivers -= 1;
                }
                result?
            }
        };
        self.wait_queue.wake_all();
        Ok(taken)
    }

    /// mq_notify(3): once, when a message comes to the empty queue. EBUSY where somebody waits for that already.
    pub fn notify(&self, process: &Arc<Process>, how: NotifyBy) -> Result<()> {
        let mut state = self.state.lock();
        if state.notification.as_ref().is_some_and(Notification::is_alive) {
            return Err(Errno::EBUSY);
        }
        state.notification = Some(Notification { process: Arc::downgrade(process), how });
        Ok(())
    }

    /// Takes back a process's own notification.
    pub fn stop_notifying(&self, process: &Arc<Process>) {
        let mut state = self.state.lock();
        let own = state.notification.as_ref().is_some_and(|entry| std::ptr::eq(entry.process.as_ptr(), Arc::as_ptr(process)));
        let removed = if own { state.notification.take() } else { None };
        drop(state);
        if let Some(removed) = removed {
            removed.how.send_cookie(COOKIE_REMOVED);
        }
    }
}

/// Whether a call waits.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    No,
    /// `None`: for ever.
    Until(Option<Instant>),
}

impl Notification {
    fn is_alive(&self) -> bool {
        self.process.upgrade().is_some_and(|process| !process.is_dead())
    }
}

impl State {
    /// Returns whom to notify.
    fn push(&mut self, bytes: Vec<u8>, priority: u32) -> Option<Notification> {
        let was_empty = self.count == 0;
        self.count += 1;
        self.held_bytes += bytes.len() as u64;
        self.messages.entry(priority).or_default().push_back(bytes);
        if was_empty && self.receivers == 0 {
            self.notification.take()
        } else {
            None
        }
    }

    fn pop(&mut self) -> Result<(Vec<u8>, u32)> {
        let mut highest = self.messages.last_entry().ok_or(Errno::EAGAIN)?;
        let priority = *highest.key();
        let message = highest.get_mut().pop_front().unwrap_or_default();
        if highest.get().is_empty() {
            highest.remove();
        }
        self.count -= 1;
        self.held_bytes -= message.len() as u64;
        Ok((message, priority))
    }
}

/// An open queue.
pub struct QueueFile {
    pub queue: Arc<Queue>,
}

impl FileOperations for QueueFile {
    fn read(&self, file: &OpenFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
        if file.flags().contains(StatusFlags::WRONLY) {
            return Err(Errno::EBADF);
        }
        let text = self.status();
        let rest = usize::try_from(offset).ok().and_then(|offset| text.as_bytes().get(offset..)).unwrap_or(&[]);
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn poll(&self) -> Events {
        let count = self.queue.state.lock().count;
        let mut events = Events::empty();
        events.set(Events::IN | Events::RDNORM, count > 0);
        events.set(Events::OUT | Events::WRNORM, count < self.queue.most_messages);
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue.wait_queue)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(self.queue.metadata())
    }

    fn anonymous_name(&self) -> String {
        "/mqueue".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl QueueFile {
    fn status(&self) -> String {
        let state = self.queue.state.lock();
        let (notify, signal, pid) = match &state.notification {
            Some(entry) => {
                let pid = entry.process.upgrade().map_or(0, |process| process.pid());
                match &entry.how {
                    NotifyBy::Signal(signal, _) => (0, signal.number(), pid),
                    NotifyBy::Nothing => (1, 0, pid),
                    NotifyBy::Socket(..) => (2, 0, pid),
                }
            }
            None => (0, 0, 0),
        };
        format!("QSIZE:{:<10} NOTIFY:{notify:<5} SIGNO:{signal:<5} NOTIFY_PID:{pid:<6}\n", state.held_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_priority_comes_first_and_in_order() {
        let mut state = State::default();
        for (bytes, priority) in [(b"a", 1), (b"b", 5), (b"c", 5), (b"d", 0)] {
            assert!(state.push(bytes.to_vec(), priority).is_none());
        }
        let order: Vec<(Vec<u8>, u32)> = std::iter::from_fn(|| state.pop().ok()).collect();
        assert_eq!(order, [(b"b".to_vec(), 5), (b"c".to_vec(), 5), (b"a".to_vec(), 1), (b"d".to_vec(), 0)]);
        assert_eq!((state.count, state.held_bytes), (0, 0));
    }

    #[test]
    fn a_notification_comes_once_and_only_to_an_empty_queue() {
        let notification = || Some(Notification { process: Weak::new(), how: NotifyBy::Nothing });
        let mut state = State { notification: notification(), ..State::default() };
        assert!(state.push(vec![1], 0).is_some());
        state.notification = notification();
        assert!(state.push(vec![1], 0).is_none());
    }

    #[test]
    fn names_and_sizes_are_checked() {
        assert_eq!(check_name(b"a/b"), Err(Errno::EACCES));
        assert_eq!(check_name(b""), Err(Errno::ENOENT));
        let user = Credentials::new(1000, 1000, Vec::new());
        let attributes = |most_messages, message_size| Some(Attributes { most_messages, message_size });
        assert_eq!(check_attributes(None, &user), Ok((10, 8192)));
        assert_eq!(check_attributes(attributes(11, 1), &user), Err(Errno::EINVAL));
        assert_eq!(check_attributes(attributes(11, 1), &Credentials::new(0, 0, Vec::new())), Ok((11, 1)));
        assert_eq!(check_attributes(attributes(-1, 1), &user), Err(Errno::EINVAL));
    }
}
