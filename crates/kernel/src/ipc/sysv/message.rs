//! Message queues (msgget(2), msgsnd(2), msgrcv(2), msgctl(2)).

use super::registry::{Object, Permission, PermissionStruct};
use crate::sync::WaitQueue;
use crate::{Errno, Result};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The longest message.
pub const MSGMAX: usize = 8192;
/// A new queue's size in bytes.
pub const MSGMNB: u64 = 16384;
/// What CAP_SYS_RESOURCE may raise a queue to.
pub const LARGEST_QUEUE: u64 = 16 << 20;
/// Bytes in all queues of a sandbox.
const MOST_BYTES: usize = 64 << 20;
/// What a message costs beside its bytes, so that empty ones are bounded too.
const MESSAGE_COST: usize = 64;

/// `struct msqid64_ds` of x86-64: 120 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QueueStruct {
    pub permission: PermissionStruct,
    pub send_time: i64,
    pub receive_time: i64,
    pub change_time: i64,
    pub bytes: u64,
    pub count: u64,
    pub most_bytes: u64,
    pub last_sender: i32,
    pub last_receiver: i32,
    _unused: [u64; 2],
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: i64,
    pub bytes: Vec<u8>,
}

/// Which message msgrcv(2) wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    First,
    Kind(i64),
    /// MSG_EXCEPT.
    Except(i64),
    /// The lowest kind that is at most this.
    UpTo(i64),
    /// MSG_COPY: the message at this place, which stays.
    Copy(usize),
}

/// What to do with a message that is longer than the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLong {
    /// E2BIG; the message stays.
    Refuse,
    /// MSG_NOERROR.
    Truncate,
}

/// A queue.
pub struct MessageQueue {
    state: Mutex<State>,
    queue: WaitQueue,
    total: Arc<AtomicUsize>,
}

struct State {
    messages: VecDeque<Message>,
    /// Permissions, times and counts; the counts are kept in step with `messages`.
    shown: QueueStruct,
    permission: Permission,
    removed: bool,
}

impl Object for MessageQueue {
    fn permission(&self) -> Permission {
        self.state.lock().permission
    }
    fn set_sequence(&mut self, sequence: u16) {
        self.state.get_mut().permission.sequence = sequence;
    }
    fn removed(&self) {
        {
            let mut state = self.state.lock();
            state.removed = true;
            let messages = std::mem::take(&mut state.messages);
            self.release(messages.iter());
        }
        self.queue.wake_all();
    }
}

impl Drop for MessageQueue {
    fn drop(&mut self) {
        let messages = std::mem::take(&mut self.state.get_mut().messages);
        self.release(messages.iter());
    }
}

impl MessageQueue {
    pub fn new(permission: Permission, total: Arc<AtomicUsize>) -> MessageQueue {
        let shown = QueueStruct { most_bytes: MSGMNB, change_time: crate::time::realtime_now().sec, ..QueueStruct::default() };
        MessageQueue {
            state: Mutex::new(State { messages: VecDeque::new(), shown, permission, removed: false }),
            queue: WaitQueue::new(),
            total,
        }
    }

