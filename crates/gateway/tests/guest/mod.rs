//! A guest for the tests: the other end of the line, with a TCP of its own (smoltcp's), and `skerry-gateway` as a process.
#![allow(dead_code, reason = "each test program uses a part of it")]

use rustix::event::{poll, PollFd, PollFlags};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{self, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr};
use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::time::Duration;

pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub const NAMES: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
pub const ADDRESS_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x5ce, 0, 0, 0, 0, 0, 0x15);
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GATEWAY_ETHERNET: [u8; 6] = [0x52, 0x55, 0x0a, 0, 2, 2];
const PATIENCE: Duration = Duration::from_secs(20);
const BUFFER: usize = 256 << 10;

/// The gateway's process.
pub struct Gateway {
    pub child: Child,
    errors: Receiver<String>,
}

/// Starts one; the other end of its line.
pub fn start(config: &str) -> (Gateway, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let number = theirs.as_raw_fd();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-under-test"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: dup2 is all that the child does before it becomes another program.
    unsafe {
        command.pre_exec(move || match libc::dup2(number, 3) {
            3 if number != 3 => Ok(()),
            3 => {
                libc::fcntl(3, libc::F_SETFD, 0);
                Ok(())
            }
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
    let (send, errors) = channel();
    let standard_error = BufReader::new(child.stderr.take().unwrap());
    std::thread::spawn(move || standard_error.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    (Gateway { child, errors }, ours)
}

impl Gateway {
    /// Until it serves.
    pub fn wait_until_ready(&mut self) {
        let mut line = [0; 6];
        self.child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap_or_else(|_| panic!("{:?}", self.error()));
        assert_eq!(&line, b"ready\n");
    }

    /// The next line of standard error.
    pub fn error(&self) -> String {
        self.errors.recv_timeout(PATIENCE).expect("a line on standard error")
    }

    pub fn has_no_error(&self) -> bool {
        self.errors.recv_timeout(Duration::from_millis(100)).is_err()
    }

    /// Seconds of a processor that it has had.
    pub fn worked(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Guest {
    pub gateway: Gateway,
    line: UnixStream,
    interface: Interface,
    sockets: SocketSet<'static>,
    link: Link,
    received: Vec<u8>,
    /// Packets that are not of TCP.
    others: VecDeque<Vec<u8>>,
    /// What each of our ports was sent last.
    segments: HashMap<u16, Segment>,
    started: std::time::Instant,
    next_port: u16,
    buffer: usize,
}

/// Of its header.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub sequence: u32,
    pub acknowledged: u32,
    /// As it is scaled.
    pub window: u16,
}

/// How a connection failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused;

impl Guest {
    pub fn start(config: &str) -> Guest {
        Guest::start_with(config, 1500, BUFFER)
    }

    pub fn start_with(config: &str, mtu: usize, buffer: usize) -> Guest {
        let (mut gateway, line) = start(config);
        gateway.wait_until_ready();
        let mut link = Link { mtu, input: VecDeque::new(), output: Vec::new() };
        let mut settings = Config::new(HardwareAddress::Ip);
        settings.random_seed = std::process::id().into();
        let mut interface = Interface::new(settings, &mut link, Instant::from_micros(0));
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddr::V4(ADDRESS).into(), 0)).unwrap();
            addresses.push(IpCidr::new(IpAddr::V6(ADDRESS_IPV6).into(), 0)).unwrap();
        });
        let sockets = SocketSet::new(Vec::new());
        let started = std::time::Instant::now();
        let (received, others, segments) = (Vec::new(), VecDeque::new(), HashMap::new());
        Guest { gateway, line, interface, sockets, link, received, others, segments, started, next_port: 40000, buffer }
    }

    /// Frames in and out; waits for at most so long for the first.
    pub fn step(&mut self, patience: Duration) {
        let now = Instant::from_micros(self.started.elapsed().as_micros() as i64);
        while self.interface.poll(now, &mut self.link, &mut self.sockets) == PollResult::SocketStateChanged {}
        self.flush();
        let timeout = rustix::time::Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
        let ready = poll(&mut [PollFd::new(&self.line, PollFlags::IN)], Some(&timeout)).unwrap();
        if ready > 0 {
            let start = self.received.len();
            self.received.resize(start + (256 << 10), 0);
            let count = self.line.read(&mut self.received[start..]).unwrap_or(0);
            self.received.truncate(start + count);
            self.take_frames();
        }
        let now = Instant::from_micros(self.started.elapsed().as_micros() as i64);
        while self.interface.poll(now, &mut self.link, &mut self.sockets) == PollResult::SocketStateChanged {}
        self.flush();
    }

    fn take_frames(&mut self) {
        let mut at = 0;
        while let Some(length) = self.received[at..].first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            let Some(frame) = self.received[at + 4..].get(..length) else { break };
            at += 4 + length;
            assert_eq!((&frame[..6], &frame[6..12]), (&OWN[..], &GATEWAY_ETHERNET[..]));
            let packet = frame[14..].to_vec();
            let is_tcp = frame[12..14] == [8, 0] && packet[9] == 6 || frame[12..14] == [0x86, 0xdd] && packet[6] == 6;
            match is_tcp {
                true => {
                    let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
                    if packet.len() >= 40 && packet[0] == 0x45 {
                        let window = (word(32) & 0xffff) as u16;
                        let segment = Segment { sequence: word(24), acknowledged: word(28), window };
                        self.segments.insert(word(20) as u16, segment);
                    }
                    self.link.input.push_back(packet);
                }
                false => self.others.push_back(frame[12..].to_vec()),
            }
        }
        self.received.drain(..at);
    }

    fn flush(&mut self) {
        let _ = self.line.write_all(&self.link.output);
        self.link.output.clear();
    }

    /// Steps until that is so.
    pub fn until<T>(&mut self, what: &str, mut is_so: impl FnMut(&mut Guest) -> Option<T>) -> T {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = is_so(self) {
                return found;
            }
            assert!(std::time::Instant::now() < deadline, "{what}: not in time");
            self.step(Duration::from_millis(20));
        }
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn last_segment(&self, port: u16) -> Option<Segment> {
        self.segments.get(&port).copied()
    }

    /// Begins to connect.
    pub fn begin(&mut self, to: SocketAddr) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; self.buffer]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        self.next_port += 1;
        socket.connect(self.interface.context(), to, self.next_port).unwrap();
        self.sockets.add(socket)
    }

    /// Forgets one, whatever it is at.
    pub fn forget(&mut self, handle: SocketHandle) {
        self.sockets.remove(handle);
    }

    pub fn connect(&mut self, to: SocketAddr) -> Result<SocketHandle, Refused> {
        let handle = self.begin(to);
        self.until("a connection", |guest| match guest.socket(handle).state() {
            State::SynSent => None,
            State::Closed => Some(Err(Refused)),
            _ => Some(Ok(handle)),
        })
    }

    pub fn write(&mut self, handle: SocketHandle, bytes: &[u8]) {
        let mut rest = bytes;
        self.until("a write", |guest| {
            let count = guest.socket(handle).send_slice(rest).expect("it can be written to");
            rest = &rest[count..];
            rest.is_empty().then_some(())
        });
    }

    /// At least one byte; none at the end.
    pub fn read(&mut self, handle: SocketHandle) -> Result<Vec<u8>, Refused> {
        self.until("a read", |guest| {
            let socket = guest.socket(handle);
            let mut bytes = vec![0; 64 << 10];
            match socket.recv_slice(&mut bytes) {
                Ok(0) => None,
                Ok(count) => {
                    bytes.truncate(count);
                    Some(Ok(bytes))
                }
                Err(smoltcp::socket::tcp::RecvError::Finished) => Some(Ok(Vec::new())),
                Err(smoltcp::socket::tcp::RecvError::InvalidState) => Some(Err(Refused)),
            }
        })
    }

    pub fn read_exactly(&mut self, handle: SocketHandle, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let more = self.read(handle).unwrap();
            assert!(!more.is_empty(), "the end after {} of {count} bytes", bytes.len());
            bytes.extend(more);
        }
        bytes
    }

    pub fn read_all(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let more = self.read(handle).unwrap();
            if more.is_empty() {
                return bytes;
            }
            bytes.extend(more);
        }
    }

    /// Any packet, or with a type of Ethernet's any frame.
    pub fn send_frame(&mut self, kind: u16, payload: &[u8]) {
        let frame = [&GATEWAY_ETHERNET[..], &OWN, &kind.to_be_bytes(), payload].concat();
        self.send_raw(&[&(frame.len() as u32).to_be_bytes()[..], &frame].concat());
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.link.output.extend_from_slice(bytes);
        self.flush();
    }

    pub fn send_udp(&mut self, from: u16, to: (Ipv4Addr, u16), payload: &[u8]) {
        let repr = UdpRepr { src_port: from, dst_port: to.1 };
        let datagram = [&[0; 8], payload].concat();
        let mut bytes = ipv4(to.0, IpProtocol::Udp, &datagram);
        repr.emit(
            &mut UdpPacket::new_unchecked(&mut bytes[20..]),
            &ADDRESS.into(),
            &to.0.into(),
            payload.len(),
            |place| place.copy_from_slice(payload),
            &ChecksumCapabilities::default(),
        );
        self.send_frame(0x0800, &bytes);
    }

    /// The next frame that is no TCP, from its type on.
    pub fn other(&mut self) -> Vec<u8> {
        self.until("a frame", |guest| guest.others.pop_front())
    }

    pub fn has_no_other(&mut self) -> bool {
        (0..5).for_each(|_| self.step(Duration::from_millis(20)));
        self.others.is_empty()
    }

    /// The next datagram: from whom, to which port, what.
    pub fn receive_udp(&mut self) -> (SocketAddr, u16, Vec<u8>) {
        let frame = self.other();
        let packet = Ipv4Packet::new_checked(&frame[2..]).unwrap();
        assert!(packet.verify_checksum() && packet.dst_addr() == ADDRESS);
        assert_eq!(packet.next_header(), IpProtocol::Udp, "{frame:?}");
        let from = packet.src_addr();
        let datagram = UdpPacket::new_checked(packet.payload()).unwrap();
        assert!(datagram.verify_checksum(&from.into(), &ADDRESS.into()));
        (SocketAddr::new(from.into(), datagram.src_port()), datagram.dst_port(), datagram.payload().to_vec())
    }

    /// The next message of ICMP: from whom, and it.
    pub fn receive_icmp(&mut self) -> (Ipv4Addr, Vec<u8>) {
        let frame = self.other();
        let packet = Ipv4Packet::new_checked(&frame[2..]).unwrap();
        assert_eq!(packet.next_header(), IpProtocol::Icmp, "{frame:?}");
        assert_eq!(checksum(packet.payload()), 0);
        (packet.src_addr(), packet.payload().to_vec())
    }

    /// Ends the line; how the gateway ends.
    pub fn end(mut self) -> ExitStatus {
        self.line.shutdown(std::net::Shutdown::Both).unwrap();
        drop(self.line);
        self.gateway.wait()
    }
}

