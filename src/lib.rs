//! ferrun: an OCI container runtime for Linux.
//!
//! config.json goes in, a short program of kernel calls comes out: `plan`
//! decides and is pure data, `apply` does and decides nothing. ARCHITECTURE.md
//! draws the conversation between the two processes of `create`.
//!
//! A program that embeds it calls a [`Runtime`]. Nothing else is promised: the modules are
//! public for the command, the manual and the tests of this project.

mod runtime;

pub use crate::cgroups::systemd::Buses;
pub use crate::cgroups::{OomWatch, Stats};
pub use crate::error::Kind;
pub use crate::features::features;
pub use crate::processes::ProcessId;
pub use crate::runtime::{
    Checkpoint, Create, Error, Exec, Image, Made, Outcome, Restore, Runtime, Starting, State,
    Stdio, Work,
};
pub use crate::store::Status;

#[doc(hidden)]
pub mod abi;
#[doc(hidden)]
pub mod apply;
#[doc(hidden)]
pub mod bundle;
#[doc(hidden)]
pub mod cgroups;
#[doc(hidden)]
pub mod channel;
#[doc(hidden)]
pub mod checkpoint;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod command_line;
#[doc(hidden)]
pub mod commands;
#[doc(hidden)]
pub mod create;
#[doc(hidden)]
pub mod criu;
#[doc(hidden)]
pub mod destroy;
#[doc(hidden)]
pub mod error;
#[doc(hidden)]
pub mod exec;
#[doc(hidden)]
pub mod features;
#[doc(hidden)]
pub mod foreground;
#[doc(hidden)]
pub mod handover;
#[doc(hidden)]
pub mod host;
#[doc(hidden)]
pub mod log;
#[doc(hidden)]
pub mod own_executable;
#[doc(hidden)]
pub mod plan;
#[doc(hidden)]
pub mod processes;
#[doc(hidden)]
pub mod resolve;
#[doc(hidden)]
pub mod signal;
#[doc(hidden)]
pub mod start;
#[doc(hidden)]
pub mod store;
#[doc(hidden)]
pub mod sys;
#[doc(hidden)]
pub mod text;
#[doc(hidden)]
pub mod time;
#[doc(hidden)]
pub mod update;
