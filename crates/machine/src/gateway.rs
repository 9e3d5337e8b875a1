//! The gateway of a guest that has a network: a program on the host's side of the jail, as it needs the host's network. It is
//! the guardian's child, started before the jail is made, and we speak with it by what it was started with: its side of the
//! frames goes to the monitor, what it denies comes to us, and of its end the guardian tells us. It ends when the frames do.

use crate::failure;
use crate::monitor::Monitor;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::io::{retry_on_intr, Errno};
use rustix::process::{wait, Pid, WaitOptions, WaitStatus};
use serde_json::Value;
use skerry_confine::cgroup::ControlGroups;
use skerry_confine::connection::Sender;
use skerry_confine::{cpus, guardian};
use skerry_control::{Event, Failure, FailureKind, Gateway, NetworkDenied};
use skerry_platform::agent::{die_with_parent, execute, fork, hand_on_as, kill, leave, reset_signals};
use std::collections::HashSet;
use std::ffi::CString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// What it says when it serves.
const READY: &[u8] = b"ready\n";
/// Of one line that it says; of different ones that are told.
const LONGEST: u64 = 4096;
const MOST: usize = 1 << 14;
/// A gateway that ends well does so because the monitor has: that is to be heard first.
const GRACE: Duration = Duration::from_millis(300);
const STACK: usize = 128 << 10;

/// The guardian's part.
pub struct Watched {
    pid: Pid,
    tell: Option<File>,
    gone: bool,
}

/// The part of who is in the jail.
pub struct Held {
    /// The monitor's.
    frames: Option<OwnedFd>,
    ready: File,
    said: File,
    /// What the guardian says of its end.
    end: File,
}

/// Starts it. With one thread, before anything is split; it counts to the sandbox's groups.
pub fn start(wanted: &Gateway, groups: &mut ControlGroups, most_cpus: Option<f64>) -> Result<(Watched, Held), Failure> {
    let internal = |error: &dyn std::fmt::Display| failure(FailureKind::Internal, format!("the gateway: {error}"));
    let pipe = || {
        let pair = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| internal(&error))?;
        Ok::<_, Failure>((File::from(pair.0), File::from(pair.1)))
    };
    let program = CString::new(wanted.program.0.clone()).map_err(|error| internal(&error))?;
    let input = rustix::fs::memfd_create("configuration", MemfdFlags::CLOEXEC).map_err(|error| internal(&error))?;
    let mut input = File::from(input);
    let written = input.write_all(wanted.configuration.to_string().as_bytes()).and_then(|()| input.rewind());
    written.map_err(|error| internal(&error))?;
    let (theirs, frames) = UnixStream::pair().map_err(|error| internal(&error))?;
    let ((ready, say_ready), (said, say), (end, tell)) = (pipe()?, pipe()?, pipe()?);
    match fork().map_err(|error| internal(&error))? {
        Some(pid) => {
            let pid = Pid::from_raw(pid).ok_or_else(|| internal(&"it has no number"))?;
            Ok((Watched { pid, tell: Some(tell), gone: false }, Held { frames: Some(frames.into()), ready, said, end }))
        }
        None => {
            die_with_parent();
            // Its time is the guest's.
            groups.join();
            let _ = most_cpus.map(|cpus| cpus::hold(groups, cpus));
            let mut own = vec![OwnedFd::from(input), say_ready.into(), say.into(), theirs.into()];
            // None is in another one's place.
            own = own.iter().flat_map(|one| rustix::io::fcntl_dupfd_cloexec(one, own.len() as i32)).collect();
            let handed = own.iter().zip(0..).all(|(one, number)| hand_on_as(one.as_fd(), number).is_ok());
            skerry_platform::foreground::close_all_but([0, 1, 2, 3]);
            reset_signals();
            if handed && own.len() == 4 && rustix::process::chdir("/").is_ok() && rustix::process::setsid().is_ok() {
                let error = execute(&program, std::slice::from_ref(&program), &[]);
                let _ = rustix::io::write(rustix::stdio::stderr(), format!("{error}\n").as_bytes());
            }
            leave(126)
        }
    }
}

