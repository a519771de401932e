//! Ordinary users, and the bundles that real engines and `spec` write.

use std::fs;

use integration::shared_too::{as_both, as_root, as_user};
use integration::{Bed, Bundle, Caller, View, everywhere};
use serde_json::{Value, json};

/// The default bundle of `spec`, changed only so that it prints and ends.
#[track_caller]
fn default_bundle(bed: &Bed) -> Bundle {
    let bundle = bed.bundle();
    let mut call = bed.call().args(["spec", "--bundle"]).arg(&bundle.path);
    if bed.is_rootless() {
        call = call.arg("--rootless");
    }
    call.output().success();
    let text = fs::read_to_string(bundle.path.join("config.json")).unwrap();
    let config = serde_json::from_str(&text).unwrap();
    let group = format!("/{}/{}", bed.name, bed.next());
    let bundle = Bundle { config, ..bundle }.with("/linux/cgroupsPath", group);
    bundle.with("/process/terminal", false)
}

#[test]
fn the_default_bundle_runs_everywhere() {
    everywhere(|bed| {
        if bed.is_rootless() && bed.is_peer("they want no cgroupsPath of an ordinary user") {
            return;
        }
        let bundle =
            default_bundle(bed).sh("id -u; hostname; touch /x 2>/dev/null || echo read-only");
        let output = bed.run(&bundle);
        let lines: Vec<_> = output.success().lines().collect();
        assert_eq!((lines[0], lines[2]), ("0", "read-only"), "{output}");
        assert_ne!(lines[1], fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
        bed.assert_nothing_left();
    });
}

/// As in a container that masks a part of its own /proc: the kernel then lets no new one
/// be mounted, which would show what is masked.
#[test]
fn below_a_masked_proc_the_container_gets_the_callers() {
    use nix::mount::{MsFlags, mount, umount};
    as_user(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 fail there") {
            return;
        }
        if !nix::unistd::getuid().is_root() {
            return bed.skip("needs root to mask a part of /proc");
        }
        let masked = "/proc/irq";
        mount(None::<&str>, masked, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let output =
            bed.run(&bed.bundle().sh("ls /proc/irq; stat -f -c %T /proc; cat /proc/self/comm"));
        umount(masked).unwrap();
        assert_eq!(output.stdout.trim(), "proc\ncat", "{output}");
        assert_eq!(output.code, 0);
        assert!(output.stderr.contains("the container sees the caller's /proc"), "{output}");
    });
}

#[test]
fn the_default_bundle_asks_for_a_terminal() {
    as_both(|bed| {
        let bundle = bed.bundle();
        let mut call = bed.call().args(["spec", "--bundle"]).arg(&bundle.path);
        if bed.is_rootless() {
            call = call.arg("--rootless");
        }
        call.output().success();
        let (mut terminal, other) = integration::terminal::Terminal::open();
        let mut call = bed.call().args(["run", "--bundle"]).arg(&bundle.path);
        call = call.arg(bed.id()).on_terminal(&other);
        let running = call.spawn();
        terminal.expect("# ");
        terminal.send("echo $((40 + 2))\n");
        terminal.expect("42");
        terminal.send("exit 3\n");
        assert_eq!(running.wait().code, 3);
        drop(other);
    });
}

#[test]
fn spec_overwrites_nothing() {
    as_root(|bed| {
        let bundle = bed.bundle();
        bundle.save_text("mine");
        let output = bed.call().args(["spec", "--bundle"]).arg(&bundle.path).output();
        assert!(output.failure(1).contains("config.json"), "{output}");
        assert_eq!(fs::read_to_string(bundle.path.join("config.json")).unwrap(), "mine");
        let output =
            bed.call().arg("spec").current_dir(&bed.make_directory("empty", 0o755)).output();
        output.success();
        assert!(bed.directory.join("empty/config.json").exists());
    });
}

#[test]
fn an_ordinary_user_is_told_that_there_is_no_cgroup() {
    as_user(|bed| {
        if bed.is_peer("they say nothing") {
            return;
        }
        let container = bed.create(&bed.bundle());
        assert!(container.warnings.contains("no cgroup"), "{}", container.warnings);
        // A limit that cannot be kept is not passed over.
        let bundle = bed.bundle().with("/linux/resources/memory/limit", 67108864);
        let output = bed.run(&bundle);
        assert!(output.failure(1).contains("linux.resources.memory.limit"), "{output}");
    });
}

