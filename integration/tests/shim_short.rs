//! Where descriptors or memory are short, containerd's shim refuses a call or ends, and nothing is
//! lost; and nothing in it grows with the lives that it has seen.

use std::fs;
use std::time::Duration;

use integration::shim::{Client, Engine, Io, OTHERS, as_root, bundle, is_gone};
use integration::{Bundle, eventually, with_controllers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, prlimit};
use shim::messages::{CreateTaskResponse, Empty};

/// What the private memory of the program may grow by, in KiB.
const GROWTH: u64 = 64;

/// KiB of memory that are the program's own, and how many descriptors it has.
fn size(pid: i32) -> (u64, usize) {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).unwrap();
    let dirty = line.trim().trim_end_matches(" kB").parse().unwrap();
    (dirty, fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
}

/// Sets a limit of the program itself, as a part of what it may be raised to.
fn limit(pid: i32, resource: Resource, most: u64, maximum: Option<u64>) {
    let pid = rustix::process::Pid::from_raw(pid);
    prlimit(pid, resource, Rlimit { current: Some(most), maximum }).expect("prlimit");
}

/// Milliseconds of a processor that the program has had.
fn processor_time(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap() / 1_000_000
}

#[test]
fn where_descriptors_are_short_a_call_fails_and_nothing_else() {
    as_root(|bed| {
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "sleep 100"), bed.id());
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::default()));
        let pid = client.pid();
        let other = self::bundle(bed, "sleep 100");
        let (_, held) = size(pid);
        let maximum = 1024;
        let (mut failures, mut successes) = (0, 0);
        for spare in 0..24 {
            let output = engine.pipe();
            // Numbers are given out from below, so this is how many more it may have.
            limit(pid, Resource::Nofile, held as u64 + spare, Some(maximum));
            let new = bed.id();
            let create = engine.create(&other, &new, &Io::stdout(&output));
            let created = client.call::<CreateTaskResponse>("Create", &create);
            let exec = bed.id();
            client.exec(&id, &exec, "true", &Io::stdout(&output)).unwrap();
            let executed = client.start(&id, &exec);
            // Not one: who comes waits at the socket, and costs nothing there.
            limit(pid, Resource::Nofile, 3, Some(maximum));
            let mut late = client.another();
            let before = processor_time(pid);
            let asked = late.send("Connect", &Empty {});
            if spare == 0 {
                std::thread::sleep(Duration::from_millis(500));
                assert!(processor_time(pid) < before + 100, "it waits busily");
            }
            limit(pid, Resource::Nofile, maximum, Some(maximum));
            late.answer::<Empty>(asked).unwrap();
            drop(late);
            // What was made is as good as any, and of what was not nothing is there.
            match &created {
                Ok(_) => {
                    client.start(&new, "").unwrap();
                    client.end(&new);
                }
                Err(_) => {
                    assert_eq!(client.status(&new, "").unwrap_err().code, 5);
                    client.run(&engine.create(&other, &new, &Io::default()));
                    client.end(&new);
                }
            }
            client.wait(&id, &exec);
            client.delete(&id, &exec).unwrap();
            for failed in [created.is_err(), executed.is_err()] {
                failures += usize::from(failed);
                successes += usize::from(!failed);
            }
            fs::remove_file(&output).unwrap();
        }
        eprintln!("{failures} calls failed, {successes} did not");
        assert!(failures > 4 && successes > 4, "{failures}, {successes}");
        eventually("no descriptor is left", || size(pid).1 == held);
        client.end(&id);
        client.shut_down();
    });
}

#[test]
fn where_memory_is_short_it_ends_at_worst_and_nothing_is_lost() {
    as_root(|bed| {
        let (engine, bundle) = (Engine::new(bed), bundle(bed, "exit 3"));
        let mut ends = 0;
        for spare in [0, 16, 64, 256] {
            let id = bed.id();
            let mut client = engine.start(&bundle, &id);
            client.run(&engine.create(&bundle, &id, &Io::default()));
            assert_eq!(client.wait(&id, ""), 3);
            let pid = client.pid();
            let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
            let pages: u64 = text.split(' ').next().unwrap().parse().unwrap();
            limit(pid, Resource::As, (pages * 4 + spare) << 10, None);
            // A long call is kept until it is there whole.
            let mut other = client.another();
            let mut asked = Client::exec_request(&id, "one", &"x".repeat(1 << 20), &Io::default());
            asked.stdin = "y".repeat(1 << 20);
            let answer = other.attempt::<Empty>("Exec", &asked);
            ends += usize::from(answer.is_none());
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            is_gone(pid);
            assert_eq!(engine.delete(&bundle, &id).exit_status, 3, "{spare} KiB");
            assert!(!client.address.exists());
            engine.forget();
            bed.assert_settles(&format!("{spare} KiB"));
        }
        assert!(ends > 0, "it was never short of memory");
    });
}

