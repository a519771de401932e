//! A command line as Go programs take it, written as others do. What is an option, and which of
//! them has a value, the definitions say.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

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

/// The arguments as `command` wants them: `-long-option` has one dash more, and containerd
/// sends `-no-subreaper`; `--switch=true` is the switch, and `--switch=false` none, for callers
/// who fill in a template. What follows the ID of `exec`, or `--`, is the program's.
pub fn with_double_dashes(command: &Command, arguments: Vec<OsString>) -> Vec<OsString> {
    let mut reader =
        Reader { command, verb: None, positional: 0, value_follows: false, is_over: false };
    let mut rewritten = Vec::new();
    for (at, argument) in arguments.into_iter().enumerate() {
        let text = argument.to_str().unwrap_or_default();
        match reader.read(at, text) {
            Written::AsItIs => rewritten.push(argument),
            Written::As(other) => rewritten.push(other.into()),
            Written::Without(switch) => rewritten.retain(|other| *other != *switch),
        }
    }
    rewritten
}

/// What becomes of an argument.
enum Written {
    AsItIs,
    As(String),
    /// It takes back what was given before.
    Without(String),
}

/// Reads a command line from left to right.
struct Reader<'a> {
    command: &'a Command,
    /// The definitions of the verb, once it was read.
    verb: Option<&'a Command>,
    /// How many arguments were read that are no options.
    positional: u32,
    /// Whether the next one belongs to an option.
    value_follows: bool,
    /// Whether `--` was read, behind which nothing is an option.
    is_over: bool,
}

impl<'a> Reader<'a> {
    fn read(&mut self, at: usize, text: &str) -> Written {
        let is_exec = self.verb.is_some_and(|verb| verb.get_name() == "exec");
        let is_the_programs = self.is_over || is_exec && self.positional >= 2;
        if at == 0 || self.value_follows || is_the_programs || !text.starts_with('-') {
            if at > 0 && !self.value_follows {
                self.positional += 1;
                if self.positional == 1 {
                    self.verb = self.command.find_subcommand(text);
                }
            }
            self.value_follows = false;
            return Written::AsItIs;
        }
        if text == "--" {
            self.is_over = true;
            return Written::AsItIs;
        }
        let name = text.trim_start_matches('-');
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        let option = self.option(name);
        let is_switch =
            option.is_some_and(|option| matches!(option.get_action(), ArgAction::SetTrue));
        if is_switch && let Some(is_on) = value.and_then(truth) {
            let dashes = if name.len() > 1 { "--" } else { "-" };
            let switch = format!("{dashes}{name}");
            return if is_on { Written::As(switch) } else { Written::Without(switch) };
        }
        self.value_follows = option.is_some() && !is_switch && value.is_none();
        let has_one_dash = name.len() > 1 && !text.starts_with("--");
        if has_one_dash && (option.is_some() || name == "help" || self.is_unknown(name)) {
            return Written::As(format!("-{text}"));
        }
        Written::AsItIs
    }

    /// Whether a word with one dash is the name of no option here, and no letters such as
    /// `-uID` either: so an error names it whole.
    fn is_unknown(&self, name: &str) -> bool {
        let is_letter = |letter: char| letter.is_ascii_alphabetic();
        let letter = name.chars().next().filter(|letter| is_letter(*letter));
        let takes_any =
            |verb: &Command| verb.get_positionals().any(Arg::is_allow_hyphen_values_set);
        letter.is_some_and(|letter| self.option(&letter.to_string()).is_none())
            && !self.verb.is_some_and(takes_any)
    }

    /// The option of this name, one letter or more: the verb's, or else the command's.
    fn option(&self, name: &str) -> Option<&'a Arg> {
        let is_it = |option: &&Arg| {
            let short = option.get_short().is_some_and(|short| name.chars().eq([short]));
            short || option.get_long() == Some(name)
        };
        let of_verb = self.verb.and_then(|verb| verb.get_arguments().find(is_it));
        of_verb.or_else(|| self.command.get_arguments().find(is_it))
    }
}

