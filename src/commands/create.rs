//! `create`: everything but the program.

use anyhow::Result;
use clap::ArgMatches;

use super::{Global, hand_over_terminal, handover, service_manager, streams};
use crate::cli::{MOST_DESCRIPTORS, id_of, path_of};
use crate::create::{self, CreateOptions};
use crate::plan::request::Streams;

/// Runs the verb.
pub fn run(matches: &ArgMatches, global: &Global) -> Result<()> {
    let options = options(matches, global, false);
    let created = create::create(&global.store, id_of(matches), &options)?;
    hand_over_terminal(global, created.master)
}

/// How many sockets systemd has passed to this very process (sd_listen_fds(3)).
fn listening() -> u32 {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(sockets)) if pid == std::process::id() => sockets.min(MOST_DESCRIPTORS),
        _ => 0,
    }
}

/// The options that `create` and `run` share. `in_foreground`: the caller stays until the
/// program ends.
pub fn options(matches: &ArgMatches, global: &Global, in_foreground: bool) -> CreateOptions {
    CreateOptions {
        bundle: path_of(matches, "bundle").unwrap_or_else(|| ".".into()),
        config: path_of(matches, "config"),
        args: Vec::new(),
        cgroups: global.cgroups,
        buses: global.buses.clone(),
        streams: Streams { listening: listening(), ..streams(matches, global, in_foreground) },
        keeps_keyring: matches.get_flag("no-new-keyring"),
        no_pivot: matches.get_flag("no-pivot"),
        notifies: service_manager().is_some(),
        handover: handover(matches, global),
        stays: false,
        alone: global.alone,
    }
}
