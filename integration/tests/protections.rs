//! Protections that only an odd machine or an odd caller brings to light. Each of
//! them is taken out by a patch in `mutants/`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use integration::{Bed, Bundle, Output, as_root, runtime};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

/// Runs a bundle from within a shell script that ends in `exec "$@"`.
#[track_caller]
fn run_by(bed: &Bed, script: &str, bundle: &Bundle) -> Output {
    let call = bed.program("/bin/sh".as_ref()).args(["-c", script, "sh"]);
    let call = call.arg(&runtime().program).arg("--root").arg(bed.root());
    call.args(["run", "--bundle"]).arg(&bundle.save().path).arg(bed.id()).output()
}

#[test]
fn a_null_device_of_the_host_that_is_another_file_covers_nothing() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 binds whatever it finds there") {
            return;
        }
        let bundle = bed.bundle().with("/linux/maskedPaths", json!(["/secret"])).sh("cat /secret");
        bundle.write("/secret", "SECRET\n");
        let bait = bed.directory.join("bait");
        fs::write(&bait, "BAIT\n").unwrap();
        // In the mount namespace of this test alone.
        mount(Some(&bait), "/dev/null", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let output = bed.run(&bundle);
        umount2("/dev/null", MntFlags::MNT_DETACH).unwrap();
        let error = output.failure(1);
        assert!(error.contains("linux.maskedPaths[0]: \"/secret\": /dev/null"), "{error}");
        assert_eq!(output.stdout, "");
        bed.assert_nothing_left();
    });
}

#[test]
fn a_directory_that_the_caller_has_open_is_no_working_directory() {
    as_root(|bed| {
        for place in ["/proc/self/fd/7", "/proc/self/fd/7/etc"] {
            let bundle = bed.bundle().with("/process/cwd", place).sh("ls -a");
            let output = run_by(bed, "exec 7</; exec \"$@\"", &bundle);
            assert_ne!(output.code, 0, "{place}: {output}");
            assert_eq!(output.stdout, "", "{place}: {output}");
        }
        bed.assert_nothing_left();
    });
}

#[test]
fn ambient_capabilities_of_the_caller_are_not_kept() {
    as_root(|bed| {
        let names = ["CAP_KILL"];
        let sets = json!({"bounding": names, "permitted": names, "effective": names,
            "inheritable": names});
        let bundle = bed.bundle().with("/process/capabilities", sets).args([
            "/bin/grep",
            "CapAmb",
            "/proc/self/status",
        ]);
        let script = "exec setpriv --inh-caps +kill --ambient-caps +kill -- \"$@\"";
        let output = run_by(bed, script, &bundle);
        assert_eq!(output.success(), "CapAmb:\t0000000000000000");
    });
}

#[test]
fn the_root_of_the_host_is_not_below_that_of_the_container() {
    as_root(|bed| {
        let script = "awk '$5 == \"/\"' /proc/self/mountinfo | wc -l; ls /.. | tr '\\n' ' '";
        let bundle = bed.bundle().sh(script);
        let output = bed.run(&bundle);
        let mut names: Vec<_> = fs::read_dir(bundle.rootfs())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(output.success(), format!("1\n{}", names.join(" ")));
    });
}

#[test]
fn nothing_is_mounted_on_the_host_where_its_mounts_are_shared() {
    as_root(|bed| {
        let shared = bed.make_directory("shared", 0o755);
        mount(Some("tmpfs"), &shared, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        mount(None::<&str>, &shared, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        let mounted = || {
            let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            table.lines().filter(|line| line.contains(&bed.name)).count()
        };
        let before = mounted();
        let bundle = bed.bundle();
        let rootfs = shared.join("rootfs");
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .args([&bundle.rootfs(), &rootfs])
            .status()
            .unwrap();
        assert!(copied.success());
        for word in ["private", "slave", "shared"] {
            let bundle = bundle
                .clone()
                .with("/root/path", rootfs.to_str().unwrap())
                .with("/linux/rootfsPropagation", word);
            let container = bed.create(&bundle);
            assert_eq!(mounted(), before, "{word}");
            container.delete();
        }
        umount2(&shared, MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn what_is_remembered_of_a_container_is_closed_to_others() {
    as_root(|bed| {
        let container = bed.create(&bed.bundle());
        let mode = fs::metadata(bed.root().join(&container.id)).unwrap().permissions().mode();
        // Others may pass at the most: runc's is 0711.
        assert_eq!(mode & 0o066, 0, "{mode:o}");
    });
}
