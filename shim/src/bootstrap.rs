//! How containerd asks for a program to be started, and what it wants to hear: by which version
//! it is, which has to be told from what it says.

use std::collections::BTreeMap;

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::messages::{Any, BootstrapParams, BootstrapResult, Extension, MountCapabilities};

/// The directory of sockets if nothing else is said.
const DIRECTORY: &str = "/run/containerd/s";
/// The bytes of a socket's path.
const LONGEST: usize = 106;
/// From this level on steps are told.
const DEBUG: i32 = -4;

/// What was typed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// The values of the options that take one.
    values: BTreeMap<String, String>,
    /// `-debug`: tell each step.
    pub debug: bool,
    /// `-v`: tell the version.
    pub version: bool,
    /// `-info`: tell what this is.
    pub info: bool,
    /// What is to be done: `start`, `delete`, or nothing, which is to serve.
    pub action: Option<String>,
}

impl Typed {
    /// Reads options as Go programs write them: with one dash or two, and with a value as the next
    /// word or behind `=`.
    ///
    /// # Errors
    /// Names what is no option.
    pub fn read(words: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut typed = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let Some(option) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                typed.action = Some(word);
                break;
            };
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (option, None),
            };
            match name {
                "debug" | "v" | "version" | "info" => {
                    let is_true = ["true", "t", "1", "T", "TRUE", "True"];
                    let on = value.is_none_or(|value| is_true.contains(&value.as_str()));
                    match name {
                        "debug" => typed.debug = on,
                        "info" => typed.info = on,
                        _ => typed.version = on,
                    }
                }
                "namespace" | "address" | "publish-binary" | "id" | "bundle" | "socket"
                | "events" => {
                    let value = value.or_else(|| words.next());
                    let value = value.ok_or_else(|| format!("-{name}: its value is missing"))?;
                    typed.values.insert(name.to_owned(), value);
                }
                _ => return Err(format!("-{name}: there is no such option")),
            }
        }
        Ok(typed)
    }

    /// The value of an option, empty where it was not given.
    pub fn value(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// The same, where nothing works without.
    ///
    /// # Errors
    /// Where it was not given.
    pub fn needed(&self, name: &str) -> Result<&str, String> {
        Some(self.value(name)).filter(|value| !value.is_empty()).ok_or(format!("-{name}: missing"))
    }
}

/// What `start` was asked for by its stdin.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The options of the container.
    pub options: Option<Any>,
    /// Where sockets are.
    pub directory: String,
    /// Whether each step is to be told.
    pub debug: bool,
    /// Where containerd takes events, where that is said here.
    pub events: String,
    /// Whether who asks knows [`BootstrapResult`].
    knows_result: bool,
}

impl Asked {
    /// Reads what containerd before 2.3 says, options or nothing, and what later ones do. A message
    /// of the first kind can be read as one of the second: it is one if it names what was typed.
    ///
    /// # Errors
    /// Where it is neither.
    pub fn read(given: &[u8], id: &str, namespace: &str) -> Result<Self, String> {
        let params = BootstrapParams::decode(given).ok();
        let params = params.filter(|new| (&*new.instance_id, &*new.namespace) == (id, namespace));
        let Some(params) = params else {
            let options = Any::decode(given).map_err(|error| format!("stdin: {error}"))?;
            return Ok(Self {
                options: Some(options).filter(|options| !options.type_url.is_empty()),
                directory: DIRECTORY.to_owned(),
                ..Self::default()
            });
        };
        let is_options = |any: &Any| any.name().ends_with(".Options");
        let extensions = params.extensions.into_iter().filter_map(|extension| extension.value);
        let directory = match params.socket_dir.is_empty() {
            true => DIRECTORY.to_owned(),
            false => params.socket_dir,
        };
        Ok(Self {
            options: extensions.into_iter().find(is_options),
            directory,
            debug: params.log_level <= DEBUG,
            events: params.ttrpc_address,
            knows_result: true,
        })
    }

