//! IP packets: hostile bytes become a checked view, and answers are written.

use crate::checksum;
use crate::line::Output;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket,
    UdpRepr,
};
use std::net::{IpAddr, SocketAddr};

const HOPS: u8 = 64;
/// Without options.
const IPV4_HEADER: u8 = 20;
/// RFC 1812: as much as fits into 576 bytes, and for IPv6 into 1,280; this much is enough to know a packet by.
const QUOTED: usize = 512;

/// A packet that is whole: no fragment, no extension headers.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: IpProtocol,
    pub payload: &'a [u8],
    /// All of it, without what an Ethernet frame has behind it.
    pub bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    pub fn parse(bytes: &'a [u8]) -> Option<Packet<'a>> {
        match bytes.first()? >> 4 {
            4 => {
                let packet = Ipv4Packet::new_checked(bytes).ok()?;
                if packet.header_len() < IPV4_HEADER
                    || !packet.verify_checksum()
                    || packet.more_frags()
                    || packet.frag_offset() != 0
                {
                    return None;
                }
                Some(Packet {
                    from: packet.src_addr().into(),
                    to: packet.dst_addr().into(),
                    protocol: packet.next_header(),
                    payload: bytes.get(usize::from(packet.header_len())..usize::from(packet.total_len()))?,
                    bytes: bytes.get(..usize::from(packet.total_len()))?,
                })
            }
            6 => {
                let packet = Ipv6Packet::new_checked(bytes).ok()?;
                Some(Packet {
                    from: packet.src_addr().into(),
                    to: packet.dst_addr().into(),
                    protocol: packet.next_header(),
                    payload: bytes.get(packet.header_len()..packet.total_len())?,
                    bytes: bytes.get(..packet.total_len())?,
                })
            }
            _ => None,
        }
    }

    /// A segment of TCP with a right checksum and ports.
    pub fn tcp(&self) -> Option<TcpPacket<&'a [u8]>> {
        let segment = TcpPacket::new_checked(self.payload).ok()?;
        let right = segment.verify_checksum(&self.from.into(), &self.to.into());
        (right && segment.src_port() != 0 && segment.dst_port() != 0).then_some(segment)
    }

    /// A datagram of UDP: its ports, and what is in it.
    pub fn udp(&self) -> Option<(u16, u16, &'a [u8])> {
        let datagram = UdpPacket::new_checked(self.payload).ok()?;
        // In IPv4 there may be none.
        let absent = datagram.checksum() == 0 && self.from.is_ipv4();
        let right = absent || datagram.verify_checksum(&self.from.into(), &self.to.into());
        let payload = self.payload.get(8..usize::from(datagram.len()))?;
        (right && datagram.src_port() != 0 && datagram.dst_port() != 0).then_some((
            datagram.src_port(),
            datagram.dst_port(),
            payload,
        ))
    }

    /// A message of ICMP of the address's kind, with a right checksum.
    pub fn icmp(&self) -> Option<&'a [u8]> {
        let wrong = match (self.from, self.to, self.protocol) {
            (IpAddr::V4(_), IpAddr::V4(_), IpProtocol::Icmp) => checksum::of(self.payload),
            (IpAddr::V6(from), IpAddr::V6(to), IpProtocol::Icmpv6) => checksum::of_icmpv6(from, to, self.payload),
            _ => return None,
        };
        (wrong == 0 && self.payload.len() >= 8).then_some(self.payload)
    }
}

/// Writes a packet of which `fill` writes all but the IP header. Addresses of two families make none.
fn emit(out: &mut Output, from: IpAddr, to: IpAddr, protocol: IpProtocol, length: usize, fill: impl FnOnce(&mut [u8])) {
    match (from, to) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let header = Ipv4Repr { src_addr, dst_addr, next_header: protocol, payload_len: length, hop_limit: HOPS };
            let size = header.buffer_len();
            out.packet(size + length, |bytes| {
                header.emit(&mut Ipv4Packet::new_unchecked(&mut *bytes), &ChecksumCapabilities::default());
                fill(&mut bytes[size..]);
            });
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let header = Ipv6Repr { src_addr, dst_addr, next_header: protocol, payload_len: length, hop_limit: 255 };
            let size = header.buffer_len();
            out.packet(size + length, |bytes| {
                header.emit(&mut Ipv6Packet::new_unchecked(&mut *bytes));
                fill(&mut bytes[size..]);
            });
        }
        _ => {}
    }
}

