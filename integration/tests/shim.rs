//! containerd's shim, by what containerd asks of it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use integration::shim::{
    Client, Engine, Io, NAMESPACE, OTHERS, as_root, bundle, is_gone, reader, reads, writer,
};
use integration::{Bundle, eventually, in_views, with_controllers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message as _;
use shim::messages::{
    Any, CloseIoRequest, CreateTaskRequest, CreateTaskResponse, Empty, Mount, Options,
    PauseRequest, PidsRequest, PidsResponse, ProcessDetails, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StateRequest, StateResponse, TaskExit, UpdateTaskRequest, WaitRequest,
    WaitResponse,
};

#[test]
fn a_life_is_told_in_its_order_and_leaves_nothing() {
    in_views(|bed| {
        if bed.is_peer(OTHERS) {
            return;
        }
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "read x; exit 7"), bed.id());
        let mut client = engine.start(&bundle, &id);
        let input = engine.pipe();
        let io = Io { stdin: input.display().to_string(), ..Io::default() };
        let pid = client.run(&engine.create(&bundle, &id, &io));
        assert_eq!(client.status(&id, ""), Ok(2));
        let listed = bed.root().join(NAMESPACE).join(&id);
        assert!(listed.exists(), "{listed:?}");
        let mut writer = writer(&input);
        writer.write_all(b"x\n").unwrap();
        assert_eq!(client.wait(&id, ""), 7);
        assert_eq!(client.status(&id, ""), Ok(3));
        // Whoever is told an ended process of branches on the code.
        assert_eq!(client.kill(&id, "", 9).unwrap_err().code, 5);
        let deleted = client.delete(&id, "").unwrap();
        assert_eq!((deleted.exit_status, deleted.pid), (7, pid));
        assert_eq!(client.delete(&id, "").unwrap_err().code, 5);
        client.shut_down();
        engine.hears(&["create", "start", "exit", "delete"]);
        // containerd calls it after each life.
        let deleted = engine.delete(&bundle, &id);
        assert_eq!((deleted.exit_status, deleted.pid), (7, pid));
    });
}

#[test]
fn processes_are_added_and_their_ends_told_before_that_of_init() {
    as_root(|bed| {
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "sleep 100"), bed.id());
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::default()));
        let output = engine.pipe();
        let mut said = reader(&output);
        client.exec(&id, "one", "echo said; exit 3", &Io::stdout(&output)).unwrap();
        assert_eq!(client.exec(&id, "one", "true", &Io::default()).unwrap_err().code, 6);
        client.start(&id, "one").unwrap();
        reads(&mut said, "said");
        assert_eq!(client.wait(&id, "one"), 3);
        assert_eq!(client.delete(&id, "one").unwrap().exit_status, 3);
        // One that runs on, which Pids knows by its name.
        client.exec(&id, "two", "sleep 100", &Io::default()).unwrap();
        assert_eq!(client.status(&id, "two"), Ok(1));
        let pid = client.start(&id, "two").unwrap();
        let pids = client.call::<PidsResponse>("Pids", &PidsRequest { id: id.clone() }).unwrap();
        let two = pids.processes.iter().find(|process| process.pid == pid).unwrap();
        let details = &two.info.as_ref().unwrap().value;
        assert_eq!(ProcessDetails::decode(details.as_slice()).unwrap().exec_id, "two");
        assert_eq!(client.delete(&id, "two").unwrap_err().code, 9);
        // A program that is not there, and a signal that ends one.
        let wrong = "exec /nowhere";
        client.exec(&id, "three", wrong, &Io::default()).unwrap();
        client.start(&id, "three").unwrap();
        assert_eq!(client.wait(&id, "three"), 127);
        client.exec(&id, "four", "sleep 100", &Io::default()).unwrap();
        client.start(&id, "four").unwrap();
        client.kill(&id, "four", 15).unwrap();
        assert_eq!(client.wait(&id, "four"), 128 + 15);
        let wait = WaitRequest { id: id.clone(), exec_id: "two".into() };
        let two = client.send("Wait", &wait);
        client.end(&id);
        assert_eq!(client.answer::<WaitResponse>(two).unwrap().exit_status, 137);
        client.shut_down();
        let exits = engine.events::<TaskExit>("exit");
        let ids: Vec<_> = exits.iter().map(|exit| exit.id.as_str()).collect();
        assert_eq!(ids, ["one", "three", "four", "two", &id]);
    });
}

