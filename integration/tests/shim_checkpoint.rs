//! Images of containers by containerd's shim, and containers of images.
//!
//! Those need a CRIU that works on this kernel; where there is none, that is printed.
//!
//! | what may go wrong | here |
//! |---|---|
//! | the order of events, the pid, the exit code, what it prints | `a_container_goes_on_with_the_streams_of_who_restores` |
//! | who is to run on does not, or stands still | `a_container_runs_on_as_it_was_unless_it_is_to_end` |
//! | a terminal, and its size | `a_terminal_is_the_shims` |
//! | the reason gets lost; something is left | `why_it_fails_is_said_in_the_words_of_criu` |
//! | an option is passed over | `what_is_asked_for_is_done_or_refused` |
//! | the program is killed meanwhile | `a_program_that_is_killed_over_an_image_leaves_nothing` |

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use integration::criu::{self, Checkpoints};
use integration::shim::{
    Client, Engine, Io, NAMESPACE, OTHERS, bundle, is_gone, reader, reads, writer,
};
use integration::{Bed, Bundle, as_root, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shim::messages::{
    Any, CheckpointOptions, CheckpointTaskRequest, CreateTaskRequest, CreateTaskResponse, Empty,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, StartRequest,
    TaskCreate, TaskExit, TaskStart,
};

/// Counts on stdout.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done";

/// An engine whose shim finds CRIU. None: there is none, which is printed.
fn engine(bed: &Bed) -> Option<(Engine<'_>, Checkpoints<'_>)> {
    if bed.is_peer(OTHERS) {
        return None;
    }
    let path = criu::path(bed)?;
    Some((Engine::new(bed).with_path(&path), Checkpoints::on(bed)?))
}

fn request(id: &str, image: &Path, options: CheckpointOptions) -> CheckpointTaskRequest {
    let options = Some(Any::of("containerd.runc.v1.CheckpointOptions", &options));
    CheckpointTaskRequest { id: id.into(), path: image.display().to_string(), options }
}

fn dump(client: &mut Client, request: &CheckpointTaskRequest) -> Result<Empty, String> {
    client.call("Checkpoint", request).map_err(|refused| refused.message)
}

/// A dump that ends the container.
fn last() -> CheckpointOptions {
    CheckpointOptions { exit: true, ..Default::default() }
}

/// What a container of an image is created with.
fn of_image(
    engine: &Engine<'_>,
    bundle: &Bundle,
    id: &str,
    image: &Path,
    io: &Io,
) -> CreateTaskRequest {
    let checkpoint = image.display().to_string();
    CreateTaskRequest { checkpoint, ..engine.create(bundle, id, io) }
}

/// The numbers of whole lines that a pipe has held by now.
fn lines(pipe: &mut File) -> Vec<u64> {
    let mut text = Vec::new();
    let _ = pipe.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.filter_map(|line| line.trim().strip_prefix("line ")?.parse().ok()).collect()
}

/// Waits until a pipe has something new.
#[track_caller]
fn goes_on(pipe: &mut File) {
    lines(pipe);
    eventually("it counts on", || !lines(pipe).is_empty());
}

#[test]
fn a_container_goes_on_with_the_streams_of_who_restores() {
    as_root(|bed| {
        let Some((engine, criu)) = engine(bed) else { return };
        let bundle = bundle(bed, COUNTER);
        let (first, second, image) = (bed.id(), bed.id(), criu.image());
        let pipe = engine.pipe();
        let mut said = reader(&pipe);
        let mut client = engine.start(&bundle, &first);
        client.run(&engine.create(&bundle, &first, &Io::stdout(&pipe)));
        reads(&mut said, "line 3\n");
        dump(&mut client, &request(&first, &image, last())).unwrap();
        assert_eq!(client.wait(&first, ""), 128 + 9);
        assert_eq!(client.delete(&first, "").unwrap().exit_status, 128 + 9);
        let stood = lines(&mut said).last().copied().unwrap_or(3);

        let pipe = engine.pipe();
        let mut said = reader(&pipe);
        let create = of_image(&engine, &bundle, &second, &image, &Io::stdout(&pipe));
        // It is there once it is started, as with containerd's own shim.
        assert_eq!(client.call::<CreateTaskResponse>("Create", &create).unwrap().pid, 0);
        assert_eq!(client.status(&second, ""), Ok(1));
        assert!(!bed.root().join(NAMESPACE).join(&second).exists());
        let pid = client.start(&second, "").unwrap();
        assert_eq!(client.status(&second, ""), Ok(2));
        let asked = PidsRequest { id: second.clone() };
        let pids = client.call::<PidsResponse>("Pids", &asked).unwrap();
        assert!(pids.processes.iter().any(|process| process.pid == pid), "{pids:?}");
        let mut went = Vec::new();
        eventually("it goes on", || {
            went.extend(lines(&mut said));
            went.len() > 3
        });
        assert_eq!(went[..3], [stood + 1, stood + 2, stood + 3]);
        let log = fs::metadata(bundle.path.join("criu-work/restore.log"));
        assert!(log.is_ok(), "{log:?}");
        client.kill(&second, "", 9).unwrap();
        assert_eq!(client.wait(&second, ""), 128 + 9);
        client.delete(&second, "").unwrap();
        client.shut_down();
        let life = ["create", "start", "exit", "delete"];
        engine.hears(&[life, life].concat());
        let [_, created] = &engine.events::<TaskCreate>("create")[..] else { panic!("two") };
        assert_eq!((created.pid, created.checkpoint.as_str()), (0, image.to_str().unwrap()));
        assert_eq!(engine.events::<TaskStart>("start")[1].pid, pid);
        assert_eq!(engine.events::<TaskExit>("exit")[1].pid, pid);
        assert_eq!(engine.delete(&bundle, &second).pid, pid);
    });
}

#[test]
fn a_container_runs_on_as_it_was_unless_it_is_to_end() {
    as_root(|bed| {
        let Some((engine, criu)) = engine(bed) else { return };
        let (bundle, id) = (bundle(bed, COUNTER), bed.id());
        let pipe = engine.pipe();
        let mut said = reader(&pipe);
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::stdout(&pipe)));
        goes_on(&mut said);
        // Where nothing is said, as a pod asks for it.
        let image = criu.image();
        let path = image.display().to_string();
        let asked = CheckpointTaskRequest { id: id.clone(), path, options: None };
        dump(&mut client, &asked).unwrap();
        goes_on(&mut said);
        // As `ctr` asks for it.
        client.call::<Empty>("Pause", &PauseRequest { id: id.clone() }).unwrap();
        let paused = criu.image();
        let asked = request(&id, &paused, CheckpointOptions::default());
        dump(&mut client, &asked).unwrap();
        assert_eq!(client.status(&id, ""), Ok(4));
        client.call::<Empty>("Resume", &ResumeRequest { id: id.clone() }).unwrap();
        goes_on(&mut said);
        client.end(&id);
        for image in [image, paused] {
            let pipe = engine.pipe();
            let mut said = reader(&pipe);
            let create = of_image(&engine, &bundle, &id, &image, &Io::stdout(&pipe));
            client.run(&create);
            goes_on(&mut said);
            client.end(&id);
        }
        client.shut_down();
    });
}

