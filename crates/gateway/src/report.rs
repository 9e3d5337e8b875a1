//! What is denied is told to who started us: a line of JSON on standard error each, and not too many.

use crate::config::Transport;
use crate::dns::{self, Name};
use crate::policy::{Clause, Protocol};
use rustix::event::{poll, PollFd, PollFlags};
use serde_json::json;
use smoltcp::time::{Duration, Instant};
use std::net::SocketAddr;

/// In a row, and then one in as much time.
const BURST: u32 = 20;
const INTERVAL: Duration = Duration::from_millis(200);

pub struct Reports {
    told: u32,
    since: Instant,
    untold: u64,
}

impl Reports {
    pub fn new(now: Instant) -> Reports {
        Reports { told: 0, since: now, untold: 0 }
    }

    pub fn denied(&mut self, protocol: Protocol, to: SocketAddr, clause: Clause, now: Instant) {
        let protocol = match protocol {
            Protocol::Transport(Transport::Tcp) => "tcp",
            Protocol::Transport(Transport::Udp) => "udp",
            Protocol::Echo => "icmp",
        };
        self.tell(protocol, to.ip().to_string(), to.port(), clause, now);
    }

    pub fn denied_name(&mut self, name: &Name, clause: Clause, now: Instant) {
        self.tell("dns", name.to_string(), dns::PORT, clause, now);
    }

    fn tell(&mut self, protocol: &str, address: String, port: u16, clause: Clause, now: Instant) {
        while self.told > 0 && now >= self.since + INTERVAL {
            self.told -= 1;
            self.since += INTERVAL;
        }
        if self.told == 0 {
            self.since = now;
        }
        if self.told >= BURST {
            self.untold += 1;
            return;
        }
        let mut denied = json!({"protocol": protocol, "address": address, "port": port, "clause": clause.name});
        if let Some(reason) = clause.reason {
            denied["reason"] = reason.into();
        }
        if self.untold > 0 {
            denied["untold"] = self.untold.into();
        }
        let line = format!("{}\n", json!({ "denied": denied }));
        if write(&line) {
            self.told += 1;
            self.untold = 0;
        } else {
            self.untold += 1;
        }
    }
}

/// A pipe that is written to takes a short line whole: nobody waits for a reader.
fn write(line: &str) -> bool {
    let standard_error = rustix::stdio::stderr();
    let mut one = [PollFd::new(&standard_error, PollFlags::OUT)];
    let ready = poll(&mut one, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 }));
    ready.is_ok_and(|count| count > 0) && rustix::io::write(standard_error, line.as_bytes()).is_ok()
}
