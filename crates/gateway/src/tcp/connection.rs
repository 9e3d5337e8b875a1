//! One connection: bytes from the host's socket to the guest's endpoint and back, ends of either side, and its own end.

use super::endpoint::{Endpoint, State};
use super::{Refused, Tuple};
use crate::context::Context;
use crate::dns::Stream;
use crate::packet::{self, Packet};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{recv, send, shutdown, sockopt, RecvFlags, SendFlags, Shutdown};
use smoltcp::time::Instant;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Read at once where messages are looked at.
const PIECE: usize = 16 << 10;

pub struct Connection {
    id: u64,
    tuple: Tuple,
    socket: OwnedFd,
    side: Side,
    /// The host's socket may have something, or take something: not known otherwise until it says so again.
    readable: bool,
    writable: bool,
    ends: Ends,
    /// Where what is said is looked at.
    stream: Option<Stream>,
    used: Instant,
    /// When it is to be run without an event.
    pub wakes: Option<Instant>,
}

/// The guest's.
enum Side {
    /// Its first packet, until the host's connection is there.
    Waits(Vec<u8>),
    Open(Box<Endpoint>),
    /// It has ended, as the host's has; what it has sent before that the host has not taken yet.
    Over(Vec<u8>),
}

/// Which of the two directions is over.
#[derive(Default)]
struct Ends {
    /// Nothing more comes from the host.
    host: bool,
    /// Nothing more comes from the guest.
    guest: bool,
    /// The host has heard of that, behind all that came before.
    passed: bool,
}

impl Ends {
    /// Both sides have ended, and the host has not had all of it.
    fn leave_a_rest(&self) -> bool {
        self.host && self.guest && !self.passed
    }
}

/// What is to come after a run.
pub enum Step {
    /// An event, or that time.
    Wait(Option<Instant>),
    WaitForRoom,
    End,
}

impl Connection {
    /// `first`: the packet that asks for it.
    pub fn new(id: u64, tuple: Tuple, socket: OwnedFd, stream: Option<Stream>, first: &[u8], now: Instant) -> Connection {
        let [readable, writable] = [false; 2];
        let (side, ends) = (Side::Waits(first.to_vec()), Ends::default());
        Connection { id, tuple, socket, side, readable, writable, ends, stream, used: now, wakes: None }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn tuple(&self) -> Tuple {
        self.tuple
    }

    /// When anything came of it last.
    pub fn used(&self) -> Instant {
        self.used
    }

    /// A packet from the guest. One that comes before the host has answered is the first one again.
    pub fn take(&mut self, context: &mut Context, packet: &[u8]) {
        self.used = context.now;
        if let Side::Open(endpoint) = &mut self.side {
            endpoint.take(packet, &mut context.out, context.now);
        }
    }

    pub fn event(&mut self, flags: EventFlags) {
        let ended = EventFlags::HUP | EventFlags::ERR;
        self.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP | ended);
        self.writable |= flags.intersects(EventFlags::OUT | ended);
    }

    /// Does all that can be done now.
    pub fn run(&mut self, context: &mut Context, mtu: u16) -> Step {
        if let Side::Waits(first) = &self.side {
            let first = first.clone();
            if let Some(step) = self.open(context, &first, mtu) {
                return step;
            }
        }
        let endpoint = match &mut self.side {
            Side::Open(endpoint) => endpoint,
            Side::Over(_) => return self.finish(),
            Side::Waits(_) => return Step::End,
        };
        let mut host = Host { socket: &self.socket, readable: &mut self.readable, writable: &mut self.writable };
        let moved = match &mut self.stream {
            None => host.move_all(endpoint, &mut self.ends),
            Some(stream) => host.move_messages(endpoint, stream, context, &mut self.ends),
        };
        match moved {
            Ok(true) => self.used = context.now,
            Ok(false) => {}
            Err(_) => endpoint.socket().abort(),
        }
        endpoint.send(&mut context.out, context.now);
        match endpoint.state() {
            // smoltcp forgets what it has when its time to wait is over. Messages that are looked at nobody waits for any more.
            State::Closed | State::TimeWait if self.ends.leave_a_rest() && moved.is_ok() && self.stream.is_none() => {
                let mut rest = vec![0; endpoint.socket().recv_queue()];
                let count = endpoint.socket().recv_slice(&mut rest).unwrap_or(0);
                rest.truncate(count);
                self.side = Side::Over(rest);
                self.finish()
            }
            State::Closed => {
                if !self.ends.passed {
                    self.reset_host();
                }
                Step::End
            }
            // Nothing is lost on the guest's link: that its end was heard of is sent, and not asked for again.
            State::TimeWait if self.ends.passed && !context.out.is_full() => Step::End,
            _ if context.out.is_full() => Step::WaitForRoom,
            _ => Step::Wait(endpoint.next(context.now)),
        }
    }

    /// The host gets what is left, and hears of the end.
    fn finish(&mut self) -> Step {
        let Side::Over(rest) = &mut self.side else { return Step::End };
        let mut host = Host { socket: &self.socket, readable: &mut self.readable, writable: &mut self.writable };
        while !rest.is_empty() {
            match host.send(rest) {
                Ok(0) => return Step::Wait(None),
                Ok(count) => drop(rest.drain(..count)),
                Err(_) => return Step::End,
            }
        }
        Step::End
    }

    /// Nothing more is for it.
    pub fn is_over(&self) -> bool {
        matches!(self.side, Side::Over(_))
    }

