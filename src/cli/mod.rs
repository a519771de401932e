//! The command line, which is runc's: what was typed, and nothing looked up.
//!
//! The definitions here are the one place that names options. Two read by them: `plain` the
//! lines that engines type, and clap, which explains what is wrong, all others (`go` writes
//! these as clap wants them). The manual and the completions are derived from them.

mod definition;
mod given;
pub mod go;
mod plain;
pub mod update;

use std::ffi::{OsStr, OsString};

use clap::{ArgMatches, Command};

pub use self::definition::MOST_DESCRIPTORS;
use self::definition::{Behind, Definition, Takes, flag, path, text};
pub use self::given::Given;
use crate::error::one_line;

/// What was typed.
#[derive(Debug, Default)]
pub struct Line {
    /// The options before the verb.
    pub global: Given,
    /// The verb, with its own.
    pub verb: Option<(&'static str, Given)>,
}

/// A verb of the command.
struct Verb {
    name: &'static str,
    about: &'static str,
    options: &'static [&'static [Definition]],
    behind: Behind,
}

const fn verb(
    name: &'static str,
    about: &'static str,
    options: &'static [&'static [Definition]],
    behind: Behind,
) -> Verb {
    Verb { name, about, options, behind }
}

/// The verbs in the order of the help.
static VERBS: [Verb; 17] = [
    verb(
        "checkpoint",
        "Write an image of a container's processes, by CRIU",
        &[IMAGING, CHECKPOINT],
        Behind::Id,
    ),
    verb("create", "Create a container", &[CREATING], Behind::Id),
    verb("delete", "Delete a container and everything that create made", &[DELETE], Behind::Id),
    verb("events", "Print resource usage and out-of-memory events, as JSON", &[EVENTS], Behind::Id),
    verb("exec", "Run another process in a container", &[EXEC], Behind::IdProgram),
    verb("features", "Print the features of this runtime, as JSON", &[], Behind::Nothing),
    verb("kill", "Send a signal to a container's init process", &[KILL], Behind::IdSignal),
    verb("list", "List containers", &[LIST], Behind::Nothing),
    verb("pause", "Freeze every process of a container", &[], Behind::Id),
    verb("ps", "List the processes of a container", &[PS], Behind::IdOptions),
    verb(
        "restore",
        "Create a container from an image of its processes, by CRIU",
        &[IMAGING, RESTORE],
        Behind::Id,
    ),
    verb("resume", "Let the processes of a paused container run", &[], Behind::Id),
    verb("run", "Create and start a container", &[CREATING, RUN], Behind::IdLast),
    verb("spec", "Write a config.json to start from", &[SPEC], Behind::Nothing),
    verb("start", "Run the program of a created container", &[], Behind::Id),
    verb("state", "Print the state of a container, as JSON", &[], Behind::Id),
    verb("update", "Change the limits of a container", &[UPDATE, &update::OPTIONS], Behind::Id),
];

/// The options before the verb.
const GLOBAL: &[Definition] = &[
    flag("version", "Print the version").short('v'),
    path(
        "root",
        "Directory for container state [default: /run/ferrun, or ferrun in $XDG_RUNTIME_DIR without root]",
    ),
    path("log", "Append warnings and errors to this file"),
    text("log-format", "text (the default) or json").takes(Takes::OneOf(&["text", "json"])),
    // For programs that embed ferrun.
    flag("report", "Report to the program that embeds ferrun, over this descriptor")
        .takes(Takes::Descriptor)
        .hidden(),
    flag("debug", "Also log each step and decision, to stderr if --log is not given"),
    flag("systemd-cgroup", "Let systemd make the cgroups of containers (cgroup v2)"),
    text(
        "cgroup-manager",
        "How cgroups are managed: cgroupfs (the default), systemd, or disabled (no cgroups)",
    )
    .takes(Takes::OneOf(&["cgroupfs", "systemd", "disabled"])),
    // Not named like `spec --rootless`, which would be the same argument to clap.
    text(
        "rootless",
        "Run without cgroups if they are not accessible: true, false or auto (the default)",
    )
    .takes(Takes::Decision)
    .named("global-rootless"),
];

