//! config.json as a `Spec`, with the place of whatever is wrong in it.
//!
//! The file is read twice in memory. `scan` looks at the text: is it one JSON
//! value, does an object give a key twice, is there a NUL that would cut a
//! string short in the kernel, is a list where an object belongs, which serde
//! would take, and was given what the spec requires but oci-spec fills in by
//! default. Then serde makes the `Spec`. Only where that
//! fails does `repair` have a look at what the spec allows and oci-spec does
//! not, and serde_path_to_error find the name of the field.

mod repair;
mod scan;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::{Process, Spec};
use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::InField as _;
use crate::log;
use crate::resolve;

/// The newest version of the runtime spec that ferrun implements.
pub const OCI_VERSION: &str = "1.3.0";
/// The file of a bundle that says what to make of it.
const CONFIG: &str = "config.json";

/// The longest config.json that is read, in bytes.
const LONGEST: u64 = 64 << 20;

/// A bundle: a directory with a config.json (bundle.md).
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The absolute path of the directory.
    pub path: PathBuf,
    /// The text of config.json, which is kept for later operations.
    pub text: String,
    /// What it says.
    pub spec: Box<Spec>,
    /// What is passed over in it, for the log.
    pub warnings: Vec<String>,
}

impl Bundle {
    /// Reads the bundle in `directory`; `config` names another file than
    /// `config.json` in it.
    pub fn load(directory: &Path, config: Option<&Path>) -> Result<Self> {
        let path =
            resolve::real_path(directory).with_context(|| format!("bundle {directory:?}"))?;
        if path.to_str().is_none() {
            // The state that hooks and callers read is JSON.
            bail!("bundle {path:?}: its path is not UTF-8");
        }
        let file = config.map_or_else(|| path.join(CONFIG), Path::to_owned);
        let text = read(&file).with_context(|| format!("{file:?}"))?;
        let name = config.map_or(Cow::Borrowed(CONFIG), |file| format!("{file:?}").into());
        let (spec, warnings) = parse_spec_in(&name, &text)?;
        Ok(Self { path, text, spec, warnings })
    }

    /// The bundle with other arguments of its process. Its text has them too: what is kept of
    /// it says what ran.
    pub fn with_args(self, args: &[String]) -> Result<Self> {
        let mut config: Value = serde_json::from_str(&self.text).context(CONFIG)?;
        let Some(process) = config.get_mut("process").and_then(Value::as_object_mut) else {
            bail!("process: missing, and a command was given for it");
        };
        process.insert("args".to_owned(), args.into());
        let text = config.to_string();
        let (spec, _) = parse_spec(&text)?;
        Ok(Self { text, spec, ..self })
    }
}

/// Reads a file of JSON whole, up to a limit that no honest one reaches.
pub fn read(file: &Path) -> Result<String> {
    read_up_to(LONGEST, file)
}

fn read_up_to(longest: u64, file: &Path) -> Result<String> {
    use std::io::Read as _;
    // Not by the standard library, which asks twice for a descriptor that execve(2) closes.
    // It is for reading, which is no flag.
    let file = std::fs::File::from(rustix::fs::open(file, OFlags::CLOEXEC, Mode::empty())?);
    // More than most have: the end is found without growing.
    let mut text = Vec::with_capacity(16 * 1024);
    file.take(longest + 1).read_to_end(&mut text)?;
    if text.len() as u64 > longest {
        bail!("longer than {longest} bytes");
    }
    Ok(String::from_utf8(text)?)
}

/// Parses the text of a config.json and refuses what the spec has no value for.
pub fn parse_spec(text: &str) -> Result<(Box<Spec>, Vec<String>)> {
    parse_spec_in(CONFIG, text)
}

