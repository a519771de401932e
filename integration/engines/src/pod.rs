//! Pods by `crictl`, which calls containerd as Kubernetes' node agent does.

use std::path::Path;

use serde_json::{Value, json};

use crate::containerd::Containerd;
use crate::{Answer, runtime_name};

const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";

/// A pod at work.
#[derive(Debug)]
pub struct Pod<'test> {
    daemon: &'test Containerd<'test>,
    /// Its ID.
    pub id: String,
    config: String,
}

impl<'test> Pod<'test> {
    /// Makes a pod, with `more` in its configuration.
    #[track_caller]
    pub fn run(daemon: &'test Containerd<'test>, name: &str, more: &Value) -> Self {
        Self::by(daemon, runtime_name(), name, more)
    }

    /// Makes a pod by a runtime of the daemon's.
    #[track_caller]
    pub fn by(daemon: &'test Containerd<'test>, handler: &str, name: &str, more: &Value) -> Self {
        let bed = &daemon.place.bed;
        let mut config = json!({
            "metadata": {"name": name, "namespace": "tests", "uid": name, "attempt": 1},
            "log_directory": bed.directory,
            "linux": {},
        });
        merge(&mut config, more);
        config["linux"]["cgroup_parent"] = format!("/{}", bed.name).into();
        let file = bed.write(&format!("pod-{name}.json"), &config.to_string());
        let config = file.display().to_string();
        let id = daemon
            .place
            .sh(&format!("crictl runp --runtime {handler} {config}"))
            .succeeds()
            .text()
            .to_owned();
        Self { daemon, id, config }
    }

    /// Starts a container, with `more` in its configuration. Returns its ID.
    #[track_caller]
    pub fn start(&self, name: &str, command: &[&str], more: &Value) -> String {
        self.start_from(BUSYBOX, "--with-pull", name, command, more)
    }

    /// Starts a container from an archive that `crictl checkpoint` has made of another one with
    /// the same program.
    #[track_caller]
    pub fn restore(&self, archive: &Path, name: &str, command: &[&str], more: &Value) -> String {
        self.start_from(&archive.display().to_string(), "", name, command, more)
    }

    #[track_caller]
    fn start_from(
        &self,
        image: &str,
        options: &str,
        name: &str,
        command: &[&str],
        more: &Value,
    ) -> String {
        let mut config = json!({
            "metadata": {"name": name},
            "image": {"image": image},
            "command": command,
            "log_path": format!("{name}.log"),
            "linux": {},
        });
        merge(&mut config, more);
        let file = self.daemon.place.bed.write(&format!("{name}.json"), &config.to_string());
        let line = format!("create {options} {} {} {}", self.id, file.display(), self.config);
        let id = self.crictl(&line).succeeds().text().to_owned();
        self.crictl(&format!("start {id}")).prints(&id);
        id
    }

    /// A call of `crictl`.
    #[track_caller]
    pub fn crictl(&self, line: &str) -> Answer<'test> {
        self.daemon.place.sh(&format!("crictl {line}"))
    }

    /// What `crictl inspect` says of a container, by a JSON pointer.
    #[track_caller]
    pub fn inspect(&self, id: &str, pointer: &str) -> Value {
        let output = self.crictl(&format!("inspect {id}")).output;
        let value: Value = serde_json::from_str(output.success()).expect("JSON");
        value.pointer(pointer).cloned().unwrap_or_default()
    }

    /// Its address in the network of pods.
    #[track_caller]
    pub fn address(&self) -> String {
        let output = self.crictl(&format!("inspectp {}", self.id)).output;
        let value: Value = serde_json::from_str(output.success()).expect("JSON");
        value["status"]["network"]["ip"].as_str().unwrap_or_default().to_owned()
    }

    /// Stops it and all its containers, and forgets them.
    #[track_caller]
    pub fn remove(self) {
        let Self { id, .. } = &self;
        // As Kubernetes does: 1.6 fails where the container's shim ends at the same moment.
        self.crictl(&format!("stopp {id} || crictl stopp {id}")).succeeds();
        self.crictl(&format!("rmp {id} || crictl rmp {id}")).succeeds();
        self.crictl(&format!("pods --quiet --id {id}")).prints("");
    }
}

/// Puts `more` into an object, and into the objects in it.
pub fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (_, Value::Null) => {}
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}
