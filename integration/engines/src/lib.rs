//! Where engines are tested: each test has a [`Place`] with a network and a /run of its
//! own, a registry on its loopback, and an /etc and a /var/lib that are its own to write.
//! An engine finds there the configuration that `docs/engines.md` recommends.
//!
//! What is typed in a place is one line of shell, as in a tutorial, and each claim about
//! what comes of it is counted as one step:
//!
//! ```ignore
//! place.sh("docker run alpine echo hello").prints("hello");
//! ```
//!
//! An engine leaves nothing on the machine: not its processes, cgroups or mounts, and not
//! a file outside of the bed's directory. A place whose test leaves any fails it.

mod answer;
mod host;
mod inventory;
mod place;
mod recorder;

pub mod containerd;
pub mod critest;
pub mod debian13;
pub mod docker;
pub mod pod;
pub mod podman;
pub mod shim;

pub use answer::{Answer, Session};
pub use host::{Host, Unit, on_a_host};
pub use inventory::Inventory;
pub use place::{Place, in_place};
pub use recorder::{Recorded, Recorder, form};

use std::path::{Path, PathBuf};

/// The name under which engines know the runtime.
pub fn runtime_name() -> &'static str {
    match integration::runtime().kind {
        integration::Kind::Ferrun => "ferrun",
        // Docker takes `runc` for its own, and Podman judges by the name what a runtime can do.
        _ => "peer",
    }
}

/// Of two weights of version 2 the one that the runtime makes of cpu.shares: runc 1.1 and
/// older ones convert in a straight line, and what came later does not.
pub fn cpu_weight(curved: &'static str, straight: &'static str) -> &'static str {
    match integration::runtime().kind {
        integration::Kind::Ferrun => curved,
        _ => straight,
    }
}

/// The programs among these that are not installed.
pub fn missing(programs: &[&str]) -> Vec<String> {
    let missing = programs.iter().filter(|name| found(name).is_none());
    missing.map(|name| (*name).to_owned()).collect()
}

/// Where the program of this name is.
fn found(name: &str) -> Option<PathBuf> {
    let path = path();
    let mut places = path.split(':').map(|directory| Path::new(directory).join(name));
    places.find(|program| program.exists())
}

/// Whether engines are newer than Debian 12's: those of `$ENGINES`.
pub fn is_current() -> bool {
    std::env::var_os("ENGINES").is_some()
}

/// Where the programs of a place are looked for: those of the machine, and before them
/// those in the directory `$ENGINES`, such as engines newer than the machine's own.
fn path() -> String {
    let machine = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut path = machine.to_owned();
    if let Ok(engines) = std::env::var("ENGINES") {
        path = format!("{engines}:{path}");
    }
    // What `make` has fetched where the machine has no package of it.
    if let Ok(callers) = std::env::var("PATH") {
        path = format!("{path}:{callers}");
    }
    path
}

/// A file of this crate's directory.
fn own_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
