//! What other shims had to mend, and what is asked of this one. Which of containerd's issues each
//! test is about stands in the table "Wounds of shims" in integration/README.md.

use std::fs;
use std::time::{Duration, Instant};

use integration::eventually;
use integration::shim::{Client, Engine, Io, NAMESPACE, as_root, bundle, reader, reads};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message as _;
use serde_json::json;
use shim::messages::{
    Any, CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, StartRequest,
    StartResponse, StateRequest, StateResponse, TaskExecStarted, TaskExit, WaitRequest,
    WaitResponse,
};

#[test]
fn who_keeps_an_output_open_holds_up_neither_the_end_of_a_container_nor_others() {
    as_root(|bed| {
        let (engine, other, id) = (Engine::new(bed), bed.id(), bed.id());
        let (stays, ends) = (bundle(bed, "sleep 100"), bundle(bed, "sleep 100"));
        let mut client = engine.start(&stays, &other);
        client.run(&engine.create(&stays, &other, &Io::default()));
        // A child of what was added keeps its stdout.
        let (kept, output) = (engine.pipe(), engine.pipe());
        let mut said = reader(&kept);
        client.exec(&other, "added", "sleep 50 & echo said", &Io::stdout(&kept)).unwrap();
        client.start(&other, "added").unwrap();
        reads(&mut said, "said");
        assert_eq!(client.wait(&other, "added"), 0);
        // Of a container nobody is left; somebody else may have its stdout.
        let pid = client.run(&engine.create(&ends, &id, &Io::stdout(&output)));
        let open = fs::File::options().write(true).open(format!("/proc/{pid}/fd/1")).unwrap();
        client.kill(&id, "", 9).unwrap();
        assert_eq!(client.wait(&id, ""), 137);
        let begun = Instant::now();
        let of_exec = DeleteRequest { id: other.clone(), exec_id: "added".into() };
        let of_exec = client.send("Delete", &of_exec);
        let of_container = DeleteRequest { id: id.clone(), ..Default::default() };
        let mut waits = client.another();
        let of_container = waits.send("Delete", &of_container);
        // The runtime has removed it before anybody is waited for.
        let record = bed.root().join(NAMESPACE).join(&id);
        eventually("it is removed", || !record.exists());
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        let mut third = client.another();
        assert_eq!(third.status(&other, ""), Ok(2));
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        waits.answer::<DeleteResponse>(of_container).unwrap();
        // The CRI's own calls take ten seconds at most, this one among them.
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
        client.answer::<DeleteResponse>(of_exec).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
        drop(open);
        client.end(&other);
        client.shut_down();
    });
}

#[test]
fn what_is_added_while_init_ends_is_told_before_its_end_or_refused() {
    as_root(|bed| {
        let (engine, stays, first) = (Engine::new(bed), bundle(bed, "sleep 100"), bed.id());
        let mut client = engine.start(&stays, &first);
        client.run(&engine.create(&stays, &first, &Io::default()));
        let bundle = bundle(bed, "sleep 100");
        let (mut ran, mut refused) = (0, 0);
        for round in 0..40 {
            let id = bed.id();
            client.run(&engine.create(&bundle, &id, &Io::default()));
            for exec in ["one", "two"] {
                client.exec(&id, exec, "true", &Io::default()).unwrap();
            }
            let start = |exec: &str| StartRequest { id: id.clone(), exec_id: exec.into() };
            let mut killer = client.another();
            let one = client.send("Start", &start("one"));
            std::thread::sleep(Duration::from_micros(100 * round));
            killer.kill(&id, "", 9).unwrap();
            let two = client.send("Start", &start("two"));
            for (exec, stream) in [("one", one), ("two", two)] {
                let started = client.answer::<StartResponse>(stream).is_ok();
                ran += usize::from(started);
                refused += usize::from(!started);
                if started {
                    // Whatever it has ended with: it is told, and before that of init.
                    client.wait(&id, exec);
                }
            }
            client.wait(&id, "");
            client.delete(&id, "").unwrap();
            eventually("it is told", || {
                engine.events::<TaskExit>("exit").iter().any(|exit| exit.id == id)
            });
            let of_this = |exit: &TaskExit| exit.container_id == id;
            let exits: Vec<_> =
                engine.events::<TaskExit>("exit").into_iter().filter(of_this).collect();
            let started = engine.events::<TaskExecStarted>("exec-started");
            let started = started.iter().filter(|started| started.container_id == id).count();
            assert_eq!(exits.len(), started + 1, "{exits:?}");
            assert_eq!(exits.last().map(|exit| &exit.id), Some(&id), "{exits:?}");
        }
        assert!(ran > 0 && refused > 0, "{ran} ran, {refused} were refused");
        client.end(&first);
        client.shut_down();
    });
}

