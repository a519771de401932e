//! From an image's configuration to config.json (image-spec, conversion.md).
//! Pure: what has to be known of the machine comes in as facts.
//!
//! The result is a JSON value and not a typed one: it is written once, read by
//! people, and looks here as it does in the file.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::manifest::ImageConfig;
use crate::seccomp::{Machine, Profile};
use crate::users::User;

/// Every field used is older than this version of the runtime-spec, and old
/// runtimes refuse newer numbers.
const OCI_VERSION: &str = "1.0.2";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Docker's: what package managers, chown, su and ping need.
const DOCKER_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
/// Those of `runc spec`.
const MINIMAL_CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Which capabilities the process gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Capabilities {
    /// Docker's 14; set-user-id programs work.
    Docker,
    /// AUDIT_WRITE, KILL and NET_BIND_SERVICE, and no new privileges.
    Minimal,
}

impl Capabilities {
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &DOCKER_CAPABILITIES,
            Self::Minimal => &MINIMAL_CAPABILITIES,
        }
    }
}

/// What the machine and the caller have to say.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The container is for an ordinary user: this one, with this group.
    pub rootless: Option<(u32, u32)>,
    /// /sys/fs/cgroup is the one tree of cgroup v2.
    pub cgroup_v2: bool,
    /// The process gets a terminal.
    pub terminal: bool,
    /// Which capabilities it gets.
    pub capabilities: Capabilities,
    /// The program and its arguments, where they are to be others than the image's.
    pub command: &'a [String],
    /// What its seccomp filter is made from.
    pub seccomp: Option<&'a Profile>,
    /// Where it will run.
    pub machine: Machine<'a>,
}

/// A configuration, and what could not be taken over.
#[derive(Debug)]
pub struct Converted {
    /// The content of config.json.
    pub config: Value,
    /// One line each.
    pub warnings: Vec<String>,
}

/// Converts the configuration of an image whose `Config.User` is `user`.
///
/// `Config.Volumes` is left alone: an empty mount there, as the image-spec
/// allows, would hide what the image brings at these places, and Docker's users
/// expect to see it.
pub fn convert(image: &ImageConfig, user: &User, facts: Facts<'_>) -> Converted {
    let mut warnings = Vec::new();
    let mut args = facts.command.to_owned();
    if args.is_empty() {
        args.extend(image.config.entrypoint.iter().chain(&image.config.cmd).cloned());
    }
    if args.is_empty() {
        warnings.push("the image names no program: process.args is [\"sh\"]".to_owned());
        args.push("sh".to_owned());
    }
    let root = User::default();
    let user = if facts.rootless.is_some() && *user != root {
        let User { uid, gid, .. } = user;
        warnings.push(format!("the image's user {uid}:{gid} needs more than one id: the process runs as 0:0, mapped to you"));
        &root
    } else {
        user
    };
    for entry in image.config.env.iter().filter(|entry| !is_variable(entry)) {
        warnings.push(format!("the image's environment: {entry:?}: left out: not NAME=VALUE"));
    }
    let config = json!({
        "ociVersion": OCI_VERSION,
        "process": process(image, args, user, facts),
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "container",
        "mounts": mounts(facts),
        "annotations": annotations(image),
        "linux": linux(facts),
    });
    Converted { config, warnings }
}

fn process(image: &ImageConfig, args: Vec<String>, user: &User, facts: Facts<'_>) -> Value {
    let capabilities = facts.capabilities.names();
    let mut own = json!({"uid": user.uid, "gid": user.gid});
    if let (false, Some(own)) = (user.additional_gids.is_empty(), own.as_object_mut()) {
        own.insert("additionalGids".to_owned(), json!(user.additional_gids));
    }
    let cwd = &image.config.working_dir;
    json!({
        "terminal": facts.terminal,
        "user": own,
        "args": args,
        "env": env(image, facts.terminal),
        "cwd": if cwd.is_empty() { "/" } else { cwd },
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}],
        // Docker's set is of no use to su, sudo and ping without set-user-id.
        "noNewPrivileges": facts.capabilities == Capabilities::Minimal,
    })
}

