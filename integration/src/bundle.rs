//! Bundles: a root with a static busybox, and a configuration to vary.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{Bed, Caller, copy_program};

/// The programs that tests use, all of them links to busybox.
const PROGRAMS: &[&str] = &[
    "awk", "cat", "chmod", "chown", "cut", "date", "dd", "echo", "env", "false", "find", "grep",
    "head", "hostname", "id", "ionice", "kill", "ln", "ls", "mkdir", "mkfifo", "mknod", "mount",
    "nice", "ps", "pwd", "readlink", "rm", "sed", "seq", "setsid", "sh", "sleep", "sort", "stat",
    "stty", "sync", "tail", "test", "touch", "tr", "true", "tty", "umount", "uname", "unshare",
    "wc", "yes",
];

/// A bundle of a bed. Its configuration is written when it is used.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Its directory.
    pub path: PathBuf,
    /// Its configuration.
    pub config: Value,
}

impl Bundle {
    /// Makes the directory `path` with a root that belongs to the bed's caller.
    pub(crate) fn new(bed: &Bed, path: PathBuf, config: Value) -> Self {
        let rootfs = path.join("rootfs");
        for directory in ["bin", "dev", "etc", "proc", "sys", "root", "var"] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(rootfs.join(directory))
                .expect("a directory of the root");
        }
        let tmp = rootfs.join("tmp");
        fs::DirBuilder::new().mode(0o755).create(&tmp).expect("the root's /tmp");
        fs::set_permissions(&tmp, std::os::unix::fs::PermissionsExt::from_mode(0o1777))
            .expect("its mode");
        let busybox = rootfs.join("bin/busybox");
        // Of package busybox-static.
        copy_program(Path::new("/bin/busybox"), &busybox);
        for name in PROGRAMS {
            symlink("busybox", rootfs.join("bin").join(name)).expect("a link to busybox");
        }
        if let Some(id) = bed.user() {
            give(&path, id);
        }
        Self { path, config }
    }

    /// Its root.
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// The same with `value` at a place of the configuration, which is made if it
    /// is not there. A last `-` appends to a list.
    pub fn with(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        set(&mut self.config, pointer, value.into());
        self
    }

    /// The same without what is at a place of the configuration.
    #[track_caller]
    pub fn without(mut self, pointer: &str) -> Self {
        let (parent, key) = pointer.rsplit_once('/').expect("a JSON pointer");
        let parent = self.config.pointer_mut(parent);
        match parent.unwrap_or_else(|| panic!("nothing at {pointer}")) {
            Value::Array(list) => drop(list.remove(key.parse().expect("an index"))),
            object => drop(object.as_object_mut().expect("an object").remove(key)),
        }
        self
    }

    /// The same without the namespace of this type.
    pub fn without_namespace(mut self, kind: &str) -> Self {
        self.namespaces().retain(|namespace| namespace["type"] != kind);
        self
    }

    /// The same with a namespace that is new, or joined by its path.
    pub fn with_namespace(self, kind: &str, path: Option<&Path>) -> Self {
        let mut bundle = self.without_namespace(kind);
        let mut namespace = json!({"type": kind});
        if let Some(path) = path {
            namespace["path"] = path.to_str().into();
        }
        bundle.namespaces().push(namespace);
        bundle
    }

    /// The same in a new user namespace, in which the first `size` ids of the host are
    /// what they are outside.
    pub fn in_user_namespace(self, size: u32) -> Self {
        let ids = json!([{"containerID": 0, "hostID": 0, "size": size}]);
        self.with_namespace("user", None)
            .with("/linux/uidMappings", ids.clone())
            .with("/linux/gidMappings", ids)
    }

    fn namespaces(&mut self) -> &mut Vec<Value> {
        self.config["linux"]["namespaces"].as_array_mut().expect("linux.namespaces")
    }

    /// The same with another program.
    pub fn args<S: Into<Value>>(self, args: impl IntoIterator<Item = S>) -> Self {
        let args: Vec<Value> = args.into_iter().map(Into::into).collect();
        self.with("/process/args", args)
    }

    /// The same with a shell script as its program.
    pub fn sh(self, script: &str) -> Self {
        self.args(["/bin/sh", "-c", script])
    }

    /// The same with these capabilities in all sets but the ambient one.
    pub fn capable(self, names: &[&str]) -> Self {
        self.with("/process/capabilities", capabilities(names))
    }

    /// The same with one more mount.
    pub fn mount(self, destination: &str, kind: &str, source: &str, options: &[&str]) -> Self {
        self.with("/mounts/-", mount(destination, kind, source, options))
    }

    /// Writes a file of the root, and the directories above it.
    pub fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.rootfs().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a parent")).expect("the directories above it");
        fs::write(&path, text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        self
    }

    /// Writes the configuration.
    pub fn save(&self) -> &Self {
        self.save_text(&serde_json::to_string_pretty(&self.config).expect("JSON"))
    }

    /// Writes this text as the configuration.
    pub fn save_text(&self, text: &str) -> &Self {
        fs::write(self.path.join("config.json"), text).expect("config.json");
        self
    }
}

/// The configuration that tests start from, for `caller`; it asks for little.
pub fn config(caller: Caller, cgroups_path: &str) -> Value {
    let mut config = json!({
        // The last version that crun 1.8 knows.
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/bin", "HOME=/root"],
            "cwd": "/",
            "capabilities": capabilities(&["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]),
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs"},
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=1m"]),
            mount("/dev/pts", "devpts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777"]),
        ],
        "linux": {
            "cgroupsPath": cgroups_path,
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"}
            ],
        }
    });
    if let Caller::User(id) = caller {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.push(json!({"type": "user"}));
        for field in ["uidMappings", "gidMappings"] {
            config["linux"][field] = json!([{"containerID": 0, "hostID": id, "size": 1}]);
        }
    }
    config
}

fn capabilities(names: &[&str]) -> Value {
    json!({"bounding": names, "effective": names, "permitted": names})
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

fn set(config: &mut Value, pointer: &str, value: Value) {
    let mut place = config;
    for key in pointer.split('/').skip(1) {
        if key == "-" {
            if place.is_null() {
                *place = json!([]);
            }
            let list = place.as_array_mut().expect("a list");
            list.push(Value::Null);
            place = list.last_mut().expect("the last");
        } else if place.is_array() {
            place = &mut place[key.parse::<usize>().expect("an index")];
        } else {
            place = &mut place[&key.replace("~1", "/")];
        }
    }
    *place = value;
}

/// Gives a tree to a user.
pub(crate) fn give(path: &Path, id: u32) {
    lchown(path, Some(id), Some(id)).expect("chown");
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).expect("a directory").flatten() {
            give(&entry.path(), id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_set_replaced_or_appended() {
        let mut value = json!({"a": {"b": 1}, "l": [1]});
        set(&mut value, "/a/b", json!(2));
        set(&mut value, "/a/net~1x", json!(3));
        set(&mut value, "/l/-", json!(2));
        set(&mut value, "/new/list/-", json!("x"));
        let expected = json!({"a": {"b": 2, "net/x": 3}, "l": [1, 2], "new": {"list": ["x"]}});
        assert_eq!(value, expected);
    }
}
