//! `delete`: what `create` made, and the ID.

use anyhow::Result;

use super::Global;
use crate::cli::Given;
use crate::destroy;

/// The switch for the rule of the spec that no caller can live with: `delete` of a
/// created container is an error (runtime.md#delete).
const STRICT: &str = "FERRUN_STRICT_SPEC";

/// Runs the verb.
pub fn run(given: &Given, global: &Global) -> Result<()> {
    let id = given.id();
    let force = given.has("force");
    let is_strict = std::env::var_os(STRICT).is_some_and(|value| value == "1");
    destroy::delete(&global.store, id, force, is_strict, (global.cgroups, &global.buses))
}
