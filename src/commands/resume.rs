//! `resume`: let the processes of a paused container run.

use anyhow::Result;
use clap::ArgMatches;

use super::{Global, while_allowed};
use crate::cgroups;
use crate::cli::id_of;
use crate::store::Operation;

/// Runs the verb.
pub fn run(matches: &ArgMatches, global: &Global) -> Result<()> {
    let container = global.store.load(id_of(matches))?;
    while_allowed(global, &container, Operation::Resume, || cgroups::thaw(&container.record.group))
}
