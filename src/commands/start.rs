//! `start`: the program of a created container.

use anyhow::Result;
use clap::ArgMatches;

use super::{Global, service_manager};
use crate::cli::id_of;

/// Runs the verb.
pub fn run(matches: &ArgMatches, global: &Global) -> Result<()> {
    let container = global.store.load(id_of(matches))?;
    crate::start::start(&container, service_manager().as_deref())
}
