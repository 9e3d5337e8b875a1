//! What is denied, what the gateway cannot do, and how it ends.

mod guest;

use guest::{checksum, ipv4, start, Gateway, Guest, Refused, ADDRESS};
use serde_json::{json, Value};
use smoltcp::wire::IpProtocol;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

/// What the gateway says of a connection that it denies.
fn denied(guest: &mut Guest, to: SocketAddr) -> Value {
    assert_eq!(guest.connect(to), Err(Refused), "{to}");
    let line: Value = serde_json::from_str(&guest.gateway.error()).unwrap();
    let denied = line["denied"].clone();
    assert_eq!(
        (&denied["protocol"], &denied["address"], &denied["port"]),
        (&json!("tcp"), &json!(to.ip().to_string()), &json!(to.port()))
    );
    denied
}

/// This host's address on its network.
fn own() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.7:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[test]
fn the_hosts_own_is_always_denied() {
    let everywhere = [r#"{}"#, r#"{"addresses": ["0.0.0.0/0", "::/0"]}"#, r#"{"connect": ["tcp:1-1024"]}"#];
    for config in everywhere {
        let mut guest = Guest::start(config);
        for (address, reason) in [
            ("127.0.0.1", "loopback"),
            ("127.1.2.3", "loopback"),
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("169.254.169.254", "metadata"),
            ("100.100.100.200", "metadata"),
            ("169.254.1.1", "link_local"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "multicast"),
            ("10.0.2.7", "guest_network"),
            // The gateway is nobody who serves anything but names.
            ("10.0.2.2", "guest_network"),
        ] {
            let mut segment = [0; 20];
            (segment[0], segment[1], segment[3], segment[12], segment[13]) = (1, 1, 22, 0x50, 2);
            // Not every TCP connects to such addresses: the packet is made here.
            let to: Ipv4Addr = address.parse().unwrap();
            let mut packet = smoltcp::wire::TcpPacket::new_unchecked(&mut segment[..]);
            packet.fill_checksum(&ADDRESS.into(), &to.into());
            guest.send_frame(0x0800, &ipv4(to, IpProtocol::Tcp, &segment));
            let line: Value = serde_json::from_str(&guest.gateway.error()).unwrap();
            assert_eq!(line["denied"]["reason"], reason, "{address}: {line}");
            assert_eq!(line["denied"]["clause"], "network.mode");
        }
        if let Some(own) = own() {
            assert_eq!(denied(&mut guest, SocketAddr::new(own, 22))["reason"], "host");
        }
        // Its network's broadcasts are for it too.
    }
}

#[test]
fn the_hosts_own_is_reached_where_it_is_named() {
    let Some(own) = own() else { return };
    // As a part of a network it is not named.
    let mut guest = Guest::start(&format!(r#"{{"addresses": ["{own}/31"]}}"#));
    assert_eq!(denied(&mut guest, SocketAddr::new(own, 22))["reason"], "host");
    let listener = TcpListener::bind((own, 0)).unwrap();
    let mut guest = Guest::start(&format!(r#"{{"addresses": ["{own}"]}}"#));
    assert!(guest.connect(listener.local_addr().unwrap()).is_ok());
}

#[test]
fn each_clause_denies() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let port = address.port();
    let clause = |config: String| {
        let mut guest = Guest::start(&config);
        match guest.connect(address) {
            Ok(_) => None,
            Err(Refused) => {
                let line: Value = serde_json::from_str(&guest.gateway.error()).unwrap();
                Some(line["denied"]["clause"].as_str().unwrap().to_owned())
            }
        }
    };
    assert_eq!(clause(r#"{"addresses": ["127.0.0.1"]}"#.into()), None);
    assert_eq!(clause(format!(r#"{{"addresses": ["127.0.0.1"], "connect": ["udp:{port}", "tcp:{port}"]}}"#)), None);
    let connect = Some("network.connect".to_owned());
    assert_eq!(clause(format!(r#"{{"addresses": ["127.0.0.1"], "connect": ["udp:{port}"]}}"#)), connect);
    assert_eq!(clause(r#"{"addresses": ["127.0.0.1"], "connect": []}"#.into()), connect);
    assert_eq!(clause(r#"{"addresses": ["127.0.0.2/31"]}"#.into()), Some("network.mode".into()));
    assert_eq!(clause(r#"{"addresses": []}"#.into()), Some("network.mode".into()));
    // Where a name is allowed, an address that is named may be reached as well.
    assert_eq!(clause(r#"{"addresses": ["127.0.0.1"], "domains": ["example.org"]}"#.into()), None);
    let elsewhere: SocketAddr = "198.51.100.1:80".parse().unwrap();
    let mut guest = Guest::start(r#"{"addresses": ["10.0.0.0/8"]}"#);
    assert_eq!(denied(&mut guest, elsewhere)["clause"], "network.addresses");
    let mut guest = Guest::start(r#"{"domains": ["example.org"]}"#);
    assert_eq!(denied(&mut guest, elsewhere)["clause"], "network.domains");
}

#[test]
fn not_everything_is_told() {
    let mut guest = Guest::start(r#"{"addresses": []}"#);
    for port in 1..=200 {
        guest.send_udp(5000, (Ipv4Addr::new(198, 51, 100, 1), port), b"x");
    }
    let told = (0..20).map(|_| guest.gateway.error()).all(|line| !line.contains("untold"));
    assert!(told);
    std::thread::sleep(Duration::from_millis(300));
    guest.send_udp(5000, (Ipv4Addr::new(198, 51, 100, 1), 201), b"x");
    let line: Value = serde_json::from_str(&guest.gateway.error()).unwrap();
    assert!(line["denied"]["untold"].as_u64().unwrap() >= 150, "{line}");
}

/// Segments of a connection that is there, with anything in them, between those that are right.
#[test]
fn hostile_segments_do_not_end_it() {
    let mut guest = Guest::start(r#"{"addresses": ["127.0.0.1"]}"#);
    let mut state = 4u64;
    let mut random = move |end: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % end
    };
    for _ in 0..40 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let _ = stream.write_all(&[1; 300_000]);
            let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
            while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
        });
        let connection = guest.connect(address).unwrap();
        let ours = guest.socket(connection).local_endpoint().unwrap().port;
        for _ in 0..200 {
            let mut segment = vec![0; 20 + random(11) * 4 + random(2) * random(1500)];
            segment.iter_mut().for_each(|byte| *byte = random(256) as u8);
            segment[..2].copy_from_slice(&ours.to_be_bytes());
            segment[2..4].copy_from_slice(&address.port().to_be_bytes());
            segment[12] = ((5 + random((segment.len() / 4).clamp(6, 15) - 5)) as u8) << 4;
            // Now and then with a selective acknowledgement, or a scale and a size, in its options.
            if segment[12] >> 4 >= 8 && random(2) == 0 {
                let kinds: [&[u8]; 2] = [&[1, 1, 5, 10], &[3, 3, 200, 2, 4, 0, 0, 1]];
                let option = kinds[random(2)];
                segment[20..20 + option.len()].copy_from_slice(option);
            }
            // Seldom a reset, which would be the end of it.
            segment[13] &= if random(20) > 0 { 0x3b } else { 0x3f };
            // Near to what is expected, so that it is looked at.
            if let Some(known) = guest.last_segment(ours) {
                let near = |number: u32, random: &mut dyn FnMut(usize) -> usize| {
                    number.wrapping_add(random(4096) as u32).wrapping_sub(random(4096) as u32).to_be_bytes()
                };
                segment[4..8].copy_from_slice(&near(known.acknowledged, &mut random));
                segment[8..12].copy_from_slice(&near(known.sequence, &mut random));
            }
            let mut packet = smoltcp::wire::TcpPacket::new_unchecked(&mut segment[..]);
            packet.fill_checksum(&ADDRESS.into(), &Ipv4Addr::LOCALHOST.into());
            guest.send_frame(0x0800, &ipv4(Ipv4Addr::LOCALHOST, IpProtocol::Tcp, &segment));
            if random(4) == 0 {
                guest.step(Duration::ZERO);
                let _ = guest.socket(connection).recv_slice(&mut [0; 10_000]);
            }
        }
        guest.socket(connection).abort();
        guest.until("its end", |_| server.is_finished().then_some(()));
        server.join().unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(guest.connect(listener.local_addr().unwrap()).is_ok());
}

#[test]
fn it_does_nothing_while_nothing_happens() {
    let mut guest = Guest::start(r#"{"addresses": ["127.0.0.1"]}"#);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let _quiet = guest.connect(address).unwrap();
    let (_first, _) = listener.accept().unwrap();
    // One side of each of these has ended, and one has more than is read.
    let guest_ended = guest.connect(address).unwrap();
    let (_second, _) = listener.accept().unwrap();
    guest.socket(guest_ended).close();
    let _host_ended = guest.connect(address).unwrap();
    listener.accept().unwrap().0.shutdown(std::net::Shutdown::Write).unwrap();
    let _full = guest.connect(address).unwrap();
    let mut full = listener.accept().unwrap().0;
    full.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    let writer = std::thread::spawn(move || {
        while full.write(&[0; 65536]).is_ok() {}
        full
    });
    guest.until("a full way", |_| writer.is_finished().then_some(()));
    (0..20).for_each(|_| guest.step(Duration::from_millis(10)));
    let before = guest.gateway.worked();
    std::thread::sleep(Duration::from_secs(1));
    let worked = guest.gateway.worked() - before;
    assert!(worked < 0.1, "{worked}");
}

fn status_of(gateway: &Gateway, key: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
    line.trim().replace('\t', " ")
}

#[test]
fn it_is_confined_when_it_serves() {
    let guest = Guest::start("{}");
    let status = |key: &str| status_of(&guest.gateway, key);
    assert_eq!((status("NoNewPrivs"), status("Seccomp"), status("Threads")), ("1".into(), "2".into(), "1".into()));
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(set), "0000000000000000");
    }
    if rustix::process::geteuid().is_root() {
        let user = (0x7040_0000 + guest.gateway.child.id() % (1 << 22)).to_string();
        assert_eq!(status("Uid"), [&user[..]; 4].join(" "));
        assert_eq!((status("Gid"), status("Groups")), ([&user[..]; 4].join(" "), String::new()));
        // The three of each program's, the line, netlink, epoll.
        let open = std::fs::read_dir(format!("/proc/{}/fd", guest.gateway.child.id())).unwrap().count();
        assert_eq!(open, 6);
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", guest.gateway.child.id())).unwrap();
    assert!(limits.lines().any(|line| line.starts_with("Max core file size") && line.contains(" 0 ")), "{limits}");
}

#[test]
fn it_ends_with_its_line() {
    let guest = Guest::start("{}");
    assert_eq!(guest.end().code(), Some(0));
    // With connections open, and with half a frame.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::start(r#"{"addresses": ["127.0.0.1"]}"#);
    guest.connect(listener.local_addr().unwrap()).unwrap();
    let mut stream = listener.accept().unwrap().0;
    guest.send_raw(&[0, 0, 0, 99, 1, 2]);
    assert_eq!(guest.end().code(), Some(0));
    assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
    let mut guest = Guest::start("{}");
    guest.send_raw(&[0xff; 4]);
    assert_eq!(guest.gateway.wait().code(), Some(1));
    assert!(guest.gateway.error().starts_with("skerry-gateway: the line to the virtual machine: a frame of 4294967295 bytes"));
}

#[test]
fn what_is_wrong_with_the_start_is_told() {
    for (config, message) in [
        ("{", "the configuration"),
        (r#"{"adresses": null}"#, "unknown field"),
        (r#"{"connect": ["tcp:70000"]}"#, "connect[0]"),
    ] {
        let (mut gateway, _line) = start(config);
        assert_eq!(gateway.wait().code(), Some(1));
        let error = gateway.error();
        assert!(error.starts_with("skerry-gateway: ") && error.contains(message), "{error}");
    }
}

#[test]
fn hostile_frames_do_not_end_it() {
    let mut guest = Guest::start(r#"{"addresses": ["127.0.0.0/8"]}"#);
    let mut state = 88172645463325252u64;
    let mut random = move |end: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % end
    };
    // Good ones, to be spoiled: ARP, echo, UDP, DNS, the first segment of a connection.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut segment = vec![0; 28];
    segment[..2].copy_from_slice(&9u16.to_be_bytes());
    segment[2..4].copy_from_slice(&port.to_be_bytes());
    (segment[12], segment[13], segment[20], segment[21]) = (0x70, 2, 2, 4);
    let good: Vec<(u16, Vec<u8>)> = vec![
        (0x0806, [&[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2][..]].concat()),
        (0x0800, ipv4(Ipv4Addr::new(10, 0, 2, 2), IpProtocol::Icmp, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0])),
        (0x0800, ipv4(Ipv4Addr::LOCALHOST, IpProtocol::Udp, &[1, 0, 0, 9, 0, 9, 0, 0, 7])),
        (
            0x0800,
            ipv4(
                Ipv4Addr::new(10, 0, 2, 3),
                IpProtocol::Udp,
                &[1, 0, 0, 53, 0, 25, 0, 0, 1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 65, 0, 0, 1],
            ),
        ),
        (0x0800, ipv4(Ipv4Addr::LOCALHOST, IpProtocol::Tcp, &segment)),
        (0x86dd, [&[0x60, 0, 0, 0, 0, 8, 58, 255][..], &[0xfd; 32], &[128, 0, 0, 0, 0, 0, 0, 0]].concat()),
    ];
    for _ in 0..30_000 {
        let (kind, bytes) = &good[random(good.len())];
        let mut bytes = bytes[..bytes.len() - if random(3) == 0 { random(bytes.len()) } else { 0 }].to_vec();
        for _ in 0..random(5) {
            if !bytes.is_empty() {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
        }
        // Half of them with right sums, so that what is behind is looked at.
        if *kind == 0x0800 && bytes.len() > 24 && random(2) == 0 {
            let header = usize::from(bytes[0] & 15) * 4;
            if (20..bytes.len()).contains(&header) {
                bytes[10..12].fill(0);
                let sum = checksum(&bytes[..header]);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                let to: Ipv4Addr = <[u8; 4]>::try_from(&bytes[16..20]).unwrap().into();
                if bytes[9] == 6 && bytes.len() >= header + 20 {
                    let mut packet = smoltcp::wire::TcpPacket::new_unchecked(&mut bytes[header..]);
                    packet.fill_checksum(&ADDRESS.into(), &to.into());
                }
            }
        }
        guest.send_frame(*kind, &bytes);
        if random(500) == 0 {
            guest.step(Duration::ZERO);
        }
    }
    let (address, server) = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (address, std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"still").unwrap()))
    };
    let connection = guest.connect(address).unwrap();
    assert_eq!(guest.read_all(connection), b"still");
    server.join().unwrap();
}
