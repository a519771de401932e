//! `spec`: a config.json to start from.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::bundle::OCI_VERSION;
use crate::cli::Given;

/// Runs the verb.
pub fn run(given: &Given) -> Result<()> {
    let directory = given.path("bundle").unwrap_or_else(|| ".".into());
    let path = directory.join("config.json");
    let cgroup2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let rootless = given.has("rootless").then_some(ids);
    let mut text = serde_json::to_string_pretty(&config(rootless, cgroup2))?;
    text = text.lines().map(tabs).collect::<Vec<_>>().join("\n") + "\n";
    // What is there, a link too, is left alone.
    match File::create_new(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{path:?}: exists; remove it first")
        }
        file => file.and_then(|mut file| file.write_all(text.as_bytes())),
    }
    .with_context(|| format!("{path:?}"))
}

/// Two blanks of indentation become a tab, as runc writes it.
fn tabs(line: &str) -> String {
    let text = line.trim_start_matches(' ');
    "\t".repeat((line.len() - text.len()) / 2) + text
}

/// The configuration, for root or for an ordinary user with these ids.
fn config(rootless: Option<(u32, u32)>, cgroup2: bool) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut namespaces = vec!["pid", "network", "ipc", "uts", "mount"];
    if cgroup2 {
        namespaces.push("cgroup");
    }
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    let mut linux = json!({
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
            "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
            "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"
        ],
        "readonlyPaths":
            ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    let mut tail = vec![mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])];
    if let Some((uid, gid)) = rootless {
        namespaces.retain(|name| *name != "network");
        namespaces.push("user");
        linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
        linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
        // A sysfs of its own needs a network namespace of its own.
        tail.push(mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]));
    } else {
        pts.push("gid=5");
        linux["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
        let closed = ["nosuid", "noexec", "nodev", "ro"];
        tail.push(mount("/sys", "sysfs", "sysfs", &closed));
        let group = ["nosuid", "noexec", "nodev", "relatime", "ro"];
        tail.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &group));
    }
    linux["namespaces"] = namespaces.iter().map(|name| json!({"type": name})).collect();
    let shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &pts),
        mount("/dev/shm", "tmpfs", "shm", &shm),
    ];
    mounts.extend(tail);
    json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm"
            ],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "ferrun",
        "mounts": mounts,
        "linux": linux,
    })
}

fn mount(destination: &str, fstype: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": fstype, "source": source, "options": options})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_planned() {
        use crate::plan::Plan;
        use crate::plan::host::Host;
        use crate::plan::request::Request;
        for (rootless, cgroup2) in [(None, false), (None, true), (Some((1000, 1000)), true)] {
            let text = config(rootless, cgroup2).to_string();
            let (spec, warnings) = crate::bundle::parse_spec(&text).unwrap();
            assert!(warnings.is_empty());
            // A host without cgroups has nothing to restrict devices with.
            let host = Host {
                cgroups: crate::plan::cgroup::Layout::V2(crate::plan::cgroup::Unified {
                    controllers: vec![],
                    mount: "/sys/fs/cgroup".into(),
                }),
                ..Host::default()
            };
            Plan::new(&Request::new(&spec, Path::new("/b"), "c"), &host).unwrap();
        }
    }
}
