//! Images of containers that run, and containers of images.
//!
//! Those need a CRIU that works on this kernel; where there is none, that is printed.
//!
//! | what is restored, or refused | here |
//! |---|---|
//! | memory, files, under another ID, and again | `a_program_goes_on_where_it_was_under_another_id` |
//! | hooks | `hooks_of_the_creator_are_called_and_those_of_the_program_are_not` |
//! | stdin, stdout, stderr: pipes | `pipes_are_those_of_who_restores` |
//! | a terminal | `a_terminal_goes_to_who_serves_it` |
//! | a caller who stays | `who_stays_gets_the_exit_code` |
//! | the network: loopback | `a_connection_over_the_own_loopback_goes_on` |
//! | joined namespaces, and one's own users | `joined_namespaces_are_joined_again`, `a_joined_pid_namespace_is_entered_again`, `a_user_namespace_of_its_own_is_made_again` |
//! | a dump in advance, and what has changed since | `changes_alone_are_dumped_after_a_dump_in_advance` |
//! | pages that are elsewhere, and come later | `pages_may_go_to_a_server`, `pages_may_come_when_they_are_touched` |
//! | binds, masked files, links on the way | `what_is_the_hosts_is_found_again` |
//! | capabilities, ids, a filter, no_new_privs | `confinement_is_what_it_was` |
//! | limits | `limits_are_those_of_the_configuration` |
//! | groups: none of its own, or not in each tree | `groups_of_others_are_left_alone_by_who_has_none`, `a_program_goes_on_where_it_was_under_another_id` |
//! | images of runc and crun, and ours by them | `images_are_those_of_others` |
//! | labels | `a_profile_is_restored_and_another_only_where_it_is_asked_for` |
//! | wider images: capabilities, filter, ids, namespaces | `an_image_that_is_wider_than_the_configuration_is_refused` |
//! | who may write an image | `an_image_that_others_may_write_is_refused` |
//! | `parent`, `descriptors.json`, settings of CRIU | `what_stands_beside_an_image_is_held_to_its_form` |
//! | a dump that fails, or is killed | `whatever_becomes_of_a_dump_the_container_runs` |
//! | a restore that fails, or is killed | `nothing_is_left_of_a_restore_that_fails`, `a_restore_may_be_killed_anywhere` |

use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrun::{Checkpoint, Create, Image, Kind, Restore, Runtime};
use integration::apparmor::with_profiles;
use integration::criu::{self, Checkpoints, ImageFile, Message};
use integration::terminal::ConsoleSocket;
use integration::{Bed, Bundle, Container, Holder, View, as_root, eventually, in_views};
use nix::sys::signal::Signal;
use serde_json::json;

/// Counts, by where a link leads: a file that is open while an image is made has to be as it was
/// when that is restored, and one that runs on changes it.
const COUNTER: &str =
    "i=0; while :; do i=$((i+1)); /bin/busybox ln -sfn $i /tmp/count; sleep 0.02; done";

fn counting(bed: &Bed) -> Bundle {
    bed.bundle().with("/root/readonly", false).args(["/bin/busybox", "sh", "-c", COUNTER])
}

fn count(bundle: &Bundle) -> u64 {
    let link = bundle.rootfs().join("tmp/count");
    // There is none for a moment when it is made anew, and before the first.
    for _ in 0..100 {
        if let Ok(found) = fs::read_link(&link) {
            return found.to_str().and_then(|text| text.parse().ok()).expect("a number");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    0
}

/// Waits until it goes on from there.
#[track_caller]
fn counts_on(bundle: &Bundle) -> u64 {
    let before = count(bundle);
    eventually("the program counts on", || count(bundle) > before + 2);
    before
}

#[test]
fn a_program_goes_on_where_it_was_under_another_id() {
    in_views(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("images are compared with theirs elsewhere") {
            return;
        }
        let bundle = counting(bed);
        let first = criu.start(&bundle);
        counts_on(&bundle);
        let image = criu.dump(&first);
        assert_eq!(bed.runtime(["state", &first.id]).code, 1, "it is deleted");
        let stands = count(&bundle);
        assert!(stands > 2);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(count(&bundle), stands);
        let second = criu.restore(&bundle, &image);
        assert_eq!((second.status().as_str(), second.state()["pid"] != 0), ("running", true));
        assert!(counts_on(&bundle) >= stands);
        assert!(second.sh("cat /proc/1/cmdline").success().contains("count"));
        assert!(bed.runtime(["start", &second.id]).failure(1).contains("already running"));
        second.call("pause").success();
        assert_eq!(second.status(), "paused");
        second.call("resume").success();
        // And once more, while it runs on.
        let image = criu.image();
        criu.dump_call(&second.id, &image).flag("--leave-running").output().success();
        counts_on(&bundle);
        second.delete();
        // What the image knows nothing of.
        const FAR: u64 = 1_000_000;
        let link = bundle.rootfs().join("tmp/count");
        fs::remove_file(&link).unwrap();
        symlink(FAR.to_string(), &link).unwrap();
        let third = criu.restore(&bundle, &image);
        eventually("it goes on from the image", || (stands..FAR).contains(&count(&bundle)));
        counts_on(&bundle);
        third.kill("KILL");
        third.ended();
    });
}

/// CRIU takes the group that a process is in for the container's, with all that are in it.
#[test]
fn groups_of_others_are_left_alone_by_who_has_none() {
    as_root(|bed| {
        let Some(path) = criu::path(bed) else { return };
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("they know no such manager") {
            return;
        }
        let call = || bed.call().env("PATH", &path).args(["--cgroup-manager", "disabled"]);
        let (bundle, id, image) = (counting(bed), bed.id(), criu.image());
        let create = call().args(["create", "--bundle"]).arg(&bundle.save().path).arg(&id).silent();
        let first = Container::create(bed, &id, create);
        first.start();
        counts_on(&bundle);
        let neighbours = bed.bundle().sh("sleep 1000");
        let neighbour = bed.start(&neighbours);
        let group = bed.cgroup_file(&neighbours, "cgroup.procs");
        assert!(group.exists());
        // By somebody who is elsewhere: CRIU knows its own group to be nobody's.
        let elsewhere = group.parent().unwrap();
        criu.dump_call(&id, &image).in_cgroup(elsewhere).output().success();
        neighbour.delete();
        assert!(!group.exists());
        let (stands, id) = (count(&bundle), bed.id());
        let restore = call().args(["restore", "--detach", "--image-path"]).arg(&image);
        let restore = restore.arg("--bundle").arg(&bundle.path).arg(&id);
        let second = Container::create(bed, &id, restore);
        assert!(counts_on(&bundle) >= stands);
        assert!(!group.exists(), "it was made again");
        second.delete();
    });
}

#[test]
fn an_embedder_has_images_made_and_restored() {
    as_root(|bed| {
        let Some(path) = criu::path(bed) else { return };
        if bed.is_peer("a library of ferrun's") {
            return;
        }
        let (bundle, id) = (counting(bed), bed.id());
        let place = bundle.save().path.clone();
        let runtime = Runtime::new(&integration::runtime().program, bed.root()).unwrap();
        let blind = runtime.clone().with_search_path("/nowhere");
        let runtime = runtime.with_search_path(path);
        runtime.create(&id, Create::bundle(&place)).unwrap().wait().unwrap();
        runtime.start(&id).unwrap();
        counts_on(&bundle);
        let image = bed.make_directory("images", 0o700).join("image");
        let asked = || Checkpoint { image: Image::directory(&image), ..Checkpoint::default() };
        let refused = blind.begin_checkpoint(&id, asked()).unwrap().wait().unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
        counts_on(&bundle);
        runtime.begin_checkpoint(&id, asked()).unwrap().wait().unwrap();
        assert_eq!(runtime.state(&id).unwrap_err().kind(), Kind::NotFound);
        let before = count(&bundle);
        let image = Image::directory(&image);
        let asked = Restore { bundle: place, image, ..Restore::default() };
        let made = runtime.restore(&id, asked).unwrap().wait().unwrap();
        assert_eq!(runtime.state(&id).unwrap().init.map(|init| init.pid), Some(made.pid));
        assert!(counts_on(&bundle) >= before);
        runtime.delete(&id, true).unwrap();
        bed.assert_nothing_left();
    });
}

#[test]
fn what_does_not_run_cannot_be_checkpointed() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("words of ferrun") {
            return;
        }
        let bundle = counting(bed);
        let created = bed.create(&bundle);
        let image = criu.image();
        let output = criu.dump_call(&created.id, &image).output();
        assert!(output.failure(1).contains("cannot be checkpointed in created state"), "{output}");
        created.start();
        created.kill("KILL");
        created.ended();
        let output = criu.dump_call(&created.id, &image).output();
        assert!(output.failure(1).contains("container not running"), "{output}");
        assert!(!image.exists());
        let without = bed.call().args(["checkpoint", "--image-path"]).arg(&image).arg("none");
        assert!(without.output().failure(1).contains("does not exist"));
    });
}

