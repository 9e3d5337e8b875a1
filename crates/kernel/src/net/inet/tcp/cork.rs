//! TCP_CORK and MSG_MORE (tcp(7)): bytes that are held back to leave together with what follows, until a segment is full,
//! somebody says that no more comes, or 200 milliseconds are over.
//!
//! Lock order: `Cork::held` is outside of the channel's state.

use crate::net::channel::Channel;
use crate::net::rights::InFlight;
use crate::net::socket::UserCredentials;
use crate::time::queue::{Expire, Ticket, TimerQueue};
use crate::{Errno, Result};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A full segment over lo (TCP_MAXSEG).
const SEGMENT: usize = 32_741;
/// tcp(7), TCP_CORK: "there is a 200 millisecond ceiling".
const CEILING: Duration = Duration::from_millis(200);

pub(super) struct Cork {
    channel: Arc<Channel>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    ticket: Option<Ticket>,
}

impl Cork {
    pub fn new(channel: Arc<Channel>) -> Arc<Cork> {
        Arc::new(Cork { channel, held: Mutex::default() })
    }

    /// Takes `data` to be sent later; what makes a segment goes at once.
    pub fn hold(self: &Arc<Cork>, timers: &TimerQueue, data: &[u8]) -> Result<usize> {
        let mut held = self.held.lock();
        if self.channel.is_read_closed() || self.channel.is_write_closed() {
            return Err(Errno::EPIPE);
        }
        if held.bytes.len() + data.len() >= SEGMENT {
            return self.send_with(&mut held, data);
        }
        if held.bytes.is_empty() {
            let target: Weak<dyn Expire> = Arc::downgrade(&(self.clone() as Arc<dyn Expire>));
            held.ticket = timers.schedule(Instant::now() + CEILING, target).ok();
            if held.ticket.is_none() {
                return self.send_with(&mut held, data);
            }
        }
        held.bytes.extend(data);
        Ok(data.len())
    }

    /// Sends `data` behind what is held.
    pub fn send(&self, data: &[u8]) -> Result<usize> {
        self.send_with(&mut self.held.lock(), data)
    }

    fn send_with(&self, held: &mut Held, data: &[u8]) -> Result<usize> {
        self.push(held);
        self.channel.send(data, &mut InFlight::none(), UserCredentials::NOBODY)
    }

    /// What is held leaves now.
    pub fn flush(&self) {
        self.push(&mut self.held.lock());
    }

    fn push(&self, held: &mut Held) {
        held.ticket = None;
        if !held.bytes.is_empty() {
            self.channel.force(&std::mem::take(&mut held.bytes));
        }
    }
}

impl Expire for Cork {
    fn expire(self: Arc<Self>) {
        self.flush();
    }
}
