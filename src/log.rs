//! The log file that callers ask for with `--log`, warnings, and what `--debug` adds.
//!
//! containerd's shim and conmon read the file back: the last JSON entry of
//! level `error` becomes the text of their own error, and `time` must parse as
//! RFC 3339. So the two formats are runc's.
//!
//! A process on its way into a container writes here by what it has inherited, until
//! [`leave_file`]: from there on nothing of the host's is held, and what is still to be told is
//! its creator's to tell. No value of a variable and no annotation is ever logged.
//!
//! The command has one log. A program that embeds ferrun has one for each [`Runtime`], which gets
//! warnings alone, and each call of it brings that along ([`with`]).
//!
//! [`Runtime`]: crate::Runtime

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result};

use crate::error::one_line;
use crate::time;

static LOG: OnceLock<Log> = OnceLock::new();
/// Whether this process logs what `--debug` shows.
static DEBUG: AtomicBool = AtomicBool::new(false);
static HAS_LEFT: AtomicBool = AtomicBool::new(false);
/// How many calls have a log of their own now, in whatever thread.
static CALLS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// That of the call that this thread is in.
    static OF_CALL: RefCell<Option<Warned>> = const { RefCell::new(None) };
}

/// Who gets warnings, each one line.
pub type Warned = Arc<dyn Fn(&str) + Send + Sync>;

/// How entries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `time="..." level=error msg="..."`.
    #[default]
    Text,
    /// One JSON object a line: level, msg, time.
    Json,
}

/// The importance of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Shown with `--debug` only.
    Debug,
    /// Something was passed over, and the operation goes on.
    Warning,
    /// The operation failed.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

struct Log {
    /// None: to stderr.
    file: Option<File>,
    /// Who has executed this command to embed it, and gets warnings where there is no file.
    embedder: Option<Warned>,
    /// The caller's stderr where `--debug` needs it: the one by that number becomes the
    /// container's terminal.
    stderr: Option<File>,
    format: Format,
}

/// Opens the log for the rest of the process, appending. Without a file, warnings go to the
/// `embedder`, and without one to stderr.
pub fn open(
    path: Option<&Path>,
    format: Format,
    debug: bool,
    embedder: Option<Warned>,
) -> Result<()> {
    let file = path
        .map(|path| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o644)
                .open(path)
                .with_context(|| format!("--log: {path:?}"))
        })
        .transpose()?;
    let stderr = (debug && file.is_none())
        .then(|| rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).map(File::from))
        .transpose()
        .context("--debug: stderr")?;
    // Only main calls this, and once.
    let _ = LOG.set(Log { file, embedder, stderr, format });
    DEBUG.store(debug, Ordering::Relaxed);
    Ok(())
}

/// Writes no more to the files, whose numbers may be others' from now on: warnings go to
/// stderr, and what `--debug` shows nowhere. For a process that closes what is the caller's.
pub fn leave_file() {
    HAS_LEFT.store(true, Ordering::Relaxed);
    DEBUG.store(false, Ordering::Relaxed);
}

/// Makes a call whose warnings are for this one.
pub fn with<T>(warned: &Warned, call: impl FnOnce() -> T) -> T {
    /// Takes it back, also where the call panics.
    struct Back(Option<Warned>);
    impl Drop for Back {
        fn drop(&mut self) {
            OF_CALL.set(self.0.take());
            CALLS.fetch_sub(1, Ordering::Relaxed);
        }
    }
    CALLS.fetch_add(1, Ordering::Relaxed);
    let _back = Back(OF_CALL.replace(Some(Arc::clone(warned))));
    call()
}

/// Logs that something is passed over; the operation goes on.
pub fn warn(message: impl AsRef<str>) {
    write(Level::Warning, &one_line(message.as_ref()));
}

/// Logs what only `--debug` shows: a step, a decision, or a refusal that is not an error
/// because something else is done then. The message is not made where nobody asked for it.
pub fn debug<S: AsRef<str>>(message: impl FnOnce() -> S) {
    if DEBUG.load(Ordering::Relaxed) {
        write(Level::Debug, &one_line(message().as_ref()));
    }
}

/// Writes why the command failed to the log file, if there is one. `main` alone
/// calls it, and prints the same to stderr itself.
pub fn failure(message: &str) {
    if LOG.get().is_some_and(|log| log.file.is_some()) {
        write(Level::Error, message);
    }
}

fn write(level: Level, message: &str) {
    if CALLS.load(Ordering::Relaxed) > 0
        && let Some(warned) = OF_CALL.with_borrow(Option::clone)
    {
        return warned(message);
    }
    let entry = |log: &Log| entry(log.format, level, message);
    // A log that cannot be written must not fail the operation. Each entry is one write, so
    // that those of two processes do not mix.
    let _ = match LOG.get().filter(|_| !HAS_LEFT.load(Ordering::Relaxed)) {
        Some(log @ Log { file: Some(file), .. }) => (&*file).write_all(entry(log).as_bytes()),
        Some(log @ Log { stderr: Some(stderr), .. }) if level == Level::Debug => {
            (&*stderr).write_all(entry(log).as_bytes())
        }
        Some(Log { embedder: Some(warned), .. }) if level == Level::Warning => {
            warned(message);
            Ok(())
        }
        _ => {
            let line = format!("ferrun: {}: {message}\n", level.name());
            std::io::stderr().write_all(line.as_bytes())
        }
    };
}

fn entry(format: Format, level: Level, message: &str) -> String {
    let time = time::now_rfc3339(0);
    match format {
        Format::Json => {
            let message = serde_json::Value::from(message);
            format!("{{\"level\":\"{}\",\"msg\":{message},\"time\":\"{time}\"}}\n", level.name())
        }
        Format::Text => {
            let message = serde_json::Value::from(message);
            format!("time=\"{time}\" level={} msg={message}\n", level.name())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_entry_has_the_keys_that_the_shim_reads() {
        let line = entry(Format::Json, Level::Error, "mounts[0]: \"no\"\nsecond");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["msg"], "mounts[0]: \"no\"\nsecond");
        assert!(value["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn each_call_has_its_own_log_and_gives_it_back() {
        use std::sync::Mutex;
        let heard: [Arc<Mutex<Vec<String>>>; 2] = Default::default();
        let to = |heard: &Arc<Mutex<Vec<String>>>| -> Warned {
            let heard = Arc::clone(heard);
            Arc::new(move |line| heard.lock().unwrap().push(line.to_owned()))
        };
        let [outer, inner] = heard.each_ref().map(to);
        with(&outer, || {
            warn("one");
            with(&inner, || warn("two\nlines"));
            let panics = std::panic::AssertUnwindSafe(|| with(&inner, || panic!("as some do")));
            let panicked = std::panic::catch_unwind(panics);
            assert!(panicked.is_err());
            std::thread::spawn(|| warn("another thread's")).join().unwrap();
            warn("three");
        });
        let heard = heard.map(|heard| heard.lock().unwrap().clone());
        assert_eq!(heard, [vec!["one", "three"], vec!["two lines"]]);
        assert_eq!(CALLS.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_text_entry_is_one_line_of_logfmt() {
        let line = entry(Format::Text, Level::Warning, "a \"b\"");
        assert!(line.contains(r#" level=warning msg="a \"b\"""#), "{line}");
    }
}
