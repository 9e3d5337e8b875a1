//! The control socket: frames in, with their descriptors; frames out, from any thread.

use parking_lot::Mutex;
use rustix::io::retry_on_intr;
use rustix::net::{recvmsg, send, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use serde_json::Value;
use skerry_control::{frame, Event, Failure, FailureKind, Outcome, Reply, Request};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Descriptors that one frame may carry.
const MAXIMUM_DESCRIPTORS: usize = 16;

pub struct Connection {
    socket: Arc<OwnedFd>,
    received: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    sender: Sender,
}

/// A request, with the descriptors that came with it.
pub type Received = (Request, Vec<OwnedFd>);

/// Sends replies and events. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    socket: Arc<OwnedFd>,
    lock: Arc<Mutex<()>>,
}

impl Connection {
    pub fn new(socket: OwnedFd) -> Connection {
        let socket = Arc::new(socket);
        let sender = Sender { socket: socket.clone(), lock: Arc::default() };
        Connection { socket, received: Vec::new(), descriptors: Vec::new(), sender }
    }

    /// Closes our end without the other side hearing of it (a copy of it lives on in a child).
    pub fn let_go(&mut self) {
        // /dev/null takes the socket's place: there is always a descriptor to read from.
        if let Ok(null) = std::fs::File::open("/dev/null") {
            self.socket = Arc::new(null.into());
            self.sender = Sender { socket: self.socket.clone(), lock: Arc::default() };
        }
    }

    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// The next request, with the descriptors that came with it. `None`: the other end is closed.
    pub fn receive(&mut self) -> Result<Option<Received>, Box<dyn std::error::Error>> {
        loop {
            if let Some(received) = self.next_buffered()? {
                return Ok(Some(received));
            }
            if !self.read()? {
                return Ok(None);
            }
        }
    }

    /// A request that has come in whole.
    pub fn next_buffered(&mut self) -> Result<Option<Received>, Box<dyn std::error::Error>> {
        let Some(request) = frame::take::<Request>(&mut self.received)? else { return Ok(None) };
        let own = request.descriptors.min(self.descriptors.len());
        let descriptors = self.descriptors.drain(..own).collect();
        Ok(Some((request, descriptors)))
    }

    /// Takes in what the socket has, and waits until it has something. False: the other end is closed.
    pub fn read(&mut self) -> Result<bool, Box<dyn std::error::Error>> {
        let mut bytes = [0u8; 65536];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAXIMUM_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            retry_on_intr(|| recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC))?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        self.received.extend_from_slice(&bytes[..received.bytes]);
        Ok(received.bytes > 0)
    }

    /// To be polled.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }
}

impl Sender {
    pub fn reply(&self, id: u64, outcome: Result<Value, Failure>) {
        let outcome = match outcome {
            Ok(value) => Outcome::Ok(value),
            Err(failure) => Outcome::Error(failure),
        };
        if !self.send(&Reply { id, outcome }) {
            // Too long for a frame: the client must not wait for ever.
            let failure = Failure {
                kind: FailureKind::Internal,
                message: "the answer is too long for one message; ask for less at a time".into(),
                errno: None,
            };
            self.send(&Reply { id, outcome: Outcome::Error(failure) });
        }
    }

    pub fn event(&self, event: &Event) {
        self.send(event);
    }

    /// False: it cannot be said in this protocol. Errors of the socket are left to the reader, who sees its end.
    fn send(&self, message: &impl serde::Serialize) -> bool {
        let Ok(bytes) = frame::encode(message) else { return false };
        let _order = self.lock.lock();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match retry_on_intr(|| send(&self.socket, rest, SendFlags::NOSIGNAL)) {
                Ok(count) => rest = &rest[count..],
                Err(_) => break,
            }
        }
        true
    }
}
