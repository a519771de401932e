//! Carrying out what `plan` decided. Nothing here decides: it may look in order
//! to carry a step out, never to choose another one.

pub mod hooks;
pub mod intel_rdt;
pub mod mounts;
pub mod namespaces;
pub mod net_devices;
pub mod old_mount;
pub mod process;
pub mod procfs;
pub mod rootfs;
pub mod sysctls;
