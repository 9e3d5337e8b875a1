//! Every golden frame in tests/control is read as its type and written again unchanged; the Python side does the same.

use serde::{de::DeserializeOwned, Deserialize, Serialize};
use serde_json::Value;
use skerry_control::{frame, Booted, Event, FileStat, Outcome, ProcessState, Reply, Request, Spawned, Usage};
use std::path::{Path, PathBuf};

/// The payloads of replies that the protocol's types only describe in their comments.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Processes {
    processes: Vec<ProcessState>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entries {
    entries: Vec<FileStat>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    data: String,
    end: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

fn again<T: DeserializeOwned + Serialize>(value: &Value, name: &str) {
    let message: T = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(&serde_json::to_value(&message).unwrap(), value, "{name}");
    let mut bytes = frame::encode(&message).unwrap();
    assert_eq!(&frame::take::<Value>(&mut bytes).unwrap().unwrap(), value, "{name}, as a frame");
}

fn check_reply(value: &Value, name: &str) {
    again::<Reply>(value, name);
    let reply: Reply = serde_json::from_value(value.clone()).unwrap();
    let Outcome::Ok(payload) = reply.outcome else {
        assert!(name.starts_with("reply-error"), "{name} is an error");
        return;
    };
    match name {
        "reply-booted" => again::<Booted>(&payload, name),
        "reply-spawned" => again::<Spawned>(&payload, name),
        "reply-processes" => again::<Processes>(&payload, name),
        "reply-usage" => again::<Usage>(&payload, name),
        "reply-file-data" => again::<Data>(&payload, name),
        "reply-file-entries" => again::<Entries>(&payload, name),
        "reply-file-stat" => again::<FileStat>(&payload, name),
        "reply-empty" => again::<Empty>(&payload, name),
        _ => panic!("no type is known for {name}"),
    }
}

fn frames() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/control");
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect()
}

#[test]
fn golden_frames_survive() {
    let frames = frames();
    assert!(frames.len() > 30, "only {} golden frames", frames.len());
    for path in frames {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        match name.split('-').next() {
            Some("request") => again::<Request>(&value, &name),
            Some("reply") => check_reply(&value, &name),
            Some("event") => again::<Event>(&value, &name),
            _ => panic!("{name} names no direction"),
        }
    }
}
