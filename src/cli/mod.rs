//! The command line, which is runc's: what was typed, and nothing looked up.
//!
//! The definitions here are the one place that names options; how Go programs write them
//! (`go`), the manual and the completions are derived from them. A verb's are made only when
//! that verb is given: to make all of them would cost more than `state` does.

pub mod go;
pub mod update;

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
const VERBS: [(&str, &str, Arguments); 17] = [
    ("checkpoint", "Write an image of a container's processes, by CRIU", checkpoint),
    ("create", "Create a container", create),
    ("delete", "Delete a container and everything that create made", delete),
    ("events", "Print resource usage and out-of-memory events, as JSON", events),
    ("exec", "Run another process in a container", exec),
    ("features", "Print the features of this runtime, as JSON", |command| command),
    ("kill", "Send a signal to a container's init process", kill),
    ("list", "List containers", list),
    ("pause", "Freeze every process of a container", one_id),
    ("ps", "List the processes of a container", ps),
    ("restore", "Create a container from an image of its processes, by CRIU", restore),
    ("resume", "Let the processes of a paused container run", one_id),
    ("run", "Create and start a container", run),
    ("spec", "Write a config.json to start from", spec),
    ("start", "Run the program of a created container", one_id),
    ("state", "Print the state of a container, as JSON", one_id),
    ("update", "Change the limits of a container", update_limits),
];

/// The whole command.
pub fn command() -> Command {
    with_verbs(|_| true)
}