impl Watched {
    /// Until `init` has ended; who is in there hears of the gateway's end meanwhile.
    pub fn wait_beside(&mut self, init: Pid) -> Option<WaitStatus> {
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) if pid == init => return Some(status),
                Ok(Some((pid, status))) if pid == self.pid => {
                    self.gone = true;
                    let how = match status.terminating_signal() {
                        Some(signal) => format!("was killed by signal {signal}"),
                        None => format!("ended with status {}", status.exit_status().unwrap_or_default()),
                    };
                    // And no more: who reads it reads to the end.
                    let _ = self.tell.take().map(|mut tell| tell.write_all(how.as_bytes()));
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// It is somebody else, so that this takes a capability.
    pub fn end(&self) {
        if !self.gone {
            let _ = kill(self.pid.as_raw_pid(), rustix::process::Signal::KILL.as_raw());
            guardian::wait(self.pid);
        }
    }
}

impl Held {
    /// Waits until it serves.
    pub fn wait_ready(&mut self, deadline: Instant) -> Result<(), Failure> {
        let unsupported = |why: &str| failure(FailureKind::Unsupported, format!("the network user cannot be had here: {why}"));
        let mut heard = Vec::new();
        while heard.len() < READY.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            if let Ok(0) = poll(&mut [PollFd::new(&self.ready, PollFlags::IN)], Some(&timeout)) {
                return Err(unsupported("its gateway does not come up"));
            }
            let mut bytes = [0; READY.len()];
            match retry_on_intr(|| rustix::io::read(&self.ready, &mut bytes)) {
                Ok(count @ 1..) => heard.extend_from_slice(&bytes[..count]),
                _ => break,
            }
        }
        if heard == READY {
            return Ok(());
        }
        if heard.len() >= READY.len() {
            return Err(unsupported("its gateway does not say that it is ready"));
        }
        // It has ended, and said why; the guardian says how.
        let last = BufReader::new((&mut self.said).take(LONGEST)).lines().map_while(Result::ok).last().unwrap_or_default();
        let mut how = String::new();
        let _ = self.end.read_to_string(&mut how);
        Err(unsupported(&worded(&how, &last)))
    }

    /// For the monitor alone: when that has let go of them, the gateway ends.
    pub fn take_frames(&mut self) -> Result<OwnedFd, Failure> {
        self.frames.take().ok_or_else(|| failure(FailureKind::Internal, "the gateway's frames are somebody's"))
    }

    /// From now on what it denies is told, and its end is the machine's.
    pub fn follow(self, sender: Sender, monitor: Monitor) -> std::io::Result<()> {
        std::thread::Builder::new().stack_size(STACK).spawn(move || {
            let Held { said, mut end, .. } = self;
            let (mut said, mut last) = (BufReader::new(said), String::new());
            let (mut told, mut untold) = (HashSet::new(), 0);
            let mut line = Vec::new();
            while matches!((&mut said).take(LONGEST).read_until(b'\n', &mut line), Ok(1..)) {
                match denial(&line) {
                    Some(denial) => {
                        untold += denial.untold;
                        let same = (denial.protocol.clone(), denial.address.clone(), denial.port);
                        if told.len() < MOST && told.insert(same) {
                            let untold = std::mem::take(&mut untold);
                            sender.event(&Event::NetworkDenied(NetworkDenied { untold, ..denial }));
                        }
                    }
                    None => last = String::from_utf8_lossy(&line).trim().to_owned(),
                }
                line.clear();
            }
            let mut how = String::new();
            if end.read_to_string(&mut how).is_ok_and(|count| count > 0) {
                if how.starts_with("ended") {
                    std::thread::sleep(GRACE);
                }
                monitor.ends_without(worded(&how, &last));
            }
        })?;
        Ok(())
    }
}

/// How it ended, and what it said last.
fn worded(how: &str, last: &str) -> String {
    let plain: String = last.chars().filter(|one| !one.is_control()).collect();
    let colon = if plain.is_empty() { "" } else { ": " };
    format!("its gateway {how}{colon}{plain}")
}

/// One line of its reports, if it is one.
fn denial(line: &[u8]) -> Option<NetworkDenied> {
    let report: Value = serde_json::from_slice(line).ok()?;
    let denied = report.get("denied")?;
    let text = |name: &str| Some(denied.get(name)?.as_str()?.to_owned());
    let port = denied.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
    let address = text("address").or_else(|| text("name"))?;
    let (protocol, clause) = (text("protocol")?, text("clause")?);
    let untold = denied.get("untold").and_then(Value::as_u64).unwrap_or(0);
    Some(NetworkDenied { protocol, address, port, clause, reason: text("reason"), untold })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_and_what_is_none_is_not() {
        let line = br#"{"denied": {"protocol": "tcp", "address": "192.0.2.1", "port": 25, "clause": "network.connect"}}"#;
        let found = denial(line).unwrap();
        let words = (&found.protocol[..], &found.address[..], found.port, &found.clause[..]);
        assert_eq!(words, ("tcp", "192.0.2.1", 25, "network.connect"));
        for other in [&b"{}"[..], b"skerry-gateway: no", b"{\"denied\": 1}", b"{\"denied\": {\"protocol\": 1}}", b"\xff"] {
            assert!(denial(other).is_none());
        }
        assert_eq!(worded("was killed by signal 9", ""), "its gateway was killed by signal 9");
        assert_eq!(worded("ended with status 1", "no\x1b room"), "its gateway ended with status 1: no room");
    }
}
