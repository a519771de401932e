//! ttrpc's frames: ten bytes that say how long, of which stream and what, and a message.

use std::fmt::{self, Display, Formatter};

/// The bytes before a message.
pub const HEADER: usize = 10;
/// The bytes of the longest message.
pub const LONGEST: usize = 4 << 20;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A call.
    Request,
    /// The answer to one.
    Response,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
        }
    }
}

/// A message with the call that it belongs to.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which call; callers count in odd numbers.
    pub stream: u32,
    /// What it carries.
    pub kind: Kind,
    /// The message.
    pub data: Vec<u8>,
}

/// Why what was sent is not ttrpc.
#[derive(Debug, PartialEq, Eq)]
pub enum Broken {
    /// The message is longer than any.
    Length(usize),
    /// The frame is neither a request nor a response.
    Kind(u8),
}

impl Display for Broken {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => write!(f, "a frame of {length} bytes"),
            Self::Kind(number) => write!(f, "a frame of type {number}"),
        }
    }
}

impl std::error::Error for Broken {}

/// The bytes of a frame. None: the message is too long for one.
pub fn encode(stream: u32, kind: Kind, data: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(data.len()).ok().filter(|_| data.len() <= LONGEST)?;
    let mut bytes = Vec::with_capacity(HEADER + data.len());
    bytes.extend(length.to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend([kind.number(), 0]);
    bytes.extend(data);
    Some(bytes)
}

/// Takes the first frame off `bytes`, if it is there whole.
///
/// # Errors
/// Where what is there cannot begin a frame.
pub fn decode(bytes: &mut Vec<u8>) -> Result<Option<Frame>, Broken> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let [a, b, c, d, stream @ .., kind, _flags] = *header;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > LONGEST {
        return Err(Broken::Length(length));
    }
    let kind = match kind {
        1 => Kind::Request,
        2 => Kind::Response,
        other => return Err(Broken::Kind(other)),
    };
    let Some(data) = rest.get(..length) else { return Ok(None) };
    let frame = Frame { stream: u32::from_be_bytes(stream), kind, data: data.to_vec() };
    bytes.drain(..HEADER + length);
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_what_the_protocol_says_byte_for_byte() {
        let bytes = encode(3, Kind::Request, b"hi").unwrap();
        assert_eq!(bytes, [0, 0, 0, 2, 0, 0, 0, 3, 1, 0, b'h', b'i']);
    }

    #[test]
    fn frames_come_out_whole_however_they_were_cut() {
        let frame = |stream, data: &[u8]| Frame { stream, kind: Kind::Response, data: data.into() };
        let sent: Vec<u8> = [(1, &b"one"[..]), (3, b""), (5, &[7; 3000])]
            .into_iter()
            .flat_map(|(stream, data)| encode(stream, Kind::Response, data).unwrap())
            .collect();
        for cut in [1, 7, 11, 4096] {
            let (mut bytes, mut frames) = (Vec::new(), Vec::new());
            for piece in sent.chunks(cut) {
                bytes.extend(piece);
                while let Some(frame) = decode(&mut bytes).unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [frame(1, b"one"), frame(3, b""), frame(5, &[7; 3000])], "{cut}");
            assert!(bytes.is_empty());
        }
    }

    #[test]
    fn what_no_frame_begins_with_is_an_error_before_its_message_is_there() {
        for (header, broken) in [
            ([0, 64, 0, 1, 0, 0, 0, 1, 1, 0], Broken::Length(LONGEST + 1)),
            ([255, 255, 255, 255, 0, 0, 0, 1, 1, 0], Broken::Length(u32::MAX as usize)),
            ([0, 0, 0, 1, 0, 0, 0, 1, 3, 0], Broken::Kind(3)),
            ([0, 0, 0, 1, 0, 0, 0, 1, 0, 0], Broken::Kind(0)),
        ] {
            assert_eq!(decode(&mut header.to_vec()), Err(broken));
        }
        assert_eq!(encode(1, Kind::Response, &vec![0; LONGEST + 1]), None);
        assert!(encode(1, Kind::Response, &vec![0; LONGEST]).is_some());
    }
}