#[test]
fn what_was_said_waits_for_who_comes_late_to_read_it() {
    as_root(|bed| {
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "sleep 100"), bed.id());
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::default()));
        let [said, nothing] = [engine.pipe(), engine.pipe()];
        let stderr = nothing.display().to_string();
        let io = Io { stderr, ..Io::stdout(&said) };
        client.exec(&id, "e", "echo said", &io).unwrap();
        client.start(&id, "e").unwrap();
        assert_eq!(client.wait(&id, "e"), 0);
        // Its output has ended when somebody opens the pipes, and sees that before Delete.
        for (pipe, text) in [(said, "said\n"), (nothing, "")] {
            let (sender, receiver) = std::sync::mpsc::channel();
            std::thread::spawn(move || sender.send(fs::read_to_string(pipe).unwrap()));
            assert_eq!(receiver.recv_timeout(Duration::from_secs(5)).as_deref(), Ok(text));
        }
        client.delete(&id, "e").unwrap();
        client.end(&id);
        client.shut_down();
    });
}

#[test]
fn a_pod_has_one_program() {
    as_root(|bed| {
        let engine = Engine::new(bed);
        let pod = bed.id();
        let bundles: Vec<(String, Bundle)> = (0..3)
            .map(|_| {
                let group = "/annotations/io.kubernetes.cri.sandbox-id";
                let bundle =
                    bed.bundle().sh("sleep 100").with("/annotations", serde_json::json!({}));
                let bundle = bundle.with(group, pod.as_str());
                bundle.save();
                (bed.id(), bundle)
            })
            .collect();
        let mut clients = Vec::new();
        for (id, bundle) in &bundles {
            let mut client = engine.start(bundle, id);
            client.run(&engine.create(bundle, id, &Io::default()));
            clients.push(client);
        }
        let pids: Vec<_> = clients.iter_mut().map(Client::pid).collect();
        assert!(pids.windows(2).all(|two| two[0] == two[1]), "{pids:?}");
        let threads = fs::read_dir(format!("/proc/{}/task", pids[0])).unwrap().count();
        assert_eq!(threads, 1);
        for (client, (id, _)) in clients.iter_mut().zip(&bundles) {
            // It goes with the last container alone.
            client.call::<Empty>("Shutdown", &ShutdownRequest::default()).unwrap();
            client.end(id);
        }
        clients.pop().unwrap().shut_down();
    });
}

#[test]
fn who_breaks_the_protocol_loses_his_connection_and_nothing_else() {
    as_root(|bed| {
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "sleep 100"), bed.id());
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::default()));
        let (_, call) = client.another().bytes_of("State", &Empty {});
        let with = |at: usize, byte: u8| {
            let mut call = call.clone();
            call[at] = byte;
            call
        };
        let twice = [call.clone(), call.clone()].concat();
        let no_request = [&[0, 0, 0, 2, 0, 0, 0, 1, 1, 0][..], &[255, 255]].concat();
        for bytes in
            [with(0, 1), with(0, 255), with(7, 2), with(8, 2), with(8, 9), twice, no_request]
        {
            let mut broken = client.another();
            assert!(broken.write(&bytes));
            // There may be an answer to what came before.
            eventually(&format!("the end of {bytes:?}"), || broken.is_closed());
        }
        let unknown = client.call::<Empty>("Nosuch", &Empty {}).unwrap_err();
        assert_eq!(unknown.code, 12);
        assert_eq!(client.status(&id, ""), Ok(2));
        client.end(&id);
        client.shut_down();
    });
}

#[test]
fn who_never_reads_makes_nobody_wait() {
    as_root(|bed| {
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "sleep 100"), bed.id());
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::default()));
        let pid = client.pid();
        let mut deaf = client.another();
        // Far more answers than any buffer holds.
        let asked = StateRequest { id: id.clone(), ..Default::default() };
        let sent = deaf.call_without_reading(&asked, 16 << 20);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let anonymous: u64 = anonymous.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(anonymous < 6 * 1024, "{anonymous} KiB after {sent} bytes");
        let asked = Instant::now();
        assert_eq!(client.status(&id, ""), Ok(2));
        assert!(asked.elapsed() < Duration::from_secs(1));
        client.end(&id);
        client.shut_down();
    });
}