/// What Go's strconv.ParseBool makes of a text.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Given, command, command_for, read_by_clap};

    fn rewritten(line: &str) -> (Command, Vec<OsString>) {
        let arguments: Vec<_> = line.split_whitespace().map(OsString::from).collect();
        let command = command_for(&arguments);
        let arguments = with_double_dashes(&command, arguments);
        (command, arguments)
    }

    /// The options before the verb, and the verb's.
    fn parse(line: &str) -> (Given, Given) {
        let line = read_by_clap(line.split_whitespace().map(OsString::from).collect()).unwrap();
        (line.global, line.verb.unwrap().1)
    }

    /// Each option of each verb: with one dash and with two, and with a value whether that is
    /// apart or not.
    #[test]
    fn each_option_is_read_as_it_is_defined() {
        let whole = command();
        let verbs = whole.get_subcommands().map(|verb| (verb.get_name(), verb));
        for (name, verb) in std::iter::once(("", &whole)).chain(verbs) {
            for option in verb.get_arguments().filter(|option| !option.is_positional()) {
                let Some(long) = option.get_long() else { panic!("{name}: {option:?}") };
                let is_switch = matches!(option.get_action(), ArgAction::SetTrue);
                let value = if is_switch { "" } else { " 1" };
                let (_, one) = rewritten(&format!("ferrun {name} -{long}{value} ID"));
                let (_, two) = rewritten(&format!("ferrun {name} --{long}{value} ID"));
                assert_eq!(one, two, "{name}: {long}");
                let (_, joined) = rewritten(&format!("ferrun {name} -{long}=1 ID"));
                assert_eq!(joined.contains(&format!("--{long}").into()), is_switch, "{long}");
                let (_, off) = rewritten(&format!("ferrun {name} --{long} --{long}=false ID"));
                let is_gone = !off.contains(&format!("--{long}").into());
                assert_eq!(is_gone, is_switch, "{name}: {long}");
            }
        }
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
            assert_eq!(parse(line).1.has(name), expected, "{line}");
        }
        let (global, exec) =
            parse("ferrun --root /a --root=/b exec -e A=1 --env B=2 -c X -c Y c x");
        assert_eq!(global.path("root"), Some("/b".into()));
        for name in ["env", "cap"] {
            assert_eq!(exec.texts(name).len(), 2, "{name}");
        }
        let (_, spec) = parse("ferrun spec --rootless -bundle d");
        assert!(spec.has("rootless"));
        assert_eq!(spec.path("bundle"), Some("d".into()));
        for wrong in ["ferrun delete --force=yes c", "ferrun list --format=true"] {
            let (command, arguments) = rewritten(wrong);
            let parsed = command.try_get_matches_from(arguments);
            assert!(parsed.is_err(), "{wrong}");
        }
        let (_, arguments) = rewritten("ferrun exec c x --tty=false");
        assert_eq!(arguments.last().unwrap(), "--tty=false", "an argument of the program");
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
        let (global, run) = parse("ferrun -root /r run -no-subreaper -d c -bundle=/b");
        assert_eq!(global.path("root"), Some("/r".into()));
        assert!(run.has("no-subreaper") && run.has("detach"));
        assert_eq!(run.path("bundle"), Some("/b".into()));
        assert_eq!(run.id(), "c");
    }

    #[test]
    fn what_follows_the_id_of_exec_is_the_programs() {
        let (_, exec) = parse("ferrun exec -t -u 1:2 -cwd /tmp c ls -all --force -d");
        assert_eq!(exec.texts("args"), ["ls", "-all", "--force", "-d"]);
        assert!(!exec.has("detach"));
        assert_eq!(exec.text("cwd"), Some("/tmp"));
    }

    #[test]
    fn what_follows_two_dashes_is_the_programs() {
        let (_, run) = parse("ferrun run -d c -bundle /b -- ls -all --keep=false -- -d");
        assert_eq!(run.texts("args"), ["ls", "-all", "--keep=false", "--", "-d"]);
        assert!(run.has("detach") && !run.has("keep"));
        assert_eq!(run.path("bundle"), Some("/b".into()));
    }

    #[test]
    fn what_is_no_option_is_named_whole() {
        for (line, written) in [
            ("ferrun state -force c", "--force"),
            ("ferrun exec -u1:2 c x", "-u1:2"),
            ("ferrun ps c -ef", "-ef"),
            ("ferrun kill c -15", "-15"),
        ] {
            assert!(rewritten(line).1.contains(&written.into()), "{line}");
        }
    }
}
