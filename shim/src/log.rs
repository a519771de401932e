//! What this program has to say, for the pipe that containerd copies to its own log.
//!
//! Nobody may read it: then it is dropped.

use std::ffi::OsStr;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::write;

#[derive(Debug)]
struct Log {
    pipe: OwnedFd,
    is_verbose: bool,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Opens the pipe, where containerd reads it.
pub fn begin(path: &OsStr, is_verbose: bool) {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    if let Ok(pipe) = open(path, flags, Mode::empty()) {
        let _ = LOG.set(Log { pipe, is_verbose });
    }
}

/// Something was passed over.
pub fn warn(message: impl Display) {
    say("warning", message);
}

/// A step, which is told where containerd asks for it.
pub fn debug<S: Display>(message: impl FnOnce() -> S) {
    if LOG.get().is_some_and(|log| log.is_verbose) {
        say("debug", message());
    }
}

fn say(level: &str, message: impl Display) {
    let Some(log) = LOG.get() else { return };
    let time = ferrun::time::now_rfc3339(0);
    let message = serde_json::Value::from(ferrun::error::one_line(&message.to_string()));
    let line = format!("time=\"{time}\" level={level} msg={message}\n");
    let _ = write(&log.pipe, line.as_bytes());
}
