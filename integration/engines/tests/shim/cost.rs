//! What a shim costs, beside containerd's own with the same runtime and with runc, in one run.
//!
//! The processor time is that of containerd's control group without containerd: of shims, and of
//! the runtime where the shim calls it as a program. What runs in a container's group is told
//! beside it. The client is in another group.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use engines::containerd::{PEER, Release, built};
use engines::shim::Shim;
use integration::{runtime, usage_of};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::daemon::{Daemon, with_daemon};

/// How often the contenders take turns, each with a block of so many.
const ROUNDS: usize = 6;
const BLOCK: usize = 10;
/// Of pods, each of which takes a second or two.
const BLOCK_OF_PODS: usize = 3;
/// How many shims stand by when their memory is looked at.
const IDLE: usize = 50;
const CPU: &str = "/sys/fs/cgroup/cpuacct";
const IMAGE: &str = "127.0.0.1:5000/library/alpine:latest";
const PODS_IMAGE: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
/// What a shim still does after its client has its answer.
const AFTERWARDS: Duration = Duration::from_millis(100);
const RUN: &str = "ctr run --rm true";
/// How often our program is executed for that: `start`, the shim, a create, `delete`.
const EXECUTIONS: usize = 4;

/// A shim with a runtime, by the words of `ctr` and the class of pods.
struct Contender {
    name: &'static str,
    words: String,
    handler: &'static str,
}

fn contenders() -> [Contender; 3] {
    let go = Shim::Go;
    [
        Contender { name: "ferrun's", words: Shim::Own.words(), handler: Shim::Own.handler() },
        Contender { name: "runc's, ferrun", words: go.words(), handler: go.handler() },
        Contender { name: "runc's, runc", words: format!("--runc-binary {PEER}"), handler: "runc" },
    ]
}

/// The groups in which processor time is counted.
struct Meter {
    daemon: Pid,
    group: PathBuf,
    containers: PathBuf,
}

/// Milliseconds of a processor, and of wall time of each.
#[derive(Debug, Clone, Default)]
struct Cost {
    shim: f64,
    container: f64,
    walls: Vec<f64>,
}

impl Meter {
    fn new(daemon: &Daemon<'_>) -> Self {
        let pid = daemon.pid();
        let group = Path::new(CPU).join(format!("{}-daemon", daemon.place.bed.name));
        fs::create_dir(&group).expect("a group");
        fs::write(group.join("cgroup.procs"), pid.to_string()).expect("containerd's group");
        let containers = Path::new(CPU).join(&daemon.place.bed.name);
        Self { daemon: Pid::from_raw(pid), group, containers }
    }

    /// The time of shims and of containers so far, in milliseconds.
    fn now(&self) -> (f64, f64) {
        let read = |group: &Path| {
            let text = fs::read_to_string(group.join("cpuacct.usage")).unwrap_or_default();
            text.trim().parse::<f64>().unwrap_or(0.0) / 1e6
        };
        let clock = clock_getcpuclockid(self.daemon).expect("a clock");
        let own = Duration::from(clock_gettime(clock).expect("its time")).as_secs_f64() * 1e3;
        (read(&self.group) - own, read(&self.containers))
    }

    /// What one of a block of these costs.
    fn cost(&self, block: usize, mut work: impl FnMut(usize)) -> Cost {
        let before = self.now();
        let mut timed = |at| {
            let began = Instant::now();
            work(at);
            began.elapsed().as_secs_f64() * 1e3
        };
        let walls = (0..block).map(&mut timed).collect();
        std::thread::sleep(AFTERWARDS);
        let after = self.now();
        let each = |whole: f64| whole / block as f64;
        Cost { shim: each(after.0 - before.0), container: each(after.1 - before.1), walls }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let _ = fs::write(format!("{CPU}/cgroup.procs"), self.daemon.to_string());
        for _ in 0..100 {
            if fs::remove_dir(&self.group).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The value that so many of a hundred do not exceed.
fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) * percent).div_ceil(100)]
}

/// What was measured, for who reads it here and for `bench`.
#[derive(Debug, Default)]
struct Results {
    text: String,
    /// Of the machine, when it began.
    load: String,
    records: Vec<Value>,
    idle: Vec<Value>,
}

