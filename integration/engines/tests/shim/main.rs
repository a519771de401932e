//! containerd, Debian's and today's, with our shim in both ways in which containerd can be told
//! of it. `SHIM=go` runs the same with containerd's shim and the runtime as its program.
//!
//! | what may go wrong with a shim | test |
//! |---|---|
//! | the end of a process, its code and its output | `ctr::a_container_runs_in_the_foreground`, `streams::*` |
//! | the order of events | `events::*` |
//! | containerd ends and comes back | `restart::*`, `pods::*containerd*` |
//! | the shim ends | `killed::*` |
//! | a pod has more than one shim, or leaves one | `pods::*` |
//! | a container does not go on from its image, or does not run on | `checkpoint::*` |

mod checkpoint;
mod client;
mod cost;
mod critest;
mod ctr;
mod daemon;
mod events;
mod killed;
mod pods;
mod releases;
mod restart;
mod streams;