    /// The host's connection is there, or it is not; `None`: it is, and the guest hears of it.
    fn open(&mut self, context: &mut Context, first: &[u8], mtu: u16) -> Option<Step> {
        let error = match sockopt::socket_error(&self.socket) {
            Ok(Ok(())) if !self.writable => return Some(Step::Wait(None)),
            Ok(Ok(())) => None,
            Ok(Err(error)) | Err(error) => Some(error),
        };
        if let Some(error) = error {
            self.refuse(context, first, error.into());
            return Some(Step::End);
        }
        (self.readable, self.writable) = (true, true);
        let mut endpoint = Endpoint::new(self.tuple.remote, mtu, context.random(), context.now);
        endpoint.take(first, &mut context.out, context.now);
        if endpoint.state() != State::SynReceived {
            self.reset_host();
            return Some(Step::End);
        }
        self.side = Side::Open(Box::new(endpoint));
        None
    }

    fn refuse(&self, context: &mut Context, first: &[u8], how: Refused) {
        let Some(packet) = Packet::parse(first) else { return };
        match (how, packet.tcp()) {
            (Refused::Reset, Some(segment)) => packet::reset(&mut context.out, &packet, &segment),
            (Refused::Unreachable(why), _) => packet::unreachable(&mut context.out, why, &packet),
            (Refused::Reset, None) => {}
        }
    }

    /// Both sides hear of a reset.
    pub fn abort(&mut self, context: &mut Context) {
        if let Side::Open(endpoint) = &mut self.side {
            endpoint.socket().abort();
            endpoint.send(&mut context.out, context.now);
        }
        self.reset_host();
    }

    /// What is left when the socket is closed is a reset.
    fn reset_host(&self) {
        let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }
}

/// The host's side, for as long as bytes are moved.
struct Host<'a> {
    socket: &'a OwnedFd,
    readable: &'a mut bool,
    writable: &'a mut bool,
}

impl Host<'_> {
    /// Whether anything was moved.
    fn move_all(&mut self, endpoint: &mut Endpoint, ends: &mut Ends) -> Result<bool, Errno> {
        let mut moved = false;
        while *self.writable && endpoint.socket().can_recv() {
            let sent = endpoint.socket().recv(|bytes| {
                let sent = self.send(bytes);
                (sent.unwrap_or(0), sent)
            });
            moved |= sent.unwrap_or(Ok(0))? > 0;
        }
        self.pass_end(endpoint, ends)?;
        while *self.readable && !ends.host && endpoint.socket().can_send() {
            let came = endpoint.socket().send(|place| {
                let came = self.receive(place);
                (came.map_or(0, |came| came.unwrap_or(0)), came)
            });
            match came.unwrap_or(Ok(None))? {
                Some(0) => ends.host = true,
                Some(_) => moved = true,
                None => {}
            }
        }
        if ends.host {
            endpoint.socket().close();
            self.check_end()?;
        }
        Ok(moved)
    }

    /// The same for messages of DNS, which are looked at on their way.
    fn move_messages(
        &mut self,
        endpoint: &mut Endpoint,
        stream: &mut Stream,
        context: &mut Context,
        ends: &mut Ends,
    ) -> Result<bool, Errno> {
        let mut moved = false;
        let mut piece = [0; PIECE];
        loop {
            let mut went_on = false;
            while endpoint.socket().can_recv() && stream.takes_more() {
                let count = endpoint.socket().recv_slice(&mut piece).unwrap_or(0);
                stream.take_from_guest(&piece[..count], context).map_err(|_| Errno::PROTO)?;
                went_on = true;
            }
            while *self.writable && !stream.to_host().is_empty() {
                let count = self.send(stream.to_host())?;
                stream.sent_to_host(count);
                went_on |= count > 0;
            }
            if stream.to_host().is_empty() {
                self.pass_end(endpoint, ends)?;
            }
            while *self.readable && !ends.host && stream.takes_more() && endpoint.socket().may_send() {
                match self.receive(&mut piece)? {
                    Some(0) => ends.host = true,
                    Some(count) => {
                        stream.take_from_host(&piece[..count], context).map_err(|_| Errno::PROTO)?;
                        went_on = true;
                    }
                    None => {}
                }
            }
            if endpoint.socket().can_send() && !stream.to_guest().is_empty() {
                let count = endpoint.socket().send_slice(stream.to_guest()).unwrap_or(0);
                stream.sent_to_guest(count);
                went_on |= count > 0;
            }
            if !went_on {
                break;
            }
            moved = true;
        }
        if ends.host && stream.to_guest().is_empty() {
            endpoint.socket().close();
            self.check_end()?;
        }
        Ok(moved)
    }

    /// When the guest has ended its side and the host has all of it, the host hears of that.
    fn pass_end(&self, endpoint: &mut Endpoint, ends: &mut Ends) -> Result<(), Errno> {
        ends.guest |= matches!(endpoint.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        if ends.guest && !ends.passed && endpoint.socket().recv_queue() == 0 {
            ends.passed = true;
            match shutdown(self.socket, Shutdown::Write) {
                // It is gone already.
                Ok(()) | Err(Errno::NOTCONN) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// After its end nothing is read that would tell of a reset.
    fn check_end(&self) -> Result<(), Errno> {
        sockopt::socket_error(self.socket)?
    }

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        match rustix::io::retry_on_intr(|| send(self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)) {
            Err(Errno::AGAIN) => {
                *self.writable = false;
                Ok(0)
            }
            other => other,
        }
    }

    /// `Some(0)`: its end; `None`: there is nothing now.
    fn receive(&mut self, place: &mut [u8]) -> Result<Option<usize>, Errno> {
        if place.is_empty() {
            return Ok(None);
        }
        match rustix::io::retry_on_intr(|| recv(self.socket, &mut *place, RecvFlags::DONTWAIT)) {
            Ok((_, count)) => Ok(Some(count)),
            Err(Errno::AGAIN) => {
                *self.readable = false;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
