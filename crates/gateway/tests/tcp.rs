//! Connections through the gateway, to real sockets of this host.

mod guest;

use guest::{Guest, Refused};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

const LOOPBACK: &str = r#"{"addresses": ["127.0.0.0/8"], "connect": null, "domains": null, "resolvers": [], "hosts": {}}"#;

/// Serves one connection.
fn serve<T: Send + 'static>(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, std::thread::spawn(move || serve(listener.accept().unwrap().0)))
}

/// Bytes that are nowhere the same.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|at| (at.wrapping_mul(2654435761) >> 13) as u8).collect()
}

#[test]
fn an_echo() {
    let mut guest = Guest::start(LOOPBACK);
    let (address, server) = serve(|mut stream| {
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let connection = guest.connect(address).unwrap();
    guest.write(connection, b"hello");
    assert_eq!(guest.read_all(connection), b"hello");
    server.join().unwrap();
    assert!(guest.end().success());
}

#[test]
fn much_comes_as_it_was_sent() {
    let mut guest = Guest::start(LOOPBACK);
    let bytes = pattern(20 << 20);
    let sent = bytes.clone();
    let (address, server) = serve(move |mut stream| stream.write_all(&sent).unwrap());
    let connection = guest.connect(address).unwrap();
    let came = guest.read_all(connection);
    assert!(came == bytes, "{}", came.len());
    server.join().unwrap();
}

#[test]
fn much_goes_as_it_was_sent() {
    let mut guest = Guest::start(LOOPBACK);
    let bytes = pattern(20 << 20);
    let (address, server) = serve(|mut stream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        stream.write_all(b"all").unwrap();
        bytes
    });
    let connection = guest.connect(address).unwrap();
    guest.write(connection, &bytes);
    guest.socket(connection).close();
    assert_eq!(guest.read_all(connection), b"all");
    assert!(server.join().unwrap() == bytes);
}

#[test]
fn each_side_may_end_first() {
    let mut guest = Guest::start(LOOPBACK);
    // The host's side: what the guest sends still arrives.
    let (address, server) = serve(|mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let connection = guest.connect(address).unwrap();
    assert_eq!(guest.read_all(connection), b"bye");
    guest.write(connection, b"still here");
    guest.step(Duration::from_millis(50));
    guest.write(connection, b", and now not");
    guest.socket(connection).close();
    guest.until("the end", |_| server.is_finished().then_some(()));
    assert_eq!(server.join().unwrap(), b"still here, and now not");
    guest.until("the guest's end", |guest| {
        use smoltcp::socket::tcp::State;
        matches!(guest.socket(connection).state(), State::Closed | State::TimeWait).then_some(())
    });
    // The guest's side: what the host sends afterwards still arrives.
    let (address, server) = serve(|mut stream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        stream.write_all(&pattern(300_000)).unwrap();
        bytes
    });
    let connection = guest.connect(address).unwrap();
    guest.write(connection, b"all");
    guest.socket(connection).close();
    assert!(guest.read_all(connection) == pattern(300_000));
    assert_eq!(server.join().unwrap(), b"all");
}

#[test]
fn who_is_not_there_refuses() {
    let mut guest = Guest::start(LOOPBACK);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(guest.connect(free), Err(Refused));
    assert!(guest.gateway.has_no_error());
    // One that is there is reached all the same.
    let (address, server) = serve(|mut stream| stream.write_all(b"here").unwrap());
    let connection = guest.connect(address).unwrap();
    assert_eq!(guest.read_all(connection), b"here");
    server.join().unwrap();
}

#[test]
fn a_reset_reaches_the_other_side() {
    let mut guest = Guest::start(LOOPBACK);
    // Of the host's: it closes with something unread.
    let (address, server) = serve(|mut stream| {
        let mut one = [0];
        stream.read_exact(&mut one).unwrap();
    });
    let connection = guest.connect(address).unwrap();
    guest.write(connection, &[7; 10_000]);
    guest.until("its arrival", |_| server.is_finished().then_some(()));
    server.join().unwrap();
    guest.until("a reset", |guest| (guest.socket(connection).state() == smoltcp::socket::tcp::State::Closed).then_some(()));
    // Of the guest's.
    let (address, server) = serve(|mut stream| {
        let mut bytes = [0; 2];
        stream.read_exact(&mut bytes[..1]).unwrap();
        stream.read(&mut bytes).map_err(|error| error.kind())
    });
    let connection = guest.connect(address).unwrap();
    guest.write(connection, b"x");
    guest.until("its arrival", |guest| (guest.socket(connection).send_queue() == 0).then_some(()));
    guest.socket(connection).abort();
    guest.until("a reset", |_| server.is_finished().then_some(()));
    assert_eq!(server.join().unwrap(), Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn nobody_is_sent_more_than_is_read() {
    let mut guest = Guest::start(LOOPBACK);
    let bytes = pattern(32 << 20);
    let (sent, sending) = std::sync::mpsc::channel();
    let (address, server) = serve({
        let bytes = bytes.clone();
        move |mut stream| {
            stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            let mut count = 0;
            while let Ok(more) = stream.write(&bytes[count..]) {
                count += more;
                if count == bytes.len() {
                    break;
                }
            }
            sent.send(count).unwrap();
        }
    });
    let connection = guest.connect(address).unwrap();
    // The guest takes frames, but its program reads nothing.
    let count = guest.until("a full way", |_| sending.try_recv().ok());
    assert!(count < 16 << 20, "{count}");
    server.join().unwrap();
    let came = guest.read_all(connection);
    assert!(came == bytes[..count], "{}", came.len());
    // And the other way: the server reads when it is told to.
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let (address, server) = serve(move |mut stream| {
        told.recv().unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let connection = guest.connect(address).unwrap();
    let mut count = 0;
    let mut quiet = 0;
    while quiet < 20 {
        let more = guest.socket(connection).send_slice(&bytes[count..]).unwrap();
        (count, quiet) = (count + more, if more == 0 { quiet + 1 } else { 0 });
        guest.step(Duration::from_millis(10));
    }
    assert!(count < 16 << 20, "{count}");
    tell.send(()).unwrap();
    guest.socket(connection).close();
    guest.until("the rest", |_| server.is_finished().then_some(()));
    assert!(server.join().unwrap() == bytes[..count]);
}

/// The guest has ended everything, and its system has forgotten the connection; the host reads late.
#[test]
fn what_was_sent_before_the_end_arrives_late() {
    let mut guest = Guest::start(LOOPBACK);
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let (address, server) = serve(move |mut stream| {
        stream.shutdown(Shutdown::Write).unwrap();
        told.recv().unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map(|_| bytes)
    });
    let connection = guest.connect(address).unwrap();
    assert_eq!(guest.read_all(connection), b"");
    let bytes = pattern(32 << 20);
    let port = guest.socket(connection).local_endpoint().unwrap().port;
    let window = |guest: &Guest| guest.last_segment(port).unwrap().window;
    let (widest, mut count) = (window(&guest), 0);
    // Until some of it has to stay with the gateway.
    while window(&guest) > widest / 4 * 3 {
        count += guest.socket(connection).send_slice(&bytes[count..count + 8192]).unwrap();
        guest.until("its arrival", |guest| (guest.socket(connection).send_queue() == 0).then_some(()));
    }
    guest.socket(connection).close();
    // Longer than TCP waits at its end.
    let early = std::time::Instant::now();
    while early.elapsed() < Duration::from_secs(12) {
        guest.step(Duration::from_millis(50));
    }
    tell.send(()).unwrap();
    guest.until("the rest", |_| server.is_finished().then_some(()));
    assert!(server.join().unwrap().unwrap() == bytes[..count]);
}

#[test]
fn many_at_once() {
    let mut guest = Guest::start_with(LOOPBACK, 1500, 4096);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let mut all: Vec<TcpStream> = (0..512).map(|_| listener.accept().unwrap().0).collect();
        for (number, stream) in all.iter_mut().enumerate() {
            stream.write_all(&(number as u32).to_be_bytes()).unwrap();
        }
        all
    });
    let all: Vec<_> = (0..512).map(|_| guest.connect(address).unwrap()).collect();
    // The next one finds no place, as none of them was idle for long.
    assert_eq!(guest.connect(address), Err(Refused));
    let streams = server.join().unwrap();
    let mut numbers: Vec<_> = all.iter().map(|one| guest.read_exactly(*one, 4)).collect();
    numbers.sort();
    assert!(numbers.iter().enumerate().all(|(number, bytes)| *bytes == (number as u32).to_be_bytes()));
    // When some are over, there is place.
    drop(streams);
    all.iter().for_each(|one| guest.socket(*one).close());
    let (address, server) = serve(|mut stream| stream.write_all(b"next").unwrap());
    let connection = guest.until("a place", |guest| guest.connect(address).ok());
    assert_eq!(guest.read_all(connection), b"next");
    server.join().unwrap();
}

#[test]
fn one_after_the_other() {
    let mut guest = Guest::start_with(LOOPBACK, 1500, 4096);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        for number in 0..1500u32 {
            let mut stream = listener.accept().unwrap().0;
            stream.write_all(&number.to_be_bytes()).unwrap();
            // Every other time the guest ends first.
            let _ = (number % 2 > 0).then(|| stream.read(&mut [0; 1]));
        }
    });
    for number in 0..1500u32 {
        let connection = guest.connect(address).unwrap();
        assert_eq!(guest.read_exactly(connection, 4), number.to_be_bytes());
        guest.socket(connection).close();
        assert_eq!(guest.read_all(connection), b"");
        guest.until("the end", |guest| (guest.socket(connection).send_queue() == 0).then_some(()));
        guest.step(Duration::ZERO);
        guest.forget(connection);
    }
    server.join().unwrap();
    // Nothing is left of them but what the guest forgot too early.
    if let Ok(open) = std::fs::read_dir(format!("/proc/{}/fd", guest.gateway.child.id())) {
        let open = open.count();
        assert!(open < 100, "{open}");
    }
}

#[test]
fn large_packets() {
    let mut guest = Guest::start_with(r#"{"addresses": ["127.0.0.0/8"], "mtu": 65520}"#, 65520, 1 << 20);
    let bytes = pattern(20 << 20);
    let (address, server) = serve({
        let bytes = bytes.clone();
        move |mut stream| {
            let mut came = vec![0; bytes.len()];
            stream.read_exact(&mut came).unwrap();
            assert!(came == bytes);
            stream.write_all(&bytes).unwrap();
        }
    });
    let connection = guest.connect(address).unwrap();
    guest.write(connection, &bytes);
    assert!(guest.read_all(connection) == bytes);
    server.join().unwrap();
}

#[test]
fn by_ipv6() {
    // An address of this host's that is not its loopback, if it has one: named by itself it may be reached.
    let socket = std::net::UdpSocket::bind("[::]:0").and_then(|socket| {
        socket.connect("[2001:db8::1]:9")?;
        socket.local_addr()
    });
    let Ok(own) = socket else { return };
    let mut guest = Guest::start(&format!(r#"{{"addresses": ["{}"]}}"#, own.ip()));
    let listener = TcpListener::bind((own.ip(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"six").unwrap());
    let connection = guest.connect(address).unwrap();
    assert_eq!(guest.read_all(connection), b"six");
    server.join().unwrap();
}
