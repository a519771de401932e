//! What was typed, by the names of the options: no defaults among it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::ArgMatches;
use clap::parser::ValueSource;

/// The options and arguments of a verb, or those before it. Each value is one that its
/// definition takes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Given(Vec<(&'static str, OsString)>);

impl Given {
    /// Adds a value, or takes it in place of the one before.
    pub fn add(&mut self, name: &'static str, value: OsString, is_repeated: bool) {
        match self.0.iter_mut().find(|(given, _)| !is_repeated && *given == name) {
            Some((_, last)) => *last = value,
            None => self.0.push((name, value)),
        }
    }

    /// What clap has found of an option, or of an argument.
    pub fn add_found(&mut self, name: &'static str, is_switch: bool, found: &ArgMatches) {
        if found.value_source(name) != Some(ValueSource::CommandLine) {
            return;
        }
        if is_switch {
            // The value is clap's own, and false is never typed.
            return self.add(name, OsString::new(), false);
        }
        for value in found.get_raw(name).into_iter().flatten() {
            self.add(name, value.to_owned(), true);
        }
    }

    /// Whether an option was given.
    pub fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// A value as it was typed.
    fn value(&self, name: &str) -> Option<&OsStr> {
        self.values(name).next()
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &OsStr> {
        self.0.iter().filter(move |(given, _)| *given == name).map(|(_, value)| value.as_os_str())
    }

    /// The value of an option that holds a path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    /// The value of an option that holds a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.value(name).and_then(OsStr::to_str)
    }

    /// The values of an option that may be repeated, or of the last argument.
    pub fn texts(&self, name: &str) -> Vec<String> {
        self.values(name).filter_map(OsStr::to_str).map(str::to_owned).collect()
    }

    /// The value of an option that holds a number.
    pub fn number<N: std::str::FromStr>(&self, name: &str) -> Option<N> {
        self.text(name).and_then(|text| text.parse().ok())
    }

    /// The container's ID, which every verb but a few requires.
    pub fn id(&self) -> &str {
        self.text("id").unwrap_or_default()
    }

    /// All of it, for comparisons: what is repeated in its order.
    #[cfg(test)]
    pub fn in_order(&self) -> Vec<&(&'static str, OsString)> {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(name, _)| *name);
        all
    }
}
