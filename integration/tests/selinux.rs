//! `process.selinuxLabel` and `linux.mountLabel`: whatever runs as the program runs under
//! the one, and what is mounted for it has the other. The policy that these labels are of
//! is testbed/selinux/policy.cil, which the virtual machine of testbed/guest.py loads.

use std::fs;
use std::path::{Path, PathBuf};

use integration::{Bed, Bundle, Kind, Output, as_both, runtime};
use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
use serde_json::json;

/// Whoever runs the tests.
const TESTS: &str = "system_u:system_r:tests_t:s0-s0:c1.c3";
const CONTAINER: &str = "system_u:system_r:container_t:s0:c1,c2";
/// Another container, by its categories alone.
const OTHER: &str = "system_u:system_r:container_t:s0:c3";
const FILES: &str = "system_u:object_r:container_file_t:s0:c1,c2";
const FILES_OF_OTHER: &str = "system_u:object_r:container_file_t:s0:c3";
/// With a comma, as labels of containers have.
const SEVERAL: &str = "system_u:object_r:container_file_t:s0:c1,c3";
const SECRET: &str = "system_u:object_r:secret_t:s0";
const KERNEL: &str = "system_u:object_r:kernel_file_t:s0";
const FORBIDDEN: &str = "system_u:system_r:forbidden_t:s0";
const STRICT: &str = "system_u:system_r:strict_t:s0";
const BOUNDED: &str = "system_u:system_r:bounded_t:s0";
const NO_SUCH_LABEL: &str = "system_u:system_r:no_such_t:s0";

/// Whether the kernel enforces the policy of these tests.
fn has_policy() -> bool {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    read("/sys/fs/selinux/enforce") == "1"
        && read("/proc/self/attr/current").trim_end_matches('\0') == TESTS
}

/// Runs a test where the policy is, and says so elsewhere.
fn with_policy(test: impl Fn(&Bed) + Sync) {
    as_both(|bed| {
        if !has_policy() {
            return bed.skip("this kernel does not enforce the SELinux policy of the tests");
        }
        test(bed);
    });
}

fn label_file(path: &Path, label: &str) {
    lsetxattr(path, "security.selinux", label.as_bytes(), XattrFlags::empty())
        .unwrap_or_else(|errno| panic!("{path:?}: {label}: {errno}"));
}

#[track_caller]
fn label_of(path: &Path) -> String {
    let mut label = [0; 256];
    let length = lgetxattr(path, "security.selinux", &mut label)
        .unwrap_or_else(|errno| panic!("{path:?}: {errno}"));
    String::from_utf8_lossy(&label[..length]).trim_end_matches('\0').to_owned()
}

/// Says which label it runs under, and which files it can read.
const SCRIPT: &str = "tr -d '\\0' < /proc/self/attr/current; echo; \
    for name in own other secret; do cat /etc/$name 2>/dev/null || echo refused; done";

/// A bundle that runs `script` under a label, with those files.
fn under(bed: &Bed, label: &str, script: &str) -> Bundle {
    let bundle = bed.bundle().with("/process/selinuxLabel", label).sh(script);
    for (name, label) in [("own", FILES), ("other", FILES_OF_OTHER), ("secret", SECRET)] {
        bundle.write(&format!("/etc/{name}"), &format!("{name}\n"));
        label_file(&bundle.rootfs().join("etc").join(name), label);
    }
    bundle
}

/// What `SCRIPT` prints under a label.
fn seen(label: &str) -> String {
    let files = match label {
        TESTS => "own\nother\nsecret",
        CONTAINER => "own\nrefused\nrefused",
        OTHER => "refused\nother\nrefused",
        // Without a category.
        _ => "refused\nrefused\nrefused",
    };
    format!("{label}\n{files}")
}

#[test]
fn the_program_runs_under_its_label() {
    with_policy(|bed| {
        for label in [CONTAINER, OTHER, TESTS] {
            for no_new_privileges in [true, false] {
                let bundle =
                    under(bed, label, SCRIPT).with("/process/noNewPrivileges", no_new_privileges);
                assert_eq!(bed.run(&bundle).success(), seen(label));
                if !bed.is_rootless() {
                    let mapped = bundle.in_user_namespace(1000);
                    assert_eq!(bed.run(&mapped).success(), seen(label), "mapped");
                }
            }
        }
        let unlabelled = under(bed, CONTAINER, SCRIPT).without("/process/selinuxLabel");
        assert_eq!(bed.run(&unlabelled).success(), seen(TESTS));
    });
}

