//! A hostile process inside of a container: it looks at every process that it sees appear,
//! and says what of the host it finds there.
//!
//!     poller PID UID CAPABILITIES ALLOWED SECRET GROUP [WORD...]
//!
//! It enters the namespaces of PID, becomes UID with CAPABILITIES (a mask, in hexadecimal) and
//! prints `ready`. From then on it prints one line for each thing found in another process's
//! /proc/PID, each once. ALLOWED are the capabilities that a process may have, SECRET is a
//! file of the host, GROUP is in the name of every cgroup that may be seen, and the WORDs may
//! not be in a command line, an environment or a table of mounts. It ends with its stdin, and
//! prints how many processes it has seen: `seen N`.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Gid, Uid, setgroups, setresgid, setresuid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities};

/// What is asked for on the command line.
struct Task {
    capabilities: u64,
    allowed: u64,
    secret: String,
    group: String,
    words: Vec<String>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, pid, uid, capabilities, allowed, secret, group, words @ ..] = arguments.as_slice()
    else {
        panic!("poller PID UID CAPABILITIES ALLOWED SECRET GROUP [WORD...]");
    };
    let mask = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let task = Task {
        capabilities: mask(capabilities),
        allowed: mask(allowed),
        secret: secret.clone(),
        group: group.clone(),
        words: words.to_vec(),
    };
    enter(pid);
    // A pid namespace is entered by children.
    // SAFETY: this program has one thread.
    #[allow(unsafe_code)]
    match unsafe { nix::unistd::fork() }.unwrap() {
        ForkResult::Parent { child } => {
            waitpid(child, None).unwrap();
        }
        ForkResult::Child => {
            become_user(uid.parse().unwrap(), task.capabilities);
            look(&task);
        }
    }
}

/// Enters all namespaces of a process that are not this one's already.
fn enter(pid: &str) {
    let open = |name: &str| {
        let path = format!("/proc/{pid}/ns/{name}");
        let is_other = fs::read_link(&path).unwrap()
            != fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        is_other.then(|| fs::File::open(&path).unwrap())
    };
    let names = ["user", "ipc", "uts", "net", "pid", "cgroup", "mnt"];
    let namespaces: Vec<_> = names.into_iter().filter_map(open).collect();
    for namespace in namespaces {
        setns(namespace, CloneFlags::empty()).unwrap();
    }
    std::env::set_current_dir("/").unwrap();
}

fn become_user(uid: u32, capabilities: u64) {
    set_keep_capabilities(true).unwrap();
    // In a user namespace of an ordinary user nobody may.
    let _ = setgroups(&[]);
    let gid = Gid::from_raw(uid);
    setresgid(gid, gid, gid).unwrap();
    let uid = Uid::from_raw(uid);
    setresuid(uid, uid, uid).unwrap();
    let set = CapabilitySet::from_bits_retain(capabilities);
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: set, permitted: set, inheritable: none })
        .unwrap();
}

fn look(task: &Task) {
    let own = std::process::id().to_string();
    let expected = Expected {
        interfaces: interfaces("self").unwrap(),
        // That of this process is the test's.
        cgroup: fs::read_to_string("/proc/1/cgroup").unwrap(),
    };
    let mut told = BTreeSet::new();
    let mut seen = HashSet::new();
    println!("ready");
    std::io::stdout().flush().unwrap();
    while !stdin_has_ended() {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name == own || !name.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            for finding in findings(&name, task, &expected) {
                if told.insert(finding.clone()) {
                    println!("{finding}");
                }
            }
            seen.insert(name);
        }
    }
    println!("seen {}", seen.len());
}

fn stdin_has_ended() -> bool {
    let stdin = rustix::stdio::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
        && std::io::stdin().read(&mut [0; 1]).unwrap() == 0
}

/// What a process of the container shows.
struct Expected {
    interfaces: BTreeSet<String>,
    cgroup: String,
}

/// What there is of the host in /proc/`pid`. A process may end while it is looked at.
fn findings(pid: &str, task: &Task, expected: &Expected) -> Vec<String> {
    let mut found = Vec::new();
    let process = Path::new("/proc").join(pid);
    let read = |name: &str| fs::read_to_string(process.join(name)).ok();
    // What takes rights first: they may be the program's in a moment.
    for way in ["root", "cwd", "cwd/../../../../../../../.."] {
        let path = process.join(way).join(task.secret.trim_start_matches('/'));
        if fs::symlink_metadata(&path).is_ok() {
            found.push(format!("the host's files by {way}"));
        }
    }
    for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        // Its stdio is the program's.
        let is_stdio = ["0", "1", "2"].iter().any(|number| entry.file_name() == *number);
        let Some(target) = fs::read_link(entry.path()).ok().filter(|_| !is_stdio) else { continue };
        // One that whoever calls the tests has left open is handed on by --preserve-fds.
        if target.is_absolute() && target != Path::new("/dev/null") {
            found.push(format!("a descriptor of {}", target.display()));
        }
    }
    for name in ["cmdline", "environ", "mountinfo"] {
        let text = fs::read(process.join(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        for word in task.words.iter().filter(|word| text.contains(word.as_str())) {
            found.push(format!("{word} in {name}"));
        }
    }
    if interfaces(pid).is_some_and(|found| found != expected.interfaces) {
        found.push("other network interfaces".to_owned());
    }
    let cgroup = read("cgroup").unwrap_or_default();
    for line in cgroup.lines().filter(|_| is_alive(&process)) {
        if !line.contains(&task.group) && !expected.cgroup.lines().any(|own| own == line) {
            found.push(format!("another cgroup: {line}"));
        }
    }
    // The terminal that controls it: the caller's could be written to.
    if terminal(&process).is_some_and(|number| number != 0) {
        found.push("a terminal".to_owned());
    }
    let permitted = read("status").and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:"))?.trim().to_owned();
        u64::from_str_radix(&line, 16).ok()
    });
    // Rights in a user namespace that has no ids are rights over nothing.
    let permitted = permitted.filter(|_| read("uid_map").is_some_and(|map| !map.is_empty()));
    if let Some(more) = permitted.map(|held| held & !task.allowed).filter(|more| *more != 0) {
        found.push(format!("capabilities {more:x}"));
    }
    found
}

/// Whether a process has not begun to end: then it is in no group any more.
fn is_alive(process: &Path) -> bool {
    const PF_EXITING: u64 = 4;
    let stat = fs::read(process.join("stat")).unwrap_or_default();
    let stat = String::from_utf8_lossy(&stat);
    // The flags (proc_pid_stat(5), 9) are the seventh word behind the name.
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse().ok());
    flags.is_some_and(|flags: u64| flags & PF_EXITING == 0)
}

/// The number of the device of its controlling terminal (proc_pid_stat(5), 7), 0 for none.
fn terminal(process: &Path) -> Option<u64> {
    let stat = fs::read(process.join("stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat).into_owned();
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(4)?.parse().ok()
}

/// The names of the interfaces in a process's network namespace; None where it is gone.
fn interfaces(pid: &str) -> Option<BTreeSet<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    let names: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim().to_owned())
        .collect();
    (!names.is_empty()).then_some(names)
}