#[test]
fn many_processes_are_added_at_once_and_an_error_is_as_long_as_it_likes() {
    as_root(|bed| {
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "sleep 100"), bed.id());
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::default()));
        let names: Vec<String> = (0..40).map(|number| format!("many{number}")).collect();
        for name in &names {
            client.exec(&id, name, "exit 4", &Io::default()).unwrap();
        }
        let start = |name: &String| StartRequest { id: id.clone(), exec_id: name.clone() };
        let wait = |name: &String| WaitRequest { id: id.clone(), exec_id: name.clone() };
        let started: Vec<_> = names.iter().map(|name| client.send("Start", &start(name))).collect();
        let waits: Vec<_> = names.iter().map(|name| client.send("Wait", &wait(name))).collect();
        for stream in started {
            client.answer::<StartResponse>(stream).unwrap();
        }
        for stream in waits {
            assert_eq!(client.answer::<WaitResponse>(stream).unwrap().exit_status, 4);
        }
        for name in &names {
            client.delete(&id, name).unwrap();
        }
        let process = json!({"args": [format!("/{}", "x".repeat(200 << 10))], "cwd": "/"});
        let value = process.to_string().into_bytes();
        let spec = Any { type_url: "runtime-spec/1/Process".into(), value };
        let asked = Client::exec_request(&id, "long", "", &Io::default());
        let asked = ExecProcessRequest { spec: Some(spec), ..asked };
        client.call::<shim::messages::Empty>("Exec", &asked).unwrap();
        let refused = client.start(&id, "long").unwrap_err();
        assert!(refused.message.contains("args[0]: "), "{:.200}", refused.message);
        client.delete(&id, "long").unwrap();
        client.end(&id);
        client.shut_down();
    });
}

#[test]
fn pods_that_come_and_go_leave_no_program() {
    as_root(|bed| {
        let engine = Engine::new(bed);
        for _ in 0..12 {
            let pod = bed.id();
            let bundles: Vec<_> = (0..2)
                .map(|_| {
                    let annotations = json!({"io.kubernetes.cri.sandbox-id": pod});
                    let bundle = bed.bundle().sh("sleep 100").with("/annotations", annotations);
                    bundle.save();
                    (bed.id(), bundle)
                })
                .collect();
            let mut clients = Vec::new();
            for (id, bundle) in &bundles {
                let mut client = engine.start(bundle, id);
                client.run(&engine.create(bundle, id, &Io::default()));
                client.exec(id, "one", "true", &Io::default()).unwrap();
                client.start(id, "one").unwrap();
                clients.push(client);
            }
            // Not all that was added is deleted, as by who gives up.
            for (client, (id, bundle)) in clients.iter_mut().zip(&bundles) {
                client.end(id);
                engine.delete(bundle, id);
            }
            clients.swap_remove(0).shut_down();
        }
    });
}

#[test]
fn calls_leave_nothing_behind() {
    as_root(|bed| {
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "sleep 100"), bed.id());
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::default()));
        let pid = client.pid();
        let anonymous = || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let mut ask = |times: u32| {
            for _ in 0..times {
                let asked = StateRequest { id: id.clone(), ..Default::default() };
                assert_eq!(client.call::<StateResponse>("State", &asked).unwrap().status, 2);
                // Of a caller that has gone no Wait is left.
                let asked = WaitRequest { id: id.clone(), ..Default::default() };
                if times.is_multiple_of(100) {
                    client.another().is_answered(&request(&asked));
                }
            }
        };
        ask(1000);
        let before = anonymous();
        ask(10_000);
        assert!(anonymous() <= before + 16, "{before} KiB, then {} KiB", anonymous());
        client.end(&id);
        client.shut_down();
    });
}

/// The frame of a Wait, as the first call of a connection.
fn request(asked: &WaitRequest) -> Vec<u8> {
    let request = shim::messages::Request {
        service: "containerd.task.v2.Task".into(),
        method: "Wait".into(),
        payload: asked.encode_to_vec(),
        ..Default::default()
    };
    let kind = shim::frames::Kind::Request;
    shim::frames::encode(1, kind, &request.encode_to_vec()).unwrap()
}