    /// What is answered: where the program listens.
    pub fn answer(&self, socket: &str) -> Vec<u8> {
        let address = format!("unix://{socket}");
        if !self.knows_result {
            return address.into_bytes();
        }
        // It mounts what containerd's mount manager leaves, and need not be asked for that.
        let mounts = Any::of("containerd.types.MountCapabilities", &MountCapabilities::default());
        let result = BootstrapResult {
            version: 3,
            address,
            protocol: "ttrpc".to_owned(),
            extensions: vec![Extension { value: Some(mounts) }],
            ..Default::default()
        };
        result.encode_to_vec()
    }

    /// The path of the socket of the program for a group of containers of this containerd.
    ///
    /// # Errors
    /// Where no socket can have it.
    pub fn socket(&self, address: &str, namespace: &str, group: &str) -> Result<String, String> {
        // Others have one of their own for the same group.
        let name = format!("{address}/{namespace}/{group}/ferrun");
        let digest = Sha256::digest(name.as_bytes());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = format!("{}/{digest}", self.directory.trim_end_matches('/'));
        match path.len() <= LONGEST {
            true => Ok(path),
            false => Err(format!("{path:?}: too long for a socket")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Options;
    use crate::options::RUNC;

    fn typed(line: &str) -> Result<Typed, String> {
        Typed::read(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn options_are_written_in_each_way_of_go() {
        let line = "-namespace n --address=/a -id i -debug -bundle=/b=c delete -x";
        let typed = typed(line).unwrap();
        let values = ["namespace", "address", "id", "bundle", "socket"].map(|n| typed.value(n));
        assert_eq!(values, ["n", "/a", "i", "/b=c", ""]);
        assert!(typed.debug && !typed.info && !typed.version);
        assert_eq!(typed.action.as_deref(), Some("delete"));
        assert!(!super::tests::typed("-debug=false start").unwrap().debug);
        assert!(super::tests::typed("-v").unwrap().version);
        for (wrong, name) in [("-nosuch start", "-nosuch"), ("-id", "-id")] {
            assert!(super::tests::typed(wrong).unwrap_err().starts_with(name), "{wrong}");
        }
        assert!(super::tests::typed("start").unwrap().needed("id").is_err());
    }

    #[test]
    fn each_version_of_containerd_gets_the_answer_that_it_knows() {
        let options = Any::of(RUNC, &Options { systemd_cgroup: true, ..Default::default() });
        let old = options.encode_to_vec();
        let asked = Asked::read(&old, "i", "n").unwrap();
        assert_eq!(asked.options.as_ref(), Some(&options));
        assert_eq!(asked.answer("/s/x"), b"unix:///s/x");
        assert_eq!(Asked::read(&[], "i", "n").unwrap().options, None);

        let params = BootstrapParams {
            instance_id: "i".into(),
            namespace: "n".into(),
            log_level: -4,
            ttrpc_address: "/t".into(),
            extensions: vec![Extension { value: Some(options.clone()) }],
            socket_dir: "/s".into(),
            ..Default::default()
        };
        let new = params.encode_to_vec();
        let asked = Asked::read(&new, "i", "n").unwrap();
        assert_eq!(asked.options.as_ref(), Some(&options));
        assert_eq!(
            (asked.directory.as_str(), asked.debug, asked.events.as_str()),
            ("/s", true, "/t")
        );
        let answer = BootstrapResult::decode(asked.answer("/s/x").as_slice()).unwrap();
        assert_eq!((answer.version, answer.address.as_str()), (3, "unix:///s/x"));
        // It is for another one, or an Any with odd names.
        assert!(Asked::read(&new, "other", "n").is_ok_and(|asked| !asked.knows_result));
    }

    #[test]
    fn a_group_has_one_socket_and_each_another() {
        let asked = Asked::read(&[], "i", "n").unwrap();
        let socket = |group: &str| asked.socket("/run/containerd/containerd.sock", "n", group);
        let path = socket("pod").unwrap();
        assert_eq!(path.len(), DIRECTORY.len() + 65);
        assert_eq!(socket("pod"), Ok(path.clone()));
        assert_ne!(socket("other"), Ok(path));
        let asked = Asked { directory: "/run/".repeat(20), ..asked };
        assert!(asked.socket("a", "n", "pod").is_err());
    }
}
