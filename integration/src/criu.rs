//! CRIU as the tests find it, and images that are changed as an attacker would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::{Bed, Bundle, Call, Container};

/// Where `testbed/criu.py` has put one.
const BUILT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../testbed/cache/bin");

/// The directory of a CRIU that works on this kernel: the machine's, or the testbed's.
fn directory() -> Option<&'static Path> {
    static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let works = |directory: &PathBuf| {
        let mut check = Command::new(directory.join("criu"));
        check.arg("check").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        check.status().is_ok_and(|status| status.success())
    };
    let find = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let others = ["/usr/sbin", BUILT].map(PathBuf::from);
        std::env::split_paths(&path).chain(others).find(works)
    };
    DIRECTORY.get_or_init(find).as_deref()
}

/// How often something is dumped and restored: `$ROUNDS`, or this often.
#[track_caller]
pub fn rounds(usual: u32) -> u32 {
    match std::env::var("ROUNDS") {
        Ok(text) => text.parse().expect("ROUNDS is a number"),
        Err(_) => usual,
    }
}

/// The PATH of a caller who has CRIU. None: there is none that works, which is printed.
pub fn path(bed: &Bed) -> Option<String> {
    match directory() {
        Some(directory) => Some(format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", directory.to_str()?)),
        None => {
            bed.skip("no criu that works on this kernel");
            None
        }
    }
}

/// A bed whose machine has CRIU.
#[derive(Debug)]
pub struct Checkpoints<'bed> {
    /// Where the test runs.
    pub bed: &'bed Bed,
    path: String,
}

impl<'bed> Checkpoints<'bed> {
    /// None: there is no CRIU, which is printed.
    pub fn on(bed: &'bed Bed) -> Option<Self> {
        Some(Self { bed, path: path(bed)? })
    }

    /// A call of the runtime that finds CRIU.
    pub fn call(&self, verb: &str) -> Call {
        self.bed.call().env("PATH", &self.path).arg(verb).options_here()
    }

    /// A running container with nothing of the caller's but the null device.
    #[track_caller]
    pub fn start(&self, bundle: &Bundle) -> Container<'bed> {
        let id = self.bed.id();
        let call = self.bed.create_call(bundle, &id).silent();
        let container = Container::create(self.bed, &id, call);
        container.start();
        container
    }

    /// A place for an image.
    pub fn image(&self) -> PathBuf {
        self.bed.make_directory(&format!("images-{}", self.bed.next()), 0o700).join("image")
    }

    /// A call of `checkpoint`.
    pub fn dump_call(&self, id: &str, image: &Path) -> Call {
        self.call("checkpoint").option("--image-path", image).arg(id)
    }

    /// Dumps a container, which is gone then.
    #[track_caller]
    pub fn dump(&self, container: &Container<'_>) -> PathBuf {
        let image = self.image();
        self.dump_call(&container.id, &image).output().success();
        image
    }

    /// A call of `restore --detach`.
    pub fn restore_call(&self, bundle: &Bundle, id: &str, image: &Path) -> Call {
        self.call("restore")
            .option("--bundle", &bundle.save().path)
            .option("--image-path", image)
            .flag("--detach")
            .arg(id)
    }

    /// Restores a container under another ID.
    #[track_caller]
    pub fn restore(&self, bundle: &Bundle, image: &Path) -> Container<'bed> {
        let id = self.bed.id();
        Container::create(self.bed, &id, self.restore_call(bundle, &id, image))
    }

    /// Restores a container, which has to fail. Returns what it says.
    #[track_caller]
    pub fn refused(&self, bundle: &Bundle, image: &Path) -> String {
        let id = self.bed.id();
        let output = self.restore_call(bundle, &id, image).output();
        assert_eq!(self.bed.runtime(["state", &id]).code, 1, "nothing is left");
        output.failure(1).to_owned()
    }
}

/// A file of an image: a head, then messages of protobuf, each with its length before it.
#[derive(Debug)]
pub struct ImageFile {
    path: PathBuf,
    head: Vec<u8>,
    /// The messages.
    pub messages: Vec<Message>,
}

