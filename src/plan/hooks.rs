//! `hooks` (config.md#posix-platform-hooks), checked.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use oci_spec::runtime::{Hook as SpecHook, Hooks as SpecHooks};
use serde::{Deserialize, Serialize};

use super::process::last_of_each_name;

/// The hooks of a container, each kind in the order of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// In the runtime's namespaces, when the environment exists, before pivot_root.
    pub prestart: Vec<Hook>,
    /// After `prestart`, in the same place.
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, before pivot_root, so with the runtime's files.
    pub create_container: Vec<Hook>,
    /// In the container, in its files, when `start` is called.
    pub start_container: Vec<Hook>,
    /// In the runtime's namespaces, when the program runs.
    pub poststart: Vec<Hook>,
    /// In the runtime's namespaces, when the container is deleted.
    pub poststop: Vec<Hook>,
}

/// One program to call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Its place in the configuration, as in `hooks.prestart[0]`.
    pub field: String,
    /// The program, an absolute path.
    pub path: PathBuf,
    /// argv, with argv[0]; the path alone where it is not given.
    pub args: Vec<String>,
    /// The environment; None inherits the one that its place has.
    pub env: Option<Vec<String>>,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

impl Hooks {
    /// Which there are, for the log.
    pub fn summary(&self) -> String {
        let runtime = [&self.prestart, &self.create_runtime, &self.create_container];
        let all =
            runtime.into_iter().chain([&self.start_container, &self.poststart, &self.poststop]);
        let all: Vec<_> =
            all.flatten().map(|hook| format!("{} {:?}", hook.field, hook.path)).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    }

    /// Checks the hooks of a configuration.
    pub fn plan(hooks: Option<&SpecHooks>) -> Result<Self> {
        let Some(hooks) = hooks else { return Ok(Self::default()) };
        Ok(Self {
            prestart: plan_kind("prestart", hooks.prestart())?,
            create_runtime: plan_kind("createRuntime", hooks.create_runtime())?,
            create_container: plan_kind("createContainer", hooks.create_container())?,
            start_container: plan_kind("startContainer", hooks.start_container())?,
            poststart: plan_kind("poststart", hooks.poststart())?,
            poststop: plan_kind("poststop", hooks.poststop())?,
        })
    }
}

fn plan_kind(kind: &str, hooks: &Option<Vec<SpecHook>>) -> Result<Vec<Hook>> {
    let plan_one = |(at, hook): (usize, &SpecHook)| {
        let field = format!("hooks.{kind}[{at}]");
        if !hook.path().is_absolute() {
            bail!("{field}.path: {:?}: not absolute", hook.path());
        }
        let timeout = match hook.timeout() {
            None => None,
            Some(seconds) => match u64::try_from(seconds) {
                Ok(seconds) if seconds > 0 => Some(Duration::from_secs(seconds)),
                _ => bail!("{field}.timeout: {seconds}: not above zero"),
            },
        };
        let args = match hook.args() {
            Some(args) if !args.is_empty() => args.clone(),
            _ => vec![hook.path().to_string_lossy().into_owned()],
        };
        let env = hook.env().as_deref().map(last_of_each_name);
        Ok(Hook { field, path: hook.path().clone(), args, env, timeout })
    };
    hooks.iter().flatten().enumerate().map(plan_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_keep_their_order_and_know_their_field() {
        let hooks: SpecHooks = serde_json::from_str(
            r#"{"poststop":[{"path":"/a"},{"path":"/b","args":["b","x"],"env":["K=u","K=v"],"timeout":3}],"prestop":[]}"#,
        )
        .unwrap();
        let planned = Hooks::plan(Some(&hooks)).unwrap();
        assert!(planned.prestart.is_empty());
        assert_eq!(planned.poststop[0].args, ["/a"]);
        assert_eq!(
            planned.poststop[1],
            Hook {
                field: "hooks.poststop[1]".into(),
                path: "/b".into(),
                args: vec!["b".into(), "x".into()],
                env: Some(vec!["K=v".into()]),
                timeout: Some(Duration::from_secs(3)),
            }
        );
    }

    #[test]
    fn a_hook_without_arguments_has_its_path_as_name() {
        let json = r#"{"poststart":[{"path":"/a"},{"path":"/a","args":[]}]}"#;
        let planned = Hooks::plan(Some(&serde_json::from_str(json).unwrap())).unwrap();
        assert!(planned.poststart.iter().all(|hook| hook.args == ["/a"]), "{planned:?}");
    }

    #[test]
    fn wrong_hooks_are_refused_by_their_field() {
        for (json, reason) in [
            (r#"{"prestart":[{"path":"a"}]}"#, r#"hooks.prestart[0].path: "a": not absolute"#),
            (
                r#"{"startContainer":[{"path":"/a","timeout":0}]}"#,
                "hooks.startContainer[0].timeout: 0: not above zero",
            ),
            (
                r#"{"poststart":[{"path":"/a"},{"path":"/a","timeout":-1}]}"#,
                "hooks.poststart[1].timeout: -1: not above zero",
            ),
        ] {
            let hooks = serde_json::from_str(json).unwrap();
            assert_eq!(Hooks::plan(Some(&hooks)).unwrap_err().to_string(), reason);
        }
    }
}
