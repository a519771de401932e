//! Calling hooks: the state on stdin, a bound on the time, and what a failing
//! hook said.

use std::fs::File;
use std::io::{ErrorKind, PipeReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, WaitOptions, WaitStatus, pidfd_open, waitpid};

use super::process::Confined;
use crate::channel::gate::Verdict;
use crate::error::{InField as _, Kind, OfKind as _, message};
use crate::log;
use crate::plan::hooks::Hook;
use crate::sys::process::{Clone3, Cloned, OneThread, clone3, exit_now, spawn_with_signals};

/// How much of what a hook prints is kept for the error, in bytes.
const KEPT: usize = 4096;
/// How many of its last lines the error repeats.
const LINES: usize = 5;

/// Calls hooks in order, until one fails. They start in `directory`.
pub fn run(hooks: &[Hook], state: &str, directory: &Path) -> Result<()> {
    hooks.iter().try_for_each(|hook| named(hook, run_one(hook, state, directory)))
}

/// Calls all hooks in order; a failure is logged and the next one called
/// (runtime.md#lifecycle, poststop).
pub fn run_all(hooks: &[Hook], state: &str, directory: &Path) {
    if hooks.is_empty() {
        return;
    }
    // A bundle may be gone before its container.
    let directory = if directory.is_dir() { directory } else { Path::new("/") };
    for hook in hooks {
        if let Err(error) = named(hook, run_one(hook, state, directory)) {
            log::warn(message(&error));
        }
    }
}

/// Names the hook that has failed by its place in the configuration, and with the words by
/// which callers of runc know it: `hooks.prestart[0]: error running prestart hook #0`.
fn named(hook: &Hook, called: Result<()>) -> Result<()> {
    let name = hook.field.trim_start_matches("hooks.").trim_end_matches(']');
    let (kind, number) = name.split_once('[').unwrap_or((name, "0"));
    let words = || format!("error running {kind} hook #{number}");
    called.with_context(words).in_field(&hook.field).of_kind(Kind::Hook)
}

fn run_one(hook: &Hook, state: &str, directory: &Path) -> Result<()> {
    log::debug(|| format!("{}: {:?}: called in {directory:?}", hook.field, hook.path));
    let (output, writer) = std::io::pipe().context("pipe")?;
    let mut command = Command::new(&hook.path);
    let mut args = hook.args.iter();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command
        .args(args)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(writer.try_clone().context("dup")?)
        .stderr(writer)
        // A group of its own, so that a hook that takes too long goes as a whole.
        .process_group(0);
    if let Some(env) = &hook.env {
        command.env_clear();
        for variable in env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            command.env(name, value);
        }
    }
    let mut child = spawn_with_signals(&mut command).with_context(|| format!("{:?}", hook.path))?;
    drop(command);
    let stdin = child.stdin.take().map(OwnedFd::from);
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    supervise(hook, state, pid, stdin, output)
}

/// Calls hooks in order as the program itself will run: as its user, with its
/// capabilities, under its filter, in its files. They may be the container's own.
pub fn run_confined(
    alone: OneThread,
    hooks: &[Hook],
    confined: &Confined<'_>,
    state: &str,
) -> Result<()> {
    hooks.iter().try_for_each(|hook| named(hook, run_one_confined(alone, hook, confined, state)))
}

