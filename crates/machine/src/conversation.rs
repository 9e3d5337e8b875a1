//! What a virtual machine monitor is told besides its arguments: QEMU's protocol (QMP), one JSON object a line. The monitor is
//! no more trusted than the guest: its answers are bounded, and looked at for the one word that is waited for.

use crate::monitor::Monitor;
use serde_json::{json, Value};
use skerry_control::{Conversation, Step};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest line that is taken.
const LONGEST: u64 = 1 << 20;
const AGAIN: Duration = Duration::from_millis(2);
/// From a monitor that says no more to its end.
const END_COMES: Duration = Duration::from_millis(500);

pub struct Talk {
    socket: OwnedFd,
    lines: BufReader<UnixStream>,
    deadline: Instant,
}

impl Talk {
    /// As soon as the monitor listens. What goes wrong is told with the monitor's end, where that is the reason.
    pub fn begin(wanted: &Conversation, monitor: &Monitor, deadline: Instant) -> Result<Talk, String> {
        let path = Path::new(OsStr::from_bytes(&wanted.socket.0));
        let socket = loop {
            match UnixStream::connect(path) {
                Ok(socket) => break socket,
                Err(error) if Instant::now() > deadline => return Err(monitor.explain(&format!("its control socket: {error}"))),
                Err(_) => {}
            }
            if let Some(end) = monitor.wait(AGAIN) {
                return Err(monitor.explain(&end));
            }
        };
        let told = |error: std::io::Error| monitor.explain(&format!("its control socket: {error}"));
        socket.set_read_timeout(Some(deadline.saturating_duration_since(Instant::now()).max(AGAIN))).map_err(told)?;
        let lines = BufReader::new(socket.try_clone().map_err(told)?);
        let mut talk = Talk { socket: socket.into(), lines, deadline };
        talk.line()
            .and_then(|_| talk.say(&json!({"execute": "qmp_capabilities"}), &[]))
            .map_err(|why| monitor.explain(&why))?;
        Ok(talk)
    }

    /// All of them, in order.
    pub fn follow(&mut self, steps: &[Step], monitor: &Monitor) -> Result<(), String> {
        steps.iter().try_for_each(|step| self.step(step)).map_err(|why| monitor.explain(&why))
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let files =
            [(&step.read, false), (&step.write, true)].into_iter().filter_map(|(path, write)| Some((path.as_ref()?, write)));
        let files = files
            .map(|(path, write)| File::options().read(!write).write(write).open(OsStr::from_bytes(&path.0)))
            .collect::<Result<Vec<File>, _>>()
            .map_err(|error| format!("what is kept of a machine: {error}"))?;
        let numbers: Vec<i32> = files.iter().map(AsRawFd::as_raw_fd).collect();
        loop {
            let answer = self.say(&step.say, &numbers)?;
            let Some(until) = &step.until else { return Ok(()) };
            match answer.get("status").and_then(Value::as_str) {
                Some(status) if status == until => return Ok(()),
                Some("failed") => return Err(format!("{} says that it failed", step.say)),
                _ if Instant::now() > self.deadline => return Err(format!("{} never says {until}", step.say)),
                _ => std::thread::sleep(AGAIN),
            }
        }
    }

    fn say(&mut self, command: &Value, descriptors: &[i32]) -> Result<Value, String> {
        let mut bytes = command.to_string().into_bytes();
        bytes.push(b'\n');
        skerry_platform::own::send(&self.socket, &bytes, descriptors).map_err(|error| error.to_string())?;
        loop {
            // Events come in between.
            let mut answer = self.line()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(format!("{command} is answered by {error}"));
            }
        }
    }

    fn line(&mut self) -> Result<Value, String> {
        let mut text = Vec::new();
        let read = (&mut self.lines).take(LONGEST).read_until(b'\n', &mut text);
        match read {
            Ok(1..) => serde_json::from_slice(&text).map_err(|error| format!("its control socket: {error}")),
            Ok(_) => Err("it closed its control socket".into()),
            Err(error) => Err(format!("its control socket: {error}")),
        }
    }
}

impl Monitor {
    fn explain(&self, why: &str) -> String {
        // Its end is the reason, where that comes with it.
        let end = self.wait(END_COMES).filter(|end| end != why);
        let why = end.map_or_else(|| why.to_owned(), |end| format!("{end} ({why})"));
        format!("{why}{}", self.last_words())
    }
}
