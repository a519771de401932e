//! containerd's shim, with the runtime inside: one process with one thread for a pod.

pub mod messages;
pub mod mounts;