#[test]
fn without_criu_it_is_named() {
    as_root(|bed| {
        if bed.is_peer("words of ferrun") {
            return;
        }
        let bundle = counting(bed);
        let container = bed.start(&bundle);
        let image = bed.make_directory("images", 0o700).join("image");
        let call = bed.call().env("PATH", "/nowhere").args(["checkpoint", "--image-path"]);
        let output = call.arg(&image).arg(&container.id).output();
        assert!(output.failure(1).contains("CRIU is not installed"), "{output}");
        counts_on(&bundle);
    });
}

#[test]
fn what_is_typed_wrongly_is_refused() {
    as_root(|bed| {
        if bed.is_peer("words of ferrun") {
            return;
        }
        for (words, reason) in [
            ("checkpoint --parent-path /x c", "--parent-path: \"/x\": must be relative"),
            ("checkpoint --parent-path ../../x c", "leads out of"),
            ("checkpoint --page-server here c", "--page-server: \"here\": not ADDRESS:PORT"),
            (
                "restore --lsm-profile docker-default c",
                "--lsm-profile: \"docker-default\": neither",
            ),
            ("checkpoint --empty-ns pid c", "--empty-ns: \"pid\""),
            ("restore --empty-ns pid c", "--empty-ns: \"pid\""),
            ("checkpoint --manage-cgroups-mode all c", "soft, full, strict, ignore"),
            ("checkpoint c", "does not exist"),
        ] {
            let output = bed.runtime(words.split(' '));
            assert!(output.failure(1).contains(reason), "{words}: {output}");
        }
    });
}

#[test]
fn hooks_of_the_creator_are_called_and_those_of_the_program_are_not() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("poststart hooks are not, and createRuntime is older") {
            return;
        }
        let log = bed.write("hooks", "");
        let mut bundle = counting(bed);
        let names = [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ];
        for name in names {
            // Those of the container are called in it, and write nowhere.
            let inside = name == "createContainer" || name == "startContainer";
            let log = if inside { Path::new("/tmp/hooks") } else { log.as_path() };
            let script = format!("echo {name} >> {}", log.display());
            let hook = json!([{"path": "/bin/busybox", "args": ["sh", "-c", script]}]);
            bundle = bundle.with(&format!("/hooks/{name}"), hook);
        }
        let read = || {
            fs::read_to_string(&log)
                .unwrap()
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let first = criu.start(&bundle);
        assert_eq!(read(), ["prestart", "createRuntime", "poststart"]);
        fs::write(&log, "").unwrap();
        let image = criu.dump(&first);
        assert_eq!(read(), ["poststop"]);
        fs::write(&log, "").unwrap();
        let _ = fs::remove_file(bundle.rootfs().join("tmp/hooks"));
        let second = criu.restore(&bundle, &image);
        assert_eq!(read(), ["prestart", "createRuntime"]);
        assert!(!bundle.rootfs().join("tmp/hooks").exists());
        second.delete();
        assert_eq!(read(), ["prestart", "createRuntime", "poststop"]);
        // A hook that fails ends it.
        let failing = json!([{"path": "/bin/busybox", "args": ["false"]}]);
        let bundle = bundle.with("/hooks/createRuntime", failing);
        let refused = criu.refused(&bundle, &image);
        assert!(refused.contains("hooks.createRuntime[0]"), "{refused}");
    });
}

