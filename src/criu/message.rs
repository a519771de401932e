//! CRIU's messages (rpc.proto, proto2): the fields that are needed of a few, and no more.
//!
//! Pure. A message is a list of fields, each a number of the field and its kind in one varint,
//! then a varint or a length with as many bytes.

use std::os::unix::ffi::OsStrExt as _;

use anyhow::{Context as _, Result, bail};

use crate::plan::checkpoint::{LOG_LEVEL, Options};

/// What a request or an answer is about (criu_req_type).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Write an image.
    Dump = 1,
    /// Make processes of one.
    Restore = 2,
    /// Write memory in advance.
    PreDump = 4,
    /// A step that has been reached.
    Notify = 6,
    /// Which features there are.
    Features = 9,
    /// Which version it is.
    Version = 10,
}

/// What CRIU and the kernel may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// The kernel remembers which pages have changed.
    pub memory_tracking: bool,
    /// Pages can be brought when they are touched.
    pub lazy_pages: bool,
}

/// What CRIU says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// What it is about, by its number.
    pub kind: u64,
    /// Whether that has succeeded.
    pub success: bool,
    /// The step that has been reached.
    pub step: Option<String>,
    /// The process that the step is about, or that was restored.
    pub pid: Option<i32>,
    /// Why it has not succeeded.
    pub errno: i32,
    /// The same in words.
    pub reason: Option<String>,
    /// The features that there are.
    pub features: Features,
    /// The version, as 3.17.1 is 31701.
    pub version: u32,
}

/// A request with options.
pub fn request(kind: Kind, options: &Options) -> Vec<u8> {
    let mut request = Writer::default();
    request.number(1, kind as u64);
    request.message(2, |writer| write_options(writer, options));
    request.0
}

/// The question for the version.
pub fn version() -> Vec<u8> {
    let mut request = Writer::default();
    request.number(1, Kind::Version as u64);
    request.0
}

/// The question for features.
pub fn features(asked: Features) -> Vec<u8> {
    let mut request = Writer::default();
    request.number(1, Kind::Features as u64);
    request.message(5, |features| {
        features.flag(1, asked.memory_tracking);
        features.flag(2, asked.lazy_pages);
    });
    request.0
}

/// The answer to a step: whether it may go on.
pub fn reached(may_go_on: bool) -> Vec<u8> {
    let mut request = Writer::default();
    request.number(1, Kind::Notify as u64);
    request.number(3, may_go_on.into());
    request.0
}

/// The fields of criu_opts.
fn write_options(writer: &mut Writer, options: &Options) {
    let flags = &options.flags;
    writer.int(1, options.images);
    writer.optional(2, options.pid);
    for (field, is_set) in [
        (3, options.leave_running),
        (4, flags.ext_unix_sk),
        (5, flags.tcp_established),
        (6, options.evasive_devices),
        (7, flags.shell_job),
        (8, flags.file_locks),
        // Each step is told, and the groups are CRIU's to put processes into.
        (12, true),
        (15, options.track_memory),
        (16, flags.auto_dedup),
        (18, options.link_remap),
        (24, true),
        (26, options.restores_sibling),
        (46, options.tcp_skip_in_flight),
        (48, flags.lazy_pages),
        // A terminal of the container comes as a descriptor.
        (50, true),
    ] {
        writer.flag(field, is_set);
    }
    writer.number(9, LOG_LEVEL.into());
    writer.bytes(10, options.log_file);
    if let Some((address, port)) = &options.page_server {
        writer.message(11, |server| {
            server.bytes(1, address);
            server.number(2, (*port).into());
        });
    }
    writer.bytes(13, options.root.as_os_str().as_bytes());
    if let Some(parent) = &options.parent {
        writer.bytes(14, parent.as_os_str().as_bytes());
    }
    writer.optional(17, options.work);
    for (key, value) in &options.external_mounts {
        writer.pair(23, key.as_os_str().as_bytes(), value.as_os_str().as_bytes());
    }
    for (controllers, path) in &options.cgroup_roots {
        writer.pair(25, controllers, path.as_os_str().as_bytes());
    }
    for (key, descriptor) in &options.inherited {
        writer.message(27, |inherited| {
            inherited.bytes(1, key);
            inherited.int(2, *descriptor);
        });
    }
    if let Some(mode) = flags.cgroups_mode {
        writer.number(34, mode as u64);
    }
    for external in &options.external {
        writer.bytes(37, external);
    }
    writer.number(38, options.empty_namespaces);
    for (kind, file) in &options.joined {
        writer.pair(39, kind, file.as_os_str().as_bytes());
    }
    for (field, path) in [(44, &options.freeze_cgroup), (51, &options.config_file)] {
        if let Some(path) = path {
            writer.bytes(field, path.as_os_str().as_bytes());
        }
    }
    writer.optional(49, options.status);
    for (field, text) in [(53, &options.lsm_profile), (63, &options.lsm_mount_context)] {
        if let Some(text) = text {
            writer.bytes(field, text);
        }
    }
}

