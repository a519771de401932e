//! A bounded stream of bytes from one thread to another.
//!
//! Its end is said, not guessed: a writer that goes away without
//! [`Writer::finish`] leaves the reader with an error, never with a short stream.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context as _, Result};

use crate::digest::Check;

/// What is sent at a time. Below glibc's threshold for a mapping of its own, so
/// that a chunk costs no page faults.
pub const CHUNK_BYTES: usize = 64 << 10;

type Chunk = Result<Option<Vec<u8>>>;

/// The end that sends.
pub struct Writer(SyncSender<Chunk>);

/// The end that receives; checks what it reads, where it was told how.
pub struct Reader {
    receiver: Receiver<Chunk>,
    chunk: Vec<u8>,
    position: usize,
    check: Option<Check>,
    ended: bool,
}

/// A stream that holds at most `chunks` chunks between writer and reader.
pub fn pipe(chunks: usize, check: Option<Check>) -> (Writer, Reader) {
    let (sender, receiver) = sync_channel(chunks);
    (Writer(sender), Reader { receiver, chunk: Vec::new(), position: 0, check, ended: false })
}

impl Writer {
    /// Sends a chunk; returns false once nobody reads any more.
    pub fn send(&self, chunk: Vec<u8>) -> bool {
        self.0.send(Ok(Some(chunk))).is_ok()
    }

    /// Ends the stream, well or with the error that ended it.
    pub fn finish(self, result: Result<()>) {
        // The reader may have gone; then it knows better what went wrong.
        let _ = self.0.send(result.map(|()| None));
    }
}

impl Reader {
    fn next_chunk(&mut self) -> Result<()> {
        let received = self.receiver.recv().context("the stream broke off without an end")?;
        match received? {
            Some(chunk) => {
                if let Some(check) = &mut self.check {
                    check.update(&chunk)?;
                }
                (self.chunk, self.position) = (chunk, 0);
            }
            None => {
                self.ended = true;
                self.check.take().map_or(Ok(()), Check::finish)?;
            }
        }
        Ok(())
    }
}

impl BufRead for Reader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while !self.ended && self.position >= self.chunk.len() {
            self.next_chunk().map_err(io::Error::other)?;
        }
        Ok(self.chunk.get(self.position..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.position = self.position.saturating_add(count).min(self.chunk.len());
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn read(reader: &mut Reader) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    #[test]
    fn chunks_arrive_in_order_and_empty_ones_do_not_end_the_stream() {
        let (writer, mut reader) = pipe(4, None);
        for chunk in [&b"ab"[..], b"", b"c"] {
            assert!(writer.send(chunk.to_vec()));
        }
        writer.finish(Ok(()));
        assert_eq!(read(&mut reader).unwrap(), b"abc");
    }

    #[test]
    fn a_stream_whose_writer_vanishes_or_fails_is_an_error() {
        let (writer, mut reader) = pipe(4, None);
        assert!(writer.send(b"ab".to_vec()));
        drop(writer);
        assert_eq!(read(&mut reader).unwrap_err(), "the stream broke off without an end");

        let (writer, mut reader) = pipe(4, None);
        writer.finish(Err(anyhow::anyhow!("no route")));
        assert_eq!(read(&mut reader).unwrap_err(), "no route");
    }

    #[test]
    fn the_check_is_made_at_the_end_of_the_stream() {
        let (writer, mut reader) = pipe(4, Some(Check::new(Digest::of(b"ab"), None)));
        assert!(writer.send(b"abc".to_vec()));
        writer.finish(Ok(()));
        assert!(read(&mut reader).unwrap_err().starts_with("its digest is"));
    }

    #[test]
    fn a_writer_learns_that_nobody_reads() {
        let (writer, reader) = pipe(1, None);
        drop(reader);
        assert!(!writer.send(Vec::new()));
    }
}
