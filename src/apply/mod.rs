//! Carrying out what `plan` decided. Nothing here decides: it may look in order
//! to carry a step out, never to choose another one.

pub mod console;
mod courier;
pub mod hooks;
pub mod inherited;
pub mod mountinfo;
pub mod mounts;
pub mod namespaces;
pub mod net_devices;
mod netlink;
mod old_mount;
pub mod process;
mod program;
pub mod refused_program;
mod rlimits;
pub mod rootfs;
pub mod security_module;
pub mod stdio;
pub mod sysctls;
mod user;
