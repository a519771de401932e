//! What a life may ask for, as data: what it changes of the configuration, and what is to be
//! found then.

use serde_json::Value;

use crate::Bundle;

/// One thing that is asked for. Without it the rest of the life is a life too.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    /// What a reader calls it.
    pub(super) name: String,
    /// What has to be so of the configuration by then; else the choice is left out.
    pub(super) needs: Vec<Need>,
    /// What it changes of the configuration.
    edits: Vec<Edit>,
    /// What it puts into the image.
    pub(super) files: Vec<ImageFile>,
    /// What is to be found.
    pub(super) checks: Vec<Check>,
    /// How the life goes.
    pub(super) ways: Vec<Way>,
}

/// What one choice asks of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// A namespace of this type is made.
    New(&'static str),
    /// A namespace of this type is joined.
    Joined(&'static str),
    /// A namespace of this type is not joined.
    NotJoined(&'static str),
    /// The caller's namespace of this type stays.
    Callers(&'static str),
    /// Nothing is there in the configuration.
    Unset(&'static str),
}

#[derive(Debug, Clone)]
enum Edit {
    Set(String, Value),
    Without(&'static str),
    Namespace(&'static str, Option<String>),
    NoNamespace(&'static str),
}

/// A file or, without a text, a directory.
#[derive(Debug, Clone)]
pub(super) struct ImageFile {
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) text: Option<String>,
}

/// A question and its answer. One question has one answer: that of the last who says it.
#[derive(Debug, Clone)]
pub(super) struct Check {
    pub(super) asks: Asks,
    pub(super) finds: Finds,
}

/// Who is asked what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asks {
    /// The program, and what exec adds: this of the shell.
    Inside(String),
    /// The program alone.
    Program(String),
    /// What exec adds alone, in the place of what is asked of both.
    Exec(String),
    /// The test itself, while it runs: this of a shell on the host, to which `$1` is the pid.
    Outside(String),
    /// The runtime, deadline and period that its scheduler goes by.
    Deadline,
    /// This file of its cgroup.
    Group(String),
    /// The same after the update.
    UpdatedGroup(String),
    /// What `state` says, by a JSON pointer.
    State(String),
    /// What stands in a file of the host when it is gone.
    Afterwards(String),
}

/// What an answer has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finds {
    Is(String),
    IsNot(String),
}

/// What is done otherwise than usual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// `create` has this option.
    Option(&'static str),
    /// `run --detach` takes the place of `create` and `start`.
    Run,
    /// It is killed while it is paused.
    KilledPaused,
    /// `delete --force` ends it.
    DeletedByForce,
    /// It is deleted before it starts.
    NeverStarted,
    /// `update` gets these options.
    Update(Vec<String>),
    /// `exec` gets these options.
    Exec(Vec<String>),
}

impl Choice {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            needs: Vec::new(),
            edits: Vec::new(),
            files: Vec::new(),
            checks: Vec::new(),
            ways: Vec::new(),
        }
    }

    pub(super) fn needs(mut self, needs: &[Need]) -> Self {
        self.needs.extend(needs);
        self
    }

    pub(super) fn set(mut self, pointer: impl Into<String>, value: impl Into<Value>) -> Self {
        self.edits.push(Edit::Set(pointer.into(), value.into()));
        self
    }

    pub(super) fn without(mut self, pointer: &'static str) -> Self {
        self.edits.push(Edit::Without(pointer));
        self
    }

    pub(super) fn namespace(mut self, kind: &'static str, path: Option<String>) -> Self {
        self.edits.push(Edit::Namespace(kind, path));
        self
    }

    pub(super) fn no_namespace(mut self, kind: &'static str) -> Self {
        self.edits.push(Edit::NoNamespace(kind));
        self
    }

    pub(super) fn directory(mut self, path: impl Into<String>, mode: u32) -> Self {
        self.files.push(ImageFile { path: path.into(), mode, text: None });
        self
    }

    pub(super) fn file(mut self, path: impl Into<String>, mode: u32, text: &str) -> Self {
        self.files.push(ImageFile { path: path.into(), mode, text: Some(text.to_owned()) });
        self
    }

    pub(super) fn check(mut self, asks: Asks, finds: impl Into<String>) -> Self {
        self.checks.push(Check { asks, finds: Finds::Is(finds.into()) });
        self
    }

    pub(super) fn check_not(mut self, asks: Asks, finds: impl Into<String>) -> Self {
        self.checks.push(Check { asks, finds: Finds::IsNot(finds.into()) });
        self
    }

    pub(super) fn inside(self, question: impl Into<String>, finds: impl Into<String>) -> Self {
        self.check(Asks::Inside(question.into()), finds)
    }

    pub(super) fn way(mut self, way: Way) -> Self {
        self.ways.push(way);
        self
    }

    /// The configuration with what the choice asks for.
    pub(super) fn apply(&self, bundle: Bundle) -> Bundle {
        self.edits.iter().cloned().fold(bundle, |bundle, edit| match edit {
            Edit::Set(pointer, value) => bundle.with(&pointer, value),
            Edit::Without(pointer) => bundle.without(pointer),
            Edit::Namespace(kind, path) => {
                bundle.with_namespace(kind, path.as_ref().map(AsRef::as_ref))
            }
            Edit::NoNamespace(kind) => bundle.without_namespace(kind),
        })
    }
}

impl Need {
    pub(super) fn is_met_by(self, config: &Value) -> bool {
        let namespace = |kind| namespace(config, kind);
        match self {
            Self::New(kind) => namespace(kind).is_some_and(|found| found["path"].is_null()),
            Self::Joined(kind) => namespace(kind).is_some_and(|found| !found["path"].is_null()),
            Self::NotJoined(kind) => !Self::Joined(kind).is_met_by(config),
            Self::Callers(kind) => namespace(kind).is_none(),
            Self::Unset(pointer) => config.pointer(pointer).is_none_or(Value::is_null),
        }
    }
}

fn namespace<'config>(config: &'config Value, kind: &str) -> Option<&'config Value> {
    let all = config["linux"]["namespaces"].as_array();
    all.into_iter().flatten().find(|namespace| namespace["type"] == kind)
}

impl Finds {
    pub(super) fn agree_with(&self, answer: &str) -> bool {
        match self {
            Self::Is(expected) => answer == expected,
            Self::IsNot(other) => answer != other && !answer.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn needs_are_about_the_configuration() {
        let config = json!({"linux": {"namespaces": [
            {"type": "uts"}, {"type": "ipc", "path": "/proc/7/ns/ipc"}]}});
        for need in [
            Need::New("uts"),
            Need::NotJoined("uts"),
            Need::Joined("ipc"),
            Need::Callers("user"),
            Need::NotJoined("user"),
            Need::Unset("/hostname"),
        ] {
            assert!(need.is_met_by(&config), "{need:?}");
        }
        for need in [
            Need::New("ipc"),
            Need::New("user"),
            Need::Joined("uts"),
            Need::NotJoined("ipc"),
            Need::Callers("uts"),
            Need::Unset("/linux/namespaces"),
        ] {
            assert!(!need.is_met_by(&config), "{need:?}");
        }
    }

    #[test]
    fn no_answer_differs_from_nothing() {
        assert!(Finds::IsNot("a".into()).agree_with("b"));
        assert!(!Finds::IsNot("a".into()).agree_with("a"));
        assert!(!Finds::IsNot("a".into()).agree_with(""));
    }
}