    fn release<'a>(&self, messages: impl Iterator<Item = &'a Message>) {
        let bytes = messages.map(|message| message.bytes.len() + MESSAGE_COST).sum();
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Woken at each change.
    pub fn wait_queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// EAGAIN where it is full, EIDRM. `message` is taken on success.
    pub fn send(&self, message: &mut Option<Message>, pid: i32) -> Result<()> {
        {
            let mut state = self.state.lock();
            if state.removed {
                return Err(Errno::EIDRM);
            }
            let length = message.as_ref().map_or(0, |message| message.bytes.len());
            let limit = state.shown.most_bytes;
            if state.shown.bytes + length as u64 > limit || state.shown.count + 1 > limit {
                return Err(Errno::EAGAIN);
            }
            let cost = length + MESSAGE_COST;
            if self.total.fetch_add(cost, Ordering::Relaxed) + cost > MOST_BYTES {
                self.total.fetch_sub(cost, Ordering::Relaxed);
                return Err(Errno::ENOMEM);
            }
            state.messages.extend(message.take());
            state.shown.bytes += length as u64;
            state.shown.count += 1;
            state.shown.last_sender = pid;
            state.shown.send_time = crate::time::realtime_now().sec;
        }
        self.queue.wake_all();
        Ok(())
    }

    /// EAGAIN where there is none such, EIDRM, E2BIG. `ENOMSG` for a place that is empty (MSG_COPY).
    pub fn receive(&self, selection: Selection, room: usize, too_long: TooLong, pid: i32) -> Result<Message> {
        let message = {
            let mut state = self.state.lock();
            if state.removed {
                return Err(Errno::EIDRM);
            }
            let index = state.select(selection)?;
            let found = state.messages.get(index).ok_or(Errno::EAGAIN)?;
            if found.bytes.len() > room && too_long == TooLong::Refuse {
                return Err(Errno::E2BIG);
            }
            if let Selection::Copy(_) = selection {
                let mut copy = found.clone();
                copy.bytes.truncate(room);
                return Ok(copy);
            }
            let message = state.messages.remove(index).ok_or(Errno::EAGAIN)?;
            self.release(std::iter::once(&message));
            state.shown.bytes -= message.bytes.len() as u64;
            state.shown.count -= 1;
            state.shown.last_receiver = pid;
            state.shown.receive_time = crate::time::realtime_now().sec;
            message
        };
        self.queue.wake_all();
        let mut message = message;
        message.bytes.truncate(room);
        Ok(message)
    }

    /// IPC_STAT.
    pub fn to_struct(&self) -> QueueStruct {
        let state = self.state.lock();
        QueueStruct { permission: state.permission.to_struct(), ..state.shown }
    }

    /// IPC_SET.
    pub fn set(&self, permission: &PermissionStruct, most_bytes: u64) {
        {
            let mut state = self.state.lock();
            state.permission.set(permission);
            state.shown.most_bytes = most_bytes;
            state.shown.change_time = crate::time::realtime_now().sec;
        }
        self.queue.wake_all();
    }
}

impl State {
    fn select(&self, selection: Selection) -> Result<usize> {
        let index = match selection {
            Selection::First => (!self.messages.is_empty()).then_some(0),
            Selection::Kind(kind) => self.messages.iter().position(|message| message.kind == kind),
            Selection::Except(kind) => self.messages.iter().position(|message| message.kind != kind),
            Selection::UpTo(kind) => {
                let lowest = self.messages.iter().map(|message| message.kind).filter(|&other| other <= kind).min();
                lowest.and_then(|lowest| self.messages.iter().position(|message| message.kind == lowest))
            }
            Selection::Copy(place) => return if place < self.messages.len() { Ok(place) } else { Err(Errno::ENOMSG) },
        };
        index.ok_or(Errno::EAGAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> MessageQueue {
        MessageQueue::new(Permission::default(), Arc::default())
    }

    fn send(queue: &MessageQueue, kind: i64, bytes: &[u8]) -> Result<()> {
        queue.send(&mut Some(Message { kind, bytes: bytes.to_vec() }), 1)
    }

    #[test]
    fn messages_are_selected_by_kind() {
        let queue = queue();
        for (kind, bytes) in [(3, b"three"), (1, b"one.."), (2, b"two..")] {
            send(&queue, kind, bytes).unwrap();
        }
        let receive = |selection| queue.receive(selection, 100, TooLong::Refuse, 2).map(|message| message.kind);
        assert_eq!(receive(Selection::Copy(1)), Ok(1));
        assert_eq!(receive(Selection::Copy(3)), Err(Errno::ENOMSG));
        assert_eq!(receive(Selection::UpTo(2)), Ok(1));
        assert_eq!(receive(Selection::Except(3)), Ok(2));
        assert_eq!(receive(Selection::Kind(9)), Err(Errno::EAGAIN));
        assert_eq!(receive(Selection::First), Ok(3));
        assert_eq!(queue.total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn it_is_bounded_and_refuses_or_truncates_what_is_too_long() {
        let queue = queue();
        send(&queue, 1, &[0; 8192]).unwrap();
        send(&queue, 1, &[0; 8192]).unwrap();
        assert_eq!(send(&queue, 1, &[0; 1]), Err(Errno::EAGAIN));
        assert_eq!(queue.receive(Selection::First, 10, TooLong::Refuse, 1).unwrap_err(), Errno::E2BIG);
        assert_eq!(queue.receive(Selection::First, 10, TooLong::Truncate, 1).unwrap().bytes.len(), 10);
        assert_eq!(queue.to_struct().bytes, 8192);
        queue.removed();
        assert_eq!(send(&queue, 1, b""), Err(Errno::EIDRM));
    }
}
