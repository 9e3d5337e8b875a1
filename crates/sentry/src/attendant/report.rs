//! What the person who runs the command reads: messages, the trace, the events, the result.

use super::state::State;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Write;

/// One message of ours on standard error.
pub fn complain(text: &str) {
    // An error: nobody listens.
    let _ = writeln!(std::io::stderr(), "skerry: do: {}", printable(text));
}

/// `text` without what could move a terminal's cursor or worse: it may come from inside the sandbox.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let code = character as u32;
        match character {
            '\n' | '\t' | '\'' | '"' | '\\' => shown.push(character),
            // What the standard library's Debug would not show as it is.
            _ if character.escape_debug().len() == 1 => shown.push(character),
            _ if code < 0x100 => shown.push_str(&format!("\\x{code:02x}")),
            _ if code < 0x1_0000 => shown.push_str(&format!("\\u{code:04x}")),
            _ => shown.push_str(&format!("\\U{code:08x}")),
        }
    }
    shown
}

/// The name of a signal that processes die of.
pub fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGSYS => "SIGSYS",
        libc::SIGTERM => "SIGTERM",
        _ => return format!("signal {signal}"),
    };
    name.to_owned()
}

/// A line of `--trace`.
pub fn trace(event: &Map<String, Value>, raw_terminal: bool) {
    let process = event.get("process").and_then(Value::as_u64).unwrap_or(0);
    let text = event.get("text").and_then(Value::as_str).unwrap_or_default();
    let end = if raw_terminal { "\r\n" } else { "\n" };
    let _ = std::io::stderr().write_all(format!("[{process}] {}{end}", printable(text)).as_bytes());
}

/// The file of `--events`; a slow one slows the sandbox's events, and loses none.
pub struct Events(pub Option<File>);

impl Events {
    pub fn write(&mut self, event: &Map<String, Value>) {
        let Some(file) = &mut self.0 else { return };
        let line = serde_json::to_string(event).unwrap_or_default() + "\n";
        if let Err(error) = file.write_all(line.as_bytes()) {
            self.0 = None;
            complain(&format!("--events: {error}; no more events are written"));
        }
    }
}

/// The record of this run: events up to a number of bytes, and the end. What cannot be written is left out.
pub struct Record {
    pub file: Option<File>,
    pub room: usize,
}

impl Record {
    pub fn write(&mut self, event: &Map<String, Value>) {
        if event.get("event").and_then(Value::as_str) != Some("trace") {
            let line = serde_json::to_string(event).unwrap_or_default() + "\n";
            if line.len() <= self.room {
                self.room -= line.len();
                self.put(&line);
            }
        }
    }

    /// How it ended, which there is always room for.
    pub fn end(&mut self, outcome: &Outcome) {
        let end = serde_json::json!({
            "event": "ended",
            "exit_status": outcome.status,
            "timed_out": outcome.timed_out,
            "out_of_memory": outcome.out_of_memory,
            "error": outcome.error,
        });
        self.put(&(end.to_string() + "\n"));
    }

    fn put(&mut self, line: &str) {
        if let Some(file) = &mut self.file {
            if file.write_all(line.as_bytes()).is_err() {
                self.file = None;
            }
        }
    }
}

/// How the run went.
pub struct Outcome {
    pub status: u8,
    /// The `exited` event of the command.
    pub exited: Option<Map<String, Value>>,
    pub timed_out: bool,
    pub out_of_memory: bool,
    /// Why there was no command to its end.
    pub error: Option<String>,
}

/// Writes the file of `--json`.
pub fn write(mut file: File, state: &State, outcome: &Outcome) {
    let of = |name: &str| outcome.exited.as_ref().and_then(|event| event.get(name)).cloned().unwrap_or(Value::Null);
    let mut report = state.report.clone();
    let facts = [
        ("exit_status", outcome.status.into()),
        ("status", of("status")),
        ("signal", of("signal")),
        ("core_dumped", of("core_dumped").as_bool().unwrap_or(false).into()),
        ("timed_out", outcome.timed_out.into()),
        ("out_of_memory", outcome.out_of_memory.into()),
        ("error", outcome.error.clone().into()),
        ("usage", of("usage")),
    ];
    report.extend(facts.map(|(name, value)| (name.to_owned(), value)));
    let text = serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
    if let Err(error) = file.write_all(text.as_bytes()) {
        complain(&format!("--json: the result could not be written: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn what_could_move_the_cursor_is_shown_as_an_escape() {
        assert_eq!(printable("a\x1b[2J\u{7f}\r\n"), "a\\x1b[2J\\x7f\\x0d\n");
        assert_eq!(printable("it's \"ü\" \\ 漢字\t"), "it's \"ü\" \\ 漢字\t");
        assert_eq!(printable("\u{9b}\u{200b}\u{202e}\u{e000}\u{e0001}"), "\\x9b\\u200b\\u202e\\ue000\\U000e0001");
    }
}
