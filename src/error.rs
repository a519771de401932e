//! How errors name what is wrong: the field of the configuration, the kernel
//! call, the object it was about.
//!
//! Everything is an `anyhow::Error`, a chain of sentences from the outermost to
//! the cause. An error is returned or logged, never both, and printed once, in
//! `main`. Texts are lower case and have no full stop, so that they chain.

use std::fmt::Display;

use anyhow::{Context as _, Error, Result};

use crate::text::printable;

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
        self.with_context(|| field.to_string())
    }
}

/// The errno at the root of `error`, if a kernel call is.
pub fn errno(error: &Error) -> Option<i32> {
    error.chain().find_map(|cause| {
        cause
            .downcast_ref::<nix::errno::Errno>()
            .map(|errno| *errno as i32)
            .or_else(|| cause.downcast_ref::<rustix::io::Errno>().map(|e| e.raw_os_error()))
            .or_else(|| cause.downcast_ref::<std::io::Error>().and_then(|e| e.raw_os_error()))
    })
}

/// The sentences of an error, the outermost first, an errno in words alone.
pub fn sentences(error: &Error) -> Vec<String> {
    let mut sentences: Vec<_> = error
        .chain()
        .map(|cause| match cause.downcast_ref::<nix::errno::Errno>() {
            Some(errno) => errno.desc().to_owned(),
            None => without_marks(&cause.to_string()),
        })
        .collect();
    if errno(error) == Some(libc::ENOSYS) {
        // Most often it is a filter: a container of another runtime that is older.
        let text = "needs Linux 5.14, and no filter around ferrun that does not know the call";
        sentences.push(text.to_owned());
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
