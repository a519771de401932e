//! Being told that the kernel killed a process of a group for want of memory, as
//! it happens.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, bail};
use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::fs::{Mode, OFlags, open};

use super::{checked, oom_kills, write};
use crate::plan::cgroup::{Group, Version};

/// A watch on a group. Its descriptor has an event when something happens that may be a kill.
#[derive(Debug)]
pub struct OomWatch {
    /// v1: an eventfd that the kernel writes to. v2: memory.events, which has a
    /// priority event when it changes.
    watched: OwnedFd,
    version: Version,
    group: Group,
    /// v2: how many there were.
    seen: u64,
}

impl OomWatch {
    /// Watches a group that has a memory controller.
    pub fn new(group: &Group) -> Result<Self> {
        let Some(directory) = group.directory_of("memory") else {
            bail!("no memory controller tells of processes killed for want of memory");
        };
        let path = checked(directory)?;
        let open = |name: &str| {
            let path = path.join(name);
            open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .with_context(|| format!("open {path:?}"))
        };
        let watched = match directory.version {
            Version::V2 => open("memory.events")?,
            Version::V1 => {
                let control = open("memory.oom_control")?;
                let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                    .context("eventfd")?;
                let request = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
                write(&path.join("cgroup.event_control"), &request)?;
                event
            }
        };
        let seen = oom_kills(group).unwrap_or(0);
        Ok(Self { watched, version: directory.version, group: group.clone(), seen })
    }

    /// What to wait for on the descriptor.
    pub fn interest(&self) -> PollFlags {
        match self.version {
            Version::V1 => PollFlags::IN,
            Version::V2 => PollFlags::PRI,
        }
    }

    /// How many kills there were since it was asked last.
    pub fn take(&mut self) -> u64 {
        let now = oom_kills(&self.group);
        match self.version {
            // The kernel tells of a kill before it counts it, and of the group's end too.
            Version::V1 => {
                let mut told = [0; 8];
                let read = rustix::io::read(&self.watched, &mut told).is_ok();
                if read && now.is_some() { u64::from_ne_bytes(told) } else { 0 }
            }
            Version::V2 => {
                let now = now.unwrap_or(self.seen);
                let new = now.saturating_sub(self.seen);
                self.seen = now;
                new
            }
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.as_fd()
    }
}
