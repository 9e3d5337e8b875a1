//! UDP, echoes, DNS, and the link.

mod guest;

use guest::{checksum, ipv4, Guest, GATEWAY, NAMES};
use smoltcp::wire::IpProtocol;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

const LOOPBACK: &str = r#"{"addresses": ["127.0.0.0/8"]}"#;
const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn server() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind((LOCAL, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

#[test]
fn a_datagram_and_its_answer() {
    let mut guest = Guest::start(LOOPBACK);
    let (one, port) = server();
    let (other, other_port) = server();
    guest.send_udp(5000, (LOCAL, port), b"question");
    let mut bytes = [0; 2000];
    let (count, from) = one.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..count], b"question");
    // Somebody whom it has not sent to is not heard.
    other.send_to(b"stranger", from).unwrap();
    one.send_to(b"answer", from).unwrap();
    assert_eq!(guest.receive_udp(), (SocketAddr::new(LOCAL.into(), port), 5000, b"answer".to_vec()));
    assert!(guest.has_no_other());
    // Another peer of the same port: one socket.
    guest.send_udp(5000, (LOCAL, other_port), b"second");
    assert_eq!(other.recv_from(&mut bytes).unwrap(), (6, from));
    other.send_to(&[5; 1472], from).unwrap();
    assert_eq!(guest.receive_udp().2, [5; 1472]);
    // More than the link carries is lost; an empty one is a datagram too.
    other.send_to(&[5; 1473], from).unwrap();
    other.send_to(b"", from).unwrap();
    assert_eq!(guest.receive_udp().2, b"");
}

#[test]
fn nobody_at_a_port() {
    let mut guest = Guest::start(LOOPBACK);
    let (socket, port) = server();
    drop(socket);
    guest.send_udp(5000, (LOCAL, port), b"question");
    let (from, message) = guest.receive_icmp();
    assert_eq!((from, message[0], message[1]), (LOCAL, 3, 3));
    // It quotes the packet: the ports are where a system looks for them.
    assert_eq!(message[8 + 20..8 + 24], [&5000u16.to_be_bytes()[..], &port.to_be_bytes()].concat());
    // The next one is not lost for that.
    let (socket, port) = server();
    guest.send_udp(5000, (LOCAL, port), b"again");
    let mut bytes = [0; 10];
    assert_eq!(socket.recv(&mut bytes).unwrap(), 5);
}

#[test]
fn as_many_flows_as_there_may_be() {
    let mut guest = Guest::start(LOOPBACK);
    let (socket, port) = server();
    let mut bytes = [0; 10];
    for source in 0..600u16 {
        guest.send_udp(10_000 + source, (LOCAL, port), &source.to_be_bytes());
        socket.recv_from(&mut bytes).unwrap();
        assert_eq!(bytes[..2], source.to_be_bytes());
    }
    let gateway = guest.gateway.child.id();
    if let Ok(open) = std::fs::read_dir(format!("/proc/{gateway}/fd")) {
        assert!(open.count() < 256 + 10);
    }
}

