//! Facts about the machine and the caller, gathered once, so that a plan can be
//! made from values and tested with any.

use anyhow::Result;
use rustix::fs::stat;

use crate::cgroups;
use crate::cgroups::systemd::{self, Buses};
use crate::plan::cgroup::unit::Systemd;
use crate::plan::cgroup::{Access, Layout};

/// What plans depend on besides the configuration.
#[derive(Debug, Clone)]
pub struct Host {
    /// The caller's effective user id.
    pub uid: u32,
    /// The caller's effective group id.
    pub gid: u32,
    /// Whether the caller lives in a user namespace that is not the machine's own.
    pub in_user_namespace: bool,
    /// The cgroup hierarchies.
    pub cgroups: Layout,
    /// How the caller may use cgroups.
    pub cgroup_access: Access,
    /// The systemd that makes containers' groups; None where the runtime makes them.
    pub systemd: Option<Systemd>,
}

/// Root on a machine without cgroups.
impl Default for Host {
    fn default() -> Self {
        Self {
            uid: 0,
            gid: 0,
            in_user_namespace: false,
            cgroups: Layout::None,
            cgroup_access: Access::Root,
            systemd: None,
        }
    }
}

impl Host {
    /// Gathers the facts. `rootless` is what `--rootless` says, None for auto.
    pub fn gather(rootless: Option<bool>) -> Result<Self> {
        let mut host = Self::gather_without_cgroups();
        host.cgroups = cgroups::layout()?;
        host.cgroup_access = if rootless.unwrap_or(host.uid != 0 || host.in_user_namespace) {
            Access::Rootless { own: cgroups::delegated(&host.cgroups)? }
        } else {
            Access::Root
        };
        Ok(host)
    }

    /// The facts for the log.
    pub fn summary(&self) -> String {
        let Self { uid, gid, in_user_namespace, cgroups, cgroup_access, systemd } = self;
        let cgroups = match cgroups {
            Layout::V1 { unified: None, .. } => "version 1",
            Layout::V1 { unified: Some(_), .. } => "version 1, and 2 beside it",
            Layout::V2(_) => "version 2",
            Layout::None => "none",
        };
        let maker = if systemd.is_some() { "systemd" } else { "the cgroup file system" };
        let rootless = matches!(cgroup_access, Access::Rootless { .. });
        format!(
            "caller: uid {uid}, gid {gid}, in a user namespace: {in_user_namespace}; \
             cgroups: {cgroups}, by {maker}; rootless: {rootless}"
        )
    }

    /// Gathers the facts where systemd makes the groups, found by what `buses` says.
    pub fn gather_with_systemd(rootless: Option<bool>, buses: &Buses) -> Result<Self> {
        let mut host = Self::gather(rootless)?;
        let is_root = host.uid == 0 && !host.in_user_namespace;
        host.systemd = Some(systemd::look(buses, is_root, &host.cgroups)?);
        Ok(host)
    }

    /// The facts about the caller alone, as if the machine had no cgroups.
    pub fn gather_without_cgroups() -> Self {
        /// The inode of the machine's first user namespace (PROC_USER_INIT_INO).
        const FIRST_USER_NAMESPACE: u64 = 0xefff_fffd;
        let in_user_namespace =
            stat("/proc/self/ns/user").is_ok_and(|stat| stat.st_ino != FIRST_USER_NAMESPACE);
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            in_user_namespace,
            cgroups: Layout::None,
            cgroup_access: Access::Unwanted,
            systemd: None,
        }
    }
}
