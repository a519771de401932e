//! The command: what was typed is parsed, one verb runs, its error is printed
//! once, and the exit code chosen.

use std::process::exit;

use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use ferrun::commands::{Global, dispatch};
use ferrun::sys::{self, arena::Arena};
use ferrun::{bundle, cli, error, log, own_executable};

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

fn main() {
    // A caller may ignore SIGCHLD; then nobody could wait for a child.
    let _ = sys::process::set_default_action(nix::sys::signal::Signal::SIGCHLD);
    // Before all else, because it may start over. An ID of that name does no harm.
    if std::env::args_os().any(|argument| ENTERING.iter().any(|verb| argument == *verb))
        && let Err(error) = own_executable::protect()
    {
        eprintln!("ferrun: {}", error::message(&error));
        exit(1);
    }
    let arguments = cli::with_help(cli::with_double_dashes(std::env::args_os()));
    let matches = match cli::command_for(&arguments).try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => exit(usage(&error)),
    };
    if matches.get_flag("version") {
        let (version, commit) = (env!("CARGO_PKG_VERSION"), COMMIT.unwrap_or("unknown"));
        println!("ferrun version {version}\ncommit: {commit}\nspec: {}", bundle::OCI_VERSION);
        return;
    }
    let Some((verb, arguments)) = matches.subcommand() else {
        let _ = cli::command().print_help();
        return;
    };
    let code = match run(verb, arguments, &matches) {
        Ok(code) => code,
        Err(error) => {
            let message = error::message(&error);
            log::failure(&message);
            eprintln!("ferrun: {message}");
            if verb == "exec" { EXEC_FAILED } else { 1 }
        }
    };
    exit(code)
}

fn run(verb: &str, arguments: &ArgMatches, matches: &ArgMatches) -> anyhow::Result<i32> {
    let json = matches.get_one::<String>("log-format").is_some_and(|format| format == "json");
    let format = if json { log::Format::Json } else { log::Format::Text };
    log::open(cli::path_of(matches, "log").as_deref(), format, matches.get_flag("debug"))?;
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
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            match error.get(ContextKind::InvalidSubcommand) {
                Some(ContextValue::String(verb)) if REFUSED.contains(&verb.as_str()) => {
                    eprintln!("ferrun: {verb}: is not supported yet");
                }
                _ => eprintln!("ferrun: {}", line.strip_prefix("error: ").unwrap_or(line)),
            }
            if kind == ErrorKind::InvalidSubcommand { UNKNOWN_COMMAND } else { 1 }
        }
    }
}
