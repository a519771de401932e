//! What is written down of a container, and what others have written in its place.
//!
//! A record outlives the program that wrote it: an older ferrun's is read (`older`). One
//! that a newer ferrun, another runtime or an accident has left is never taken for ours
//! and never thrown away: it is asked only for what ends the container (`foreign`).

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use oci_spec::runtime::LinuxNamespaceType;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use serde::de::Error as _;
use serde::{Deserialize, Serialize};

use crate::plan::cgroup::Group;
use crate::plan::cgroup::unit::Unit;
use crate::plan::hooks::Hook;
use crate::plan::intel_rdt;
use crate::processes::ProcessId;
use crate::store::state_json::Identity;

mod foreign;
mod older;

pub use foreign::{Foreign, Maker};

/// The version of the record's format.
pub const VERSION: u32 = 2;
/// The file of the record.
pub const RECORD: &str = "state.json";
/// The copy of config.json that later operations use.
pub const CONFIG: &str = "config.json";

/// What is remembered of a container. Behind each field stands who reads it; `delete` is each
/// way to nothing, `run` at its end and a `create` that fails among them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this format. It comes first, so that a record that is cut short can
    /// still be told from another runtime's: every command.
    pub version: u32,
    /// The container's ID: every command.
    pub id: String,
    /// The absolute path of its bundle: `state`, `list`; hooks of `start` and `delete`.
    pub bundle: PathBuf,
    /// The absolute path of its root on the host: `state`, `list`; `start`, for why a program
    /// cannot be run; `delete`, to undo mounts.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339: `state`, `list`; whoever has to know whether the ID is
    /// still this container's; systemd's unit bears it.
    pub created: String,
    /// The user id of whoever created it: `list`.
    pub owner: u32,
    /// The boot of the machine that the processes belong to; empty where it was not known:
    /// every command that looks for them.
    pub boot: String,
    /// Who is creating it; None once it is created: the status; `delete`, to stop him.
    pub creator: Option<ProcessId>,
    /// Its init process; None until it is made: the status; `kill`, `exec`, `start`, `update`,
    /// `delete`.
    pub init: Option<ProcessId>,
    /// What the links /proc/PID/fd/0, 1 and 2 of init were at the start, to be found again when
    /// its state is restored from a checkpoint; empty where it has a terminal of its own, or an
    /// older version did not write them: `checkpoint`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stdio: Vec<String>,
    /// Whether its processes were restored from an image: then they have executed nothing, and
    /// run all the same: the status.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
    /// Whether it has a program to start: `start`.
    pub has_process: bool,
    /// The namespaces that are not the creator's: `exec`.
    pub namespaces: Vec<LinuxNamespaceType>,
    /// Whether all its processes end with its init: `start`, `kill`.
    pub own_pids: bool,
    /// Its cgroup; empty until systemd has made it, where it does: the status; `exec`, `kill`,
    /// `pause`, `resume`, `ps`, `events`, `update`, `start`, `delete`.
    pub group: Group,
    /// The unit of systemd's that its cgroup is, if it is one: `exec`, `update`, `delete`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// Its groups in resctrl: `exec`, `events`, `update`, `delete`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<intel_rdt::ClassGroup>,
    /// Whether it has no session keyring of its own: `exec`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub callers_keyring: bool,
    /// Mounts to undo one by one, where it has no mount namespace of its own: `delete`.
    pub mounts: Vec<RecordedMount>,
    /// `annotations` of the configuration: `state`, `list`; hooks of `start` and `delete`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Hooks that are called once the program runs: `start`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// Hooks that are called when nothing is left: `delete`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
}

/// A mount that was made in somebody else's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedMount {
    /// Where inside of the rootfs.
    pub target: PathBuf,
    /// What was mounted at that place before.
    pub before: u64,
}

impl Record {
    /// What hooks get to read.
    pub fn identity(&self) -> Identity<'_> {
        Identity { id: &self.id, bundle: &self.bundle, annotations: &self.annotations }
    }

    /// What its file holds.
    pub fn text(&self) -> Result<Vec<u8>> {
        // Few are longer.
        let mut text = Text(Vec::with_capacity(2048));
        serde_json::to_writer(&mut text, self)?;
        Ok(text.0)
    }
}

/// A text that is written a byte at a time, mostly: that is how JSON comes out of serde_json. A
/// `Vec` takes four times as long for each.
struct Text(Vec<u8>);