/// The command as far as `arguments` need it: with the verbs that are among them. Where
/// none is, or help is asked for, it is whole.
pub fn command_for(arguments: &[OsString]) -> Command {
    let given = |word: &str| arguments.iter().any(|argument| argument == word);
    let is_help = ["--help", "-help", "-h", "help", "h"].into_iter().any(given);
    let is_whole = is_help || !VERBS.iter().any(|(name, ..)| given(name));
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
        .arg(path("root", "Directory for container state [default: /run/ferrun, or ferrun in $XDG_RUNTIME_DIR without root]"))
        .arg(path("log", "Append warnings and errors to this file"))
        .arg(text("log-format", "text (the default) or json").value_parser(["text", "json"]))
        .arg(
            // For programs that embed ferrun.
            Arg::new("report").long("report").value_parser(value_parser!(i32)).hide(true),
        )
        .arg(flag("debug", "Also log each step and decision, to stderr if --log is not given"))
        .arg(flag("systemd-cgroup", "Let systemd make the cgroups of containers (cgroup v2)"))
        .arg(
            text(
                "cgroup-manager",
                "How cgroups are managed: cgroupfs (the default), systemd, or disabled (no cgroups)",
            )
            .value_parser(["cgroupfs", "systemd", "disabled"]),
        )
        .arg(
            // Not named like `spec --rootless`, which would be the same argument to clap.
            Arg::new("global-rootless")
                .long("rootless")
                .value_name("BOOL")
                .value_parser(["true", "false", "auto"])
                .help("Run without cgroups if they are not accessible: true, false or auto (the default)"),
        );
    let wanted = VERBS.iter().filter(|(name, ..)| is_wanted(name));
    wanted.fold(command, |command, (name, about, arguments)| {
        command.subcommand(arguments(Command::new(*name).about(*about)))
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
        .arg(flag("detach", "Return as soon as the program runs").short('d'))
        .arg(flag("keep", "Do not delete the container when it has ended"))
        .arg(flag("no-subreaper", "Do not reap what the container leaves behind"))
        .arg(id())
        .arg(
            // Behind `--` alone: an option that was typed behind the ID is still one.
            Arg::new("args")
                .value_name("COMMAND")
                .action(ArgAction::Append)
                .num_args(1..)
                .last(true)
                .help("The program and its arguments, in place of process.args"),
        )
}

fn creating(command: Command) -> Command {
    command
        .arg(path("bundle", "Directory of the bundle").short('b').default_value("."))
        .arg(path("config", "Use this file instead of the bundle's config.json").short('f'))
        .arg(path("console-socket", "Send the terminal's master side to this Unix socket"))
        .arg(path("pidfd-socket", "Send a pidfd of the init process to this Unix socket"))
        .arg(path("pid-file", "Write the pid of the init process to this file"))
        .arg(flag("no-pivot", "Do not use pivot_root(2), for a root file system in an initramfs"))
        .arg(flag("no-new-keyring", "Keep the caller's session keyring"))
        .arg(preserve_fds())
}

fn checkpoint(command: Command) -> Command {
    imaging(command)
        .arg(path(
            "parent-path",
            "The image before, from the image's directory: only changes are written",
        ))
        .arg(flag("leave-running", "Do not delete the container, let it run on"))
        .arg(flag("pre-dump", "Write memory alone, in advance, and let the container run on"))
        .arg(flag("tcp-skip-in-flight", "Leave out TCP connections that are being made"))
        .arg(flag("link-remap", "Give files that were deleted a name for the time of the image"))
        .arg(text("page-server", "Send memory to the page server at ADDRESS:PORT"))
        .arg(
            Arg::new("status-fd")
                .long("status-fd")
                .value_name("FD")
                .value_parser(value_parser!(i32))
                .help("Write a zero byte to this descriptor when --lazy-pages has pages to give"),
        )
        .arg(id())
}

fn restore(command: Command) -> Command {
    imaging(command)
        .arg(path("bundle", "Directory of the bundle").short('b').default_value("."))
        .arg(path("console-socket", "Send the terminal's master side to this Unix socket"))
        .arg(path("pid-file", "Write the pid of the init process to this file"))
        .arg(flag("detach", "Return as soon as the container runs").short('d'))
        .arg(flag("no-subreaper", "Do not reap what the container leaves behind"))
        .arg(flag("no-pivot", "Does nothing: how the root is entered is CRIU's"))
        .arg(text("lsm-profile", "Restore under another profile, apparmor:NAME or selinux:LABEL"))
        .arg(text("lsm-mount-context", "Restore mounts under another SELinux label"))
        .arg(id())
}

/// What both ways of an image take.
fn imaging(command: Command) -> Command {
    command
        .arg(path("image-path", "Directory of the image [default: checkpoint]"))
        .arg(path("work-path", "Directory of CRIU's log [default: that of the image]"))
        .arg(flag("tcp-established", "Take established TCP connections along"))
        .arg(flag("ext-unix-sk", "Allow Unix sockets that lead out of the container"))
        .arg(flag("shell-job", "Allow the terminal and the session to be the caller's"))
        .arg(flag("file-locks", "Take locks of files along"))
        .arg(flag("lazy-pages", "Bring memory when it is touched"))
        .arg(flag("auto-dedup", "Free in images what later ones hold"))
        .arg(
            text("manage-cgroups-mode", "Which files of cgroups are restored [default: soft]")
                .value_parser(["soft", "full", "strict", "ignore"]),
        )
        .arg(
            text("empty-ns", "Leave out a namespace of this type, network; it always is")
                .action(ArgAction::Append),
        )
}

fn events(command: Command) -> Command {
    command
        .arg(text("interval", "Time between two prints, as in 500ms or 1m30s [default: 5s]"))
        .arg(flag("stats", "Print resource usage once, and exit"))
        .arg(id())
}

fn exec(command: Command) -> Command {
    command
        .arg(path("console-socket", "Send the terminal's master side to this Unix socket"))
        .arg(path("pidfd-socket", "Send a pidfd of the process to this Unix socket"))
        .arg(text("cwd", "Working directory [default: the container's]"))
        .arg(
            text("env", "Set a variable, NAME=VALUE; may be repeated")
                .short('e')
                .action(ArgAction::Append),
        )
        .arg(flag("tty", "Allocate a terminal").short('t'))
        .arg(text("user", "User and group as numbers, UID[:GID]").short('u'))
        .arg(
            text("additional-gids", "Additional group, by number; may be repeated")
                .short('g')
                .value_delimiter(',')
                .value_parser(|text: &str| parse_id(text).map_err(|error| message(&error)))
                .action(ArgAction::Append),
        )
        .arg(path("process", "Read the process from this JSON file").short('p'))
        .arg(flag("detach", "Return as soon as the process runs").short('d'))
        .arg(path("pid-file", "Write the pid of the process to this file"))
        .arg(text("process-label", "SELinux label of the process"))
        .arg(text("apparmor", "AppArmor profile of the process"))
        .arg(flag("no-new-privs", "Keep the process from gaining privileges (no_new_privs)"))
        .arg(
            text("cap", "Add a capability, as in CAP_NET_ADMIN; may be repeated")
                .short('c')
                .action(ArgAction::Append),
        )
        .arg(preserve_fds())
        .arg(
            text("cgroup", "Run in a cgroup below the container's, [CONTROLLER[,...]:]PATH")
                .action(ArgAction::Append),
        )
        .arg(flag(
            "ignore-paused",
            "If the container is paused, wait up to 10 s until it is resumed",
        ))
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
                .help("Name or number of the signal"),
        )
}

fn delete(command: Command) -> Command {
    command
        .arg(
            flag("force", "Kill the container first if it runs; no error if it does not exist")
                .short('f'),
        )
        .arg(id())
}

fn list(command: Command) -> Command {
    command.arg(format()).arg(flag("quiet", "Print only IDs").short('q'))
}

fn ps(command: Command) -> Command {
    command.arg(format()).arg(id()).arg(
        Arg::new("args")
            .value_name("PS-OPTIONS")
            .action(ArgAction::Append)
            .num_args(0..)
            .trailing_var_arg(true)
            .allow_hyphen_values(true)
            .help("Options for ps(1) [default: -ef]"),
    )
}

fn update_limits(command: Command) -> Command {
    let command = command.arg(
        text(
            "resources",
            "Read limits from this JSON file (an object like linux.resources; -: stdin)",
        )
        .short('r')
        .allow_hyphen_values(true),
    );
    update::options()
        .fold(command, |command, (name, help)| {
            // An empty value leaves the limit as it is.
            let option = text(name, help).value_parser(value_parser!(String));
            command.arg(option.allow_hyphen_values(true))
        })
        .arg(id())
}

fn spec(command: Command) -> Command {
    command
        .arg(path("bundle", "Directory to write config.json to").short('b').default_value("."))
        .arg(flag("rootless", "With a user namespace, for use without root"))
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
        .help("Also pass this many descriptors after stdin, stdout and stderr")
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
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

/// What clap says, as one line: the first paragraph, without its tips, and the usage where an
/// argument has no place in it.
pub fn reason(said: &str) -> String {
    let lines = said.lines().map(str::trim).take_while(|line| !line.is_empty());
    let mut line = lines.collect::<Vec<_>>().join(" ");
    let usage = said.lines().find_map(|line| line.trim().strip_prefix("Usage: "));
    if let Some(usage) = usage.filter(|_| line.contains("unexpected argument")) {
        line += &format!(" (usage: {usage})");
    }
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

/// The values of an option that may be repeated, or of the last argument.
pub fn texts_of(matches: &ArgMatches, name: &str) -> Vec<String> {
    matches.get_many::<String>(name).into_iter().flatten().cloned().collect()
}

/// The ID, which every verb but a few requires.
pub fn id_of(matches: &ArgMatches) -> &str {
    matches.get_one::<String>("id").map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> ArgMatches {
        let arguments: Vec<_> = line.split_whitespace().map(OsString::from).collect();
        let command = command_for(&arguments);
        command
            .try_get_matches_from(go::with_double_dashes(&command_for(&arguments), arguments))
            .unwrap()
    }

    #[test]
    fn every_verb_can_be_parsed() {
        for line in [
            "ferrun create --bundle /b --pid-file p c",
            "ferrun checkpoint --image-path i --empty-ns network --leave-running c",
            "ferrun restore --image-path i -no-subreaper --bundle /b -d c",
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
            "ferrun run c -- sh -c true",
            "ferrun --rootless=auto spec --rootless",
            "ferrun start c",
            "ferrun state c",
        ] {
            parse(line);
        }
        command().debug_assert();
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
            (
                "ferrun run a b",
                "unexpected argument 'b' found (usage: ferrun run [OPTIONS] <ID> [-- <COMMAND>...])",
            ),
            ("ferrun x", "No help topic for 'x': there is no such command"),
            (
                "ferrun list --\u{1b}",
                "unexpected argument '--\\u{1b}' found (usage: ferrun list [OPTIONS])",
            ),
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

    /// What runc 1.2 takes, by its sources and its help, and what is ferrun's own: a difference
    /// is a decision, and stands in README.md.
    #[test]
    fn each_verb_takes_what_runcs_takes() {
        const CREATING: &str = "bundle,b console-socket pidfd-socket pid-file no-pivot \
            no-new-keyring preserve-fds";
        let run = format!("{CREATING} detach,d keep no-subreaper");
        for (verb, runc, own) in [
            (
                "",
                "debug log log-format root systemd-cgroup rootless version,v",
                "cgroup-manager report",
            ),
            ("create", CREATING, "config,f"),
            ("run", &run, "config,f"),
            (
                "exec",
                "console-socket pidfd-socket cwd env,e tty,t user,u additional-gids,g process,p \
                 detach,d pid-file process-label apparmor no-new-privs cap,c preserve-fds cgroup \
                 ignore-paused",
                "",
            ),
            (
                "checkpoint",
                "image-path work-path parent-path leave-running tcp-established \
                 tcp-skip-in-flight link-remap ext-unix-sk shell-job lazy-pages status-fd \
                 page-server file-locks pre-dump manage-cgroups-mode empty-ns auto-dedup",
                "",
            ),
            (
                "restore",
                "console-socket image-path work-path tcp-established ext-unix-sk shell-job \
                 file-locks manage-cgroups-mode bundle,b detach,d pid-file no-subreaper no-pivot \
                 empty-ns auto-dedup lazy-pages lsm-profile lsm-mount-context",
                "",
            ),
            ("kill", "all,a", ""),
            ("delete", "force,f", ""),
            ("list", "format,f quiet,q", ""),
            ("ps", "format,f", ""),
            ("events", "interval stats", ""),
            ("spec", "bundle,b rootless", ""),
            (
                "update",
                "resources,r blkio-weight cpu-period cpu-quota cpu-burst cpu-share cpu-rt-period \
                 cpu-rt-runtime cpuset-cpus cpuset-mems cpu-idle kernel-memory kernel-memory-tcp \
                 memory memory-reservation memory-swap pids-limit l3-cache-schema mem-bw-schema",
                "",
            ),
            ("features", "", ""),
            ("pause", "", ""),
            ("resume", "", ""),
            ("start", "", ""),
            ("state", "", ""),
        ] {
            let whole = command();
            let command = whole.find_subcommand(verb).unwrap_or(&whole);
            assert_eq!(command.get_name(), if verb.is_empty() { "ferrun" } else { verb });
            let options = command.get_arguments().filter(|option| !option.is_positional());
            let mut taken: Vec<String> = options
                .map(|option| {
                    let short = option.get_short().map(|short| format!(",{short}"));
                    option.get_long().unwrap().to_owned() + &short.unwrap_or_default()
                })
                .collect();
            let mut expected: Vec<_> =
                format!("{runc} {own}").split_whitespace().map(str::to_owned).collect();
            taken.sort();
            expected.sort();
            assert_eq!(taken, expected, "{verb}");
        }
        assert_eq!(VERBS.len(), 17);
    }
}
