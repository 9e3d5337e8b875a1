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
            if self.parts.context.out.is_overfull() || !self.input.read(&self.guest)? {
                break;
            }
            while let Some(frame) = self.input.frame()? {
                self.parts.frame(frame);
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
