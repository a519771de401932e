//! The program that containerd executes for a container or a pod.

fn main() {}