fn run_one_confined(
    alone: OneThread,
    hook: &Hook,
    confined: &Confined<'_>,
    state: &str,
) -> Result<()> {
    let (output, writer) = std::io::pipe().context("pipe")?;
    let (reader, stdin) = std::io::pipe().context("pipe")?;
    let verdict = Verdict::new()?;
    let program = confined.instead(&hook.path, &hook.args, hook.env.as_deref())?;
    let pid = match clone3(alone, &Clone3::default()).context("clone3")? {
        Cloned::Parent(pid, _) => pid,
        Cloned::Child(_) => {
            let run = || -> Result<()> {
                nix::unistd::setpgid(nix::unistd::Pid::from_raw(0), nix::unistd::Pid::from_raw(0))?;
                rustix::stdio::dup2_stdin(&reader)?;
                rustix::stdio::dup2_stdout(&writer)?;
                rustix::stdio::dup2_stderr(&writer)?;
                program.execute(&verdict, None).map(drop)
            };
            if let Err(error) = run() {
                let _ = writeln!(std::io::stderr(), "{}", message(&error));
            }
            exit_now(1)
        }
    };
    drop((reader, writer));
    let ended = supervise(hook, state, pid, Some(stdin.into()), output);
    match verdict.errno() {
        Some(errno) => Err(errno).context("exec").with_context(|| format!("{:?}", hook.path)),
        None => ended,
    }
}

/// The end of a hook, whatever it was. By rustix, since nix has no name for a real-time
/// signal.
fn waited(pid: nix::unistd::Pid) -> Result<WaitStatus> {
    let pid = Pid::from_raw(pid.as_raw());
    rustix::io::retry_on_intr(|| waitpid(pid, WaitOptions::empty()))
        .context("waitpid")?
        .map(|(_, status)| status)
        .context("waitpid: nothing to tell")
}

/// Feeds the state to a hook that was started, waits for it, and says how it failed.
fn supervise(
    hook: &Hook,
    state: &str,
    pid: nix::unistd::Pid,
    stdin: Option<OwnedFd>,
    output: PipeReader,
) -> Result<()> {
    let mut talk =
        Talk { stdin: stdin.map(File::from), state: state.as_bytes(), output, said: vec![] };
    let in_time = talk.until_the_end(pid, hook.timeout);
    if !matches!(in_time, Ok(true)) {
        let _ = killpg(pid, Signal::SIGKILL);
    }
    // Waits for the hook itself, not for what it left running with its output open.
    let status = waited(pid)?;
    let in_time = in_time?;
    talk.listen();
    let reason = match (in_time, status.exit_status(), status.terminating_signal()) {
        (true, Some(0), _) => {
            log::debug(|| format!("{}: {:?}: has ended well", hook.field, hook.path));
            return Ok(());
        }
        (true, Some(code), _) => format!("exit status {code}"),
        (true, None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {number}"),
        },
        (true, None, None) => format!("{status:?}"),
        (false, ..) => format!("timed out after {} s", hook.timeout.unwrap_or_default().as_secs()),
    };
    let said = String::from_utf8_lossy(&talk.said);
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("; ");
    if last.is_empty() {
        bail!("{:?}: {reason}", hook.path);
    }
    bail!("{:?}: {reason}: {last}", hook.path)
}

/// What goes to a hook and comes from it. Neither direction waits for the other, nor for a
/// hook that does not read: only the end of the hook, or of its time, is waited for.
struct Talk<'a> {
    /// None when all was written, or nobody reads it.
    stdin: Option<File>,
    /// What is still to be written.
    state: &'a [u8],
    output: PipeReader,
    /// The end of what the hook has said.
    said: Vec<u8>,
}

