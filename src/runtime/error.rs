//! Why something failed, for a program that goes on.

use std::fmt::{self, Display, Formatter};

use crate::error::{Failure, Kind, one_line};

/// Why something failed. Its text is one line, the outermost sentence first, and names the
/// field, the call and the object.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    failure: Failure,
}

impl Error {
    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The place in the configuration that it is about, as in `mounts[3].source`.
    pub fn field(&self) -> Option<&str> {
        self.failure.field.as_deref()
    }

    /// What the kernel has refused a call with.
    pub fn errno(&self) -> Option<i32> {
        self.failure.errno
    }

    /// The call that the kernel has refused, such as `mount` or `open`, or the step in which it
    /// did, where the text says so.
    pub fn call(&self) -> Option<&str> {
        let [.., sentence, _] = self.failure.chain.as_slice() else { return None };
        let word = sentence.split(' ').next().unwrap_or_default();
        let names_a_call = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let is_named = !word.is_empty() && word.chars().all(names_a_call);
        let only_names = sentence.len() == word.len() || sentence[word.len()..].starts_with(" \"");
        (self.errno().is_some() && is_named && only_names).then_some(word)
    }

    /// What it is about: the path, the program or the name that is quoted last in the innermost
    /// sentence that quotes any.
    pub fn object(&self) -> Option<String> {
        self.failure.chain.iter().rev().find_map(|sentence| quoted(sentence))
    }

    /// Its sentences, from the outermost, a field or a step, to the object, the call and the
    /// cause.
    pub fn sentences(&self) -> &[String] {
        &self.failure.chain
    }
}

/// The last quotation in a sentence, as it was before `{:?}` wrote it.
fn quoted(sentence: &str) -> Option<String> {
    let mut characters = sentence.chars();
    let mut last = None;
    while characters.by_ref().any(|c| c == '"') {
        last = Some(unquoted(&mut characters)?);
    }
    last
}

/// What comes before the closing quotation mark. None: there is none.
fn unquoted(characters: &mut impl Iterator<Item = char>) -> Option<String> {
    let mut text = String::new();
    loop {
        match characters.next()? {
            '"' => return Some(text),
            '\\' => text.push(match characters.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'u' => {
                    let digits: String =
                        characters.by_ref().skip(1).take_while(|c| *c != '}').collect();
                    char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?
                }
                itself => itself,
            }),
            other => text.push(other),
        }
    }
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Self { kind: Kind::of(&error), failure: Failure::new(&error) }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::from(failure.into_error())
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.failure.chain.join(": ")))
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_and_object_are_what_the_text_names() {
        let path = std::path::Path::new("/a \"b\"\n\u{1b}\\");
        let refused = |sentence: String| {
            anyhow::Error::new(nix::errno::Errno::ENOENT).context(sentence).context("mounts[0]")
        };
        for (error, call, object) in [
            (refused(format!("open {path:?}")), Some("open"), path.to_str()),
            (refused(format!("{path:?}")), None, path.to_str()),
            (refused("open_tree".into()).context("\"/outer\""), Some("open_tree"), Some("/outer")),
            (refused("statx".into()).context("\"/x\": more"), Some("statx"), Some("/x")),
            (refused("write \"1\" to \"/y\"".into()), Some("write"), Some("/y")),
            (refused("the gate is gone".into()), None, None),
            (anyhow::Error::msg("no errno").context("mount"), None, None),
            (anyhow::Error::msg("an open \"quotation"), None, None),
        ] {
            let error = Error::from(error);
            assert_eq!((error.call(), error.object().as_deref()), (call, object), "{error}");
        }
    }

    #[test]
    fn a_program_can_branch_on_it() {
        use crate::error::InField as _;
        let refused = anyhow::Error::new(nix::errno::Errno::EPERM).context("mount");
        let error = Error::from(Err::<(), _>(refused).in_field("mounts[3]").unwrap_err());
        assert_eq!((error.kind(), error.field()), (Kind::Kernel, Some("mounts[3]")));
        assert_eq!(error.errno(), Some(nix::libc::EPERM));
        assert_eq!(error.to_string(), "mounts[3]: mount: Operation not permitted");
        assert_eq!(error.sentences().len(), 3);
        assert_eq!((error.call(), error.object()), (Some("mount"), None));
        let error = Error::from(Kind::Configuration.error("odd"));
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Configuration, "odd"));
    }
}
