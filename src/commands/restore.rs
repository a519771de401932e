//! `restore`: a container of an image, and unless detached wait for its end and delete.

use anyhow::{Context as _, Result};

use super::checkpoint::{IMAGE, flags, is_named};
use super::{Global, console, hand_over_terminal};
use crate::checkpoint::{RestoreOptions, restore};
use crate::cli::Given;
use crate::destroy;
use crate::foreground::Watch;
use crate::handover::Handover;
use crate::plan::checkpoint::restore::{Typed, lsm_profile};
use crate::plan::request::Streams;

/// Runs the verb. The exit code is the program's, unless detached.
pub fn run(given: &Given, global: &Global) -> Result<i32> {
    let detach = given.has("detach");
    let image = match given.path("image-path").filter(|path| is_named(path)) {
        Some(image) => image,
        // It counts from here, and what is named from the bundle: so does runc.
        None => std::path::absolute(IMAGE).context("--image-path")?,
    };
    let options = RestoreOptions {
        image,
        work: given.path("work-path").filter(|path| is_named(path)),
        bundle: given.path("bundle").unwrap_or_else(|| ".".into()),
        cgroups: global.cgroups,
        buses: global.buses.clone(),
        streams: Streams { console: console(given, global, !detach), ..Streams::default() },
        handover: Handover {
            reporter: global.reporter.clone(),
            pid_file: given.path("pid-file"),
            pidfd_socket: None,
        },
        typed: Typed {
            flags: flags(given)?,
            lsm_profile: named(given, "lsm-profile").map(lsm_profile).transpose()?,
            lsm_mount_context: named(given, "lsm-mount-context"),
        },
    };
    let watch = if detach { None } else { Some(Watch::new(!given.has("no-subreaper"))?) };
    let mut restored = restore(&global.store, given.id(), &options)?;
    let Some(watch) = watch else {
        return hand_over_terminal(global, restored.master.take()).map(|()| 0);
    };
    let code = watch.serve(&restored.init, restored.master.take())?;
    destroy::destroy(&restored.container)?;
    Ok(code)
}

/// What an option names; nothing where its text is empty.
fn named(given: &Given, option: &str) -> Option<String> {
    given.text(option).filter(|text| !text.is_empty()).map(str::to_owned)
}