#[test]
fn pipes_are_those_of_who_restores() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("images are compared with theirs elsewhere") {
            return;
        }
        let script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done";
        let bundle = bed.bundle().sh(script);
        let (mut reader, writer) = std::io::pipe().unwrap();
        let id = bed.id();
        let call = bed.create_call(&bundle, &id).printing_to(std::process::Stdio::from(writer));
        let first = Container::create(bed, &id, call);
        first.start();
        let mut buffer = [0; 7];
        reader.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"line 1\n");
        let image = criu.dump(&first);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let last: u32 = rest.split_whitespace().last().map_or(1, |number| number.parse().unwrap());
        let (mut reader, writer) = std::io::pipe().unwrap();
        let id = bed.id();
        let call = criu.restore_call(&bundle, &id, &image);
        let second =
            Container::create(bed, &id, call.printing_to(std::process::Stdio::from(writer)));
        let mut buffer = vec![0; 64];
        reader.read_exact(&mut buffer).unwrap();
        let text = String::from_utf8(buffer).unwrap();
        assert!(text.contains(&format!("line {}", last + 1)), "{last}: {text}");
        // Its image knows the new pipe.
        let image = criu.dump(&second);
        let descriptors = fs::read_to_string(image.join("descriptors.json")).unwrap();
        assert!(descriptors.contains("pipe:["), "{descriptors}");
        let (mut reader, writer) = std::io::pipe().unwrap();
        let id = bed.id();
        let call = criu.restore_call(&bundle, &id, &image);
        let _third =
            Container::create(bed, &id, call.printing_to(std::process::Stdio::from(writer)));
        reader.read_exact(&mut [0; 16]).unwrap();
    });
}

#[test]
fn a_terminal_goes_to_who_serves_it() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("images are compared with theirs elsewhere") {
            return;
        }
        let script = "while read line; do echo got $line; done";
        let bundle = bed.bundle().with("/process/terminal", true).sh(script);
        let socket = ConsoleSocket::listen(bed);
        let id = bed.id();
        let call = bed.create_call(&bundle, &id).option("--console-socket", &socket.path);
        let first = Container::create(bed, &id, call);
        let (mut terminal, _) = socket.terminal();
        first.start();
        terminal.send("one\n");
        terminal.expect("got one");
        let mut container = first;
        for at in 0..criu::rounds(2) {
            let image = criu.dump(&container);
            let socket = ConsoleSocket::listen(bed);
            let id = bed.id();
            let call = criu.restore_call(&bundle, &id, &image);
            container = Container::create(bed, &id, call.option("--console-socket", &socket.path));
            // Until now the one before was there: without it the program would have ended.
            terminal = socket.terminal().0;
            terminal.send(&format!("two {at}\n"));
            terminal.expect(&format!("got two {at}"));
        }
        container.delete();
    });
}

#[test]
fn who_stays_gets_the_exit_code() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("images are compared with theirs elsewhere") {
            return;
        }
        let script = "while ! test -e /tmp/end; do sleep 0.02; done; exit 7";
        let bundle = bed.bundle().sh(script);
        let first = criu.start(&bundle);
        let image = criu.dump(&first);
        let id = bed.id();
        let call = criu
            .call("restore")
            .option("--bundle", &bundle.save().path)
            .option("--image-path", &image)
            .arg(&id);
        let running = call.spawn();
        eventually("it runs", || bed.runtime(["state", &id]).stdout.contains("running"));
        bundle.write("/tmp/end", "");
        assert_eq!(running.wait().code, 7);
        assert_eq!(bed.runtime(["state", &id]).code, 1, "it is deleted");
    });
}

#[test]
fn a_relative_image_counts_from_the_bundle() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("images are compared with theirs elsewhere") {
            return;
        }
        let bundle = counting(bed);
        let first = criu.start(&bundle);
        let call =
            criu.call("checkpoint").option("--image-path", "image").current_dir(&bundle.path);
        call.option("--work-path", "a/b").arg(&first.id).output().success();
        assert!(bundle.path.join("image/inventory.img").exists());
        assert!(bundle.path.join("a/b/dump.log").exists());
        let mode = |path: &str| fs::metadata(bundle.path.join(path)).unwrap().permissions().mode();
        assert_eq!(mode("image") & 0o7777, 0o700);
        assert_eq!(mode("image/descriptors.json") & 0o7777, 0o600);
        let second = criu.restore(&bundle, Path::new("image"));
        counts_on(&bundle);
        second.delete();
        for name in ["image", "a"] {
            fs::remove_dir_all(bundle.path.join(name)).unwrap();
        }
    });
}

#[test]
fn a_connection_over_the_own_loopback_goes_on() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("runc restores no loopback") {
            return;
        }
        let script = "(while :; do sleep 1; done) | busybox nc -l -p 7000 > /tmp/got & \
            until cat /proc/net/tcp /proc/net/tcp6 | grep -q :1B58; do sleep 0.1; done; \
            (i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done) | busybox nc 127.0.0.1 7000";
        let bundle = bed.bundle().with_namespace("network", None).sh(script);
        let got = || {
            let text = fs::read_to_string(bundle.rootfs().join("tmp/got")).unwrap_or_default();
            text.lines().filter_map(|line| line.parse::<u32>().ok()).collect::<Vec<_>>()
        };
        let first = criu.start(&bundle);
        eventually("it has arrived", || got().len() > 5);
        let image = criu.image();
        let output = criu.dump_call(&first.id, &image).output();
        assert!(output.failure(1).contains("--tcp-established"), "{output}");
        let had = got().len();
        eventually("it goes on", || got().len() > had + 5);
        let output = criu.dump_call(&first.id, &image).flag("--tcp-established").output();
        if output.stderr.contains("Can't get 1:16 opt") {
            // SO_PASSCRED, which Linux 6.16 and later have for Unix sockets alone.
            return bed.skip("this CRIU asks sockets of this kernel for what they have not");
        }
        output.success();
        let had = got();
        let id = bed.id();
        let call = criu.restore_call(&bundle, &id, &image).flag("--tcp-established");
        let second = Container::create(bed, &id, call);
        eventually("it goes on", || got().len() > had.len() + 5);
        let got = got();
        assert_eq!(got, (1..=got.len() as u32).collect::<Vec<_>>(), "each once");
        second.delete();
    });
}

#[test]
fn joined_namespaces_are_joined_again() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("images are compared with theirs elsewhere") {
            return;
        }
        let holder = Holder::new(&["--net", "--ipc", "--uts", "--pid", "--fork"]);
        let mut bundle = counting(bed);
        for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
            bundle = bundle.with_namespace(kind, Some(&holder.path(file)));
        }
        let first = criu.start(&bundle);
        counts_on(&bundle);
        let image = criu.dump(&first);
        let second = criu.restore(&bundle, &image);
        counts_on(&bundle);
        let inode = |path: &Path| fs::read_link(path).unwrap();
        for file in ["net", "ipc", "uts"] {
            let own = PathBuf::from(format!("/proc/{}/ns/{file}", second.pid()));
            assert_eq!(inode(&own), inode(&holder.path(file)), "{file}");
        }
        second.delete();
    });
}

