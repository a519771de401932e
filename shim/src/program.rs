//! The program's beginning: what was typed, and which of its parts that is.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::Command;

use anyhow::{Context as _, Error, Result};
use ferrun::Buses;
use ferrun::error::message;
use ferrun::sys::arguments::Arguments;
use ferrun::sys::close_others;
use prost::Message as _;

use crate::bootstrap::Typed;
use crate::messages::{Any, RuntimeInfo, RuntimeVersion};
use crate::server::{Server, Settings};
use crate::{apart, delete, log, start};

/// What this is called.
const NAME: &str = "io.containerd.ferrun.v2";
/// The type of what the runtime can do.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Whether the program was executed as the command that makes containers.
pub fn is_command(arguments: Arguments) -> bool {
    arguments.iter().next() == Some(OsStr::new("ferrun"))
}

/// Runs what was typed; `commit` is that of the sources. Returns the exit code.
pub fn main(arguments: Arguments, commit: &str) -> i32 {
    let words = arguments.iter().skip(1).map(|word| word.to_string_lossy().into_owned());
    match Typed::read(words).map_err(Error::msg).and_then(|typed| run(&typed, commit)) {
        Ok(answer) => i32::from(std::io::stdout().lock().write_all(&answer).is_err()),
        Err(error) => {
            let line = format!("containerd-shim-ferrun-v2: {}\n", message(&error));
            let _ = std::io::stderr().write_all(line.as_bytes());
            1
        }
    }
}

fn run(typed: &Typed, commit: &str) -> Result<Vec<u8>> {
    let version = env!("CARGO_PKG_VERSION");
    if typed.version {
        let text =
            format!("containerd-shim-ferrun-v2:\n  Version:  {version}\n  Revision: {commit}\n");
        return Ok(text.into_bytes());
    }
    if typed.info {
        return info(version, commit);
    }
    match typed.action.as_deref() {
        Some("start") => start::start(typed),
        Some("delete") => delete::delete(typed),
        Some(action @ (apart::MOUNT | apart::UNMOUNT)) => apart::run(action).map(|()| Vec::new()),
        Some(other) => Err(Error::msg(format!("{other:?}: there is no such action"))),
        None => serve(typed).map(|()| Vec::new()),
    }
}

fn serve(typed: &Typed) -> Result<()> {
    let _ = close_others(3, 0, &[]);
    // It stays open by that number too, which nothing that is opened later can take.
    let listener = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3);
    let listener: OwnedFd = listener.context("stdin: the socket")?;
    log::begin(OsStr::new("log"), typed.debug);
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let settings = Settings {
        namespace: typed.needed("namespace").map_err(Error::msg)?.to_owned(),
        events: typed.value("events").to_owned(),
        socket: typed.needed("socket").map_err(Error::msg)?.into(),
        buses: Buses {
            system: variable("DBUS_SYSTEM_BUS_ADDRESS"),
            session: variable("DBUS_SESSION_BUS_ADDRESS"),
            runtime_directory: variable("XDG_RUNTIME_DIR").map(Into::into),
        },
    };
    let served = Server::new(settings, listener).and_then(Server::serve);
    if let Err(error) = &served {
        log::warn(message(error));
    }
    served
}

/// What this is, and what the runtime in it can do.
fn info(version: &str, commit: &str) -> Result<Vec<u8>> {
    let mut given = Vec::new();
    let _ = std::io::stdin().lock().take(10 << 20).read_to_end(&mut given);
    let mut command = Command::new("/proc/self/exe");
    std::os::unix::process::CommandExt::arg0(&mut command, "ferrun");
    let features = command.arg("features").output().context("features")?.stdout;
    let info = RuntimeInfo {
        name: NAME.to_owned(),
        version: Some(RuntimeVersion { version: version.to_owned(), revision: commit.to_owned() }),
        options: Any::decode(given.as_slice()).ok().filter(|any| !any.type_url.is_empty()),
        features: Some(Any { type_url: FEATURES.to_owned(), value: features }),
        ..Default::default()
    };
    Ok(info.encode_to_vec())
}