const CREATING: &[Definition] = &[
    path("bundle", "Directory of the bundle").short('b').default("."),
    path("config", "Use this file instead of the bundle's config.json").short('f'),
    CONSOLE_SOCKET,
    path("pidfd-socket", "Send a pidfd of the init process to this Unix socket"),
    path("pid-file", "Write the pid of the init process to this file"),
    flag("no-pivot", "Do not use pivot_root(2), for a root file system in an initramfs"),
    flag("no-new-keyring", "Keep the caller's session keyring"),
    PRESERVE_FDS,
];

const RUN: &[Definition] = &[
    flag("detach", "Return as soon as the program runs").short('d'),
    flag("keep", "Do not delete the container when it has ended"),
    NO_SUBREAPER,
];

/// What both ways of an image take.
const IMAGING: &[Definition] = &[
    path("image-path", "Directory of the image [default: checkpoint]"),
    path("work-path", "Directory of CRIU's log [default: that of the image]"),
    flag("tcp-established", "Take established TCP connections along"),
    flag("ext-unix-sk", "Allow Unix sockets that lead out of the container"),
    flag("shell-job", "Allow the terminal and the session to be the caller's"),
    flag("file-locks", "Take locks of files along"),
    flag("lazy-pages", "Bring memory when it is touched"),
    flag("auto-dedup", "Free in images what later ones hold"),
    text(
        "manage-cgroups-mode",
        "Which files of cgroups are restored [default: soft, or ignore without own ones]",
    )
    .takes(Takes::OneOf(&["soft", "full", "strict", "ignore"])),
    text("empty-ns", "Leave out a namespace of this type, network; it always is").repeated(),
];

const CHECKPOINT: &[Definition] = &[
    path("parent-path", "The image before, from the image's directory: only changes are written"),
    flag("leave-running", "Do not delete the container, let it run on"),
    flag("pre-dump", "Write memory alone, in advance, and let the container run on"),
    flag("tcp-skip-in-flight", "Leave out TCP connections that are being made"),
    flag("link-remap", "Give files that were deleted a name for the time of the image"),
    text("page-server", "Send memory to the page server at ADDRESS:PORT"),
    flag("status-fd", "Write a zero byte to this descriptor when --lazy-pages has pages to give")
        .takes(Takes::Descriptor),
];

const RESTORE: &[Definition] = &[
    path("bundle", "Directory of the bundle").short('b').default("."),
    CONSOLE_SOCKET,
    path("pid-file", "Write the pid of the init process to this file"),
    flag("detach", "Return as soon as the container runs").short('d'),
    NO_SUBREAPER,
    flag("no-pivot", "Does nothing: how the root is entered is CRIU's"),
    text("lsm-profile", "Restore under another profile, apparmor:NAME or selinux:LABEL"),
    text("lsm-mount-context", "Restore mounts under another SELinux label"),
];

const EVENTS: &[Definition] = &[
    text("interval", "Time between two prints, as in 500ms or 1m30s [default: 5s]"),
    flag("stats", "Print resource usage once, and exit"),
];

const EXEC: &[Definition] = &[
    CONSOLE_SOCKET,
    path("pidfd-socket", "Send a pidfd of the process to this Unix socket"),
    text("cwd", "Working directory [default: the container's]"),
    text("env", "Set a variable, NAME=VALUE; may be repeated").short('e').repeated(),
    flag("tty", "Allocate a terminal").short('t'),
    text("user", "User and group as numbers, UID[:GID]").short('u'),
    text("additional-gids", "Additional group, by number; may be repeated")
        .short('g')
        .takes(Takes::Groups)
        .repeated(),
    path("process", "Read the process from this JSON file").short('p'),
    flag("detach", "Return as soon as the process runs").short('d'),
    path("pid-file", "Write the pid of the process to this file"),
    text("process-label", "SELinux label of the process"),
    text("apparmor", "AppArmor profile of the process"),
    flag("no-new-privs", "Keep the process from gaining privileges (no_new_privs)"),
    text("cap", "Add a capability, as in CAP_NET_ADMIN; may be repeated").short('c').repeated(),
    PRESERVE_FDS,
    text("cgroup", "Run in a cgroup below the container's, [CONTROLLER[,...]:]PATH").repeated(),
    flag("ignore-paused", "If the container is paused, wait up to 10 s until it is resumed"),
];

