//! One call of a program, with a bound on its time.
//!
//! What it prints goes to files, not pipes: a container that was detached keeps
//! its creator's stdout open, so the end of a pipe would never come.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sys::{self, Before};

/// How long a call may take unless it is given more. Reaching it fails the test.
const PATIENCE: Duration = Duration::from_secs(30);

/// A call that was not made yet.
#[derive(Debug)]
pub struct Call {
    command: Command,
    arguments: Vec<OsString>,
    /// Where in them options of the verb are put.
    options_at: usize,
    before: Before,
    stdout: PathBuf,
    stderr: PathBuf,
    keeps_stdio: bool,
    patience: Duration,
}

impl Call {
    /// A call of `program` as `user` (None: as the test itself) that prints to
    /// files in `directory` with names starting with `label`.
    pub(crate) fn new(program: &Path, user: Option<u32>, directory: &Path, label: u32) -> Self {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        command.current_dir("/");
        Self {
            command,
            arguments: Vec::new(),
            options_at: 0,
            before: Before { user, ..Before::default() },
            stdout: directory.join(format!("{label}.stdout")),
            stderr: directory.join(format!("{label}.stderr")),
            keeps_stdio: false,
            patience: PATIENCE,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Has later options put here, whatever is added behind: not every runtime
    /// takes them behind the ID.
    pub(crate) fn options_here(mut self) -> Self {
        self.options_at = self.arguments.len();
        self
    }

    /// Adds an option of the verb.
    pub fn flag(mut self, name: &str) -> Self {
        self.arguments.insert(self.options_at, name.into());
        self
    }

    /// Adds an option of the verb with its value.
    pub fn option(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.arguments.insert(self.options_at, value.as_ref().to_owned());
        self.flag(name)
    }

    /// Sets a variable of the environment, which holds only PATH otherwise.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory, which is / otherwise.
    pub fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Gives it this file as stdin.
    pub fn stdin(mut self, file: impl Into<Stdio>) -> Self {
        self.command.stdin(file);
        self
    }

    /// Gives it the null device as stdin, stdout and stderr: a detached container keeps what the
    /// call has.
    pub fn silent(mut self) -> Self {
        self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.keeps_stdio = true;
        self
    }

    /// Gives it this file as stdout, and the null device as stdin and stderr.
    pub fn printing_to(mut self, file: impl Into<Stdio>) -> Self {
        self.command.stdin(Stdio::null()).stdout(file).stderr(Stdio::null());
        self.keeps_stdio = true;
        self
    }

    /// Starts it as the leader of a session with `terminal` as stdio.
    pub fn on_terminal(mut self, terminal: &File) -> Self {
        let again = || terminal.try_clone().expect("dup");
        self.command.stdin(again()).stdout(again()).stderr(again());
        self.keeps_stdio = true;
        self.before.leads_session = true;
        self
    }

    /// Starts it with a session keyring of its own, [`crate::CALLERS_KEYRING`].
    pub fn with_keyring(mut self) -> Self {
        self.before.has_keyring = true;
        self
    }

    /// Starts it inside of the cgroup version 2 at `directory`.
    pub fn in_cgroup(mut self, directory: &Path) -> Self {
        let procs = directory.join("cgroup.procs");
        self.before.join = Some(File::options().write(true).open(procs).expect("cgroup.procs"));
        self
    }

    /// Starts it with this umask.
    pub fn umask(mut self, mask: u32) -> Self {
        self.before.umask = Some(mask);
        self
    }

    /// Starts it as this user, with the group of the same id.
    pub fn user(mut self, id: u32) -> Self {
        self.before.user = Some(id);
        self
    }

    /// Ends it by SIGTERM when the calling thread ends.
    pub fn dies_with_us(mut self) -> Self {
        self.before.dies_with_parent = true;
        self
    }

    /// Gives it this much time.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts it with SIGCHLD ignored.
    pub fn ignoring_children(mut self) -> Self {
        self.before.ignores_children = true;
        self
    }

    /// Starts it without stdin, stdout and stderr.
    pub fn without_stdio(mut self) -> Self {
        self.before.closes_stdio = true;
        self
    }

    /// Starts it in a time namespace of its own with these offsets, as
    /// `boottime 100000 0`.
    pub fn time_offsets(mut self, offsets: &'static str) -> Self {
        self.before.time_offsets = Some(offsets);
        self
    }

    /// Starts it stopped at its execve(2) and traced by the calling thread.
    pub fn traced(mut self) -> Self {
        self.before.traced = true;
        self
    }

    /// Starts it and waits for its end.
    #[track_caller]
    pub fn output(self) -> Output {
        self.spawn().wait()
    }

    /// Starts it.
    #[track_caller]
    pub fn spawn(mut self) -> Running {
        let create = |path: &Path| {
            let file = File::create(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            if let Some(user) = self.before.user {
                std::os::unix::fs::fchown(&file, Some(user), Some(user)).expect("chown");
            }
            file
        };
        let (stdout, stderr) = (create(&self.stdout), create(&self.stderr));
        if !self.keeps_stdio {
            self.command.stdout(stdout).stderr(stderr);
        }
        self.command.args(&self.arguments);
        sys::before_exec(&mut self.command, self.before);
        let line = format!("{:?}", self.command);
        let child = self.command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
        let Self { stdout, stderr, patience, .. } = self;
        Running { child: RefCell::new(child), line, stdout, stderr, patience }
    }
}

/// A call under way. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: RefCell<Child>,
    line: String,
    /// Where its stdout goes.
    pub stdout: PathBuf,
    stderr: PathBuf,
    patience: Duration,
}

impl Running {
    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.borrow().id() as i32)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("kill");
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        read(&self.stdout)
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(self) -> Output {
        let deadline = Instant::now() + self.patience;
        let mut pause = Duration::from_micros(500);
        let status = loop {
            if let Some(status) = self.child.borrow_mut().try_wait().expect("wait") {
                break status;
            }
            if Instant::now() > deadline {
                let printed = self.collect(ExitStatus::from_raw(libc::SIGKILL));
                panic!("no end within {:?}: {printed}", self.patience);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        };
        self.collect(status)
    }

    fn collect(&self, status: ExitStatus) -> Output {
        Output {
            line: self.line.clone(),
            code: status.code().unwrap_or_else(|| -status.signal().unwrap_or(0)),
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        if matches!(child.try_wait(), Ok(None)) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// What came of a call.
#[derive(Debug, Clone)]
pub struct Output {
    line: String,
    /// Its exit code, -N if signal N killed it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl std::fmt::Display for Output {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, code, stdout, stderr } = self;
        write!(out, "{line}\ncode {code}\nstdout:\n{stdout}\nstderr:\n{stderr}")
    }
}

impl Output {
    /// What it printed, with white space cut off both ends.
    ///
    /// # Panics
    /// If it did not exit with 0.
    #[track_caller]
    pub fn success(&self) -> &str {
        assert_eq!(self.code, 0, "{self}");
        self.stdout.trim()
    }

    /// What it complained about.
    ///
    /// # Panics
    /// If its exit code is not `code`.
    #[track_caller]
    pub fn failure(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{self}");
        self.stderr.trim()
    }
}
