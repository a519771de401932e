//! `process` and the fields of `linux` that are about the program itself.

use serde_json::{Value, json};

use super::super::choice::{Asks, Choice, Need, Way};
use super::super::place::Place;
use super::super::random::Random;
use crate::MACHINE;
use crate::sys::CAPABILITIES;

/// Which processors it may use.
pub(super) const PROCESSORS: &str = "status Cpus_allowed_list";

/// What a program finds where nothing is asked for.
pub(super) fn defaults(place: &Place) -> Choice {
    let mut choice = Choice::new("what nobody asks for")
        .inside("umask", "0022")
        .inside("pwd", "/")
        .inside("uname -m", MACHINE[0])
        .inside("policy", format!("{} 0 0", place.nice))
        .inside("status Uid", "0 0 0 0")
        .inside("status Gid", "0 0 0 0")
        .inside("status NoNewPrivs", "1")
        .inside("status Seccomp", "0")
        .inside("status SigBlk", "0000000000000000")
        .inside("status SigIgn", "0000000000000000")
        .inside(PROCESSORS, place.processors[0])
        .inside("cat /proc/self/oom_score_adj", place.oom_score_adj.to_string())
        // stdio, and the directory that ls reads.
        .inside("ls /proc/self/fd | wc -l", "4");
    // CAP_KILL 5, CAP_NET_BIND_SERVICE 10, CAP_AUDIT_WRITE 29.
    let given = 1 << 5 | 1 << 10 | 1 << 29;
    let given = Sets { bounding: given, permitted: given, inheritable: 0, ambient: 0 };
    for (set, bits) in after_execve(given, true, true) {
        choice = choice.inside(format!("status {set}"), format!("{bits:016x}"));
    }
    for (name, value) in &place.limits {
        choice = choice.inside(format!("limit '{name}'"), value);
    }
    choice
}

/// One of each that is asked for.
pub(super) fn draw(random: &mut Random, place: &Place) -> Vec<Choice> {
    let all: [fn(&mut Random, &Place) -> Choice; 13] = [
        no_new_privileges,
        user,
        umask,
        filter,
        limits,
        oom_score,
        scheduler,
        io_priority,
        personality,
        directory,
        environment,
        terminal,
        affinity,
    ];
    let mut drawn = Vec::new();
    for choice in all {
        if random.once_in(3) {
            drawn.push(choice(random, place));
        }
    }
    if place.has_nodes && random.once_in(3) {
        drawn.push(memory_policy(random));
    }
    drawn
}

