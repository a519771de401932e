//! containerd's shim, with the runtime inside: one process with one thread for a pod.

pub mod apart;
pub mod bootstrap;
pub mod config;
pub mod connection;
pub mod copy;
pub mod delete;
pub mod events;
pub mod frames;
pub mod log;
pub mod messages;
pub mod metrics;
pub mod mounts;
pub mod options;
pub mod poller;
pub mod program;
pub mod server;
pub mod service;
pub mod start;
pub mod streams;
pub mod targets;
