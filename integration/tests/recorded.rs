//! What real engines handed to their runtime, run here: every configuration below `data/`.
//!
//! Roots, sources and namespaces of the machines that they come from are exchanged for
//! ones of the test. Everything else stays, so a container starts with all that the
//! engine asked for.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use integration::shared_too::{as_both, as_root, as_user};
use integration::{Bed, Bundle, Caller, runtime};
use serde_json::{Value, json};

/// Why a configuration cannot run on this machine.
const LEFT_OUT: [(&str, &str); 3] = [
    ("containerd-2.4-cri-sandbox-hostname-without-uts", "a name without a namespace is refused"),
    ("podman-4.3-rootless-systemd-v2-default", "nobody has given the user a cgroup to limit"),
    ("podman-4.3-rootless-systemd-v2-limits", "nobody has given the user a cgroup to limit"),
];

/// Why a configuration cannot run in a user namespace of its own. No engine asks for that.
const LEFT_OUT_INSIDE: [(&str, &str); 7] = [
    ("containerd-2.4-cri-sandbox-hostname-without-uts", "a name without a namespace is refused"),
    ("containerd-2.4-cri-sandbox-hostns", HOSTS_QUEUES),
    ("docker-20.10-hostns", HOSTS_QUEUES),
    ("docker-29-hostns", HOSTS_QUEUES),
    ("podman-4.3-hostns", HOSTS_QUEUES),
    ("containerd-2.4-cri-container-userns", MAPPED_MOUNT),
    ("containerd-2.4-systemd-v2-cri-container-userns", MAPPED_MOUNT),
];
const HOSTS_QUEUES: &str =
    "the message queues of the host's ipc namespace are mounted in the host's user namespace alone";
const MAPPED_MOUNT: &str = "an ordinary user may map the ids of no mount";

/// Kernel parameters that cannot be set in a user namespace. Docker leaves them out there.
const PARAMETERS_OUTSIDE: [(&str, &str); 2] = [
    ("net.ipv4.ping_group_range", "it names groups that are not mapped"),
    ("kernel.domainname", "it is for the machine's root alone"),
];

/// The configurations of containers, by name.
fn configurations(rootless: bool) -> Vec<(String, Value)> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let mut found = Vec::new();
    for entry in fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let Ok(config) = serde_json::from_slice::<Value>(&fs::read(&path).unwrap()) else {
            continue;
        };
        // The others are processes and resources.
        if config.get("root").is_some() && name.contains("rootless") == rootless {
            found.push((name, config));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn entries(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = json!([]);
    }
    value.as_array_mut().unwrap()
}

/// The configuration with its root, its sources and its namespaces moved here.
fn moved(bed: &Bed, mut config: Value) -> Bundle {
    let bundle = bed.bundle();
    config["root"]["path"] = json!(bundle.rootfs());
    config["linux"]["cgroupsPath"] = json!(format!("/{}/{}", bed.name, bed.next()));
    config["process"]["args"] = json!(["/bin/sh", "-c", "echo it runs"]);
    config["process"]["terminal"] = json!(false);
    config.as_object_mut().unwrap().remove("hooks");
    drop_what_needs_rights(&mut config);
    move_namespaces(bed, &mut config);
    move_sources(bed, &mut config);
    let bundle = Bundle { config, ..bundle };
    give_to_root_inside(&bundle);
    bundle
}

/// The machine of these tests may neither raise limits nor protect from the want of memory.
fn drop_what_needs_rights(config: &mut Value) {
    let process = config["process"].as_object_mut().unwrap();
    process.remove("rlimits");
    process.remove("oomScoreAdj");
    process.remove("apparmorProfile");
    process.remove("selinuxLabel");
    if let Some(linux) = config["linux"].as_object_mut() {
        linux.remove("mountLabel");
    }
}

