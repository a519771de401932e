//! What this program waits for, all of it at one place.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::Timespec;
use rustix::event::epoll::{
    self, CreateFlags, Event, EventData, EventFlags, add, create, delete, modify,
};
use rustix::io::Errno;

/// How many are taken at once; the rest come next time.
const AT_ONCE: usize = 32;

/// Something that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Somebody wants to connect.
    Listener,
    /// Signals.
    Signals,
    /// The connection of a caller.
    Caller(u64),
    /// The connection to containerd that events go by.
    Events,
    /// The command that makes something.
    Work(u64),
    /// A stream that is copied.
    Copy(u64),
    /// The program that reads an output, which is about to be ready.
    Logger(u64),
    /// Want of memory in a container.
    Memory(u64),
}

impl Source {
    /// The number that the kernel keeps for it.
    fn data(self) -> EventData {
        let (kind, number) = match self {
            Self::Listener => (0, 0),
            Self::Signals => (1, 0),
            Self::Caller(number) => (2, number),
            Self::Events => (3, 0),
            Self::Work(number) => (4, number),
            Self::Copy(number) => (5, number),
            Self::Logger(number) => (6, number),
            Self::Memory(number) => (7, number),
        };
        EventData::new_u64(kind << 56 | number)
    }

    fn of(data: EventData) -> Option<Self> {
        let number = data.u64() & ((1 << 56) - 1);
        Some(match data.u64() >> 56 {
            0 => Self::Listener,
            1 => Self::Signals,
            2 => Self::Caller(number),
            3 => Self::Events,
            4 => Self::Work(number),
            5 => Self::Copy(number),
            6 => Self::Logger(number),
            7 => Self::Memory(number),
            _ => return None,
        })
    }
}

/// What is waited for, as the kernel knows it.
#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    /// Nothing yet.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn new() -> Result<Self> {
        Ok(Self(create(CreateFlags::CLOEXEC).context("epoll_create")?))
    }

    /// Waits for something of `source` too.
    ///
    /// # Errors
    /// What the kernel refuses: a file is never waited for.
    pub fn add(&self, file: impl AsFd, source: Source, flags: EventFlags) -> Result<(), Errno> {
        add(&self.0, file, source.data(), flags)
    }

    /// Waits for something else of it.
    pub fn change(&self, file: impl AsFd, source: Source, flags: EventFlags) {
        // It is there, and the kernel has nothing to refuse.
        let _ = modify(&self.0, file, source.data(), flags);
    }

    /// Waits for nothing of it any more. To be called before it is closed: a child that is
    /// about to execute something may hold it still.
    pub fn remove(&self, file: impl AsFd) {
        let _ = delete(&self.0, file);
    }

    /// Waits until something happens, or so long.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn wait(&self, patience: Option<Duration>) -> Result<Vec<(Source, EventFlags)>> {
        let patience = patience.map(|patience| Timespec {
            tv_sec: patience.as_secs().cast_signed(),
            tv_nsec: patience.subsec_nanos().into(),
        });
        let mut space = [MaybeUninit::<Event>::uninit(); AT_ONCE];
        match epoll::wait(&self.0, &mut space[..], patience.as_ref()) {
            Ok((events, _)) => Ok(events
                .iter()
                .filter_map(|event| Some((Source::of(event.data)?, event.flags)))
                .collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(errno) => Err(errno).context("epoll_wait"),
        }
    }
}