/// The sets of capabilities before execve(2), but for the effective one, which is lost.
struct Sets {
    bounding: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

/// The sets of /proc/PID/status after execve(2) of a program without capabilities of its own
/// (capabilities(7)).
fn after_execve(sets: Sets, is_root: bool, no_new_privileges: bool) -> [(&'static str, u64); 5] {
    let Sets { bounding, permitted, inheritable, ambient } = sets;
    let held = match (is_root, no_new_privileges) {
        (true, true) => (inheritable | bounding) & permitted,
        (true, false) => inheritable | bounding,
        (false, _) => ambient,
    };
    [
        ("CapInh", inheritable),
        ("CapPrm", held),
        ("CapEff", held),
        ("CapBnd", bounding),
        ("CapAmb", ambient),
    ]
}

fn user(random: &mut Random, place: &Place) -> Choice {
    let uid = if place.is_rootless || random.once_in(3) { 0 } else { random.between(1, 60_000) };
    let gid = if place.is_rootless || random.once_in(3) { 0 } else { random.between(1, 60_000) };
    let groups = if place.is_rootless { vec![] } else { random.some(&[3, 33, 333, 3_333, 33_333]) };
    let known: Vec<u32> = (0..41).filter(|bit| place.capabilities & 1 << bit != 0).collect();
    let bounding = random.some(&known);
    let permitted = random.some(&bounding);
    let effective = random.some(&permitted);
    let inheritable = random.some(&permitted);
    let ambient = random.some(&inheritable);
    let names = |bits: &[u32]| -> Value {
        bits.iter().map(|bit| format!("CAP_{}", CAPABILITIES[*bit as usize])).collect()
    };
    let sets = json!({
        "bounding": names(&bounding), "permitted": names(&permitted),
        "effective": names(&effective), "inheritable": names(&inheritable), "ambient": names(&ambient),
    });
    let text = groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut choice = Choice::new(format!("user {uid}:{gid}, groups {text:?}, capabilities"))
        .set("/process/user/uid", uid)
        .set("/process/user/gid", gid)
        .set("/process/capabilities", sets)
        .inside("status Uid", [uid; 4].map(|id| id.to_string()).join(" "))
        .inside("status Gid", [gid; 4].map(|id| id.to_string()).join(" "));
    if !groups.is_empty() {
        choice = choice.set("/process/user/additionalGids", groups).inside("status Groups", text);
    }
    let mask = |bits: &[u32]| bits.iter().map(|bit| 1 << bit).sum::<u64>();
    let given = Sets {
        bounding: mask(&bounding),
        permitted: mask(&permitted),
        inheritable: mask(&inheritable),
        ambient: mask(&ambient),
    };
    let no_new_privileges = random.once_in(2);
    choice = choice
        .set("/process/noNewPrivileges", no_new_privileges)
        .inside("status NoNewPrivs", u8::from(no_new_privileges).to_string());
    for (set, bits) in after_execve(given, uid == 0, no_new_privileges) {
        choice = choice.inside(format!("status {set}"), format!("{bits:016x}"));
    }
    // One that is joined has one id alone.
    if place.is_rootless { choice } else { choice.needs(&[Need::NotJoined("user")]) }
}

fn umask(random: &mut Random, _: &Place) -> Choice {
    let mask = random.between(0, 0o777);
    let text = format!("{mask:04o}");
    Choice::new(format!("umask {text}")).set("/process/user/umask", mask).inside("umask", text)
}

fn no_new_privileges(_: &mut Random, _: &Place) -> Choice {
    Choice::new("new privileges")
        .set("/process/noNewPrivileges", false)
        .inside("status NoNewPrivs", "0")
}

fn filter(random: &mut Random, _: &Place) -> Choice {
    let (calls, script, says) = random.one(&[
        (
            &["mkdir", "mkdirat"][..],
            "mkdir /tmp/life",
            "mkdir: can't create directory '/tmp/life': ",
        ),
        (&["link", "linkat"], "ln /bin/busybox /tmp/life", "ln: /tmp/life: "),
        (&["rename", "renameat", "renameat2"], "mv /bin /tmp/life", "mv: can't rename '/bin': "),
    ]);
    let (errno, text) = random.one(&[
        (1, "Operation not permitted"),
        (38, "Function not implemented"),
        (95, "Operation not supported"),
        (5, "Input/output error"),
    ]);
    let default = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": calls, "action": "SCMP_ACT_ERRNO", "errnoRet": errno}]});
    Choice::new(format!("a filter: {calls:?} gets {errno}"))
        .set("/linux/seccomp", default)
        .inside("status Seccomp", "2")
        .inside(script, format!("{says}{text}"))
}

/// The limits by both names, and from what on a shell can work.
const LIMITS: [(&str, &str, u64); 16] = [
    ("RLIMIT_AS", "Max address space", 1 << 28),
    ("RLIMIT_CORE", "Max core file size", 0),
    ("RLIMIT_CPU", "Max cpu time", 100),
    ("RLIMIT_DATA", "Max data size", 1 << 26),
    ("RLIMIT_FSIZE", "Max file size", 1 << 20),
    ("RLIMIT_LOCKS", "Max file locks", 0),
    ("RLIMIT_MEMLOCK", "Max locked memory", 0),
    ("RLIMIT_MSGQUEUE", "Max msgqueue size", 0),
    ("RLIMIT_NICE", "Max nice priority", 0),
    ("RLIMIT_NOFILE", "Max open files", 16),
    ("RLIMIT_NPROC", "Max processes", 2_000),
    ("RLIMIT_RSS", "Max resident set", 1 << 20),
    ("RLIMIT_RTPRIO", "Max realtime priority", 0),
    ("RLIMIT_RTTIME", "Max realtime timeout", 100_000),
    ("RLIMIT_SIGPENDING", "Max pending signals", 0),
    ("RLIMIT_STACK", "Max stack size", 1 << 20),
];

/// No more than the caller has, which not even root may be able to exceed.
fn limits(random: &mut Random, place: &Place) -> Choice {
    let mut choice = Choice::new("limits");
    for (kind, name, least) in random.some(&LIMITS) {
        let most = place.limits.get(name).and_then(|both| both.split(' ').nth(1)?.parse().ok());
        let hard = (least + random.between(0, 100)).min(most.unwrap_or(u64::MAX));
        let soft = (least + random.between(0, 100)).min(hard);
        choice = choice
            .set("/process/rlimits/-", json!({"type": kind, "soft": soft, "hard": hard}))
            .inside(format!("limit '{name}'"), format!("{soft} {hard}"));
    }
    choice
}

/// No less than the caller has.
fn oom_score(random: &mut Random, place: &Place) -> Choice {
    let least = place.oom_score_adj;
    let score = least + random.between(0, (1000 - least) as u64) as i64;
    Choice::new(format!("oomScoreAdj {score}"))
        .set("/process/oomScoreAdj", score)
        .inside("cat /proc/self/oom_score_adj", score.to_string())
}

fn scheduler(random: &mut Random, place: &Place) -> Choice {
    let own = place.nice;
    let nice = random.between(own, 19);
    let (wanted, found) = match random.between(0, 3) {
        0 => (json!({"policy": "SCHED_OTHER", "nice": nice}), format!("{nice} 0 0")),
        1 => (json!({"policy": "SCHED_BATCH", "nice": nice}), format!("{nice} 0 3")),
        2 => (json!({"policy": "SCHED_IDLE"}), format!("{own} 0 5")),
        _ if place.is_rootless => (json!({"policy": "SCHED_IDLE"}), format!("{own} 0 5")),
        _ => return deadline(random, own),
    };
    Choice::new(format!("scheduler {wanted}"))
        .set("/process/scheduler", wanted)
        .inside("policy", found)
}

/// Only as far as it stays: what is forked is an ordinary process.
fn deadline(random: &mut Random, nice: u64) -> Choice {
    let [runtime, deadline, period] =
        [(2, 4), (10, 14), (20, 30)].map(|(least, most)| random.between(least, most) * 1_000_000);
    let wanted = json!({"policy": "SCHED_DEADLINE", "runtime": runtime, "deadline": deadline,
        "period": period, "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
    Choice::new(format!("scheduler {wanted}"))
        .set("/process/scheduler", wanted)
        .inside("policy", format!("{nice} 0 6"))
        .check(Asks::Deadline, format!("{runtime} {deadline} {period}"))
        .needs(&[Need::Callers("user")])
}

fn io_priority(random: &mut Random, place: &Place) -> Choice {
    let priority = random.between(0, 7);
    let classes = [("IOPRIO_CLASS_BE", "best-effort"), ("IOPRIO_CLASS_RT", "realtime")];
    let (class, name) = if place.is_rootless { classes[0] } else { random.one(&classes) };
    let choice = Choice::new(format!("{class} {priority}"))
        .set("/process/ioPriority", json!({"class": class, "priority": priority}))
        .inside("ionice", format!("{name}: prio {priority}"));
    if name == "realtime" { choice.needs(&[Need::Callers("user")]) } else { choice }
}

fn personality(_: &mut Random, _: &Place) -> Choice {
    Choice::new("LINUX32")
        .set("/linux/personality", json!({"domain": "LINUX32"}))
        .inside("uname -m", MACHINE[1])
}

fn directory(random: &mut Random, _: &Place) -> Choice {
    let path = random.one(&["/tmp", "/bin", "/proc", "/dev/shm"]);
    Choice::new(format!("cwd {path}")).set("/process/cwd", path).inside("pwd", path)
}

fn environment(random: &mut Random, _: &Place) -> Choice {
    let mut choice = Choice::new("environment");
    for number in 0..random.between(1, 4) {
        let value = random.one(&[
            "",
            "a=b",
            "two words",
            "'\"$(false)`\\",
            "line\nline",
            "\u{fc}\u{1f980}",
        ]);
        choice = choice
            .set("/process/env/-", format!("LIFE{number}={value}"))
            .inside(format!("printf '%s' \"$LIFE{number}\""), value);
    }
    choice
}

fn terminal(random: &mut Random, _: &Place) -> Choice {
    // busybox takes less than two columns for none.
    let (height, width) = (random.between(2, 500), random.between(2, 500));
    Choice::new(format!("a terminal of {height} by {width}"))
        .set("/process/terminal", true)
        .set("/process/consoleSize", json!({"height": height, "width": width}))
        .check(Asks::Program("stty size".to_owned()), format!("{height} {width}"))
        .check(Asks::Program("tty".to_owned()), "/dev/pts/0")
}

fn affinity(random: &mut Random, place: &Place) -> Choice {
    let first = random.one(&place.processors);
    let last = random.one(&place.processors);
    Choice::new(format!("execCPUAffinity {first} {last}"))
        // Who has a deadline may run anywhere.
        .needs(&[Need::Unset("/process/scheduler/runtime")])
        .set("/process/execCPUAffinity", json!({"initial": first, "final": last}))
        .check(Asks::Exec(PROCESSORS.to_owned()), last)
}

fn memory_policy(random: &mut Random) -> Choice {
    let (policy, found) = random.one(&[
        (json!({"mode": "MPOL_PREFERRED", "nodes": "0"}), "prefer:0"),
        (json!({"mode": "MPOL_BIND", "nodes": "0"}), "bind:0"),
        (json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}), "interleave:0"),
        (json!({"mode": "MPOL_LOCAL"}), "local"),
        (
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}),
            "bind=static:0",
        ),
    ]);
    Choice::new(format!("memoryPolicy {policy}")).set("/linux/memoryPolicy", policy).check(
        Asks::Program("read -r _ policy _ </proc/self/numa_maps; echo $policy".to_owned()),
        found,
    )
}

