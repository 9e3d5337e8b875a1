//! Damaged frames: the golden ones of tests/control, mutated. Nothing panics, nothing is taken twice, and what is
//! understood is understood again after it was written. SKERRY_FUZZ_SECONDS and SKERRY_FUZZ_SEED: see fuzz/README.md.

use skerry_control::{base64, frame, Event, Reply, Request};
use std::time::{Duration, Instant};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
        const PIECES: [&[u8]; 14] = [
            b"null",
            b"-1",
            b"18446744073709551616",
            b"1e999",
            b"\"\\ud800\"",
            b"{}",
            b"[[[[[[",
            b"\"",
            b"\xff",
            b"{\"base64\":\"%\"}",
            b"true",
            b"4294967296",
            b"\\u0000",
            b",",
        ];
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(20)).min(bytes.len());
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 => bytes.truncate(at),
                2 => drop(bytes.drain(at..end)),
                3 => drop(bytes.splice(at..end, PIECES[self.below(PIECES.len())].iter().copied())),
                4 => {
                    let other = &others[self.below(others.len())];
                    let from = self.below(other.len());
                    let to = (from + self.below(40)).min(other.len());
                    drop(bytes.splice(at..end, other[from..to].iter().copied()));
                }
                _ => bytes.insert(at, self.next() as u8),
            }
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn golden() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/control");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let files = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.map(|path| std::fs::read(path).unwrap()).collect()
}

/// What is understood stays the same when it is written and read again.
fn check<T: serde::Serialize + serde::de::DeserializeOwned>(json: &[u8]) {
    let mut buffer = (json.len() as u32).to_le_bytes().to_vec();
    buffer.extend_from_slice(json);
    buffer.extend_from_slice(b"next");
    if let Ok(message) = frame::take::<T>(&mut buffer) {
        assert_eq!(buffer, b"next");
        let message = message.expect("the frame is whole");
        let mut written = frame::encode(&message).unwrap();
        let copy = written.clone();
        let again = frame::take::<T>(&mut written).expect("what we write we read").expect("the frame is whole");
        assert_eq!(frame::encode(&again).unwrap(), copy);
    }
}

#[test]
fn damaged_frames() {
    let end = Instant::now() + Duration::from_secs(number("SKERRY_FUZZ_SECONDS").unwrap_or(2));
    let mut random = Random(number("SKERRY_FUZZ_SEED").unwrap_or(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let golden = golden();
    assert!(golden.len() > 20);
    while Instant::now() < end {
        let mut json = golden[random.below(golden.len())].clone();
        random.mutate(&mut json, &golden);
        check::<Request>(&json);
        check::<Reply>(&json);
        check::<Event>(&json);
        // The same bytes as a stream: a length of chance, in pieces.
        let mut stream = Vec::new();
        for piece in json.chunks(1 + random.below(64)) {
            stream.extend_from_slice(piece);
            while let Ok(Some(_)) = frame::take::<Request>(&mut stream) {}
        }
        let text = String::from_utf8_lossy(&json);
        if let Some(bytes) = base64::decode(&text) {
            assert_eq!(base64::decode(&base64::encode(&bytes)), Some(bytes));
        }
    }
}
