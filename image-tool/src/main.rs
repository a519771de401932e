//! Pulls an image from an OCI registry into a bundle.
fn main() {}
