//! `create`: everything but the program.

use anyhow::Result;
use clap::ArgMatches;

use super::Global;
use crate::cli::{MOST_DESCRIPTORS, id_of, path_of};
use crate::create::{self, Options};

/// Runs the verb.
pub fn run(matches: &ArgMatches, global: &Global) -> Result<()> {
    create::create(&global.store, id_of(matches), &options(matches, global)).map(drop)
}

/// How many sockets systemd has passed to this very process (sd_listen_fds(3)).
fn listening() -> u32 {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(sockets)) if pid == std::process::id() => sockets.min(MOST_DESCRIPTORS),
        _ => 0,
    }
}

/// The options that `create` and `run` share.
pub fn options(matches: &ArgMatches, global: &Global) -> Options {
    Options {
        bundle: path_of(matches, "bundle").unwrap_or_else(|| ".".into()),
        config: path_of(matches, "config"),
        console_socket: path_of(matches, "console-socket"),
        pidfd_socket: path_of(matches, "pidfd-socket"),
        pid_file: path_of(matches, "pid-file"),
        preserved: matches.get_one("preserve-fds").copied().unwrap_or(0),
        new_keyring: !matches.get_flag("no-new-keyring"),
        no_pivot: matches.get_flag("no-pivot"),
        rootless: global.rootless,
        without_cgroups: global.without_cgroups,
        systemd: global.systemd.clone(),
        listening: listening(),
        stays: false,
        serves_terminal: false,
    }
}