/// Whether it is NAME=VALUE: a runtime takes nothing else.
fn is_variable(entry: &str) -> bool {
    entry.find('=').is_some_and(|length| length > 0)
}

/// The image's own, unchanged, and defaults for names it does not use.
fn env(image: &ImageConfig, terminal: bool) -> Vec<String> {
    let mut env = image.config.env.clone();
    env.retain(|entry| is_variable(entry));
    let has =
        |name: &str| image.config.env.iter().any(|entry| entry.split('=').next() == Some(name));
    if !has("PATH") {
        env.insert(0, PATH.to_owned());
    }
    if terminal && !has("TERM") {
        env.push("TERM=xterm".to_owned());
    }
    env
}

/// Implicit annotations, overruled by the image's labels.
fn annotations(image: &ImageConfig) -> BTreeMap<String, String> {
    let execution = &image.config;
    let list = |items: Vec<&str>| items.join(",");
    let optional = |text: &Option<String>| text.clone().unwrap_or_default();
    let implicit = [
        ("os", image.os.clone()),
        ("architecture", image.architecture.clone()),
        ("variant", optional(&image.variant)),
        ("os.version", optional(&image.os_version)),
        ("os.features", list(image.os_features.iter().map(String::as_str).collect())),
        ("author", optional(&image.author)),
        ("created", optional(&image.created)),
        ("stopSignal", execution.stop_signal.clone()),
        ("exposedPorts", list(execution.exposed_ports.keys().map(String::as_str).collect())),
    ];
    let implicit = implicit.into_iter().filter(|(_, value)| !value.is_empty());
    let mut annotations: BTreeMap<String, String> =
        implicit.map(|(key, value)| (format!("org.opencontainers.image.{key}"), value)).collect();
    annotations.extend(execution.labels.clone());
    annotations
}

/// As `runc spec` and `runc spec --rootless` have them.
fn mounts(facts: Facts<'_>) -> Value {
    let rootless = facts.rootless.is_some();
    let mut devpts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if !rootless {
        // The group tty, which one mapped id does not include.
        devpts.push("gid=5");
    }
    let sys = if rootless {
        // A fresh sysfs takes a network namespace of one's own.
        json!({"destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]})
    } else {
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"]})
    };
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": devpts},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        sys,
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
    ])
}

