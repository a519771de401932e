//! Names that processes, and whoever may make groups and mounts, choose. The kernel hands
//! them on as bytes, and a runtime that trips over one thinks that a container has ended.
//!
//! | file | who chooses bytes of it | which were tried | here |
//! |---|---|---|---|
//! | /proc/PID/stat | the process: its name | 0xff, half a letter, line feed, `) Z 1`, brackets, none; a zombie whose threads live | `a_program_may_call_itself_anything`, `a_program_whose_first_thread_has_ended_runs`; NUL, which the kernel cuts a name at, in `src/processes.rs` |
//! | the same | who mounts proc with hidepid | hidden | `a_process_that_is_hidden_has_not_ended` |
//! | the same, start time | the reader's time namespace | ahead, by whole and by parts of ticks, of the creator's and of the reader's | `a_container_is_the_same_in_every_time_namespace` |
//! | /proc/PID/cmdline, by ps(1) | the process | 0xff, line feed, ESC | `a_program_may_call_itself_anything`; the own table in `src/commands/ps.rs` |
//! | /proc/self/mountinfo | whoever may mount | 0xff, line feed, ` - cgroup2`, backslash | `a_mount_may_have_any_name`, `src/cgroups/mod.rs` |
//! | /proc/self/cgroup, /proc/PID/cgroup | whoever may make groups | 0xff, `:`, `) Z 1` | `a_group_below_may_have_any_name`, `src/cgroups/mod.rs` |
//! | directories below a group | whoever may make groups | the same | `a_group_below_may_have_any_name` |
//! | cgroup.procs, tasks, /proc/PID/task | nobody: numbers | | |
//! | /etc/passwd of the container, for HOME | the image | a FIFO, one without an end | `attacks::a_passwd_without_end_does_not_hold_exec_up` |
//! | /proc/self/status, fdinfo, timens_offsets, /proc/PID/ns, /proc/sys, /sys/kernel, /sys/module | nobody: the kernel's words | | |
//! | /proc/PID/wchan, all else in cgroupfs and resctrl | nobody: the kernel's words | | |

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use integration::{
    Bed, Bundle, Container, View, as_both, as_root, as_user, eventually, has_ended, in_views,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

/// The name as printf(1) writes it, and the bytes.
const NAMES: [(&str, &[u8]); 7] = [
    (r"\377", b"\xff"),
    // The kernel cuts at 15 bytes, in the middle of a letter too.
    (r"\303", b"\xc3"),
    (r"a\nb", b"a\nb"),
    (r") Z 1", b") Z 1"),
    (r")\nZ 1 1 1 1", b")\nZ 1 1 1 1"),
    (r" ) ( ", b" ) ( "),
    (r"\000", b""),
];

/// The container runs, for every verb that asks.
#[track_caller]
fn assert_runs(bed: &Bed, container: &Container, name: &str) {
    assert_eq!(container.status(), "running", "{name:?}");
    let listed = bed.runtime(["list"]);
    let line = listed.success().lines().find(|line| line.starts_with(&container.id)).unwrap();
    assert!(line.contains(" running "), "{name:?}: {listed}");
    bed.runtime(["kill", &container.id, "0"]).success();
    assert_eq!(container.sh("echo inside").success(), "inside", "{name:?}");
    bed.runtime(["delete", &container.id]).failure(1);
}

/// `kill` ends it.
#[track_caller]
fn assert_can_be_killed(container: Container) {
    let pid = container.pid();
    container.kill("KILL");
    container.ended();
    container.delete();
    assert!(has_ended(pid));
}

#[test]
fn a_program_may_call_itself_anything() {
    as_both(|bed| {
        for (written, name) in NAMES {
            let script = format!("printf '{written}' >/proc/$$/comm; echo named; sleep 100 & wait");
            let container = bed.start(&bed.bundle().sh(&script));
            container.prints("named");
            let mut comm = fs::read(format!("/proc/{}/comm", container.pid())).unwrap();
            comm.pop();
            assert_eq!(comm, name);
            assert_runs(bed, &container, written);
            if !bed.is_rootless() {
                let pid = container.pid().to_string();
                let pids = bed.runtime(["ps", "--format", "json", &container.id]);
                assert!(pids.success().contains(&pid), "{written:?}: {pids}");
                let rows = bed.runtime(["ps", &container.id]);
                assert!(rows.success().contains(&pid), "{written:?}: {rows}");
                container.call("pause").success();
                container.call("resume").success();
            }
            assert_can_be_killed(container);
        }
    });
}

#[test]
fn delete_by_force_ends_a_program_of_any_name() {
    as_both(|bed| {
        for manager in ["cgroupfs", "disabled"] {
            if manager == "disabled" && bed.is_peer("they know no such manager") {
                return;
            }
            let script = r"printf '\377' >/proc/$$/comm; echo named; sleep 100 & wait";
            let bundle = bed.bundle().sh(script);
            let id = bed.id();
            let call = match manager {
                "disabled" => bed
                    .call()
                    .args(["--cgroup-manager", manager, "create", "--bundle"])
                    .arg(&bundle.save().path)
                    .arg(&id),
                _ => bed.create_call(&bundle, &id),
            };
            let container = Container::create(bed, &id, call);
            container.start();
            container.prints("named");
            let pid = container.pid();
            container.delete();
            bed.assert_nothing_left();
            assert!(has_ended(pid), "{manager}");
        }
    });
}

#[test]
fn a_program_may_have_a_name_that_the_kernel_cuts_within_a_letter() {
    as_root(|bed| {
        let bundle = bed.bundle().args(["/bin/Überwachungsdämon"]);
        let path = bundle.rootfs().join("bin/Überwachungsdämon");
        bundle.write("/bin/Überwachungsdämon", "#!/bin/sh\necho up; sleep 100 & wait\n");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        let container = bed.start(&bundle);
        container.prints("up");
        let comm = fs::read(format!("/proc/{}/comm", container.pid())).unwrap();
        assert!(std::str::from_utf8(&comm).is_err(), "{comm:?}");
        assert_runs(bed, &container, "Überwachungsdämon");
        assert_can_be_killed(container);
    });
}

/// A program whose first thread makes another one, which waits, and ends: 64 bytes of
/// ELF header, 56 of the one segment, and the code.
#[cfg(target_arch = "x86_64")]
fn program_without_its_first_thread() -> Vec<u8> {
    const ADDRESS: u64 = 0x40_0000;
    const CODE: &[u8] = b"\
        \xb8\x38\0\0\0\
        \xbf\x00\x0f\x05\x00\
        \x48\x8d\xb4\x24\x00\xf0\xff\xff\
        \x31\xd2\x4d\x31\xd2\x4d\x31\xc0\
        \x0f\x05\
        \x85\xc0\x74\x09\
        \xb8\x3c\0\0\0\x31\xff\x0f\x05\
        \xb8\x22\0\0\0\x0f\x05\xeb\xf7";
    // clone(VM | FS | FILES | SIGHAND | THREAD | SYSVSEM, rsp - 4096, 0, 0, 0); the first
    // thread: exit(0), which ends it alone; the other one: pause() for ever.
    let length = 120 + CODE.len() as u64;
    let mut program = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [ADDRESS + 120, 64, 0] {
        program.extend(word.to_le_bytes());
    }
    program.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0");
    program.extend(b"\x01\0\0\0\x05\0\0\0");
    for word in [0, ADDRESS, ADDRESS, length, length, 4096] {
        program.extend(word.to_le_bytes());
    }
    program.extend(CODE);
    program
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_program_whose_first_thread_has_ended_runs() {
    as_both(|bed| {
        if bed.is_peer("for runc and crun it is stopped") {
            return;
        }
        let bundle = bed.bundle().args(["/bin/threads"]);
        let path = bundle.rootfs().join("bin/threads");
        fs::write(&path, program_without_its_first_thread()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        for ends_by in ["kill", "delete"] {
            let container = bed.start(&bundle);
            let pid = container.pid();
            let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            eventually("the first thread ends", || stat().contains(" Z "));
            assert_eq!(container.status(), "running");
            let output = bed.runtime(["delete", &container.id]);
            assert!(output.failure(1).contains("is not stopped"), "{output}");
            match ends_by {
                "kill" => assert_can_be_killed(container),
                _ => container.delete(),
            }
            assert!(has_ended(pid), "{ends_by}");
        }
    });
}

#[test]
fn a_container_is_the_same_in_every_time_namespace() {
    as_root(|bed| {
        if bed.is_peer("for runc and crun it is stopped") {
            return;
        }
        let namespaces = [
            None,
            Some("boottime 100000 0"),
            Some("boottime 7 3"),
            Some("boottime 7 999999999"),
            Some("monotonic 5 0"),
        ];
        let within = |call: integration::Call, offsets: Option<&'static str>| match offsets {
            Some(offsets) => call.time_offsets(offsets),
            None => call,
        };
        for creators in [None, Some("boottime 100000 0")] {
            let bundle = bed.bundle().sh("sleep 100");
            let id = bed.id();
            let call = within(bed.create_call(&bundle, &id), creators);
            let container = Container::create(bed, &id, call);
            container.start();
            for readers in namespaces {
                let call = |verb: &str| within(bed.call().args([verb, &id]), readers);
                let state = call("state").output();
                assert!(
                    state.success().contains("\"running\""),
                    "{creators:?} {readers:?}: {state}"
                );
                let output = call("delete").output();
                assert!(output.failure(1).contains("is not stopped"), "{readers:?}: {output}");
                call("kill").arg("0").output().success();
            }
            container.delete();
        }
    });
}

#[test]
fn a_mount_may_have_any_name() {
    in_views(|bed| {
        for name in [&b"\xff"[..], b"x\n31 23 0:28 / /x", b"- cgroup2 x", b"\\040\\"] {
            let place = bed.directory.join(OsStr::from_bytes(name));
            fs::create_dir_all(&place).unwrap();
            mount(Some("none"), &place, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            let output = bed.run(&bed.bundle().sh("echo ran"));
            umount2(&place, MntFlags::MNT_DETACH).unwrap();
            assert_eq!(output.success(), "ran", "{:?}", name.escape_ascii().to_string());
        }
        bed.assert_nothing_left();
    });
}

/// The directory of a container's group in one tree.
fn group(bed: &Bed, bundle: &Bundle) -> PathBuf {
    bed.cgroup_file(bundle, "pids.max").with_file_name("")
}

#[test]
fn a_group_below_may_have_any_name() {
    in_views(|bed| {
        for name in [&b"\xff"[..], b"a:b", b") Z 1"] {
            let shown = name.escape_ascii().to_string();
            let bundle = bed.bundle().sh("sleep 100");
            let container = bed.start(&bundle);
            let group = group(bed, &bundle);
            let inner = group.join(OsStr::from_bytes(name));
            fs::create_dir(&inner).unwrap();
            fs::write(inner.join("cgroup.procs"), container.pid().to_string()).unwrap();
            if bed.view == View::V2
                && bed.has_controller("hugetlb")
                && !bed.is_peer("runc 1.1 fails")
            {
                // Nothing can join the group itself any more.
                fs::write(group.join("cgroup.subtree_control"), "+hugetlb").unwrap();
            }
            assert_runs(bed, &container, &shown);
            let pids = bed.runtime(["ps", "--format", "json", &container.id]);
            let pids: serde_json::Value = serde_json::from_str(pids.success()).unwrap();
            assert_eq!(pids, json!([container.pid()]), "{shown}");
            container.delete();
            bed.assert_nothing_left();
        }
    });
}

#[test]
fn a_process_that_is_hidden_has_not_ended() {
    as_user(|bed| {
        if bed.is_peer("for runc and crun it is stopped") {
            return;
        }
        let Some(_) = bed.user() else { return bed.skip("needs root to hide processes") };
        let other = bed.start(&bed.bundle().sh("exit 0"));
        other.ended();
        // Root's own are hidden from others, and so is who waits for the start.
        let container = bed.create(&bed.bundle().sh("sleep 100"));
        let pid = container.pid();
        // Another instance, over the machine's own.
        let options = Some("hidepid=2");
        mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), options).expect("proc");
        let verbs: [&[&str]; 4] = [&["state"], &["kill"], &["delete"], &["delete", "--force"]];
        let outputs = verbs.map(|verb| bed.call().args(verb).arg(&container.id).output());
        let listed = bed.runtime(["list"]);
        umount2("/proc", MntFlags::MNT_DETACH).expect("umount");
        for output in outputs {
            assert!(output.failure(1).contains("hidden"), "{output}");
        }
        assert!(listed.success().contains(&other.id), "{listed}");
        assert!(!has_ended(pid));
        assert_eq!(container.status(), "created");
        container.delete();
        other.delete();
        bed.assert_nothing_left();
    });
}