/// Nothing is said of what nobody knows, as if there were nothing.
#[test]
fn what_asks_a_cgroup_is_an_error_where_there_is_none() {
    as_both(|bed| {
        if bed.is_peer("they have no such manager, or say that nothing runs") {
            return;
        }
        let id = bed.id();
        let bundle = bed.bundle().sh("sleep 100");
        let call = bed.call().args(["--cgroup-manager", "disabled", "create", "--bundle"]);
        let call = call.arg(&bundle.save().path).arg(&id);
        let container = integration::Container::create(bed, &id, call);
        container.start();
        for words in [&["ps"][..], &["ps", "--format", "json"], &["events", "--stats"], &["pause"]]
        {
            let output = bed.call().args(words).arg(&id).output();
            assert!(output.failure(1).contains("the container has no cgroup"), "{output}");
            assert_eq!(output.stdout, "");
        }
        container.kill("KILL");
        container.ended();
        assert_eq!(bed.runtime(["ps", "--format", "json", &id]).success(), "[]");
    });
}

#[test]
fn without_a_cgroup_the_view_of_the_tree_is_mounted_all_the_same() {
    everywhere(|bed| {
        if bed.is_peer("they have no such manager") {
            return;
        }
        let bundle = bed
            .bundle()
            .mount("/sys", "sysfs", "sysfs", &["ro"])
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro"])
            .sh("echo ran");
        let call = bed.call().args(["--cgroup-manager", "disabled", "run", "--bundle"]);
        let output = call.arg(&bundle.save().path).arg(bed.id()).output();
        assert_eq!(output.success(), "ran");
        assert_eq!(output.stderr, "");
    });
}

#[test]
fn a_user_without_a_place_for_containers_is_told_what_names_one() {
    as_user(|bed| {
        if bed.is_peer("they take places of their own") {
            return;
        }
        let bundle = bed.bundle();
        let path = bundle.save().path.to_str().unwrap().to_owned();
        for words in [&["list"][..], &["run", "--bundle", &path, "x"]] {
            let output = bed.bare_call().args(words).output();
            let told = "neither --root nor XDG_RUNTIME_DIR says where containers are remembered";
            assert!(output.failure(1).contains(told), "{output}");
        }
    });
}

