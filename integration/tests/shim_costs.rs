//! What containerd's shim costs by the kernel's counters: never a twentieth more than it did.
//!
//! A life is all that containerd has done for `ctr run --rm true`: `start`, Create, Start, Wait,
//! Delete, Shutdown and `delete`, with what is executed for it, the program itself among that. An
//! exec is Exec, Start, Wait and Delete: what a life with ten of them has more, a tenth of it. The
//! table is about the release build, as that of `costs.rs`.

use std::fs;

use integration::counted::{calls_of_all, is_as_when_counted};
use integration::shim::{Client, Engine, Io};
use integration::{Bundle, eventually, in_views, usage_of};
use prost::Message as _;
use shim::messages::{BootstrapResult, CreateTaskResponse, StatsRequest, StatsResponse};

const COUNTERS: [&str; 5] = ["system calls", "processes", "opened files", "faults", "waits"];
type Cost = [u64; 5];

/// With the controllers of cgroup version 1, and with version 2.
#[rustfmt::skip]
const COSTS: [(&str, Cost, Cost); 3] = [
    ("life",  [818, 3, 86, 364, 18], [693, 3, 69, 364, 18]),
    ("exec",  [273, 3, 23, 189, 6],  [257, 3, 15, 189, 6]),
    ("Stats", [34, 0, 3, 4, 1],      [20, 0, 3, 4, 1]),
];
/// How many a life has more of.
const MORE: u64 = 10;
/// How many lives are looked at for what others may disturb.
const LIVES: usize = 5;

#[test]
fn nothing_that_containerd_asks_for_costs_more_than_it_did() {
    in_views(|bed| {
        if bed.is_peer("a part of ferrun's") {
            return;
        }
        if let Err(reason) = is_as_when_counted(bed) {
            return bed.skip(reason);
        }
        let engine = Engine::new(bed);
        let bundle = bed.bundle().args(["/bin/true"]);
        bundle.save();
        let counted = |what: What| {
            let calls = traced(&engine, &bundle, what);
            let counters = (0..LIVES).map(|_| untraced(&engine, &bundle, what));
            let least = counters.reduce(|one, two| [0, 1].map(|at| one[at].min(two[at])));
            let [faults, waits] = least.expect("some lives");
            [calls[0], calls[1], calls[2], faults, waits]
        };
        let life = counted(What::default());
        let more = |what| {
            let cost = counted(what);
            std::array::from_fn(|at| (cost[at].saturating_sub(life[at])).div_ceil(MORE))
        };
        let found: [(&str, Cost); 3] = [
            ("life", life),
            ("exec", more(What { execs: MORE, ..What::default() })),
            ("Stats", more(What { stats: MORE, ..What::default() })),
        ];
        let mut dearer = Vec::new();
        for ((what, found), (_, one, two)) in found.into_iter().zip(COSTS) {
            eprintln!("{:?}: {what}: {found:?}", bed.view);
            let compared = COUNTERS.iter().zip(found).zip(bed.by_version(one, two));
            let over = compared.filter(|((_, found), last)| *found > last + last.div_ceil(20));
            dearer.extend(
                over.map(|((counter, found), last)| {
                    format!("{what}: {counter}: {found}, not {last}")
                }),
            );
        }
        assert!(dearer.is_empty(), "dearer than the table says: {dearer:#?}");
    });
}

/// What a life has beside what each has.
#[derive(Debug, Clone, Copy, Default)]
struct What {
    execs: u64,
    stats: u64,
}

/// The calls of a life.
fn live(engine: &Engine<'_>, bundle: &Bundle, id: &str, client: &mut Client, what: What) {
    let create = engine.create(bundle, id, &Io::default());
    client.call::<CreateTaskResponse>("Create", &create).unwrap();
    for _ in 0..what.stats {
        client.call::<StatsResponse>("Stats", &StatsRequest { id: id.to_owned() }).unwrap();
    }
    for number in 0..what.execs {
        let exec = format!("exec{number}");
        client.exec(id, &exec, "exec true", &Io::default()).unwrap();
        client.start(id, &exec).unwrap();
        client.wait(id, &exec);
        client.delete(id, &exec).unwrap();
    }
    client.start(id, "").unwrap();
    client.wait(id, "");
    client.delete(id, "").unwrap();
}

/// System calls, processes and files of a life.
fn traced(engine: &Engine<'_>, bundle: &Bundle, what: What) -> [u64; 3] {
    let id = engine.bed.id();
    let mut all = [0; 3];
    for action in ["start", "delete"] {
        let log = engine.bed.directory.join(format!("strace-{}", engine.bed.next()));
        let wrapper = ["strace", "-f", "-q", "-o", log.to_str().expect("UTF-8")];
        let (mut command, answer) = engine.begin(&wrapper, bundle, &id, action);
        let mut strace = command.spawn().expect("strace");
        if action == "start" {
            // It may be written in pieces, and its end is not the end of what is traced.
            let is_whole = |bytes: Vec<u8>| {
                let answer = BootstrapResult::decode(bytes.as_slice());
                answer.is_ok_and(|answer| answer.protocol == "ttrpc")
            };
            eventually("an answer", || fs::read(&answer).is_ok_and(is_whole));
            let mut client = Engine::connect(&fs::read(&answer).unwrap());
            live(engine, bundle, &id, &mut client, what);
            client.shut_down();
        }
        assert!(strace.wait().unwrap().success());
        let counts = calls_of_all(&fs::read_to_string(&log).unwrap());
        all = std::array::from_fn(|at| all[at] + counts[at]);
    }
    all
}

/// Page faults and context switches of a life. Of what the program executes the faults alone count.
fn untraced(engine: &Engine<'_>, bundle: &Bundle, what: What) -> [u64; 2] {
    let id = engine.bed.id();
    let mut all = [0; 2];
    for action in ["start", "delete"] {
        let (mut command, answer) = engine.begin(&[], bundle, &id, action);
        let (status, usage) = usage_of(&mut command).expect("the shim");
        assert!(status.success());
        all = [all[0] + usage.faults, all[1] + usage.switches];
        if action == "start" {
            let mut client = Engine::connect(&fs::read(&answer).unwrap());
            live(engine, bundle, &id, &mut client, what);
            let [faults, waits] = usage_so_far(client.pid());
            all = [all[0] + faults, all[1] + waits];
            client.shut_down();
        }
    }
    all
}

/// The page faults of a process and of all its children that have ended, and its own waits.
fn usage_so_far(pid: i32) -> [u64; 2] {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").expect("stat");
    let fields: Vec<u64> = fields.split(' ').map(|word| word.parse().unwrap_or(0)).collect();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    let waits = line.and_then(|word| word.trim().parse().ok()).expect("its switches");
    // minflt and cminflt in proc(5).
    [fields[7] + fields[8], waits]
}
