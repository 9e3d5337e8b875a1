//! The loop: waits for the guest, for sockets of the host's, and for time; and leads each packet to whose it is.

use crate::config::Config;
use crate::context::{Context, Source};
use crate::host::Routes;
use crate::line::{Error, Input, Output};
use crate::packet::Packet;
use crate::policy::Policy;
use crate::report::Reports;
use crate::{dns, echo, ethernet, subnet, tcp, udp};
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;
use smoltcp::time::Instant;
use smoltcp::wire::IpProtocol;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

/// Of one wait.
const EVENTS: usize = 256;
/// However much the guest sends, others have their turn.
const READS: usize = 4;

pub struct Stack {
    guest: OwnedFd,
    input: Input,
    parts: Parts,
    started: std::time::Instant,
    /// What the guest's socket is watched for.
    watched: EventFlags,
}

/// Who packets are for.
struct Parts {
    context: Context,
    tcp: tcp::Connections,
    udp: udp::Flows,
    dns: dns::Forwarder,
    echo: echo::Echoes,
}

impl Stack {
    pub fn new(guest: OwnedFd, config: Config, routes: Routes) -> Result<Stack, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watched = EventFlags::IN;
        let (resolvers, mtu) = (config.resolvers.clone(), config.mtu);
        let now = Instant::from_micros(0);
        let (policy, reports) = (Policy::new(config, routes), Reports::new(now));
        let context = Context { epoll, out: Output::default(), policy, reports, now };
        context.watch(&guest, Source::Guest, watched)?;
        let parts = Parts {
            context,
            tcp: tcp::Connections::new(resolvers.clone(), mtu),
            udp: udp::Flows::new(mtu),
            dns: dns::Forwarder::new(resolvers, mtu),
            echo: echo::Echoes::default(),
        };
        Ok(Stack { guest, input: Input::default(), parts, started: std::time::Instant::now(), watched })
    }

    /// Until the line ends.
    pub fn serve(&mut self) -> Result<(), Error> {
        match self.go_on() {
            Error::End => Ok(()),
            error => Err(error),
        }
    }

    fn go_on(&mut self) -> Error {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            let turn = self.wait(&mut events).and_then(|()| self.turn(&events));
            if let Err(error) = turn {
                return error;
            }
        }
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.started.elapsed().as_micros() as i64)
    }

    fn wait(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        let out = &self.parts.context.out;
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, !out.is_overfull());
        wanted.set(EventFlags::OUT, !out.is_empty());
        if wanted != self.watched {
            let data = EventData::new_u64(Source::Guest.pack());
            epoll::modify(&self.parts.context.epoll, &self.guest, data, wanted).map_err(Error::Socket)?;
            self.watched = wanted;
        }
        let timeout = self.parts.next().map(|at| {
            let micros = (at - Instant::ZERO).total_micros().saturating_sub(self.now().total_micros() as u64) as i64;
            Timespec { tv_sec: micros / 1_000_000, tv_nsec: micros % 1_000_000 * 1000 }
        });
        match epoll::wait(&self.parts.context.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(Error::Socket(error)),
        }
    }

    /// What has come is taken, connections move on, and what there is for the guest goes out.
    fn turn(&mut self, events: &[Event]) -> Result<(), Error> {
        self.parts.context.now = self.now();
        for event in events {
            let flags = event.flags;
            match Source::unpack(event.data.u64()) {
                Some(Source::Guest) if flags == EventFlags::OUT => {}
                Some(Source::Guest) => self.read()?,
                Some(source) => self.parts.event(source, flags),
                None => {}
            }
        }
        self.parts.run();
        loop {
            let was_full = self.parts.context.out.is_full();
            self.parts.context.out.write(&self.guest)?;
            if !was_full || self.parts.context.out.is_full() {
                return Ok(());
            }
            // Some have waited for that.
            self.parts.tcp.room();
            self.parts.run();
        }
    }

    /// What the guest has sent.
    fn read(&mut self) -> Result<(), Error> {
        for _ in 0..READS {
            if self.parts.context.out.is_overfull() {
                break;
            }
            let more = self.input.read(&self.guest)?;
            while let Some(frame) = self.input.frame()? {
                self.parts.frame(frame);
            }
            if !more {
                break;
            }
        }
        Ok(())
    }
}

impl Parts {
    /// From anybody but the guest there is nothing.
    fn frame(&mut self, frame: &[u8]) {
        let out = &mut self.context.out;
        let Some(packet) = ethernet::take(out, frame).and_then(Packet::parse) else { return };
        if let (IpAddr::V6(from), Some(message)) = (packet.from, packet.icmp()) {
            if ethernet::answer_neighbour(out, from, message) {
                return;
            }
        }
        if subnet::is_guest(packet.from) {
            self.packet(&packet);
        }
    }

    fn packet(&mut self, packet: &Packet) {
        let context = &mut self.context;
        match packet.protocol {
            IpProtocol::Tcp => self.tcp.segment(context, packet),
            IpProtocol::Udp => {
                let Some((source, target, payload)) = packet.udp() else { return };
                let (guest, to) = (SocketAddr::new(packet.from, source), SocketAddr::new(packet.to, target));
                match subnet::is_names(to.ip()) && target == dns::PORT {
                    true => self.dns.ask(context, guest, to, payload),
                    false => self.udp.datagram(context, packet, guest, to, payload),
                }
            }
            IpProtocol::Icmp | IpProtocol::Icmpv6 => self.echo.message(context, packet),
            _ => {}
        }
    }