/// How a life goes otherwise than usual.
pub(super) fn ways(random: &mut Random, place: &Place) -> Vec<Choice> {
    let mut drawn = Vec::new();
    if random.once_in(4) {
        drawn.push(Choice::new("run --detach").way(Way::Run));
    } else if random.once_in(8) {
        drawn.push(Choice::new("deleted before it starts").way(Way::NeverStarted));
    }
    if random.once_in(3) {
        drawn.push(Choice::new("delete --force").way(Way::DeletedByForce));
    }
    if place.has_group && random.once_in(4) {
        drawn.push(Choice::new("killed while paused").way(Way::KilledPaused));
    }
    if random.once_in(6) {
        drawn.push(
            Choice::new("--no-pivot").needs(&[Need::New("mount")]).way(Way::Option("--no-pivot")),
        );
    }
    if random.once_in(6) {
        drawn.push(Choice::new("--no-new-keyring").way(Way::Option("--no-new-keyring")));
    }
    if random.once_in(4) {
        drawn.push(options_of_exec(random));
    }
    drawn
}

/// Another directory, and one more variable.
fn options_of_exec(random: &mut Random) -> Choice {
    let path = random.one(&["/tmp", "/etc", "/"]);
    let options = ["--cwd", path, "--env", "LIFE=of exec"].map(str::to_owned).to_vec();
    Choice::new(format!("exec {options:?}"))
        .way(Way::Exec(options))
        .check(Asks::Exec("pwd".to_owned()), path)
        .check(Asks::Exec("echo $LIFE".to_owned()), "of exec")
}