#[test]
fn a_joined_pid_namespace_is_entered_again() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("images are compared with theirs elsewhere") {
            return;
        }
        // As in a pod, whose first process reaps what others leave: what nobody reaps keeps the pid
        // of its session.
        let pod = bed.start(&bed.bundle().sh("while :; do (exec sleep 0.05); done"));
        let joined = PathBuf::from(format!("/proc/{}/ns/pid", pod.pid()));
        let bundle = counting(bed).with_namespace("pid", Some(&joined));
        let first = criu.start(&bundle);
        counts_on(&bundle);
        let inside = |pid: i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("NSpid:")).unwrap().to_owned();
            line.split_whitespace().last().unwrap().to_owned()
        };
        let before = inside(first.pid());
        let place = PathBuf::from(format!("/proc/{}", first.pid()));
        let image = criu.dump(&first);
        // Its pid is free once it was reaped.
        eventually("nobody has its pid", || !place.exists());
        let second = criu.restore(&bundle, &image);
        counts_on(&bundle);
        assert_eq!(inside(second.pid()), before);
        let own = PathBuf::from(format!("/proc/{}/ns/pid", second.pid()));
        assert_eq!(fs::read_link(own).unwrap(), fs::read_link(joined).unwrap());
        second.delete();
    });
}

#[test]
fn a_user_namespace_of_its_own_is_made_again() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("images are compared with theirs elsewhere") {
            return;
        }
        let bundle = counting(bed).in_user_namespace(1000);
        let first = criu.start(&bundle);
        counts_on(&bundle);
        let image = criu.dump(&first);
        let second = criu.restore(&bundle, &image);
        counts_on(&bundle);
        assert_eq!(
            second.sh("cat /proc/self/uid_map").success().split_whitespace().nth(2),
            Some("1000")
        );
        second.delete();
    });
}

/// A program that has memory besides, looks at it and counts.
fn remembering(bed: &Bed) -> Bundle {
    let script = format!(
        "x=$(busybox head -c 3000000 /dev/zero | busybox tr '\\0' x); i=0; while [ ${{#x}} = 3000000 ]; do {}",
        COUNTER.strip_prefix("i=0; while :; do ").unwrap()
    );
    bed.bundle().with("/root/readonly", false).sh(&script)
}

fn size_of_pages(image: &Path) -> u64 {
    let files = fs::read_dir(image).unwrap().filter_map(Result::ok);
    let pages = files.filter(|file| file.file_name().to_string_lossy().starts_with("pages-"));
    pages.map(|file| file.metadata().unwrap().len()).sum()
}

#[test]
fn changes_alone_are_dumped_after_a_dump_in_advance() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("images are compared with theirs elsewhere") {
            return;
        }
        // Another process holds what does not change: where mappings come and go beside it, the
        // kernel takes it for changed too.
        let held =
            "busybox head -c 3000000 /dev/zero | busybox tr '\\0' x; busybox touch /tmp/held";
        let script = format!(
            "({held}; while :; do sleep 1; done) | busybox sort > /dev/null & \
             until test -e /tmp/held; do sleep 0.05; done; {COUNTER}"
        );
        let bundle = bed.bundle().with("/root/readonly", false).sh(&script);
        let container = criu.start(&bundle);
        counts_on(&bundle);
        let images = bed.make_directory("images", 0o700);
        let call = |name: &str| criu.dump_call(&container.id, &images.join(name));
        let first = call("first").flag("--pre-dump").output();
        if first.stderr.contains("cannot know which pages have changed") {
            let output = call("last").option("--parent-path", "../first").output();
            assert!(output.failure(1).contains("cannot know which pages have changed"), "{output}");
            counts_on(&bundle);
            return bed.skip("this kernel does not know which pages have changed");
        }
        first.success();
        assert_eq!(container.status(), "running");
        counts_on(&bundle);
        call("second").flag("--pre-dump").option("--parent-path", "../first").output().success();
        counts_on(&bundle);
        call("last").option("--parent-path", "../second").output().success();
        let [first, second, last] =
            ["first", "second", "last"].map(|name| size_of_pages(&images.join(name)));
        assert!(first > 3_000_000, "{first}");
        assert!(second < first / 2 && last < first / 2, "{first} {second} {last}");
        let stands = count(&bundle);
        let restored = criu.restore(&bundle, &images.join("last"));
        assert!(counts_on(&bundle) >= stands);
        restored.delete();
        // Without the one before it is no image, and one that others may write is none either.
        fs::set_permissions(images.join("first"), Permissions::from_mode(0o770)).unwrap();
        let refused = criu.refused(&bundle, &images.join("last"));
        assert!(refused.contains("can be written by others"), "{refused}");
        fs::remove_dir_all(images.join("first")).unwrap();
        assert!(criu.refused(&bundle, &images.join("last")).contains("parent"));
    });
}

/// A port of 127.0.0.1 that nobody listens at.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server of CRIU's own, which ends by itself when it has served.
fn criu_server(bed: &Bed, arguments: &[&str], directory: &Path) -> std::process::Child {
    let mut command = std::process::Command::new("/bin/sh");
    let path = criu::path(bed).unwrap();
    command.args(["-c", "exec criu \"$@\"", "sh"]).args(arguments).arg("-D").arg(directory);
    command.env("PATH", path).stdin(std::process::Stdio::null()).spawn().unwrap()
}

#[test]
fn pages_may_go_to_a_server() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("images are compared with theirs elsewhere") {
            return;
        }
        let bundle = remembering(bed);
        let first = criu.start(&bundle);
        counts_on(&bundle);
        let (elsewhere, image) = (bed.make_directory("pages", 0o700), criu.image());
        let port = free_port().to_string();
        let server = ["page-server", "--address", "127.0.0.1", "--port", &port];
        let mut server = criu_server(bed, &server, &elsewhere);
        let listens = format!(":{:04X} 00000000:0000 0A", port.parse::<u16>().unwrap());
        eventually("it listens", || {
            fs::read_to_string("/proc/net/tcp").unwrap().contains(&listens)
        });
        let address = format!("127.0.0.1:{port}");
        criu.dump_call(&first.id, &image).option("--page-server", &address).output().success();
        assert!(server.wait().unwrap().success());
        assert_eq!(size_of_pages(&image), 0);
        assert!(size_of_pages(&elsewhere) > 3_000_000);
        for file in fs::read_dir(&elsewhere).unwrap().filter_map(Result::ok) {
            if file.file_name().to_string_lossy().ends_with(".img") {
                fs::copy(file.path(), image.join(file.file_name())).unwrap();
            }
        }
        let second = criu.restore(&bundle, &image);
        counts_on(&bundle);
        second.delete();
    });
}

