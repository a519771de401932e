//! The command line, which is runc's: what was typed, and nothing looked up.
//!
//! Each verb's arguments are built only when that verb is given: building all
//! of them would cost more than `state` does.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::error::{message, one_line};
use crate::plan::numbers::parse_id;

/// No process has more descriptors, unless its machine was told so (fs.nr_open).
pub const MOST_DESCRIPTORS: u32 = 1 << 20;

/// Adds a verb's arguments to its command.
type Arguments = fn(Command) -> Command;

/// The verbs in the order of the help.
const VERBS: [(&str, &str, Arguments); 15] = [
    ("create", "Create a container", create),
    ("delete", "Delete a container, what it made, and its ID", delete),
    ("events", "Print what a container uses, as JSON, and when memory runs out", events),
    ("exec", "Run another process in a container", exec),
    ("features", "Print what this runtime can do, as JSON", |command| command),
    ("kill", "Send a signal to a container's init process", kill),
    ("list", "List containers", list),
    ("pause", "Freeze every process of a container", one_id),
    ("ps", "List the processes of a container", ps),
    ("resume", "Let the processes of a paused container run", one_id),
    ("run", "Create and start a container", run),
    ("spec", "Write a config.json to start from", spec),
    ("start", "Run the program of a created container", one_id),
    ("state", "Print the state of a container, as JSON", one_id),
    ("update", "Change the limits of a container", update),
];

/// The whole command.
pub fn command() -> Command {
    with_verbs(|_| true)
}

/// The command as far as `arguments` need it: with the verbs that are among them. Where
/// none is, or help is asked for, it is whole.
pub fn command_for(arguments: &[OsString]) -> Command {
    let given = |word: &str| arguments.iter().any(|argument| argument == word);
    let is_whole = given("--help") || given("-h") || !VERBS.iter().any(|(name, ..)| given(name));
    with_verbs(|name| is_whole || given(name))
}

fn with_verbs(is_wanted: impl Fn(&str) -> bool) -> Command {
    let command = Command::new("ferrun")
        .about("OCI container runtime")
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        // As for Go programs: what is given twice is what it was given last.
        .args_override_self(true)
        .arg(flag("version", "Print the version").short('v'))
        .arg(path("root", "Where containers are remembered"))
        .arg(path("log", "Append warnings and errors to this file"))
        .arg(text("log-format", "text (the default) or json").value_parser(["text", "json"]))
        .arg(flag("debug", "Log each step and decision too, to stderr without --log"))
        .arg(flag("systemd-cgroup", "Let systemd make the cgroups of containers (cgroup v2)"))
        .arg(
            text(
                "cgroup-manager",
                "Who makes cgroups: cgroupfs (the default), systemd, or disabled for none at all",
            )
            .value_parser(["cgroupfs", "systemd", "disabled"]),
        )
        .arg(
            // Not named like `spec --rootless`, which would be the same argument to clap.
            Arg::new("global-rootless")
                .long("rootless")
                .value_name("BOOL")
                .value_parser(["true", "false", "auto"])
                .help("Go on where cgroups cannot be used: true, false or auto"),
        );
    let wanted = VERBS.iter().filter(|(name, ..)| is_wanted(name));
    wanted.fold(command, |command, (name, about, arguments)| {
        command.subcommand(Command::new(*name).about(*about).defer(*arguments))
    })
}

fn one_id(command: Command) -> Command {
    command.arg(id())
}

fn create(command: Command) -> Command {
    creating(command).arg(id())
}

fn run(command: Command) -> Command {
    creating(command)
        .arg(flag("detach", "Do not wait for the end of the container").short('d'))
        .arg(flag("keep", "Do not delete the container after its end"))
        .arg(flag("no-subreaper", "Do not reap what the container leaves behind"))
        .arg(id())
}

fn creating(command: Command) -> Command {
    command
        .arg(path("bundle", "The directory of the bundle").short('b').default_value("."))
        .arg(path("config", "Another file than config.json in the bundle").short('f'))
        .arg(path("console-socket", "A socket that gets the terminal"))
        .arg(path("pidfd-socket", "A socket that gets a pidfd of the init process"))
        .arg(path("pid-file", "Write the pid of the init process to this file"))
        .arg(flag("no-pivot", "Use chroot instead of pivot_root"))
        .arg(flag("no-new-keyring", "Keep the session keyring of the caller"))
        .arg(preserve_fds())
}