/// Of a file that may have another name.
fn parse_spec_in(name: &str, text: &str) -> Result<(Box<Spec>, Vec<String>)> {
    let given = scan::scan(text).with_context(|| name.to_owned())?;
    let (mut spec, warnings) = parse::<Spec>(text).with_context(|| name.to_owned())?;
    check_version(&given, spec.version())?;
    check_given(&given, spec.process().is_some())?;
    check_io_class(&given, spec.process().as_ref()).in_field("process.ioPriority.class")?;
    let root = spec.root().as_ref().map(|root| root.path());
    if !given.root_path || root.is_none_or(|path| path.as_os_str().is_empty()) {
        bail!("root.path: missing");
    }
    if let Some(annotations) = spec.annotations()
        && annotations.contains_key("")
    {
        bail!("annotations: an empty key");
    }
    drop_absent_pids(&mut spec, &given);
    Ok((spec, warnings))
}

/// Parses the process that `exec --process` names. Callers leave its user out and mean
/// root, which other runtimes make of it.
pub fn parse_process(text: &str) -> Result<(Box<Process>, Vec<String>)> {
    let given = scan::scan_process(text)?;
    let (process, warnings) = parse::<Process>(text)?;
    check_io_class(&given, Some(&process)).in_field("ioPriority.class")?;
    Ok((process, warnings))
}

/// Reads limits in the form of linux.resources, of which only some may be given.
pub fn parse_resources(text: &str) -> Result<Value> {
    scan::scan_resources(text)?;
    Ok(serde_json::from_str(text)?)
}

/// Parses what was stored before, where nothing is to be checked again.
pub fn parse_stored(text: &str) -> Result<Box<Spec>> {
    let (mut spec, _) = parse::<Spec>(text)?;
    // Whether a limit of 0 was given only the text tells.
    let linux = spec.linux().as_ref();
    let pids = linux.and_then(|linux| linux.resources().as_ref()?.pids().as_ref());
    if pids.is_some_and(|pids| pids.limit() == 0) {
        drop_absent_pids(&mut spec, &scan::scan_stored(text)?);
    }
    Ok(spec)
}

/// oci-spec reads `pids` without a limit as the limit 0, which is one.
fn drop_absent_pids(spec: &mut Spec, given: &scan::Given) {
    if !given.pids_limit
        && let Some(linux) = spec.linux_mut()
        && let Some(resources) = linux.resources_mut()
    {
        resources.set_pids(None);
    }
}

fn check_given(given: &scan::Given, process: bool) -> Result<()> {
    if process && !given.uid {
        bail!("process.user.uid: missing");
    }
    if process && !given.gid {
        bail!("process.user.gid: missing");
    }
    Ok(())
}

/// oci-spec reads one that is missing as best effort, which nobody has asked for
/// (config.md#linux-process: required).
fn check_io_class(given: &scan::Given, process: Option<&Process>) -> Result<()> {
    if !given.io_class && process.is_some_and(|process| process.io_priority().is_some()) {
        bail!("missing");
    }
    Ok(())
}

/// config.md#specification-version: SemVer, and one that we implement.
fn check_version(given: &scan::Given, version: &str) -> Result<()> {
    if !given.version {
        bail!("ociVersion: missing");
    }
    let parsed = semver(version).in_field("ociVersion")?;
    let newest = semver(OCI_VERSION)?;
    if parsed.0 != newest.0 {
        bail!("ociVersion: \"{version}\": this runtime implements {OCI_VERSION}");
    }
    Ok(())
}

/// Major, minor and patch of a version by SemVer 2.0.0.
fn semver(version: &str) -> Result<(u64, u64, u64)> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let rest = version.get(core.len()..).unwrap_or_default();
    let identifiers = |text: &str| {
        text.split('.').all(|part| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    };
    let (pre, build) = match rest.split_once('+') {
        Some((pre, build)) => (pre, Some(build)),
        None => (rest, None),
    };
    let suffixes_ok = (pre.is_empty() || pre.strip_prefix('-').is_some_and(identifiers))
        && build.is_none_or(identifiers);
    let number = |text: &str| {
        let plain = !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'));
        if plain { text.parse().ok() } else { None }
    };
    let numbers: Vec<Option<u64>> = core.split('.').map(number).collect();
    match numbers.as_slice() {
        [Some(major), Some(minor), Some(patch)] if suffixes_ok => Ok((*major, *minor, *patch)),
        _ => bail!("\"{version}\": not a semantic version such as {OCI_VERSION}"),
    }
}

