//! What this program has to know of a container's configuration. The runtime reads it all.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The annotations by which containers share a program, the first that is there.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// Those parts of config.json.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Config {
    annotations: Option<BTreeMap<String, String>>,
    hooks: Option<BTreeMap<String, Option<Vec<Anything>>>>,
    linux: Option<Linux>,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    cgroups_path: String,
    namespaces: Option<Vec<Namespace>>,
    seccomp: Option<Seccomp>,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Namespace {
    r#type: String,
    path: String,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Seccomp {
    listener_path: String,
}

/// Something that is not looked at.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Anything(IgnoredAny);

impl PartialEq for Anything {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Anything {}

impl Config {
    /// That of a bundle.
    ///
    /// # Errors
    /// Where there is none, or it is none.
    pub fn of(bundle: &Path) -> Result<Self> {
        let path = bundle.join("config.json");
        let text = std::fs::read(&path).with_context(|| format!("{path:?}"))?;
        serde_json::from_slice(&text).with_context(|| format!("{path:?}"))
    }

    /// The name of the containers that share a program with this one, if there is one.
    pub fn group(&self) -> Option<&str> {
        let annotations = self.annotations.as_ref()?;
        GROUPS.iter().find_map(|name| annotations.get(*name)).map(String::as_str)
    }

    /// Whether its processes end with its init.
    pub fn has_own_pids(&self) -> bool {
        let namespaces = self.linux.as_ref().and_then(|linux| linux.namespaces.as_ref());
        namespaces.is_some_and(|namespaces| {
            namespaces.iter().any(|one| one.r#type == "pid" && one.path.is_empty())
        })
    }

    /// Whether its group is told as systemd's driver wants it, `SLICE:PREFIX:NAME`.
    pub fn names_a_unit(&self) -> bool {
        let path = self.linux.as_ref().map_or("", |linux| linux.cgroups_path.as_str());
        let mut parts = path.split(':');
        let slice = parts.next().unwrap_or_default();
        let is_slice = slice.ends_with(".slice") || slice.is_empty() || slice == "-";
        is_slice && !slice.contains('/') && parts.count() == 2
    }

    /// Whether others decide how long it takes to start or to remove it.
    pub fn depends_on_others(&self) -> bool {
        let has_hooks = self.hooks.as_ref().is_some_and(|hooks| {
            hooks.values().any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
        });
        let seccomp = self.linux.as_ref().and_then(|linux| linux.seccomp.as_ref());
        has_hooks || seccomp.is_some_and(|seccomp| !seccomp.listener_path.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_first_annotation_names_the_group() {
        let both = r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "pod", "x": "y",
            "io.containerd.runc.v2.group": "group"}}"#;
        assert_eq!(config(both).group(), Some("group"));
        let pod = r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}"#;
        assert_eq!(config(pod).group(), Some("pod"));
        assert_eq!(config(r#"{"annotations": null}"#).group(), None);
    }

    #[test]
    fn who_ends_with_init_is_told_by_the_pid_namespace() {
        let with = |text: &str| {
            config(&format!(r#"{{"linux": {{"namespaces": [{text}]}}}}"#)).has_own_pids()
        };
        assert!(with(r#"{"type": "mount"}, {"type": "pid"}"#));
        assert!(!with(r#"{"type": "pid", "path": "/proc/1/ns/pid"}"#));
        assert!(!with(r#"{"type": "mount"}"#) && !config("{}").has_own_pids());
    }

    #[test]
    fn a_unit_has_three_parts() {
        let named = |path: &str| {
            config(&format!(r#"{{"linux": {{"cgroupsPath": "{path}"}}}}"#)).names_a_unit()
        };
        for unit in ["system.slice:docker:1a", "kubepods-pod1.slice:cri-containerd:1a", ":ctr:one"]
        {
            assert!(named(unit), "{unit}");
        }
        for group in ["", "/kubepods/pod1/1a", "default/one", "/a.slice:b:c", "a:b:c", "a.slice:b"]
        {
            assert!(!named(group), "{group}");
        }
        assert!(!config("{}").names_a_unit());
    }

    #[test]
    fn hooks_and_agents_are_others() {
        for (text, depends) in [
            (r#"{"hooks": {"poststop": [{"path": "/bin/true"}]}}"#, true),
            (r#"{"hooks": {"poststop": [], "prestart": null}}"#, false),
            (r#"{"linux": {"seccomp": {"listenerPath": "/run/agent"}}}"#, true),
            (r#"{"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}}"#, false),
            ("{}", false),
        ] {
            assert_eq!(config(text).depends_on_others(), depends, "{text}");
        }
    }
}
