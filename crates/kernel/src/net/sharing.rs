//! Connections of stream sockets that lie in memory which the users of their two ends share (ADR 52).
//!
//! As with pipes ([`crate::ipc::pipe::sharing`]), whose rings these are: one each way. A loan is a direction's
//! ([`super::channel`]); what the two directions have in common is here.

use super::channel::Channel;
use super::NetworkStack;
use crate::fs::lending::Usage;
use crate::ipc::pipe::sharing::{RingLoan, Sharable, SharedRing, Sharing, User};
use crate::ipc::pipe::Side;
use parking_lot::Mutex;
use skerry_platform::pipe_ring::Nonblocking;
use std::sync::Arc;

/// Who uses a connection, and whether lending it was of use.
#[derive(Default)]
pub struct Line {
    sharing: Sharing,
    usage: Usage,
    loans: Mutex<Loans>,
}

#[derive(Default)]
struct Loans {
    /// Directions that are lent.
    count: u32,
    /// Calls that were answered in those that are lent no more.
    calls: u32,
}

impl Line {
    /// A direction is lent.
    pub fn begun(&self) {
        self.loans.lock().count += 1;
    }

    /// A direction is lent no more. Only both together show whether it was worth it.
    pub fn ended(&self, calls: u32) {
        let mut loans = self.loans.lock();
        loans.count = loans.count.saturating_sub(1);
        loans.calls += calls;
        if loans.count == 0 {
            self.usage.note_loan(std::mem::take(&mut loans.calls));
        }
    }
}

/// One end of a connection where plain reads and writes are all that it is about.
pub struct StreamEnd {
    /// The first ring goes from the end that counts as the writer to the other one.
    pub side: Side,
    pub incoming: Arc<Channel>,
    pub outgoing: Arc<Channel>,
    pub line: Arc<Line>,
    /// Where what is sent is counted.
    pub network: Option<Arc<NetworkStack>>,
}

impl StreamEnd {
    /// In the order of the rings.
    fn directions(&self) -> [&Arc<Channel>; 2] {
        match self.side {
            Side::Read => [&self.incoming, &self.outgoing],
            Side::Write | Side::Both => [&self.outgoing, &self.incoming],
        }
    }
}

impl Sharable for StreamEnd {
    fn users(&self, side: Side, user: User) -> Option<(User, User)> {
        if !self.line.sharing.note(side, user) {
            self.line.usage.start_over();
        }
        self.line.usage.note_call();
        if self.line.usage.is_worth_sharing() {
            self.line.sharing.users()
        } else {
            None
        }
    }

    fn ring_of(&self, reader: &User, writer: &User, make: &dyn Fn() -> Option<Arc<SharedRing>>) -> Option<Arc<SharedRing>> {
        self.line.sharing.ring_of(reader, writer, make)
    }

    fn rings(&self) -> usize {
        2
    }

    fn lend_shared(&self, ring: &Arc<SharedRing>, how: Nonblocking) -> bool {
        let back = Nonblocking { reader: how.writer, writer: how.reader };
        let mut any = false;
        for (index, (channel, how)) in self.directions().into_iter().zip([how, back]).enumerate() {
            let loan = RingLoan { shared: ring.clone(), index };
            any |= channel.lend_shared(loan, how, &self.line, self.network.as_ref());
        }
        any
    }

    fn end_shared(&self) {
        self.incoming.end_loan();
        self.outgoing.end_loan();
    }
}
