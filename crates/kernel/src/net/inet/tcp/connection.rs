//! The connected state: one channel each way, and the ways in which it ends (tcp(7); RFC 9293, 3.6 and 3.10.7.4).

use super::cork::Cork;
use super::{Bound, Diagnosis, TCP_CLOSE, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_FIN_WAIT2};
use crate::fs::file::Events;
use crate::ipc::pipe::Side;
use crate::net::channel::{Channel, Framing, ReceiveMode};
use crate::net::inet::options;
use crate::net::inet::ports::PortLease;
use crate::net::rights::InFlight;
use crate::net::sharing::{Line, StreamEnd};
use crate::net::socket::{Common, Incoming, MessageFlags, Shutdown, UserCredentials};
use crate::{Errno, Result};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// One end of a connection.
pub(super) struct Connection {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// The other end's number.
    pub peer_inode: u64,
    incoming: Arc<Channel>,
    outgoing: Arc<Channel>,
    /// Which of the two ends it is for `line`.
    side: Side,
    line: Arc<Line>,
    /// shutdown(SHUT_RD) here: what comes is still taken, but the end is seen behind it.
    read_shut: AtomicBool,
    /// Something was sent to a peer that is gone; its reset has been noted.
    reset_by_peer: AtomicBool,
    lease: Mutex<Option<PortLease>>,
    /// Once something has been held back.
    cork: OnceLock<Arc<Cork>>,
}

/// What the sender says of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum More {
    /// More follows (MSG_MORE, TCP_CORK).
    Yes,
    No,
    /// The last one is urgent (MSG_OOB).
    Urgent,
}

/// How an end goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// close(2): what was sent arrives; a reset only where something received was never read.
    Orderly,
    /// SO_LINGER with no time, or a connection that nobody accepted.
    Reset,
}

