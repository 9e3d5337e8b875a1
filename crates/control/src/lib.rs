//! The control protocol: what the Python side says to a sentry (or an agent), and what it answers.
//!
//! Transport: one stream socket. Each frame is a 4-byte little-endian length (at most [`frame::MAXIMUM_FRAME`]) and that
//! many bytes of JSON. Descriptors travel with the first byte of the frame that mentions them (SCM_RIGHTS), the
//! request says how many they are, and the message refers to them by index. Client to server: [`Request`] (the first one must be `boot`). Server to client:
//! [`Reply`], in any order, and [`Event`] at any time. When the client's end closes, the sandbox ends.
//! `tests/control/*.json` holds one golden frame per message; both languages read them.
#![forbid(unsafe_code)]

pub mod frame;
pub mod messages;
pub mod rules;

pub use messages::*;
pub use rules::*;
