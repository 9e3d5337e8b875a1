//! The virtual machine monitor: what it says on its console, and its end.

use parking_lot::{Condvar, Mutex};
use skerry_platform::agent::{wait_for_any, Dead};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Kept of the console.
const KEPT: usize = 16 << 10;
/// Lines of it that an error shows.
const SHOWN: usize = 12;
const STACK: usize = 128 << 10;

/// Cheap to clone.
#[derive(Clone)]
pub struct Monitor {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    console: Mutex<Vec<u8>>,
    /// How it ended.
    end: Mutex<Option<String>>,
    ended: Condvar,
}

impl Monitor {
    /// Of the process `pid`, a child of ours; others that end are reaped.
    pub fn watch(pid: i32, console: OwnedFd) -> std::io::Result<Monitor> {
        let monitor = Monitor { shared: Arc::default() };
        let shared = monitor.shared.clone();
        std::thread::Builder::new().stack_size(STACK).spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = rustix::io::retry_on_intr(|| rustix::io::read(&console, &mut bytes)) {
                let mut kept = shared.console.lock();
                kept.extend_from_slice(&bytes[..count]);
                let surplus = kept.len().saturating_sub(KEPT);
                kept.drain(..surplus);
            }
        })?;
        let shared = monitor.shared.clone();
        std::thread::Builder::new().stack_size(STACK).spawn(move || {
            let end = loop {
                match wait_for_any() {
                    Some(dead) if dead.pid == pid => break told(&dead),
                    Some(_) => {}
                    None => break "it is not there".into(),
                }
            };
            *shared.end.lock() = Some(end);
            shared.ended.notify_all();
            while wait_for_any().is_some() {}
        })?;
        Ok(monitor)
    }

    /// How it ended, waited for at most `patience`.
    pub fn wait(&self, patience: Duration) -> Option<String> {
        let deadline = Instant::now() + patience;
        let mut end = self.shared.end.lock();
        while end.is_none() && !self.shared.ended.wait_until(&mut end, deadline).timed_out() {}
        end.clone()
    }

    /// The last lines of the console, for a message.
    pub fn last_words(&self) -> String {
        // They are on their way.
        std::thread::sleep(Duration::from_millis(20));
        let kept = self.shared.console.lock();
        let text = String::from_utf8_lossy(&kept);
        // A guest's console may hold anything: only what prints.
        let plain = |line: &str| line.chars().filter(|one| !one.is_control()).collect::<String>();
        let lines: Vec<String> = text.lines().map(plain).filter(|line| !line.trim().is_empty()).collect();
        if lines.is_empty() {
            return "; its console is empty".into();
        }
        format!("; its console ends with:\n  {}", lines[lines.len().saturating_sub(SHOWN)..].join("\n  "))
    }
}

fn told(dead: &Dead) -> String {
    match dead.end {
        Ok(status) => format!("its monitor ended with status {status}"),
        Err((signal, _)) => format!("its monitor was killed by signal {signal}"),
    }
}
