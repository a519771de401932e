//! Runs the program and looks at what it leaves.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of a test's own; kept for inspection where the test fails.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("image-tool-{}-{count}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept: {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// The program with an empty environment, so that no login or proxy of ours gets in.
pub fn image_tool(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_image-tool"));
    command.env_clear().env("HOME", home).current_dir(home);
    command
}

pub fn pull(scratch: &Scratch, reference: &str, arguments: &[&str]) -> Output {
    let mut command = image_tool(scratch.path());
    command.args(["pull", reference, "bundle"]).args(arguments).output().unwrap()
}

/// Pulls into `bundle` and returns its rootfs.
#[track_caller]
pub fn pull_well(scratch: &Scratch, reference: &str, arguments: &[&str]) -> PathBuf {
    let output = pull(scratch, reference, arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    scratch.join("bundle/rootfs")
}

/// Pulls in vain: one line on standard error, exit code 1, and nothing left.
#[track_caller]
pub fn pull_badly(scratch: &Scratch, reference: &str, arguments: &[&str]) -> String {
    let before = names(scratch.path());
    let output = pull(scratch, reference, arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_eq!(names(scratch.path()), before, "something was left: {message}");
    let errors: Vec<&str> =
        message.lines().filter(|line| line.starts_with("image-tool: ")).collect();
    assert_eq!(errors.len(), 1, "{message}");
    errors[0].trim_start_matches("image-tool: ").to_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub fn config(scratch: &Scratch) -> serde_json::Value {
    serde_json::from_slice(&fs::read(scratch.join("bundle/config.json")).unwrap()).unwrap()
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that a test did not run, and why; past the harness, which shows nothing
/// of a test that passes.
pub fn report_skip(reason: std::fmt::Arguments<'_>) {
    let thread = std::thread::current();
    let line = format!("SKIP: {}: {reason}\n", thread.name().unwrap_or_default());
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::tool::report_skip(format_args!($($reason)*));
        return;
    }};
}

macro_rules! skip_unless_root {
    () => {
        if !$crate::tool::is_root() {
            $crate::tool::skip!("needs root");
        }
    };
}

pub(crate) use {skip, skip_unless_root};
