//! A process that holds namespaces for others to join.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::eventually;

/// A process in namespaces of its own, which ends with the value.
#[derive(Debug)]
pub struct Holder {
    unshare: Child,
    /// Its pid.
    pub pid: String,
}

impl Holder {
    /// In new namespaces by these flags of unshare(1).
    #[track_caller]
    pub fn new(flags: &[&str]) -> Self {
        let unshare = Command::new("/usr/bin/unshare")
            .args(flags)
            .args(["--fork", "--kill-child", "/bin/sleep", "10000"])
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let mut pid = String::new();
        eventually("the holder sleeps", || {
            pid = fs::read_to_string(&children).unwrap_or_default().trim().to_owned();
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
        });
        Self { unshare, pid }
    }

    /// The file of one of its namespaces.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(&self.pid).join("ns").join(file)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let process = Path::new("/proc").join(&self.pid);
        eventually("the holder ends", || !process.exists());
    }
}
