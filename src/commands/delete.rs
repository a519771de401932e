//! `delete`: what `create` made, and the ID.

use anyhow::{Result, bail};
use clap::ArgMatches;

use super::Global;
use crate::cli::id_of;
use crate::destroy;
use crate::error::errno;
use crate::state::{Operation, Status};

/// The switch for the rule of the spec that no caller can live with: `delete` of a
/// created container is an error (runtime.md#delete).
const STRICT: &str = "FERRUN_STRICT_SPEC";

/// Runs the verb.
pub fn run(matches: &ArgMatches, global: &Global) -> Result<()> {
    let id = id_of(matches);
    let force = matches.get_flag("force");
    let container = match global.store.load(id) {
        Ok(container) => container,
        Err(_) if force => {
            // Never there, or a creation that was cut short before it was written
            // down and so before anything was made, or a record that nobody can read.
            return destroy::remove_directory(&global.store.directory(id)?);
        }
        Err(error) => return Err(error),
    };
    if !force {
        let status = container.status()?;
        if let Err(error) = status.check(Operation::Delete) {
            if status == Status::Creating {
                return Err(error);
            }
            bail!("cannot delete container {id} that is not stopped: {}", status.name());
        }
        let strict = std::env::var_os(STRICT).is_some_and(|value| value == "1");
        if strict && status == Status::Created {
            bail!("cannot delete container {id} that is not stopped: {}", status.name());
        }
    }
    match destroy::destroy(&container) {
        // Somebody else deletes it too, and was faster.
        Err(error) if force && errno(&error) == Some(libc::ENOENT) => Ok(()),
        destroyed => destroyed,
    }
}