fn events(command: Command) -> Command {
    command
        .arg(text("interval", "Time between two prints, 5s where it is not given"))
        .arg(flag("stats", "Print once"))
        .arg(id())
}

fn exec(command: Command) -> Command {
    command
        .arg(path("console-socket", "A socket that gets the terminal"))
        .arg(path("pidfd-socket", "A socket that gets a pidfd of the process"))
        .arg(text("cwd", "The working directory"))
        .arg(text("env", "A variable NAME=VALUE").short('e').action(ArgAction::Append))
        .arg(flag("tty", "Use a terminal").short('t'))
        .arg(text("user", "UID[:GID]").short('u'))
        .arg(
            text("additional-gids", "A group besides the container's")
                .short('g')
                .value_delimiter(',')
                .value_parser(|text: &str| parse_id(text).map_err(|error| message(&error)))
                .action(ArgAction::Append),
        )
        .arg(path("process", "A file with the process, as JSON").short('p'))
        .arg(flag("detach", "Do not wait for the end of the process").short('d'))
        .arg(path("pid-file", "Write the pid of the process to this file"))
        .arg(text("process-label", "The SELinux label"))
        .arg(text("apparmor", "The AppArmor profile"))
        .arg(flag("no-new-privs", "Set no_new_privs"))
        .arg(
            text("cap", "A capability besides the container's")
                .short('c')
                .action(ArgAction::Append),
        )
        .arg(preserve_fds())
        .arg(
            text("cgroup", "A cgroup below the container's, [CONTROLLER[,...]:]PATH")
                .action(ArgAction::Append),
        )
        .arg(flag("ignore-paused", "Wait up to 10 s for a paused container to be resumed"))
        .arg(id())
        .arg(
            Arg::new("args")
                .value_name("COMMAND")
                .action(ArgAction::Append)
                .num_args(0..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true)
                .help("The program and its arguments"),
        )
}

fn kill(command: Command) -> Command {
    command
        .arg(flag("all", "Send it to every process of the container").short('a').hide(true))
        .arg(id())
        .arg(
            Arg::new("signal")
                .value_name("SIGNAL")
                .default_value("SIGTERM")
                .help("A name or a number"),
        )
}

fn delete(command: Command) -> Command {
    command
        .arg(flag("force", "Kill it first, and do not mind if it is not there").short('f'))
        .arg(id())
}

fn list(command: Command) -> Command {
    command.arg(format()).arg(flag("quiet", "Print IDs only").short('q'))
}

fn ps(command: Command) -> Command {
    command.arg(format()).arg(id()).arg(
        Arg::new("args")
            .value_name("OPTIONS")
            .action(ArgAction::Append)
            .num_args(0..)
            .trailing_var_arg(true)
            .allow_hyphen_values(true)
            .help("Options of ps(1), -ef where none is given"),
    )
}

fn update(command: Command) -> Command {
    let command = command.arg(
        text("resources", "A file with linux.resources as JSON, - for stdin")
            .short('r')
            .allow_hyphen_values(true),
    );
    crate::commands::update::options()
        .fold(command, |command, (name, help)| {
            // An empty value leaves the limit as it is.
            let option = text(name, help).value_parser(value_parser!(String));
            command.arg(option.allow_hyphen_values(true))
        })
        .arg(id())
}

fn spec(command: Command) -> Command {
    command
        .arg(path("bundle", "Where to write it").short('b').default_value("."))
        .arg(flag("rootless", "For an ordinary user"))
}

fn id() -> Arg {
    Arg::new("id").value_name("ID").required(true).help("The container's ID")
}

fn format() -> Arg {
    text("format", "table (the default) or json")
        .short('f')
        .value_parser(["table", "json"])
        .default_value("table")
}

