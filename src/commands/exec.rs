//! `exec`: another process in a container.

use anyhow::{Context as _, Result, bail};

use super::{Global, hand_over_terminal, handover, streams, unless_forbidden_now};
use crate::cgroups;
use crate::cli::Given;
use crate::exec::{self, ExecOptions};
use crate::foreground::Watch;
use crate::plan::exec::Typed;
use crate::plan::numbers::parse_id;
use crate::store::{Operation, Status};

/// Runs the verb. The exit code is the program's, unless detached.
pub fn run(given: &Given, global: &Global) -> Result<i32> {
    let in_foreground = !given.has("detach");
    let options = ExecOptions {
        process: given.path("process"),
        typed: typed(given),
        cgroups: given.texts("cgroup"),
        streams: streams(given, global, in_foreground),
        handover: handover(given, global),
        alone: global.alone,
    };
    if options.process.is_none() && options.typed.args.is_empty() {
        bail!("exec: neither a program nor --process is given");
    }
    let container = global.store.load(given.id())?;
    if given.has("ignore-paused") && container.status()? == Status::Paused {
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
fn typed(given: &Given) -> Typed {
    let text = |name| given.text(name).map(str::to_owned);
    let gids = given.texts("additional-gids");
    Typed {
        args: given.texts("args"),
        cwd: text("cwd"),
        env: given.texts("env"),
        tty: given.has("tty"),
        user: text("user"),
        additional_gids: gids.iter().filter_map(|gid| parse_id(gid).ok()).collect(),
        capabilities: given.texts("cap"),
        no_new_privileges: given.has("no-new-privs"),
        apparmor: text("apparmor"),
        label: text("process-label"),
    }
}