#[test]
fn pages_may_come_when_they_are_touched() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("images are compared with theirs elsewhere") {
            return;
        }
        // One process alone: where CRIU fails with more it waits for ever.
        let script = "busybox mkfifo /tmp/none; x=$(busybox head -c 3000000 /dev/zero | busybox tr '\\0' x); \
            i=0; while [ ${#x} = 3000000 ]; do read -t 0.02 y <> /tmp/none; i=$((i+1)); echo $i > /tmp/said; done";
        let bundle = bed.bundle().with("/root/readonly", false).sh(script);
        let said = || {
            let text = fs::read_to_string(bundle.rootfs().join("tmp/said")).unwrap_or_default();
            text.trim().parse::<u32>().unwrap_or(0)
        };
        let goes_on = || {
            let before = said();
            eventually("it goes on", || said() > before + 2);
        };
        let first = criu.start(&bundle);
        goes_on();
        let (image, ready) = (criu.image(), bed.write("ready", ""));
        let address = format!("127.0.0.1:{}", free_port());
        let (_, port) = address.split_once(':').unwrap();
        let dump = bed
            .program(Path::new("/bin/sh"))
            .env("PATH", criu::path(bed).unwrap())
            .args(["-c", &format!("exec \"$@\" 5> {}", ready.display()), "sh"])
            .arg(&integration::runtime().program)
            .arg("--root")
            .arg(bed.root())
            .args(["checkpoint", "--lazy-pages", "--status-fd", "5", "--page-server", &address])
            .arg("--image-path")
            .arg(&image)
            .arg(&first.id)
            .spawn();
        eventually("pages can be asked for", || !fs::read(&ready).unwrap().is_empty());
        let server = ["lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", port];
        let mut server = criu_server(bed, &server, &image);
        eventually("it serves", || image.join("lazy-pages.socket").exists());
        // The one is still there, and stands still: the other has a group of its own.
        let group = bundle.config["linux"]["cgroupsPath"].as_str().unwrap();
        let other = bundle.clone().with("/linux/cgroupsPath", format!("{group}-other"));
        let id = bed.id();
        let restored =
            criu.restore_call(&other, &id, &image).flag("--lazy-pages").silent().output();
        let dumped = dump.wait();
        if dumped.stderr.contains("page-pipe: splice") {
            // CRIU 4.1 on Linux 6.18, whoever calls it.
            assert_eq!((restored.code, dumped.code), (1, 1), "{restored}{dumped}");
            assert_eq!(bed.runtime(["state", &id]).code, 1, "nothing is left");
            assert_eq!(first.status(), "running");
            goes_on();
            let _ = server.wait();
            return bed.skip("this CRIU serves no pages on this kernel");
        }
        assert_eq!((restored.code, dumped.code), (0, 0), "{restored}{dumped}");
        assert!(server.wait().unwrap().success());
        assert_eq!(bed.runtime(["state", &first.id]).code, 1, "it is deleted");
        goes_on();
        bed.runtime(["delete", "--force", &id]).success();
    });
}

#[test]
fn what_is_the_hosts_is_found_again() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("images are compared with theirs elsewhere") {
            return;
        }
        let data = bed.make_directory("data", 0o755);
        fs::create_dir(data.join("below")).unwrap();
        let file = bed.write("file", "first");
        let bundle = counting(bed)
            .mount("/data", "bind", data.to_str().unwrap(), &["rbind"])
            .mount("/data/below/file", "bind", file.to_str().unwrap(), &["bind", "ro"])
            .mount("/link/file", "bind", file.to_str().unwrap(), &["bind", "ro"])
            .mount("/run", "tmpfs", "tmpfs", &[])
            .mount("/run/file", "bind", file.to_str().unwrap(), &["bind", "ro"])
            .with("/linux/maskedPaths", json!(["/proc/keys", "/proc/acpi", "/proc/none"]))
            .with("/linux/readonlyPaths", json!(["/proc/sys"]));
        symlink("real", bundle.rootfs().join("link")).unwrap();
        fs::create_dir(bundle.rootfs().join("real")).unwrap();
        let first = criu.start(&bundle);
        first.sh("echo kept > /run/kept").success();
        counts_on(&bundle);
        let image = criu.dump(&first);
        let second = criu.restore(&bundle, &image);
        counts_on(&bundle);
        let script = "cat /run/kept; cat /data/below/file /link/file /run/file; cat /proc/keys | wc -c; \
                      for file in /link/file /proc/sys/kernel/msgmax; do (echo x > $file); done 2>&1; \
                      ls /proc/acpi";
        let seen = second.sh(script);
        assert!(seen.stdout.starts_with("kept\nfirstfirstfirst0\n"), "{seen}");
        assert_eq!(seen.stdout.matches("Read-only file system").count(), 2, "{seen}");
        second.delete();
    });
}

/// A user that CRIU can dump: to ask for the limits of another's process takes a right that not
/// every machine's root has.
fn user() -> (u32, u32) {
    const SYS_RESOURCE: u64 = 1 << 24;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    if u64::from_str_radix(held, 16).unwrap() & SYS_RESOURCE == 0 { (0, 0) } else { (7, 8) }
}

/// Less than the machine's root has.
fn confined(bed: &Bed) -> Bundle {
    let filter = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7}],
    });
    let (uid, gid) = user();
    counting(bed)
        .with("/linux/seccomp", filter)
        .with("/process/noNewPrivileges", true)
        .with("/process/user", json!({"uid": uid, "gid": gid, "additionalGids": [9]}))
        .capable(&["CAP_NET_BIND_SERVICE"])
}

