//! The state of a container as JSON (runtime.md#state): hooks and agents read it, `state` and
//! `list` print it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::lifecycle::Status;
use crate::bundle::OCI_VERSION;

/// What does not change about the state.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// The container's ID.
    pub id: &'a str,
    /// The absolute path of the bundle.
    pub bundle: &'a Path,
    /// The configuration's annotations.
    pub annotations: &'a BTreeMap<String, String>,
}

/// The state, key by key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StateJson<'a> {
    oci_version: &'static str,
    /// The container's ID.
    pub id: &'a str,
    /// The init process. Hooks get none where there is none, callers get 0 as from runc.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The name of the status.
    pub status: &'static str,
    /// The absolute path of the bundle.
    pub bundle: &'a Path,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    /// What callers get besides.
    #[serde(flatten)]
    pub more: Option<More<'a>>,
}

/// What runc prints besides what the specification asks for.
#[derive(Debug, Serialize)]
pub struct More<'a> {
    /// The absolute path of the root on the host.
    pub rootfs: &'a Path,
    /// When the container was created.
    pub created: &'a str,
    /// A name of who created it for `list`, empty for `state`.
    pub owner: String,
}

impl<'a> Identity<'a> {
    /// The state for hooks. `pid` is the init process as the hook sees it; 0: none.
    pub fn for_hooks(&self, status: Status, pid: i32) -> String {
        let state = self.with(status, (pid != 0).then_some(pid), None);
        // Strings and numbers always make JSON; only a bundle path that is not UTF-8 does not.
        serde_json::to_string(&state).unwrap_or_default()
    }

    /// The state for callers. `pid` is 0 where nothing runs.
    pub fn for_callers(&self, status: Status, pid: i32, more: More<'a>) -> StateJson<'a> {
        self.with(status, Some(pid), Some(more))
    }

    fn with(&self, status: Status, pid: Option<i32>, more: Option<More<'a>>) -> StateJson<'a> {
        let Self { id, bundle, annotations } = *self;
        let (oci_version, status) = (OCI_VERSION, status.name());
        StateJson { oci_version, id, pid, status, bundle, annotations, more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_and_callers_read_the_same_but_for_what_only_runc_prints() {
        let annotations = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let identity = Identity { id: "c", bundle: Path::new("/b"), annotations: &annotations };
        assert_eq!(
            identity.for_hooks(Status::Stopped, 0),
            r#"{"ociVersion":"1.3.0","id":"c","status":"stopped","bundle":"/b","annotations":{"k":"v"}}"#
        );
        let told: serde_json::Value =
            serde_json::from_str(&identity.for_hooks(Status::Created, 7)).unwrap();
        let more = More { rootfs: Path::new("/r"), created: "now", owner: String::new() };
        let printed = identity.for_callers(Status::Created, 7, more);
        let mut printed = serde_json::to_value(printed).unwrap();
        for (name, value) in [("rootfs", "/r"), ("created", "now"), ("owner", "")] {
            assert_eq!(printed.as_object_mut().unwrap().remove(name).unwrap(), value);
        }
        assert_eq!(printed, told);
        let more = More { rootfs: Path::new("/r"), created: "now", owner: String::new() };
        let stopped = identity.for_callers(Status::Stopped, 0, more);
        assert_eq!(serde_json::to_value(stopped).unwrap()["pid"], 0);
    }
}
