//! `state`, and the object that it and `list` print.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::ArgMatches;
use serde::Serialize;

use super::{Global, print_json};
use crate::bundle::OCI_VERSION;
use crate::cli::id_of;
use crate::state::{Container, Status};

/// What runc prints, key by key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StateJson {
    oci_version: &'static str,
    pub id: String,
    /// 0 when stopped.
    pub pid: i32,
    pub status: &'static str,
    pub bundle: PathBuf,
    rootfs: PathBuf,
    pub created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    pub owner: String,
}

impl StateJson {
    /// The state of a container now. `owner` is a name for `list`, empty for `state`.
    pub fn new(container: Container, owner: String) -> Result<Self> {
        let status = container.status()?;
        let record = container.record;
        let pid = match status {
            Status::Stopped => 0,
            _ => record.init.map_or(0, |init| init.pid),
        };
        Ok(Self {
            oci_version: OCI_VERSION,
            id: record.id,
            pid,
            status: status.name(),
            bundle: record.bundle,
            rootfs: record.rootfs,
            created: record.created,
            annotations: record.annotations,
            owner,
        })
    }
}

/// Runs the verb.
pub fn run(matches: &ArgMatches, global: &Global) -> Result<()> {
    let container = global.store.load(id_of(matches))?;
    print_json(&StateJson::new(container, String::new())?, "  ")
}
