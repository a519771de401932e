//! `state`: what is known of a container, as JSON.

use anyhow::Result;

use super::{Global, print_json};
use crate::cli::Given;

/// Runs the verb.
pub fn run(given: &Given, global: &Global) -> Result<()> {
    let container = global.store.load(given.id())?;
    print_json(&container.state(String::new())?, "  ")
}
