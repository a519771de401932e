//! What is asked for: all that was typed, stands in the caller's environment or is told by his
//! terminal, and changes what will be done. A plan is made of it and of facts about the host,
//! and of nothing else.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use super::cgroup::CgroupAccess;
use super::host::Host;

/// A container to create.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// What config.json says.
    pub spec: &'a Spec,
    /// The absolute path of the bundle.
    pub bundle: &'a Path,
    /// The container's ID.
    pub id: &'a str,
    /// What is said of cgroups.
    pub cgroups: Cgroups,
    /// What the program's descriptors are to be.
    pub streams: Streams,
    /// Whether the program stays in the caller's session keyring (`--no-new-keyring`).
    pub keeps_keyring: bool,
    /// Whether pivot_root(2) is not to be used (`--no-pivot`).
    pub no_pivot: bool,
    /// The directory on the host of the socket by which the program tells a service manager
    /// that it is ready, where there is one that wants to know (NOTIFY_SOCKET).
    pub notify: Option<PathBuf>,
}

impl<'a> Request<'a> {
    /// One for which nothing is typed but its bundle and ID.
    pub fn new(spec: &'a Spec, bundle: &'a Path, id: &'a str) -> Self {
        Self {
            spec,
            bundle,
            id,
            cgroups: Cgroups::default(),
            streams: Streams::default(),
            keeps_keyring: false,
            no_pivot: false,
            notify: None,
        }
    }
}

/// Who makes the cgroup of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupMaker {
    /// The runtime, in the cgroup file system.
    #[default]
    Runtime,
    /// systemd (`--systemd-cgroup`).
    Systemd,
    /// Nobody: the container gets none (`--cgroup-manager disabled`).
    Nobody,
}

/// What is said of cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// Who makes them.
    pub maker: CgroupMaker,
    /// What `--rootless` says, None for auto.
    pub rootless: Option<bool>,
}

impl Cgroups {
    /// Whether the caller is taken for an ordinary user, who goes on where he may use no
    /// cgroups.
    pub fn is_rootless(self, host: &Host) -> bool {
        self.rootless.unwrap_or(host.uid != 0 || host.in_user_namespace)
    }

    /// How cgroups may be used.
    pub fn access(self, host: &Host) -> CgroupAccess {
        match self.maker {
            CgroupMaker::Nobody => CgroupAccess::Unwanted,
            _ if self.is_rootless(host) => CgroupAccess::Rootless { own: host.own_group.clone() },
            _ => CgroupAccess::Root,
        }
    }
}

/// Who serves the terminal of a process, where it has one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Console {
    /// The caller, who stays.
    #[default]
    Caller,
    /// Whoever listens at this socket (`--console-socket`).
    Socket(PathBuf),
    /// Whoever has executed this command and hears from it (`--report`).
    Embedder,
    /// Nobody: the caller goes.
    Nobody,
}

/// What the descriptors of a program are to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Streams {
    /// Who serves its terminal.
    pub console: Console,
    /// The rows and columns of the caller's own terminal, where that shows the program's.
    pub callers_size: Option<(u16, u16)>,
    /// How many descriptors after stdio it gets (`--preserve-fds`).
    pub preserved: u32,
    /// How many sockets it gets before those (LISTEN_FDS, sd_listen_fds(3)).
    pub listening: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_rootless_is_what_was_typed_or_else_who_is_no_root_of_the_machine() {
        let own = Some("/own".to_owned());
        let host = |uid, in_user_namespace| Host {
            uid,
            in_user_namespace,
            own_group: own.clone(),
            ..Host::default()
        };
        let rootless = CgroupAccess::Rootless { own: own.clone() };
        for (typed, uid, in_user_namespace, access) in [
            (None, 0, false, &CgroupAccess::Root),
            (None, 7, false, &rootless),
            (None, 0, true, &rootless),
            (Some(true), 0, false, &rootless),
            (Some(false), 7, true, &CgroupAccess::Root),
        ] {
            let host = host(uid, in_user_namespace);
            let mut cgroups = Cgroups { rootless: typed, ..Cgroups::default() };
            assert_eq!(&cgroups.access(&host), access, "{typed:?} {uid} {in_user_namespace}");
            cgroups.maker = CgroupMaker::Nobody;
            assert_eq!(cgroups.access(&host), CgroupAccess::Unwanted);
        }
    }
}
