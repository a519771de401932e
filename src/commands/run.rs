//! `run`: create and start, and unless detached wait for the end and delete.

use anyhow::{Context as _, Result};

use super::{Global, create::options, service_manager};
use crate::cli::Given;
use crate::create::{self, CreateOptions};
use crate::foreground::Watch;
use crate::handover::sd_notify::Relay;
use crate::{destroy, start};

/// Runs the verb. The exit code is the program's, unless detached.
pub fn run(given: &Given, global: &Global) -> Result<i32> {
    let detach = given.has("detach");
    let keep = given.has("keep");
    let args = given.texts("args");
    let options = CreateOptions { args, stays: true, ..options(given, global, !detach) };
    let watch = if detach { None } else { Some(Watch::new(!given.has("no-subreaper"))?) };
    let mut created = create::create(&global.store, given.id(), &options)?;
    let relay = match Relay::listen(&created.container, service_manager().as_deref()) {
        Ok(relay) => relay,
        Err(error) => {
            destroy::after_failure(&created.container);
            return Err(error);
        }
    };
    start::start_created(&created)?;
    let Some(watch) = watch else {
        if let Some(relay) = relay {
            relay.serve(&created.init.pidfd, Some(created.init.pid.as_raw()))?;
        }
        return Ok(0);
    };
    if let Some(relay) = relay {
        // Ends with the program, or with this process.
        let init = created.init.pidfd.try_clone().context("dup")?;
        std::thread::spawn(move || relay.serve(init, None));
    }
    let code = watch.serve(&created.init, created.master.take())?;
    if !keep {
        destroy::destroy(&created.container)?;
    }
    // This process ends now, which gives all of them back at once.
    std::mem::forget((watch, created));
    Ok(code)
}