impl Results {
    /// Blocks of each contender in turn, and a row of their medians.
    fn row(
        &mut self,
        name: &str,
        (meter, block): (&Meter, usize),
        mut work: impl FnMut(&Contender, usize),
    ) {
        let contenders = contenders();
        let mut costs = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            for (contender, costs) in contenders.iter().zip(&mut costs) {
                costs.push(meter.cost(block, |at| work(contender, at)));
            }
        }
        let _ = write!(self.text, "{name:<28}");
        for (contender, costs) in contenders.iter().zip(costs) {
            let of = |part: fn(&Cost) -> f64| percentile(costs.iter().map(part).collect(), 50);
            let (cpu, inside) = (of(|cost| cost.shim), of(|cost| cost.container));
            let walls: Vec<f64> = costs.iter().flat_map(|cost| cost.walls.clone()).collect();
            let (wall, p99) = (percentile(walls.clone(), 50), percentile(walls.clone(), 99));
            let _ = write!(self.text, " {cpu:>7.2} ({inside:>4.1}) {wall:>5.0} {p99:>5.0}");
            self.records.push(json!({
                "command": name, "shim": contender.name, "runs": walls.len(),
                "cpu": cpu, "inside": inside, "wall": wall, "wall_p99": p99,
            }));
        }
        self.text.push('\n');
    }

    /// Shows it, and writes it to the file that `$SHIM_COSTS` names.
    fn tell(self) {
        let _ = std::io::stderr().write_all(self.text.as_bytes());
        if let Some(path) = std::env::var_os("SHIM_COSTS") {
            let all = json!({"load": self.load, "records": self.records, "idle": self.idle});
            fs::write(path, all.to_string()).expect("a file");
        }
    }
}