fn move_namespaces(bed: &Bed, config: &mut Value) {
    for namespace in entries(&mut config["linux"]["namespaces"]) {
        namespace.as_object_mut().unwrap().remove("path");
    }
    if let Caller::User(id) = bed.caller {
        let namespaces = entries(&mut config["linux"]["namespaces"]);
        if !namespaces.iter().any(|namespace| namespace["type"] == "user") {
            namespaces.push(json!({"type": "user"}));
        }
        for field in ["uidMappings", "gidMappings"] {
            config["linux"][field] = json!([{"containerID": 0, "hostID": id, "size": 1}]);
        }
        config["process"]["user"] = json!({"uid": 0, "gid": 0});
        for mount in entries(&mut config["mounts"]) {
            if let Some(options) = mount["options"].as_array_mut() {
                options.retain(|word| word != "gid=5");
            }
        }
    }
}

fn move_sources(bed: &Bed, config: &mut Value) {
    let mounts = entries(&mut config["mounts"]);
    // Layers of a volume that are not here.
    mounts.retain(|mount| mount["type"] != "overlay");
    for mount in mounts {
        let source = mount["source"].as_str().unwrap_or_default().to_owned();
        let is_of_the_kernel = ["/dev", "/proc", "/sys"].iter().any(|top| source.starts_with(top));
        if !source.starts_with('/') || (is_of_the_kernel && Path::new(&source).exists()) {
            continue;
        }
        let destination = Path::new(mount["destination"].as_str().unwrap());
        let in_etc = destination.starts_with("/etc") || destination.ends_with("hostname");
        let is_file = in_etc || destination.extension().is_some() || destination.ends_with("init");
        let name = format!("source-{}", bed.next());
        mount["source"] = if is_file || destination.starts_with("/run/.containerenv") {
            json!(bed.write(&name, "of the engine\n"))
        } else {
            json!(bed.make_directory(&name, 0o755))
        };
    }
}

/// Who is root in a user namespace makes the mount points.
fn give_to_root_inside(bundle: &Bundle) {
    let maps = bundle.config["linux"]["uidMappings"].as_array().cloned().unwrap_or_default();
    let Some(root) = maps.iter().find(|map| map["containerID"] == 0) else { return };
    let id = root["hostID"].as_u64().unwrap() as u32;
    fs::set_permissions(&bundle.path, fs::Permissions::from_mode(0o755)).unwrap();
    give(&bundle.rootfs(), id);
}

fn give(directory: &Path, id: u32) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    chown(directory, Some(id), Some(id)).unwrap();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            give(&entry.path(), id);
        }
    }
}