#[test]
fn a_label_that_the_policy_has_not_is_refused_by_name() {
    with_policy(|bed| {
        assert_label_is_named(&bed.run(&under(bed, NO_SUCH_LABEL, SCRIPT)), NO_SUCH_LABEL);
        bed.assert_nothing_left();
    });
}

#[track_caller]
fn assert_label_is_named(output: &Output, label: &str) {
    assert!(output.code != 0 && output.stdout.is_empty(), "{output}");
    if runtime().kind == Kind::Ferrun {
        assert!(output.stderr.contains("selinuxLabel"), "{output}");
        assert!(output.stderr.contains(&format!("{label:?}")), "{output}");
    }
}

#[test]
fn exec_has_the_label_of_the_container_or_one_of_its_own() {
    with_policy(|bed| {
        let container = bed.start(&under(bed, CONTAINER, "sleep 100"));
        let exec =
            |options: &[&str]| container.exec_call(options, &["/bin/sh", "-c", SCRIPT]).output();
        let of_a_file = |label: serde_json::Value| {
            let process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"],
                "args": ["/bin/sh", "-c", SCRIPT], "selinuxLabel": label});
            let path = bed.write("process.json", &process.to_string());
            bed.call().args(["exec", "--process"]).arg(path).arg(&container.id).output()
        };
        assert_eq!(exec(&[]).success(), seen(CONTAINER));
        for label in [OTHER, TESTS] {
            assert_eq!(exec(&["--process-label", label]).success(), seen(label));
            assert_eq!(of_a_file(json!(label)).success(), seen(label));
        }
        // None is no way out of the container's.
        assert_eq!(of_a_file(json!("")).success(), seen(CONTAINER));
        assert_eq!(of_a_file(json!(null)).success(), seen(CONTAINER));
        assert_label_is_named(&exec(&["--process-label", NO_SUCH_LABEL]), NO_SUCH_LABEL);
    });
}

#[test]
fn hooks_run_as_the_runtime_but_for_those_that_start_the_container() {
    with_policy(|bed| {
        let hook = |name: &str| {
            let script = format!("({SCRIPT}) > {name}");
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}])
        };
        let outside = bed.make_directory("hooks", 0o777);
        let outside = |name: &str| outside.join(name).to_str().unwrap().to_owned();
        let mut bundle =
            under(bed, CONTAINER, "cat /tmp/hook").with("/hooks/startContainer", hook("/tmp/hook"));
        let others = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
        for name in others {
            bundle = bundle.with(&format!("/hooks/{name}"), hook(&outside(name)));
        }
        assert_eq!(bed.run(&bundle).success(), seen(CONTAINER));
        for name in others {
            let printed = fs::read_to_string(outside(name)).unwrap();
            assert_eq!(printed.lines().next(), Some(TESTS), "{name}");
        }
    });
}

#[test]
fn the_session_keyring_has_the_label_of_the_program() {
    with_policy(|bed| {
        // The policy shows a container those keys alone that have its own label.
        let others = bed.start(&under(bed, TESTS, "sleep 100"));
        let seen = |label: &str| {
            let container = bed.start(&under(bed, label, "cat /proc/keys"));
            let keys = container.ended();
            [&container.id, &others.id].map(|id| keys.contains(&format!("_ses.{id}:")))
        };
        assert_eq!(seen(CONTAINER), [true, false]);
        assert_eq!(seen(TESTS), [true, true]);
    });
}

#[test]
fn a_transition_that_the_policy_forbids_is_told_with_its_label() {
    with_policy(|bed| {
        let run = |label: &str, no_new_privileges: bool| {
            let bundle =
                under(bed, label, SCRIPT).with("/process/noNewPrivileges", no_new_privileges);
            bed.run(&bundle)
        };
        // Nobody may enter it.
        for no_new_privileges in [true, false] {
            assert_label_is_named(&run(FORBIDDEN, no_new_privileges), FORBIDDEN);
            bed.assert_nothing_left();
        }
        // Only with new privileges, for it may have more than whoever enters it.
        assert_eq!(run(STRICT, false).success(), seen(STRICT));
        assert_label_is_named(&run(STRICT, true), STRICT);
        bed.assert_nothing_left();
        // It may have no more, by the policy's own word.
        assert_eq!(run(BOUNDED, true).success(), seen(BOUNDED));

        let container = bed.start(&under(bed, CONTAINER, "sleep 100"));
        let exec =
            |label: &str| container.exec_call(&["--process-label", label], &["/bin/true"]).output();
        for label in [FORBIDDEN, STRICT] {
            assert_label_is_named(&exec(label), label);
        }
    });
}

