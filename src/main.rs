//! ferrun.
fn main() {}