#[test]
fn confinement_is_what_it_was() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("images are compared with theirs elsewhere") {
            return;
        }
        let bundle = confined(bed);
        fs::set_permissions(bundle.rootfs().join("tmp"), Permissions::from_mode(0o777)).unwrap();
        let status = |pid: i32| {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let fields = ["Uid", "Gid", "Groups", "NoNewPrivs", "Cap", "Seccomp:"];
            let of = |line: &&str| fields.iter().any(|field| line.starts_with(field));
            text.lines().filter(of).map(str::to_owned).collect::<Vec<_>>()
        };
        let first = criu.start(&bundle);
        counts_on(&bundle);
        let before = status(first.pid());
        assert!(before.len() > 9, "{before:?}");
        let image = criu.dump(&first);
        let second = criu.restore(&bundle, &image);
        counts_on(&bundle);
        assert_eq!(status(second.pid()), before);
        second.delete();
        // The same image, of less and of more than it takes.
        for (change, reason) in [
            (
                bundle.clone().with(
                    "/process/user",
                    json!({"uid": 9, "gid": user().1, "additionalGids": [9]}),
                ),
                "process.user.uid",
            ),
            (
                bundle.clone().with("/process/user", json!({"uid": user().0, "gid": user().1})),
                "process.user.gid",
            ),
            (bundle.clone().capable(&[]), "process.capabilities"),
        ] {
            let refused = criu.refused(&change, &image);
            assert!(
                refused.contains("the image is refused") && refused.contains(reason),
                "{refused}"
            );
        }
        let wider = bundle.clone().capable(&["CAP_NET_BIND_SERVICE", "CAP_KILL"]);
        let third = criu.restore(&wider.with("/process/noNewPrivileges", false), &image);
        counts_on(&bundle);
        third.delete();
    });
}

#[test]
fn limits_are_those_of_the_configuration() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("images are compared with theirs elsewhere") {
            return;
        }
        if !bed.has_controller("pids") {
            return bed.skip("no controller for pids");
        }
        let bundle = counting(bed).with("/linux/resources", json!({"pids": {"limit": 31}}));
        let first = criu.start(&bundle);
        counts_on(&bundle);
        let image = criu.dump(&first);
        let bundle = bundle.with("/linux/resources", json!({"pids": {"limit": 33}}));
        let second = criu.restore(&bundle, &image);
        counts_on(&bundle);
        let limit = fs::read_to_string(bed.cgroup_file(&bundle, "pids.max")).unwrap();
        assert_eq!(limit.trim(), "33");
        assert!(second.call("ps").success().lines().count() > 1);
        second.delete();
    });
}

/// Runtimes to compare with: the machine's runc, and those of `testbed/peers.py`.
fn others(bed: &Bed) -> Vec<PathBuf> {
    let peers = concat!(env!("CARGO_MANIFEST_DIR"), "/../testbed/cache/peers");
    let made = fs::read_dir(peers).into_iter().flatten().filter_map(Result::ok);
    let made = made.flat_map(|made| ["crun", "runc"].map(|name| made.path().join(name)));
    let found: Vec<_> = std::iter::once(PathBuf::from("/usr/sbin/runc"))
        .chain(made)
        .filter(|program| program.exists())
        .collect();
    if found.len() < 3 {
        bed.skip("not all other runtimes are there (testbed/peers.py)");
    }
    found
}

#[test]
fn images_are_those_of_others() {
    in_views(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("it is ferrun that is compared") {
            return;
        }
        if bed.view == View::V2 && sees_other_trees(bed) {
            return bed.skip("CRIU sees the other trees all the same");
        }
        // crun knows version 1 or 2 alone, and what runc does on one it does on both.
        let suits = |other: &PathBuf| {
            bed.view == View::V2 || other.ends_with("crun") == (bed.view == View::V1)
        };
        let groups: &[&str] =
            if sees_other_trees(bed) { &["--manage-cgroups-mode", "ignore"] } else { &[] };
        for other in others(bed).into_iter().filter(suits) {
            let root = bed.make_directory(&format!("other-{}", bed.next()), 0o700);
            let call = |arguments: &[&str]| {
                let path = integration::criu::path(bed).unwrap();
                let call = bed.program(&other).env("PATH", path).arg("--root").arg(&root);
                call.args(arguments).silent().output()
            };
            let file = bed.write("file", "first");
            let bundle = counting(bed)
                .mount("/etc/file", "bind", file.to_str().unwrap(), &["bind", "ro"])
                .with("/linux/maskedPaths", json!(["/proc/keys"]))
                .with_namespace("network", None);
            let path = bundle.save().path.to_str().unwrap();
            let (id, image) = (bed.id(), criu.image());
            let image_text = image.to_str().unwrap();
            // Theirs by us.
            call(&["run", "--detach", "--bundle", path, &id]).success();
            counts_on(&bundle);
            // crun makes no directory for the log.
            fs::create_dir(&image).unwrap();
            let words = ["checkpoint", "--image-path", image_text, "--work-path", image_text];
            call(&[&words[..], groups, &[&id]].concat()).success();
            let restored = bed.id();
            let restore = criu.restore_call(&bundle, &restored, &image).args(groups);
            let ours = Container::create(bed, &restored, restore);
            counts_on(&bundle);
            assert_eq!(ours.sh("cat /etc/file; cat /proc/keys").success(), "first");
            if other.ends_with("crun") {
                // On version 1 it restores nothing, its own images neither; on version 2 what is
                // masked has another name in its images than in runc's and ours.
                continue;
            }
            // Ours by them.
            fs::remove_dir_all(&image).unwrap();
            criu.dump_call(&ours.id, &image).output().success();
            let words = ["restore", "--detach", "--bundle", path, "--image-path", image_text];
            call(&[&words[..], &[&id]].concat()).success();
            counts_on(&bundle);
            call(&["delete", "--force", &id]).success();
        }
    });
}

/// Whether CRIU sees trees of groups in its own /proc that this view hides: there it takes the
/// root for the container's group, and with it the groups of all others.
fn sees_other_trees(bed: &Bed) -> bool {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    match bed.view {
        View::Hybrid => false,
        View::V1 => groups.lines().any(|line| line.starts_with("0::")),
        View::V2 => groups.lines().count() > 1,
    }
}

