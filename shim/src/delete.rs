//! `delete`: what a program that is gone has left of a container. containerd calls it after each
//! life, also a good one: then there is nothing to do, and that is seen by a few looks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Error, Result};
use ferrun::Runtime;
use ferrun::error::message;
use prost::Message as _;
use serde::Deserialize;
use serde_json::Value;

use crate::bootstrap::Typed;
use crate::messages::{DeleteResponse, Timestamp};
use crate::server::{EXIT, OPTIONS, PID_FILE, root_of, today};
use crate::start::{ADDRESS, remove_dead};

/// What a container has ended with that had to be ended.
const KILLED: u32 = 128 + 9;

/// How long a program may listen after it has hung up.
const LAST_BREATH: Duration = Duration::from_millis(500);

/// What the program has kept of the options.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Options {
    root: String,
}

/// How the init process has ended, as the program has kept it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Exit {
    pid: u32,
    status: u32,
    seconds: i64,
    nanos: i32,
}

/// Removes what is left. Returns what containerd is to read.
///
/// # Errors
/// Where it is not said what.
pub fn delete(typed: &Typed) -> Result<Vec<u8>> {
    let needed = |name| typed.needed(name).map_err(Error::msg);
    let (id, namespace) = (needed("id")?, needed("namespace")?);
    let bundle = match typed.value("bundle") {
        // This is the directory of a bundle, for a pod that of any of its containers.
        "" => {
            let here = std::env::current_dir().context("the working directory")?;
            here.parent().unwrap_or(&here).join(id)
        }
        bundle => PathBuf::from(bundle),
    };
    let options: Options = read_json(&bundle.join(OPTIONS)).unwrap_or_default();
    let root = root_of(&options.root, namespace);
    let is_left = root.join(id).exists();
    if is_left {
        let removed = Runtime::new("/proc/self/exe", &root).and_then(|all| all.delete(id, true));
        if let Err(error) = removed {
            warn(&error.to_string());
        }
    }
    if let Err(error) = crate::mounts::unmount_all(&bundle.join("rootfs")) {
        warn(&message(&error));
    }
    if let Ok(address) = fs::read_to_string(bundle.join(ADDRESS)) {
        let address = address.trim();
        // Of a program that was killed the kernel closes connections first, and containerd is quick.
        let patience = if is_left { LAST_BREATH } else { Duration::ZERO };
        remove_dead(Path::new(address.strip_prefix("unix://").unwrap_or(address)), patience);
    }
    Ok(how_it_ended(&bundle).encode_to_vec())
}

fn how_it_ended(bundle: &Path) -> DeleteResponse {
    if let Some(Exit { pid, status, seconds, nanos }) = read_json(&bundle.join(EXIT)) {
        let at = Timestamp { seconds, nanos };
        return DeleteResponse { pid, exit_status: status, exited_at: Some(at) };
    }
    let pid = fs::read_to_string(bundle.join(PID_FILE)).ok();
    let pid = pid.and_then(|pid| pid.trim().parse().ok()).unwrap_or_default();
    DeleteResponse { pid, exit_status: KILLED, exited_at: Some(today()) }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Says what could not be done; containerd writes it to its log.
fn warn(message: &str) {
    eprintln!("{}", Value::from(message));
}