impl io::Write for Text {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.write_all(piece)?;
        Ok(piece.len())
    }

    #[inline]
    fn write_all(&mut self, piece: &[u8]) -> io::Result<()> {
        match piece {
            [byte] => self.0.push(*byte),
            _ => self.0.extend_from_slice(piece),
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What stands where a record is looked for.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a command makes one, and mostly the large one")]
pub enum FoundRecord {
    /// A record of ours, whatever version wrote it up to this one.
    Own(Record),
    /// Anything else.
    Foreign(Box<Foreign>),
}

/// Reads what a directory says of its container. ENOENT where it says nothing: an empty
/// record is none yet.
pub fn read(directory: &Path) -> Result<FoundRecord> {
    read_with(directory, &mut Vec::new())
}

/// The same with room for the text, which whoever reads many hands from one to the next.
pub fn read_with(directory: &Path, text: &mut Vec<u8>) -> Result<FoundRecord> {
    let path = directory.join(RECORD);
    let error = match read_file(&path, text) {
        Ok(()) => return parse(text).with_context(|| format!("{path:?}")),
        Err(error) => error,
    };
    if error.kind() == ErrorKind::NotFound
        && let Some(foreign) = foreign::of_another_file(directory)
    {
        // `create` may have written both since.
        return match read_file(&path, text) {
            Ok(()) => parse(text).with_context(|| format!("{path:?}")),
            Err(_) => Ok(FoundRecord::Foreign(Box::new(foreign))),
        };
    }
    Err(error).with_context(|| format!("{path:?}"))
}

/// Reads a small regular file in as few calls as can be: less than was asked for is its end.
/// One that is empty is not there yet.
pub fn read_file(path: &Path, text: &mut Vec<u8>) -> io::Result<()> {
    // For reading, which is no flag.
    let file = open(path, OFlags::CLOEXEC, Mode::empty())?;
    text.resize(text.capacity().max(4096), 0);
    let mut length = 0;
    loop {
        let read = rustix::io::read(&file, text.get_mut(length..).unwrap_or_default())?;
        length += read;
        if length == 0 {
            return Err(Errno::NOENT.into());
        }
        if length < text.len() {
            text.truncate(length);
            return Ok(());
        }
        text.resize(2 * length, 0);
    }
}

/// What the text of a record is.
pub fn parse(text: &[u8]) -> Result<FoundRecord> {
    // As a whole first: of bytes serde_json checks each string by itself.
    let checked = std::str::from_utf8(text).map_err(serde_json::Error::custom);
    match checked.and_then(serde_json::from_str::<Record>) {
        Ok(record) if record.version == VERSION => Ok(FoundRecord::Own(record)),
        Ok(record) if (1..VERSION).contains(&record.version) => {
            older::upgrade(record).map(FoundRecord::Own)
        }
        parsed => Ok(FoundRecord::Foreign(Box::new(foreign::parse(text, parsed.err())))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As each program wrote it, but for pids, times and the name of the machine.
    const VERSION_1: &str = include_str!("fixtures/version-1.json");
    /// Before it said what stdin, stdout and stderr are.
    const VERSION_2: &str = include_str!("fixtures/version-2.json");
    const NEWER: &str = include_str!("fixtures/newer.json");
    const RUNC: &str = include_str!("fixtures/runc-1.1.5.json");
    const CRUN: &str = include_str!("fixtures/crun-1.8.1.json");

    fn own(text: &str) -> Record {
        match parse(text.as_bytes()).unwrap() {
            FoundRecord::Own(record) => record,
            FoundRecord::Foreign(foreign) => panic!("{foreign:?}"),
        }
    }

    fn foreign(text: &[u8]) -> Foreign {
        match parse(text).unwrap() {
            FoundRecord::Foreign(foreign) => *foreign,
            FoundRecord::Own(record) => panic!("{record:?}"),
        }
    }

    #[test]
    fn the_record_of_each_version_is_read_and_becomes_one_of_today() {
        let record = own(VERSION_1);
        assert_eq!(record.version, VERSION);
        assert_eq!(record.init, Some(ProcessId { pid: 174, started: 74899 }));
        assert_eq!(record.group.directories.len(), 2);
        assert_eq!(record.annotations["org.example.note"], "kept");
        let text = String::from_utf8(record.text().unwrap()).unwrap();
        assert!(text.starts_with("{\"version\":"), "{text}");
        assert_eq!(text, serde_json::to_string(&record).unwrap());
        assert_eq!(own(&text), record);
    }

    #[test]
    fn a_record_without_what_was_added_since_is_one_of_today() {
        let record = own(VERSION_2);
        assert_eq!((record.version, record.stdio.len()), (VERSION, 0));
        assert_eq!(record.init, Some(ProcessId { pid: 174, started: 2_852_298 }));
        let stdio = ["/dev/null", "pipe:[7]", "/a \u{fffd}"].map(str::to_owned).to_vec();
        let more = Record { stdio: stdio.clone(), ..record };
        assert_eq!(own(&serde_json::to_string(&more).unwrap()).stdio, stdio);
    }

    #[test]
    fn a_record_that_would_be_one_of_ours_but_for_its_version_is_a_newer_ones() {
        let text = VERSION_2.replacen("\"version\":2", "\"version\":3", 1);
        let foreign = foreign(text.as_bytes());
        assert!(matches!(foreign.maker, Maker::Newer(3)), "{foreign:?}");
    }

    #[test]
    fn of_a_newer_record_that_is_read_which_ends_its_container() {
        let foreign = foreign(NEWER.as_bytes());
        assert!(matches!(foreign.maker, Maker::Newer(99)), "{foreign:?}");
        let Record { id, boot, init, mounts, .. } = &foreign.record;
        assert_eq!((id.as_str(), boot.as_str()), ("box", "8f01fffe-ee14-438d-b409-9aa657810963"));
        assert_eq!(*init, Some(ProcessId { pid: 174, started: 74899 }));
        assert_eq!(mounts.len(), 1);
    }

    #[test]
    fn the_record_of_runc_is_known_as_such() {
        let foreign = foreign(RUNC.as_bytes());
        assert!(matches!(foreign.maker, Maker::Runc), "{foreign:?}");
        assert_eq!(foreign.record.init, Some(ProcessId { pid: 58, started: 74860 }));
    }

    #[test]
    fn crun_and_a_lost_record_leave_other_files() {
        let directory = std::env::temp_dir().join(format!("ferrun-record-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
        assert!(read(&directory).is_err());
        write(CONFIG, "{}");
        let found = read(&directory).unwrap();
        assert!(matches!(&found, FoundRecord::Foreign(f) if f.maker.is_cut_short()), "{found:?}");
        write("status", CRUN);
        let FoundRecord::Foreign(foreign) = read(&directory).unwrap() else { panic!("ours") };
        assert!(matches!(foreign.maker, Maker::Crun), "{foreign:?}");
        assert_eq!(foreign.record.init, Some(ProcessId { pid: 53, started: 116_274 }));
        let long = VERSION_1.replace("kept", &"x".repeat(10_000));
        write(RECORD, &long);
        let FoundRecord::Own(record) = read(&directory).unwrap() else { panic!("not ours") };
        assert_eq!(record.annotations["org.example.note"].len(), 10_000);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_is_cut_short_is_told_from_what_was_never_ours() {
        for length in 1..VERSION_1.trim_end().len() {
            let foreign = foreign(&VERSION_1.as_bytes()[..length]);
            assert!(matches!(foreign.maker, Maker::CutShort(_)), "{length}: {foreign:?}");
        }
        for length in 13..RUNC.trim_end().len() {
            let foreign = foreign(&RUNC.as_bytes()[..length]);
            assert!(matches!(foreign.maker, Maker::Unknown(_)), "{length}: {foreign:?}");
        }
        for text in ["null", "[]", "{}", "\u{0}", "{\"pid\":1}", "{\"version\":\"1\"}"] {
            let foreign = foreign(text.as_bytes());
            assert!(matches!(foreign.maker, Maker::Unknown(_)), "{text}: {foreign:?}");
        }
        // Whole, but of no version that there was.
        let text = VERSION_2.replacen("\"version\":2", "\"version\":0", 1);
        let foreign_one = foreign(text.as_bytes());
        assert!(matches!(foreign_one.maker, Maker::Unknown(_)), "{foreign_one:?}");
        let foreign = foreign(b"{\"id\":\"\xff\"}");
        assert!(matches!(foreign.maker, Maker::Unknown(_)), "{foreign:?}");
    }
}