#[test]
fn a_terminal_is_the_shims() {
    as_root(|bed| {
        let Some((engine, criu)) = engine(bed) else { return };
        let script = "while read line; do echo got $line; stty size; done";
        let (bundle, id, image) = (bundle_with_terminal(bed, script), bed.id(), criu.image());
        let io = || {
            let (input, output) = (engine.pipe(), engine.pipe());
            let [stdin, stdout] = [&input, &output].map(|path| path.display().to_string());
            let io = Io { stdin, stdout, terminal: true, ..Io::default() };
            (io, reader(&output), input)
        };
        let mut client = engine.start(&bundle, &id);
        let (names, mut said, input) = io();
        client.run(&engine.create(&bundle, &id, &names));
        writer(&input).write_all(b"one\n").unwrap();
        reads(&mut said, "got one");
        dump(&mut client, &request(&id, &image, last())).unwrap();
        client.wait(&id, "");
        client.delete(&id, "").unwrap();
        let (names, mut said, input) = io();
        client.run(&of_image(&engine, &bundle, &id, &image, &names));
        let resize =
            ResizePtyRequest { id: id.clone(), width: 70, height: 50, ..Default::default() };
        client.call::<Empty>("ResizePty", &resize).unwrap();
        writer(&input).write_all(b"two\n").unwrap();
        reads(&mut said, "got two\r\n50 70");
        client.end(&id);
        client.shut_down();
    });
}

