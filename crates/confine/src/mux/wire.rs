//! The bytes between a relay on the host and the init of a guest: frames of a kind, a stream and a payload.
//!
//! What comes from the other side is hostile: a frame is checked whole before anything is done about it, and nothing is
//! kept that is longer than one.

/// Bytes before a payload: kind, zero, length (little-endian), stream (little-endian).
const HEADER: usize = 8;
/// The longest payload.
pub const LONGEST: usize = 16 << 10;
/// Bytes of one stream that may be under way, until the other side has said that it got rid of them.
pub const WINDOW: usize = 64 << 10;
/// Streams at a time.
pub const MOST_STREAMS: usize = 1024;
/// What the guest's init says first, and whoever says something else is not it.
pub const GREETING: &[u8] = b"skerry-guest 1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The guest is up; the payload is [`GREETING`].
    Hello = 1,
    /// A piece of the control protocol, in order.
    Control = 2,
    /// Host to guest: the next descriptor of the next request; one byte of [`TO_GUEST`] and [`FROM_GUEST`].
    Open = 3,
    Data = 4,
    /// No more data.
    End = 5,
    /// Nobody reads it any more.
    Close = 6,
    /// Four bytes, little-endian: so much is out of the way.
    Credit = 7,
    /// Host to guest: send all that has been written by now, then say so.
    Drain = 8,
    Drained = 9,
}

/// The stream carries what the guest reads.
pub const TO_GUEST: u8 = 1;
/// The stream carries what the guest writes.
pub const FROM_GUEST: u8 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub stream: u32,
    pub payload: Vec<u8>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    #[error("there is no frame of kind {0}")]
    Kind(u8),
    #[error("a frame of {0} bytes is too long, or none at all")]
    Length(usize),
    #[error("{0}")]
    Protocol(&'static str),
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        [Kind::Hello, Kind::Control, Kind::Open, Kind::Data, Kind::End, Kind::Close, Kind::Credit, Kind::Drain, Kind::Drained]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    /// How long its payload may be.
    fn takes(self, length: usize) -> bool {
        match self {
            Kind::Hello => length == GREETING.len(),
            Kind::Control | Kind::Data => (1..=LONGEST).contains(&length),
            Kind::Open => length == 1,
            Kind::Credit => length == 4,
            Kind::End | Kind::Close | Kind::Drain | Kind::Drained => length == 0,
        }
    }
}

impl Frame {
    /// How many bytes a credit is about.
    pub fn credit(&self) -> usize {
        self.payload.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
    }
}

/// One frame's bytes. The payload must be one that [`Kind`] takes.
pub fn encode(kind: Kind, stream: u32, payload: &[u8]) -> Vec<u8> {
    debug_assert!(kind.takes(payload.len()));
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&[kind as u8, 0]);
    bytes.extend_from_slice(&(payload.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&stream.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Takes the first whole frame off `buffer`; `None` while it is not complete.
pub fn take(buffer: &mut Vec<u8>) -> Result<Option<Frame>, WireError> {
    let Some([byte, zero, low, high, stream @ ..]) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
    let kind = Kind::of(*byte).filter(|_| *zero == 0).ok_or(WireError::Kind(*byte))?;
    let length = usize::from(u16::from_le_bytes([*low, *high]));
    if !kind.takes(length) {
        return Err(WireError::Length(length));
    }
    let stream = u32::from_le_bytes(*stream);
    if buffer.len() < HEADER + length {
        return Ok(None);
    }
    let payload = buffer[HEADER..HEADER + length].to_vec();
    buffer.drain(..HEADER + length);
    Ok(Some(Frame { kind, stream, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_being_cut_anywhere() {
        let bytes = encode(Kind::Data, 7, b"some bytes");
        for cut in 0..bytes.len() {
            let mut buffer = bytes[..cut].to_vec();
            assert_eq!(take(&mut buffer), Ok(None));
            buffer.extend_from_slice(&bytes[cut..]);
            assert_eq!(take(&mut buffer), Ok(Some(Frame { kind: Kind::Data, stream: 7, payload: b"some bytes".to_vec() })));
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_before_it_is_read() {
        assert_eq!(take(&mut b"Linux version".to_vec()), Err(WireError::Kind(b'L')));
        let mut long = encode(Kind::Data, 1, b"x");
        long[2..4].copy_from_slice(&(LONGEST as u16 + 1).to_le_bytes());
        assert_eq!(take(&mut long), Err(WireError::Length(LONGEST + 1)));
        let mut credit = encode(Kind::Credit, 1, &[0; 4]);
        credit[2] = 5;
        assert_eq!(take(&mut credit), Err(WireError::Length(5)));
    }

    #[test]
    fn fuzz() {
        let mut random = 3u64;
        let mut next = || {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) as usize
        };
        let kinds = [Kind::Control, Kind::Data, Kind::End, Kind::Close, Kind::Credit, Kind::Drained];
        for _ in 0..20_000 {
            let kind = kinds[next() % kinds.len()];
            let payload = match kind {
                Kind::Control | Kind::Data => vec![next() as u8; 1 + next() % 40],
                Kind::Credit => vec![next() as u8; 4],
                _ => Vec::new(),
            };
            let mut bytes = encode(kind, next() as u32 % 5, &payload);
            if next() % 3 > 0 {
                let place = next() % bytes.len();
                bytes[place] = next() as u8;
            }
            bytes.truncate(1 + next() % bytes.len());
            let before = bytes.len();
            match take(&mut bytes) {
                Ok(Some(frame)) => assert_eq!(before - bytes.len(), HEADER + frame.payload.len()),
                Ok(None) => assert_eq!(bytes.len(), before),
                Err(_) => {}
            }
        }
    }
}
