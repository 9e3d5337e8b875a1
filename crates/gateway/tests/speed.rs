//! How fast bytes go through the gateway, and what it works for that: `cargo test --release -p skerry-gateway --test speed --
//! --ignored --nocapture`. The guest here is a program of smoltcp's, which works as much itself.

mod guest;

use guest::Guest;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

const BYTES: usize = 512 << 20;

fn measure(mtu: usize) {
    let mut guest = Guest::start_with(&format!(r#"{{"addresses": ["127.0.0.0/8"], "mtu": {mtu}}}"#), mtu, 1 << 20);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let piece = vec![0; 1 << 20];
        let mut down = listener.accept().unwrap().0;
        (0..BYTES >> 20).for_each(|_| down.write_all(&piece).unwrap());
        drop(down);
        let mut up = listener.accept().unwrap().0;
        let mut piece = piece;
        while up.read(&mut piece).unwrap() > 0 {}
    });
    let mut piece = vec![0; 1 << 20];
    let told = |guest: &Guest, what: &str, since: Instant, before: f64| {
        let (seconds, work) = (since.elapsed().as_secs_f64(), guest.gateway.worked() - before);
        let megabytes = BYTES as f64 / 1e6;
        println!(
            "mtu {mtu}: {what} {:.0} MB/s, the gateway works {:.2} s for a gigabyte",
            megabytes / seconds,
            work / megabytes * 1000.0
        );
    };
    let (since, before) = (Instant::now(), guest.gateway.worked());
    let connection = guest.connect(address).unwrap();
    loop {
        match guest.socket(connection).recv_slice(&mut piece) {
            Ok(0) => guest.step(Duration::from_millis(100)),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    told(&guest, "down", since, before);
    guest.socket(connection).close();
    let (since, before) = (Instant::now(), guest.gateway.worked());
    let connection = guest.connect(address).unwrap();
    let mut left = BYTES;
    while left > 0 {
        match guest.socket(connection).send_slice(&piece[..piece.len().min(left)]).unwrap() {
            0 => guest.step(Duration::from_millis(100)),
            count => left -= count,
        }
    }
    guest.socket(connection).close();
    guest.until("the end", |_| server.is_finished().then_some(()));
    told(&guest, "up", since, before);
}

#[test]
#[ignore = "it measures"]
fn speed() {
    [1500, 9000, 65520].into_iter().for_each(measure);
}
