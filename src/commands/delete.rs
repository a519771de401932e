//! `delete`: what `create` made, and the ID.

use anyhow::{Context as _, Error, Result};
use clap::ArgMatches;

use super::Global;
use crate::cli::id_of;
use crate::destroy;
use crate::error::{Kind, errno};
use crate::host;
use crate::plan::request::{CgroupMaker, Cgroups};
use crate::store::{Operation, Remembered, Status};

/// The switch for the rule of the spec that no caller can live with: `delete` of a
/// created container is an error (runtime.md#delete).
const STRICT: &str = "FERRUN_STRICT_SPEC";

/// Runs the verb.
pub fn run(matches: &ArgMatches, global: &Global) -> Result<()> {
    let id = id_of(matches);
    let force = matches.get_flag("force");
    let container = match force {
        true => match global.store.find(id)? {
            Remembered::Own(container) => container,
            Remembered::Foreign(directory, foreign) => {
                // Its group is that of a file system, whoever makes new ones.
                let cgroups = Cgroups { maker: CgroupMaker::Runtime, ..global.cgroups };
                let host = host::gather(cgroups, &global.buses)?;
                let (layout, access) = (&host.cgroups, &cgroups.access(&host));
                return destroy::destroy_foreign(&directory, &foreign, layout, access)
                    .with_context(|| format!("container {id:?} {}", foreign.maker));
            }
            // Cut short before it was written down, and so before anything was made.
            Remembered::Begun(directory) => return destroy::remove_directory(&directory),
            Remembered::None => return Ok(()),
        },
        false => global.store.load(id)?,
    };
    if !force {
        let status = container.status()?;
        if let Err(error) = status.check(Operation::Delete) {
            if status == Status::Creating {
                return Err(error);
            }
            return Err(not_stopped(id, status));
        }
        let strict = std::env::var_os(STRICT).is_some_and(|value| value == "1");
        if strict && status == Status::Created {
            return Err(not_stopped(id, status));
        }
    }
    match destroy::destroy(&container) {
        // Somebody else deletes it too, and was faster.
        Err(error) if force && errno(&error) == Some(libc::ENOENT) => Ok(()),
        destroyed => destroyed,
    }
}

fn not_stopped(id: &str, status: Status) -> Error {
    let name = status.name();
    Kind::WrongState.error(format!("cannot delete container {id} that is not stopped: {name}"))
}
