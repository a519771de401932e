//! `restore`: a container of an image, and unless detached wait for its end and delete.

use anyhow::{Context as _, Result};
use clap::ArgMatches;

use super::checkpoint::{IMAGE, flags, is_named};
use super::{Global, console, hand_over_terminal};
use crate::checkpoint::{RestoreOptions, restore};
use crate::cli::{id_of, path_of, text_of};
use crate::destroy;
use crate::foreground::Watch;
use crate::handover::Handover;
use crate::plan::checkpoint::restore::{Typed, lsm_profile};
use crate::plan::request::Streams;

/// Runs the verb. The exit code is the program's, unless detached.
pub fn run(matches: &ArgMatches, global: &Global) -> Result<i32> {
    let detach = matches.get_flag("detach");
    let image = match path_of(matches, "image-path").filter(|path| is_named(path)) {
        Some(image) => image,
        // It counts from here, and what is named from the bundle: so does runc.
        None => std::path::absolute(IMAGE).context("--image-path")?,
    };
    let options = RestoreOptions {
        image,
        work: path_of(matches, "work-path").filter(|path| is_named(path)),
        bundle: path_of(matches, "bundle").unwrap_or_else(|| ".".into()),
        cgroups: global.cgroups,
        buses: global.buses.clone(),
        streams: Streams { console: console(matches, global, !detach), ..Streams::default() },
        handover: Handover {
            reporter: global.reporter.clone(),
            pid_file: path_of(matches, "pid-file"),
            pidfd_socket: None,
        },
        typed: Typed {
            flags: flags(matches)?,
            lsm_profile: named(matches, "lsm-profile").map(lsm_profile).transpose()?,
            lsm_mount_context: named(matches, "lsm-mount-context"),
        },
    };
    let watch = if detach { None } else { Some(Watch::new(!matches.get_flag("no-subreaper"))?) };
    let mut restored = restore(&global.store, id_of(matches), &options)?;
    let Some(watch) = watch else {
        return hand_over_terminal(global, restored.master.take()).map(|()| 0);
    };
    let code = watch.serve(&restored.init, restored.master.take())?;
    destroy::destroy(&restored.container)?;
    Ok(code)
}

/// What an option names; nothing where its text is empty.
fn named(matches: &ArgMatches, option: &str) -> Option<String> {
    text_of(matches, option).filter(|text| !text.is_empty())
}