/// serde's reading, then the repairing one where it fails. A `Spec` is several
/// kilobytes, and not to be moved about.
fn parse<T: DeserializeOwned>(text: &str) -> Result<(Box<T>, Vec<String>)> {
    match read_plain(text) {
        Ok(value) => Ok((value, Vec::new())),
        Err(_) => {
            log::debug(|| "the configuration is refused as it is: mended and read again");
            repair_and_parse(text)
        }
    }
}

/// Not inlined, like the next one: what it needs of the stack would be the caller's.
#[inline(never)]
fn read_plain<T: DeserializeOwned>(text: &str) -> serde_json::Result<Box<T>> {
    serde_json::from_str(text)
}

#[cold]
#[inline(never)]
fn repair_and_parse<T: DeserializeOwned>(text: &str) -> Result<(Box<T>, Vec<String>)> {
    let mut value: serde_json::Value = serde_json::from_str(text)?;
    let warnings = repair::repair(&mut value);
    let parsed = serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        let mut reason = one_reason(&error.into_inner().to_string());
        if field.starts_with("linux.memoryPolicy.") {
            // The words by which callers of runc know it.
            reason = format!("invalid memory policy: {reason}");
        }
        let is_secret = |name: &str| matches!(name.split('[').next(), Some("env" | "annotations"));
        if field.split('.').any(is_secret) {
            // Others than the program might read the log.
            let expected = reason.rsplit_once(", ").map_or("", |(_, expected)| expected);
            reason = format!("not what is {expected}");
        }
        if field == "." { anyhow::anyhow!(reason) } else { anyhow::anyhow!("{field}: {reason}") }
    })?;
    Ok((parsed, warnings))
}

