//! Handing the listener of a notifying filter to the agent that answers for the
//! kernel (config-linux.md#seccomp, listenerPath).

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::bundle::OCI_VERSION;
use crate::channel::unix_socket::{dial, send_descriptor};
use crate::store::{Container, Status};

/// Connects to the agent, sends the listener with the state of the process that
/// it belongs to, and closes the connection: one state for each. `status` is the container's.
pub fn hand_over(
    container: &Container,
    pid: i32,
    status: Status,
    listener: &OwnedFd,
) -> Result<()> {
    let spec = container.config()?;
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let Some(seccomp) = seccomp else { bail!("linux.seccomp: missing") };
    let Some(path) = seccomp.listener_path() else { bail!("linux.seccomp.listenerPath: missing") };
    let metadata = seccomp.listener_metadata().as_deref().unwrap_or_default();
    let state = process_state(container, pid, status, metadata)?;
    send(path, listener, &state).with_context(|| format!("linux.seccomp.listenerPath: {path:?}"))
}

fn send(path: &Path, listener: &OwnedFd, state: &str) -> Result<()> {
    let agent = dial(path).context("failed to connect with seccomp agent")?;
    send_descriptor(&agent, listener, state.as_bytes()).context("send the listener")
}

/// config-linux.md#the-container-process-state
fn process_state(
    container: &Container,
    pid: i32,
    status: Status,
    metadata: &str,
) -> Result<String> {
    let init = container.record.init.map_or(0, |init| init.pid);
    let state: Value = serde_json::from_str(&container.record.identity().for_hooks(status, init))?;
    let mut process = json!({
        "ociVersion": OCI_VERSION,
        "fds": ["seccompFd"],
        "pid": pid,
        "state": state,
    });
    if !metadata.is_empty() {
        process["metadata"] = metadata.into();
    }
    Ok(process.to_string())
}
