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