/// A message as its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(pub Vec<(u64, Field)>);

/// A field's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// A number.
    Number(u64),
    /// Bytes, a text, or another message.
    Bytes(Vec<u8>),
    /// Eight or four bytes.
    Fixed(Vec<u8>),
}

impl ImageFile {
    /// Reads one.
    #[track_caller]
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let (head, mut rest) = bytes.split_at(8);
        let mut messages = Vec::new();
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let (message, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
            messages.push(Message::read(message));
            rest = behind;
        }
        Self { path: path.to_owned(), head: head.to_vec(), messages }
    }

    /// Writes it back.
    pub fn write(&self) {
        let mut bytes = self.head.clone();
        for message in &self.messages {
            let message = message.written();
            bytes.extend((message.len() as u32).to_le_bytes());
            bytes.extend(message);
        }
        fs::write(&self.path, bytes).expect("a file of the image");
    }
}

impl Message {
    /// Reads one.
    pub fn read(mut rest: &[u8]) -> Self {
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let tag = varint(&mut rest);
            let mut take = |length: usize| {
                let (taken, behind) = rest.split_at(length);
                rest = behind;
                taken.to_vec()
            };
            let value = match tag & 7 {
                0 => Field::Number(varint(&mut rest)),
                1 => Field::Fixed(take(8)),
                5 => Field::Fixed(take(4)),
                _ => {
                    let length = varint(&mut rest) as usize;
                    let (taken, behind) = rest.split_at(length);
                    rest = behind;
                    Field::Bytes(taken.to_vec())
                }
            };
            fields.push((tag >> 3, value));
        }
        Self(fields)
    }

    /// As bytes.
    pub fn written(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, field) in &self.0 {
            match field {
                Field::Number(value) => {
                    put_varint(&mut bytes, number << 3);
                    put_varint(&mut bytes, *value);
                }
                Field::Bytes(value) => {
                    put_varint(&mut bytes, number << 3 | 2);
                    put_varint(&mut bytes, value.len() as u64);
                    bytes.extend(value);
                }
                Field::Fixed(value) => {
                    let kind = if value.len() == 8 { 1 } else { 5 };
                    put_varint(&mut bytes, number << 3 | kind);
                    bytes.extend(value);
                }
            }
        }
        bytes
    }

    /// The message in a field of this one, changed.
    #[track_caller]
    pub fn change(&mut self, number: u64, change: impl FnOnce(&mut Message)) {
        let (_, field) = self
            .0
            .iter_mut()
            .find(|(found, _)| *found == number)
            .unwrap_or_else(|| panic!("no field {number}"));
        let Field::Bytes(bytes) = field else { panic!("field {number} is no message") };
        let mut message = Message::read(bytes);
        change(&mut message);
        *bytes = message.written();
    }

    /// Sets each of the numbers of this field, of which there has to be one.
    #[track_caller]
    pub fn set(&mut self, number: u64, value: u64) {
        let mut found = 0;
        for (at, field) in &mut self.0 {
            if *at == number {
                match field {
                    Field::Number(own) => *own = value,
                    // A list of numbers in one.
                    Field::Bytes(list) => {
                        let mut rest = list.as_slice();
                        let mut count = 0;
                        while !rest.is_empty() {
                            varint(&mut rest);
                            count += 1;
                        }
                        list.clear();
                        (0..count).for_each(|_| put_varint(list, value));
                    }
                    Field::Fixed(bytes) => {
                        let length = bytes.len();
                        *bytes = value.to_le_bytes()[..length].to_vec();
                    }
                }
                found += 1;
            }
        }
        assert!(found > 0, "no field {number} in {:?}", self.0);
    }

    /// Takes a field away.
    #[track_caller]
    pub fn remove(&mut self, number: u64) {
        let before = self.0.len();
        self.0.retain(|(found, _)| *found != number);
        assert!(self.0.len() < before, "no field {number}");
    }
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for at in 0.. {
        let (byte, behind) = rest.split_first().expect("a number");
        *rest = behind;
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