/// A datagram to the guest.
pub fn udp(out: &mut Output, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
    let header = UdpRepr { src_port: from.port(), dst_port: to.port() };
    let length = header.header_len() + payload.len();
    let (source, target): (IpAddress, IpAddress) = (from.ip().into(), to.ip().into());
    emit(out, from.ip(), to.ip(), IpProtocol::Udp, length, |bytes| {
        let mut packet = UdpPacket::new_unchecked(bytes);
        let fill = |place: &mut [u8]| place.copy_from_slice(payload);
        header.emit(&mut packet, &source, &target, payload.len(), fill, &ChecksumCapabilities::default());
    });
}

/// A message of ICMP to the guest; its checksum is put in.
pub fn icmp(out: &mut Output, from: IpAddr, to: IpAddr, message: &[u8]) {
    let protocol = if from.is_ipv4() { IpProtocol::Icmp } else { IpProtocol::Icmpv6 };
    emit(out, from, to, protocol, message.len(), |bytes| {
        bytes.copy_from_slice(message);
        bytes[2..4].fill(0);
        let sum = match (from, to) {
            (IpAddr::V6(from), IpAddr::V6(to)) => checksum::of_icmpv6(from, to, bytes),
            _ => checksum::of(bytes),
        };
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    });
}

/// Why a packet did not get where it was to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    Host,
    Port,
    Prohibited,
}

/// Tells the guest why the packet of these bytes got nowhere, in the name of whom it was for.
pub fn unreachable(out: &mut Output, why: Unreachable, packet: &Packet) {
    let (kind, code) = match (packet.to, why) {
        (IpAddr::V4(_), Unreachable::Host) => (3, 1),
        (IpAddr::V4(_), Unreachable::Port) => (3, 3),
        (IpAddr::V4(_), Unreachable::Prohibited) => (3, 13),
        (IpAddr::V6(_), Unreachable::Host) => (1, 3),
        (IpAddr::V6(_), Unreachable::Port) => (1, 4),
        (IpAddr::V6(_), Unreachable::Prohibited) => (1, 1),
    };
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&packet.bytes[..packet.bytes.len().min(QUOTED)]);
    // Groups and everybody cannot say anything.
    let says = if is_unicast(packet.to) { packet.to } else { crate::subnet::gateway_like(packet.to) };
    icmp(out, says, packet.from, &message);
}

/// The same for a datagram that the guest has sent before.
pub fn datagram_unreachable(out: &mut Output, why: Unreachable, guest: SocketAddr, to: SocketAddr, payload: &[u8]) {
    let mut again = Output::default();
    udp(&mut again, guest, to, &payload[..payload.len().min(QUOTED)]);
    if let Some(packet) = again.only_packet().and_then(Packet::parse) {
        unreachable(out, why, &packet);
    }
}

pub fn is_unicast(address: IpAddr) -> bool {
    IpAddress::from(address).is_unicast()
}

/// Answers a segment with a reset (RFC 9293, 3.10.7.1), unless it is one, or was for nobody who could.
pub fn reset(out: &mut Output, packet: &Packet, segment: &TcpPacket<&[u8]>) {
    if segment.rst() || !is_unicast(packet.to) {
        return;
    }
    let (seq_number, ack_number) = match segment.ack() {
        true => (segment.ack_number(), None),
        false => (TcpSeqNumber(0), Some(segment.seq_number() + segment.segment_len())),
    };
    let reply = TcpRepr {
        src_port: segment.dst_port(),
        dst_port: segment.src_port(),
        control: TcpControl::Rst,
        seq_number,
        ack_number,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None, None, None],
        timestamp: None,
        payload: &[],
    };
    let (from, to) = (packet.to.into(), packet.from.into());
    emit(out, packet.to, packet.from, IpProtocol::Tcp, reply.buffer_len(), |bytes| {
        reply.emit(&mut TcpPacket::new_unchecked(bytes), &from, &to, &ChecksumCapabilities::default());
    });
}
