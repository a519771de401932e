//! How errors name what is wrong: the field of the configuration, the kernel
//! call, the object it was about.
//!
//! Everything is an `anyhow::Error`, a chain of sentences from the outermost to
//! the cause. An error is returned or logged, never both, and printed once, in
//! `main`. Texts are lower case and have no full stop, so that they chain. An object is quoted
//! (`{:?}`), and the name of a call stands right above the errno, alone or before its object:
//! `runtime::Error` reads both off.
//!
//! A program asks for the [`Kind`] of an error, for its field and its errno: they cross from
//! process to process with the sentences.

use std::fmt::{self, Display, Formatter};

use anyhow::{Context as _, Error, Result};
use serde::{Deserialize, Serialize};

use crate::text::printable;

/// What is said of a call that the kernel does not know.
const NEEDED: &str = "needs Linux 5.14, and no filter around ferrun that does not know the call";

/// Attaches the place in the configuration that an error is about.
pub trait InField<T> {
    /// Prefixes the error with the field's path, as in
    /// `mounts[5].source: "/no/such/dir": No such file or directory`.
    fn in_field(self, field: impl Display) -> Result<T>;
}

impl<T, E> InField<T> for std::result::Result<T, E>
where
    Self: anyhow::Context<T, E>,
{
    fn in_field(self, field: impl Display) -> Result<T> {
        self.with_context(|| Field(field.to_string()))
    }
}

/// A place in the configuration, as a sentence of an error.
#[derive(Debug)]
struct Field(String);

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The place in the configuration that an error is about, the outermost one.
pub fn field(error: &Error) -> Option<&str> {
    error.downcast_ref::<Field>().map(|field| field.0.as_str())
}

/// What a failure is, for a program that branches on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// There is no such container.
    NotFound,
    /// The ID is taken.
    Exists,
    /// The status of the container does not allow the operation.
    WrongState,
    /// The configuration, or something else that was given, is not valid or cannot be had.
    Configuration,
    /// The kernel has refused a call.
    Kernel,
    /// A hook has failed.
    Hook,
    /// Valid, but this machine or this version does not have it.
    Unsupported,
    /// Anything else.
    Other,
}

impl Kind {
    /// An error of this kind.
    pub fn error(self, message: impl Display) -> Error {
        Error::msg(message.to_string()).context(Mark(self))
    }

    /// What an error is. The part that knew best has said so; a call that was refused, or a
    /// field that is named, says it by itself.
    pub fn of(error: &Error) -> Self {
        match (error.downcast_ref::<Mark>(), errno(error)) {
            (Some(mark), _) => mark.0,
            (None, Some(libc::ENOSYS | libc::EOPNOTSUPP)) => Self::Unsupported,
            (None, Some(_)) => Self::Kernel,
            (None, None) if field(error).is_some() => Self::Configuration,
            (None, None) => Self::Other,
        }
    }
}

/// Says what an error is, without words.
#[derive(Debug)]
struct Mark(Kind);