    fn event(&mut self, source: Source, flags: EventFlags) {
        match source {
            Source::Guest => {}
            Source::Tcp(id) => self.tcp.event(id, flags),
            Source::Udp(id) => self.udp.event(&mut self.context, id),
            Source::Dns(id) => self.dns.event(&mut self.context, id),
            Source::Echo(id) => self.echo.event(&mut self.context, id),
        }
    }

    fn run(&mut self) {
        self.udp.run(&mut self.context);
        self.dns.run(&mut self.context);
        self.echo.run(&mut self.context);
        self.tcp.run(&mut self.context);
    }

    /// When something is to be done without an event.
    fn next(&self) -> Option<Instant> {
        [self.tcp.next(), self.udp.next(), self.dns.next(), self.echo.next()].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum;
    use crate::fuzz_tests::Random;
    use crate::packet;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    const GUEST: [u8; 4] = [10, 0, 2, 15];
    const LOCAL: [u8; 4] = [127, 0, 0, 1];

    fn written(write: impl FnOnce(&mut Output)) -> Vec<u8> {
        let mut out = Output::default();
        write(&mut out);
        out.only_packet().unwrap().to_vec()
    }

    /// A segment to this host.
    fn segment(flags: u8) -> Vec<u8> {
        let mut segment = [0, 9, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 9, 9, 0, 0, 0, 0];
        let sum = checksum::of(&[&GUEST[..], &LOCAL, &[0, 6, 0, 20], &segment].concat());
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        let mut packet = written(|out| packet::icmp(out, GUEST.into(), LOCAL.into(), &segment));
        packet[9] = 6;
        packet[20..].copy_from_slice(&segment);
        correct(&mut packet);
        assert!(Packet::parse(&packet).unwrap().tcp().is_some());
        packet
    }

    /// Packets as a guest sends them, to us and to this host.
    fn good() -> Vec<Vec<u8>> {
        let guest = SocketAddr::from((GUEST, 7));
        let question = [1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];
        let own = IpAddr::from([0xfd00, 0x5ce, 0, 0, 0, 0, 0, 0x15]);
        let names = IpAddr::from([0xfd00, 0x5ce, 0, 0, 0, 0, 0, 3]);
        let asked = [&[135, 0, 0, 0, 0, 0, 0, 0, 0xfd, 0, 5, 0xce][..], &[0; 11], &[2]].concat();
        vec![
            written(|out| packet::udp(out, guest, SocketAddr::from(([10, 0, 2, 3], 53)), &question)),
            written(|out| packet::udp(out, guest, SocketAddr::from((LOCAL, 9)), b"datagram")),
            written(|out| packet::udp(out, guest, SocketAddr::from(([198, 51, 100, 1], 9)), b"denied")),
            written(|out| packet::icmp(out, GUEST.into(), [10, 0, 2, 2].into(), &[8, 0, 0, 0, 0, 1, 0, 1, 9])),
            written(|out| packet::icmp(out, own, names, &asked)),
            written(|out| packet::udp(out, SocketAddr::new(own, 8), SocketAddr::new(names, 53), &question)),
            segment(2),
            segment(0x11),
        ]
    }

    /// Makes the sum of an IP header right.
    fn correct(packet: &mut [u8]) {
        let header = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
        if packet.len() >= header && header >= 20 {
            packet[10..12].fill(0);
            let sum = checksum::of(&packet[..header]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// The line as a whole: right frames, spoiled ones and noise, cut anywhere.
    #[test]
    fn anything_may_come_in_any_pieces() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let config = Config::parse(br#"{"addresses": ["127.0.0.0/8"]}"#).unwrap();
        let mut stack = Stack::new(theirs.into(), config, Routes::open().unwrap()).unwrap();
        let mut random = Random(7);
        let (good, mut stream, mut answers) = (good(), Vec::new(), 0);
        for round in 0..30_000 {
            let mut packet = good[random.below(good.len())].clone();
            let kind = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
            if random.below(4) > 0 {
                packet.truncate(random.below(2 * packet.len()));
                (0..random.below(4)).for_each(|_| {
                    if !packet.is_empty() {
                        let at = random.below(packet.len());
                        packet[at] = random.next() as u8;
                    }
                });
                correct(&mut packet);
            }
            let header = [&ethernet::GATEWAY[..], &[2, 0, 0, 0, 0, 1], &kind].concat();
            let mut frame = [header, packet].concat();
            if random.below(10) == 0 {
                frame = (0..random.below(100)).map(|_| random.next() as u8).collect();
            }
            stream.extend((frame.len() as u32).to_be_bytes());
            stream.extend(frame);
            let piece = random.below(stream.len() + 1);
            ours.write_all(&stream[..piece]).unwrap();
            stream.drain(..piece);
            stack.parts.context.now = Instant::from_millis(round);
            stack.read().unwrap();
            stack.parts.run();
            stack.parts.context.out.write(&stack.guest).unwrap();
            answers += ours.read(&mut [0; 1 << 16]).unwrap_or(0);
        }
        assert!(answers > 100_000, "{answers}");
        assert!(stack.parts.next().is_some());
    }
}
