//! `features`: what this runtime can do, fixed when it was built.

use anyhow::Result;

use super::print_json;
use crate::features::features;

/// Runs the verb.
pub fn run() -> Result<()> {
    print_json(&features(), "    ")
}
