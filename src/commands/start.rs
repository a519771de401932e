//! `start`: the program of a created container.

use anyhow::Result;
use clap::ArgMatches;

use super::Global;
use crate::cli::id_of;

/// Runs the verb.
pub fn run(matches: &ArgMatches, global: &Global) -> Result<()> {
    crate::start::start(&global.store.load(id_of(matches))?)
}
