//! `start`: the program of a created container.

use anyhow::Result;

use super::{Global, service_manager};
use crate::cli::Given;

/// Runs the verb.
pub fn run(given: &Given, global: &Global) -> Result<()> {
    let container = global.store.load(given.id())?;
    crate::start::start(&container, service_manager().as_deref())
}
