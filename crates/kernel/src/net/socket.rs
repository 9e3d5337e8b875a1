//! What all sockets share: the [`Socket`] interface (one implementation per protocol), the part that each has
//! ([`Common`]), and [`SocketFile`], the one open-file object for all of them.
//!
//! Sockets never block: EAGAIN says "not now", and whoever wants to wait waits on [`Common::queue`], which is woken at each
//! change. One queue serves both directions. Lock order: a socket's own state > the peer's channel or message queue >
//! `Common::options` > wait queues. No two sockets' states are ever locked at once.

use super::address::Address;
use super::channel::Channel;
use super::options::Options;
use super::rights::InFlight;
use super::sharing::StreamEnd;
use super::NetworkStack;
use crate::fs::file::{Events, FileOperations, OpenFile, StatusFlags, Transfer};
use crate::fs::inode::{Device, FileType, Metadata};
use crate::fs::lending::Left;
use crate::run::AddressSpace;
use crate::sync::{Hears, WaitQueue};
use crate::task::Credentials;
use crate::{Context, Errno, Result};
use parking_lot::Mutex;
use skerry_abi::raw::{general, net as linux};
use skerry_abi::structs::TimeSpec;
use std::any::Any;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags::bitflags! {
    /// MSG_* (send(2), recv(2)).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MessageFlags: u32 {
        const OOB = linux::MSG_OOB;
        const PEEK = linux::MSG_PEEK;
        const DONTROUTE = linux::MSG_DONTROUTE;
        const CTRUNC = linux::MSG_CTRUNC;
        const TRUNC = linux::MSG_TRUNC;
        const DONTWAIT = 0x40;
        const EOR = linux::MSG_EOR;
        const WAITALL = linux::MSG_WAITALL;
        const CONFIRM = linux::MSG_CONFIRM;
        const ERRQUEUE = linux::MSG_ERRQUEUE;
        const NOSIGNAL = linux::MSG_NOSIGNAL;
        const MORE = linux::MSG_MORE;
        const WAITFORONE = 0x10000;
        const CMSG_CLOEXEC = linux::MSG_CMSG_CLOEXEC;
        const CMSG_COMPAT = 0x8000_0000;
    }
}

/// SOCK_* (socket(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SocketType {
    Stream = linux::SOCK_STREAM,
    Datagram = linux::SOCK_DGRAM,
    Raw = linux::SOCK_RAW,
    SequencedPacket = linux::SOCK_SEQPACKET,
}

/// shutdown(2)'s second argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    Read,
    Write,
    Both,
}

impl Shutdown {
    pub fn reads(self) -> bool {
        self != Shutdown::Write
    }
    pub fn writes(self) -> bool {
        self != Shutdown::Read
    }
}

/// `struct ucred` (unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UserCredentials {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

impl UserCredentials {
    /// What Linux shows where nobody is known: the overflow ids.
    pub const NOBODY: UserCredentials = UserCredentials { pid: 0, uid: u32::MAX, gid: u32::MAX };
}

/// Who makes a call, as far as sockets care.
#[derive(Clone)]
pub struct Caller {
    pub pid: i32,
    pub credentials: Arc<Credentials>,
    /// RLIMIT_NOFILE, which also bounds files in flight.
    pub file_limit: u64,
}

impl Caller {
    pub fn of(context: &Context) -> Caller {
        Caller {
            pid: context.process().pid(),
            credentials: context.task.credentials(),
            file_limit: context.process().rlimit(general::RLIMIT_NOFILE).current,
        }
    }

    pub fn user_credentials(&self) -> UserCredentials {
        UserCredentials { pid: self.pid, uid: self.credentials.euid, gid: self.credentials.egid }
    }
}

/// The other end of a call that names one: an address, and for unix sockets the object that the name led to.
#[derive(Clone)]
pub struct Destination {
    pub address: Address,
    /// Found through the tree or the abstract names (unix sockets only).
    pub unix: Option<Arc<dyn Any + Send + Sync>>,
}

impl Destination {
    pub fn plain(address: Address) -> Destination {
        Destination { address, unix: None }
    }
}

