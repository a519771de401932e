//! Tar archives, read as a stream.
//!
//! Header blocks are decoded by the `tar` crate; what stands around them is
//! read here. The crate's own iterator splits extended headers at newlines,
//! which cuts names and file capabilities that contain one, and it has no bound
//! on their size.

use std::io::{self, BufRead};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tar::{EntryType, Header};

use crate::limits;

const BLOCK: usize = 512;
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// A name and its value, both of any bytes.
type Record = (Vec<u8>, Vec<u8>);

/// What an entry makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file; its content is read from the archive.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// Another name of this path.
    HardLink(Vec<u8>),
    /// A character device: major and minor number.
    Character(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One entry, all its headers put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path as it is written, not cleaned.
    pub path: Vec<u8>,
    /// What it makes.
    pub kind: Kind,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub modified: (i64, u32),
    /// Extended attributes in the order of the archive.
    pub xattrs: Vec<Record>,
}

/// An archive, read entry by entry.
pub struct Archive<R> {
    reader: R,
    /// Bytes of the current entry's content that were not read.
    content: u64,
    /// Bytes from there to the next block.
    padding: u64,
    /// Bytes that may still be read, padding and headers included.
    allowance: u64,
}

/// Headers that describe the entry after them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Vec<Record>,
    bytes: u64,
}

impl Extension {
    /// The last record of a name counts (POSIX, pax, "pax Extended Header").
    fn record(&self, key: &[u8]) -> Option<&[u8]> {
        self.records.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_slice())
    }

    fn number(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.record(key.as_bytes()) else { return Ok(None) };
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        number
            .map(Some)
            .with_context(|| format!("{key} {:?} is not a number", String::from_utf8_lossy(value)))
    }
}

impl<R: BufRead> Archive<R> {
    /// Reads at most `allowance` bytes from `reader`.
    pub fn new(reader: R, allowance: u64) -> Self {
        Self { reader, content: 0, padding: 0, allowance }
    }

    /// The reader, and the bytes that may still be read from it.
    pub fn into_inner(self) -> (R, u64) {
        (self.reader, self.allowance)
    }

    /// The next entry, or nothing at the end of the archive.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut extension = Extension::default();
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else {
                let complete = extension.bytes == 0;
                ensure!(complete, "the archive ends after an extended header");
                return Ok(None);
            };
            let own_size = header.entry_size()?;
            let kind = header.entry_type();
            match kind {
                EntryType::GNULongName => {
                    extension.path = Some(self.long_name(own_size, &mut extension.bytes)?)
                }
                EntryType::GNULongLink => {
                    extension.link = Some(self.long_name(own_size, &mut extension.bytes)?)
                }
                EntryType::XHeader => {
                    let bytes = self.extended(own_size, &mut extension.bytes)?;
                    extension.records.extend(records(&bytes)?);
                }
                // Comments such as git's commit; nothing in it concerns a layer.
                EntryType::XGlobalHeader => self.set_content(own_size)?,
                _ => {
                    let size = extension.number("size")?.unwrap_or(own_size);
                    let entry = entry(&header, extension)?;
                    // Some writers give links and directories a size, but no content.
                    self.set_content(if entry.kind == Kind::Regular { size } else { 0 })?;
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// Hands the content of the current entry to `sink`, piece by piece and
    /// without a copy.
    pub fn content(&mut self, mut sink: impl FnMut(&[u8]) -> io::Result<()>) -> Result<()> {
        while self.content > 0 {
            let buffer = self.reader.fill_buf()?;
            ensure!(!buffer.is_empty(), "the archive ends inside a file");
            let count =
                usize::try_from(self.content).map_or(buffer.len(), |left| left.min(buffer.len()));
            // Before it is written: a bomb must not reach the disk.
            let used = count as u64;
            self.allowance = self.allowance.checked_sub(used).ok_or_else(too_large)?;
            sink(buffer.get(..count).unwrap_or_default())?;
            self.reader.consume(count);
            self.content -= used;
        }
        Ok(())
    }

    fn skip_content(&mut self) -> Result<()> {
        self.content(|_| Ok(()))?;
        self.content = std::mem::take(&mut self.padding);
        // Some writers leave out what pads the last file.
        if self.reader.fill_buf()?.is_empty() {
            self.content = 0;
        }
        self.content(|_| Ok(()))
    }

    fn set_content(&mut self, size: u64) -> Result<()> {
        ensure!(size <= i64::MAX as u64, "an entry of {size} bytes");
        self.content = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    /// The next header block; nothing at a block of zeros or at the end.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        if self.reader.fill_buf()?.is_empty() {
            return Ok(None);
        }
        self.allowance = self.allowance.checked_sub(BLOCK as u64).ok_or_else(too_large)?;
        self.reader
            .read_exact(header.as_mut_bytes())
            .context("the archive ends inside a header")?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // The sum is taken with the field itself, bytes 148 to 155, as blanks.
        let sum = |(at, byte): (usize, &u8)| {
            u32::from(if (148..156).contains(&at) { b' ' } else { *byte })
        };
        let found: u32 = bytes.iter().enumerate().map(sum).sum();
        ensure!(
            header.cksum()? == found,
            "a header has a wrong checksum, or this is not a tar archive"
        );
        Ok(Some(header))
    }

    fn extended(&mut self, size: u64, so_far: &mut u64) -> Result<Vec<u8>> {
        *so_far = so_far.saturating_add(size).saturating_add(BLOCK as u64);
        let limit = limits::EXTENDED_HEADER_BYTES;
        ensure!(*so_far <= limit, "an extended header of more than {limit} bytes");
        self.set_content(size)?;
        let mut bytes = Vec::new();
        self.content(|piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }

    fn long_name(&mut self, size: u64, so_far: &mut u64) -> Result<Vec<u8>> {
        let mut name = self.extended(size, so_far)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }
}

fn too_large() -> anyhow::Error {
    anyhow!("the image unpacks to more bytes than allowed (see --max-unpacked)")
}

/// Splits the records of an extended header: `LENGTH KEY=VALUE\n`.
fn records(mut bytes: &[u8]) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (record, rest) = split_record(bytes).context("a malformed extended header")?;
        records.push(record);
        bytes = rest;
    }
    Ok(records)
}

