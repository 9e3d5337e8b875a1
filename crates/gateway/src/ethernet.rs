//! The guest's link: who is asked for there (ARP, and for IPv6 neighbour discovery) is us, whoever it is but the guest.

use crate::line::Output;
use crate::packet;
use crate::subnet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub type Address = [u8; 6];

pub const GATEWAY: Address = [0x52, 0x55, 0x0a, 0, 2, 2];
pub const EVERYBODY: Address = [0xff; 6];
/// Two addresses and a type.
pub const HEADER: usize = 14;

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// Of ARP for IPv4 on Ethernet (RFC 826).
const ARP_HEADER: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_LENGTH: usize = 28;
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// It is asked for, and takes the place of what was known.
const SOLICITED_OVERRIDE: u8 = 0x60;
const TARGET_ADDRESS: u8 = 2;

/// For a packet of this version of IP.
pub fn set_type(header: &mut [u8], version: u8) {
    let kind = if version == 6 { IPV6 } else { IPV4 };
    header[HEADER - 2..].copy_from_slice(&kind.to_be_bytes());
}

/// Answers what is of the link; else gives the IP packet of a frame.
pub fn take<'a>(out: &mut Output, frame: &'a [u8]) -> Option<&'a [u8]> {
    let (header, payload) = frame.split_at_checked(HEADER)?;
    let (to, from) = (&header[..6], header[6..12].try_into().ok()?);
    let is_ours = to == GATEWAY || to[0] & 1 != 0;
    // A source that is a group is nobody's.
    if !is_ours || header[6] & 1 != 0 {
        return None;
    }
    out.guest = Some(from);
    match u16::from_be_bytes([header[12], header[13]]) {
        ARP => {
            answer_arp(out, payload);
            None
        }
        IPV4 | IPV6 => Some(payload),
        _ => None,
    }
}

fn answer_arp(out: &mut Output, request: &[u8]) {
    let Some(request) = request.first_chunk::<ARP_LENGTH>() else { return };
    let target: [u8; 4] = [request[24], request[25], request[26], request[27]];
    if request[..6] != ARP_HEADER || request[6..8] != REQUEST || !subnet::is_answered_for(Ipv4Addr::from(target).into()) {
        return;
    }
    let mut reply = [0; ARP_LENGTH];
    reply[..6].copy_from_slice(&ARP_HEADER);
    reply[6..8].copy_from_slice(&REPLY);
    reply[8..14].copy_from_slice(&GATEWAY);
    reply[14..18].copy_from_slice(&target);
    // The sender's two addresses are the receiver's.
    reply[18..28].copy_from_slice(&request[8..18]);
    out.frame(ARP, &reply);
}

/// RFC 4861: whether this ICMPv6 message was of the link, and has been answered.
pub fn answer_neighbour(out: &mut Output, from: Ipv6Addr, message: &[u8]) -> bool {
    let Some(fixed) = message.first_chunk::<24>() else { return false };
    if fixed[0] != SOLICITATION {
        return false;
    }
    let mut target = [0; 16];
    target.copy_from_slice(&fixed[8..24]);
    let address = IpAddr::from(target);
    // From nobody: the guest asks whether an address is free; it is, for the guest's own.
    if subnet::is_answered_for(address) && !from.is_unspecified() {
        let mut answer = [0; 32];
        answer[0] = ADVERTISEMENT;
        answer[4] = SOLICITED_OVERRIDE;
        answer[8..24].copy_from_slice(&target);
        answer[24..26].copy_from_slice(&[TARGET_ADDRESS, 1]);
        answer[26..].copy_from_slice(&GATEWAY);
        packet::icmp(out, address, from.into(), &answer);
    }
    true
}
