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
pub mod console;
pub mod create;
pub mod destroy;
pub mod error;
pub mod exec;
pub mod foreground;
pub mod gate;
pub mod handover;
pub mod hook_state;
pub mod host;
pub mod init;
pub mod log;
pub mod mountinfo;
pub mod netlink;
pub mod own_executable;
pub mod pid_file;
pub mod plan;
pub mod processes;
pub mod record;
pub mod refused_program;
pub mod resolve;
pub mod sd_notify;
pub mod seccomp_agent;
pub mod security_module;
pub mod spawn;
pub mod start;
pub mod state;
pub mod sys;
pub mod text;
pub mod time;
pub mod unix_socket;