/// What is sent beside the bytes.
#[derive(Default)]
pub struct Outgoing {
    pub destination: Option<Destination>,
    pub rights: InFlight,
    /// SCM_CREDENTIALS, checked.
    pub credentials: Option<UserCredentials>,
    /// Options of this one datagram (IP_TTL, IPV6_TCLASS ...).
    pub control: Vec<ControlMessage>,
    pub flags: MessageFlags,
}

impl Default for InFlight {
    fn default() -> InFlight {
        InFlight::none()
    }
}

/// One control message (cmsg(3)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlMessage {
    pub level: u32,
    pub kind: u32,
    pub data: Vec<u8>,
}

/// What was received beside the bytes.
#[derive(Default)]
pub struct Incoming {
    /// Bytes in the buffer.
    pub count: usize,
    /// The message's own length, where that is more.
    pub full_length: usize,
    pub source: Option<Address>,
    pub rights: InFlight,
    /// Set where the receiver asked for them (SO_PASSCRED).
    pub credentials: Option<UserCredentials>,
    pub control: Vec<ControlMessage>,
    /// MSG_TRUNC, MSG_EOR, MSG_ERRQUEUE ...
    pub flags: MessageFlags,
    /// Do not join the next bytes to these (a message, or descriptors).
    pub boundary: bool,
}

/// A protocol's socket.
#[allow(unused_variables)]
pub trait Socket: Send + Sync + Any {
    fn common(&self) -> &Common;

    /// bind(2) to an address that is not a path.
    fn bind(&self, caller: &Caller, address: &Address) -> Result<()>;

    fn listen(&self, caller: &Caller, backlog: u32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// connect(2). EAGAIN: cannot be taken up yet (a unix listener's backlog is full); EINPROGRESS: goes on by itself, see
    /// [`Socket::connect_result`].
    fn connect(&self, caller: &Caller, destination: &Destination) -> Result<()>;

    /// After EINPROGRESS: EAGAIN until it is decided.
    fn connect_result(&self) -> Result<()> {
        Ok(())
    }

    /// The next connection. EAGAIN, EINVAL (not listening).
    fn accept(&self) -> Result<Arc<dyn Socket>> {
        Err(Errno::EOPNOTSUPP)
    }

    fn shutdown(&self, how: Shutdown) -> Result<()>;

    fn local_address(&self) -> Address;

    /// ENOTCONN.
    fn peer_address(&self) -> Result<Address>;

    /// Sends what can be sent now; EAGAIN where nothing can.
    fn send(&self, caller: &Caller, data: &[u8], outgoing: &mut Outgoing) -> Result<usize>;

    fn receive(&self, buffer: &mut [u8], flags: MessageFlags) -> Result<Incoming>;

    /// Bytes of a stream that were received and could not be given to the caller.
    fn put_back(&self, bytes: &[u8]) {}

    /// The bytes that a plain read(2) receives, where they are a stream's and nothing else comes with them.
    fn stream_to_read(&self) -> Option<Arc<Channel>> {
        None
    }

    /// This end of a connection, where plain reads and writes are all that it is about. What that depends on is changed before
    /// the loan ends.
    fn stream_end(&self) -> Option<StreamEnd> {
        None
    }

    /// Both directions of a connection.
    fn channels(&self) -> Option<[Arc<Channel>; 2]> {
        None
    }

    /// Nothing of what it sends and receives is lent any more, whatever its options are now.
    fn end_loan(&self) {
        self.channels().iter().flatten().for_each(|channel| channel.end_loan());
    }

    fn poll(&self) -> Events;

    /// FIONREAD. EINVAL on a listening socket.
    fn available(&self) -> Result<usize>;

    /// SIOCOUTQ.
    fn unsent(&self) -> Result<usize> {
        Ok(0)
    }

    /// An option of the protocol's own levels. ENOPROTOOPT.
    fn set_option(&self, caller: &Caller, level: u32, name: u32, value: &[u8]) -> Result<()> {
        Err(Errno::ENOPROTOOPT)
    }

    fn get_option(&self, level: u32, name: u32, length: usize) -> Result<Vec<u8>> {
        Err(Errno::ENOPROTOOPT)
    }

    /// The peer as accept(2) tells it, also where it is gone already.
    fn accepted_address(&self) -> Address {
        self.peer_address().unwrap_or(Address::Unspecified)
    }

    /// SO_REUSEADDR or SO_REUSEPORT was set.
    fn sharing_changed(&self) {}

    /// connect(2) that must not wait: where Linux finishes in the background, EINPROGRESS.
    fn connect_nowait(&self, caller: &Caller, destination: &Destination) -> Result<()> {
        self.connect(caller, destination)
    }

    /// SO_OOBINLINE was set.
    fn inline_changed(&self) {}

    /// SIOCATMARK: ENOTTY for what is no stream.
    fn is_at_urgent_mark(&self) -> Result<bool> {
        Err(Errno::ENOTTY)
    }

    /// SO_PEERCRED, SO_PEERGROUPS.
    fn peer_identity(&self) -> Option<PeerIdentity> {
        None
    }

    /// SO_ERROR, which clears it.
    fn take_error(&self) -> Option<Errno> {
        self.common().take_error()
    }

    /// SO_SNDBUF or SO_RCVBUF was set.
    fn buffers_changed(&self) {}

    fn is_listening(&self) -> bool {
        false
    }

    /// The file is closed for good.
    fn close(&self);

    fn as_any(&self) -> &dyn Any;
}

/// Known about the process that made a socket, or connected it (SO_PEERCRED, SO_PEERGROUPS).
#[derive(Clone)]
pub struct PeerIdentity {
    pub user: UserCredentials,
    pub groups: Vec<u32>,
}

impl PeerIdentity {
    pub fn of(caller: &Caller) -> PeerIdentity {
        PeerIdentity { user: caller.user_credentials(), groups: caller.credentials.groups.clone() }
    }
}

/// The part that every socket has.
pub struct Common {
    pub network: Arc<NetworkStack>,
    /// The N of socket:[N].
    pub inode: u64,
    /// AF_*; IPV6_ADDRFORM changes it.
    domain: AtomicU32,
    pub kind: SocketType,
    pub protocol: u32,
    pub creator: PeerIdentity,
    /// Woken at every change.
    pub queue: Arc<WaitQueue>,
    pub options: Mutex<Options>,
    /// Its open file, for the signals that F_SETOWN asks for.
    pub file: OnceLock<Weak<OpenFile>>,
    /// SO_ERROR: reported once, then cleared.
    error: AtomicI32,
}

impl Common {
    pub fn new(network: &Arc<NetworkStack>, creator: PeerIdentity, domain: u32, kind: SocketType, protocol: u32) -> Common {
        Common {
            network: network.clone(),
            inode: network.next_inode(),
            domain: AtomicU32::new(domain),
            kind,
            protocol,
            creator,
            queue: Arc::new(WaitQueue::new()),
            options: Mutex::new(Options::new(domain, kind)),
            file: OnceLock::new(),
            error: AtomicI32::new(0),
        }
    }

