//! The virtual machine monitor: what it says on its console, and its end.

use parking_lot::{Condvar, Mutex};
use rustix::event::{eventfd, EventfdFlags};
use skerry_platform::agent::{wait_for_any, Dead};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Kept of the console.
const KEPT: usize = 16 << 10;
/// Lines of it that an error shows.
const SHOWN: usize = 12;
/// Between the end of a helper and that of the monitor, where the one comes of the other.
const GRACE: Duration = Duration::from_millis(300);
const STACK: usize = 128 << 10;

/// Cheap to clone.
#[derive(Clone)]
pub struct Monitor {
    shared: Arc<Shared>,
}

struct Shared {
    console: Mutex<Vec<u8>>,
    /// How it ended.
    end: Mutex<Option<String>>,
    ended: Condvar,
    /// Readable from then on.
    signal: OwnedFd,
}

impl Monitor {
    /// Of the process `pid`, a child of ours; without one of its `helpers`, by number and name, it is as good as ended. Others
    /// that end are reaped.
    pub fn watch(pid: i32, helpers: Vec<(i32, String)>, console: OwnedFd) -> std::io::Result<Monitor> {
        let signal = eventfd(0, EventfdFlags::CLOEXEC)?;
        let shared = Shared { console: Mutex::default(), end: Mutex::default(), ended: Condvar::new(), signal };
        let monitor = Monitor { shared: Arc::new(shared) };
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
            while let Some(dead) = wait_for_any() {
                if dead.pid == pid {
                    let off = if matches!(dead.end, Ok(0)) { ": the guest has switched itself off" } else { "" };
                    shared.end(told("its monitor", &dead) + off);
                } else if let Some((_, name)) = helpers.iter().find(|(helper, _)| *helper == dead.pid) {
                    let (shared, how) = (shared.clone(), told(name, &dead));
                    if dead.end.is_err() {
                        // Nobody makes another end so.
                        shared.end(how);
                        continue;
                    }
                    // One that ends because the monitor does is reaped first now and then.
                    let _ = std::thread::Builder::new().stack_size(STACK).spawn(move || {
                        std::thread::sleep(GRACE);
                        shared.end(how);
                    });
                }
            }
            shared.end("it is not there".into());
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

    /// How it ended; waits for it.
    pub fn wait_long(&self) -> String {
        let mut end = self.shared.end.lock();
        loop {
            match &*end {
                Some(end) => return end.clone(),
                None => self.shared.ended.wait(&mut end),
            }
        }
    }

    /// As good as ended: what it needs is gone.
    pub fn ends_without(&self, how: String) {
        self.shared.end(how);
    }

    /// Readable when it has ended: its children may keep what it had open.
    pub fn end_signal(&self) -> &OwnedFd {
        &self.shared.signal
    }

    /// The last lines of the console, for a message.
    pub fn last_words(&self) -> String {
        // They are on their way.
        std::thread::sleep(Duration::from_millis(20));
        let kept = self.shared.console.lock();
        let text = String::from_utf8_lossy(&kept);
        // A guest's console may hold anything: only what prints.
        let plain = |line: &str| line.chars().filter(|one| !one.is_control()).collect::<String>();
        let lines: Vec<String> = text.lines().map(plain).filter(|line| tells(line)).collect();
        if lines.is_empty() {
            return "; its console is empty".into();
        }
        format!("; its console ends with:\n  {}", lines[lines.len().saturating_sub(SHOWN)..].join("\n  "))
    }
}

impl Shared {
    /// The first who says it is believed.
    fn end(&self, how: String) {
        self.end.lock().get_or_insert(how);
        self.ended.notify_all();
        let _ = rustix::io::write(&self.signal, &1u64.to_ne_bytes());
    }
}

/// Not empty, and not of a dump of the kernel's stack: what matters stands before that.
fn tells(line: &str) -> bool {
    let hexadecimal = |word: &str| word.len() == 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let line = line.trim();
    !line.is_empty() && !line.starts_with("[<") && !line.split(' ').all(hexadecimal)
}

fn told(name: &str, dead: &Dead) -> String {
    match dead.end {
        Ok(status) => format!("{name} ended with status {status}"),
        Err((signal, _)) => format!("{name} was killed by signal {signal}"),
    }
}