fn preserve_fds() -> Arg {
    Arg::new("preserve-fds")
        .long("preserve-fds")
        .value_name("N")
        .value_parser(value_parser!(u32).range(..=i64::from(MOST_DESCRIPTORS)))
        .default_value("0")
        .help("Pass this many descriptors after stdio on")
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// Whether a verb, or the command itself, has a switch of this name.
fn is_switch(verb: &str, name: &str) -> bool {
    const SWITCHES: &[&str] = &[
        "a",
        "all",
        "d",
        "debug",
        "detach",
        "force",
        "ignore-paused",
        "keep",
        "no-new-keyring",
        "no-new-privs",
        "no-pivot",
        "no-subreaper",
        "q",
        "quiet",
        "stats",
        "systemd-cgroup",
        "t",
        "tty",
        "v",
        "version",
    ];
    // Others have options with a value by these names.
    SWITCHES.contains(&name) || matches!((verb, name), ("spec", "rootless") | ("delete", "f"))
}

/// What Go's strconv.ParseBool makes of a text.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn path(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("PATH").value_parser(value_parser!(PathBuf)).help(help)
}

fn text(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("VALUE")
        .value_parser(NonEmptyStringValueParser::new())
        .help(help)
}

/// The arguments as Go programs take them, written as others do: `-long-option` has one
/// dash more, and containerd sends `-no-subreaper`; `--switch=true` is the switch, and
/// `--switch=false` none, for callers who fill in a template. What follows the ID of
/// `exec` is the program's.
pub fn with_double_dashes(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    /// Options with a value of their own, which is not an ID.
    const WITH_VALUE: &[&str] = &[
        "interval",
        "cgroup-manager",
        "config",
        "root",
        "log",
        "log-format",
        "rootless",
        "bundle",
        "b",
        "console-socket",
        "pidfd-socket",
        "pid-file",
        "preserve-fds",
        "cwd",
        "env",
        "e",
        "user",
        "u",
        "process",
        "p",
        "cap",
        "c",
        "additional-gids",
        "g",
        "apparmor",
        "process-label",
        "cgroup",
        "resources",
        "r",
        "format",
        "f",
    ];
    let mut rewritten = Vec::new();
    let (mut positional, mut is_exec, mut value_follows) = (0, false, false);
    let mut verb = String::new();
    for (at, argument) in arguments.enumerate() {
        let text = argument.to_str().unwrap_or_default().to_owned();
        if at == 0 || value_follows || (is_exec && positional >= 2) || !text.starts_with('-') {
            if at > 0 && !value_follows {
                positional += 1;
                if positional == 1 {
                    is_exec = text == "exec";
                    verb = text;
                }
            }
            value_follows = false;
            rewritten.push(argument);
            continue;
        }
        let name = text.trim_start_matches('-');
        let of_update = || crate::commands::update::options().any(|(option, _)| option == name);
        if let Some((switch, value)) = name.split_once('=')
            && is_switch(&verb, switch)
            && let Some(value) = truth(value)
        {
            let dashes = if switch.len() > 1 { "--" } else { "-" };
            let switch = OsString::from(format!("{dashes}{switch}"));
            if value {
                rewritten.push(switch);
            } else {
                rewritten.retain(|other| *other != switch);
            }
            continue;
        }
        value_follows = !is_switch(&verb, name) && (WITH_VALUE.contains(&name) || of_update());
        let is_long = name.split('=').next().is_some_and(|name| name.len() > 1);
        // `-uID` and the like are one letter and its value.
        let is_known = command_knows(name);
        if !text.starts_with("--") && is_long && is_known {
            rewritten.push(format!("-{text}").into());
        } else {
            rewritten.push(argument);
        }
    }
    rewritten
}

/// The arguments with `help` and `help VERB`, which runc has, as `--help` and
/// `VERB --help`: a verb of that name would have to know all others.
pub fn with_help(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if arguments.get(1).is_some_and(|verb| verb == "help" || verb == "h") {
        arguments.remove(1);
        arguments.truncate(2);
        arguments.push("--help".into());
    }
    arguments
}