    pub fn domain(&self) -> u32 {
        self.domain.load(Ordering::Relaxed)
    }

    pub fn set_domain(&self, domain: u32) {
        self.domain.store(domain, Ordering::Relaxed);
    }

    pub fn set_error(&self, error: Errno) {
        self.error.store(error.0, Ordering::Release);
        self.queue.wake_all();
    }

    /// The pending error, which is cleared by it.
    pub fn take_error(&self) -> Option<Errno> {
        if self.error.load(Ordering::Acquire) == 0 {
            return None;
        }
        match self.error.swap(0, Ordering::AcqRel) {
            0 => None,
            number => Some(Errno(number)),
        }
    }

    pub fn check_error(&self) -> Result<()> {
        self.take_error().map_or(Ok(()), Err)
    }

    pub fn has_error(&self) -> bool {
        self.error.load(Ordering::Acquire) != 0
    }
}

/// Waits for a socket that is not the waiter's own: whoever found `other` full is told when it is not.
#[derive(Default)]
pub struct BlockedSenders(Vec<Weak<WaitQueue>>);

impl BlockedSenders {
    pub fn add(&mut self, queue: &Arc<WaitQueue>) {
        self.0.retain(|present| present.strong_count() > 0);
        if !self.0.iter().any(|present| std::ptr::eq(present.as_ptr(), Arc::as_ptr(queue))) {
            self.0.push(Arc::downgrade(queue));
        }
    }

    /// The queues to be woken once all locks are released.
    pub fn take(&mut self) -> BlockedSenders {
        BlockedSenders(std::mem::take(&mut self.0))
    }