#[test]
fn a_delegated_cgroup_is_used() {
    everywhere(|bed| {
        // Version 1 can be delegated to nobody.
        if !bed.is_rootless() || bed.view != View::V2 {
            return;
        }
        if bed.is_peer("they want systemd for it") {
            return;
        }
        bed.delegate();
        let bundle = bed.bundle().with("/linux/cgroupsPath", "box").sh("sleep 100");
        let container = bed.start(&bundle);
        assert_eq!(container.warnings, "");
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
        assert!(groups.contains(&format!("0::/{}/box\n", bed.name)), "{groups}");
        container.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn ids_beyond_the_callers_own_are_refused_by_name() {
    as_user(|bed| {
        if bed.is_peer("they name no field") {
            return;
        }
        let bundle = bed.bundle().with("/linux/uidMappings/0/hostID", 0);
        let output = bed.run(&bundle);
        assert!(output.failure(1).contains("linux.uidMappings"), "{output}");
        let bundle = bed.bundle().with("/process/user/uid", 1000);
        let output = bed.run(&bundle);
        assert!(output.failure(1).contains("process.user"), "{output}");
        bed.assert_nothing_left();
    });
}

#[test]
fn without_a_user_namespace_an_ordinary_user_is_told_so() {
    as_user(|bed| {
        if bed.is_peer("they have other words") {
            return;
        }
        let bundle = bed.bundle().without_namespace("user").without("/linux/uidMappings");
        let output = bed.run(&bundle.without("/linux/gidMappings"));
        assert!(output.failure(1).contains("user namespace"), "{output}");
        bed.assert_nothing_left();
    });
}

#[test]
fn the_runtime_directory_of_the_user_is_the_default_root() {
    as_user(|bed| {
        let directory = bed.make_directory("runtime", 0o700);
        let output = bed.bare_call().env("XDG_RUNTIME_DIR", &directory).arg("list").output();
        output.success();
        let id = bed.id();
        let bundle = bed.bundle();
        let create = bed.bare_call().env("XDG_RUNTIME_DIR", &directory).arg("create");
        create.arg("--bundle").arg(&bundle.save().path).arg(&id).output().success();
        let found = fs::read_dir(&directory).unwrap().count();
        assert_eq!(found, 1);
        let delete = bed.bare_call().env("XDG_RUNTIME_DIR", &directory);
        delete.args(["delete", "--force", &id]).output().success();
    });
}

/// A configuration of a real engine, with its root and its sources moved here.
fn engines(bed: &Bed, text: &str) -> Bundle {
    let mut config: Value = serde_json::from_str(text).unwrap();
    let bundle = bed.bundle();
    config["root"]["path"] = json!(bundle.rootfs());
    config["linux"]["cgroupsPath"] = json!(format!("/{}/{}", bed.name, bed.next()));
    if bed.is_rootless() {
        // The second container of a pod of this engine runs in a user namespace
        // that its parent has made; here it makes its own.
        for field in ["uidMappings", "gidMappings"] {
            let Caller::User(id) = bed.caller else { unreachable!("rootless") };
            config["linux"][field] = json!([{"containerID": 0, "hostID": id, "size": 1}]);
        }
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        if !namespaces.iter().any(|namespace| namespace["type"] == "user") {
            namespaces.push(json!({"type": "user"}));
        }
    }
    for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
        namespace.as_object_mut().unwrap().remove("path");
    }
    for mount in config["mounts"].as_array_mut().unwrap() {
        let source = mount["source"].as_str().unwrap_or_default().to_owned();
        if !source.starts_with('/') || source == "/sys" {
            continue;
        }
        let name = format!("source-{}", bed.next());
        let is_directory =
            ["/dev/shm", "/data", "/vol", "/var/run/secrets/kubernetes.io/serviceaccount"]
                .contains(&mount["destination"].as_str().unwrap());
        let source = if is_directory {
            bed.make_directory(&name, 0o755)
        } else {
            bed.write(&name, "of the engine\n")
        };
        mount["source"] = json!(source);
    }
    if !config["hooks"].is_null() {
        config["hooks"]["prestart"][0]["path"] = json!("/bin/true");
    }
    Bundle { config, ..bundle }
}

const SCRIPT: &str = "id -u; cat /etc/hosts 2>/dev/null; ls -d /proc/self /dev/null";

#[test]
fn bundles_of_docker_podman_buildah_buildkit_and_containerd_run() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 fails at hooks") {
            return;
        }
        for (name, text) in [
            ("docker-20.10-default", include_str!("../data/docker-20.10-default.json")),
            ("docker-29-default", include_str!("../data/docker-29-default.json")),
            ("podman-4.3-default", include_str!("../data/podman-4.3-default.json")),
            ("containerd-2.4-ctr-default", include_str!("../data/containerd-2.4-ctr-default.json")),
            (
                "containerd-2.4-cri-container",
                include_str!("../data/containerd-2.4-cri-container.json"),
            ),
            ("buildkit-0.33-run", include_str!("../data/buildkit-0.33-run.json")),
            ("buildah-1.28-run", include_str!("../data/buildah-1.28-run.json")),
        ] {
            let bundle = engines(bed, text);
            if bundle.config["ociVersion"].as_str().unwrap() > "1.0.3"
                && bed.is_peer("newer fields than runc 1.1 and crun 1.8 know")
            {
                continue;
            }
            let output = bed.run(&bundle.args(["/bin/sh", "-c", SCRIPT]));
            assert!(output.success().ends_with("/proc/self"), "{name}: {output}");
            assert!(output.stdout.contains("/dev/null"), "{name}: {output}");
            bed.assert_nothing_left();
        }
    });
}

#[test]
fn a_bundle_of_docker_is_confined_as_docker_asks() {
    as_root(|bed| {
        let text = include_str!("../data/docker-20.10-default.json");
        let bundle = engines(bed, text).args([
            "/bin/sh",
            "-c",
            "grep -E '^(CapEff|CapBnd|Seccomp|NoNewPrivs|Groups):' /proc/self/status | tr '\\t' ' '; \
             cat /proc/sys/net/ipv4/ip_unprivileged_port_start; cat /proc/kcore | wc -c; \
             (echo 1 > /proc/sys/kernel/domainname) 2>/dev/null && echo written; \
             unshare -U true 2>/dev/null && echo escaped; cat /etc/hosts",
        ]);
        let output = bed.run(&bundle);
        let lines: Vec<_> = output.success().lines().collect();
        for expected in
            ["CapEff: 00000000a80425fb", "CapBnd: 00000000a80425fb", "Seccomp: 2", "NoNewPrivs: 0"]
        {
            assert!(lines.contains(&expected), "{expected}: {output}");
        }
        assert_eq!(lines[lines.len() - 3..], ["0", "0", "of the engine"], "{output}");
    });
}