/// A message while it is written.
#[derive(Debug, Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    /// Negative numbers are those of 64 bits.
    fn int(&mut self, field: u64, value: i32) {
        self.number(field, i64::from(value) as u64);
    }

    fn optional(&mut self, field: u64, value: Option<i32>) {
        value.into_iter().for_each(|value| self.int(field, value));
    }

    /// What is not set need not be said.
    fn flag(&mut self, field: u64, is_set: bool) {
        if is_set {
            self.number(field, 1);
        }
    }

    fn bytes(&mut self, field: u64, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.varint(field << 3 | LENGTH);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut message = Self::default();
        write(&mut message);
        self.bytes(field, message.0);
    }

    fn pair(&mut self, field: u64, first: impl AsRef<[u8]>, second: impl AsRef<[u8]>) {
        self.message(field, |pair| {
            pair.bytes(1, first);
            pair.bytes(2, second);
        });
    }
}

/// The kind of a field that has a length (wire types of protobuf).
const LENGTH: u64 = 2;

/// The value of a field.
#[derive(Debug, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Value<'_> {
    fn int(&self) -> i32 {
        match self {
            Self::Number(number) => *number as i32,
            Self::Bytes(_) => 0,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Number(_) => String::new(),
        }
    }
}

/// The fields of a message, by their numbers.
fn fields(mut rest: &[u8]) -> Result<Vec<(u64, Value<'_>)>> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut rest)?),
            1 => Value::Bytes(take(&mut rest, 8)?),
            LENGTH => {
                let length = usize::try_from(varint(&mut rest)?)?;
                Value::Bytes(take(&mut rest, length)?)
            }
            5 => Value::Bytes(take(&mut rest, 4)?),
            kind => bail!("a field of kind {kind}"),
        };
        fields.push((tag >> 3, value));
    }
    Ok(fields)
}

fn varint(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for at in 0..10 {
        let [byte] = take(rest, 1)? else { bail!("cut short") };
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("a number of more than ten bytes")
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(length).context("cut short")?;
    *rest = behind;
    Ok(taken)
}

/// Reads what CRIU says (criu_resp).
pub fn answer(bytes: &[u8]) -> Result<Answer> {
    let mut answer = Answer::default();
    for (field, value) in fields(bytes)? {
        match (field, value) {
            (1, Value::Number(kind)) => answer.kind = kind,
            (2, Value::Number(success)) => answer.success = success != 0,
            (4, Value::Bytes(restored)) => answer.pid = int_of(restored, 1)?,
            (5, Value::Bytes(notify)) => {
                let fields = fields(notify)?;
                answer.step = find(&fields, 1).map(Value::text);
                answer.pid = find(&fields, 2).map(Value::int);
            }
            (7, errno) => answer.errno = errno.int(),
            (8, Value::Bytes(features)) => {
                let has = |field| Ok::<_, anyhow::Error>(int_of(features, field)? == Some(1));
                answer.features = Features { memory_tracking: has(1)?, lazy_pages: has(2)? };
            }
            (9, reason) => answer.reason = Some(reason.text()),
            (10, Value::Bytes(version)) => answer.version = version_of(version)?,
            _ => {}
        }
    }
    Ok(answer)
}

fn find<'a, 'b>(fields: &'a [(u64, Value<'b>)], number: u64) -> Option<&'a Value<'b>> {
    fields.iter().rfind(|(field, _)| *field == number).map(|(_, value)| value)
}

fn int_of(message: &[u8], field: u64) -> Result<Option<i32>> {
    Ok(find(&fields(message)?, field).map(Value::int))
}

