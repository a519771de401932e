//! A program that embeds ferrun and stays: many lives of containers in one process, after which
//! it is what it was before. Whatever differs is printed, and the exit code is 1.
//!
//!     embedder PROGRAM ROOT LIVES PROCESS BUNDLE...
//!
//! PROCESS is the file that `exec` gets.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferrun::{Create, Error, Exec, Kind, Made, Runtime, Status};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitId, WaitIdOptions, waitid};

/// How much memory of its own the process may have more at the end, in KiB.
const GROWTH: u64 = 64;
/// What is made once and kept is there after so many.
const FIRST: usize = 16;

/// Whether the lives are over.
static IS_OVER: AtomicBool = AtomicBool::new(false);
/// Held by the thread that looks, while it has files open: the facts tell of descriptors too.
static LOOKING: Mutex<()> = Mutex::new(());

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [program, root, lives, process, bundles @ ..] = words.as_slice() else {
        panic!("{words:?}")
    };
    // As containerd's shims are: the processes of containers become children of this one.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("prctl");
    let warnings = Arc::new(Mutex::new(BTreeMap::<String, u32>::new()));
    let heard = Arc::clone(&warnings);
    let warned =
        move |line: &str| *heard.lock().expect("a lock").entry(line.into()).or_default() += 1;
    let runtime = Runtime::new(program, root).expect("a runtime").with_log(warned);
    let bundles: Vec<PathBuf> = bundles.iter().map(PathBuf::from).collect();
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    let lives: usize = lives.parse().expect("a number");
    let mut before = None;
    let other = std::thread::spawn(watch);
    for number in 0..lives + FIRST {
        if number == FIRST {
            before = Some((facts(), private_memory()));
        }
        let bundle = &bundles[number % bundles.len()];
        let end = match live(&runtime, Path::new(process), bundle, number) {
            Ok(()) => "whole".to_owned(),
            Err((step, error)) => {
                format!("{step}: {:?}, {error}", error.kind())
            }
        };
        let name = bundle.file_name().unwrap_or_default().to_string_lossy();
        *ends.entry(format!("{name}: {end}")).or_default() += 1;
        let left = runtime.list().expect("a list");
        assert!(left.is_empty(), "{left:?} after {end}");
    }
    let (before, memory) = before.expect("enough lives");
    let mut is_same = true;
    for (name, now) in facts() {
        let then = before.get(&name);
        if then != Some(&now) {
            println!("{name}: {then:?}, now {now:?}");
            is_same = false;
        }
    }
    let grown = private_memory().saturating_sub(memory);
    if grown > GROWTH {
        println!("private memory: {grown} KiB more than {memory}");
        is_same = false;
    }
    IS_OVER.store(true, Ordering::Relaxed);
    other.join().expect("the other thread");
    for (end, times) in ends {
        println!("{times} {end}");
    }
    for (line, times) in warnings.lock().expect("a lock").iter() {
        println!("warned {times} times: {line}");
    }
    std::process::exit(i32::from(!is_same));
}

/// The life of a container, to its end or to the step that fails.
fn live(
    runtime: &Runtime,
    process: &Path,
    bundle: &Path,
    number: usize,
) -> Result<(), (&'static str, Error)> {
    let id = format!("life-{number}");
    let lived = live_through(runtime, process, bundle, &id, number);
    match lived {
        Ok(()) => at("delete", runtime.delete(&id, false)),
        // What has failed may have left nothing, and then there is nothing to delete.
        Err(failed) => {
            at("delete --force", runtime.delete(&id, true))?;
            Err(failed)
        }
    }
}