impl Connection {
    /// Both ends: the client's (which is bound to `local`), and the server's.
    pub fn pair(
        client: &Common,
        server: &Common,
        bound: Bound,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> (Connection, Connection) {
        let budget = &client.network.budget;
        let channel = |from: &Common, to: &Common| {
            Channel::new(Framing::Bytes, options::stream_capacity(from), to.queue.clone(), from.queue.clone(), budget.clone())
        };
        let forth = channel(client, server);
        let back = channel(server, client);
        forth.set_urgent_inline(server.options.lock().out_of_band_inline);
        back.set_urgent_inline(client.options.lock().out_of_band_inline);
        let line = Arc::new(Line::default());
        let end = |side, incoming: &Arc<Channel>, outgoing: &Arc<Channel>, local, peer, lease, peer_inode| Connection {
            peer_inode,
            local,
            peer,
            side,
            line: line.clone(),
            incoming: incoming.clone(),
            outgoing: outgoing.clone(),
            read_shut: AtomicBool::new(false),
            reset_by_peer: AtomicBool::new(false),
            lease: Mutex::new(lease),
            cork: OnceLock::new(),
        };
        (
            end(Side::Write, &back, &forth, local, peer, Some(bound.lease), server.inode),
            end(Side::Read, &forth, &back, peer, local, None, client.inode),
        )
    }

    pub fn set_lease(&self, lease: PortLease) {
        *self.lease.lock() = Some(lease);
    }

    pub fn send(&self, common: &Common, data: &[u8], more: More) -> Result<usize> {
        common.check_error()?;
        let sent = match (more, self.cork.get()) {
            (More::Urgent, None) => self.outgoing.send_urgent(data),
            (More::Urgent, Some(cork)) => cork.send_urgent(data),
            (More::No, None) => self.outgoing.send(data, &mut InFlight::none(), UserCredentials::NOBODY),
            (More::No, Some(cork)) => cork.send(data),
            (More::Yes, _) => {
                let cork = self.cork.get_or_init(|| Cork::new(self.outgoing.clone()));
                // What it holds goes before what comes later.
                self.outgoing.end_loan();
                cork.hold(&common.network.timers, data)
            }
        };
        match sent {
            Err(Errno::EPIPE) => {}
            result => return result,
        }
        if self.outgoing.is_write_closed() || self.reset_by_peer.load(Ordering::Relaxed) {
            return Err(Errno::EPIPE);
        }
        if self.incoming.is_failed() {
            self.reset_by_peer.store(true, Ordering::Relaxed);
            return Err(self.incoming.take_error().unwrap_or(Errno::EPIPE));
        }
        // The peer has closed in good order. The first bytes still leave; the answer to them is a reset.
        self.reset_by_peer.store(true, Ordering::Relaxed);
        common.set_error(Errno::EPIPE);
        Ok(data.len())
    }

    pub fn receive(&self, common: &Common, buffer: &mut [u8], flags: MessageFlags) -> Result<Incoming> {
        let mode = ReceiveMode { peek: flags.contains(MessageFlags::PEEK), ..ReceiveMode::default() };
        match self.incoming.receive(buffer, mode) {
            Ok(Some(received)) => Ok(Incoming {
                count: received.count,
                full_length: received.count,
                boundary: received.boundary,
                ..Incoming::default()
            }),
            Ok(None) => Ok(Incoming::default()),
            Err(Errno::EAGAIN) => {
                common.check_error()?;
                if self.read_shut.load(Ordering::Acquire) {
                    Ok(Incoming::default())
                } else {
                    Err(Errno::EAGAIN)
                }
            }
            Err(errno) => Err(errno),
        }
    }

    pub fn stream_to_read(&self) -> Arc<Channel> {
        self.incoming.clone()
    }

    /// Where plain reads and writes are all that this end is about.
    pub fn stream_end(&self, common: &Common) -> Option<StreamEnd> {
        let is_plain = self.cork.get().is_none()
            && !self.read_shut.load(Ordering::Acquire)
            && !self.reset_by_peer.load(Ordering::Relaxed)
            && !common.has_error();
        is_plain.then(|| StreamEnd {
            side: self.side,
            incoming: self.incoming.clone(),
            outgoing: self.outgoing.clone(),
            line: self.line.clone(),
            network: Some(common.network.clone()),
        })
    }

    pub fn channels(&self) -> [Arc<Channel>; 2] {
        [self.incoming.clone(), self.outgoing.clone()]
    }

    pub fn put_back(&self, bytes: &[u8]) {
        self.incoming.put_back(bytes);
    }

    /// What TCP_CORK or MSG_MORE holds back leaves now.
    pub fn flush(&self) {
        if let Some(cork) = self.cork.get() {
            cork.flush();
        }
    }

    pub fn receive_urgent(&self, buffer: &mut [u8], peek: bool) -> Result<Incoming> {
        let byte = self.incoming.receive_urgent(peek)?;
        let Some(first) = buffer.first_mut() else {
            return Ok(Incoming { flags: MessageFlags::OOB | MessageFlags::TRUNC, ..Incoming::default() });
        };
        *first = byte;
        Ok(Incoming { count: 1, full_length: 1, flags: MessageFlags::OOB, boundary: true, ..Incoming::default() })
    }

    pub fn set_urgent_inline(&self, inline: bool) {
        self.incoming.set_urgent_inline(inline);
    }

    pub fn is_at_urgent_mark(&self) -> bool {
        self.incoming.is_at_urgent_mark()
    }

    pub fn shutdown(&self, how: Shutdown) {
        if how.writes() {
            self.flush();
            self.outgoing.close_write();
        }
        if how.reads() {
            self.read_shut.store(true, Ordering::Release);
            self.incoming.end_loan();
        }
    }

    /// This end is closed.
    pub fn hang_up(&self, end: End) {
        self.flush();
        let lost = self.incoming.abandon();
        if (lost || end == End::Reset) && !self.outgoing.is_read_closed() {
            self.outgoing.fail(Errno::ECONNRESET);
        } else {
            self.outgoing.close_write();
        }
        drop(self.lease.lock().take());
    }

    /// Reset, or ended in both directions: getpeername(2) says ENOTCONN then.
    pub fn is_over(&self) -> bool {
        self.incoming.is_failed() || self.reset_by_peer.load(Ordering::Relaxed)
    }

    pub fn poll(&self, common: &Common) -> Events {
        let mut events = Events::empty();
        let low_water = usize::try_from(common.options.lock().receive_low_water).unwrap_or(1);
        let (incoming, outgoing) = (self.incoming.look_to_read(low_water), self.outgoing.look_to_write());
        let read_ended = incoming.write_closed || self.read_shut.load(Ordering::Acquire);
        let write_ended = outgoing.write_closed || self.reset_by_peer.load(Ordering::Relaxed) || incoming.failed;
        if read_ended {
            events |= Events::IN | Events::RDNORM | Events::RDHUP;
        } else if incoming.ready {
            events |= Events::IN | Events::RDNORM;
        }
        if read_ended && write_ended {
            events |= Events::HUP;
        }
        if write_ended || outgoing.ready {
            events |= Events::OUT | Events::WRNORM;
        }
        if incoming.urgent {
            events |= Events::PRI;
        }
        if common.has_error() || incoming.has_error {
            events |= Events::ERR;
        }
        events
    }

    pub fn available(&self) -> usize {
        self.incoming.available()
    }

    pub fn take_error(&self) -> Option<Errno> {
        self.incoming.take_error()
    }

    pub fn set_capacity(&self, capacity: usize) {
        self.outgoing.set_capacity(capacity);
    }

    pub fn diagnosis(&self) -> Diagnosis {
        let state = match (self.incoming.is_write_closed(), self.outgoing.is_write_closed()) {
            _ if self.is_over() => TCP_CLOSE,
            (false, false) => TCP_ESTABLISHED,
            (true, false) => TCP_CLOSE_WAIT,
            (false, true) => TCP_FIN_WAIT2,
            (true, true) => TCP_CLOSE,
        };
        Diagnosis {
            state,
            local: self.local,
            peer: Some(self.peer),
            receive_queue: self.incoming.available() as u32,
            send_queue: 0,
        }
    }
}
