//! The Internet checksum (RFC 1071), for messages of ICMP: TCP and UDP have smoltcp's.

use std::net::Ipv6Addr;

/// What makes the sum of `bytes` right, where its own place holds zeros; 0 where the right sum is in its place.
pub fn of(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// The same for ICMPv6, which counts addresses in (RFC 8200, 8.1).
pub fn of_icmpv6(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    const NEXT_HEADER: u64 = 58;
    !fold(sum(&from.octets()) + sum(&to.octets()) + message.len() as u64 + NEXT_HEADER + sum(message))
}

fn sum(bytes: &[u8]) -> u64 {
    let pairs = bytes.chunks_exact(2);
    let last = pairs.remainder().first().map_or(0, |last| u64::from(*last) << 8);
    pairs.map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u64>() + last
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        // The example of RFC 1071.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(of(&bytes), !0xddf2);
        assert_eq!(of(&[bytes.as_slice(), &(!0xddf2u16).to_be_bytes()].concat()), 0);
        assert_eq!(of(&[1]), !0x0100);
        assert_eq!(of(&[0xff; 70_000]), 0);
        let (from, to) = (Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        assert_eq!(of_icmpv6(from, to, &[0; 8]), !(2 + 8 + 58));
    }
}