fn linux(facts: Facts<'_>) -> Value {
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    namespaces.extend(facts.cgroup_v2.then_some("cgroup"));
    namespaces.push(if facts.rootless.is_some() { "user" } else { "network" });
    let namespaces: Vec<Value> = namespaces.into_iter().map(|kind| json!({"type": kind})).collect();
    let mut linux = json!({
        "namespaces": namespaces,
        "maskedPaths": MASKED_PATHS,
        "readonlyPaths": READONLY_PATHS,
    });
    if let Some(linux) = linux.as_object_mut() {
        if let Some(profile) = facts.seccomp {
            let filter = profile.filter(facts.capabilities.names(), facts.machine);
            linux.insert("seccomp".to_owned(), filter);
        }
        match facts.rootless {
            Some((uid, gid)) => {
                let only = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 1}]);
                linux.insert("uidMappings".to_owned(), only(uid));
                linux.insert("gidMappings".to_owned(), only(gid));
            }
            None => {
                let devices = json!({"devices": [{"allow": false, "access": "rwm"}]});
                linux.insert("resources".to_owned(), devices);
            }
        }
    }
    linux
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::Kernel;

    const FACTS: Facts<'_> = Facts {
        rootless: None,
        cgroup_v2: false,
        terminal: false,
        capabilities: Capabilities::Docker,
        command: &[],
        seccomp: None,
        machine: Machine { architecture: "amd64", kernel: Kernel(6, 1) },
    };

    fn converted(image: &Value, user: &User, facts: Facts<'_>) -> Converted {
        let image: ImageConfig = serde_json::from_value(image.clone()).unwrap();
        let converted = convert(&image, user, facts);
        serde_json::from_value::<oci_spec::runtime::Spec>(converted.config.clone()).unwrap();
        converted
    }

    fn config(image: &Value) -> Value {
        converted(image, &User::default(), FACTS).config
    }

    fn execution(config: &Value) -> Value {
        json!({"os": "linux", "architecture": "amd64", "config": config})
    }

    #[test]
    fn args_are_the_entry_point_and_then_the_command() {
        for (image, args) in [
            (json!({"Entrypoint": ["/e", "x"], "Cmd": ["c"]}), json!(["/e", "x", "c"])),
            (json!({"Entrypoint": ["/e"], "Cmd": null}), json!(["/e"])),
            (json!({"Cmd": ["/c", ""]}), json!(["/c", ""])),
        ] {
            let converted = converted(&execution(&image), &User::default(), FACTS);
            assert_eq!(converted.config["process"]["args"], args);
            assert!(converted.warnings.is_empty());
        }
        let none = converted(&execution(&json!({})), &User::default(), FACTS);
        assert_eq!(none.config["process"]["args"], json!(["sh"]));
        assert_eq!(none.warnings.len(), 1);
    }

    #[test]
    fn a_command_takes_the_place_of_both() {
        let command = ["/bin/sleep".to_owned(), "1000".to_owned()];
        let facts = Facts { command: &command, ..FACTS };
        for image in [json!({"Entrypoint": ["/e"], "Cmd": ["c"]}), json!({})] {
            let converted = converted(&execution(&image), &User::default(), facts);
            assert_eq!(converted.config["process"]["args"], json!(command));
            assert!(converted.warnings.is_empty());
        }
    }

    #[test]
    fn the_filter_is_for_the_capabilities_of_the_process() {
        let profile = Profile::docker().unwrap();
        let facts = Facts { seccomp: Some(&profile), ..FACTS };
        for (capabilities, chroot) in [(Capabilities::Docker, true), (Capabilities::Minimal, false)]
        {
            let facts = Facts { capabilities, ..facts };
            let with = converted(&execution(&json!({"Cmd": ["x"]})), &User::default(), facts);
            let filter = &with.config["linux"]["seccomp"];
            assert_eq!(filter["defaultAction"], "SCMP_ACT_ERRNO");
            assert_eq!(filter.to_string().contains("\"chroot\""), chroot, "{capabilities:?}");
        }
        let none = config(&execution(&json!({"Cmd": ["x"]})));
        assert_eq!(none["linux"].get("seccomp"), None);
    }

    #[test]
    fn the_environment_is_verbatim_and_gets_only_what_it_lacks() {
        let left_out =
            |entry: &str| format!("the image's environment: {entry:?}: left out: not NAME=VALUE");
        for (env, terminal, expected, warnings) in [
            (json!(null), false, json!([PATH]), vec![]),
            (
                json!(["A=1", "PATH=/x", "A=2", "odd", "=x"]),
                false,
                json!(["A=1", "PATH=/x", "A=2"]),
                vec![left_out("odd"), left_out("=x")],
            ),
            (json!(["PATHS=/x"]), true, json!([PATH, "PATHS=/x", "TERM=xterm"]), vec![]),
            (json!(["PATH=", "TERM=vt100"]), true, json!(["PATH=", "TERM=vt100"]), vec![]),
        ] {
            let facts = Facts { terminal, ..FACTS };
            let image = execution(&json!({"Env": env, "Cmd": ["x"]}));
            let Converted { config, warnings: said } = converted(&image, &User::default(), facts);
            assert_eq!(said, warnings);
            assert_eq!(config["process"]["env"], expected);
            assert_eq!(config["process"]["terminal"], json!(terminal));
        }
    }

    #[test]
    fn the_working_directory_is_verbatim_or_the_root() {
        for (directory, cwd) in
            [(json!("/srv/../x"), "/srv/../x"), (json!(""), "/"), (json!(null), "/")]
        {
            assert_eq!(
                config(&execution(&json!({"WorkingDir": directory})))["process"]["cwd"],
                cwd
            );
        }
    }

    #[test]
    fn annotations_follow_the_table_of_the_image_spec_and_labels_win() {
        let image = json!({
            "os": "linux", "architecture": "arm", "variant": "v7", "os.version": "1", "os.features": ["a", "b"],
            "author": "me", "created": "2026-01-01T00:00:00Z",
            "config": {
                "StopSignal": "SIGQUIT",
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
                "Labels": {"org.opencontainers.image.author": "you", "x": ""},
            },
        });
        assert_eq!(
            config(&image)["annotations"],
            json!({
                "org.opencontainers.image.os": "linux",
                "org.opencontainers.image.architecture": "arm",
                "org.opencontainers.image.variant": "v7",
                "org.opencontainers.image.os.version": "1",
                "org.opencontainers.image.os.features": "a,b",
                "org.opencontainers.image.author": "you",
                "org.opencontainers.image.created": "2026-01-01T00:00:00Z",
                "org.opencontainers.image.stopSignal": "SIGQUIT",
                "org.opencontainers.image.exposedPorts": "53/udp,80/tcp",
                "x": "",
            })
        );
    }

    #[test]
    fn volumes_do_not_hide_what_the_image_has_there() {
        let with = config(&execution(&json!({"Cmd": ["x"], "Volumes": {"/data": {}}})));
        assert_eq!(with, config(&execution(&json!({"Cmd": ["x"]}))));
    }

    #[test]
    fn the_user_and_further_groups_are_taken_over() {
        let user = User { uid: 33, gid: 34, additional_gids: vec![4, 10] };
        let config = converted(&execution(&json!({"Cmd": ["x"]})), &user, FACTS).config;
        assert_eq!(
            config["process"]["user"],
            json!({"uid": 33, "gid": 34, "additionalGids": [4, 10]})
        );
    }

    #[test]
    fn minimal_capabilities_come_with_no_new_privileges() {
        let facts = Facts { capabilities: Capabilities::Minimal, ..FACTS };
        let minimal = converted(&execution(&json!({"Cmd": ["x"]})), &User::default(), facts).config;
        assert_eq!(minimal["process"]["capabilities"]["bounding"], json!(MINIMAL_CAPABILITIES));
        assert_eq!(minimal["process"]["noNewPrivileges"], json!(true));
        let docker = config(&execution(&json!({"Cmd": ["x"]})));
        assert_eq!(docker["process"]["capabilities"]["permitted"].as_array().unwrap().len(), 14);
        assert_eq!(docker["process"]["noNewPrivileges"], json!(false));
    }

    fn namespaces(config: &Value) -> Vec<&str> {
        let namespaces = config["linux"]["namespaces"].as_array().unwrap();
        namespaces.iter().map(|namespace| namespace["type"].as_str().unwrap()).collect()
    }

    #[test]
    fn a_cgroup_namespace_is_asked_for_on_cgroup_v2_only() {
        let image = execution(&json!({"Cmd": ["x"]}));
        assert_eq!(namespaces(&config(&image)), ["pid", "ipc", "uts", "mount", "network"]);
        let v2 = converted(&image, &User::default(), Facts { cgroup_v2: true, ..FACTS }).config;
        assert_eq!(namespaces(&v2), ["pid", "ipc", "uts", "mount", "cgroup", "network"]);
    }

    #[test]
    fn for_an_ordinary_user_there_is_one_mapped_id_and_nothing_that_takes_more() {
        let facts = Facts { rootless: Some((1000, 100)), ..FACTS };
        let user = User { uid: 33, gid: 34, additional_gids: vec![4] };
        let converted = converted(&execution(&json!({"Cmd": ["x"]})), &user, facts);
        let config = converted.config;
        assert_eq!(
            config["linux"]["uidMappings"],
            json!([{"containerID": 0, "hostID": 1000, "size": 1}])
        );
        assert_eq!(
            config["linux"]["gidMappings"],
            json!([{"containerID": 0, "hostID": 100, "size": 1}])
        );
        assert_eq!(namespaces(&config), ["pid", "ipc", "uts", "mount", "user"]);
        assert_eq!(config["linux"].get("resources"), None);
        assert_eq!(config["process"]["user"], json!({"uid": 0, "gid": 0}));
        assert_eq!(converted.warnings.len(), 1);
        let text = config["mounts"].to_string();
        assert!(!text.contains("gid=") && text.contains("\"rbind\""), "{text}");
    }
}