fn split_record(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let blank = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(bytes.get(..blank)?).ok()?.parse().ok()?;
    let record = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (record.get(..equals)?, record.get(equals + 1..)?);
    Some(((key.to_vec(), value.to_vec()), bytes.get(length..)?))
}

fn entry(header: &Header, mut extension: Extension) -> Result<Entry> {
    if let Some((key, _)) =
        extension.records.iter().find(|(key, _)| key.starts_with(b"GNU.sparse."))
    {
        bail!("a sparse file ({}), which layers should not hold", String::from_utf8_lossy(key));
    }
    let path = extension.record(b"path").map(<[u8]>::to_vec).or(extension.path.take());
    let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = extension.record(b"linkpath").map(<[u8]>::to_vec).or(extension.link.take());
    let link = || {
        link.or_else(|| header.link_name_bytes().map(|name| name.into_owned())).unwrap_or_default()
    };
    let device = || -> Result<(u32, u32)> {
        let major = header.device_major()?.unwrap_or_default();
        let minor = header.device_minor()?.unwrap_or_default();
        // Of more bits than these the kernel would make another device.
        let fits = major < 1 << 12 && minor < 1 << 20;
        ensure!(fits, "{}: no device is {major}:{minor}", path.escape_ascii());
        Ok((major, minor))
    };
    let kind = match header.entry_type() {
        // Before POSIX, a name that ends in a slash was the way to say directory.
        EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => Kind::Regular,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink(link()),
        EntryType::Link => Kind::HardLink(link()),
        EntryType::Char => device().map(|(major, minor)| Kind::Character(major, minor))?,
        EntryType::Block => device().map(|(major, minor)| Kind::Block(major, minor))?,
        EntryType::Fifo => Kind::Fifo,
        other => bail!(
            "{}: an entry of the unknown type {:?}",
            path.escape_ascii(),
            char::from(other.as_byte())
        ),
    };
    let id = |key: &str, of_header: u64| -> Result<u32> {
        let id = extension.number(key)?.unwrap_or(of_header);
        // -1 stands for "leave it as it is" in chown: it is no id either.
        let valid = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        valid.with_context(|| format!("{}: {key} {id} is out of range", path.escape_ascii()))
    };
    Ok(Entry {
        mode: header.mode()? & 0o7777,
        uid: id("uid", header.uid()?)?,
        gid: id("gid", header.gid()?)?,
        modified: extension.record(b"mtime").map_or_else(
            || {
                Ok((
                    header
                        .mtime()
                        .ok()
                        .and_then(|seconds| i64::try_from(seconds).ok())
                        .unwrap_or_default(),
                    0,
                ))
            },
            |text| {
                time(text).with_context(|| {
                    format!("mtime {:?} is not a time", String::from_utf8_lossy(text))
                })
            },
        )?,
        xattrs: xattrs(&extension),
        path,
        kind,
    })
}

fn xattrs(extension: &Extension) -> Vec<Record> {
    let named =
        |(key, value): &Record| Some((key.strip_prefix(XATTR_PREFIX)?.to_vec(), value.clone()));
    extension.records.iter().filter_map(named).collect()
}

