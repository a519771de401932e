//! The built program against layouts and registries, good and bad.
//!
//! Everything is made here and served on loopback: images, a registry that
//! misbehaves on request, a token server, and Debian's docker-registry.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it should be"
)]

mod docker_registry;
mod errors;
mod extraction;
mod hostile;
mod image;
mod large;
mod login;
mod registry;
mod rootless;
mod seccomp;
mod server;
mod tool;