#[test]
fn the_gateway_answers_for_everybody_but_the_guest() {
    let mut guest = Guest::start(LOOPBACK);
    let mut ask = |address: [u8; 4]| {
        let mut request = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0];
        request.extend(address);
        guest.send_frame(0x0806, &request);
        (!guest.has_no_other()).then(|| guest.other())
    };
    let answer = ask([10, 0, 2, 2]).unwrap();
    assert_eq!(answer[..2], [8, 6]);
    assert_eq!(answer[8..18], [0, 2, 0x52, 0x55, 0x0a, 0, 2, 2, 10, 0]);
    assert!(ask([10, 0, 2, 3]).is_some() && ask([10, 0, 2, 77]).is_some());
    assert!(ask([10, 0, 2, 15]).is_none() && ask([10, 0, 3, 1]).is_none());
    // IPv6: a neighbour solicitation, by the guest's link-local address.
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend("fd00:5ce::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
    message.extend([1, 1, 2, 0, 0, 0, 0, 1]);
    let own: std::net::Ipv6Addr = "fe80::1".parse().unwrap();
    let group: std::net::Ipv6Addr = "ff02::1:ff00:2".parse().unwrap();
    let length = message.len() as u8;
    let sum = checksum(&[&own.octets()[..], &group.octets(), &[0, 0, 0, length, 0, 0, 0, 58], &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [&[0x60, 0, 0, 0, 0, message.len() as u8, 58, 255][..], &own.octets(), &group.octets()].concat();
    guest.send_frame(0x86dd, &[header, message].concat());
    let answer = guest.other();
    assert_eq!((&answer[..2], answer[2 + 40]), (&[0x86, 0xdd][..], 136));
    assert!(answer.ends_with(&[2, 1, 0x52, 0x55, 0x0a, 0, 2, 2]));
}

fn echo_request(to: Ipv4Addr) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
    message.extend(b"are you there?");
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4(to, IpProtocol::Icmp, &message)
}

#[test]
fn an_echo_request() {
    let mut guest = Guest::start(LOOPBACK);
    for to in [GATEWAY, NAMES] {
        guest.send_frame(0x0800, &echo_request(to));
        let (from, message) = guest.receive_icmp();
        assert_eq!((from, message[0]), (to, 0));
        assert_eq!(&message[4..], &echo_request(to)[24..]);
    }
    // To others where the host lets an ordinary user do so.
    guest.send_frame(0x0800, &echo_request(LOCAL));
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ping_group_range").unwrap();
    let range: Vec<u32> = range.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let gateway = std::fs::read_to_string(format!("/proc/{}/status", guest.gateway.child.id())).unwrap();
    let group = gateway.lines().find_map(|line| line.strip_prefix("Gid:")).unwrap();
    let group = group.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap();
    match (range[0]..=range[1]).contains(&group) {
        true => assert_eq!(guest.receive_icmp().1[4..8], [0x12, 0x34, 0, 1]),
        false => assert!(guest.has_no_other()),
    }
    guest.send_frame(0x0800, &echo_request(Ipv4Addr::new(198, 51, 100, 1)));
    let (_, message) = guest.receive_icmp();
    assert_eq!(message[..2], [3, 13]);
    assert!(guest.gateway.error().contains(r#""clause":"network.addresses""#));
}

/// A resolver at a loopback address of its own: names it knows, and what it was asked.
mod resolver {
    use super::*;
    use std::sync::mpsc::{channel, Receiver};

    fn answer(question: &[u8], address: [u8; 4]) -> Vec<u8> {
        let mut answer = question.to_vec();
        (answer[2], answer[3], answer[7], answer[11]) = (0x81, 0x80, 1, 0);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
        answer.extend(address);
        answer
    }

    /// Answers with `address`; what it was asked, in order.
    pub fn start(at: Ipv4Addr, address: [u8; 4]) -> Option<Receiver<Vec<u8>>> {
        let udp = UdpSocket::bind((at, 53)).ok()?; // a privilege, and the port is free
        let tcp = TcpListener::bind((at, 53)).ok()?;
        let (send, asked) = channel();
        let sender = send.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 1500];
            while let Ok((count, from)) = udp.recv_from(&mut bytes) {
                let question = &bytes[..count];
                let mut wrong = answer(question, [6, 6, 6, 6]);
                wrong[1] ^= 1;
                let _ = udp.send_to(&wrong, from); // of nobody's question
                let _ = udp.send_to(&answer(question, address), from);
                let _ = sender.send(question.to_vec());
            }
        });
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut question = vec![0; u16::from_be_bytes(length).into()];
                    stream.read_exact(&mut question).unwrap();
                    let answer = answer(&question, address);
                    let _ = send.send(question);
                    stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
                    stream.write_all(&answer).unwrap();
                }
            }
        });
        Some(asked)
    }
}

fn question(name: &str) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

fn ask(guest: &mut Guest, name: &str) -> Vec<u8> {
    guest.send_udp(6000, (NAMES, 53), &question(name));
    let (from, port, answer) = guest.receive_udp();
    assert_eq!((from, port), (SocketAddr::new(NAMES.into(), 53), 6000));
    assert_eq!(answer[..2], [0xab, 0xcd]);
    answer
}

fn rcode(answer: &[u8]) -> u8 {
    answer[3] & 0xf
}

