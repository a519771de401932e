//! Statements of the specification that no other test is about. `specification.md` beside this
//! directory lists all of them, each with its test.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use integration::{Bed, Bundle, View, as_both, as_root, in_views};
use serde_json::{Map, Value, json};

/// Places where each name is a value, and not the specification's.
const MAPS: [&str; 5] = ["annotations", "sysctl", "unified", "netDevices", "timeOffsets"];

fn add_unknown(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let maps = |name: &String| MAPS.contains(&name.as_str());
            fields
                .iter_mut()
                .filter(|(name, _)| !maps(name))
                .for_each(|(_, value)| add_unknown(value));
            fields.insert("org.example.unknown".to_owned(), json!({"a": [1, null, {"b": "c"}]}));
        }
        Value::Array(items) => items.iter_mut().for_each(add_unknown),
        _ => {}
    }
}

/// config.md#extensibility
#[test]
fn what_is_unknown_is_passed_over_wherever_it_stands() {
    as_root(|bed| {
        let bundle = bed.bundle().sh("echo ran");
        let hook = json!([{"path": "/bin/true", "args": ["true"]}]);
        let mut bundle = bundle
            .with("/hooks/createRuntime", hook)
            .with("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "hard": 100, "soft": 50}]))
            .with("/linux/resources", json!({"pids": {"limit": 100}, "memory": {}, "devices": [{"allow": true}]}))
            .with("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}
            ]}))
            .with("/linux/devices", json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}]));
        add_unknown(&mut bundle.config);
        assert_eq!(bed.run(&bundle).success(), "ran");
    });
}

/// runtime.md#create: the bundle has to be named, or to be where the caller is.
#[test]
fn without_a_bundle_nothing_is_created() {
    as_both(|bed| {
        let bundle = bed.bundle();
        let empty = bed.make_directory("empty", 0o755);
        let output = bed.call().args(["create", &bed.id()]).current_dir(&empty).output();
        assert!(output.failure(1).contains("config.json"), "{output}");
        let id = bed.id();
        let create = bed.call().args(["create", &id]).current_dir(&bundle.save().path);
        create.output().success();
        bed.runtime(["delete", "--force", &id]).success();
    });
}

/// config.md#annotations
#[test]
fn an_annotation_may_be_empty_but_not_its_name() {
    as_both(|bed| {
        let annotations = |map: Value| bed.bundle().with("/annotations", map).sh("echo ran");
        let output = bed.run(&annotations(json!({"org.example.empty": "", "plain": "x"})));
        assert_eq!(output.success(), "ran");
        if bed.is_peer("runc and crun let it pass") {
            return;
        }
        let output = bed.run(&annotations(json!({"": "x"})));
        assert!(output.failure(1).contains("annotations"), "{output}");
    });
}

/// config-linux.md#user-namespace-mappings
#[test]
fn files_keep_their_owners_in_a_user_namespace() {
    as_root(|bed| {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        let bundle = bed.bundle().with_namespace("user", None);
        let bundle = bundle.with("/linux/uidMappings", map.clone()).with("/linux/gidMappings", map);
        fs::set_permissions(&bundle.path, fs::Permissions::from_mode(0o755)).expect("chmod");
        for name in ["dev", "proc", "sys"] {
            chown(bundle.rootfs().join(name), Some(100_000), Some(100_000)).expect("chown");
        }
        bundle.write("/kept", "");
        assert_eq!(bed.run(&bundle.clone().sh("stat -c %u:%g /kept")).success(), "65534:65534");
        let kept = fs::metadata(bundle.rootfs().join("kept")).expect("the file");
        assert_eq!((kept.uid(), kept.gid()), (0, 0));
    });
}

/// config-linux.md#network-devices
#[test]
fn an_interface_may_have_a_name_by_a_template() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 do not know netDevices") {
            return;
        }
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network");
        for line in [
            "link add name host0 type veth",
            "link add name host1 type veth",
            "addr add 10.98.7.6/24 dev host1",
        ] {
            let ip = bed.program(Path::new("/bin/busybox")).arg("ip");
            ip.args(line.split(' ')).output().success();
        }
        // Both by one template, and what one has goes along with it.
        let named = json!({"host0": {"name": "eth%d"}, "host1": {"name": "eth%d"}});
        let bundle = bed.bundle().with("/linux/netDevices", named);
        let look =
            "ip -o link | cut -d' ' -f2 | grep -o '^eth[01]' | sort; ip -o addr show dev eth1";
        let output = bed.run(&bundle.args(["/bin/busybox", "sh", "-c", look]));
        assert!(output.success().starts_with("eth0\neth1\n"), "{output}");
        assert!(output.stdout.contains("10.98.7.6/24"), "{output}");
    });
}

/// The owners of a container's group and of its files, by name.
fn owners(bed: &Bed, bundle: &Bundle) -> Map<String, Value> {
    let container = bed.start(bundle);
    let file = bed.by_version("freezer.state", "cgroup.procs");
    let group = bed.cgroup_file(bundle, file).parent().expect("its group").to_owned();
    let mut owners = Map::new();
    owners.insert(".".to_owned(), fs::metadata(&group).expect("the group").uid().into());
    for entry in fs::read_dir(&group).expect("the group").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        owners.insert(name, entry.metadata().expect("a file").uid().into());
    }
    container.delete();
    owners
}

