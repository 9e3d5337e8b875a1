//! DNS over UDP: each question goes on with an id and a socket of its own, so that nobody but the resolver can answer it, and from
//! one resolver to the next where none answers.

use super::message::{refusal, set_id, Question, Rcode};
use super::PORT;
use crate::config::Transport;
use crate::context::{Context, Source};
use crate::packet;
use crate::policy::Protocol;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{recv, send, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use smoltcp::time::{Duration, Instant};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

const MOST: usize = 128;
/// How long a resolver is waited for, and all of them in turn.
const PATIENCE: Duration = Duration::from_secs(2);
const TRIES: usize = 4;
const LONGEST: usize = 65535;
/// The headers of IP and UDP before an answer.
const HEADERS_IPV4: usize = 28;
const HEADERS_IPV6: usize = 48;

pub struct Forwarder {
    resolvers: Vec<IpAddr>,
    mtu: u16,
    pending: HashMap<u64, Pending>,
    next: u64,
}

struct Pending {
    socket: OwnedFd,
    /// With our id; the guest's is to be put back.
    question: Question,
    guest_id: u16,
    message: Vec<u8>,
    /// Who asked whom.
    guest: SocketAddr,
    server: SocketAddr,
    tries: usize,
    until: Instant,
}

impl Forwarder {
    pub fn new(resolvers: Vec<IpAddr>, mtu: u16) -> Forwarder {
        Forwarder { resolvers, mtu, pending: HashMap::new(), next: 0 }
    }

    /// A datagram to our server.
    pub fn ask(&mut self, context: &mut Context, guest: SocketAddr, server: SocketAddr, message: &[u8]) {
        if let Err(clause) = context.policy.check_names(Transport::Udp) {
            context.reports.denied(Protocol::Transport(Transport::Udp), server, clause, context.now);
            return packet::udp(&mut context.out, server, guest, &refusal(message, Rcode::Refused));
        }
        let mut question = match super::check(message, context) {
            Ok(question) => question,
            Err(Some(answer)) => return packet::udp(&mut context.out, server, guest, &answer),
            Err(None) => return,
        };
        if self.pending.len() >= MOST {
            return packet::udp(&mut context.out, server, guest, &refusal(message, Rcode::ServerFailure));
        }
        let guest_id = question.id;
        question.id = context.random() as u16;
        let mut message = message.to_vec();
        set_id(&mut message, question.id);
        let id = self.next;
        self.next += 1;
        let tried = self.try_next(context, id, 0, &message);
        match tried {
            Some((socket, tries)) => {
                let until = context.now + PATIENCE;
                self.pending.insert(id, Pending { socket, question, guest_id, message, guest, server, tries, until });
            }
            None => {
                set_id(&mut message, guest_id);
                packet::udp(&mut context.out, server, guest, &refusal(&message, Rcode::ServerFailure));
            }
        }
    }

    /// Asks the next resolver that can be asked; how often that was tried then.
    fn try_next(&self, context: &mut Context, id: u64, tries: usize, message: &[u8]) -> Option<(OwnedFd, usize)> {
        (tries..TRIES.max(self.resolvers.len())).find_map(|number| {
            let resolver = self.resolvers.get(number % self.resolvers.len().max(1))?;
            let socket = ask(SocketAddr::new(*resolver, PORT), message).ok()?;
            context.watch(&socket, Source::Dns(id), EventFlags::IN).ok()?;
            Some((socket, number + 1))
        })
    }

    /// A resolver's socket has something.
    pub fn event(&mut self, context: &mut Context, id: u64) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        let mut answer = vec![0; LONGEST];
        match rustix::io::retry_on_intr(|| recv(&pending.socket, &mut answer[..], RecvFlags::DONTWAIT)) {
            Ok((_, count)) => answer.truncate(count),
            Err(Errno::AGAIN) => return,
            // Nobody is there.
            Err(_) => return self.go_on(context, id),
        }
        if !pending.question.is_answered_by(&answer) {
            return;
        }
        super::learn(&pending.question, &answer, context);
        set_id(&mut answer, pending.guest_id);
        let headers = if pending.server.is_ipv4() { HEADERS_IPV4 } else { HEADERS_IPV6 };
        if answer.len() + headers > usize::from(self.mtu) {
            // It would not come through in one piece: by TCP it does.
            answer = super::message::truncated(&answer);
        }
        packet::udp(&mut context.out, pending.server, pending.guest, &answer);
        self.pending.remove(&id);
    }

    /// To the next resolver; after the last one the guest hears that there is none.
    fn go_on(&mut self, context: &mut Context, id: u64) {
        let Some(mut pending) = self.pending.remove(&id) else { return };
        match self.try_next(context, id, pending.tries, &pending.message) {
            Some((socket, tries)) => {
                (pending.socket, pending.tries, pending.until) = (socket, tries, context.now + PATIENCE);
                self.pending.insert(id, pending);
            }
            None => {
                set_id(&mut pending.message, pending.guest_id);
                let answer = refusal(&pending.message, Rcode::ServerFailure);
                packet::udp(&mut context.out, pending.server, pending.guest, &answer);
            }
        }
    }

    pub fn next(&self) -> Option<Instant> {
        self.pending.values().map(|pending| pending.until).min()
    }

    pub fn run(&mut self, context: &mut Context) {
        let late = |pending: &&u64| self.pending[*pending].until <= context.now;
        for id in self.pending.keys().filter(late).copied().collect::<Vec<_>>() {
            self.go_on(context, id);
        }
    }
}

fn ask(resolver: SocketAddr, message: &[u8]) -> Result<OwnedFd, Errno> {
    let family = if resolver.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    rustix::net::connect(&socket, &resolver)?;
    send(&socket, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    Ok(socket)
}
