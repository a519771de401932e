//! `kill`: a signal to the init process.

use std::str::FromStr as _;

use anyhow::{Context as _, Error, Result, bail};
use clap::ArgMatches;
use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::Global;
use crate::cgroups;
use crate::cli::{id_of, text_of};
use crate::error::Kind;
use crate::log;
use crate::store::{Container, Operation, Status};
use crate::sys;

/// Runs the verb.
pub fn run(matches: &ArgMatches, global: &Global) -> Result<()> {
    let number = signal_number(&text_of(matches, "signal").unwrap_or_else(|| "SIGTERM".into()))?;
    let container = global.store.load(id_of(matches))?;
    if matches.get_flag("all") {
        return signal_all(&container, number);
    }
    let status = container.status()?;
    let kills_others = number == libc::SIGKILL && !container.record.own_pids;
    if kills_others && status == Status::Stopped {
        return kill_left(&container);
    }
    status.check(Operation::Kill)?;
    let Some(init) = container.open_init()? else { return Err(not_running()) };
    let group = &container.record.group;
    log::debug(|| {
        let pid = container.record.init.map_or(0, |init| init.pid);
        format!("signal {number} to init, process {pid}, of a container that is {}", status.name())
    });
    match sys::process::pidfd_send_signal(&init, number) {
        Ok(()) => {}
        Err(Errno::ESRCH) => return Err(not_running()),
        Err(errno) => return Err(errno).context("kill"),
    }
    if kills_others {
        log::debug(|| format!("SIGKILL to all in {}", group.paths()));
        // The others do not end with init.
        cgroups::kill_all(group)?;
    } else if number == libc::SIGKILL
        && (status == Status::Paused || cgroups::has_freezers_below(group)?)
    {
        log::debug(|| format!("{}: thawed, so that who is frozen can die", group.paths()));
        // On cgroup v1 a frozen process cannot die.
        cgroups::thaw_all(group)?;
    }
    Ok(())
}

fn not_running() -> Error {
    Kind::WrongState.error("container not running")
}

/// Also what the end of init has left behind; nothing left is no error.
fn signal_all(container: &Container, number: i32) -> Result<()> {
    if number == 0 {
        return Ok(());
    }
    let group = cgroups::kept(&container.record.group, &container.directory)?;
    let signal = rustix::process::Signal::from_named_raw(number)
        .with_context(|| format!("--all: signal {number} has no name"))?;
    log::debug(|| format!("signal {number} to all in {}", group.paths()));
    cgroups::signal_all(&group, signal)
}

/// Ends the processes that do not end with init, and have not.
fn kill_left(container: &Container) -> Result<()> {
    let left = cgroups::kept(&container.record.group, &container.directory)?;
    if cgroups::processes(&left)?.is_empty() {
        return Err(not_running());
    }
    cgroups::kill_all(&left)
}

/// The number of a signal that is given as one, or by name with or without SIG.
fn signal_number(text: &str) -> Result<i32> {
    if let Ok(number) = text.parse::<i32>() {
        if (0..=libc::SIGRTMAX()).contains(&number) {
            return Ok(number);
        }
        bail!("unknown signal {text:?}");
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    if let Ok(signal) = Signal::from_str(&name) {
        return Ok(signal as i32);
    }
    real_time(&name).with_context(|| format!("unknown signal {text:?}"))
}

/// SIGRTMIN+n and SIGRTMAX-n, which stop signals of images may be.
fn real_time(name: &str) -> Option<i32> {
    let number = if let Some(rest) = name.strip_prefix("SIGRTMIN") {
        libc::SIGRTMIN() + if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse().ok()? }
    } else {
        let rest = name.strip_prefix("SIGRTMAX")?;
        libc::SIGRTMAX() - if rest.is_empty() { 0 } else { rest.strip_prefix('-')?.parse().ok()? }
    };
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers_and_names() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("term", 15),
            ("0", 0),
            ("37", 37),
            ("SIGRTMIN+3", 37),
        ] {
            assert_eq!(signal_number(text).unwrap(), number, "{text}");
        }
        for wrong in ["", "SIG", "BOGUS", "65", "-1", "SIGRTMIN+99", "9x"] {
            assert!(signal_number(wrong).is_err(), "{wrong}");
        }
    }
}
