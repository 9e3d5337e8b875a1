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
    /// How often nothing could be lent since something was.
    in_vain: u32,
}

/// So often is normal: who waits in the sentry for an answer is in the way.
const OFTEN: u32 = 64;

impl Line {
    /// A direction is lent.
    pub fn begun(&self) {
        let mut loans = self.loans.lock();
        loans.count += 1;
        loans.in_vain = 0;
    }

    /// Nothing could be lent now.
    fn put_off(&self) {
        let mut loans = self.loans.lock();
        loans.in_vain = loans.in_vain.saturating_add(1);
        if loans.count == 0 && loans.in_vain > OFTEN {
            self.usage.note_loan(0);
        }
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
        if !any {
            // Somebody watches the other end, most often. That is not to be found out at each call.
            self.line.put_off();
        }
        any
    }

    fn end_shared(&self) {
        self.incoming.end_loan();
        self.outgoing.end_loan();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::channel::{Framing, ReceiveMode};
    use crate::net::rights::InFlight;
    use crate::net::ring::Budget;
    use crate::net::socket::UserCredentials;
    use crate::run::AddressSpace;
    use crate::sync::{Hears, WaitQueue, Waiter, Wake};
    use skerry_platform::pipe_ring::PipeRing;
    use std::sync::Weak;

    /// Does not look again.
    struct HearsOfEach;

    impl Wake for HearsOfEach {
        fn wake(&self) {}

        fn hears(&self) -> Hears {
            Hears::Each
        }
    }

    struct Pair {
        ends: [StreamEnd; 2],
        queues: [Arc<WaitQueue>; 2],
        ring: Arc<SharedRing>,
        _spaces: Vec<Arc<AddressSpace>>,
    }

    fn pair(capacity: usize, processes: usize, budget: &Arc<Budget>) -> Pair {
        let queues: [Arc<WaitQueue>; 2] = Default::default();
        let channel = |from: usize| {
            let (reader, writer) = (queues[1 - from].clone(), queues[from].clone());
            Channel::new(Framing::Bytes, capacity, reader, writer, budget.clone())
        };
        let (forth, back, line) = (channel(0), channel(1), Arc::new(Line::default()));
        let end = |side, incoming: &Arc<Channel>, outgoing: &Arc<Channel>| StreamEnd {
            side,
            incoming: incoming.clone(),
            outgoing: outgoing.clone(),
            line: line.clone(),
            network: None,
        };
        let ends = [end(Side::Write, &back, &forth), end(Side::Read, &forth, &back)];
        let spaces: Vec<_> = (0..processes).map(|_| Arc::new(AddressSpace::default())).collect();
        let user = |index: usize| User {
            space: Arc::downgrade(&spaces[index % processes]),
            files: Weak::new(),
            file: Weak::new(),
            fd: 3,
        };
        let (rings, memory) = PipeRing::create(1, 2).unwrap();
        let ring = SharedRing::new(rings, memory, &user(1), &user(0), Arc::default());
        Pair { ends, queues, ring, _spaces: spaces }
    }

    impl Pair {
        fn lend(&self) -> bool {
            self.ring.lend(|| self.ends[0].lend_shared(&self.ring, Nonblocking::default()))
        }

        fn is_lent(&self) -> [bool; 2] {
            [0, 1].map(|index| self.ring.rings[index].is_lent())
        }

        fn send(&self, from: usize, bytes: &[u8]) {
            self.ends[from].outgoing.send(bytes, &mut InFlight::none(), UserCredentials::NOBODY).unwrap();
        }

        fn receive(&self, to: usize) -> Vec<u8> {
            let mut buffer = vec![0; 1 << 20];
            let received = self.ends[to].incoming.receive(&mut buffer, ReceiveMode::default()).unwrap().unwrap();
            buffer[..received.count].to_vec()
        }
    }

    #[test]
    fn each_direction_is_everybodys_again_once_somebody_looks() {
        let pair = pair(200_000, 1, &Arc::default());
        pair.send(0, b"forth");
        pair.send(1, b"back");
        assert!(pair.lend() && pair.is_lent() == [true, true]);
        assert!(!pair.lend());
        pair.ends[0].outgoing.passed_on();
        assert_eq!(pair.is_lent(), [true, true]);
        assert_eq!(pair.receive(1), b"forth");
        assert_eq!(pair.is_lent(), [false, true]);
        assert_eq!(pair.receive(0), b"back");
        assert!(pair.lend() && pair.is_lent() == [true, true]);
        pair.ends[1].outgoing.close_write();
        assert_eq!(pair.is_lent(), [true, false]);
        pair.ends[0].end_shared();
        assert!(pair.lend() && pair.is_lent() == [true, false]);
    }

    #[test]
    fn it_is_lent_to_two_only_while_nobody_else_has_it_or_waits() {
        let pair = pair(200_000, 2, &Arc::default());
        assert!(pair.lend());
        pair.ends[0].incoming.passed_on();
        assert_eq!(pair.is_lent(), [true, false]);
        pair.ends[0].end_shared();
        let registration = pair.queues[1].register(Arc::new(HearsOfEach));
        assert!(!pair.lend());
        drop(registration);
        // Who looks again when he is woken is told by whom it is lent to.
        let _registration = pair.queues[1].register(Waiter::new());
        pair.send(0, &[0; 65_537]);
        assert!(pair.lend() && pair.is_lent() == [false, true]);
        // What was given up is lent no more.
        pair.ends[0].end_shared();
        assert!(pair.ring.make_room() && !pair.lend());
    }

    #[test]
    fn what_is_lent_is_no_more_than_a_socket_holds_and_is_accounted_for() {
        assert!(!pair(65_535, 1, &Arc::default()).lend());
        let budget = Arc::new(Budget::default());
        budget.set_limit(100_000);
        let pair = pair(200_000, 1, &budget);
        assert!(pair.lend() && pair.is_lent() == [true, false]);
        pair.ends[0].end_shared();
        assert_eq!(budget.used(), 0);
    }
}