/// What the kernel says of a process: KiB of private dirty memory, and threads.
fn memory(pid: i32) -> (u64, u64) {
    let number = |file: &str, key: &str| -> u64 {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    (number("smaps_rollup", "Private_Dirty:"), number("status", "Threads:"))
}

/// How often all threads of a process have slept and woken.
fn wakes(pid: i32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |path: PathBuf| {
        let text = fs::read_to_string(path.join("status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|word| word.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    tasks.map(|task| of(task.path())).sum()
}

#[test]
#[ignore = "measures: run it alone, on a calm machine"]
fn a_shim_costs_a_tenth_of_containerds() {
    with_daemon(Release::Current, Shim::Own, true, &|daemon| {
        let meter = Meter::new(daemon);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default().to_owned();
        let mut results = Results { load, ..Results::default() };
        let _ = writeln!(
            results.text,
            "{:<28} {:<26} {:<26} {:<26}\nms: shim and runtime (in the container's group), wall median, 99 of 100",
            "", "ferrun's", "runc's, ferrun", "runc's, runc"
        );
        results.row(RUN, (&meter, BLOCK), |contender, _| {
            let line = format!("run --rm {} {IMAGE} costs true", contender.words);
            daemon.ctr(&line).output.success();
        });
        parts(&mut results, daemon);
        for (at, contender) in contenders().iter().enumerate() {
            let line =
                format!("run -d --null-io {} {IMAGE} lasts{at} sleep 10000", contender.words);
            daemon.ctr(&line).output.success();
        }
        results.row("ctr task exec true", (&meter, BLOCK), |contender, at| {
            let id = contenders().iter().position(|one| one.name == contender.name).expect("one");
            daemon.ctr(&format!("task exec --exec-id x{at} lasts{id} true")).output.success();
        });
        results.row("Stats", (&meter, BLOCK), |contender, _| {
            let id = contenders().iter().position(|one| one.name == contender.name).expect("one");
            daemon.ctr(&format!("task metrics lasts{id}")).output.success();
        });
        (0..3).for_each(|at| daemon.remove(&format!("lasts{at}")));
        exec_probes(&mut results, daemon, &meter);
        for count in [1, 3] {
            results.row(
                &format!("pod of {count}, whole life"),
                (&meter, BLOCK_OF_PODS),
                |contender, at| {
                    let host = json!({"linux": {"security_context": {"namespace_options": {"network": 2}}}});
                    let pod =
                        engines::pod::Pod::by(daemon, contender.handler, &format!("p{at}"), &host);
                    for one in 0..count {
                        pod.start(&format!("c{one}"), &["sleep", "1000"], &host);
                    }
                    pod.remove();
                },
            );
        }
        stand_by(&mut results, daemon);
        results.tell();
    });
}

/// What a life is made of, each part alone: our program executed so often and for nothing, and a
/// container made and ended by ferrun. No shim with this runtime in it can be cheaper.
fn parts(results: &mut Results, daemon: &Daemon<'_>) {
    let bed = daemon.place.bed;
    let bundle = bed.bundle().args(["/bin/true"]);
    let path = bundle.save().path.clone();
    let once = || {
        let began = Instant::now();
        let mut commands: Vec<Command> =
            (0..EXECUTIONS).map(|_| Command::new(Shim::program())).collect();
        commands.iter_mut().for_each(|command| {
            command.arg("-v");
        });
        let mut run = Command::new(&runtime().program);
        run.arg("--root").arg(bed.root()).args(["run", "--bundle"]).arg(&path).arg(bed.id());
        commands.push(run);
        let cpu = commands.iter_mut().map(|command| {
            let (status, usage) = usage_of(command.stdout(Stdio::null())).expect("a program");
            assert!(status.success(), "{command:?}");
            usage.cpu.as_secs_f64() * 1e3
        });
        (cpu.sum::<f64>(), began.elapsed().as_secs_f64() * 1e3)
    };
    let (cpu, walls): (Vec<f64>, Vec<f64>) = (0..ROUNDS * BLOCK).map(|_| once()).unzip();
    let (cpu, wall) = (percentile(cpu, 50), percentile(walls.clone(), 50));
    let _ = writeln!(results.text, "{:<28} {cpu:>7.2} {wall:>5.0}", "its parts alone");
    results.records.push(json!({
        "command": RUN, "shim": "its parts alone", "runs": walls.len(),
        "cpu": cpu, "inside": 0.0, "wall": wall, "wall_p99": percentile(walls, 99),
    }));
}

/// The CRI's ExecSync, asked for as the node agent does.
fn exec_probes(results: &mut Results, daemon: &Daemon<'_>, meter: &Meter) {
    daemon.place.sh(&format!("crictl pull {PODS_IMAGE}")).output.success();
    let mut prober = Prober::start(daemon);
    let ids = contenders().map(|contender| prober.ask(&format!("pod {}", contender.handler)));
    results.row("CRI ExecSync true", (meter, BLOCK), |contender, _| {
        let id = contenders().iter().position(|one| one.name == contender.name).expect("one");
        prober.ask(&format!("probe {}", ids[id]));
    });
}

/// Many shims that have nothing to do.
fn stand_by(results: &mut Results, daemon: &Daemon<'_>) {
    for contender in contenders() {
        for at in 0..IDLE {
            let line = format!("run -d --null-io {} {IMAGE} idle{at} sleep 10000", contender.words);
            daemon.ctr(&line).output.success();
        }
        let shims = daemon.shims();
        let memories: Vec<_> = shims.iter().map(|(pid, _)| memory(*pid)).collect();
        let dirty = memories.iter().map(|memory| memory.0).sum::<u64>() / shims.len() as u64;
        let threads = memories.iter().map(|memory| memory.1).max().unwrap_or(0);
        let before: u64 = shims.iter().map(|(pid, _)| wakes(*pid)).sum();
        std::thread::sleep(Duration::from_secs(10));
        let woken = shims.iter().map(|(pid, _)| wakes(*pid)).sum::<u64>() - before;
        results.idle.push(json!({
            "shim": contender.name, "memory": dirty, "threads": threads, "woken": woken,
        }));
        let _ = writeln!(
            results.text,
            "{:<12} {} idle shims: {dirty} KiB private dirty each, {threads} threads, woken {woken} times in 10 s",
            contender.name,
            shims.len(),
        );
        for at in 0..IDLE {
            let _ = daemon.ctr(&format!("task rm --force idle{at}")).output;
            daemon.ctr(&format!("container rm idle{at}")).output.success();
        }
    }
}

/// The program `integration/engines/current/prober`.
struct Prober {
    process: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Prober {
    fn start(daemon: &Daemon<'_>) -> Self {
        let bed = daemon.place.bed;
        let mut process = Command::new(built().join("prober"))
            .args(["/run/containerd/containerd.sock", PODS_IMAGE, &format!("/{}", bed.name)])
            .arg(&bed.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("prober");
        let answers = BufReader::new(process.stdout.take().expect("its output"));
        Self { requests: process.stdin.take(), answers, process }
    }

    fn ask(&mut self, request: &str) -> String {
        let requests = self.requests.as_mut().expect("its input");
        writeln!(requests, "{request}").expect("a request");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        assert!(!answer.starts_with("error"), "{request}: {answer}");
        answer.trim().to_owned()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        // The end of its input: it removes its pods.
        self.requests = None;
        let _ = self.process.wait();
    }
}
