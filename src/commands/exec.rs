//! `exec`: another process in a container.

use anyhow::{Context as _, Result, bail};
use clap::ArgMatches;

use super::{Global, hand_over_terminal, handover, streams, unless_forbidden_now};
use crate::cgroups;
use crate::cli::{id_of, path_of, text_of, texts_of};
use crate::exec::{self, ExecOptions};
use crate::foreground::Watch;
use crate::plan::exec::Typed;
use crate::store::{Operation, Status};

/// Runs the verb. The exit code is the program's, unless detached.
pub fn run(matches: &ArgMatches, global: &Global) -> Result<i32> {
    let in_foreground = !matches.get_flag("detach");
    let options = ExecOptions {
        process: path_of(matches, "process"),
        typed: typed(matches),
        cgroups: texts_of(matches, "cgroup"),
        streams: streams(matches, global, in_foreground),
        handover: handover(matches, global),
        alone: global.alone,
    };
    if options.process.is_none() && options.typed.args.is_empty() {
        bail!("exec: neither a program nor --process is given");
    }
    let container = global.store.load(id_of(matches))?;
    if matches.get_flag("ignore-paused") && container.status()? == Status::Paused {
        // A process that joined now would stand still before it had said anything.
        cgroups::wait_until_thawed(&container.record.group)
            .context("--ignore-paused: the process runs when the container is resumed")?;
    }
    let watch = if in_foreground { Some(Watch::new(false)?) } else { None };
    let (process, master) = exec::exec(&container, &options)
        .map_err(|error| unless_forbidden_now(global, &container, Operation::Exec, error))?;
    let Some(watch) = watch else { return hand_over_terminal(global, master).map(|()| 0) };
    let code = watch.serve(&process, master)?;
    // This process ends now, which gives all of them back at once.
    std::mem::forget((watch, process, container));
    Ok(code)
}

/// The process by the command line.
fn typed(matches: &ArgMatches) -> Typed {
    let additional_gids = matches.get_many("additional-gids").into_iter().flatten().copied();
    Typed {
        args: texts_of(matches, "args"),
        cwd: text_of(matches, "cwd"),
        env: texts_of(matches, "env"),
        tty: matches.get_flag("tty"),
        user: text_of(matches, "user"),
        additional_gids: additional_gids.collect(),
        capabilities: texts_of(matches, "cap"),
        no_new_privileges: matches.get_flag("no-new-privs"),
        apparmor: text_of(matches, "apparmor"),
        label: text_of(matches, "process-label"),
    }
}
