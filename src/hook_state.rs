//! The state of a container as hooks read it from stdin and `state` prints it
//! (runtime.md#state).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::bundle::OCI_VERSION;
use crate::state::Status;

/// What does not change about the state from one hook to the next.
#[derive(Debug, Clone, Copy)]
pub struct HookState<'a> {
    /// The container's ID.
    pub id: &'a str,
    /// The absolute path of the bundle.
    pub bundle: &'a Path,
    /// The configuration's annotations.
    pub annotations: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: &'a Path,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

impl HookState<'_> {
    /// The state as JSON. `pid` is the init process as the hook sees it; 0: none.
    pub fn json(&self, status: Status, pid: i32) -> String {
        let json = Json {
            oci_version: OCI_VERSION,
            id: self.id,
            status: status.name(),
            pid: (pid != 0).then_some(pid),
            bundle: self.bundle,
            annotations: self.annotations,
        };
        // Strings and numbers always make JSON; only a bundle path that is not UTF-8 does not.
        serde_json::to_string(&json).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_container_has_no_pid() {
        let annotations = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let state = HookState { id: "c", bundle: Path::new("/b"), annotations: &annotations };
        assert_eq!(
            state.json(Status::Stopped, 0),
            r#"{"ociVersion":"1.3.0","id":"c","status":"stopped","bundle":"/b","annotations":{"k":"v"}}"#
        );
        assert!(state.json(Status::Created, 7).contains(r#""pid":7"#));
    }
}
