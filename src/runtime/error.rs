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

    /// Its sentences, from the outermost, a field or a step, to the object, the call and the
    /// cause.
    pub fn sentences(&self) -> &[String] {
        &self.failure.chain
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
    fn a_program_can_branch_on_it() {
        use crate::error::InField as _;
        let refused = anyhow::Error::new(nix::errno::Errno::EPERM).context("mount");
        let error = Error::from(Err::<(), _>(refused).in_field("mounts[3]").unwrap_err());
        assert_eq!((error.kind(), error.field()), (Kind::Kernel, Some("mounts[3]")));
        assert_eq!(error.errno(), Some(nix::libc::EPERM));
        assert_eq!(error.to_string(), "mounts[3]: mount: Operation not permitted");
        assert_eq!(error.sentences().len(), 3);
        let error = Error::from(Kind::Configuration.error("odd"));
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Configuration, "odd"));
    }
}
