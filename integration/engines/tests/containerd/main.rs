//! containerd, Debian's and today's, with the runtime under test: by `ctr`, by `crictl`
//! as Kubernetes calls it, and by Kubernetes' own tests of that interface.

mod cluster;
mod critest;
mod ctr;
mod daemon;
mod pods;