/// Whether some verb has a long option of this name.
fn command_knows(option: &str) -> bool {
    const LONG: &[&str] = &[
        "interval",
        "cgroup-manager",
        "config",
        "additional-gids",
        "all",
        "apparmor",
        "bundle",
        "cap",
        "cgroup",
        "console-socket",
        "cwd",
        "debug",
        "detach",
        "env",
        "force",
        "format",
        "help",
        "ignore-paused",
        "keep",
        "log",
        "log-format",
        "no-new-keyring",
        "no-new-privs",
        "no-pivot",
        "no-subreaper",
        "pid-file",
        "pidfd-socket",
        "preserve-fds",
        "process",
        "process-label",
        "quiet",
        "root",
        "rootless",
        "systemd-cgroup",
        "tty",
        "user",
        "version",
        "resources",
        "stats",
    ];
    let name = option.split('=').next().unwrap_or(option);
    LONG.contains(&name) || crate::commands::update::options().any(|(option, _)| option == name)
}

/// What clap says, as one line: the first paragraph, without its usage and its tips.
pub fn reason(said: &str) -> String {
    let lines = said.lines().map(str::trim).take_while(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    match line.strip_prefix("unrecognized subcommand ") {
        // What callers of runc look for, to learn which commands there are.
        Some(word) => one_line(&format!("No help topic for {word}: there is no such command")),
        None => one_line(line),
    }
}

/// The value of an option that holds a path.
pub fn path_of(matches: &ArgMatches, name: &str) -> Option<PathBuf> {
    matches.get_one::<PathBuf>(name).cloned()
}

/// The value of an option that holds a text.
pub fn text_of(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}

/// The ID, which every verb but a few requires.
pub fn id_of(matches: &ArgMatches) -> &str {
    matches.get_one::<String>("id").map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> ArgMatches {
        let arguments = line.split_whitespace().map(OsString::from);
        let arguments = with_double_dashes(arguments);
        command_for(&arguments).try_get_matches_from(arguments).unwrap()
    }

    #[test]
    fn every_verb_can_be_parsed() {
        for line in [
            "ferrun create --bundle /b --pid-file p c",
            "ferrun delete --force c",
            "ferrun exec c true",
            "ferrun events --interval=1s c",
            "ferrun events --stats c",
            "ferrun features",
            "ferrun --rootless true kill c 9",
            "ferrun list -q",
            "ferrun pause c",
            "ferrun ps --format json c",
            "ferrun ps c aux",
            "ferrun resume c",
            "ferrun update --resources - c",
            "ferrun update --memory -1 --pids-limit=5 c",
            "ferrun run c",
            "ferrun --rootless=auto spec --rootless",
            "ferrun start c",
            "ferrun state c",
        ] {
            parse(line);
        }
        command().debug_assert();
    }

    #[test]
    fn switches_take_a_value_and_what_is_given_twice_is_the_last() {
        for (line, name, expected) in [
            ("ferrun exec --tty=false c x", "tty", false),
            ("ferrun exec -t=true c x", "tty", true),
            ("ferrun exec -td c x", "tty", true),
            ("ferrun exec -td c x", "detach", true),
            ("ferrun exec -tty=1 c x", "tty", true),
            ("ferrun exec -tty c x", "tty", true),
            ("ferrun delete --force=true --force=0 c", "force", false),
            ("ferrun run -d=false c", "detach", false),
            ("ferrun run --detach --detach=false c", "detach", false),
            ("ferrun delete -f=true c", "force", true),
            ("ferrun delete c --force=T", "force", true),
            ("ferrun delete -f -force c", "force", true),
        ] {
            let matches = parse(line);
            let (_, matches) = matches.subcommand().unwrap();
            assert_eq!(matches.get_flag(name), expected, "{line}");
        }
        let matches = parse("ferrun --root /a --root=/b exec -e A=1 --env B=2 -c X -c Y c x");
        assert_eq!(path_of(&matches, "root"), Some("/b".into()));
        let (_, matches) = matches.subcommand().unwrap();
        for name in ["env", "cap"] {
            assert_eq!(matches.get_many::<String>(name).unwrap().count(), 2, "{name}");
        }
        let matches = parse("ferrun spec --rootless -bundle d");
        let (_, matches) = matches.subcommand().unwrap();
        assert!(matches.get_flag("rootless"));
        assert_eq!(path_of(matches, "bundle"), Some("d".into()));
        for wrong in ["ferrun delete --force=yes c", "ferrun list --format=true"] {
            let arguments = with_double_dashes(wrong.split(' ').map(OsString::from));
            let parsed = command_for(&arguments).try_get_matches_from(arguments);
            assert!(parsed.is_err(), "{wrong}");
        }
        let program = "ferrun exec c x --tty=false";
        let arguments = with_double_dashes(program.split(' ').map(OsString::from));
        assert_eq!(arguments.last().unwrap(), "--tty=false", "an argument of the program");
    }

    /// What is known before the definitions are made is what they say.
    #[test]
    fn each_switch_is_known_as_one_and_no_other_option_is() {
        let mut whole = command();
        whole.build();
        for verb in std::iter::once(&whole).chain(whole.get_subcommands()) {
            for option in verb.get_arguments().filter(|option| !option.is_positional()) {
                let long = option.get_long().map(str::to_owned);
                let names = long.into_iter().chain(option.get_short().map(String::from));
                for name in names.filter(|name| !matches!(name.as_str(), "h" | "help")) {
                    let is_one = matches!(option.get_action(), ArgAction::SetTrue);
                    let named = verb.get_name();
                    assert_eq!(is_switch(named, &name), is_one, "{named}: {name}");
                    assert!(name.len() == 1 || command_knows(&name), "{named}: {name}");
                }
            }
        }
    }

    #[test]
    fn what_clap_says_is_one_line_and_whole() {
        let said = |line: &str| {
            let arguments: Vec<_> = line.split(' ').map(OsString::from).collect();
            let error = command_for(&arguments).try_get_matches_from(arguments).unwrap_err();
            reason(&error.to_string())
        };
        for (line, expected) in [
            ("ferrun run", "the following required arguments were not provided: <ID>"),
            ("ferrun run a b", "unexpected argument 'b' found"),
            ("ferrun x", "No help topic for 'x': there is no such command"),
            ("ferrun list --\u{1b}", "unexpected argument '--\\u{1b}' found"),
            (
                "ferrun list -f x",
                "invalid value 'x' for '--format <VALUE>' [possible values: table, json]",
            ),
        ] {
            assert_eq!(said(line), expected);
        }
    }

    #[test]
    fn the_verbs_that_are_not_typed_are_not_built() {
        let verbs = |line: &str| {
            let arguments: Vec<_> = line.split_whitespace().map(OsString::from).collect();
            command_for(&arguments).get_subcommands().count()
        };
        assert_eq!(verbs("ferrun --root /r state c"), 1);
        assert_eq!(verbs("ferrun --root run state c"), 2);
        for whole in ["ferrun", "ferrun nosuch c", "ferrun -h", "ferrun run --help"] {
            assert_eq!(verbs(whole), VERBS.len(), "{whole}");
        }
    }

    #[test]
    fn help_is_an_option_behind_the_verb() {
        for (line, expected) in [
            ("ferrun help", "ferrun --help"),
            ("ferrun h run", "ferrun run --help"),
            ("ferrun state help", "ferrun state help"),
        ] {
            let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
            assert_eq!(with_help(words(line)), words(expected));
        }
    }

    #[test]
    fn one_dash_will_do_and_options_may_stand_behind_the_id() {
        let matches = parse("ferrun -root /r run -no-subreaper -d c -bundle=/b");
        assert_eq!(path_of(&matches, "root"), Some("/r".into()));
        let (_, run) = matches.subcommand().unwrap();
        assert!(run.get_flag("no-subreaper") && run.get_flag("detach"));
        assert_eq!(path_of(run, "bundle"), Some("/b".into()));
        assert_eq!(id_of(run), "c");
    }

    #[test]
    fn what_follows_the_id_of_exec_is_the_programs() {
        let matches = parse("ferrun exec -t -u 1:2 -cwd /tmp c ls -all --force -d");
        let (_, exec) = matches.subcommand().unwrap();
        let args: Vec<_> = exec.get_many::<String>("args").unwrap().collect();
        assert_eq!(args, ["ls", "-all", "--force", "-d"]);
        assert!(!exec.get_flag("detach"));
        assert_eq!(text_of(exec, "cwd").as_deref(), Some("/tmp"));
    }
}
