//! `state`: what is known of a container, as JSON.

use anyhow::Result;
use clap::ArgMatches;

use super::{Global, print_json};
use crate::cli::id_of;

/// Runs the verb.
pub fn run(matches: &ArgMatches, global: &Global) -> Result<()> {
    let container = global.store.load(id_of(matches))?;
    print_json(&container.state(String::new())?, "  ")
}
