//! The engines of Debian 13 as it sets them up, on a Debian 13 that ferrun boots: Docker 26,
//! Podman 5.4 and Buildah 1.39 of root and of an ordinary user, containerd 1.7; and nerdctl,
//! which is built. All take systemd's driver by themselves but containerd, which is told by one
//! line.
//!
//! Each test is run once more with the runtime that the engine has without a word. The
//! machine's cgroups of version 2 have no controllers that limit, so nobody asks for a limit.

mod cdi;
mod containerd;
mod cost;
mod docker;
mod nerdctl;
mod podman;
mod pods;
mod shim;
