//! What the first half of `skerry do` (in Python) hands over: src/skerry/cli/do.py writes it.

use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The connection to the engine, which is booted and waits for requests.
    pub control: i32,
    /// The engine's standard error.
    pub engine_stderr: i32,
    /// The engine's process, a child of ours, and what it is called in messages.
    pub engine_pid: i32,
    pub engine_program: String,
    /// What takes away what the engine has left on the host, if it is killed.
    pub engine_cleanup: Vec<String>,
    /// The request that starts the command, with its descriptors.
    pub spawn: Value,
    pub descriptors: Vec<i32>,
    /// Bytes that were read from the connection and not looked at (base64), and events that were.
    pub unread: String,
    pub events: Vec<Map<String, Value>>,
    /// The command has a terminal of its own.
    pub on_terminal: bool,
    /// Standard input is a terminal, which is to be raw meanwhile.
    pub raw_terminal: bool,
    pub timeout_ns: Option<u64>,
    /// The limit that `--memory` sets, in bytes.
    pub memory: Option<u64>,
    pub trace: bool,
    pub events_file: Option<i32>,
    pub report_file: Option<i32>,
    /// The record of the last run, for `skerry explain`, and how many bytes of events it takes.
    pub record_file: Option<i32>,
    pub record_maximum: usize,
    /// What the report says of the sandbox.
    pub report: Map<String, Value>,
}
