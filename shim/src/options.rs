//! The options that a container is created with, in each form that containerd has for them.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::messages::{Any, CheckpointOptions, Options, RuntimeOptions};
use crate::service::answer::{Code, Refusal};

/// The type of runc's options.
pub const RUNC: &str = "containerd.runc.v1.Options";
/// The type of the options of any other runtime: a table of containerd's configuration, or the
/// file that has one.
const TABLE: &str = "runtimeoptions.v1.Options";
/// The type of runc's options of an image.
const CHECKPOINT: &str = "containerd.runc.v1.CheckpointOptions";
/// The bytes of the longest file.
const LONGEST: u64 = 1 << 20;

/// The options that were given, or where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// These.
    Here(Options),
    /// Those in this file.
    In(PathBuf),
}

/// The options that were given, where they can be kept.
///
/// # Errors
/// Names the option that cannot.
pub fn read(given: Option<&Any>) -> Result<Given, Refusal> {
    let options = match given {
        None => Options::default(),
        Some(any) if any.name().is_empty() => Options::default(),
        Some(any) if any.name() == RUNC => decoded(any)?,
        Some(any) if any.name() == TABLE => {
            let RuntimeOptions { config_path, config_body, .. } = decoded(any)?;
            // containerd gives one of the two; Docker may give neither.
            if !config_path.is_empty() && config_body.is_empty() {
                return Ok(Given::In(config_path.into()));
            }
            of_table(&config_body)?
        }
        Some(any) => return Err(invalid(format!("{:?} is no type of options", any.type_url))),
    };
    check(&options)?;
    Ok(Given::Here(options))
}

/// How an image is to be made. Where nothing is said the container runs on, as pods want it.
///
/// # Errors
/// Names the option that cannot be kept.
pub fn of_checkpoint(given: Option<&Any>) -> Result<CheckpointOptions, Refusal> {
    let options: CheckpointOptions = match given.filter(|any| !any.name().is_empty()) {
        None => return Ok(CheckpointOptions::default()),
        Some(any) if any.name() == CHECKPOINT => decoded(any)?,
        Some(any) => return Err(invalid(format!("{:?} is no type of options", any.type_url))),
    };
    let mode = options.cgroups_mode.as_str();
    if !["", "soft", "full", "strict", "ignore"].contains(&mode) {
        return Err(invalid(format!("CgroupsMode: {mode:?}: not soft, full, strict or ignore")));
    }
    match options.empty_namespaces.iter().find(|name| *name != "network") {
        Some(name) => Err(invalid(format!(
            "EmptyNamespaces: {name:?}: only network can be left out of an image"
        ))),
        None => Ok(options),
    }
}

impl Given {
    /// The options themselves.
    ///
    /// # Errors
    /// Names the file that cannot be read, or the option that cannot be kept.
    pub fn load(self) -> Result<Options, Refusal> {
        let path = match self {
            Self::Here(options) => return Ok(options),
            Self::In(path) => path,
        };
        let of_file = |why: String| invalid(format!("ConfigPath: {path:?}: {why}"));
        let body = content(&path).map_err(|error| of_file(error.to_string()))?;
        let options = of_table(&body).map_err(|refused| of_file(refused.message))?;
        check(&options)?;
        Ok(options)
    }
}

/// What a file holds, in which nobody writes while it is read.
fn content(path: &Path) -> std::io::Result<Vec<u8>> {
    // A pipe would have this program wait for who writes.
    let mut options = File::options();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut body = Vec::new();
    file.take(LONGEST).read_to_end(&mut body)?;
    Ok(body)
}

fn decoded<M: prost::Message + Default>(any: &Any) -> Result<M, Refusal> {
    M::decode(any.value.as_slice()).map_err(|error| invalid(error.to_string()))
}

fn invalid(message: String) -> Refusal {
    Refusal::new(Code::InvalidArgument, format!("options: {message}"))
}

/// Refuses what is asked for and would not be done.
fn check(options: &Options) -> Result<(), Refusal> {
    let program = &options.binary_name;
    if !program.is_empty() && program.rsplit('/').next() != Some("ferrun") {
        return Err(invalid(format!(
            "BinaryName: {program:?}: this shim has ferrun inside; another program, such as \
             nvidia-container-runtime, is called by containerd-shim-runc-v2 \
             (runtime_type \"io.containerd.runc.v2\" without runtime_path)"
        )));
    }
    if !options.task_api_address.is_empty() {
        return Err(invalid(format!(
            "TaskApiAddress: {:?}: not supported",
            options.task_api_address
        )));
    }
    Ok(())
}

/// The options of a table of names and values, as containerd passes its configuration on: one a
/// line, with texts, numbers and truth values, and what a person writes beside them.
fn of_table(body: &[u8]) -> Result<Options, Refusal> {
    let text = std::str::from_utf8(body).map_err(|error| invalid(error.to_string()))?;
    let mut options = Options::default();
    for line in text.lines().map(|line| without_comment(line).trim()) {
        if line.is_empty() {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or_else(|| invalid(format!("{line:?}")))?;
        let (name, value) = (name.trim().trim_matches('"'), value.trim());
        set(&mut options, name, value).ok_or_else(|| invalid(format!("{name}: {value}")))?;
    }
    Ok(options)
}

/// A line up to a `#` that stands in no text.
fn without_comment(line: &str) -> &str {
    let (mut quote, mut is_escaped) = (None, false);
    for (at, letter) in line.char_indices() {
        match (quote, letter) {
            _ if is_escaped => is_escaped = false,
            (Some('"'), '\\') => is_escaped = true,
            (Some(open), _) if open == letter => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, '#') => return &line[..at],
            _ => {}
        }
    }
    line
}

