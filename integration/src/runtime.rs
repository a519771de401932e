//! Which runtime is tested, and in what it differs from the others.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::{View, copy_program};

/// A runtime by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ferrun, for which every test holds.
    Ferrun,
    /// runc.
    Runc,
    /// crun.
    Crun,
    /// Any other one.
    Other,
}

/// The runtime under test.
#[derive(Debug)]
pub struct Runtime {
    /// Its program.
    pub program: PathBuf,
    /// Who it is, judged by the program's name.
    pub kind: Kind,
}

/// The program of `$RUNTIME`, or the workspace's `bin/ferrun`.
///
/// # Panics
/// If there is no such program.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../bin/ferrun");
        let given = std::env::var_os("RUNTIME").map_or_else(|| built.into(), PathBuf::from);
        let program = given
            .canonicalize()
            .unwrap_or_else(|error| panic!("the runtime {given:?} (see RUNTIME): {error}"));
        let kind = match given.file_name().and_then(|name| name.to_str()) {
            Some("ferrun") => Kind::Ferrun,
            Some("runc") => Kind::Runc,
            Some("crun") => Kind::Crun,
            _ => Kind::Other,
        };
        Runtime { program, kind }
    })
}

impl Runtime {
    /// Where tests run that have nothing to do with cgroups.
    pub fn usual_view(&self) -> View {
        match self.kind {
            // Its cgroup code of 1.8 does not work in a hybrid hierarchy.
            Kind::Crun => View::V1,
            _ => View::of_the_machine(),
        }
    }

    /// The program at a path that ordinary users can reach: itself, or a copy
    /// below `directory` where it lies in somebody's closed home.
    pub fn for_others(&self, directory: &Path) -> PathBuf {
        let closed = self.program.ancestors().any(|path| {
            path.metadata().map_or(true, |found| found.permissions().mode() & 0o001 == 0)
        });
        if !closed {
            return self.program.clone();
        }
        // No name that a test has for a directory of its own.
        let copy = directory.join(".program");
        if !copy.exists() {
            copy_program(&self.program, &copy);
        }
        copy
    }
}
