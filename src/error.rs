//! How errors name what is wrong: the field of the configuration, the kernel
//! call, the object it was about.
//!
//! Everything is an `anyhow::Error`, a chain of sentences from the outermost to
//! the cause. An error is returned or logged, never both, and printed once, in
//! `main`. Texts are lower case and have no full stop, so that they chain.

use std::fmt::Display;

use anyhow::{Context as _, Error, Result};

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
