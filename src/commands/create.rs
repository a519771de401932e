//! `create`: everything but the program.

use anyhow::Result;

use super::{Global, hand_over_terminal, handover, service_manager, streams};
use crate::cli::{Given, MOST_DESCRIPTORS};
use crate::create::{self, CreateOptions};
use crate::plan::request::Streams;

/// Runs the verb.
pub fn run(given: &Given, global: &Global) -> Result<()> {
    let options = options(given, global, false);
    let created = create::create(&global.store, given.id(), &options)?;
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
pub fn options(given: &Given, global: &Global, in_foreground: bool) -> CreateOptions {
    CreateOptions {
        bundle: given.path("bundle").unwrap_or_else(|| ".".into()),
        config: given.path("config"),
        args: Vec::new(),
        cgroups: global.cgroups,
        buses: global.buses.clone(),
        streams: Streams { listening: listening(), ..streams(given, global, in_foreground) },
        keeps_keyring: given.has("no-new-keyring"),
        no_pivot: given.has("no-pivot"),
        notifies: service_manager().is_some(),
        handover: handover(given, global),
        stays: false,
        alone: global.alone,
    }
}
