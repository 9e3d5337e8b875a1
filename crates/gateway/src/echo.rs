//! Echo requests (ping): those to us are answered; those to others go out by a socket of the host's that needs no privilege, where
//! the host gives it (`net.ipv4.ping_group_range`), and are not answered where it does not.

use crate::context::{Context, Source};
use crate::packet::{self, Packet};
use crate::policy::Protocol;
use crate::subnet;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{recv, send, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use smoltcp::time::{Duration, Instant};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

const MOST: usize = 32;
const IDLE: Duration = Duration::from_secs(10);
const LONGEST: usize = 65535;

const REQUEST_IPV4: u8 = 8;
const REPLY_IPV4: u8 = 0;
const REQUEST_IPV6: u8 = 128;
const REPLY_IPV6: u8 = 129;

/// Who was asked with which of the guest's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Question {
    to: IpAddr,
    id: [u8; 2],
}

#[derive(Default)]
pub struct Echoes {
    ids: HashMap<Question, u64>,
    all: HashMap<u64, Echo>,
    next: u64,
}

struct Echo {
    question: Question,
    guest: IpAddr,
    socket: OwnedFd,
    used: Instant,
}

impl Echoes {
    /// A message of ICMP from the guest.
    pub fn message(&mut self, context: &mut Context, packet: &Packet) {
        let Some(message) = packet.icmp() else { return };
        let (request, reply) = if packet.to.is_ipv4() { (REQUEST_IPV4, REPLY_IPV4) } else { (REQUEST_IPV6, REPLY_IPV6) };
        if message[..2] != [request, 0] {
            return;
        }
        if subnet::is_gateway(packet.to) || subnet::is_names(packet.to) {
            let mut answer = message.to_vec();
            answer[0] = reply;
            return packet::icmp(&mut context.out, packet.to, packet.from, &answer);
        }
        let to = SocketAddr::new(packet.to, 0);
        if let Err(clause) = context.policy.check(Protocol::Echo, to, context.now) {
            context.reports.denied(Protocol::Echo, to, clause, context.now);
            return packet::unreachable(&mut context.out, packet::Unreachable::Prohibited, packet);
        }
        let question = Question { to: packet.to, id: [message[4], message[5]] };
        if let Ok(echo) = self.echo(context, question, packet.from) {
            echo.used = context.now;
            // Lost, or refused: as if nobody had answered.
            let _ = send(&echo.socket, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }

    fn echo(&mut self, context: &mut Context, question: Question, guest: IpAddr) -> Result<&mut Echo, Errno> {
        let id = match self.ids.get(&question) {
            Some(id) => *id,
            None => {
                if self.all.len() >= MOST {
                    let oldest = self.all.iter().min_by_key(|(_, echo)| echo.used).map(|(id, _)| *id);
                    oldest.into_iter().for_each(|id| self.remove(id));
                }
                let (family, protocol) = match question.to {
                    IpAddr::V4(_) => (AddressFamily::INET, rustix::net::ipproto::ICMP),
                    IpAddr::V6(_) => (AddressFamily::INET6, rustix::net::ipproto::ICMPV6),
                };
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(protocol))?;
                rustix::net::connect(&socket, &SocketAddr::new(question.to, 0))?;
                let id = self.next;
                self.next += 1;
                context.watch(&socket, Source::Echo(id), EventFlags::IN)?;
                self.all.insert(id, Echo { question, guest, socket, used: context.now });
                self.ids.insert(question, id);
                id
            }
        };
        self.all.get_mut(&id).ok_or(Errno::BADF)
    }

    /// An answer has come.
    pub fn event(&mut self, context: &mut Context, id: u64) {
        let Some(echo) = self.all.get_mut(&id) else { return };
        let mut answer = vec![0; LONGEST];
        let Ok((_, count)) = recv(&echo.socket, &mut answer[..], RecvFlags::DONTWAIT) else { return };
        let answer = &mut answer[..count];
        let reply = if echo.question.to.is_ipv4() { REPLY_IPV4 } else { REPLY_IPV6 };
        if count >= 8 && answer[0] == reply && !context.out.is_full() {
            // The host has put its own number there.
            answer[4..6].copy_from_slice(&echo.question.id);
            packet::icmp(&mut context.out, echo.question.to, echo.guest, answer);
        }
    }

    pub fn next(&self) -> Option<Instant> {
        self.all.values().map(|echo| echo.used + IDLE).min()
    }

    pub fn run(&mut self, context: &mut Context) {
        let over = |(id, echo): (&u64, &Echo)| (echo.used + IDLE <= context.now).then_some(*id);
        for id in self.all.iter().filter_map(over).collect::<Vec<_>>() {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: u64) {
        if let Some(echo) = self.all.remove(&id) {
            self.ids.remove(&echo.question);
        }
    }
}