    pub fn wake(self) {
        for queue in self.0.iter().filter_map(Weak::upgrade) {
            queue.wake_all();
        }
    }
}

/// The open-file object of a socket. Dropped when the last descriptor and the last message in flight are gone.
pub struct SocketFile {
    pub socket: Arc<dyn Socket>,
}

impl SocketFile {
    /// An open file for `socket`.
    pub fn open(socket: Arc<dyn Socket>, flags: StatusFlags) -> Arc<OpenFile> {
        socket.common().network.remember(&socket);
        let file = OpenFile::new(Arc::new(SocketFile { socket: socket.clone() }), flags | StatusFlags::RDWR, None);
        let _ = socket.common().file.set(Arc::downgrade(&file));
        file
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.socket.common().network.forget(self.socket.common().inode);
        self.socket.close();
    }
}

impl FileOperations for SocketFile {
    fn read(&self, _file: &OpenFile, buffer: &mut [u8], _offset: u64) -> Result<usize> {
        self.socket.receive(buffer, MessageFlags::empty()).map(|incoming| incoming.count)
    }

    fn write(&self, _file: &OpenFile, buffer: &[u8], _offset: u64) -> Result<usize> {
        // Without a caller at hand the maker's identity is used; it shows only to a receiver with SO_PASSCRED.
        let common = self.socket.common();
        let creator = &common.creator.user;
        let caller =
            Caller { pid: creator.pid, credentials: common.network.credentials_of(creator.uid, creator.gid), file_limit: 0 };
        self.socket.send(&caller, buffer, &mut Outgoing::default())
    }

    fn flush(&self, _file: &OpenFile) {
        // Who has lost the descriptor reads nothing by it.
        self.socket.end_loan();
    }

    fn end_loan(&self) {
        self.socket.end_loan();
    }

    fn left_to_look(&self, space: &Arc<AddressSpace>, fd: i32, hears: Hears) -> Option<Left> {
        let queue = &self.socket.common().queue;
        // Who registers from here on looks behind that.
        let [incoming, outgoing] = self.socket.channels().filter(|_| queue.len() == 1)?;
        if hears != Hears::Levels {
            // That there is room again is told by the sentry, to who waits for it.
            return outgoing.is_shared().then(|| incoming.leave_edges(space, fd)).flatten();
        }
        if !outgoing.leave_to_look(Transfer::Write, space, fd) {
            return None;
        }
        let is_left = incoming.leave_to_look(Transfer::Read, space, fd);
        if !is_left {
            // One has been left, and whoever waits is to look again.
            queue.wake_all();
        }
        is_left.then_some(Left::Levels)
    }

    fn changed_where_lent(&self, direction: Transfer) {
        let Some([incoming, outgoing]) = self.socket.channels() else { return };
        match direction {
            Transfer::Read => incoming.has_left(),
            Transfer::Write => outgoing.has_come(),
        }
    }

    fn passed_on(&self) {
        self.socket.channels().iter().flatten().for_each(|channel| channel.passed_on());
    }

    fn flags_changed(&self, _flags: StatusFlags) {
        self.socket.end_loan();
    }

    fn poll(&self) -> Events {
        self.socket.poll()
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.socket.common().queue)
    }

    fn read_timeout(&self) -> Option<std::time::Duration> {
        self.socket.common().options.lock().receive_timeout
    }

    fn write_timeout(&self) -> Option<std::time::Duration> {
        self.socket.common().options.lock().send_timeout
    }

    fn metadata(&self) -> Result<Metadata> {
        let common = self.socket.common();
        Ok(Metadata {
            device: Device::new(0, 8),
            inode: common.inode,
            kind: FileType::Socket,
            permissions: 0o777,
            links: 1,
            uid: common.creator.user.uid,
            gid: common.creator.user.gid,
            represents: Device::default(),
            size: 0,
            blocks: 0,
            block_size: 4096,
            accessed: TimeSpec::default(),
            modified: TimeSpec::default(),
            changed: TimeSpec::default(),
            created: None,
        })
    }

    fn ioctl(&self, context: &mut Context, file: &OpenFile, request: u32, argument: u64) -> Result<u64> {
        super::ioctl::ioctl(context, file, self.socket.as_ref(), request, argument)
    }

    fn anonymous_name(&self) -> String {
        format!("socket:[{}]", self.socket.common().inode)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