impl Display for Mark {
    fn fmt(&self, _: &mut Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// Says what the errors of a step are.
pub trait OfKind<T> {
    /// Whatever fails is of this kind, where nothing within has said otherwise.
    fn of_kind(self, kind: Kind) -> Result<T>;
}

impl<T> OfKind<T> for Result<T> {
    fn of_kind(self, kind: Kind) -> Self {
        self.map_err(|error| if error.is::<Mark>() { error } else { error.context(Mark(kind)) })
    }
}

/// An error that crosses from one process to another whole.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its sentences, the outermost first.
    pub chain: Vec<String>,
    /// What the kernel has refused it with, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// What it is, where the errno does not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The place in the configuration that it is about, which is one of the sentences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl Failure {
    /// The sentences of an error.
    pub fn new(error: &Error) -> Self {
        Self {
            chain: sentences(error),
            errno: errno(error),
            kind: Some(Kind::of(error)).filter(|kind| !matches!(kind, Kind::Kernel | Kind::Other)),
            field: field(error).map(str::to_owned),
        }
    }

    /// The error again.
    pub fn into_error(self) -> Error {
        let Self { mut chain, errno, kind, field } = self;
        if errno == Some(libc::ENOSYS) {
            // It comes with the errno.
            chain.pop_if(|last| last == NEEDED);
        }
        let mut sentences = chain.into_iter().rev();
        let cause = sentences.next().unwrap_or_default();
        let cause = match errno.filter(|errno| errno_words(*errno) == cause) {
            Some(errno) => Error::new(std::io::Error::from_raw_os_error(errno)),
            None => Error::msg(cause),
        };
        let error = sentences.fold(cause, |error, sentence| match field.as_ref() {
            Some(field) if *field == sentence => error.context(Field(sentence)),
            _ => error.context(sentence),
        });
        match kind {
            Some(kind) => error.context(Mark(kind)),
            None => error,
        }
    }
}

/// The errno at the root of `error`, if a kernel call is.
pub fn errno(error: &Error) -> Option<i32> {
    error.chain().find_map(errno_of)
}

fn errno_of(cause: &(dyn std::error::Error + 'static)) -> Option<i32> {
    cause
        .downcast_ref::<nix::errno::Errno>()
        .map(|errno| *errno as i32)
        .or_else(|| cause.downcast_ref::<rustix::io::Errno>().map(|e| e.raw_os_error()))
        .or_else(|| cause.downcast_ref::<std::io::Error>().and_then(|e| e.raw_os_error()))
}

/// An errno in glibc's words, which are those of runc and crun, and which people search for.
/// For some the standard library has musl's in a static program ("Resource busy"), and nix
/// others again ("Not a typewriter").
pub fn errno_words(errno: i32) -> &'static str {
    match errno {
        libc::EIO => "Input/output error",
        libc::EBADF => "Bad file descriptor",
        libc::EAGAIN => "Resource temporarily unavailable",
        libc::ENOMEM => "Cannot allocate memory",
        libc::EXDEV => "Invalid cross-device link",
        libc::ENFILE => "Too many open files in system",
        libc::ENOTTY => "Inappropriate ioctl for device",
        libc::EDOM => "Numerical argument out of domain",
        libc::ERANGE => "Numerical result out of range",
        libc::EDEADLK => "Resource deadlock avoided",
        libc::ENOLCK => "No locks available",
        libc::ELOOP => "Too many levels of symbolic links",
        libc::EBADMSG => "Bad message",
        libc::EOPNOTSUPP => "Operation not supported",
        libc::EILSEQ => "Invalid or incomplete multibyte or wide character",
        libc::ENETRESET => "Network dropped connection on reset",
        libc::EDQUOT => "Disk quota exceeded",
        _ => nix::errno::Errno::from_raw(errno).desc(),
    }
}

/// The sentences of an error, the outermost first, an errno in words alone.
pub fn sentences(error: &Error) -> Vec<String> {
    let mut sentences: Vec<_> = error
        .chain()
        .map(|cause| match errno_of(cause) {
            Some(errno) => errno_words(errno).to_owned(),
            None => without_marks(&cause.to_string()),
        })
        .filter(|sentence| !sentence.is_empty())
        .collect();
    if errno(error) == Some(libc::ENOSYS) {
        // Most often it is a filter: a container of another runtime that is older.
        sentences.push(NEEDED.to_owned());
    }
    sentences
}

/// The same with what confines ferrun itself, as in a container or a service: it may be that
/// which has refused a call.
pub fn message_around(error: &Error, around: impl FnOnce() -> Option<String>) -> String {
    let message = message(error);
    match errno(error) {
        Some(libc::EPERM | libc::EACCES) => match around() {
            Some(around) => one_line(&format!("{message}: ferrun itself runs under {around}")),
            None => message,
        },
        _ => message,
    }
}

/// An error as one line that any terminal may show.
pub fn message(error: &Error) -> String {
    one_line(&sentences(error).join(": "))
}

/// The same of an error of any type, such as an errno.
pub fn words(error: impl Into<Error>) -> String {
    message(&error.into())
}

/// A text as one line without what a terminal would obey, nor the marks that libraries
/// put on an errno.
pub fn one_line(text: &str) -> String {
    printable(&without_marks(text).replace('\n', " "))
}

/// The text without ` (os error 2)` and the like.
fn without_marks(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut rest = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, behind)) if number.parse::<u16>().is_ok() => rest.push_str(behind),
            _ => rest.extend([" (os error ", part]),
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_error_is_crosses_with_it_and_adds_no_words() {
        let refused = || Error::new(nix::errno::Errno::EPERM);
        let errors = [
            (Kind::NotFound.error("no container"), Kind::NotFound, None),
            (refused(), Kind::Kernel, None),
            (Error::new(nix::errno::Errno::ENOSYS), Kind::Unsupported, None),
            (Error::msg("odd"), Kind::Other, None),
            (
                Err::<(), _>(refused().context("mount"))
                    .in_field("mounts[3]")
                    .of_kind(Kind::Configuration)
                    .unwrap_err()
                    .context("while it is made"),
                Kind::Configuration,
                Some("mounts[3]"),
            ),
            (
                Err::<(), _>(Kind::Hook.error("exit code 1"))
                    .in_field("hooks.poststart[0]")
                    .of_kind(Kind::Configuration)
                    .unwrap_err(),
                Kind::Hook,
                Some("hooks.poststart[0]"),
            ),
        ];
        for (error, kind, place) in errors {
            let told = serde_json::to_string(&Failure::new(&error)).unwrap();
            let again = serde_json::from_str::<Failure>(&told).unwrap().into_error();
            for error in [&error, &again] {
                assert_eq!((Kind::of(error), field(error)), (kind, place), "{told}");
            }
            assert_eq!(message(&again), message(&error));
            assert_eq!(errno(&again), errno(&error));
            assert!(!message(&error).contains(": :") && !message(&error).starts_with(':'));
        }
    }

    #[test]
    fn an_errno_is_shown_in_words_alone() {
        for error in [
            Error::new(nix::errno::Errno::ENOENT),
            Error::new(rustix::io::Errno::NOENT),
            Error::new(std::io::Error::from_raw_os_error(2)),
        ] {
            assert_eq!(errno(&error), Some(2));
            let error = error.context("\"/x\"").context("mounts[0].source");
            assert_eq!(message(&error), "mounts[0].source: \"/x\": No such file or directory");
        }
    }

    /// These tests are linked with glibc.
    #[test]
    #[cfg(target_env = "gnu")]
    fn an_errno_has_the_words_of_glibc() {
        for errno in (1..=libc::EHWPOISON).filter(|errno| ![41, 58].contains(errno)) {
            let theirs = without_marks(&std::io::Error::from_raw_os_error(errno).to_string());
            assert_eq!(errno_words(errno), theirs, "{errno}");
        }
    }

    #[test]
    fn a_line_is_one_without_marks_whoever_wrote_it() {
        for (text, line) in [
            ("a: gone (os error 2): b (os error 13)", "a: gone: b"),
            ("a (os error of mine)", "a (os error of mine)"),
            ("one\ntwo \u{1b}[2J", "one two \\u{1b}[2J"),
        ] {
            assert_eq!(one_line(text), line);
        }
    }

    #[test]
    fn what_confines_ferrun_itself_is_told_where_a_right_is_missing() {
        let around = || Some("a seccomp filter".to_owned());
        for (errno, line) in [
            (
                rustix::io::Errno::PERM,
                "mount: Operation not permitted: ferrun itself runs under a seccomp filter",
            ),
            (rustix::io::Errno::NOENT, "mount: No such file or directory"),
        ] {
            let error = Error::new(errno).context("mount");
            assert_eq!(message_around(&error, around), line);
        }
        let error = Error::new(rustix::io::Errno::PERM).context("mount");
        assert_eq!(message_around(&error, || None), "mount: Operation not permitted");
    }

    #[test]
    fn a_call_that_is_not_there_is_explained_once() {
        let error = Error::new(rustix::io::Errno::NOSYS).context("open_tree");
        let line = "open_tree: Function not implemented: \
            needs Linux 5.14, and no filter around ferrun that does not know the call";
        assert_eq!(message(&error), line);
        // As it comes from init.
        let told = sentences(&error).into_iter().rev().map(Error::msg);
        let told = told.reduce(|cause, sentence| cause.context(sentence)).unwrap();
        assert_eq!(message(&told), line);
    }
}
