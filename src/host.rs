//! Gathers the facts about the machine and the caller: no more than what is asked for needs.

use anyhow::Result;
use rustix::fs::stat;
use rustix::termios::tcgetwinsize;

use crate::cgroups;
use crate::cgroups::systemd::{self, Buses};
use crate::plan::cgroup::Layout;
use crate::plan::host::Host;
use crate::plan::request::{CgroupMaker, Cgroups, Console, Streams};

/// Gathers the facts. systemd is found by what `buses` says.
pub fn gather(asked: Cgroups, buses: &Buses) -> Result<Host> {
    let mut host = caller();
    if asked.maker == CgroupMaker::Nobody {
        // What the container mounts may be a view of the tree all the same.
        host.cgroups = cgroups::layout().unwrap_or(Layout::None);
        return Ok(host);
    }
    host.cgroups = cgroups::layout()?;
    if asked.is_rootless(&host) {
        host.own_group = cgroups::delegated(&host.cgroups)?;
    }
    if asked.maker == CgroupMaker::Systemd {
        let is_root = host.uid == 0 && !host.in_user_namespace;
        host.systemd = Some(systemd::look(buses, is_root, &host.cgroups)?);
    }
    Ok(host)
}

/// The facts about the caller alone, as if the machine had no cgroups.
pub fn caller() -> Host {
    /// The inode of the machine's first user namespace (PROC_USER_INIT_INO).
    const FIRST_USER_NAMESPACE: u64 = 0xefff_fffd;
    let in_user_namespace =
        stat("/proc/self/ns/user").is_ok_and(|stat| stat.st_ino != FIRST_USER_NAMESPACE);
    Host {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        in_user_namespace,
        cgroups: Layout::None,
        own_group: None,
        systemd: None,
    }
}

/// What was asked for, with the size of the caller's terminal where that will show the program's.
pub fn with_size_of_terminal(asked: &Streams, has_terminal: bool) -> Streams {
    let shows = has_terminal && asked.console == Console::Caller;
    let callers_size = || {
        let size = tcgetwinsize(rustix::stdio::stdin()).ok()?;
        (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
    };
    Streams { callers_size: shows.then(callers_size).flatten(), ..asked.clone() }
}
