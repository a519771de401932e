//! `linux.sysctl`: only what belongs to a namespace of the container's own.

use anyhow::{Result, bail};
use oci_spec::runtime::{Linux, LinuxNamespaceType as Kind};

use super::namespaces::{Namespaces, name};

/// A kernel parameter to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// `linux.sysctl.NAME`.
    pub field: String,
    /// Its path below /proc/sys.
    pub path: String,
    /// The value to write.
    pub value: String,
}

/// The parameters of the ipc namespace (ipc_namespaces(7)).
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Checks the parameters, in the order of their names.
pub fn plan_sysctls(linux: Option<&Linux>, namespaces: &Namespaces) -> Result<Vec<Sysctl>> {
    let Some(given) = linux.and_then(|linux| linux.sysctl().as_ref()) else { return Ok(vec![]) };
    let mut given: Vec<_> = given.iter().collect();
    given.sort();
    given
        .into_iter()
        .map(|(key, value)| {
            let field = format!("linux.sysctl: {key:?}");
            let path = path(key);
            if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
                bail!("{field}: not the name of a kernel parameter");
            }
            let dotted = path.replace('/', ".");
            match owner(&dotted) {
                Some(kind) if namespaces.has(kind) => {}
                Some(kind) => {
                    bail!("{field}: needs the container to have a {} namespace", name(kind))
                }
                None if dotted == "kernel.hostname" => bail!("{field}: is what hostname sets"),
                None => bail!("{field}: is not in a separate kernel namespace"),
            }
            Ok(Sysctl { field, path, value: value.clone() })
        })
        .collect()
}

/// sysctl(8) takes either separator; the one that comes first is it, and the
/// other one is a part of names such as `eth0.100`.
fn path(key: &str) -> String {
    match key.find(['.', '/']).and_then(|at| key.as_bytes().get(at)) {
        Some(b'/') => key.to_owned(),
        _ => key.replace('.', "\0").replace('/', ".").replace('\0', "/"),
    }
}

fn owner(dotted: &str) -> Option<Kind> {
    if dotted.starts_with("net.") {
        Some(Kind::Network)
    } else if IPC.contains(&dotted) || dotted.starts_with("fs.mqueue.") {
        Some(Kind::Ipc)
    } else if dotted == "kernel.domainname" {
        Some(Kind::Uts)
    } else if dotted.starts_with("user.") {
        Some(Kind::User)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<Vec<Sysctl>> {
        let linux: Linux = serde_json::from_str(json).unwrap();
        plan_sysctls(Some(&linux), &Namespaces::plan(Some(&linux)).unwrap())
    }

    #[test]
    fn parameters_of_own_namespaces_are_written_in_order() {
        let planned = plan(
            r#"{"namespaces":[{"type":"network"},{"type":"ipc"}],
                "sysctl":{"net/ipv4/conf/eth0.1/mtu":"2","kernel.sem":"1 2 3 4"}}"#,
        )
        .unwrap();
        let written: Vec<_> = planned.iter().map(|s| (s.path.as_str(), s.value.as_str())).collect();
        assert_eq!(written, [("kernel/sem", "1 2 3 4"), ("net/ipv4/conf/eth0.1/mtu", "2")]);
    }

    #[test]
    fn parameters_of_the_host_are_refused() {
        for (key, reason) in [
            ("net.core.somaxconn", "needs the container to have a network namespace"),
            ("kernel.shmmax", "needs the container to have a ipc namespace"),
            ("kernel.hostname", "is what hostname sets"),
            ("vm.swappiness", "is not in a separate kernel namespace"),
            ("net/../kernel/x", "not the name of a kernel parameter"),
            ("net..x", "not the name of a kernel parameter"),
        ] {
            let error = plan(&format!(r#"{{"sysctl":{{"{key}":"1"}}}}"#)).unwrap_err();
            assert_eq!(error.to_string(), format!("linux.sysctl: \"{key}\": {reason}"));
        }
    }
}