/// A version that is built from sources between two counts as the next one.
fn version_of(message: &[u8]) -> Result<u32> {
    let fields = fields(message)?;
    let number = |field| find(&fields, field).map_or(0, Value::int).clamp(0, 999) as u32;
    let (major, minor, sublevel) = (number(1), number(2), number(4));
    Ok(match find(&fields, 3) {
        Some(_) => major * 10_000 + (minor + 1) * 100,
        None => major * 10_000 + minor * 100 + sublevel,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::checkpoint::{CgroupsMode, Flags};

    fn read(bytes: &[u8]) -> Vec<(u64, Value<'_>)> {
        fields(bytes).unwrap()
    }

    fn options(request: &[u8]) -> Vec<(u64, Value<'_>)> {
        let Some(Value::Bytes(options)) = find(&read(request), 2).map(|value| match value {
            Value::Bytes(bytes) => Value::Bytes(bytes),
            Value::Number(number) => Value::Number(*number),
        }) else {
            panic!("no options")
        };
        read(options)
    }

    /// As protoc writes it: `type: VERSION`; `type: NOTIFY notify_success: true`; `type:
    /// FEATURE_CHECK features {mem_track: true}`.
    #[test]
    fn short_requests_are_what_they_are_to_be_byte_by_byte() {
        assert_eq!(version(), [0x08, 0x0a]);
        assert_eq!(reached(true), [0x08, 0x06, 0x18, 0x01]);
        assert_eq!(reached(false), [0x08, 0x06, 0x18, 0x00]);
        let asked = Features { memory_tracking: true, lazy_pages: false };
        assert_eq!(features(asked), [0x08, 0x09, 0x2a, 0x02, 0x08, 0x01]);
    }

    #[test]
    fn each_option_is_in_its_field() {
        let text = |text: &'static str| Value::Bytes(text.as_bytes());
        let all = Options {
            images: 300,
            work: Some(7),
            pid: Some(1),
            log_file: "l",
            flags: Flags {
                tcp_established: true,
                ext_unix_sk: true,
                shell_job: true,
                file_locks: true,
                auto_dedup: true,
                lazy_pages: true,
                cgroups_mode: Some(CgroupsMode::Full),
            },
            leave_running: true,
            tcp_skip_in_flight: true,
            link_remap: true,
            evasive_devices: true,
            page_server: Some(("a".into(), 80)),
            root: "/r".into(),
            parent: Some("../p".into()),
            track_memory: true,
            external_mounts: vec![("/m".into(), "n".into())],
            cgroup_roots: vec![("cpu".into(), "/c".into())],
            restores_sibling: true,
            inherited: vec![("k".into(), 4)],
            external: vec!["e".into()],
            joined: vec![("ipc", "/i".into())],
            empty_namespaces: 0x4000_0000,
            freeze_cgroup: Some("/f".into()),
            status: Some(5),
            config_file: Some("/s".into()),
            lsm_profile: Some("x".into()),
            lsm_mount_context: Some("y".into()),
        };
        let request = request(Kind::Dump, &all);
        assert_eq!(read(&request)[0], (1, Value::Number(1)));
        let found = options(&request);
        let flags = [3, 4, 5, 6, 7, 8, 12, 15, 16, 18, 24, 26, 46, 48, 50];
        let mut expected: Vec<_> = flags.map(|field| (field, Value::Number(1))).into();
        expected.extend([
            (1, Value::Number(300)),
            (2, Value::Number(1)),
            (9, Value::Number(4)),
            (10, text("l")),
            (11, text("\x0a\x01a\x10\x50")),
            (13, text("/r")),
            (14, text("../p")),
            (17, Value::Number(7)),
            (23, text("\x0a\x02/m\x12\x01n")),
            (25, text("\x0a\x03cpu\x12\x02/c")),
            (27, text("\x0a\x01k\x10\x04")),
            (34, Value::Number(4)),
            (37, text("e")),
            (38, Value::Number(0x4000_0000)),
            (39, text("\x0a\x03ipc\x12\x02/i")),
            (44, text("/f")),
            (49, Value::Number(5)),
            (51, text("/s")),
            (53, text("x")),
            (63, text("y")),
        ]);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for field in &expected {
            assert!(found.contains(field), "{field:?} is not in {found:?}");
        }
    }

    #[test]
    fn what_was_not_asked_for_is_not_said() {
        let request = request(Kind::Restore, &Options { log_file: "l", ..Options::default() });
        let fields: Vec<_> = options(&request).into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, [1, 12, 24, 50, 9, 10, 13, 38]);
    }

    #[test]
    fn answers_are_read_as_far_as_they_are_known() {
        // A step with its process; an unknown field of 64 and of 32 bits.
        let notify = b"\x08\x06\x10\x01\x2a\x0d\x0a\x08pre-dump\x10\x87\x02\x79whatever\x7dthis";
        let found = answer(notify).unwrap();
        assert_eq!((found.kind, found.success), (6, true));
        assert_eq!((found.step.as_deref(), found.pid), (Some("pre-dump"), Some(263)));
        let notify = b"\x08\x06\x10\x01\x2a\x0c\x0a\x08pre-dump\x10\x07";
        assert_eq!(answer(notify).unwrap().pid, Some(7));
        let restored = answer(b"\x08\x02\x10\x01\x22\x03\x08\x87\x02").unwrap();
        assert_eq!((restored.kind, restored.pid), (2, Some(263)));
        let failed = answer(b"\x08\x01\x10\x00\x38\x0c\x4a\x03why").unwrap();
        assert_eq!((failed.success, failed.errno), (false, 12));
        assert_eq!(failed.reason.as_deref(), Some("why"));
        let features = answer(b"\x08\x09\x10\x01\x42\x04\x08\x01\x10\x00").unwrap().features;
        assert_eq!(features, Features { memory_tracking: true, lazy_pages: false });
    }

    #[test]
    fn a_version_between_two_counts_as_the_next_one() {
        for (message, version) in [
            (&b"\x52\x06\x08\x03\x10\x11\x20\x01"[..], 3_17_01),
            (b"\x52\x04\x08\x04\x10\x01", 4_01_00),
            (b"\x52\x0a\x08\x03\x10\x11\x1a\x02v1\x20\x01", 3_18_00),
        ] {
            assert_eq!(answer(message).unwrap().version, version, "{message:?}");
        }
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let long = [0x80; 11];
        for wrong in [
            &b"\x08"[..],
            b"\x0a\x05a",
            b"\x0b\x00",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            &long,
            b"\x2a\x02\x0a\x09",
        ] {
            assert!(answer(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(answer(b"").unwrap(), Answer::default());
    }
}
