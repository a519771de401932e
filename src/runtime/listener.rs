//! Who hears what a call has to say beside its result.

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use crate::log::{self, Warned};

/// Who gets warnings, if anybody does.
#[derive(Clone, Default)]
pub struct Listener(Option<Warned>);

impl Listener {
    /// Calls this one.
    pub fn new(warned: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(warned)))
    }

    /// Makes a call whose warnings it gets.
    pub fn during<T>(&self, call: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(warned) => log::with(warned, call),
            None => call(),
        }
    }

    /// What a command has told.
    pub fn warn(&self, message: &str) {
        self.during(|| log::warn(message));
    }
}

impl Debug for Listener {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Listener({})", self.0.is_some())
    }
}