#[test]
fn names_are_asked_of_the_hosts_resolver() {
    let at = Ipv4Addr::new(127, 53, 0, 1);
    let Some(asked) = resolver::start(at, [1, 2, 3, 4]) else { return };
    let mut guest = Guest::start(&format!(r#"{{"resolvers": ["{at}"]}}"#));
    let answer = ask(&mut guest, "example.org");
    assert!(rcode(&answer) == 0 && answer.ends_with(&[1, 2, 3, 4]));
    // With another id than the guest's, which could be guessed.
    assert_eq!(asked.recv().unwrap()[2..], question("example.org")[2..]);
    // By TCP, twice on one connection.
    let connection = guest.connect(SocketAddr::new(IpAddr::V4(NAMES), 53)).unwrap();
    for name in ["a.example", "b.example"] {
        let question = question(name);
        guest.write(connection, &[&(question.len() as u16).to_be_bytes()[..], &question].concat());
        let length = guest.read_exactly(connection, 2 + question.len() + 16);
        assert!(length.ends_with(&[1, 2, 3, 4]));
        assert_eq!(asked.recv().unwrap(), question);
    }
    // What is no question is answered so, or not at all.
    guest.send_udp(6000, (NAMES, 53), &question("a.b")[..14]);
    assert_eq!(rcode(&guest.receive_udp().2), 1);
    guest.send_udp(6000, (NAMES, 53), b"short");
    assert!(guest.has_no_other());
    assert!(asked.try_recv().is_err() && guest.gateway.has_no_error());
}

#[test]
fn a_resolver_that_is_not_there_is_passed_over() {
    let (nobody, at) = (Ipv4Addr::new(127, 53, 0, 2), Ipv4Addr::new(127, 53, 0, 3));
    let Some(_asked) = resolver::start(at, [1, 2, 3, 4]) else { return };
    let mut guest = Guest::start(&format!(r#"{{"resolvers": ["{nobody}", "{at}"]}}"#));
    assert_eq!(rcode(&ask(&mut guest, "example.org")), 0);
    let mut guest = Guest::start(&format!(r#"{{"resolvers": ["{nobody}"]}}"#));
    assert_eq!(rcode(&ask(&mut guest, "example.org")), 2);
    let mut guest = Guest::start("{}");
    assert_eq!(rcode(&ask(&mut guest, "example.org")), 2);
}

#[test]
fn an_allowed_name_may_be_reached_where_it_is() {
    let at = Ipv4Addr::new(127, 53, 0, 4);
    // TEST-NET-2: nobody is there.
    let Some(asked) = resolver::start(at, [198, 51, 100, 9]) else { return };
    let config = format!(r#"{{"domains": ["example.org", "*.example.net"], "connect": ["udp:9"], "resolvers": ["{at}"]}}"#);
    let mut guest = Guest::start(&config);
    let there = Ipv4Addr::new(198, 51, 100, 9);
    let is_denied = |guest: &mut Guest, to: (Ipv4Addr, u16)| {
        guest.send_udp(7000, to, b"x");
        // A network on the way may say at once that it leads nowhere, which is not what we say.
        while !guest.has_no_other() {
            if guest.receive_icmp().1[..2] == [3, 13] {
                return Some(guest.gateway.error());
            }
        }
        None
    };
    assert!(is_denied(&mut guest, (there, 9)).unwrap().contains("network.domains"));
    // Another name is refused, and nobody is asked for it.
    assert_eq!(rcode(&ask(&mut guest, "example.com")), 5);
    let line = guest.gateway.error();
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        told,
        serde_json::json!({"denied": {"protocol": "dns", "address": "example.com", "port": 53, "clause": "network.domains"}})
    );
    assert_eq!(rcode(&ask(&mut guest, "example.net")), 5);
    guest.gateway.error();
    assert!(asked.try_recv().is_err());
    assert_eq!(rcode(&ask(&mut guest, "www.Example.NET")), 0);
    assert_eq!(is_denied(&mut guest, (there, 9)), None);
    // The ports are as they were, and so is everybody else.
    assert!(is_denied(&mut guest, (there, 10)).unwrap().contains("network.connect"));
    assert!(is_denied(&mut guest, (Ipv4Addr::new(198, 51, 100, 8), 9)).unwrap().contains("network.domains"));
}

#[test]
fn an_allowed_name_does_not_lead_into_the_host() {
    let at = Ipv4Addr::new(127, 53, 0, 5);
    let Some(_asked) = resolver::start(at, [127, 0, 0, 1]) else { return };
    let mut guest = Guest::start(&format!(r#"{{"domains": ["example.org"], "resolvers": ["{at}"]}}"#));
    assert_eq!(rcode(&ask(&mut guest, "example.org")), 0);
    guest.send_udp(7000, (LOCAL, 9), b"x");
    assert_eq!(guest.receive_icmp().1[..2], [3, 13]);
    assert!(guest.gateway.error().contains(r#""reason":"loopback""#));
}

#[test]
fn the_resolver_is_asked_where_ports_allow_it() {
    let at = Ipv4Addr::new(127, 53, 0, 6);
    let Some(_asked) = resolver::start(at, [1, 2, 3, 4]) else { return };
    let mut guest = Guest::start(&format!(r#"{{"connect": ["tcp:443"], "resolvers": ["{at}"]}}"#));
    assert_eq!(rcode(&ask(&mut guest, "example.org")), 5);
    assert!(guest.gateway.error().contains("network.connect"));
    assert!(guest.connect(SocketAddr::new(IpAddr::V4(NAMES), 53)).is_err());
    let mut guest = Guest::start(&format!(r#"{{"connect": ["udp:53"], "resolvers": ["{at}"]}}"#));
    assert_eq!(rcode(&ask(&mut guest, "example.org")), 0);
}