fn run_all(bed: &Bed) {
    let mut failed = Vec::new();
    for (name, config) in configurations(bed.is_rootless()) {
        if let Some((_, reason)) = LEFT_OUT.iter().find(|(left_out, _)| *left_out == name) {
            bed.skip(&format!("{name}: {reason}"));
            continue;
        }
        let output = bed.run(&moved(bed, config));
        if output.code != 0 || output.stdout.trim() != "it runs" {
            failed.push(format!("{name}: {output}"));
        }
        bed.assert_nothing_left();
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The configuration moved here and into a user namespace of its own, as an engine that maps
/// ids would write it.
fn moved_inside(bed: &Bed, name: &str, mut config: Value) -> Bundle {
    let linux = &mut config["linux"];
    if !bed.is_rootless() {
        entries(&mut linux["namespaces"]).push(json!({"type": "user"}));
        for field in ["uidMappings", "gidMappings"] {
            linux[field] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        }
    } else {
        // There is no cgroup for him to limit.
        linux.as_object_mut().unwrap().remove("resources");
    }
    for (parameter, reason) in PARAMETERS_OUTSIDE {
        let parameters = linux["sysctl"].as_object_mut();
        if parameters.is_some_and(|parameters| parameters.remove(parameter).is_some()) {
            bed.skip(&format!("{name}: {parameter}: {reason}"));
        }
    }
    // They are bound by their paths, and this machine need not have them.
    let is_here = |device: &Value| Path::new(device["path"].as_str().unwrap()).exists();
    entries(&mut linux["devices"]).retain(is_here);
    let script = "read inside outside size </proc/self/uid_map; echo it runs as $outside";
    let bundle = moved(bed, config);
    bundle.sh(script)
}

/// Those without a user namespace of their own, once more with one. Whoever is no root has
/// one in any case.
fn run_all_inside(bed: &Bed) {
    let mut failed = Vec::new();
    for (name, config) in configurations(false) {
        let has_one =
            config["linux"]["uidMappings"].as_array().is_some_and(|maps| !maps.is_empty());
        if has_one && !bed.is_rootless() {
            continue;
        }
        if let Some((_, reason)) = LEFT_OUT_INSIDE.iter().find(|(left_out, _)| *left_out == name) {
            bed.skip(&format!("{name}: {reason}"));
            continue;
        }
        let output = bed.run(&moved_inside(bed, &name, config));
        let root = match bed.caller {
            Caller::Root => 100_000,
            Caller::User(id) => id,
        };
        if output.code != 0 || output.stdout.trim() != format!("it runs as {root}") {
            failed.push(format!("{name}: {output}"));
        }
        bed.assert_nothing_left();
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_configuration_of_an_engine_runs_in_a_user_namespace() {
    as_both(|bed| {
        if !bed.is_peer("they are older than some of these engines") {
            run_all_inside(bed);
        }
    });
}

#[test]
fn every_configuration_of_an_engine_runs() {
    as_root(|bed| {
        if !bed.is_peer("they are older than some of these engines") {
            run_all(bed);
        }
    });
}

#[test]
fn every_configuration_of_a_rootless_engine_runs() {
    as_user(|bed| {
        if !bed.is_peer("they are older than some of these engines") {
            run_all(bed);
        }
    });
}

/// The lists of devices of which this machine has some, by name. Privileged containers name
/// every device of the host, /dev/ptmx among them.
fn lists_of_devices() -> Vec<(String, Vec<Value>)> {
    let mut lists = Vec::new();
    for (name, mut config) in configurations(false) {
        let mut devices = entries(&mut config["linux"]["devices"]).clone();
        devices.retain(|device| Path::new(device["path"].as_str().unwrap()).exists());
        if !devices.is_empty() {
            lists.push((name, devices));
        }
    }
    let has_ptmx = |devices: &[Value]| devices.iter().any(|device| device["path"] == "/dev/ptmx");
    assert!(lists.iter().any(|(_, devices)| has_ptmx(devices)), "no list has /dev/ptmx");
    lists
}

#[test]
fn every_list_of_devices_of_an_engine_can_be_had_in_a_user_namespace() {
    as_both(|bed| {
        if bed.is_peer("they are older than some of these engines") {
            return;
        }
        for (name, devices) in lists_of_devices() {
            let bundle = bed.bundle().with("/linux/devices", devices).sh("readlink /dev/ptmx");
            let bundle = if bed.is_rootless() { bundle } else { bundle.in_user_namespace(65_536) };
            assert_eq!(bed.run(&bundle).success(), "pts/ptmx", "{name}");
        }
    });
}

/// As under rootless Podman, whose containers have the user namespace of their engine.
#[test]
fn every_list_of_devices_of_an_engine_can_be_had_by_a_runtime_in_a_user_namespace() {
    as_root(|bed| {
        if bed.is_peer("they are older than some of these engines") {
            return;
        }
        for (name, devices) in lists_of_devices() {
            let bundle = bed.bundle().with("/linux/devices", devices).sh("readlink /dev/ptmx");
            let call = bed.program("/usr/bin/unshare".as_ref()).args(["--user", "--map-root-user"]);
            let call = call.args(["--mount", "--fork", "--kill-child"]).arg(&runtime().program);
            let call = call.arg("--root").arg(bed.root()).args(["run", "--bundle"]);
            let output = call.arg(&bundle.save().path).arg(bed.id()).output();
            assert_eq!(output.success(), "pts/ptmx", "{name}");
            bed.assert_nothing_left();
        }
    });
}
