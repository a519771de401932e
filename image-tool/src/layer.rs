//! A layer on its way from the source to its tar archive: one thread downloads
//! and verifies the blob, another decompresses it.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use flate2::bufread::MultiGzDecoder;

use crate::digest::{Check, Digest};
use crate::limits;
use crate::manifest::Descriptor;
use crate::pipe::{self, CHUNK_BYTES, Writer, pipe};
use crate::progress::Progress;
use crate::source::Source;

/// Chunks of a blob that wait for decompression.
const COMPRESSED_CHUNKS: usize = 8;
/// Chunks that wait for extraction: what a layer may run ahead of its turn.
const PLAIN_CHUNKS: usize = 64;

/// Starts a layer. The stream that comes back is the tar archive; it ends only
/// after blob and archive had the right digests.
pub fn start(
    source: &Arc<Source>,
    layer: &Descriptor,
    diff_id: &Digest,
    progress: &Arc<Progress>,
) -> Result<pipe::Reader> {
    let (compressed, blob) = pipe(COMPRESSED_CHUNKS, None);
    let (plain, archive) = pipe(PLAIN_CHUNKS, Some(Check::new(diff_id.clone(), None)));
    let (source, layer, progress) = (Arc::clone(source), layer.clone(), Arc::clone(progress));
    spawn("fetch", move || {
        let result = fetch(&source, &layer, &compressed, &progress);
        compressed.finish(result.context("blob"));
    })?;
    spawn("decompress", move || {
        let result = decompress(blob, &plain);
        plain.finish(result.map_err(anyhow::Error::from));
    })?;
    Ok(archive)
}

/// Nobody waits for these threads: an error ends the process, and a stalled
/// server must not hold it up.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).context("thread")?;
    Ok(())
}

fn fetch(source: &Source, layer: &Descriptor, to: &Writer, progress: &Progress) -> Result<()> {
    let mut check = Check::new(layer.digest.clone(), Some(layer.size));
    let mut blob = source.blob(layer)?;
    loop {
        let chunk = read_chunk(&mut blob)?;
        if chunk.is_empty() {
            return check.finish();
        }
        check.update(&chunk)?;
        progress.downloaded(chunk.len() as u64);
        if !to.send(chunk) {
            return Ok(());
        }
    }
}

fn decompress(mut blob: pipe::Reader, to: &Writer) -> io::Result<()> {
    match Compression::of(blob.fill_buf()?) {
        Compression::Gzip => copy(MultiGzDecoder::new(&mut blob), to)?,
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(&mut blob)?;
            decoder.window_log_max(limits::ZSTD_WINDOW_LOG)?;
            copy(decoder, to)?;
        }
        Compression::None => copy(&mut blob, to)?,
    }
    // The blob's own verdict comes at its end, which a decoder may not have reached.
    let rest = blob.fill_buf()?.is_empty();
    if rest { Ok(()) } else { Err(io::Error::other("something follows the compressed data")) }
}

fn copy(mut decoder: impl Read, to: &Writer) -> io::Result<()> {
    loop {
        let chunk = read_chunk(&mut decoder)?;
        if chunk.is_empty() || !to.send(chunk) {
            return Ok(());
        }
    }
}

/// Reads until a chunk is full or the stream ends.
fn read_chunk(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    from.take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
}

/// How a layer is compressed, by its first bytes.
#[derive(Debug, PartialEq, Eq)]
enum Compression {
    Gzip,
    Zstd,
    None,
}

impl Compression {
    fn of(beginning: &[u8]) -> Self {
        // RFC 1952 and RFC 8878: a zstd stream may begin with a skippable frame.
        match beginning {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Reads what is left of a layer, so that its digests are verified.
pub fn drain(archive: &mut pipe::Reader, limit: u64) -> Result<u64> {
    let mut drained: u64 = 0;
    loop {
        let count = archive.fill_buf()?.len();
        if count == 0 {
            return Ok(drained);
        }
        archive.consume(count);
        drained = drained.saturating_add(count as u64);
        ensure!(drained <= limit, "it unpacks to too many bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn decompressed(blob: &[u8]) -> Result<Vec<u8>, String> {
        let (to_decoder, from_blob) = pipe(64, None);
        let (to_archive, mut archive) = pipe(64, None);
        for chunk in blob.chunks(7) {
            to_decoder.send(chunk.to_vec());
        }
        to_decoder.finish(Ok(()));
        let result = decompress(from_blob, &to_archive).map_err(anyhow::Error::from);
        to_archive.finish(result);
        let mut bytes = Vec::new();
        archive.read_to_end(&mut bytes).map_err(|error| format!("{error:#}"))?;
        Ok(bytes)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_in_members_zstd_in_frames_and_plain_data_come_out_as_they_went_in() {
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        assert_eq!(decompressed(&gzip(b"abc")).unwrap(), b"abc");
        assert_eq!(decompressed(&[gzip(b"abc"), gzip(b"def")].concat()).unwrap(), b"abcdef");
        assert_eq!(decompressed(&zstd(b"abc")).unwrap(), b"abc");
        assert_eq!(decompressed(&[zstd(b"abc"), zstd(b"def")].concat()).unwrap(), b"abcdef");
        assert_eq!(decompressed(b"abc").unwrap(), b"abc");
        assert_eq!(decompressed(b"").unwrap(), b"");
    }

    #[test]
    fn a_stream_that_is_cut_or_followed_by_garbage_is_an_error() {
        let whole = gzip(b"abc");
        assert!(decompressed(&whole[..whole.len() - 1]).is_err());
        assert!(decompressed(&[&whole[..], b"garbage"].concat()).is_err());
        let whole = zstd::encode_all(&b"abc"[..], 1).unwrap();
        assert!(decompressed(&whole[..whole.len() - 1]).is_err());
        assert!(decompressed(&[&whole[..], b"garbage"].concat()).is_err());
    }

    #[test]
    fn a_zstd_window_above_the_bound_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(limits::ZSTD_WINDOW_LOG + 1).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(b"abc").unwrap();
        assert!(decompressed(&encoder.finish().unwrap()).is_err());
    }
}
