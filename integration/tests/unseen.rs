//! What a hostile process inside sees of the runtime at work: nothing of the host's files,
//! mounts, network, descriptors and cgroups, of the caller's environment and command line, and
//! no capability that the program does not get.
//!
//! Every place at which a process of the runtime comes into a pid namespace that others may
//! be in, and the test that looks at it:
//!
//! | place | others there | test |
//! |---|---|---|
//! | `exec`: the process in between makes the program (`spawn::emerge`) | the container's processes | `exec_*` |
//! | `create`, `run` into a joined pid namespace (`spawn::emerge`) | a neighbour | `a_neighbour_*` |
//! | the context of a procfs for a joined pid namespace (`apply/procfs.rs`) | a neighbour | `a_neighbour_*` |
//! | `create`, `run` into a new pid namespace (`spawn::spawn`) | nobody; its ancestors' processes, as below | |
//! | `create`, `run`, `exec` in the caller's pid namespace, and every creator | all processes of the caller's pid namespace | `whoever_owns_*` |
//! | the user namespace of an id-mapped mount (`apply/namespaces.rs`) | likewise; it has no namespace but that one | |
//! | createContainer hooks of a container in a joined pid namespace | a neighbour | none: the specification wants them there (SECURITY.md) |

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use integration::terminal::Terminal;
use integration::{Bed, Bundle, Container, Holder, as_root, as_user, in_views};
use nix::mount::{MsFlags, mount, umount};
use serde_json::json;

/// How often a test calls the runtime, and in the long series.
const ROUNDS: usize = 30;
const MANY_ROUNDS: usize = 1000;

const CAP_KILL: u64 = 1 << 5;
const CAP_NET_BIND_SERVICE: u64 = 1 << 10;
const CAP_SYS_PTRACE: u64 = 1 << 19;
const CAP_AUDIT_WRITE: u64 = 1 << 29;
/// What the programs of these tests have, one with CAP_SYS_PTRACE among them.
const ALLOWED: u64 = CAP_KILL | CAP_NET_BIND_SERVICE | CAP_AUDIT_WRITE | CAP_SYS_PTRACE;

/// What the caller's command line, environment and table of mounts have in them.
const ON_THE_COMMAND_LINE: &str = "a-word-of-the-command-line";
const IN_THE_ENVIRONMENT: &str = "a-word-of-the-environment";
const A_MOUNT_OF_THE_HOST: &str = "a-mount-of-the-host";

/// User and capabilities of a hostile process.
const HOSTILE: [(u32, u64); 3] = [(0, CAP_SYS_PTRACE), (0, 0), (1000, 0)];

/// A hostile process inside of a container.
struct Poller {
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Poller {
    fn start(bed: &Bed, pid: i32, (uid, capabilities): (u32, u64)) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_poller"))
            .args([pid.to_string(), uid.to_string()])
            .args([capabilities, ALLOWED].map(|mask| format!("{mask:x}")))
            .arg(secret(bed))
            .arg(&bed.name)
            .args([ON_THE_COMMAND_LINE, IN_THE_ENVIRONMENT, A_MOUNT_OF_THE_HOST])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { process, lines }
    }

    /// Ends it. Returns what it found, and how many processes it has seen.
    fn end(mut self) -> (Vec<String>, usize) {
        drop(self.process.stdin.take());
        let mut found: Vec<String> = self.lines.lines().map(Result::unwrap).collect();
        assert!(self.process.wait().unwrap().success());
        let seen = found.pop().unwrap().strip_prefix("seen ").unwrap().parse().unwrap();
        (found, seen)
    }
}

/// A file of the host that nothing inside may reach.
fn secret(bed: &Bed) -> PathBuf {
    bed.directory.join("secret")
}

/// Why a user who runs the tests looks for nothing.
const NOT_ROOT: &str = "the mount that is looked for needs root";

/// A mount that is looked for, in this thread's own mount namespace, which is the runtime's.
struct HostsMount(PathBuf);