impl Talk<'_> {
    /// Whether the hook has ended within its time.
    fn until_the_end(&mut self, pid: nix::unistd::Pid, timeout: Option<Duration>) -> Result<bool> {
        // A time that the clock cannot count does not come.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let pid = Pid::from_raw(pid.as_raw()).context("the hook has no pid")?;
        let process = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
        let stdin = self.stdin.as_ref().map(|stdin| stdin.as_fd());
        for pipe in stdin.into_iter().chain([self.output.as_fd()]) {
            let flags = rustix::fs::fcntl_getfl(pipe).context("fcntl")?;
            rustix::fs::fcntl_setfl(pipe, flags | OFlags::NONBLOCK).context("fcntl")?;
        }
        let mut listens = true;
        loop {
            let left = match deadline {
                None => None,
                Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                    None => return Ok(false),
                    Some(left) => Some(Timespec::try_from(left)?),
                },
            };
            let mut fds = vec![PollFd::new(&process, PollFlags::IN)];
            fds.extend(listens.then(|| PollFd::new(&self.output, PollFlags::IN)));
            fds.extend(self.stdin.as_ref().map(|stdin| PollFd::new(stdin, PollFlags::OUT)));
            match poll(&mut fds, left.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno).context("poll"),
            }
            if fds.first().is_some_and(|process| !process.revents().is_empty()) {
                return Ok(true);
            }
            drop(fds);
            self.tell();
            listens &= self.listen();
        }
    }

    /// Writes what there is room for.
    fn tell(&mut self) {
        while let Some(stdin) = &mut self.stdin {
            match stdin.write(self.state) {
                Ok(length @ 1..) => {
                    self.state = self.state.get(length..).unwrap_or_default();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // All was written, or the hook has closed its end, as it may.
                _ => self.stdin = None,
            }
        }
    }

    /// Reads what there is, and keeps the end of it. Returns whether more may come.
    fn listen(&mut self) -> bool {
        let mut buffer = [0; KEPT];
        loop {
            match self.output.read(&mut buffer) {
                Ok(length @ 1..) => {
                    self.said.extend_from_slice(buffer.get(..length).unwrap_or_default());
                    let excess = self.said.len().saturating_sub(KEPT);
                    self.said.drain(..excess);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
                Ok(0) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs them anywhere.
    fn run(hooks: &[Hook], state: &str) -> Result<()> {
        super::run(hooks, state, Path::new("/"))
    }

    fn hook(script: &str, timeout: Option<u64>) -> Hook {
        Hook {
            field: "hooks.prestart[0]".into(),
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: Some(vec!["K=v".into()]),
            timeout: timeout.map(Duration::from_secs),
        }
    }

    #[test]
    fn a_hook_gets_the_state_and_its_own_environment() {
        let check = r#"read line; [ "$line" = state ] && [ "$K" = v ] && [ -z "$HOME" ]"#;
        run(&[hook(check, None)], "state\n").unwrap();
    }

    #[test]
    fn a_failing_hook_is_named_with_its_last_words() {
        let error = run(&[hook("for i in 1 2 3 4 5 6 7; do echo $i >&2; done; exit 3", None)], "")
            .unwrap_err();
        assert_eq!(
            message(&error),
            r#"hooks.prestart[0]: error running prestart hook #0: "/bin/sh": exit status 3: 3; 4; 5; 6; 7"#
        );
        let missing = Hook { path: "/no/such/hook".into(), ..hook("", None) };
        let error = run(&[missing], "").unwrap_err();
        assert!(message(&error).contains("No such file or directory"), "{error:#}");
    }

    #[test]
    fn a_hook_that_takes_too_long_is_ended() {
        let start = Instant::now();
        let error = run(&[hook("echo slow; sleep 60", Some(1))], "").unwrap_err();
        assert_eq!(
            message(&error),
            r#"hooks.prestart[0]: error running prestart hook #0: "/bin/sh": timed out after 1 s: slow"#
        );
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn what_a_hook_leaves_running_is_not_waited_for() {
        let start = Instant::now();
        // A shell gives what it leaves running /dev/null for stdin, unless it is told not to.
        for (script, state) in
            [("sleep 30 & exit 0", String::new()), ("sleep 30 <&0 & exit 0", "x".repeat(200_000))]
        {
            run(&[hook(script, None)], &state).unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn what_a_hook_reads_late_or_while_it_talks_is_whole() {
        let state = "x".repeat(300_000);
        let check = r#"sleep 0.2; head -c 200000 /dev/zero; [ "$(cat | wc -c)" -eq 300000 ]"#;
        run(&[hook(check, Some(20))], &state).unwrap();
    }

    #[test]
    fn no_time_is_too_long() {
        let hook = Hook { timeout: Some(Duration::from_secs(i64::MAX as u64)), ..hook("", None) };
        run(&[hook], "").unwrap();
    }
}
