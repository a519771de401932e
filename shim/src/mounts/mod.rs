//! The root of a container, mounted as containerd's snapshotters ask for it.
//!
//! `plan` decides and makes no call; [`mount_all`] and [`unmount_all`] do. Both may wait for a
//! disk or a network for as long as those let them, so they are for the process that makes the
//! container, or for one of their own, and not for the one that answers containerd. What is
//! asked for travels as it has come: the field `rootfs` of `CreateTaskRequest`.
//!
//! A mount that fails leaves nothing: it is detached until it is whole.

mod apart;
mod apply;
mod plan;
mod unmount;

pub use self::apply::mount_all;
pub use self::unmount::unmount_all;