#[test]
fn a_pipe_that_nobody_reads_stops_its_container_alone() {
    as_root(|bed| {
        let engine = Engine::new(bed);
        let full = bundle(bed, "while :; do echo 0123456789012345678901234567890123456789; done");
        let (id, output) = (bed.id(), engine.pipe());
        let mut client = engine.start(&full, &id);
        client.run(&engine.create(&full, &id, &Io::stdout(&output)));
        let (other, said) = (bed.id(), engine.pipe());
        let well = bundle(bed, "echo well");
        let mut said_by_other = reader(&said);
        client.run(&engine.create(&well, &other, &Io::stdout(&said)));
        reads(&mut said_by_other, "well");
        client.end(&other);
        // What was written is there once somebody comes, and comes again.
        for _ in 0..2 {
            let mut reader = reader(&output);
            reads(&mut reader, "0123456789");
        }
        client.end(&id);
        client.shut_down();
    });
}

#[test]
fn a_terminal_has_a_size_and_ends_with_its_process() {
    as_root(|bed| {
        let script =
            "trap 'stty size; exit 5' WINCH; echo ready; while :; do read x; echo got $x; done";
        let bundle = bed.bundle().sh(script).with("/process/terminal", true);
        bundle.save();
        let (engine, id) = (Engine::new(bed), bed.id());
        let mut client = engine.start(&bundle, &id);
        let (input, output) = (engine.pipe(), engine.pipe());
        let mut said = reader(&output);
        let io = Io {
            stdin: input.display().to_string(),
            stdout: output.display().to_string(),
            terminal: true,
            ..Io::default()
        };
        client.run(&engine.create(&bundle, &id, &io));
        reads(&mut said, "ready");
        let mut writer = writer(&input);
        writer.write_all(b"word\n").unwrap();
        reads(&mut said, "got word");
        let resize =
            ResizePtyRequest { id: id.clone(), width: 123, height: 45, ..Default::default() };
        client.call::<Empty>("ResizePty", &resize).unwrap();
        // A shell looks at its traps between two lines.
        writer.write_all(b"\n").unwrap();
        reads(&mut said, "45 123");
        assert_eq!(client.wait(&id, ""), 5);
        client.delete(&id, "").unwrap();
        client.shut_down();
    });
}

#[test]
fn stdin_ends_when_it_is_closed_and_not_with_who_wrote() {
    as_root(|bed| {
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "cat; echo ended"), bed.id());
        let mut client = engine.start(&bundle, &id);
        let (input, output) = (engine.pipe(), engine.pipe());
        let mut said = reader(&output);
        let io = Io { stdin: input.display().to_string(), ..Io::stdout(&output) };
        client.run(&engine.create(&bundle, &id, &io));
        for word in ["one", "two"] {
            writer(&input).write_all(word.as_bytes()).unwrap();
            reads(&mut said, word);
        }
        assert_eq!(client.status(&id, ""), Ok(2));
        let close = CloseIoRequest { id: id.clone(), stdin: true, ..Default::default() };
        client.call::<Empty>("CloseIO", &close).unwrap();
        reads(&mut said, "ended");
        assert_eq!(client.wait(&id, ""), 0);
        client.delete(&id, "").unwrap();
        client.shut_down();
    });
}

