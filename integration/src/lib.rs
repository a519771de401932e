//! The harness of the black-box tests: they see a runtime as its callers do, by
//! its command line, its files and what its containers print.
//!
//! `$RUNTIME` is the runtime under test. A test states where it holds (as root, as
//! an ordinary user, with which cgroup hierarchies), gets a [`Bed`] for each such
//! place, and may touch only what that bed has made. When it ends, whether well or
//! not, the bed removes everything and fails the test for what the runtime left.

pub mod agent;
pub mod apparmor;
mod bed;
pub mod blow;
mod bundle;
mod call;
mod container;
pub mod counted;
pub mod criu;
mod described;
mod holder;
mod leftovers;
pub mod lives;
mod runtime;
pub mod shim;
mod sys;
pub mod systemd_host;
pub mod terminal;

pub use bed::{
    Bed, Caller, Ground, View, as_both, as_root, as_user, both_where_mounts_are_shared, everywhere,
    in_views, in_views_as_user, on_a_spare_machine, on_every_ground, shared_too,
    where_mounts_are_shared, with_controllers,
};
pub use bundle::{Bundle, config};
pub use call::{Call, Output, Running};
pub use container::Container;
pub use described::described;
pub use holder::Holder;
pub use runtime::{Kind, Runtime, runtime};
pub use sys::{CALLERS_KEYRING, Usage, usage_of};

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What the machine is called by uname(2): as it is, and under the personality of 32 bits.
pub const MACHINE: [&str; 2] =
    if cfg!(target_arch = "aarch64") { ["aarch64", "armv8l"] } else { ["x86_64", "i686"] };

/// Copies a program, by another process: a child that a test makes meanwhile would inherit
/// a descriptor of ours that is open for writing, and nobody could execute the copy.
///
/// # Panics
/// If that cannot be done.
#[track_caller]
pub fn copy_program(from: &Path, to: &Path) {
    let mut install = Command::new("install");
    let status = install.args(["-m", "0755"]).args([from, to]).status().expect("install(1)");
    assert!(status.success(), "{from:?} cannot be copied to {to:?}");
}

/// Asks again and again until the answer is yes.
///
/// # Panics
/// After ten seconds, with the name of what did not happen.
#[track_caller]
pub fn eventually(what: &str, happened: impl FnMut() -> bool) {
    within(Duration::from_secs(10), what, happened);
}

/// Asks again and again until the answer is yes.
///
/// # Panics
/// When the patience is at its end, with the name of what did not happen.
#[track_caller]
pub fn within(patience: Duration, what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !happened() {
        assert!(Instant::now() < deadline, "did not happen within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process has ended, all its threads, reaped or not.
///
/// # Panics
/// If that cannot be told.
pub fn has_ended(pid: i32) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let pid = Pid::from_raw(pid).expect("a pid");
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&now)).expect("poll") > 0
}
