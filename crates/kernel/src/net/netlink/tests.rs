use super::message::{attributes, read_u16, read_u32};
use super::*;
use crate::net::inet;
use crate::task::Credentials;

fn caller() -> Caller {
    Caller { pid: 42, credentials: Arc::new(Credentials::new(1000, 100, Vec::new())), file_limit: 1024 }
}

fn request(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ((16 + payload.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    bytes.extend(7u32.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(payload);
    bytes
}

/// (type, payload) of each message that comes back.
fn ask(network: &Arc<NetworkStack>, protocol: u32, request: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let socket = create(network, &caller(), SocketType::Raw, protocol).unwrap();
    socket.send(&caller(), request, &mut Outgoing::default()).unwrap();
    let mut answers = Vec::new();
    let mut buffer = vec![0; 8192];
    while let Ok(incoming) = socket.receive(&mut buffer, MessageFlags::empty()) {
        let mut rest = &buffer[..incoming.count];
        while let Some((header, payload, next)) = Header::split(rest) {
            assert_eq!((header.sequence, header.port), (7, 42));
            answers.push((header.kind, payload.to_vec()));
            rest = next;
        }
    }
    socket.close();
    answers
}

#[test]
fn the_link_and_its_addresses_are_dumped() {
    let network = Arc::new(NetworkStack::new());
    let links = ask(&network, NETLINK_ROUTE, &request(18, message::NLM_F_DUMP, &[0; 16]));
    assert_eq!(links.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [16, message::NLMSG_DONE]);
    assert!(attributes(&links[0].1[16..]).any(|(kind, value)| kind == 3 && value == b"lo\0"));
    let addresses = ask(&network, NETLINK_ROUTE, &request(22, message::NLM_F_DUMP, &[0; 8]));
    assert_eq!(addresses.len(), 3);
    assert!(attributes(&addresses[0].1[8..]).any(|(kind, value)| kind == 2 && value == [127, 0, 0, 1]));
    let missing = ask(&network, NETLINK_ROUTE, &request(18, 0, &[0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(missing[0].0, message::NLMSG_ERROR);
    assert_eq!(read_u32(&missing[0].1, 0), Some(-Errno::ENODEV.0 as u32));
}

#[test]
fn routes_end_at_loopback() {
    let network = Arc::new(NetworkStack::new());
    let route_to = |octets: [u8; 4]| {
        let mut payload = vec![linux::AF_INET as u8, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        payload.extend([8, 0, 1, 0]);
        payload.extend(octets);
        ask(&network, NETLINK_ROUTE, &request(26, 0, &payload))
    };
    assert_eq!(route_to([127, 0, 0, 1])[0].0, 24);
    assert_eq!(read_u32(&route_to([10, 0, 0, 1])[0].1, 0), Some(-Errno::ENETUNREACH.0 as u32));
    let acknowledged = ask(&network, NETLINK_ROUTE, &request(24, NLM_F_ACK, &[0; 12]));
    assert_eq!(read_u32(&acknowledged[0].1, 0), Some(-Errno::EPERM.0 as u32));
}

#[test]
fn listening_sockets_are_listed() {
    let network = Arc::new(NetworkStack::new());
    let listener = inet::create(&network, &caller(), linux::AF_INET, SocketType::Stream, 0).unwrap();
    network.remember(&listener);
    listener.bind(&caller(), &Address::Inet("127.0.0.1:8080".parse().unwrap())).unwrap();
    listener.listen(&caller(), 5).unwrap();
    let mut payload = vec![linux::AF_INET as u8, 6, 0, 0];
    payload.extend((1u32 << 10).to_ne_bytes());
    payload.extend([0; 48]);
    let answers = ask(&network, NETLINK_SOCK_DIAG, &request(20, message::NLM_F_DUMP, &payload));
    assert_eq!(answers.len(), 2);
    let shown = &answers[0].1;
    assert_eq!((shown[1], read_u16(shown, 4).map(u16::from_be)), (10, Some(8080)));
    assert_eq!(shown[8..12], [127, 0, 0, 1]);
    assert_eq!(read_u32(shown, 60), Some(5));
}

#[test]
fn malformed_requests_are_passed_over() {
    let network = Arc::new(NetworkStack::new());
    for length in 0..40u32 {
        let mut bytes = vec![0xff; 24];
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        ask_raw(&network, &bytes);
    }
    for kind in 0..200 {
        for flags in [0, message::NLM_F_DUMP] {
            for length in 0..24 {
                ask(&network, NETLINK_ROUTE, &request(kind, flags, &vec![1; length]));
                ask(&network, NETLINK_SOCK_DIAG, &request(kind, flags, &vec![1; length]));
                ask(&network, NETLINK_GENERIC, &request(kind, flags, &vec![3; length]));
            }
        }
    }
}

fn ask_raw(network: &Arc<NetworkStack>, bytes: &[u8]) {
    let socket = create(network, &caller(), SocketType::Raw, NETLINK_ROUTE).unwrap();
    socket.send(&caller(), bytes, &mut Outgoing::default()).unwrap();
    socket.close();
}