#[test]
fn output_goes_to_files_and_programs_too() {
    as_root(|bed| {
        let (engine, id) = (Engine::new(bed), bed.id());
        let bundle = bundle(bed, "echo out; echo err >&2");
        let mut client = engine.start(&bundle, &id);
        let file = bed.directory.join("new directory/file");
        let name = format!("file://{}", file.display());
        let io = Io { stdout: name.clone(), stderr: name, ..Io::default() };
        client.run(&engine.create(&bundle, &id, &io));
        client.wait(&id, "");
        client.delete(&id, "").unwrap();
        let mut lines: Vec<_> =
            fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        assert_eq!(lines, ["err", "out"]);
        // A program gets both by numbers, says that it is ready by closing one, and an environment
        // of two.
        let heard = bed.directory.join("heard");
        let script = format!(
            "exec 5>&-; (env; echo \"$@\"; cat <&3; cat <&4) > {0}.new; mv {0}.new {0}",
            heard.display()
        );
        let logger = bed.script("logger", &script);
        let io = Io { stdout: format!("binary://{}?key=value", logger.display()), ..Io::default() };
        let other = bed.id();
        client.run(&engine.create(&bundle, &other, &io));
        client.wait(&other, "");
        eventually("the logger's last word", || heard.exists());
        client.delete(&other, "").unwrap();
        let said = fs::read_to_string(&heard).unwrap();
        for line in [
            "key value",
            "out",
            "err",
            &format!("CONTAINER_ID={other}"),
            "CONTAINER_NAMESPACE=tests",
        ] {
            assert!(said.lines().any(|said| said == line), "{line:?}: {said}");
        }
        assert!(!said.contains("OF_THE_ENGINE") && !said.contains("NOTIFY_SOCKET"), "{said}");
        // One that ends before it is ready.
        let io = Io { stdout: "binary-v2:///bin/false".into(), ..Io::default() };
        let create = engine.create(&bundle, &bed.id(), &io);
        let refused = client.call::<CreateTaskResponse>("Create", &create).unwrap_err();
        assert!(refused.message.contains("did not get ready"), "{refused:?}");
        client.shut_down();
    });
}

#[test]
fn what_a_killed_program_leaves_is_ended_by_delete() {
    in_views(|bed| {
        if bed.is_peer(OTHERS) {
            return;
        }
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "sleep 100"), bed.id());
        let mut client = engine.start(&bundle, &id);
        let pid = client.run(&engine.create(&bundle, &id, &Io::default()));
        let shim = client.pid();
        kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
        is_gone(shim);
        let deleted = engine.delete(&bundle, &id);
        assert_eq!((deleted.exit_status, deleted.pid), (137, pid));
        assert!(!client.address.exists(), "its socket is left");
        // And once more, as containerd may.
        engine.delete(&bundle, &id);
    });
}

#[test]
fn what_had_ended_before_the_program_was_killed_keeps_its_exit_code() {
    as_root(|bed| {
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "exit 3"), bed.id());
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::default()));
        assert_eq!(client.wait(&id, ""), 3);
        let shim = client.pid();
        kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
        is_gone(shim);
        assert_eq!(engine.delete(&bundle, &id).exit_status, 3);
    });
}

#[test]
fn a_socket_that_a_killed_program_has_left_is_taken_by_the_next() {
    as_root(|bed| {
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "true"), bed.id());
        let mut client = engine.start(&bundle, &id);
        let shim = client.pid();
        kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
        is_gone(shim);
        assert!(client.address.exists());
        let client = engine.start(&bundle, &id);
        client.shut_down();
    });
}

#[test]
fn only_its_own_user_may_connect() {
    as_root(|bed| {
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "true"), bed.id());
        let client = engine.start(&bundle, &id);
        let directory = engine.directory_of_sockets();
        let mode = |path: &std::path::Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&client.address)), (0o700, 0o600));
        // Also where somebody has opened the way.
        for path in [&directory, &client.address] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let connect = format!(
            "import socket; s = socket.socket(socket.AF_UNIX); s.settimeout(5); \
             s.connect('{}'); print(len(s.recv(1)))",
            client.address.display()
        );
        for (uid, gid) in [(12345, 12345), (0, 12345), (12345, 0)] {
            let mut python = Command::new("python3");
            let output = python.args(["-c", &connect]).uid(uid).gid(gid).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(said.trim(), "0", "{uid}, {gid}: {output:?}");
        }
        client.shut_down();
    });
}

#[test]
fn events_wait_for_a_containerd_that_is_away() {
    as_root(|bed| {
        let (engine, bundle, id) = (Engine::deaf(bed), bundle(bed, "true"), bed.id());
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::default()));
        client.wait(&id, "");
        engine.listen();
        client.delete(&id, "").unwrap();
        client.shut_down();
        engine.hears(&["create", "start", "exit", "delete"]);
    });
}