fn live_through(
    runtime: &Runtime,
    process: &Path,
    bundle: &Path,
    id: &str,
    number: usize,
) -> Result<(), (&'static str, Error)> {
    let mut work = at("create", runtime.create(id, Create::bundle(bundle)))?;
    let made = loop {
        match at("create", work.step())? {
            Some(made) => break made,
            None => drop(poll(&mut [PollFd::new(&work, PollFlags::IN)], None)),
        }
    };
    let again = runtime.create(id, Create::bundle(bundle)).and_then(ferrun::Work::wait);
    assert_eq!(again.err().map(|error| error.kind()), Some(Kind::Exists));
    if number.is_multiple_of(2) {
        at("start", runtime.start(id))?;
    } else {
        let mut starting = at("start", runtime.starting(id))?;
        while at("start", starting.step())?.is_none() {
            poll(&mut [PollFd::new(&starting, PollFlags::IN)], None).expect("poll");
        }
    }
    let refused = runtime.start(id).err().map(|error| error.kind());
    assert_eq!(refused, Some(Kind::WrongState));
    let process = process.to_owned();
    let added = at("exec", runtime.exec(id, Exec { process, ..Exec::default() }))?;
    let added = at("exec", added.wait())?;
    reap(&added);
    let running = at("state", runtime.state(id))?;
    assert_eq!(running.status, Status::Running);
    assert_eq!(running.init.map(|init| init.pid), Some(made.pid));
    at("processes", runtime.processes(id))?;
    assert!(at("init", runtime.open_init(id))?.is_some());
    at("stats", runtime.stats(id))?;
    at("pause", runtime.pause(id))?;
    assert_eq!(at("state", runtime.state(id))?.status, Status::Paused);
    at("resume", runtime.resume(id))?;
    at("update", runtime.update(id, serde_json::json!({})))?;
    at("kill", runtime.kill(id, 9))?;
    poll(&mut [PollFd::new(&made.pidfd, PollFlags::IN)], None).expect("poll");
    assert_eq!(at("state", runtime.state(id))?.status, Status::Stopped);
    reap(&made);
    assert!(at("init", runtime.open_init(id))?.is_none());
    assert_eq!(at("state", runtime.state(id))?.status, Status::Stopped);
    Ok(())
}

/// Waits for the end of a process. Until somebody has, its pid namespace stays.
fn reap(made: &Made) {
    waitid(WaitId::PidFd(made.pidfd.as_fd()), WaitIdOptions::EXITED).expect("waitid");
}

fn at<T>(step: &'static str, result: Result<T, Error>) -> Result<T, (&'static str, Error)> {
    result.map_err(|error| (step, error))
}

/// What another thread sees of the process, again and again: it never changes.
fn watch() {
    let seen = || {
        let _alone = LOOKING.lock().expect("a lock");
        let status = fs::read_to_string("/proc/self/status").expect("status");
        let umask = status.lines().find(|line| line.starts_with("Umask:")).map(str::to_owned);
        let directory = std::env::current_dir().ok();
        let dumpable = rustix::process::dumpable_behavior().ok();
        let link = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).ok();
        (umask, directory, dumpable, ["mnt", "net", "user", "uts"].map(link))
    };
    let before = seen();
    while !IS_OVER.load(Ordering::Relaxed) {
        assert_eq!(seen(), before);
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// What the process is, by name.
fn facts() -> BTreeMap<String, String> {
    let _alone = LOOKING.lock().expect("a lock");
    // What a container that has failed leaves behind becomes a child of this one.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    while let Ok(Some(_)) = waitid(WaitId::All, options) {}
    let mut facts = BTreeMap::new();
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    for line in read("/proc/self/status").lines() {
        let (name, value) = line.split_once(':').unwrap_or_default();
        // Of memory, of the machine's own signals, of switches.
        let counted = ["Vm", "Rss", "Hugetlb", "SigQ", "voluntary_", "nonvoluntary_"];
        if !counted.iter().any(|start| name.starts_with(start)) {
            facts.insert(name.to_owned(), value.trim().to_owned());
        }
    }
    let links = |directory: &str| -> Vec<(String, String)> {
        let entries = fs::read_dir(directory).expect(directory).map(|entry| entry.expect("entry"));
        let link = |path: &Path| fs::read_link(path).unwrap_or_default().display().to_string();
        let named = entries
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), link(&entry.path())));
        // That of the listing itself is closed again.
        named.filter(|(_, target)| !target.is_empty() && !target.contains("/fd")).collect()
    };
    for directory in ["/proc/self/ns", "/proc/self/fd"] {
        for (name, target) in links(directory) {
            facts.insert(format!("{directory}/{name}"), target);
        }
    }
    let pid = std::process::id();
    facts.insert("children".into(), read(&format!("/proc/self/task/{pid}/children")));
    facts.insert("oom_score_adj".into(), read("/proc/self/oom_score_adj"));
    facts.insert("cgroup".into(), read("/proc/self/cgroup"));
    facts.insert("mounts".into(), read("/proc/self/mountinfo"));
    let dumpable = rustix::process::dumpable_behavior();
    facts.insert("dumpable".into(), format!("{dumpable:?}"));
    facts.insert("directory".into(), format!("{:?}", std::env::current_dir()));
    facts
}

/// Memory that only this process has, in KiB.
fn private_memory() -> u64 {
    let text = fs::read_to_string("/proc/self/smaps_rollup").expect("smaps_rollup");
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    field("Private_Dirty:")
}
