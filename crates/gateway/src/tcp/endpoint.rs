//! The guest's side of a connection: TCP itself is smoltcp's. Each connection has an interface and a socket of its own, so that
//! what it costs does not depend on how many there are; the interface has the address that the guest has connected to.

use crate::line::Output;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};
use std::net::SocketAddr;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Of bytes that wait each way: what the guest has not taken, and what the host has not.
const BUFFER: usize = 128 << 10;
/// At least so many of the longest: with fewer, a sender waits for answers (65,520 bytes each: 510 MB/s, not 1,100).
const PACKETS: usize = 4;

pub use smoltcp::socket::tcp::State;

pub struct Endpoint {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    mtu: usize,
}

impl Endpoint {
    /// Waits at the address for the connection's first segment. `seed`: its sequence numbers come of it.
    pub fn new(address: SocketAddr, mtu: u16, seed: u64, now: Instant) -> Endpoint {
        let mtu = usize::from(mtu);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut Wire { input: None, out: &mut Output::default(), mtu }, now);
        // Everybody is on this network: there are no routes.
        interface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::new(address.ip().into(), 0));
        });
        let buffer = || SocketBuffer::new(vec![0; BUFFER.max(PACKETS * mtu)]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        // The port is not 0, which is all that can be wrong with it.
        let _ = socket.listen((smoltcp::wire::IpAddress::from(address.ip()), address.port()));
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Endpoint { interface, sockets, handle, mtu }
    }

    pub fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub fn state(&self) -> State {
        self.sockets.get::<Socket>(self.handle).state()
    }

    /// Takes a packet that is the connection's; at most one goes out for it.
    pub fn take(&mut self, packet: &[u8], out: &mut Output, now: Instant) {
        self.guarded(|endpoint| {
            let mut wire = Wire { input: Some(packet), out, mtu: endpoint.mtu };
            endpoint.interface.poll_ingress_single(now, &mut wire, &mut endpoint.sockets);
        });
    }

    /// Sends what is to be sent, as long as there is room.
    pub fn send(&mut self, out: &mut Output, now: Instant) {
        self.guarded(|endpoint| {
            let mut wire = Wire { input: None, out, mtu: endpoint.mtu };
            while endpoint.interface.poll_egress(now, &mut wire, &mut endpoint.sockets) == PollResult::SocketStateChanged {}
        });
    }

    /// No panic of smoltcp's is known that a packet could bring about. Should there be one, it is the end of this connection, and not
    /// of all: its socket is another one then, which is closed.
    fn guarded(&mut self, act: impl FnOnce(&mut Endpoint)) {
        if catch_unwind(AssertUnwindSafe(|| act(self))).is_err() {
            let empty = || SocketBuffer::new(Vec::new());
            self.sockets = SocketSet::new(Vec::new());
            self.handle = self.sockets.add(Socket::new(empty(), empty()));
        }
    }

    /// When there is something to send next, if nothing comes before.
    pub fn next(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll_at(now, &self.sockets)
    }
}

/// As smoltcp sees the guest's link: a packet that has come, and the way out.
struct Wire<'a> {
    input: Option<&'a [u8]>,
    out: &'a mut Output,
    mtu: usize,
}

struct Came<'a>(&'a [u8]);

struct Goes<'a>(&'a mut Output);

impl Device for Wire<'_> {
    type RxToken<'b>
        = Came<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Goes<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Came<'_>, Goes<'_>)> {
        let input = self.input.take()?;
        Some((Came(input), Goes(self.out)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Goes<'_>> {
        (!self.out.is_full()).then_some(Goes(self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

impl RxToken for Came<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

impl TxToken for Goes<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        self.0.packet(length, fill)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_the_end_of_one_connection() {
        let mut endpoint = Endpoint::new(SocketAddr::from(([127, 0, 0, 1], 9)), 1500, 1, Instant::ZERO);
        assert_eq!(endpoint.state(), State::Listen);
        endpoint.guarded(|_| panic!("this is told, and not the end"));
        assert_eq!(endpoint.state(), State::Closed);
        endpoint.socket().close();
        endpoint.socket().abort();
        endpoint.take(&[0x45; 40], &mut Output::default(), Instant::ZERO);
        endpoint.send(&mut Output::default(), Instant::ZERO);
        assert!(!endpoint.socket().can_recv() && !endpoint.socket().can_send());
    }
}
