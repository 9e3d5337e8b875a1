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
    context: Context,
    tcp: tcp::Connections,
    udp: udp::Flows,
    dns: dns::Forwarder,
    echo: echo::Echoes,
    started: std::time::Instant,
    /// What the guest's socket is watched for.
    watched: EventFlags,
}

impl Stack {
    pub fn new(guest: OwnedFd, config: Config, routes: Routes) -> Result<Stack, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (resolvers, mtu) = (config.resolvers.clone(), config.mtu);
        let policy = Policy::new(config, routes);
        let now = Instant::from_micros(0);
        let context = Context { epoll, out: Output::default(), policy, reports: Reports::new(now), now };
        let watched = EventFlags::IN;
        context.watch(&guest, Source::Guest, watched)?;
        Ok(Stack {
            guest,
            input: Input::default(),
            context,
            tcp: tcp::Connections::new(resolvers.clone(), mtu),
            udp: udp::Flows::new(mtu),
            dns: dns::Forwarder::new(resolvers, mtu),
            echo: echo::Echoes::default(),
            started: std::time::Instant::now(),
            watched,
        })
    }

    /// Until the line ends.
    pub fn serve(&mut self) -> Result<(), Error> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            self.wait(&mut events)?;
            self.context.now = Instant::from_micros(self.started.elapsed().as_micros() as i64);
            for event in &events {
                let flags = event.flags;
                match Source::unpack(event.data.u64()) {
                    Some(Source::Guest) => {
                        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) && self.read()? {
                            return Ok(());
                        }
                    }
                    Some(Source::Tcp(id)) => self.tcp.event(id, flags),
                    Some(Source::Udp(id)) => self.udp.event(&mut self.context, id),
                    Some(Source::Dns(id)) => self.dns.event(&mut self.context, id),
                    Some(Source::Echo(id)) => self.echo.event(&mut self.context, id),
                    None => {}
                }
            }
            if self.work()? {
                return Ok(());
            }
        }
    }

    fn wait(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, !self.context.out.is_overfull());
        wanted.set(EventFlags::OUT, !self.context.out.is_empty());
        if wanted != self.watched {
            let data = EventData::new_u64(Source::Guest.pack());
            epoll::modify(&self.context.epoll, &self.guest, data, wanted).map_err(Error::Socket)?;
            self.watched = wanted;
        }
        let next = [self.tcp.next(), self.udp.next(), self.dns.next(), self.echo.next()].into_iter().flatten().min();
        let now = self.started.elapsed().as_micros() as i64;
        let timeout = next.map(|at| {
            let micros = (at.total_micros() - now).max(0);
            Timespec { tv_sec: micros / 1_000_000, tv_nsec: micros % 1_000_000 * 1000 }
        });
        match epoll::wait(&self.context.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(Error::Socket(error)),
        }
    }

    /// What the guest has sent. True: the line has ended.
    fn read(&mut self) -> Result<bool, Error> {
        for _ in 0..READS {
            if self.context.out.is_overfull() {
                break;
            }
            match self.input.read(&self.guest) {
                Ok(true) => {}
                Ok(false) => break,
                Err(Error::End) => return Ok(true),
                Err(error) => return Err(error),
            }
            while let Some(frame) = self.input.frame()? {
                if let Some(packet) = ethernet::take(&mut self.context.out, frame).and_then(Packet::parse) {
                    lead(&mut self.context, &mut self.tcp, &mut self.udp, &mut self.dns, &mut self.echo, &packet);
                }
            }
        }
        Ok(false)
    }

    /// Connections move on, and what there is for the guest goes out. True: the line has ended.
    fn work(&mut self) -> Result<bool, Error> {
        self.udp.run(&mut self.context);
        self.dns.run(&mut self.context);
        self.echo.run(&mut self.context);
        loop {
            self.tcp.run(&mut self.context);
            let full = self.context.out.is_full();
            match self.context.out.write(&self.guest) {
                Ok(()) => {}
                Err(Error::End) => return Ok(true),
                Err(error) => return Err(error),
            }
            if self.context.out.is_full() {
                return Ok(false);
            }
            self.tcp.room();
            if !full {
                return Ok(false);
            }
        }
    }
}

/// To whose a packet is. From anybody but the guest there is nothing.
fn lead(
    context: &mut Context,
    tcp: &mut tcp::Connections,
    udp: &mut udp::Flows,
    dns: &mut dns::Forwarder,
    echo: &mut echo::Echoes,
    packet: &Packet,
) {
    if let (IpAddr::V6(from), Some(message)) = (packet.from, packet.icmp()) {
        if ethernet::answer_neighbour(&mut context.out, from, message) {
            return;
        }
    }
    if !subnet::is_guest(packet.from) {
        return;
    }
    match packet.protocol {
        IpProtocol::Tcp => tcp.segment(context, packet),
        IpProtocol::Udp => {
            let Some((source, target, payload)) = packet.udp() else { return };
            let (guest, to) = (SocketAddr::new(packet.from, source), SocketAddr::new(packet.to, target));
            match subnet::is_names(to.ip()) && target == dns::PORT {
                true => dns.ask(context, guest, to, payload),
                false => udp.datagram(context, packet, guest, to, payload),
            }
        }
        IpProtocol::Icmp | IpProtocol::Icmpv6 => echo.message(context, packet),
        _ => {}
    }
}