fn bundle_with_terminal(bed: &Bed, script: &str) -> Bundle {
    let bundle = bed.bundle().with("/process/terminal", true).sh(script);
    bundle.save();
    bundle
}

#[test]
fn why_it_fails_is_said_in_the_words_of_criu() {
    as_root(|bed| {
        let Some((engine, criu)) = engine(bed) else { return };
        // A file that is deleted and too large for an image, until a second one is there.
        let script = format!(
            "exec 3> /tmp/ghost; head -c 2000000 /dev/zero >&3; rm /tmp/ghost; echo ready; \
             until test -e /tmp/smaller; do sleep 0.02; done; exec 3>&-; {COUNTER}"
        );
        let bundle = bed.bundle().with("/root/readonly", false).sh(&script);
        bundle.save();
        let (id, image) = (bed.id(), criu.image());
        let pipe = engine.pipe();
        let mut said = reader(&pipe);
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::stdout(&pipe)));
        reads(&mut said, "ready");
        let asked = request(&id, &image, last());
        let refused = dump(&mut client, &asked).unwrap_err();
        assert!(refused.starts_with("OCI runtime checkpoint failed: "), "{refused}");
        assert!(refused.contains("Can't dump ghost file"), "{refused}");
        assert!(bundle.path.join("criu-work/dump.log").exists());
        assert_eq!(client.status(&id, ""), Ok(2));
        bundle.write("/tmp/smaller", "");
        reads(&mut said, "line 3\n");
        dump(&mut client, &asked).unwrap();
        client.wait(&id, "");
        client.delete(&id, "").unwrap();
        // An image that is cut off.
        let path = image.join("mm-1.img");
        let kept = fs::read(&path).unwrap();
        fs::write(&path, &kept[..20]).unwrap();
        let pipe = engine.pipe();
        let mut said = reader(&pipe);
        let create = of_image(&engine, &bundle, &id, &image, &Io::stdout(&pipe));
        client.call::<CreateTaskResponse>("Create", &create).unwrap();
        let refused = client.start(&id, "").unwrap_err().message;
        assert!(refused.starts_with("OCI runtime restore failed: "), "{refused}");
        assert!(refused.contains("criu has failed to restore the container: "), "{refused}");
        assert!(refused.contains("Restoring FAILED"), "{refused}");
        // It is as before, and may be tried again, or deleted.
        assert_eq!(client.status(&id, ""), Ok(1));
        assert!(!bed.root().join(NAMESPACE).join(&id).exists());
        fs::write(&path, kept).unwrap();
        client.start(&id, "").unwrap();
        goes_on(&mut said);
        client.end(&id);
        client.call::<CreateTaskResponse>("Create", &create).unwrap();
        client.delete(&id, "").unwrap();
        client.shut_down();
        let life = ["create", "start", "exit", "delete"];
        engine.hears(&[&life[..], &life, &["create", "delete"]].concat());
    });
}

