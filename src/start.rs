//! From a created container to a running one.

use anyhow::{Context as _, Result, bail};

use crate::apply::hooks;
use crate::channel::ToInit;
use crate::create::Created;
use crate::destroy::destroy;
use crate::gate;
use crate::log;
use crate::state::{Container, Operation, Status};

/// Runs the program of a container that another process created.
pub fn start(container: &Container) -> Result<()> {
    container.check(Operation::Start)?;
    if !container.record.has_process {
        bail!("process: missing: there is no program to start");
    }
    let started = gate::open(container.open_directory()?);
    finish(container, started)
}

/// Runs the program of a container that this process created.
pub fn start_created(created: &Created) -> Result<()> {
    let Some(verdict) = &created.verdict else { bail!("the container waits for start") };
    let started = created
        .channel
        .send(&ToInit::Start)
        .and_then(|()| gate::await_program(&created.channel, verdict));
    finish(&created.container, started)
}

/// After the program runs, or does not: hooks, or the end of the container
/// (runtime.md#lifecycle, 7 to 9).
fn finish(container: &Container, started: Result<()>) -> Result<()> {
    let result = started.and_then(|()| {
        let pid = container.record.init.context("the container has no init process")?.pid;
        // The program may have ended by now; for its hooks it runs.
        let state = container.record.hook_state().json(Status::Running, pid);
        hooks::run(&container.record.poststart, &state)
    });
    if result.is_err()
        && let Err(error) = destroy(container)
    {
        log::warn(format!("while cleaning up: {error:#}"));
    }
    result
}
