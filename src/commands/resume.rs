//! `resume`: let the processes of a paused container run.

use anyhow::Result;

use super::{Global, while_allowed};
use crate::cgroups;
use crate::cli::Given;
use crate::store::Operation;

/// Runs the verb.
pub fn run(given: &Given, global: &Global) -> Result<()> {
    let container = global.store.load(given.id())?;
    while_allowed(global, &container, Operation::Resume, || cgroups::thaw(&container.record.group))
}
