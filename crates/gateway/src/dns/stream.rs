//! DNS over TCP: a stream of messages with their lengths before them, either way.

use super::message::{id, refusal, Question, Rcode};
use crate::context::Context;

/// Of what waits for either side.
const MOST_WAITING: usize = 128 << 10;
/// Questions that are not answered.
const MOST_ASKED: usize = 64;

/// The stream goes on no further.
#[derive(Debug)]
pub struct Broken;

#[derive(Default)]
pub struct Stream {
    guest: Vec<u8>,
    host: Vec<u8>,
    to_guest: Vec<u8>,
    to_host: Vec<u8>,
    asked: Vec<Question>,
}

impl Stream {
    pub fn takes_more(&self) -> bool {
        self.to_guest.len() < MOST_WAITING && self.to_host.len() < MOST_WAITING
    }

    pub fn to_host(&self) -> &[u8] {
        &self.to_host
    }

    pub fn sent_to_host(&mut self, count: usize) {
        self.to_host.drain(..count);
    }

    pub fn to_guest(&self) -> &[u8] {
        &self.to_guest
    }

    pub fn sent_to_guest(&mut self, count: usize) {
        self.to_guest.drain(..count);
    }

    pub fn take_from_guest(&mut self, bytes: &[u8], context: &mut Context) -> Result<(), Broken> {
        self.guest.extend_from_slice(bytes);
        while let Some(message) = take(&mut self.guest) {
            match super::check(&message, context) {
                Ok(question) if self.asked.len() < MOST_ASKED => {
                    self.asked.push(question);
                    put(&mut self.to_host, &message);
                }
                Ok(_) => put(&mut self.to_guest, &refusal(&message, Rcode::ServerFailure)),
                Err(Some(answer)) => put(&mut self.to_guest, &answer),
                Err(None) => return Err(Broken),
            }
        }
        Ok(())
    }

    pub fn take_from_host(&mut self, bytes: &[u8], context: &mut Context) -> Result<(), Broken> {
        self.host.extend_from_slice(bytes);
        while let Some(message) = take(&mut self.host) {
            // What nobody has asked for is not passed on.
            let place = self.asked.iter().position(|question| question.is_answered_by(&message));
            if let Some(place) = place {
                let question = self.asked.swap_remove(place);
                super::learn(&question, &message, context);
                put(&mut self.to_guest, &message);
            }
        }
        Ok(())
    }
}

/// The first message, where it is there in whole.
fn take(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    let message = rest.get(..length)?.to_vec();
    bytes.drain(..2 + length);
    Some(message)
}

fn put(bytes: &mut Vec<u8>, message: &[u8]) {
    if id(message).is_some() {
        bytes.extend((message.len() as u16).to_be_bytes());
        bytes.extend(message);
    }
}