#[test]
fn a_profile_is_restored_and_another_only_where_it_is_asked_for() {
    with_profiles(|bed, profiles| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("they take what the image says") {
            return;
        }
        let bundle = counting(bed).with("/process/apparmorProfile", profiles.confined.as_str());
        let label = |container: &Container<'_>| {
            let path = format!("/proc/{}/attr/current", container.pid());
            fs::read_to_string(path).unwrap().trim().to_owned()
        };
        let first = criu.start(&bundle);
        counts_on(&bundle);
        let image = criu.dump(&first);
        let second = criu.restore(&bundle, &image);
        counts_on(&bundle);
        assert_eq!(label(&second), format!("{} (enforce)", profiles.confined));
        second.delete();
        // The image has another than the configuration.
        let open = bundle.clone().with("/process/apparmorProfile", profiles.open.as_str());
        let refused = criu.refused(&open, &image);
        assert!(refused.contains("process.apparmorProfile"), "{refused}");
        let id = bed.id();
        let call = criu.restore_call(&bundle, &id, &image);
        let asked = format!("apparmor:{}", profiles.open);
        let third = Container::create(bed, &id, call.option("--lsm-profile", asked));
        counts_on(&bundle);
        assert_eq!(label(&third), format!("{} (enforce)", profiles.open));
        third.delete();
        // One of somebody who wants none.
        let free = criu.start(&counting(bed));
        let image = criu.dump(&free);
        let refused = criu.refused(&bundle, &image);
        assert!(refused.contains("process.apparmorProfile"), "{refused}");
    });
}

/// Changes what CRIU restores of a task's rights, in each task of an image.
fn change_tasks(image: &Path, change: impl Fn(&mut Message)) {
    for entry in fs::read_dir(image).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("core-") {
            let mut file = ImageFile::read(&path);
            file.messages[0].change(THREAD, &change);
            file.write();
        }
    }
}

/// Fields of images/core.proto and images/creds.proto of CRIU.
const THREAD: u64 = 5;
const CREDS: u64 = 10;
const SECCOMP_MODE: u64 = 11;
const SECCOMP_FILTER: u64 = 12;
const UIDS: [u64; 4] = [1, 3, 5, 7];
const GIDS: [u64; 4] = [2, 4, 6, 8];
const CAPABILITIES: [u64; 4] = [9, 10, 11, 12];
const GROUPS: u64 = 14;
const NO_NEW_PRIVILEGES: u64 = 18;

/// What an attacker does to an image, the configuration that it is restored by, and the reason
/// for which it is refused.
type Attack = (&'static str, fn(&mut Message), &'static str);

#[test]
fn an_image_that_is_wider_than_the_configuration_is_refused() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("they take what the image says") {
            return;
        }
        // One whose pauses are so long that it would be killed in the first is no witness.
        let restless = "i=0; while :; do i=$((i+1)); echo $i > /tmp/now; done";
        let bundle = confined(bed).args(["/bin/busybox", "sh", "-c", restless]);
        let now = || fs::read(bundle.rootfs().join("tmp/now")).unwrap_or_default();
        let runs = || {
            let before = now();
            eventually("the program runs", || now() != before);
        };
        fs::set_permissions(bundle.rootfs().join("tmp"), Permissions::from_mode(0o777)).unwrap();
        let first = criu.start(&bundle);
        runs();
        let image = criu.dump(&first);
        let attacks: [Attack; 6] = [
            (
                "capabilities",
                |thread| {
                    thread.change(CREDS, |creds| {
                        CAPABILITIES.into_iter().for_each(|set| creds.set(set, 1 << 21))
                    });
                },
                "process.capabilities",
            ),
            (
                "no filter",
                |thread| {
                    thread.set(SECCOMP_MODE, 0);
                    thread.remove(SECCOMP_FILTER);
                },
                "linux.seccomp: has no filter",
            ),
            (
                "no no_new_privs",
                |thread| thread.change(CREDS, |creds| creds.remove(NO_NEW_PRIVILEGES)),
                "process.noNewPrivileges",
            ),
            (
                "another user",
                |thread| {
                    thread.change(CREDS, |creds| UIDS.into_iter().for_each(|id| creds.set(id, 1)))
                },
                "process.user.uid",
            ),
            (
                "another group",
                |thread| {
                    thread.change(CREDS, |creds| GIDS.into_iter().for_each(|id| creds.set(id, 1)))
                },
                "process.user.gid",
            ),
            (
                "another group besides",
                |thread| thread.change(CREDS, |creds| creds.set(GROUPS, 1)),
                "process.user.gid",
            ),
        ];
        let stands = now();
        for (name, change, reason) in attacks {
            let copy = criu.image();
            copy_image(&image, &copy);
            change_tasks(&copy, change);
            let refused = criu.refused(&bundle, &copy);
            assert!(refused.contains("the image is refused"), "{name}: {refused}");
            assert!(refused.contains(reason), "{name}: {refused}");
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(now(), stands, "{name}: nothing has run");
        }
        // A copy that nobody has changed is restored.
        let copy = criu.image();
        copy_image(&image, &copy);
        change_tasks(&copy, |_| {});
        let second = criu.restore(&bundle, &copy);
        runs();
        second.delete();
    });
}

#[test]
fn an_image_of_the_hosts_namespaces_is_refused_where_there_are_to_be_own() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("they take what the image says") {
            return;
        }
        for kind in ["network", "ipc", "uts"] {
            let bundle = counting(bed).without_namespace(kind);
            let first = criu.start(&bundle);
            counts_on(&bundle);
            let image = criu.dump(&first);
            let own = bundle.clone().with_namespace(kind, None);
            let stands = count(&bundle);
            let refused = criu.refused(&own, &image);
            assert!(
                refused.contains(&format!("linux.namespaces: {kind}: is the host's")),
                "{refused}"
            );
            assert_eq!(count(&bundle), stands, "{kind}");
            let second = criu.restore(&bundle, &image);
            counts_on(&bundle);
            second.delete();
        }
    });
}

fn copy_image(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn an_image_that_others_may_write_is_refused() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("they take what the image says") {
            return;
        }
        let bundle = counting(bed);
        let first = criu.start(&bundle);
        let image = criu.dump(&first);
        let file = image.join("pstree.img");
        for (path, mode) in [(&image, 0o770), (&image, 0o702), (&file, 0o660), (&file, 0o602)] {
            let before = fs::metadata(path).unwrap().permissions();
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            let refused = criu.refused(&bundle, &image);
            assert!(refused.contains("can be written by others"), "{path:?}: {refused}");
            fs::set_permissions(path, before).unwrap();
        }
        std::os::unix::fs::chown(&file, Some(7), None).unwrap();
        assert!(criu.refused(&bundle, &image).contains("belongs to user 7"));
        std::os::unix::fs::chown(&file, Some(0), None).unwrap();
        // Nor is one written there.
        let open = criu.image();
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        let second = criu.restore(&bundle, &image);
        let output = criu.dump_call(&second.id, &open).output();
        assert!(output.failure(1).contains("can be written by others"), "{output}");
        counts_on(&bundle);
        second.delete();
    });
}

