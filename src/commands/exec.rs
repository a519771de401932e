//! `exec`: another process in a container.

use anyhow::{Context as _, Result, bail};
use clap::ArgMatches;

use super::{Global, unless_forbidden_now};
use crate::cgroups;
use crate::cli::{id_of, path_of, text_of};
use crate::exec::{self, Options};
use crate::foreground::Watch;
use crate::state::{Operation, Status};

/// Runs the verb. The exit code is the program's, unless detached.
pub fn run(matches: &ArgMatches, global: &Global) -> Result<i32> {
    let texts = |name: &str| -> Vec<String> {
        matches.get_many::<String>(name).into_iter().flatten().cloned().collect()
    };
    let detach = matches.get_flag("detach");
    let console_socket = path_of(matches, "console-socket");
    let options = Options {
        process: path_of(matches, "process"),
        args: texts("args"),
        cwd: text_of(matches, "cwd"),
        env: texts("env"),
        tty: matches.get_flag("tty"),
        user: text_of(matches, "user"),
        additional_gids: matches
            .get_many("additional-gids")
            .into_iter()
            .flatten()
            .copied()
            .collect(),
        capabilities: texts("cap"),
        no_new_privileges: matches.get_flag("no-new-privs"),
        apparmor: text_of(matches, "apparmor"),
        label: text_of(matches, "process-label"),
        cgroups: texts("cgroup"),
        serves_terminal: !detach && console_socket.is_none(),
        console_socket,
        pidfd_socket: path_of(matches, "pidfd-socket"),
        pid_file: path_of(matches, "pid-file"),
        preserved: matches.get_one("preserve-fds").copied().unwrap_or(0),
    };
    if options.process.is_none() && options.args.is_empty() {
        bail!("exec: neither a program nor --process is given");
    }
    let container = global.store.load(id_of(matches))?;
    if matches.get_flag("ignore-paused") && container.status()? == Status::Paused {
        // A process that joined now would stand still before it had said anything.
        cgroups::wait_until_thawed(&container.record.group)
            .context("--ignore-paused: the process runs when the container is resumed")?;
    }
    let watch = if detach { None } else { Some(Watch::new(false)?) };
    let (process, master) = exec::exec(&container, &options)
        .map_err(|error| unless_forbidden_now(global, &container, Operation::Exec, error))?;
    match watch {
        Some(watch) => watch.serve(&process, master),
        None => Ok(0),
    }
}