const KILL: &[Definition] =
    &[flag("all", "Send it to every process of the container").short('a').hidden()];

const DELETE: &[Definition] =
    &[flag("force", "Kill the container first if it runs; no error if it does not exist")
        .short('f')];

const LIST: &[Definition] = &[FORMAT, flag("quiet", "Print only IDs").short('q')];

const PS: &[Definition] = &[FORMAT];

const UPDATE: &[Definition] = &[text(
    "resources",
    "Read limits from this JSON file (an object like linux.resources; -: stdin)",
)
.short('r')
.takes(Takes::TextOrDash)];

const SPEC: &[Definition] = &[
    path("bundle", "Directory to write config.json to").short('b').default("."),
    flag("rootless", "With a user namespace, for use without root"),
];

const CONSOLE_SOCKET: Definition =
    path("console-socket", "Send the terminal's master side to this Unix socket");

const NO_SUBREAPER: Definition =
    flag("no-subreaper", "Do not reap what the container leaves behind");

const FORMAT: Definition = text("format", "table (the default) or json")
    .short('f')
    .takes(Takes::OneOf(&["table", "json"]))
    .default("table");

const PRESERVE_FDS: Definition =
    flag("preserve-fds", "Also pass this many descriptors after stdin, stdout and stderr")
        .takes(Takes::Count)
        .default("0");

/// Reads a command line, the program's name first.
///
/// # Errors
/// What clap has to say of it: what is wrong, or the help that was asked for.
pub fn read<'a>(arguments: impl Iterator<Item = &'a OsStr> + Clone) -> Result<Line, clap::Error> {
    match plain::read(arguments.clone()) {
        Some(line) => Ok(line),
        None => read_by_clap(arguments.map(OsStr::to_owned).collect()),
    }
}

/// Not inlined: a plain line does without its code.
#[inline(never)]
fn read_by_clap(arguments: Vec<OsString>) -> Result<Line, clap::Error> {
    let arguments = go::with_help(arguments);
    let command = command_for(&arguments);
    let arguments = go::with_double_dashes(&command, arguments);
    let found = command.try_get_matches_from(arguments)?;
    let verb = found.subcommand().and_then(|(name, found)| {
        let verb = VERBS.iter().find(|verb| verb.name == name)?;
        let mut given = given(verb.options, found);
        for argument in verb.behind.names() {
            given.add_found(argument, false, found);
        }
        Some((verb.name, given))
    });
    Ok(Line { global: given(&[GLOBAL], &found), verb })
}

/// What clap has found of these options.
fn given(options: &[&[Definition]], found: &ArgMatches) -> Given {
    let mut given = Given::default();
    for option in options.iter().flat_map(|some| some.iter()) {
        given.add_found(option.name, option.takes == Takes::Nothing, found);
    }
    given
}

/// The whole command, as clap has it.
pub fn command() -> Command {
    with_verbs(|_| true)
}

/// The command as far as `arguments` need it: with the verbs that are among them. Where
/// none is, or help is asked for, it is whole.
fn command_for(arguments: &[OsString]) -> Command {
    let given = |word: &str| arguments.iter().any(|argument| argument == word);
    let is_help = ["--help", "-help", "-h", "help", "h"].into_iter().any(given);
    let is_whole = is_help || !VERBS.iter().any(|verb| given(verb.name));
    with_verbs(|name| is_whole || given(name))
}

fn with_verbs(is_wanted: impl Fn(&str) -> bool) -> Command {
    let command = Command::new("ferrun")
        .about("OCI container runtime")
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        // As for Go programs: what is given twice is what it was given last.
        .args_override_self(true)
        .args(GLOBAL.iter().map(Definition::for_clap));
    command.subcommands(VERBS.iter().filter(|verb| is_wanted(verb.name)).map(|verb| {
        let options = verb.options.iter().flat_map(|some| some.iter());
        let command = Command::new(verb.name).about(verb.about);
        verb.behind.for_clap(command.args(options.map(Definition::for_clap)))
    }))
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

#[cfg(test)]
mod tests {
    use super::*;

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
            let words = line.split_whitespace().map(OsStr::new);
            assert!(read(words).unwrap().verb.is_some(), "{line}");
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