/// serde's message without its list of everything that would have been right.
fn one_reason(message: &str) -> String {
    let message = message.split(", expected one of").next().unwrap_or(message);
    message.replace('`', "\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        match parse_spec(text) {
            Ok(_) => panic!("accepted: {text}"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, reason) in [
            ("{\n \"ociVersion\": }", "config.json: expected value at line 2 column 16"),
            ("{}", "ociVersion: missing"),
            (
                r#"{"ociVersion":"1.0.0","root":{"path":"r"}} {}"#,
                "config.json: trailing characters at line 1 column 44",
            ),
            (r#"{"ociVersion":"2.0.0"}"#, r#"ociVersion: "2.0.0": this runtime implements 1.3.0"#),
            (
                r#"{"ociVersion":"one"}"#,
                r#"ociVersion: "one": not a semantic version such as 1.3.0"#,
            ),
            (r#"{"ociVersion":"1.0.0"}"#, "root.path: missing"),
            (r#"{"ociVersion":"1.0.0","root":{}}"#, "root.path: missing"),
            (
                r#"{"ociVersion":"1.0.0","root":{"path":"r"},"root":{"path":"r"}}"#,
                "config.json: root: given twice at line 1 column 48",
            ),
            (
                r#"{"ociVersion":"1.0.0","annotations":{"a":"1","a":"2"}}"#,
                "config.json: annotations.a: given twice at line 1 column 48",
            ),
            (
                r#"{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"cwd":"/","user":{"gid":0}}}"#,
                "process.user.uid: missing",
            ),
            (
                r#"{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"cwd":"/","user":{"uid":"0","gid":0}}}"#,
                r#"config.json: process.user.uid: invalid type: string "0", expected u32"#,
            ),
            (
                r#"{"ociVersion":"1.0.0","root":{"path":"r"},"linux":{"resources":{"memory":{"limit":"1"}}}}"#,
                r#"config.json: linux.resources.memory.limit: invalid type: string "1", expected i64"#,
            ),
            (
                r#"{"ociVersion":"1.0.0","root":{"path":"r"},"linux":{"namespaces":[{"type":"bogus"}]}}"#,
                r#"config.json: linux.namespaces[0].type: unknown variant "bogus""#,
            ),
            (
                r#"{"ociVersion":"1.0.0","root":{"path":"r"},"linux":{"memoryPolicy":{"mode":"BIND"}}}"#,
                r#"config.json: linux.memoryPolicy.mode: invalid memory policy: unknown variant "BIND""#,
            ),
            (
                r#"{"ociVersion":"1.0.0","root":{"path":"r\u0000"}}"#,
                "config.json: root.path: a NUL character at line 1 column 46",
            ),
            // serde would take a list for an object, by the order of its properties, and
            // oci-spec a mapping without a host's id for one to the host's root.
            (
                r#"{"ociVersion":"1.0.0","root":["r"]}"#,
                "config.json: root: a list, and an object is expected at line 1 column 30",
            ),
            (r#"["1.0.0"]"#, "config.json: a list, and an object is expected at line 1 column 1"),
            (
                r#"{"ociVersion":"1.0.0","root":{"path":"r"},"linux":{"uidMappings":[[0,0,1]]}}"#,
                "config.json: linux.uidMappings[0]: a list, and an object is expected at line 1 column 67",
            ),
            (
                r#"{"ociVersion":"1.0.0","root":{"path":"r"},"linux":{"uidMappings":[
                    {"containerID":0,"hostID":1,"size":1},{"containerID":0,"hostID":null,"size":1}]}}"#,
                "config.json: linux.uidMappings[1].hostID: missing at line 2 column 98",
            ),
            (
                r#"{"ociVersion":"1.0.0","root":{"path":"r"},"annotations":{"":"x"}}"#,
                "annotations: an empty key",
            ),
        ] {
            assert_eq!(refused(text), reason, "{text}");
        }
    }

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let name = format!("ferrun-bundle-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, "{}\n ").unwrap();
        let found = [read_up_to(4, &file), read_up_to(3, &file), read(&file)];
        let _ = std::fs::remove_file(&file);
        let found = found.map(|text| text.map_err(|error| error.to_string()));
        let whole = Ok("{}\n ".to_owned());
        assert_eq!(found, [whole.clone(), Err("longer than 3 bytes".into()), whole]);
    }

    #[test]
    fn a_process_alone_is_held_to_the_same_rules() {
        let (process, warnings) = parse_process(r#"{"cwd":"/","args":["a"]}"#).unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (0, 0), "left out, it is root");
        assert_eq!(process.args().as_deref(), Some(&["a".to_owned()][..]));
        assert!(warnings.is_empty());
        for (text, reason) in [
            (r#"{"cwd":"/\u0000"}"#, "cwd: a NUL character at line 1 column 16"),
            (
                r#"{"cwd":"/","user":[0]}"#,
                "user: a list, and an object is expected at line 1 column 19",
            ),
            (r#"{"cwd":"/","ioPriority":{"priority":1}}"#, "ioPriority.class: missing"),
        ] {
            assert_eq!(format!("{:#}", parse_process(text).unwrap_err()), reason);
        }
    }

    #[test]
    fn what_oci_spec_would_fill_in_is_missing() {
        let with = |process: &str| {
            format!(
                r#"{{"ociVersion":"1.0.0","root":{{"path":"r"}},"process":{{"cwd":"/",{process}}}}}"#
            )
        };
        for (process, reason) in [
            (r#""user":{"uid":0}"#, "process.user.gid: missing"),
            (
                r#""user":{"uid":0,"gid":0},"ioPriority":{"priority":1}"#,
                "process.ioPriority.class: missing",
            ),
        ] {
            assert_eq!(refused(&with(process)), reason);
        }
        let whole =
            r#""user":{"uid":0,"gid":0},"ioPriority":{"priority":1,"class":"IOPRIO_CLASS_BE"}"#;
        assert!(parse_spec(&with(whole)).is_ok());
    }

    #[test]
    fn what_was_stored_is_read_as_it_is() {
        let pids = |limits: &str| {
            let text = format!(
                r#"{{"ociVersion":"1.0.0","root":["r"],"linux":{{"resources":{{"pids":{limits}}}}}}}"#
            );
            let spec = parse_stored(&text).unwrap();
            let resources = spec.linux().as_ref().unwrap().resources().as_ref().unwrap();
            resources.pids().as_ref().map(|pids| pids.limit())
        };
        assert_eq!(pids(r#"{"limit":5}"#), Some(5));
        assert_eq!((pids(r#"{"limit":0}"#), pids("{}")), (Some(0), None));
    }

    #[test]
    fn what_a_name_stands_for_is_an_object_whatever_the_name_is() {
        for (linux, field) in [
            (r#"{"netDevices":{"eth0.1":["a"]}}"#, "linux.netDevices.eth0.1"),
            (r#"{"resources":{"rdma":{"mlx.0":[1,2]}}}"#, "linux.resources.rdma.mlx.0"),
        ] {
            let text = format!(r#"{{"ociVersion":"1.0.0","root":{{"path":"r"}},"linux":{linux}}}"#);
            let reason = format!("config.json: {field}: a list, and an object is expected");
            assert!(refused(&text).starts_with(&reason), "{}", refused(&text));
        }
    }

    #[test]
    fn unknown_properties_are_ignored_anywhere() {
        let text = r#"{"ociVersion":"1.0.2-dev","root":{"path":"r","new":1},"x":{"y":[{"z":null}]},
                "linux.uidMappings":[[{}]]}"#;
        assert!(parse_spec(text).is_ok());
    }

    #[test]
    fn what_the_spec_allows_and_the_crate_refuses_is_repaired() {
        let text = r#"{"ociVersion":"1.0.0","root":{"path":"r"},"hostname":null,
            "process":{"cwd":"/","user":{"uid":0,"gid":0},"scheduler":{"policy":"SCHED_FIFO",
            "flags":["SCHED_FLAG_RESET_ON_FORK","SCHED_FLAG_DL_OVERRUN"]},"capabilities":{"bounding":["CAP_KILL","CAP_BOGUS"]}},
            "linux":{"resources":{"pids":{"limit":null},"devices":[{"allow":false,"type":"","access":"rwm"}]}}}"#;
        let (spec, warnings) = parse_spec(text).unwrap();
        assert_eq!(
            warnings,
            [r#"process.capabilities.bounding: "CAP_BOGUS" is unknown and left out"#]
        );
        assert!(spec.linux().as_ref().unwrap().resources().as_ref().unwrap().pids().is_none());
    }

    #[test]
    fn other_arguments_are_in_what_is_kept_too() {
        let bundle = |text: &str| {
            let (spec, warnings) = parse_spec(text).unwrap();
            Bundle { path: "/b".into(), text: text.to_owned(), spec, warnings }
        };
        let args = ["ls".to_owned(), "-l".to_owned()];
        let text = r#"{"ociVersion":"1.0.0","root":{"path":"r"},"linux":{"x":[18446744073709551615,-1]},
            "process":{"cwd":"/","args":["sh"],"user":{"uid":0,"gid":0}}}"#;
        let other = bundle(text).with_args(&args).unwrap();
        assert_eq!(other.spec.process().as_ref().unwrap().args().as_deref(), Some(&args[..]));
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(value(&other.text), value(&text.replace(r#"["sh"]"#, r#"["ls","-l"]"#)));
        let none = bundle(r#"{"ociVersion":"1.0.0","root":{"path":"r"}}"#).with_args(&args);
        assert_eq!(
            none.unwrap_err().to_string(),
            "process: missing, and a command was given for it"
        );
    }

    #[test]
    fn versions_are_semantic() {
        for good in ["1.0.0", "1.0.2-dev", "1.3.0-rc.1+build.5", "0.0.0+x", "1.0.0-a-b"] {
            assert!(semver(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "1",
            "1.0",
            "1.0.0.0",
            "01.0.0",
            "1.0.0-",
            "1.0.0+",
            "v1.0.0",
            "1.0.x",
            "1.0.0-a_b",
        ] {
            assert!(semver(bad).is_err(), "{bad}");
        }
    }
}
