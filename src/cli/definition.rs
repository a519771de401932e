//! What an option is, as data: the reader of plain command lines looks it up there, and clap,
//! which reads all others and explains what is wrong, is told by it.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, ArgAction, Command, value_parser};

use crate::error::message;
use crate::plan::numbers::parse_id;

/// No process has more descriptors, unless its machine was told so (fs.nr_open).
pub const MOST_DESCRIPTORS: u32 = 1 << 20;

/// An option.
#[derive(Clone, Copy)]
pub struct Definition {
    /// By which its value is asked for.
    pub name: &'static str,
    /// As it is typed, behind two dashes.
    pub long: &'static str,
    /// As it is typed behind one.
    pub short: Option<char>,
    pub takes: Takes,
    /// Whether all values count, not only the last.
    pub is_repeated: bool,
    default: Option<&'static str>,
    is_hidden: bool,
    help: &'static str,
}

/// What an option has for a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// It is a switch.
    Nothing,
    Path,
    /// Not empty.
    Text,
    /// Not empty, and it may begin with a dash.
    TextOrDash,
    /// Also an empty one, which is as if it had not been given; it may begin with a dash.
    Limit,
    /// true, false or auto.
    Decision,
    OneOf(&'static [&'static str]),
    /// The number of a descriptor.
    Descriptor,
    /// How many descriptors, at most [`MOST_DESCRIPTORS`].
    Count,
    /// Numbers of groups, with commas between them.
    Groups,
}

/// A switch.
pub const fn flag(name: &'static str, help: &'static str) -> Definition {
    Definition {
        name,
        long: name,
        short: None,
        takes: Takes::Nothing,
        is_repeated: false,
        default: None,
        is_hidden: false,
        help,
    }
}

pub const fn path(name: &'static str, help: &'static str) -> Definition {
    flag(name, help).takes(Takes::Path)
}

pub const fn text(name: &'static str, help: &'static str) -> Definition {
    flag(name, help).takes(Takes::Text)
}

impl Definition {
    pub const fn takes(self, takes: Takes) -> Self {
        Self { takes, ..self }
    }

    pub const fn short(self, letter: char) -> Self {
        Self { short: Some(letter), ..self }
    }

    /// With another name than the one that is typed.
    pub const fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    pub const fn repeated(self) -> Self {
        Self { is_repeated: true, ..self }
    }

    /// What the help says that it is where it is not given.
    pub const fn default(self, value: &'static str) -> Self {
        Self { default: Some(value), ..self }
    }

    pub const fn hidden(self) -> Self {
        Self { is_hidden: true, ..self }
    }

    /// Whether this is certainly a value of it. Of a value that is refused here clap is asked.
    pub fn is_value(&self, value: &OsStr) -> bool {
        let is_text = |text: &str| !text.is_empty() && !text.starts_with('-');
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        match (self.takes, value.to_str()) {
            (Takes::Path, None) => true,
            (Takes::Nothing, _) | (_, None) => false,
            (Takes::Path | Takes::Text | Takes::TextOrDash | Takes::Limit, Some(text)) => {
                is_text(text)
            }
            (Takes::Decision, Some(text)) => DECISIONS.contains(&text),
            (Takes::OneOf(texts), Some(text)) => texts.contains(&text),
            (Takes::Descriptor | Takes::Count, Some(text)) => {
                (1..=6).contains(&text.len()) && is_number(text)
            }
            (Takes::Groups, Some(text)) => {
                is_text(text) && is_number(text) && parse_id(text).is_ok()
            }
        }
    }

    /// The option as clap has it.
    pub fn for_clap(&self) -> Arg {
        let option = Arg::new(self.name).long(self.long).help(self.help).hide(self.is_hidden);
        let option = match self.takes {
            Takes::Nothing => return self.with_short(option.action(ArgAction::SetTrue)),
            Takes::Path => option.value_name("PATH").value_parser(value_parser!(PathBuf)),
            Takes::Text => {
                option.value_name("VALUE").value_parser(NonEmptyStringValueParser::new())
            }
            Takes::TextOrDash => option
                .value_name("VALUE")
                .value_parser(NonEmptyStringValueParser::new())
                .allow_hyphen_values(true),
            Takes::Limit => option
                .value_name("VALUE")
                .value_parser(value_parser!(String))
                .allow_hyphen_values(true),
            Takes::Decision => option.value_name("BOOL").value_parser(DECISIONS),
            Takes::OneOf(texts) => option.value_name("VALUE").value_parser(texts.to_vec()),
            Takes::Descriptor => option.value_name("FD").value_parser(value_parser!(i32)),
            Takes::Count => option
                .value_name("N")
                .value_parser(value_parser!(u32).range(..=i64::from(MOST_DESCRIPTORS))),
            Takes::Groups => option
                .value_name("VALUE")
                .value_delimiter(',')
                .value_parser(|text: &str| parse_id(text).map_err(|error| message(&error))),
        };
        let option = if self.is_repeated { option.action(ArgAction::Append) } else { option };
        let option = self.default.into_iter().fold(option, Arg::default_value);
        self.with_short(option)
    }

    fn with_short(&self, option: Arg) -> Arg {
        self.short.into_iter().fold(option, Arg::short)
    }
}

const DECISIONS: [&str; 3] = ["true", "false", "auto"];

/// What a verb has behind its options.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    Nothing,
    /// The container's ID.
    Id,
    /// It, and the name or number of a signal.
    IdSignal,
    /// It, and a program with its arguments, whatever these look like.
    IdProgram,
    /// It, and a program behind `--`: an option that was typed behind the ID is still one.
    IdLast,
    /// It, and options for ps(1).
    IdOptions,
}

impl Behind {
    /// What clap is told.
    pub fn for_clap(self, command: Command) -> Command {
        let id = || Arg::new("id").value_name("ID").required(true).help("The container's ID");
        let more = |name| Arg::new("args").value_name(name).action(ArgAction::Append);
        let any = |name| more(name).num_args(0..).trailing_var_arg(true).allow_hyphen_values(true);
        match self {
            Self::Nothing => command,
            Self::Id => command.arg(id()),
            Self::IdSignal => command.arg(id()).arg(
                Arg::new("signal")
                    .value_name("SIGNAL")
                    .default_value("SIGTERM")
                    .help("Name or number of the signal"),
            ),
            Self::IdProgram => {
                command.arg(id()).arg(any("COMMAND").help("The program and its arguments"))
            }
            Self::IdLast => command.arg(id()).arg(
                more("COMMAND")
                    .num_args(1..)
                    .last(true)
                    .help("The program and its arguments, in place of process.args"),
            ),
            Self::IdOptions => {
                command.arg(id()).arg(any("PS-OPTIONS").help("Options for ps(1) [default: -ef]"))
            }
        }
    }

    /// The name of what stands at this place, from 0. Nothing where that is for clap to say.
    pub const fn at(self, place: usize) -> Option<&'static str> {
        match (self, place) {
            (Self::Nothing, _) => None,
            (_, 0) => Some("id"),
            (Self::IdSignal, 1) => Some("signal"),
            (Self::IdProgram, 1) => Some("args"),
            _ => None,
        }
    }

    /// The names of all that may stand there.
    pub const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Nothing => &[],
            Self::Id => &["id"],
            Self::IdSignal => &["id", "signal"],
            Self::IdProgram | Self::IdLast | Self::IdOptions => &["id", "args"],
        }
    }

    /// Whether what follows the ID may look like an option and be none.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::IdProgram | Self::IdOptions)
    }
}
