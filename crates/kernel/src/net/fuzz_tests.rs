//! Damaged socket addresses and netlink requests: an answer or an error.

use super::address::Address;
use super::netlink;
use super::socket::{MessageFlags, Outgoing, SocketType};
use super::*;
use crate::task::Credentials;
use crate::testing::Random;
use std::sync::Arc;

#[test]
fn addresses_of_any_kind() {
    let mut random = Random::new(4);
    let originals: [&[u8]; 6] = [
        b"\x01\0/tmp/socket\0",
        b"\x01\0\0abstract",
        b"\x02\0\x1f\x90\x7f\0\0\x01\0\0\0\0\0\0\0\0",
        b"\x0a\0\x1f\x90\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0",
        b"\x10\0\0\0\x01\0\0\0\x02\0\0\0",
        b"\0\0",
    ];
    while random.is_time_left() {
        let mut bytes = random.pick(&originals).to_vec();
        random.mutate(&mut bytes);
        if let Ok(address) = Address::parse(&bytes) {
            let encoded = address.encode();
            assert!(Address::parse(&encoded).is_ok(), "{bytes:x?} became {encoded:x?}");
        }
    }
}

#[test]
fn netlink_requests_of_any_kind() {
    let mut random = Random::new(5);
    let mut originals: Vec<Vec<u8>> = Vec::new();
    for kind in [18u16, 22, 26, 30, 20, 16, 24, 34, 42, 66, 90, 10] {
        for flags in [1u16, 0x301, 5, 0x605] {
            let mut bytes = 64u32.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(flags.to_ne_bytes());
            bytes.extend([7, 0, 0, 0, 0, 0, 0, 0]);
            bytes.resize(32, 0);
            // Attributes: an address, a name, a nest.
            bytes.extend([
                8, 0, 1, 0, 127, 0, 0, 1, 7, 0, 3, 0, b'l', b'o', 0, 0, 12, 0, 18, 0x80, 8, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0,
            ]);
            originals.push(bytes);
        }
    }
    let network = Arc::new(NetworkStack::new());
    let caller = Caller { pid: 42, credentials: Arc::new(Credentials::new(0, 0, Vec::new())), file_limit: 1024 };
    let mut buffer = vec![0; 16384];
    while random.is_time_left() {
        let protocol = *random.pick(&[0u32, 4, 15, 16]);
        let Ok(socket) = netlink::create(&network, &caller, SocketType::Raw, protocol) else { continue };
        for _ in 0..50 {
            let mut bytes = random.pick(&originals).clone();
            random.mutate(&mut bytes);
            let _ = socket.send(&caller, &bytes, &mut Outgoing::default());
            for _ in 0..8 {
                if socket.receive(&mut buffer, MessageFlags::empty()).is_err() {
                    break;
                }
            }
        }
        socket.close();
    }
}