/// `SECONDS[.FRACTION]`, possibly negative; the fraction counts upwards.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(path: &str, kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.set_path(path).unwrap();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(1);
        header.set_gid(2);
        header.set_mtime(3);
        header.set_cksum();
        header
    }

    fn block(header: &Header, content: &[u8]) -> Vec<u8> {
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length =
                (rest..).find(|length| length.to_string().len() + rest == *length).unwrap();
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        block(&header("pax", EntryType::XHeader, body.len() as u64), &body)
    }

    fn entries(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
        let mut archive = Archive::new(bytes, 1 << 20);
        let mut entries = Vec::new();
        while let Some(entry) = archive.next_entry()? {
            let mut content = Vec::new();
            archive.content(|piece| {
                content.extend_from_slice(piece);
                Ok(())
            })?;
            entries.push((entry, content));
        }
        Ok(entries)
    }

    fn failure(bytes: &[u8]) -> String {
        format!("{:#}", entries(bytes).unwrap_err())
    }

    #[test]
    fn entries_come_with_their_content() {
        let archive = [
            block(&header("d/", EntryType::Directory, 0), b""),
            block(&header("d/f", EntryType::Regular, 3), b"abc"),
            vec![0; 1024],
        ]
        .concat();
        let found = entries(&archive).unwrap();
        assert_eq!((&found[0].0.kind, &found[0].0.path[..]), (&Kind::Directory, &b"d/"[..]));
        assert_eq!((&found[1].0.kind, &found[1].1[..]), (&Kind::Regular, &b"abc"[..]));
        assert_eq!((found[1].0.uid, found[1].0.gid, found[1].0.modified), (1, 2, (3, 0)));
    }

    #[test]
    fn extended_headers_override_and_may_hold_newlines() {
        let records: &[(&str, &[u8])] = &[
            ("path", b"new\nline=x"),
            ("uid", b"4000000000"),
            ("mtime", b"-1.5"),
            ("size", b"3"),
            ("SCHILY.xattr.security.capability", b"\x01\n\x00=\n"),
        ];
        let archive = [pax(records), block(&header("f", EntryType::Regular, 0), b"abc")].concat();
        let (entry, content) = entries(&archive).unwrap().remove(0);
        assert_eq!(entry.path, b"new\nline=x");
        assert_eq!(
            (entry.uid, entry.modified, content),
            (4_000_000_000, (-2, 500_000_000), b"abc".to_vec())
        );
        assert_eq!(entry.xattrs, [(b"security.capability".to_vec(), b"\x01\n\x00=\n".to_vec())]);
    }

    #[test]
    fn gnu_long_names_are_joined_to_their_entry() {
        let name = "n".repeat(300);
        let archive = [
            block(
                &header("././@LongLink", EntryType::GNULongName, 301),
                format!("{name}\0").as_bytes(),
            ),
            block(&header("././@LongLink", EntryType::GNULongLink, 4), b"to/x"),
            block(&header("short", EntryType::Symlink, 0), b""),
        ]
        .concat();
        let (entry, _) = entries(&archive).unwrap().remove(0);
        assert_eq!((entry.path, entry.kind), (name.into_bytes(), Kind::Symlink(b"to/x".to_vec())));
    }

    #[test]
    fn the_last_file_need_not_be_padded() {
        let file = block(&header("f", EntryType::Regular, 600), &[1; 600]);
        let (_, content) = entries(&file[..BLOCK + 600]).unwrap().remove(0);
        assert_eq!(content, [1; 600]);
    }

    #[test]
    fn what_an_entry_makes_is_told_by_its_type() {
        let kind = |path: &str, kind: EntryType| {
            let mut header = header(path, kind, 0);
            header.set_link_name("to").unwrap();
            header.set_device_major(7).unwrap();
            header.set_device_minor(8).unwrap();
            header.set_mode(0o107_755);
            header.set_cksum();
            let (entry, _) = entries(&block(&header, b"")).unwrap().remove(0);
            assert_eq!(entry.mode, 0o7755, "the type is said elsewhere");
            entry.kind
        };
        for (path, of_header, expected) in [
            ("a", EntryType::Regular, Kind::Regular),
            ("a", EntryType::Continuous, Kind::Regular),
            ("a/", EntryType::Regular, Kind::Directory),
            ("a", EntryType::Directory, Kind::Directory),
            ("a", EntryType::Symlink, Kind::Symlink(b"to".to_vec())),
            ("a", EntryType::Link, Kind::HardLink(b"to".to_vec())),
            ("a", EntryType::Char, Kind::Character(7, 8)),
            ("a", EntryType::Block, Kind::Block(7, 8)),
            ("a", EntryType::Fifo, Kind::Fifo),
        ] {
            assert_eq!(kind(path, of_header), expected, "{path} {of_header:?}");
        }
    }

    #[test]
    fn a_device_has_a_number_that_the_kernel_has() {
        let device = |major, minor| {
            let mut header = header("a", EntryType::Char, 0);
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
            header.set_cksum();
            entries(&block(&header, b"")).map(|mut found| found.remove(0).0.kind)
        };
        let last = Kind::Character(0xfff, 0xf_ffff);
        assert_eq!(device(0xfff, 0xf_ffff).unwrap(), last);
        for (major, minor) in [(0x1000, 0), (0, 0x10_0000), (0x1000, 0x10_0000), (0x1001, 1)] {
            let error = device(major, minor).unwrap_err().to_string();
            assert_eq!(error, format!("a: no device is {major}:{minor}"));
        }
    }

    #[test]
    fn the_fraction_of_a_time_counts_upwards() {
        for (text, expected) in [
            ("1", Some((1, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("1.0000000019", Some((1, 1))),
            ("-1", Some((-1, 0))),
            ("-1.0", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.5", Some((-1, 500_000_000))),
            ("", None),
            ("1.x", None),
            ("1.-5", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_global_header_says_nothing_of_an_entry() {
        let archive = [
            block(&header("pax_global", EntryType::XGlobalHeader, 16), b"16 uid=77777777\n"),
            block(&header("f", EntryType::Regular, 1), b"x"),
        ]
        .concat();
        let (entry, content) = entries(&archive).unwrap().remove(0);
        assert_eq!((entry.path, entry.uid, content), (b"f".to_vec(), 1, b"x".to_vec()));
    }

    #[test]
    fn what_is_broken_is_refused_with_the_reason() {
        let file = block(&header("f", EntryType::Regular, 600), &[1; 600]);
        let mut corrupt = file.clone();
        corrupt[0] = b'g';
        let huge = header("f", EntryType::Regular, 1 << 62);
        let entry_after = |records: &[(&str, &[u8])]| {
            [pax(records), block(&header("f", EntryType::Regular, 0), b"")].concat()
        };
        for (bytes, reason) in [
            (&file[..700], "the archive ends inside a file"),
            (&file[..100], "the archive ends inside a header"),
            (&corrupt[..], "a wrong checksum"),
            (&block(&huge, b"x")[..], "the archive ends inside a file"),
            (&pax(&[("path", b"x")])[..], "the archive ends after an extended header"),
            (&entry_after(&[("uid", b"4294967296")])[..], "uid 4294967296 is out of range"),
            (&entry_after(&[("gid", b"4294967295")])[..], "gid 4294967295 is out of range"),
            (&entry_after(&[("uid", b"-1")])[..], "uid \"-1\" is not a number"),
            (&entry_after(&[("GNU.sparse.major", b"1")])[..], "a sparse file"),
            (
                &block(&header("x", EntryType::XHeader, 9), b"99 a=b\nzz")[..],
                "a malformed extended header",
            ),
            (
                &block(&header("x", EntryType::XHeader, 2 << 20), b"")[..],
                "an extended header of more than",
            ),
            (&block(&header("x", EntryType::new(b'Z'), 0), b"")[..], "unknown type 'Z'"),
        ] {
            let error = failure(bytes);
            assert!(error.contains(reason), "{reason}: {error}");
        }
    }

    #[test]
    fn no_spoilt_archive_makes_the_reader_panic() {
        let good = [
            pax(&[
                ("path", b"p"),
                ("mtime", b"1.5"),
                ("size", b"3"),
                ("SCHILY.xattr.user.a", b"b"),
            ]),
            block(&header("f", EntryType::Regular, 3), b"abc"),
            block(&header("././@LongLink", EntryType::GNULongName, 4), b"long"),
            block(&header("d", EntryType::Directory, 0), b""),
        ]
        .concat();
        // Marsaglia's xorshift: the same numbers at each run.
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        let mut accepted = 0;
        for _ in 0..50_000 {
            let mut bytes = good.clone();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                bytes[at] = *b"\0 0179=-.\n\xff\x80".get(random(16)).unwrap_or(&b'x');
            }
            // With the right checksum, so that the fields behind it are reached.
            for start in (0..bytes.len()).step_by(BLOCK).filter(|start| start % (2 * BLOCK) == 0) {
                let mut header = Header::from_byte_slice(&bytes[start..start + BLOCK]).clone();
                header.set_cksum();
                bytes[start..start + BLOCK].copy_from_slice(header.as_bytes());
            }
            bytes.truncate(bytes.len() - random(600));
            accepted += usize::from(entries(&bytes).is_ok());
        }
        assert!(accepted > 0);
    }

    #[test]
    fn no_more_is_read_than_allowed() {
        let file = block(&header("f", EntryType::Regular, 600), &[1; 600]);
        let mut archive = Archive::new(&file[..], 1000);
        archive.next_entry().unwrap();
        let mut written = 0;
        let result = archive.content(|piece| {
            written += piece.len();
            Ok(())
        });
        assert!(result.unwrap_err().to_string().contains("more bytes than allowed"));
        assert_eq!(written, 0);
    }
}
