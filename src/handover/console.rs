//! The way of a terminal's master side to whoever will serve it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::channel::unix_socket::{dial, send_descriptor};
use crate::plan::process::ProcessPlan;

/// Connects to the socket that is to get the master side, if one is, before anything is
/// made that a dead socket would leave behind.
pub fn connect(process: Option<&ProcessPlan>) -> Result<Option<OwnedFd>> {
    let socket = process.and_then(|process| process.terminal.as_ref()?.socket.as_ref());
    let connect =
        |path: &PathBuf| dial(path).with_context(|| format!("--console-socket: {path:?}"));
    socket.map(connect).transpose()
}

/// Gives the master side to whoever serves the terminal: returns it where that is the caller.
/// Beside it goes the name that receivers expect.
pub fn deliver(socket: Option<&OwnedFd>, master: OwnedFd) -> Result<Option<OwnedFd>> {
    let Some(socket) = socket else { return Ok(Some(master)) };
    send_descriptor(socket, master, b"/dev/ptmx").context("--console-socket: send the terminal")?;
    Ok(None)
}
