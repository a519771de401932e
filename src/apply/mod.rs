//! Carrying out what `plan` decided. Nothing here decides: it may look in order
//! to carry a step out, never to choose another one.

pub mod console;
pub mod hooks;
mod mountinfo;
pub mod mounts;
pub mod namespaces;
pub mod net_devices;
mod netlink;
mod old_mount;
pub mod process;
pub mod refused_program;
pub mod rootfs;
pub mod security_module;
pub mod sysctls;
