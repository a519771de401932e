//! ferrun: an OCI container runtime for Linux.
//!
//! config.json goes in, a short program of kernel calls comes out: `plan`
//! decides and is pure data, `apply` does and decides nothing. ARCHITECTURE.md
//! draws the conversation between the two processes of `create`.

pub mod abi;
pub mod apply;
pub mod bundle;
pub mod cgroups;
pub mod channel;
pub mod cli;
pub mod commands;
pub mod create;
pub mod destroy;
pub mod error;
pub mod exec;
pub mod foreground;
pub mod handover;
pub mod host;
pub mod log;
pub mod own_executable;
pub mod plan;
pub mod processes;
pub mod resolve;
pub mod signal;
pub mod start;
pub mod store;
pub mod sys;
pub mod text;
pub mod time;
pub mod update;