/// config-linux.md#cgroup-ownership
#[test]
fn a_group_is_given_away_only_where_its_container_may_write_to_it() {
    in_views(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 give it away in other cases") {
            return;
        }
        let map = |host| json!([{"containerID": 0, "hostID": host, "size": 9}]);
        let bundle = |with_namespace: bool, options: &[&str]| {
            let bundle = bed.bundle().with_namespace("user", None);
            let bundle =
                if with_namespace { bundle.with_namespace("cgroup", None) } else { bundle };
            let bundle = bundle
                .with("/linux/uidMappings", map(100_000))
                .with("/linux/gidMappings", map(200_000));
            fs::set_permissions(&bundle.path, fs::Permissions::from_mode(0o755)).expect("chmod");
            for name in ["dev", "proc", "sys", "tmp"] {
                chown(bundle.rootfs().join(name), Some(100_000), Some(200_000)).expect("chown");
            }
            let bundle = bundle.mount("/sys", "sysfs", "sysfs", &[]);
            bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", options).sh("sleep 100")
        };
        let kept = |bundle: &Bundle| {
            let owners = owners(bed, bundle);
            assert!(owners.values().all(|owner| *owner == 0), "{owners:?}");
        };
        kept(&bundle(true, &["ro"]));
        kept(&bundle(false, &["rw"]));
        let writable = bundle(true, &["rw"]);
        if bed.view != View::V2 {
            return kept(&writable);
        }
        let usual = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".to_owned();
        let delegated = fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or(usual);
        for (name, owner) in owners(bed, &writable) {
            let is_given = name == "." || delegated.lines().any(|given| given == name);
            assert_eq!(owner, if is_given { 100_000 } else { 0 }, "{name}");
        }
    });
}

/// config-linux.md#seccomp: the listener's path.
#[test]
fn a_place_for_a_listener_is_passed_over_without_one() {
    as_root(|bed| {
        let filter = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": bed.directory.join("nobody"),
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}],
        });
        let bundle = bed.bundle().with("/linux/seccomp", filter).sh("echo ran");
        assert_eq!(bed.run(&bundle).success(), "ran");
    });
}

/// features.md, features-linux.md: what is listed is accepted.
#[test]
fn what_features_lists_is_known() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 say less") {
            return;
        }
        let output = bed.runtime(["features"]);
        let features: Value = serde_json::from_str(output.success()).expect("JSON");
        let list = |pointer: &str| {
            let list = features.pointer(pointer).and_then(Value::as_array).cloned();
            list.filter(|list| !list.is_empty()).unwrap_or_else(|| panic!("{pointer}: {output}"))
        };
        let runs = |bundle: Bundle, what: &Value| {
            let output = bed.run(&bundle.sh("echo ran"));
            assert_eq!(
                (output.code, output.stdout.trim(), output.stderr.as_str()),
                (0, "ran", ""),
                "{what}: {output}"
            );
        };
        for version in ["ociVersionMin", "ociVersionMax"] {
            let version = &features[version];
            runs(bed.bundle().with("/ociVersion", version.clone()), version);
        }
        let names = json!(list("/linux/capabilities"));
        let sets = ["bounding", "effective", "permitted", "inheritable", "ambient"];
        let sets: Map<String, Value> =
            sets.iter().map(|set| ((*set).to_owned(), names.clone())).collect();
        let output = bed
            .run(&bed.bundle().with("/process/capabilities", Value::Object(sets)).sh("echo ran"));
        assert!(output.success() == "ran" && !output.stderr.contains("unknown"), "{output}");
        let filter = |extra: Value| {
            let mut filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []});
            filter
                .as_object_mut()
                .expect("a profile")
                .extend(extra.as_object().expect("fields").clone());
            bed.bundle().with("/linux/seccomp", filter)
        };
        let rule = |action: &Value, args: Value| json!({"syscalls": [{"names": ["acct"], "action": action, "args": args}]});
        for action in
            list("/linux/seccomp/actions").iter().filter(|action| *action != "SCMP_ACT_NOTIFY")
        {
            runs(filter(rule(action, json!([]))), action);
        }
        for operator in list("/linux/seccomp/operators") {
            let condition = json!([{"index": 0, "value": 7, "valueTwo": 1, "op": operator}]);
            runs(filter(rule(&json!("SCMP_ACT_ERRNO"), condition)), &operator);
        }
        let native =
            if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
        for arch in list("/linux/seccomp/archs") {
            let output = bed.run(&filter(json!({"architectures": [native, arch]})).sh("echo ran"));
            assert_eq!(output.success(), "ran", "{arch}");
        }
        for flag in list("/linux/seccomp/supportedFlags") {
            // It is about listeners, and refused where there is none.
            if flag != "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" {
                runs(filter(json!({"flags": [flag]})), &flag);
            }
        }
        for mode in list("/linux/memoryPolicy/modes") {
            let nodes = if mode == "MPOL_DEFAULT" || mode == "MPOL_LOCAL" { "" } else { "0" };
            let policy = json!({"mode": mode, "nodes": nodes});
            runs(bed.bundle().with("/linux/memoryPolicy", policy), &mode);
        }
    });
}