#[test]
fn what_stands_beside_an_image_is_held_to_its_form() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("they take what the image says") {
            return;
        }
        let bundle = counting(bed);
        let first = criu.start(&bundle);
        let image = criu.dump(&first);
        let descriptors = image.join("descriptors.json");
        for (text, reason) in [
            ("x".repeat(20_000), "longer than"),
            ("[1]".into(), "no list of texts"),
            (r#"["","","",""]"#.into(), "more than three"),
        ] {
            fs::write(&descriptors, text).unwrap();
            let refused = criu.refused(&bundle, &image);
            assert!(refused.contains("descriptors.json") && refused.contains(reason), "{refused}");
        }
        for link in ["pipe:[x]", "pipe:1", "pipe:[1]x", "extRootNetNS"] {
            fs::write(&descriptors, json!(["/dev/null", link]).to_string()).unwrap();
            let refused = criu.refused(&bundle, &image);
            let reason = format!("descriptors.json: [1]: {link:?}: is no link of a descriptor");
            assert!(refused.contains(&reason), "{refused}");
        }
        // A path that ends like a pipe is none, and runc leaves empty what it cannot read.
        fs::write(&descriptors, r#"["","/x/pipe:[1]","socket:[1]"]"#).unwrap();
        criu.restore(&bundle, &image).delete();
        for parent in ["/etc", "../..", "../../other"] {
            let link = image.join("parent");
            symlink(parent, &link).unwrap();
            let refused = criu.refused(&bundle, &image);
            assert!(refused.contains("parent"), "{parent}: {refused}");
            fs::remove_file(link).unwrap();
        }
        // Settings that somebody else may write: CRIU calls programs of theirs as root.
        let settings = bed.make_directory("settings", 0o777).join("file");
        let called = bed.make_directory("called", 0o755).join("called");
        let script = bed.script("action", &format!("touch {}", called.display()));
        fs::write(&settings, format!("action-script {}\n", script.display())).unwrap();
        let annotated = bundle.clone().with("/annotations", json!({"org.criu.config": settings}));
        let refused = criu.refused(&annotated, &image);
        assert!(refused.contains("can be changed by others than root"), "{refused}");
        assert!(!called.exists());
        let without = bundle.clone().with("/annotations", json!({"org.criu.config": ""}));
        criu.restore(&without, &image).delete();
        fs::remove_dir_all(settings.parent().unwrap()).unwrap();
    });
}

#[test]
fn whatever_becomes_of_a_dump_the_container_runs() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("they are not asked") {
            return;
        }
        // Its stdout is a file of the host.
        let bundle = counting(bed);
        let container = bed.start(&bundle);
        counts_on(&bundle);
        let image = criu.image();
        let output = criu.dump_call(&container.id, &image).output();
        let said = output.failure(1);
        assert!(said.contains("criu has failed to dump the container"), "{output}");
        assert!(said.contains("Dumping FAILED") && said.contains("dump.log"), "{output}");
        assert_eq!(container.status(), "running");
        counts_on(&bundle);
        container.delete();
        // Whoever is killed over it, at whatever moment.
        let container = criu.start(&bundle);
        for at in 0..24 {
            let image = criu.image();
            let call = criu.dump_call(&container.id, &image).flag("--leave-running");
            let running = call.spawn();
            std::thread::sleep(Duration::from_millis(15 * at));
            running.signal(Signal::SIGKILL);
            running.wait();
            eventually("criu has ended", || !is_at_work(&image));
            eventually("it runs", || container.status() == "running");
            counts_on(&bundle);
        }
        container.delete();
    });
}

#[test]
fn a_container_can_be_deleted_while_it_is_dumped() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("they are not asked") {
            return;
        }
        let bundle = counting(bed);
        for at in 0..16 {
            let container = criu.start(&bundle);
            let image = criu.image();
            let running = criu.dump_call(&container.id, &image).spawn();
            std::thread::sleep(Duration::from_millis(20 * at));
            running.signal(Signal::SIGKILL);
            running.wait();
            bed.runtime(["delete", "--force", &container.id]).success();
            eventually("criu has ended", || !is_at_work(&image));
            assert_eq!(bed.runtime(["state", &container.id]).code, 1);
        }
        bed.assert_nothing_left();
    });
}

/// Whether a process holds a directory open or is in it.
fn is_at_work(directory: &Path) -> bool {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let is_in = |process: fs::DirEntry| {
        let place = fs::read_link(process.path().join("cwd"));
        place.is_ok_and(|place| place.starts_with(directory))
    };
    processes.into_iter().any(is_in)
}

#[test]
fn nothing_is_left_of_a_restore_that_fails() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("they are not asked") {
            return;
        }
        let bundle = counting(bed);
        let first = criu.start(&bundle);
        let image = criu.dump(&first);
        let kept = fs::read(image.join("mm-1.img")).unwrap();
        fs::write(image.join("mm-1.img"), &kept[..20]).unwrap();
        let refused = criu.refused(&bundle, &image);
        assert!(refused.contains("criu has failed to restore the container"), "{refused}");
        fs::write(image.join("mm-1.img"), kept).unwrap();
        fs::remove_file(image.join("inventory.img")).unwrap();
        assert!(criu.refused(&bundle, &image).contains("is no image"));
    });
}

#[test]
fn a_restore_may_be_killed_anywhere() {
    as_root(|bed| {
        let Some(criu) = Checkpoints::on(bed) else { return };
        if bed.is_peer("they are not asked") {
            return;
        }
        let bundle = counting(bed);
        let first = criu.start(&bundle);
        let image = criu.dump(&first);
        for at in 0..24 {
            let id = bed.id();
            let running = criu.restore_call(&bundle, &id, &image).spawn();
            std::thread::sleep(Duration::from_millis(15 * at));
            running.signal(Signal::SIGKILL);
            running.wait();
            bed.runtime(["delete", "--force", &id]).success();
            eventually("criu has ended", || !is_at_work(&image));
            assert_eq!(bed.runtime(["state", &id]).code, 1);
        }
        let last = criu.restore(&bundle, &image);
        counts_on(&bundle);
        last.delete();
    });
}
