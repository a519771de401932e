//! The command: what was typed is parsed, one verb runs, its error is printed
//! once, and the exit code chosen.

#![cfg_attr(not(test), no_main)]

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::fd::IntoRawFd as _;
#[cfg(not(test))]
use std::{
    ffi::{c_char, c_int},
    process::exit,
};

use anyhow::Context as _;
use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use ferrun::apply::security_module;
use ferrun::cli::go;
use ferrun::commands::{Global, dispatch};
use ferrun::sys::{self, arena::Arena, arguments::Arguments};
use ferrun::{bundle, cli, error, log, own_executable};
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

#[global_allocator]
static ARENA: Arena = Arena::new();

/// runc's commands that ferrun does not have.
const REFUSED: [&str; 2] = ["checkpoint", "restore"];

/// The commit of the sources, where the build was told (`make` does). Docker shows it.
const COMMIT: Option<&str> = option_env!("FERRUN_COMMIT");

/// What runc exits with for a command that it does not know.
const UNKNOWN_COMMAND: i32 = 3;
/// What runc's `exec` exits with where the program did not come to run.
const EXEC_FAILED: i32 = 255;

/// The commands that enter a container.
const ENTERING: [&str; 3] = ["create", "run", "exec"];

/// Where the C library begins. Rust's own beginning would come before: it makes ready for
/// stack overflows with ten system calls and two mappings, and this program starts twice.
#[cfg(not(test))]
#[allow(unsafe_code)]
// SAFETY: this is the one `main` of the program, of the type that the C library calls.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, arguments: *const *const c_char) -> c_int {
    // SAFETY: what C promises of `main`'s arguments; nothing here changes them.
    let arguments = unsafe { Arguments::new(arguments) };
    arguments.remember();
    if let Err(error) = begin(arguments) {
        say(&error::message(&error));
        exit(1);
    }
    exit(ferrun(arguments))
}

/// Runs what was typed. Returns the exit code. Not inlined: the start that comes before
/// does without its stack.
#[inline(never)]
#[cfg_attr(test, allow(dead_code))]
fn ferrun(arguments: Arguments) -> i32 {
    let arguments = go::with_help(arguments.iter().map(OsStr::to_owned).collect());
    let command = cli::command_for(&arguments);
    let arguments = go::with_double_dashes(&command, arguments);
    let matches = match command.try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    if matches.get_flag("version") {
        let (version, commit) = (env!("CARGO_PKG_VERSION"), COMMIT.unwrap_or("unknown"));
        let spec = bundle::OCI_VERSION;
        let text = format!("ferrun version {version}\ncommit: {commit}\nspec: {spec}\n");
        return i32::from(std::io::stdout().write_all(text.as_bytes()).is_err());
    }
    let Some((verb, arguments)) = matches.subcommand() else {
        let _ = cli::command().print_help();
        return 0;
    };
    run(verb, arguments, &matches).unwrap_or_else(|error| {
        let message = error::message_around(&error, security_module::around);
        log::failure(&message);
        say(&message);
        if verb == "exec" { EXEC_FAILED } else { 1 }
    })
}

/// Prints why the command failed, with the word that callers look for in each line. Where that
/// cannot be written, the exit code still says it.
fn say(message: &str) {
    let _ = std::io::stderr().write_all(format!("ferrun: error: {message}\n").as_bytes());
}

/// Makes sure of what the rest relies on.
#[cfg_attr(test, allow(dead_code))]
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

fn run(verb: &str, arguments: &ArgMatches, matches: &ArgMatches) -> anyhow::Result<i32> {
    let json = matches.get_one::<String>("log-format").is_some_and(|format| format == "json");
    let format = if json { log::Format::Json } else { log::Format::Text };
    log::open(cli::path_of(matches, "log").as_deref(), format, matches.get_flag("debug"))?;
    log::debug(|| {
        let (version, commit) = (env!("CARGO_PKG_VERSION"), COMMIT.unwrap_or("unknown"));
        format!("ferrun {version}, commit {commit}: {verb}; {}", own_executable::describe())
    });
    dispatch(verb, arguments, &Global::new(matches)?)
}

/// Prints what clap has to say. Returns the exit code that runc would have.
fn usage(error: &clap::Error) -> i32 {
    match error.kind() {
        ErrorKind::DisplayHelp => {
            let _ = error.print();
            0
        }
        kind => {
            match error.get(ContextKind::InvalidSubcommand) {
                Some(ContextValue::String(verb)) if REFUSED.contains(&verb.as_str()) => {
                    say(&format!("{verb}: is not supported yet"));
                }
                _ => say(&cli::reason(&error.to_string())),
            }
            if kind == ErrorKind::InvalidSubcommand { UNKNOWN_COMMAND } else { 1 }
        }
    }
}