#[test]
fn delete_waits_for_the_program_that_reads_the_output() {
    as_root(|bed| {
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "echo said"), bed.id());
        let mut client = engine.start(&bundle, &id);
        let written = bed.directory.join("written");
        let script = format!(
            "trap '' TERM; exec 5>&-; read line <&3; sleep 1; echo \"$line\" > {}",
            written.display()
        );
        let logger = bed.script("logger", &script);
        let io = Io { stdout: format!("binary://{}", logger.display()), ..Io::default() };
        client.run(&engine.create(&bundle, &id, &io));
        client.wait(&id, "");
        // Nobody else waits with it.
        let asked = DeleteRequest { id: id.clone(), ..Default::default() };
        let deleted = client.send("Delete", &asked);
        assert_eq!(client.another().status(&id, ""), Ok(3));
        assert!(!written.exists());
        client.answer::<DeleteResponse>(deleted).unwrap();
        assert_eq!(fs::read_to_string(&written).unwrap(), "said\n");
        client.shut_down();
    });
}

#[test]
fn who_is_stopped_on_the_way_to_its_program_holds_up_nobody_else() {
    as_root(|bed| {
        let (engine, first, other) = (Engine::new(bed), bundle(bed, "sleep 100"), bed.id());
        let mut client = engine.start(&first, &other);
        let pid = client.run(&engine.create(&first, &other, &Io::default()));
        // In one pid namespace each can stop the other; else somebody outside can.
        let shared = format!("/proc/{pid}/ns/pid");
        let beside = bed.bundle().sh("sleep 100").with_namespace("pid", Some(shared.as_ref()));
        for bundle in [beside, bed.bundle().sh("sleep 100")] {
            bundle.save();
            let id = bed.id();
            let asked = engine.create(&bundle, &id, &Io::default());
            let created = client.call::<CreateTaskResponse>("Create", &asked).unwrap();
            let init = Pid::from_raw(created.pid.cast_signed());
            kill(init, Signal::SIGSTOP).unwrap();
            let asked = StartRequest { id: id.clone(), ..Default::default() };
            let started = client.send("Start", &asked);
            let begun = Instant::now();
            assert_eq!(client.another().status(&other, ""), Ok(2));
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
            kill(init, Signal::SIGCONT).unwrap();
            client.answer::<StartResponse>(started).unwrap();
            client.end(&id);
        }
        client.end(&other);
        client.shut_down();
    });
}

#[test]
fn what_was_added_and_not_deleted_goes_with_its_container() {
    as_root(|bed| {
        let (engine, stays, first) = (Engine::new(bed), bundle(bed, "sleep 100"), bed.id());
        let mut client = engine.start(&stays, &first);
        client.run(&engine.create(&stays, &first, &Io::default()));
        let pid = client.pid();
        let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let before = descriptors();
        let (bundle, id) = (bundle(bed, "sleep 100"), bed.id());
        client.run(&engine.create(&bundle, &id, &Io::default()));
        let (input, output, terminal) = (engine.pipe(), engine.pipe(), engine.pipe());
        let io = Io { stdin: input.display().to_string(), ..Io::stdout(&output) };
        client.exec(&id, "pipes", "sleep 100", &io).unwrap();
        let added = client.start(&id, "pipes").unwrap();
        let io = Io { terminal: true, ..Io::stdout(&terminal) };
        client.exec(&id, "terminal", "sleep 100", &io).unwrap();
        client.start(&id, "terminal").unwrap();
        assert!(descriptors() > before + 6);
        // Somebody else has the output of one, so that Delete waits for its end.
        let open = fs::File::options().write(true).open(format!("/proc/{added}/fd/1")).unwrap();
        client.kill(&id, "pipes", 9).unwrap();
        client.wait(&id, "pipes");
        let asked = DeleteRequest { id: id.clone(), exec_id: "pipes".into() };
        let deleted = client.send("Delete", &asked);
        let begun = Instant::now();
        client.end(&id);
        assert_eq!(client.answer::<DeleteResponse>(deleted).unwrap().exit_status, 137);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        eventually("no descriptor is left", || descriptors() <= before);
        drop(open);
        client.end(&first);
        client.shut_down();
    });
}