#[test]
fn what_is_asked_for_is_done_or_refused() {
    as_root(|bed| {
        let Some((engine, criu)) = engine(bed) else { return };
        let (bundle, id, image) = (bundle(bed, COUNTER), bed.id(), criu.image());
        let mut client = engine.start(&bundle, &id);
        client
            .call::<CreateTaskResponse>("Create", &engine.create(&bundle, &id, &Io::default()))
            .unwrap();
        let refused = dump(&mut client, &request(&id, &image, last())).unwrap_err();
        assert!(refused.contains("is not running"), "{refused}");
        client.start(&id, "").unwrap();
        for (options, reason) in [
            (CheckpointOptions { cgroups_mode: "all".into(), ..last() }, "CgroupsMode: \"all\""),
            (
                CheckpointOptions { parent_path: "/x".into(), ..last() },
                "--parent-path: \"/x\": must be relative",
            ),
            (
                CheckpointOptions { empty_namespaces: vec!["pid".into()], ..last() },
                "EmptyNamespaces: \"pid\"",
            ),
        ] {
            let refused = dump(&mut client, &request(&id, &image, options)).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
        assert!(!image.exists());
        // All that there is, and another place for the log.
        let work = image.with_file_name("work");
        let all = CheckpointOptions {
            open_tcp: true,
            external_unix_sockets: true,
            file_locks: true,
            empty_namespaces: vec!["network".into()],
            cgroups_mode: "ignore".into(),
            work_path: work.display().to_string(),
            ..last()
        };
        dump(&mut client, &request(&id, &image, all)).unwrap();
        assert!(work.join("dump.log").exists() && !image.join("dump.log").exists());
        client.wait(&id, "");
        client.delete(&id, "").unwrap();
        let create = of_image(&engine, &bundle, &id, &image, &Io::default());
        let create = CreateTaskRequest { parent_checkpoint: "/x".into(), ..create };
        let refused = client.call::<CreateTaskResponse>("Create", &create).unwrap_err();
        assert!(refused.message.contains("parent_checkpoint"), "{refused:?}");
        client.shut_down();
    });
}

#[test]
fn without_criu_it_is_named() {
    as_root(|bed| {
        if bed.is_peer(OTHERS) {
            return;
        }
        let engine = Engine::new(bed).with_path("/nowhere");
        let (bundle, id) = (bundle(bed, COUNTER), bed.id());
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::default()));
        let image = bed.make_directory("images", 0o700).join("image");
        let refused =
            client.call::<Empty>("Checkpoint", &request(&id, &image, last())).unwrap_err();
        // Not the code on which containerd would ask an older service.
        assert_eq!(refused.code, 9, "{refused:?}");
        assert!(refused.message.contains("CRIU is not installed"), "{refused:?}");
        assert_eq!(client.status(&id, ""), Ok(2));
        client.end(&id);
        client.shut_down();
    });
}

#[test]
fn a_program_that_is_killed_over_an_image_leaves_nothing() {
    as_root(|bed| {
        let Some((engine, criu)) = engine(bed) else { return };
        let (bundle, id, image) = (bundle(bed, COUNTER), bed.id(), criu.image());
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::default()));
        dump(&mut client, &request(&id, &image, last())).unwrap();
        client.end(&id);
        client.shut_down();
        for at in 0..8 {
            let id = bed.id();
            let mut client = engine.start(&bundle, &id);
            let create = of_image(&engine, &bundle, &id, &image, &Io::default());
            client.call::<CreateTaskResponse>("Create", &create).unwrap();
            let pid = client.pid();
            client.send("Start", &StartRequest { id: id.clone(), exec_id: String::new() });
            std::thread::sleep(Duration::from_millis(30 * at));
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            is_gone(pid);
            engine.delete(&bundle, &id);
            assert!(!bed.root().join(NAMESPACE).join(&id).exists());
        }
    });
}
