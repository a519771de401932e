//! Who is measured.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};

/// What everything is about.
pub const FERRUN: &str = "ferrun";
/// The same where it need not start twice.
pub const READ_ONLY: &str = "ferrun on a read-only mount";
/// The name of the program that decides nothing.
pub const FLOOR: &str = "floor";

/// A program with runc's command line, or the floor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// What tables call it.
    pub name: String,
    /// The program; empty for the floor, which is compiled when it is needed.
    pub path: PathBuf,
}

impl Runtime {
    /// One given as NAME=PATH.
    ///
    /// # Errors
    /// Where there is no `=`, or no such file.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, path) = text.split_once('=').context("must be NAME=PATH")?;
        let path = Path::new(path).canonicalize().with_context(|| path.to_owned())?;
        Ok(Self { name: name.to_owned(), path })
    }

    /// The floor.
    pub fn floor() -> Self {
        Self { name: FLOOR.to_owned(), path: PathBuf::new() }
    }

    /// One of the usual peers, where it is installed.
    pub fn installed(name: &str) -> Option<Self> {
        std::env::split_paths(&std::env::var_os("PATH")?)
            .map(|directory| directory.join(name))
            .find(|path| path.is_file())
            .map(|path| Self { name: name.to_owned(), path })
    }

    /// A copy of it below `directory`. All are copies, made alike: where the pages of a file lie
    /// makes a difference of some percent.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn copied(&self, directory: &Path) -> Result<Self> {
        let (Some(name), false) = (self.path.file_name(), self.is_floor()) else {
            return Ok(self.clone());
        };
        let directory = directory.join(&self.name);
        let path = directory.join(name);
        std::fs::create_dir_all(&directory).with_context(|| format!("{directory:?}"))?;
        std::fs::copy(&self.path, &path).with_context(|| format!("{path:?}"))?;
        Ok(Self { path, ..self.clone() })
    }

    /// A copy on a mount of its own that is read-only, from which ferrun need not start twice.
    ///
    /// # Errors
    /// As [`Runtime::copied`], or where it cannot be mounted.
    pub fn on_read_only_mount(&self, directory: &Path) -> Result<Self> {
        let copy = Self { name: READ_ONLY.to_owned(), ..self.clone() };
        let copy = copy.copied(directory)?;
        let place = copy.path.parent().context("a program below no directory")?;
        let mount = |flags| mount(Some(place), place, None::<&str>, flags, None::<&str>);
        mount(MsFlags::MS_BIND)
            .and_then(|()| mount(MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY))
            .with_context(|| format!("mount {place:?}"))?;
        Ok(copy)
    }

    /// Whether it is the floor, which knows `run` alone.
    pub fn is_floor(&self) -> bool {
        self.name == FLOOR
    }

    /// What it says of itself, in a line.
    pub fn version(&self) -> String {
        if self.is_floor() {
            return "bench/floor/floor.c".to_owned();
        }
        let output = Command::new(&self.path).arg("--version").output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let line = text.unwrap_or_default().lines().next().unwrap_or("?").to_owned();
        let size = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        format!("{line}, {} KiB", size / 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_a_name_and_a_file_that_is_there() {
        let runtime = Runtime::parse("mine=/bin/sh").unwrap();
        assert_eq!(runtime.name, "mine");
        assert!(runtime.path.is_absolute());
        assert!(Runtime::parse("/bin/sh").is_err());
        assert!(Runtime::parse("mine=/no/such/file").is_err());
    }
}