impl Drop for HostsMount {
    fn drop(&mut self) {
        umount(&self.0).unwrap();
    }
}

/// Makes what is looked for.
fn prepare(bed: &Bed) -> HostsMount {
    fs::write(secret(bed), "SECRET\n").unwrap();
    let place = bed.make_directory("mounted", 0o755);
    mount(Some(A_MOUNT_OF_THE_HOST), &place, Some("tmpfs"), MsFlags::empty(), None::<&str>)
        .unwrap();
    HostsMount(place)
}

/// How often the rounds are repeated until enough processes were seen.
const BATCHES: usize = 5;

/// Runs `call` again and again beside hostile processes in the container, and asserts that
/// they find nothing, though they have seen the processes that came.
#[track_caller]
fn assert_unseen(bed: &Bed, container: &Container<'_>, rounds: usize, what: &str, call: impl Fn()) {
    for hostile in HOSTILE {
        if hostile.0 != 0 && bed.is_rootless() {
            // There is no such id in a user namespace of one id.
            continue;
        }
        let mut seen = 0;
        // On a busy machine the hostile one has no processor for most of the time.
        for _ in 0..BATCHES {
            let poller = Poller::start(bed, container.pid(), hostile);
            for _ in 0..rounds {
                call();
            }
            let (found, more) = poller.end();
            assert!(
                found.is_empty(),
                "{what}, seen by uid {} with {:x}: {found:#?}",
                hostile.0,
                hostile.1
            );
            seen += more;
            if seen > rounds / 4 {
                break;
            }
        }
        assert!(seen > rounds / 4, "{what}: {seen} processes were seen, by {rounds} in a batch");
    }
}

/// A container that others are put beside: its program sleeps.
fn sleeping(bed: &Bed) -> Bundle {
    bed.bundle().capable(&["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]).sh("sleep 1000")
}

/// A filter as engines give it, which lets the runtime's last calls through, with
/// CAP_SYS_ADMIN needed to load it.
fn filtered(bundle: Bundle) -> Bundle {
    bundle.with("/process/noNewPrivileges", false).with(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["ptrace", "swapon"], "action": "SCMP_ACT_ERRNO"}]}),
    )
}

/// Calls `exec` in a container beside hostile processes in it.
#[track_caller]
fn exec_unseen(bed: &Bed, bundle: &Bundle, rounds: usize, what: &str) {
    if bed.is_peer("the command lines and capabilities of runc and crun can be seen") {
        return;
    }
    let _hosts = prepare(bed);
    let container = bed.start(bundle);
    let pid_file = bed.make_directory("pids", 0o777).join(ON_THE_COMMAND_LINE);
    assert_unseen(bed, &container, rounds, what, || {
        // More descriptors than the caller has, and a terminal that the program does not get.
        let options = ["--pid-file", pid_file.to_str().unwrap(), "--preserve-fds", "20"];
        let call = container.exec_call(&options, &["/bin/busybox", "usleep", "500"]);
        let (_master, terminal) = Terminal::open();
        call.env("A", IN_THE_ENVIRONMENT).on_terminal(&terminal).output().success();
    });
}

#[test]
fn exec_as_root() {
    in_views(|bed| exec_unseen(bed, &sleeping(bed), ROUNDS, "exec"));
}

#[test]
fn exec_with_a_filter_that_takes_rights_to_load() {
    in_views(|bed| exec_unseen(bed, &filtered(sleeping(bed)), ROUNDS, "exec under a filter"));
}

#[test]
fn exec_in_a_user_namespace() {
    in_views(|bed| {
        let bundle = sleeping(bed).in_user_namespace(65_536);
        exec_unseen(bed, &bundle, ROUNDS, "exec in a user namespace");
    });
}

#[test]
fn exec_with_other_clocks() {
    in_views(|bed| exec_unseen(bed, &with_clocks(sleeping(bed)), ROUNDS, "exec with other clocks"));
}