#[test]
fn what_is_mounted_for_the_container_has_its_label() {
    with_policy(|bed| {
        let source = bed.make_directory("source", 0o755);
        label_file(&source, FILES_OF_OTHER);
        let script = "touch /dev/file /dev/shm/file /dev/mqueue/file && \
            head -n 1 /proc/self/status && ls /sys/kernel > /dev/null && \
            ls /hidden && cat /etc/own && echo done; sleep 100";
        let mut bundle = under(bed, CONTAINER, script)
            .with("/linux/mountLabel", FILES)
            .with("/linux/maskedPaths", json!(["/hidden", "/etc/own"]))
            .mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])
            .mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
            .mount("/bound", "bind", source.to_str().unwrap(), &["bind"]);
        let may_have_own = !bed.is_peer("they give a mount that has a label another one");
        if may_have_own {
            let own = |label: &str| format!("context=\"{label}\",size=1m");
            bundle = bundle.mount("/own", "tmpfs", "tmpfs", &[&own(FILES_OF_OTHER)]).mount(
                "/several",
                "tmpfs",
                "tmpfs",
                &[&own(SEVERAL)],
            );
        }
        if !bed.is_rootless() {
            bundle = bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro"]);
        }
        bundle.write("/hidden/file", "");
        let mapped = (!bed.is_rootless()).then(|| bundle.clone().in_user_namespace(1000));
        for bundle in [bundle].into_iter().chain(mapped) {
            let container = bed.start(&bundle);
            container.prints("done");
            // Masked files are empty, and nothing of the kernel's is hidden.
            assert_eq!(container.printed(), "Name:\thead\ndone\n");
            let root = PathBuf::from(format!("/proc/{}/root", container.pid()));
            let labelled =
                "dev dev/file dev/pts dev/pts/ptmx dev/shm dev/shm/file dev/mqueue hidden";
            for path in labelled.split_whitespace() {
                assert_eq!(label_of(&root.join(path)), FILES, "{path}");
            }
            if may_have_own {
                assert_eq!(label_of(&root.join("own")), FILES_OF_OTHER);
                assert_eq!(label_of(&root.join("several")), SEVERAL);
            }
            assert_eq!(label_of(&root.join("bound")), FILES_OF_OTHER);
            for path in ["proc/version", "sys", "sys/kernel"] {
                assert_eq!(label_of(&root.join(path)), KERNEL, "{path}");
            }
        }
    });
}

#[test]
fn a_mount_label_that_the_policy_has_not_is_refused_by_name() {
    with_policy(|bed| {
        let output = bed.run(&bed.bundle().with("/linux/mountLabel", NO_SUCH_LABEL));
        assert!(output.code != 0 && output.stderr.contains(NO_SUCH_LABEL), "{output}");
        if runtime().kind == Kind::Ferrun {
            let named = format!("linux.mountLabel: {NO_SUCH_LABEL:?}");
            assert!(output.stderr.contains(&named), "{output}");
        }
        bed.assert_nothing_left();
    });
}

#[test]
fn labels_are_refused_where_there_is_no_selinux() {
    as_both(|bed| {
        if Path::new("/sys/fs/selinux/enforce").exists() {
            return bed.skip("this kernel has SELinux");
        }
        if bed.is_peer("they pass labels over, or refuse them in other words") {
            return;
        }
        for (pointer, field) in [
            ("/process/selinuxLabel", "process.selinuxLabel"),
            ("/linux/mountLabel", "linux.mountLabel"),
        ] {
            let output = bed.run(&bed.bundle().with(pointer, CONTAINER));
            let expected = format!(
                "ferrun: error: {field}: {CONTAINER:?}: this kernel has no SELinux, or it is switched off"
            );
            assert_eq!((output.code, output.stderr.trim_end()), (1, &*expected), "{output}");
            bed.assert_nothing_left();
        }
    });
}
