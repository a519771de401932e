//! The engines that Debian 12 has, with the runtime under test.

mod answers;
mod buildah;
mod compose;
mod docker;
mod leaks;
mod options;
mod podman;
