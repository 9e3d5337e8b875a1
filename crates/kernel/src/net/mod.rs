//! Sockets (socket(7)): what a sandbox's programs say to each other. Nothing here reaches the host's network.
//!
//! [`socket`]: the interface that each protocol implements, and the open-file object. [`channel`]: one direction of a
//! connection, which unix and TCP sockets share. [`unix`], [`inet`] (TCP and UDP over loopback), [`netlink`]. [`address`],
//! [`options`], [`rights`] (descriptors in flight), [`ring`] (bytes, and the cap on them), [`ioctl`], [`proc_net`].
//! [`NetworkStack`] is what a sandbox has of all this: its names, ports, and the list of its sockets.
//!
//! Lock order: see [`socket`] and [`channel`]; the tables of `NetworkStack` are never held while a socket is locked, but
//! may be taken while one is.

pub mod address;
pub mod channel;
pub mod inet;
pub mod ioctl;
pub mod netlink;
pub mod options;
pub mod proc_net;
pub mod rights;
pub mod ring;
pub mod sharing;
pub mod socket;
pub mod unix;

pub use proc_net::proc_net;
pub use socket::{Caller, Socket, SocketFile};

use crate::task::Credentials;
use crate::time::queue::TimerQueue;
use parking_lot::Mutex;
use rights::InFlightCount;
use ring::Budget;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// One sandbox's network.
#[derive(Default)]
pub struct NetworkStack {
    /// The last number of a socket:[N].
    last_inode: AtomicU64,
    /// lo is not there (`--network none`).
    without_loopback: AtomicBool,
    /// Kernel memory in sockets' queues.
    pub budget: Arc<Budget>,
    pub in_flight: Arc<InFlightCount>,
    pub unix_names: unix::AbstractNames,
    pub own_nodes: unix::tree::OwnNodes,
    pub tcp_ports: Arc<inet::PortTable>,
    pub udp_ports: Arc<inet::PortTable>,
    pub udplite_ports: Arc<inet::PortTable>,
    pub netlink_ports: netlink::PortTable,
    pub interface: inet::interface::Counters,
    /// For what is held back for a while (TCP_CORK).
    pub timers: Arc<TimerQueue>,
    /// All sockets that have an open file, for /proc/net and sock_diag(7).
    sockets: Mutex<BTreeMap<u64, Weak<dyn Socket>>>,
}

impl NetworkStack {
    pub fn new() -> NetworkStack {
        NetworkStack::default()
    }

    pub fn with_timers(timers: &Arc<TimerQueue>) -> NetworkStack {
        NetworkStack { timers: timers.clone(), ..NetworkStack::default() }
    }

    /// Whether lo is there and up.
    pub fn has_loopback(&self) -> bool {
        !self.without_loopback.load(Ordering::Relaxed)
    }

    pub fn set_loopback(&self, network: skerry_control::Network) {
        self.without_loopback.store(network == skerry_control::Network::None, Ordering::Relaxed);
    }

    /// The most bytes that all sockets' queues may hold.
    pub fn set_memory_limit(&self, bytes: usize) {
        self.budget.set_limit(bytes);
    }

    pub(crate) fn next_inode(&self) -> u64 {
        // Away from the small numbers that pipes and the rest begin with, as on a Linux that has been up for a while.
        20_000 + self.last_inode.fetch_add(1, Ordering::Relaxed)
    }

    /// Lists `socket` in /proc/net and sock_diag(7).
    pub(crate) fn remember(&self, socket: &Arc<dyn Socket>) {
        self.sockets.lock().insert(socket.common().inode, Arc::downgrade(socket));
    }

    pub(crate) fn forget(&self, inode: u64) {
        self.sockets.lock().remove(&inode);
    }

    /// The socket with a number.
    pub fn socket(&self, inode: u64) -> Option<Arc<dyn Socket>> {
        self.sockets.lock().get(&inode).and_then(Weak::upgrade)
    }

    /// All sockets, oldest first.
    pub fn sockets(&self) -> Vec<Arc<dyn Socket>> {
        self.sockets.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// What went through lo: (bytes, packets).
    pub(crate) fn passed_through(&self) -> (u64, u64) {
        // What goes by memory that two processes share is counted when that ends.
        self.sockets().iter().for_each(|socket| socket.end_loan());
        self.interface.get()
    }

    /// Plain credentials for calls that come without their caller.
    pub(crate) fn credentials_of(&self, uid: u32, gid: u32) -> Arc<Credentials> {
        Arc::new(Credentials::new(uid, gid, Vec::new()))
    }
}

#[cfg(test)]
mod fuzz_tests;
