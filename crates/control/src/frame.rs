//! Frames: length and JSON. Reading is split from the socket, so that it can be fuzzed.

use serde::{de::DeserializeOwned, Serialize};

/// The largest frame, in bytes, that either side accepts.
pub const MAXIMUM_FRAME: usize = 16 << 20;

/// What can be wrong with received bytes. The connection is of no use after one.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes is over the limit of {MAXIMUM_FRAME}")]
    TooLong(usize),
    #[error("a frame is not a message of this protocol: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Takes the first whole frame off `buffer`; `None` while it is not complete.
pub fn take<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> Result<Option<T>, FrameError> {
    let Some(header) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*header) as usize;
    if length > MAXIMUM_FRAME {
        return Err(FrameError::TooLong(length));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let message = serde_json::from_slice(&buffer[4..4 + length]);
    buffer.drain(..4 + length);
    Ok(Some(message?))
}

/// One frame's bytes.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > MAXIMUM_FRAME {
        return Err(FrameError::TooLong(length));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_being_cut_anywhere() {
        let bytes = encode(&serde_json::json!({"id": 1})).unwrap();
        for cut in 0..bytes.len() {
            let mut buffer = bytes[..cut].to_vec();
            assert!(take::<serde_json::Value>(&mut buffer).unwrap().is_none());
            buffer.extend_from_slice(&bytes[cut..]);
            assert_eq!(take::<serde_json::Value>(&mut buffer).unwrap().unwrap()["id"], 1);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_it_is_read() {
        let mut buffer = vec![0xff; 4];
        assert!(matches!(take::<serde_json::Value>(&mut buffer), Err(FrameError::TooLong(_))));
    }
}