#[test]
fn a_root_of_each_kind_is_mounted_and_goes() {
    as_root(|bed| {
        let (engine, bundle) = (Engine::new(bed), bundle(bed, "cat /proc/mounts; test -e /bin/sh"));
        let (layer, image) = (bed.directory.join("layer"), bed.directory.join("image"));
        fs::rename(bundle.rootfs(), &layer).unwrap();
        fs::create_dir(bundle.rootfs()).unwrap();
        let made = fs::File::create(&image).and_then(|file| file.set_len(64 << 20));
        made.unwrap();
        let mut mkfs = Command::new("mkfs.ext4");
        let status = mkfs.args(["-q", "-d"]).args([&layer, &image]).status();
        if !status.is_ok_and(|status| status.success()) {
            return bed.skip("there is no mkfs.ext4");
        }
        let mount = |kind: &str, source: &std::path::Path, options: &[&str]| Mount {
            r#type: kind.into(),
            source: source.display().to_string(),
            options: options.iter().map(|&word| word.to_owned()).collect(),
            ..Default::default()
        };
        let mut client = engine.start(&bundle, &bed.id());
        // The second is made and undone apart: it may wait for a disk.
        for (root, kind) in [
            (mount("bind", &layer, &["rbind", "ro"]), ""),
            (mount("ext4", &image, &["loop"]), "ext4"),
        ] {
            let (id, output) = (bed.id(), engine.pipe());
            let mut said = reader(&output);
            let create = engine.create(&bundle, &id, &Io::stdout(&output));
            client.run(&CreateTaskRequest { rootfs: vec![root], ..create });
            reads(&mut said, &format!(" / {kind}"));
            assert_eq!(client.wait(&id, ""), 0);
            client.delete(&id, "").unwrap();
            assert_eq!(fs::read_dir(bundle.rootfs()).unwrap().count(), 0);
        }
        for (kind, sentence) in [("bind", "rootfs[0]"), ("nosuchfs", "rootfs[0]")] {
            let nowhere = mount(kind, std::path::Path::new("/no/such/source"), &["ro"]);
            let create = engine.create(&bundle, &bed.id(), &Io::default());
            let create = CreateTaskRequest { rootfs: vec![nowhere], ..create };
            let refused = client.call::<CreateTaskResponse>("Create", &create).unwrap_err();
            let start = "OCI runtime create failed: failed to mount rootfs component: ";
            assert!(refused.message.starts_with(&format!("{start}{sentence}")), "{refused:?}");
        }
        client.shut_down();
        fs::remove_dir_all(&layer).unwrap();
        fs::remove_file(&image).unwrap();
    });
}

#[test]
fn what_fails_says_why_and_leaves_nothing() {
    as_root(|bed| {
        let engine = Engine::new(bed);
        let nowhere = bed.bundle().args(["/bin/nowhere"]);
        nowhere.save();
        let mut client = engine.start(&nowhere, &bed.id());
        let create = engine.create(&nowhere, &bed.id(), &Io::default());
        let refused = client.call::<CreateTaskResponse>("Create", &create).unwrap_err();
        assert_eq!(refused.code, 3);
        let start = "OCI runtime create failed: process.args[0]: ";
        assert!(refused.message.starts_with(start), "{refused:?}");
        // The name is free, and its next owner may fail elsewhere.
        let root = bed.root().display().to_string();
        let options = Options { root, binary_name: "/opt/wrapper".into(), ..Default::default() };
        let options = Some(Any::of("containerd.runc.v1.Options", &options));
        let create = shim::messages::CreateTaskRequest { options, ..create };
        let refused = client.call::<CreateTaskResponse>("Create", &create).unwrap_err();
        assert!(refused.message.contains("BinaryName"), "{refused:?}");
        client.shut_down();
        engine.hears(&[]);
    });
}

#[test]
fn limits_stillness_and_motion() {
    as_root(|bed| {
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "sleep 100"), bed.id());
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::default()));
        let of = |id: &str| id.to_owned();
        client.call::<Empty>("Pause", &PauseRequest { id: of(&id) }).unwrap();
        assert_eq!(client.status(&id, ""), Ok(4));
        client.call::<Empty>("Resume", &ResumeRequest { id: of(&id) }).unwrap();
        assert_eq!(client.status(&id, ""), Ok(2));
        let value = br#"{"pids": {"limit": 77}}"#.to_vec();
        let resources = Some(Any { type_url: "r".into(), value });
        let update = UpdateTaskRequest { id: of(&id), resources, ..Default::default() };
        client.call::<Empty>("Update", &update).unwrap();
        let limit = fs::read_to_string(bed.cgroup_file(&bundle, "pids.max")).unwrap();
        assert_eq!(limit.trim(), "77");
        client.end(&id);
        client.shut_down();
        engine.hears(&["create", "start", "paused", "resumed", "exit", "delete"]);
    });
}