#[test]
fn exec_of_an_ordinary_user() {
    as_user(|bed| {
        if bed.user().is_none() {
            return bed.skip(NOT_ROOT);
        }
        exec_unseen(bed, &sleeping(bed), ROUNDS, "exec of an ordinary user");
    });
}

/// Root in a user namespace of the caller, whose container has none of its own.
#[test]
fn exec_in_a_user_namespace_of_the_caller() {
    as_root(|bed| {
        if bed.is_peer("the command lines and capabilities of runc and crun can be seen") {
            return;
        }
        let _hosts = prepare(bed);
        let holder = Holder::new(&["--user", "--map-root-user"]);
        let ferrun = || {
            let enter = ["--user", "--preserve-credentials", "--target", &holder.pid];
            let call = bed.program("/usr/bin/nsenter".as_ref()).args(enter);
            call.arg(&integration::runtime().program).arg("--root").arg(bed.root())
        };
        let bundle = sleeping(bed).without("/linux/cgroupsPath");
        let id = bed.id();
        let create = ferrun().arg("create").arg("--bundle").arg(&bundle.save().path).arg(&id);
        let container = Container::create(bed, &id, create);
        ferrun().args(["start", &id]).output().success();
        let pid_file = bed.make_directory("pids", 0o777).join(ON_THE_COMMAND_LINE);
        for hostile in &HOSTILE[..2] {
            let poller = Poller::start(bed, container.pid(), *hostile);
            for _ in 0..ROUNDS {
                let exec = ferrun().args(["exec", "--pid-file"]).arg(&pid_file).arg(&id);
                let exec = exec.args(["/bin/busybox", "usleep", "500"]);
                exec.env("A", IN_THE_ENVIRONMENT).output().success();
            }
            let (found, seen) = poller.end();
            assert!(found.is_empty(), "seen by uid 0 with {:x}: {found:#?}", hostile.1);
            assert!(seen > ROUNDS / 4, "of {ROUNDS} processes {seen} were seen");
        }
    });
}

#[test]
#[ignore = "takes minutes"]
fn exec_a_thousand_times() {
    in_views(|bed| exec_unseen(bed, &filtered(sleeping(bed)), MANY_ROUNDS, "exec"));
}

fn with_clocks(bundle: Bundle) -> Bundle {
    bundle
        .with_namespace("time", None)
        .with("/linux/timeOffsets", json!({"boottime": {"secs": 1000, "nanosecs": 0}}))
}

/// Makes containers in the pid namespace of another one, beside hostile processes in it.
#[track_caller]
fn neighbour_unseen(bed: &Bed, change: impl Fn(Bundle) -> Bundle, rounds: usize, what: &str) {
    if bed.is_peer("runc and crun prepare a container in the pid namespace that it joins") {
        return;
    }
    let _hosts = prepare(bed);
    let neighbour = bed.start(&sleeping(bed));
    let pids = PathBuf::from(format!("/proc/{}/ns/pid", neighbour.pid()));
    let users = PathBuf::from(format!("/proc/{}/ns/user", neighbour.pid()));
    let joined = || {
        let bundle = sleeping(bed).args(["/bin/busybox", "usleep", "500"]);
        let bundle = change(bundle.with_namespace("pid", Some(&pids)));
        if !bed.is_rootless() {
            return bundle;
        }
        // Only inside of its user namespace has an ordinary user a right to its pid namespace.
        let bundle = bundle.without("/linux/uidMappings").without("/linux/gidMappings");
        bundle.with_namespace("user", Some(&users))
    };
    let pid_file = bed.make_directory("pids", 0o777).join(ON_THE_COMMAND_LINE);
    let option =
        |call: integration::Call| call.option("--pid-file", &pid_file).env("A", IN_THE_ENVIRONMENT);
    assert_unseen(bed, &neighbour, rounds, &format!("run, {what}"), || {
        option(bed.run_call(&joined())).output().success();
    });
    assert_unseen(bed, &neighbour, rounds, &format!("create, {what}"), || {
        let id = bed.id();
        option(bed.create_call(&joined(), &id)).output().success();
        bed.runtime(["delete", "--force", &id]).success();
    });
}