/// None: there is no such option, or this is no value of it.
fn set(options: &mut Options, name: &str, value: &str) -> Option<()> {
    let truth = || value.parse::<bool>().ok();
    let number = || value.parse::<u32>().ok();
    // What TOML escapes in a text JSON does too; a literal text has neither quotes nor escapes.
    let text = || match value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        Some(literal) => Some(literal.to_owned()),
        None => serde_json::from_str::<String>(value).ok(),
    };
    match name {
        "NoPivotRoot" => options.no_pivot_root = truth()?,
        "NoNewKeyring" => options.no_new_keyring = truth()?,
        "ShimCgroup" => options.shim_cgroup = text()?,
        "IoUid" => options.io_uid = number()?,
        "IoGid" => options.io_gid = number()?,
        "BinaryName" => options.binary_name = text()?,
        "Root" => options.root = text()?,
        "SystemdCgroup" => options.systemd_cgroup = truth()?,
        "CriuPath" => options.criu_path = text()?,
        "CriuImagePath" => options.criu_image_path = text()?,
        "CriuWorkPath" => options.criu_work_path = text()?,
        "TaskApiAddress" => options.task_api_address = text()?,
        "TaskApiVersion" => options.task_api_version = number()?,
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(body: &str) -> Result<Options, Refusal> {
        let table = RuntimeOptions { config_body: body.into(), ..Default::default() };
        read(Some(&Any::of(TABLE, &table)))?.load()
    }

    fn load(given: Option<&Any>) -> Options {
        read(given).unwrap().load().unwrap()
    }

    #[test]
    fn all_forms_say_the_same() {
        let options = Options { systemd_cgroup: true, root: "/r".into(), ..Default::default() };
        let text = "  BinaryName = \"\"\nRoot = '/r'\n  SystemdCgroup = true\n";
        assert_eq!(table(text).unwrap(), options);
        assert_eq!(load(Some(&Any::of(RUNC, &options))), options);
        let with_host = Any::of(&format!("type.googleapis.com/{RUNC}"), &options);
        assert_eq!(load(Some(&with_host)), options);
        for nothing in [None, Some(&Any::default())] {
            assert_eq!(load(nothing), Options::default());
        }
    }

    #[test]
    fn a_file_has_what_a_person_writes() {
        let directory = std::env::temp_dir();
        let path = directory.join(format!("shim-options-{}", std::process::id()));
        let table =
            RuntimeOptions { config_path: path.display().to_string(), ..Default::default() };
        let given = read(Some(&Any::of(TABLE, &table))).unwrap();
        assert_eq!(given, Given::In(path.clone()));
        let refused = given.clone().load().unwrap_err().message;
        assert!(
            refused.starts_with(&format!("options: ConfigPath: {path:?}: No such")),
            "{refused}"
        );
        let text = "# of this node\n\nSystemdCgroup = true # as the kubelet\nRoot = '/a#\"b' # c\n\
                    ShimCgroup = \"/x\\\"#y\"\n";
        std::fs::write(&path, text).unwrap();
        let options = given.clone().load().unwrap();
        assert!(options.systemd_cgroup);
        assert_eq!([options.root.as_str(), &options.shim_cgroup], ["/a#\"b", "/x\"#y"]);
        for wrong in ["[table]\nRoot = '/r'", "Rot = '/r'", "BinaryName = 'runc'"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(given.clone().load().is_err(), "{wrong}");
        }
        std::fs::remove_file(&path).unwrap();
        let is_none = Given::In(directory).load().unwrap_err();
        assert!(is_none.message.ends_with("not a regular file"), "{is_none:?}");
    }

    #[test]
    fn what_would_not_be_done_is_refused_by_its_name() {
        for (body, name) in [
            ("BinaryName = \"/usr/bin/nvidia-container-runtime\"", "BinaryName"),
            ("BinaryName = \"runc\"", "BinaryName"),
            ("Rot = \"/r\"", "Rot"),
            ("SystemdCgroup = \"yes\"", "SystemdCgroup"),
            ("TaskApiAddress = \"unix:///x\"", "TaskApiAddress"),
        ] {
            let refused = table(body).unwrap_err();
            assert_eq!(refused.code, Code::InvalidArgument);
            assert!(refused.message.contains(&format!("options: {name}: ")), "{refused:?}");
        }
        table("BinaryName = \"/usr/local/bin/ferrun\"").unwrap();
        let other = Any { type_url: "x.Options".into(), value: Vec::new() };
        assert!(read(Some(&other)).is_err());
    }

    #[test]
    fn an_image_is_made_as_was_said_and_what_cannot_be_is_refused() {
        let given =
            |options: &CheckpointOptions| of_checkpoint(Some(&Any::of(CHECKPOINT, options)));
        let network = vec!["network".to_owned()];
        let options =
            CheckpointOptions { exit: true, empty_namespaces: network, ..Default::default() };
        assert_eq!(given(&options), Ok(options.clone()));
        for nothing in [None, Some(&Any::default())] {
            assert!(!of_checkpoint(nothing).unwrap().exit);
        }
        let options = CheckpointOptions { empty_namespaces: vec!["pid".into()], ..options };
        let refused = given(&options).unwrap_err();
        assert!(refused.message.contains("EmptyNamespaces: \"pid\""), "{refused:?}");
        let options = CheckpointOptions { cgroups_mode: "all".into(), ..Default::default() };
        assert!(given(&options).unwrap_err().message.contains("CgroupsMode: \"all\""));
        let other = Any { type_url: RUNC.into(), value: Vec::new() };
        assert_eq!(of_checkpoint(Some(&other)).unwrap_err().code, Code::InvalidArgument);
    }
}