/// The Internet's, of bytes with zeros in its place; 0 where it is right.
pub fn checksum(bytes: &[u8]) -> u16 {
    let pair = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let sum: u32 = bytes.chunks(2).map(pair).sum();
    let once = (sum & 0xffff) + (sum >> 16);
    !((once & 0xffff) + (once >> 16)) as u16
}

/// A packet from the guest.
pub fn ipv4(to: Ipv4Addr, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let repr = Ipv4Repr { src_addr: ADDRESS, dst_addr: to, next_header: protocol, payload_len: payload.len(), hop_limit: 64 };
    let mut bytes = vec![0; 20];
    repr.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &ChecksumCapabilities::default());
    bytes.extend(payload);
    bytes
}

/// smoltcp's side of the line.
struct Link {
    mtu: usize,
    input: VecDeque<Vec<u8>>,
    output: Vec<u8>,
}

struct Came(Vec<u8>);
struct Goes<'a>(&'a mut Vec<u8>);

impl phy::Device for Link {
    type RxToken<'a> = Came;
    type TxToken<'a> = Goes<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Came, Goes<'_>)> {
        let packet = self.input.pop_front()?;
        Some((Came(packet), Goes(&mut self.output)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Goes<'_>> {
        Some(Goes(&mut self.output))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

impl phy::RxToken for Came {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl phy::TxToken for Goes<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        self.0.extend_from_slice(&((14 + length) as u32).to_be_bytes());
        self.0.extend_from_slice(&GATEWAY_ETHERNET);
        self.0.extend_from_slice(&OWN);
        let start = self.0.len() + 2;
        self.0.resize(start + length, 0);
        let result = fill(&mut self.0[start..]);
        let kind: [u8; 2] = if self.0[start] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
        self.0[start - 2..start].copy_from_slice(&kind);
        result
    }
}
