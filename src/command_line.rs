//! The command, whatever program it is in: what was typed is parsed, one verb runs, its error is
//! printed once, and the exit code chosen.

use std::io::Write as _;
use std::os::fd::IntoRawFd as _;
use std::sync::Arc;

use anyhow::Context as _;
use clap::error::ErrorKind;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use crate::apply::security_module;
use crate::cli::Given;
use crate::commands::{Global, dispatch};
use crate::handover::report::Reporter;
use crate::sys::{self, arguments::Arguments, process::OneThread};
use crate::{bundle, cli, error, log, own_executable};

/// What runc exits with for a command that it does not know.
const UNKNOWN_COMMAND: i32 = 3;
/// What runc's `exec` exits with where the program did not come to run.
const EXEC_FAILED: i32 = 255;

/// The commands that enter a container.
const ENTERING: [&str; 3] = ["create", "run", "exec"];

/// C's `main` of a program that is the command, with the `commit` of its sources where its build
/// was told (`make` does). Docker shows it. Returns the exit code.
pub fn main(arguments: Arguments, alone: OneThread, commit: Option<&str>) -> i32 {
    arguments.remember();
    if let Err(error) = begin(arguments) {
        say(&error::message(&error));
        return 1;
    }
    run(arguments, alone, commit.unwrap_or("unknown"))
}

/// Runs what was typed. Returns the exit code. Not inlined: the start that comes before
/// does without its stack.
#[inline(never)]
fn run(arguments: Arguments, alone: OneThread, commit: &str) -> i32 {
    let line = match cli::read(arguments.iter()) {
        Ok(line) => line,
        Err(error) => return usage(&error),
    };
    if line.global.has("version") {
        let version = env!("CARGO_PKG_VERSION");
        let spec = bundle::OCI_VERSION;
        let text = format!("ferrun version {version}\ncommit: {commit}\nspec: {spec}\n");
        return i32::from(std::io::stdout().write_all(text.as_bytes()).is_err());
    }
    let Some((verb, given)) = &line.verb else {
        let _ = cli::command().print_help();
        return 0;
    };
    run_verb(verb, given, &line.global, (alone, commit)).unwrap_or_else(|error| {
        let message = error::message_around(&error, security_module::around);
        log::failure(&message);
        // Who has executed this command to embed it was told, and stderr is the program's.
        if !line.global.has("report") {
            say(&message);
        }
        if *verb == "exec" { EXEC_FAILED } else { 1 }
    })
}

/// Prints why the command failed, with the word that callers look for in each line. Where that
/// cannot be written, the exit code still says it.
fn say(message: &str) {
    let _ = std::io::stderr().write_all(format!("ferrun: error: {message}\n").as_bytes());
}

/// Makes sure of what the rest relies on.
fn begin(arguments: Arguments) -> anyhow::Result<()> {
    // Before all else, because it may start over. An ID of that name does no harm.
    if arguments.iter().any(|argument| ENTERING.iter().any(|verb| argument == *verb)) {
        own_executable::protect(arguments)?;
    }
    open_stdio().context("stdin, stdout and stderr")?;
    // A write to a pipe that nobody reads is an error like any other.
    sys::process::ignore(Signal::SIGPIPE).context("sigaction SIGPIPE")?;
    // A caller may ignore it; then nobody could wait for a child.
    sys::process::set_default_action(Signal::SIGCHLD).context("sigaction SIGCHLD")
}

/// Opens /dev/null for those of the first three descriptors that are closed: nothing that
/// is opened later may take their place.
fn open_stdio() -> anyhow::Result<()> {
    let stdio = [0, 1, 2].map(sys::borrow_descriptor);
    let mut polled = stdio.map(|descriptor| PollFd::new(descriptor, PollFlags::empty()));
    poll(&mut polled, PollTimeout::ZERO).context("poll")?;
    for closed in polled {
        if closed.revents().is_some_and(|events| events.contains(PollFlags::POLLNVAL)) {
            // It gets the lowest number, which is the closed one's.
            let null = open("/dev/null", OFlag::O_RDWR, Mode::empty()).context("/dev/null")?;
            let _ = null.into_raw_fd();
        }
    }
    Ok(())
}

fn run_verb(
    verb: &str,
    given: &Given,
    global: &Given,
    (alone, commit): (OneThread, &str),
) -> anyhow::Result<i32> {
    let json = global.text("log-format") == Some("json");
    let format = if json { log::Format::Json } else { log::Format::Text };
    let reporter = global.number("report").map(Reporter::over).transpose()?;
    let reporter = reporter.map(Arc::new);
    let embedder = reporter
        .clone()
        .map(|reporter| -> log::Warned { Arc::new(move |message| reporter.warn(message)) });
    let file = global.path("log");
    log::open(file.as_deref(), format, global.has("debug"), embedder)?;
    log::debug(|| {
        let version = env!("CARGO_PKG_VERSION");
        format!("ferrun {version}, commit {commit}: {verb}; {}", own_executable::describe())
    });
    dispatch(verb, given, &Global::new(global, reporter, alone)?)
}

/// Prints what clap has to say. Returns the exit code that runc would have.
fn usage(error: &clap::Error) -> i32 {
    match error.kind() {
        ErrorKind::DisplayHelp => {
            let _ = error.print();
            0
        }
        kind => {
            say(&cli::reason(&error.to_string()));
            if kind == ErrorKind::InvalidSubcommand { UNKNOWN_COMMAND } else { 1 }
        }
    }
}