#[test]
fn who_is_killed_for_want_of_memory_has_kept_what_it_knew() {
    with_controllers(&["memory"], |bed| {
        if bed.is_peer(OTHERS) {
            return;
        }
        let (engine, bundle, id) = (Engine::new(bed), bundle(bed, "exit 3"), bed.id());
        let mut client = engine.start(&bundle, &id);
        client.run(&engine.create(&bundle, &id, &Io::default()));
        assert_eq!(client.wait(&id, ""), 3);
        let pid = client.pid();
        let name = bed.by_version("memory.limit_in_bytes", "memory.max");
        let file = bed.cgroup_file(&bundle, name);
        let group = file.ancestors().nth(2).unwrap().join("shim");
        fs::create_dir(&group).unwrap();
        fs::write(group.join(name), "1048576").unwrap();
        fs::write(group.join("cgroup.procs"), pid.to_string()).unwrap();
        // A call as long as any may be, which is kept until it is there whole.
        let long = [vec![0, 63, 255, 255, 0, 0, 0, 1, 1, 0], vec![0; 0x3f_ff00]].concat();
        client.another().write(&long);
        is_gone(pid);
        assert_eq!(engine.delete(&bundle, &id).exit_status, 3);
        eventually("its group is empty", || fs::remove_dir(&group).is_ok());
    });
}

/// A life of a process that is added to a container.
fn exec(engine: &Engine<'_>, client: &mut Client, id: &str) {
    let (name, output) = (engine.bed.id(), engine.pipe());
    let reader = integration::shim::reader(&output);
    client.exec(id, &name, "echo said", &Io::stdout(&output)).unwrap();
    client.start(id, &name).unwrap();
    client.wait(id, &name);
    client.delete(id, &name).unwrap();
    drop(reader);
    fs::remove_file(&output).unwrap();
}

/// A life of a container beside one, by a connection of its own.
fn container(engine: &Engine<'_>, client: &mut Client, bundle: &Bundle) {
    let (id, output) = (engine.bed.id(), engine.pipe());
    let reader = integration::shim::reader(&output);
    let mut client = client.another();
    client.run(&engine.create(bundle, &id, &Io::stdout(&output)));
    client.wait(&id, "");
    client.delete(&id, "").unwrap();
    drop(reader);
    fs::remove_file(&output).unwrap();
}

#[track_caller]
fn nothing_grows(execs: usize, containers: usize) {
    as_root(|bed| {
        let (engine, pod, id) = (Engine::new(bed), bundle(bed, "sleep 1000000"), bed.id());
        let short = bundle(bed, "echo said");
        let mut client = engine.start(&pod, &id);
        client.run(&engine.create(&pod, &id, &Io::default()));
        let pid = client.pid();
        for _ in 0..20 {
            exec(&engine, &mut client, &id);
            container(&engine, &mut client, &short);
        }
        let settled = || {
            // It may still be about to close a connection.
            std::thread::sleep(Duration::from_millis(200));
            size(pid)
        };
        let before = settled();
        (0..execs).for_each(|_| exec(&engine, &mut client, &id));
        let between = settled();
        (0..containers).for_each(|_| container(&engine, &mut client, &short));
        let after = settled();
        eprintln!(
            "KiB and descriptors: {before:?}, after {execs} execs {between:?}, after {containers} \
             containers {after:?}"
        );
        for (what, later) in [("execs", between), ("containers", after)] {
            assert_eq!(later.1, before.1, "descriptors after {what}");
            assert!(later.0 <= before.0 + GROWTH, "{what}: {before:?}, {later:?}");
        }
        client.end(&id);
        client.shut_down();
    });
}

#[test]
fn nothing_grows_with_some_lives() {
    nothing_grows(200, 60);
}

#[test]
#[ignore = "takes minutes"]
fn nothing_grows_with_ten_thousand_execs_and_two_thousand_containers() {
    nothing_grows(10_000, 2_000);
}