#[test]
fn a_neighbour_of_a_joined_pid_namespace() {
    in_views(|bed| neighbour_unseen(bed, |bundle| bundle, ROUNDS / 4, "joined"));
}

#[test]
fn a_neighbour_of_an_ordinary_users_container() {
    as_user(|bed| {
        if bed.user().is_none() {
            return bed.skip(NOT_ROOT);
        }
        neighbour_unseen(bed, |bundle| bundle, ROUNDS / 2, "joined by an ordinary user");
    });
}

#[test]
fn a_neighbour_while_a_filter_is_loaded() {
    in_views(|bed| neighbour_unseen(bed, filtered, ROUNDS / 4, "joined, with a filter"));
}

#[test]
fn a_neighbour_of_a_new_user_namespace() {
    in_views(|bed| {
        let change = |bundle: Bundle| bundle.in_user_namespace(65_536);
        neighbour_unseen(bed, change, ROUNDS / 4, "joined beside a new user namespace");
    });
}

#[test]
fn a_neighbour_of_a_new_user_namespace_with_other_clocks() {
    in_views(|bed| {
        let change = |bundle: Bundle| with_clocks(bundle.in_user_namespace(65_536));
        neighbour_unseen(bed, change, ROUNDS / 4, "joined beside user and time namespaces");
    });
}

#[test]
#[ignore = "takes minutes"]
fn a_neighbour_a_thousand_times() {
    in_views(|bed| neighbour_unseen(bed, filtered, MANY_ROUNDS, "joined"));
}

/// Whoever has the id of a user namespace's owner and is in its parent has every right over
/// it (user_namespaces(7)), without any capability of his own.
#[track_caller]
fn owner_unseen(flags: &[&str], change: impl Fn(Bundle) -> Bundle + Sync) {
    as_root(|bed| {
        if bed.is_peer("runc and crun are opaque in other moments") {
            return;
        }
        let _hosts = prepare(bed);
        let holder = Holder::new(&[&["--pid", "--mount-proc"], flags].concat());
        let poller = Poller::start(bed, holder.pid.parse().unwrap(), (0, 0));
        let enter = ["--all", "--preserve-credentials", "--target", &holder.pid];
        for _ in 0..ROUNDS {
            let bundle = bed.bundle().in_user_namespace(1).without_namespace("pid");
            let bundle = change(bundle).save().clone();
            let call = bed.program("/usr/bin/nsenter".as_ref()).args(enter);
            let call = call.arg(&integration::runtime().program).arg("--root").arg(bed.root());
            call.args(["run", "--bundle"]).arg(&bundle.path).arg(bed.id()).output().success();
        }
        let (found, _) = poller.end();
        // What is in the caller's pid namespace shows the rest by right.
        let of_the_host = ["the host's files", "a descriptor"];
        let found: Vec<_> = found
            .iter()
            .filter(|line| of_the_host.iter().any(|kind| line.starts_with(kind)))
            .collect();
        assert!(found.is_empty(), "{found:#?}");
    });
}

#[test]
fn whoever_owns_the_new_user_namespace() {
    owner_unseen(&[], |bundle| bundle);
}

#[test]
fn whoever_owns_the_new_user_namespace_with_other_clocks() {
    owner_unseen(&[], |bundle| with_clocks(bundle).without("/linux/cgroupsPath"));
}

#[test]
fn whoever_owns_the_new_user_namespace_in_one_of_the_caller() {
    let without_cgroup = |bundle: Bundle| bundle.without("/linux/cgroupsPath");
    owner_unseen(&["--user", "--map-root-user"], without_cgroup);
    owner_unseen(&["--user", "--map-root-user"], |bundle| with_clocks(without_cgroup(bundle)));
}