#[test]
fn a_bundle_of_docker_with_mapped_ids_runs() {
    as_root(|bed| {
        let bundle = engines(bed, include_str!("../data/docker-20.10-userns-remap.json"));
        for path in [bundle.path.clone(), bundle.rootfs()] {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        for name in ["", "dev", "etc", "proc", "sys", "tmp"] {
            let path = bundle.rootfs().join(name);
            std::os::unix::fs::chown(path, Some(100_000), Some(100_000)).unwrap();
        }
        let output =
            bed.run(&bundle.args(["/bin/sh", "-c", "id -u; cat /proc/self/uid_map | tr -s ' '"]));
        assert_eq!(output.success(), "0\n 0 100000 65536");
        bed.assert_nothing_left();
    });
}

#[test]
fn a_bundle_of_rootless_podman_runs() {
    as_user(|bed| {
        if bed.is_peer("they want no cgroupsPath of an ordinary user") {
            return;
        }
        let mut bundle = engines(bed, include_str!("../data/podman-4.3-rootless.json"));
        // Outside of the parent's user namespace one id is all there is.
        bundle = bundle.without("/process/user/additionalGids");
        for mount in bundle.config["mounts"].as_array_mut().unwrap() {
            if let Some(options) = mount["options"].as_array_mut() {
                options.retain(|word| word != "gid=5");
            }
        }
        let output = bed.run(&bundle.args(["/bin/sh", "-c", SCRIPT]));
        assert!(output.success().starts_with("0\n"), "{output}");
        bed.assert_nothing_left();
    });
}

/// As in a container of an engine that does not know the newer calls.
#[test]
fn what_refuses_a_call_from_outside_is_told() {
    as_root(|bed| {
        if bed.is_peer("runc and crun tell the call alone") {
            return;
        }
        let inner = bed.bundle();
        let config = integration::config(Caller::Root, "/none");
        let inner = Bundle { config, ..inner }.save().clone();
        let runtime = bed.make_directory("runtime", 0o755);
        integration::copy_program(&integration::runtime().program, &runtime.join("ferrun"));
        for (call, errno, told) in [
            (
                "open_tree",
                1,
                "open_tree: Operation not permitted: ferrun itself runs under a seccomp filter",
            ),
            ("fsopen", 13, "fsopen: Permission denied: ferrun itself runs under a seccomp filter"),
            (
                "open_tree",
                38,
                "open_tree: Function not implemented: needs Linux 5.14, and no filter",
            ),
        ] {
            let rule = json!({"names": [call], "action": "SCMP_ACT_ERRNO", "errnoRet": errno});
            let filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
            let arguments = [
                "--root",
                "/tmp/root",
                "--cgroup-manager",
                "disabled",
                "run",
                "--bundle",
                "/inner",
                "x",
            ];
            let outer = bed
                .bundle()
                .mount("/inner", "bind", inner.path.to_str().unwrap(), &["rbind"])
                .mount("/opt", "bind", runtime.to_str().unwrap(), &["bind", "ro"])
                .capable(&["CAP_SYS_ADMIN", "CAP_SETPCAP", "CAP_NET_ADMIN", "CAP_SYS_CHROOT"])
                .with("/linux/seccomp", filter)
                .args(["/opt/ferrun"].into_iter().chain(arguments));
            let output = bed.run(&outer);
            assert!(output.stderr.contains(told), "{output}");
        }
    });
}

/// A container that hides a part of its /proc, as all engines' do, and one inside of it
/// that belongs to an ordinary user there.
#[test]
fn a_container_runs_inside_a_container() {
    as_both(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 fail at /proc") {
            return;
        }
        // The outer one's ordinary user, and the root of a user namespace that has one id.
        let id = if bed.is_rootless() { 0 } else { 1000 };
        let inner = bed.bundle();
        let config = integration::config(Caller::User(id), "/none");
        let script = "ls /proc/irq; cat /proc/keys; stat -f -c %T /proc; echo inside; sleep 0.1";
        let inner = Bundle { config, ..inner }.sh(script).save().clone();
        let runtime = bed.make_directory("runtime", 0o755);
        integration::copy_program(&integration::runtime().program, &runtime.join("ferrun"));
        let outer = bed
            .bundle()
            .mount("/inner", "bind", inner.path.to_str().unwrap(), &["rbind"])
            .mount("/opt", "bind", runtime.to_str().unwrap(), &["bind", "ro"])
            .with("/process/user", json!({"uid": id, "gid": id}))
            // Without it nobody may map root of his user namespace (user_namespaces(7)).
            .capable(&["CAP_SETFCAP"])
            .with("/linux/maskedPaths", json!(["/proc/irq", "/proc/keys"]))
            .with("/linux/readonlyPaths", json!(["/proc/sys"]))
            .args(["/opt/ferrun", "--root", "/tmp/root", "run", "--bundle", "/inner", "x"]);
        let output = bed.run(&outer);
        assert_eq!(output.stdout, "proc\ninside\n", "{output}");
        assert!(output.stderr.contains("the container sees the caller's /proc"), "{output}");
        bed.assert_nothing_left();
    });
}