#[test]
fn a_kill_for_want_of_memory_is_told_before_the_end() {
    with_controllers(&["memory"], |bed| {
        if bed.is_peer(OTHERS) {
            return;
        }
        let limit = "/linux/resources/memory/limit";
        // tail(1) keeps all that it has to print.
        let bundle = bed
            .bundle()
            .sh("head -c 100m /dev/zero | tail -c 100m")
            .with("/linux/resources/memory", serde_json::json!({}))
            .with(limit, 16 << 20);
        bundle.save();
        let (engine, id) = (Engine::new(bed), bed.id());
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::default()));
        client.wait(&id, "");
        client.delete(&id, "").unwrap();
        client.shut_down();
        let topics = engine.topics();
        let at = |topic: &str| topics.iter().position(|found| found == topic);
        assert!(at("start") < at("oom") && at("oom").is_some(), "{topics:?}");
        assert!(at("oom") < at("exit"), "{topics:?}");
    });
}

#[test]
fn what_waits_costs_nothing() {
    as_root(|bed| {
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "sleep 100"), bed.id());
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::default()));
        let pid = client.pid();
        let switches = || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
            line.unwrap().to_owned()
        };
        eventually("the answer is out", || engine.topics().len() == 2);
        std::thread::sleep(Duration::from_millis(100));
        let before = switches();
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(switches(), before);
        client.end(&id);
        client.shut_down();
    });
}

#[test]
fn nothing_grows_with_what_was_added() {
    as_root(|bed| {
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "sleep 100"), bed.id());
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::default()));
        let pid = client.pid();
        let state = || {
            let status = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).unwrap();
            let dirty: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
            (dirty, fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
        };
        let mut lives = |count: u32| {
            for _ in 0..count {
                let (exec, output) = (bed.id(), engine.pipe());
                let mut said = reader(&output);
                client.exec(&id, &exec, "echo said", &Io::stdout(&output)).unwrap();
                client.start(&id, &exec).unwrap();
                client.wait(&id, &exec);
                client.delete(&id, &exec).unwrap();
                let mut text = String::new();
                let _ = said.read_to_string(&mut text);
                assert_eq!(text, "said\n");
                fs::remove_file(&output).unwrap();
            }
        };
        lives(20);
        let before = state();
        lives(200);
        let after = state();
        assert_eq!(after.1, before.1, "descriptors");
        assert!(after.0 <= before.0 + 32, "{before:?}, {after:?}");
        client.end(&id);
        client.shut_down();
    });
}

#[test]
fn both_ways_of_asking_for_it_are_answered_as_they_want() {
    as_root(|bed| {
        // Where nothing else is said the sockets are the machine's; so they are hidden.
        let hidden = std::path::Path::new("/run/containerd");
        let is_there = hidden.exists();
        fs::create_dir_all(hidden).unwrap();
        let tmpfs = Some("tmpfs");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(tmpfs, hidden, tmpfs, flags, None::<&str>).unwrap();
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "true"), bed.id());
        for given in [Vec::new(), engine.options().encode_to_vec()] {
            let answer = engine.command(&bundle.path, &id, "start", &given);
            let address = String::from_utf8(answer).unwrap();
            assert!(address.starts_with("unix:///run/containerd/s/"), "{address}");
            assert_eq!(fs::read_to_string(bundle.path.join("address")).unwrap(), address);
            Client::connect(&address).shut_down();
        }
        nix::mount::umount(hidden).unwrap();
        if !is_there {
            let _ = fs::remove_dir(hidden);
        }
        let asked = StateRequest { id, ..Default::default() };
        let mut client = engine.start(&bundle, &asked.id);
        assert_eq!(client.call::<StateResponse>("State", &asked).unwrap_err().code, 5);
        client.shut_down();
    });
}
