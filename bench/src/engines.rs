//! What ferrun and runc cost where an engine calls them. The engines are started as
//! `make test-engines` starts them, in a process of its own: their tests end by a
//! panic where something is wrong, and they take this process for the machine's own.
//!
//! Both runtimes are configured in one daemon and take turns, so that they differ in
//! nothing but the runtime.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use engines::containerd::{Containerd, Release, built};
use engines::docker::{self, Docker};
use engines::{Place, missing, runtime_name};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::bed::{Launch, compile};
use crate::runtime::Runtime;
use crate::sample::{Sample, percentile};

/// The cost of one thing that was asked of an engine with one runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineRecord {
    /// The engine and its version.
    pub engine: String,
    /// What was typed, or what was asked.
    pub command: String,
    /// The runtime that the engine called.
    pub runtime: String,
    /// How many runs.
    pub runs: usize,
    /// Milliseconds of wall time, the median.
    pub wall: f64,
    /// Milliseconds of wall time that 99 of 100 runs did not exceed.
    pub wall_p99: f64,
    /// Milliseconds of processor time of the client that was started, daemons, shims,
    /// runtime and container together, the median.
    pub cpu: f64,
}

/// What was measured, and what was left out, with the reason.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// One for each command and runtime.
    pub records: Vec<EngineRecord>,
    /// One for each engine that is not there.
    pub skipped: Vec<String>,
}

/// How many pods of a runtime are alive while each of them is probed.
const PROBED: usize = 100;
const IMAGE: &str = "127.0.0.1:5000/library/alpine:latest";
const PODS_IMAGE: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
/// What an engine still does after it has answered belongs to the command before.
const AFTERWARDS: Duration = Duration::from_millis(50);
const CPU: &str = "/sys/fs/cgroup/cpuacct";

/// Measures ferrun and the installed runc under all engines that are installed, in a
/// process of its own.
///
/// # Errors
/// Where that process fails.
pub fn measure(ferrun: &Path, rounds: usize) -> Result<Measured> {
    let group = Group::new()?;
    let output = Command::new(std::env::current_exe()?)
        .arg("--engines")
        .args([&rounds.to_string(), &group.0])
        // By which the tests' harness knows the runtime.
        .env("RUNTIME", ferrun)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("{}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("what the measuring process printed")
}

/// The measuring process: prints what it has measured as JSON. `group` is the cgroup in
/// which its processor time is counted.
///
/// # Errors
/// Where it cannot join the cgroup.
pub fn print(rounds: &str, group: &str) -> Result<()> {
    let rounds: usize = rounds.parse().with_context(|| format!("{rounds:?}: no number"))?;
    let procs = format!("{CPU}/{group}/cgroup.procs");
    fs::write(&procs, "0").with_context(|| procs.clone())?;
    let mut measured = Measured::default();
    let programs = ["containerd", "ctr"];
    measured.take("containerd", &programs, |place| containerd(place, group, rounds));
    measured.take("pods", &[], |place| pods(place, group, rounds));
    measured.take("Docker", &docker::PROGRAMS, |place| dockerd(place, group, rounds));
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// A cgroup that only counts processor time.
struct Group(String);

impl Group {
    fn new() -> Result<Self> {
        let group = Self(format!("ferrun-bench-engines-{}", std::process::id()));
        let path = group.path();
        fs::create_dir(&path).with_context(|| format!("{path:?}"))?;
        Ok(group)
    }

    fn path(&self) -> PathBuf {
        Path::new(CPU).join(&self.0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let path = self.path();
        // What has been in it may still be ending.
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Err(error) = fs::remove_dir(&path) {
            if Instant::now() > deadline {
                eprintln!("bench: {path:?}: {error}");
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Measured {
    /// Adds what is measured in a place of its own.
    fn take(
        &mut self,
        engine: &str,
        programs: &[&str],
        test: impl Fn(&Place<'_>) -> Result<Vec<EngineRecord>> + Sync,
    ) {
        eprintln!("bench: with engines: {engine}");
        match in_place(programs, test) {
            Ok(records) => self.records.extend(records),
            Err(error) => self.skipped.push(format!("{engine}: {error:#}")),
        }
    }
}

fn in_place(
    programs: &[&str],
    test: impl Fn(&Place<'_>) -> Result<Vec<EngineRecord>> + Sync,
) -> Result<Vec<EngineRecord>> {
    let missing = missing(&[programs, &["runc", "docker-registry", "ip"]].concat());
    if !missing.is_empty() {
        bail!("not installed: {}", missing.join(", "));
    }
    let answer = Mutex::new(None);
    let run = || {
        engines::in_place(programs, |place| {
            let records = test(place);
            *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(records);
        });
    };
    let ended = catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        anyhow!("{}", text.and_then(|text| text.lines().next()).unwrap_or("it failed"))
    });
    match answer.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(Ok(records)) => ended.map(|()| records),
        // What is left behind then is no other reason.
        Some(Err(error)) => Err(error),
        None => ended.and_then(|()| bail!("this machine has not the cgroups for it")),
    }
}

/// Where one engine is measured.
struct Bench<'place> {
    place: &'place Place<'place>,
    engine: String,
    launcher: PathBuf,
    /// The cgroups of the engine and of its containers.
    groups: [String; 2],
    samples: Vec<(String, String, Vec<Cost>)>,
}

/// What it cost once, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Cost {
    wall: f64,
    cpu: f64,
}

impl<'place> Bench<'place> {
    fn new(place: &'place Place<'place>, engine: &str, group: &str) -> Result<Self> {
        let groups = [group, &place.bed.name].map(|name| format!("{CPU}/{name}/cpuacct.usage"));
        let launcher = compile("launcher", &place.bed.directory)?;
        Ok(Self { place, engine: engine.to_owned(), launcher, groups, samples: Vec::new() })
    }

    /// Runs a command of an engine, and remembers what it cost under a name.
    fn run(&mut self, command: &str, runtime: &str, line: &str) -> Result<()> {
        let (place, result) = (self.place, self.place.bed.directory.join("result"));
        let (launcher, how) = (self.launcher.display(), Launch::Time.word());
        let launched = format!("{launcher} {} {how} {line}", result.display());
        self.add(command, runtime, || {
            let answer = place.sh(&launched);
            let (status, sample) = Sample::parse(&fs::read(&result).context("launcher")?)?;
            if status != 0 {
                bail!("{line}: wait status {status:#x}: {}", answer.output.stderr.trim());
            }
            Ok(sample.wall)
        })
    }

    /// Does what takes that many milliseconds, and remembers what it cost under a name.
    fn add(
        &mut self,
        command: &str,
        runtime: &str,
        work: impl FnOnce() -> Result<f64>,
    ) -> Result<()> {
        let before = self.cpu();
        let wall = work()?;
        std::thread::sleep(AFTERWARDS);
        let cost = Cost { wall, cpu: self.cpu() - before };
        let known = self.samples.iter_mut().find(|(a, b, _)| a == command && b == runtime);
        match known {
            Some((.., costs)) => costs.push(cost),
            None => self.samples.push((command.to_owned(), runtime.to_owned(), vec![cost])),
        }
        Ok(())
    }

    /// Milliseconds of processor time that engine and containers have had.
    fn cpu(&self) -> f64 {
        let read = |file: &String| fs::read_to_string(file).ok()?.trim().parse::<f64>().ok();
        // Before its first container the containers' group is not there.
        self.groups.iter().filter_map(read).sum::<f64>() / 1e6
    }

    fn records(self) -> Vec<EngineRecord> {
        let engine = self.engine;
        let records = self.samples.into_iter().filter_map(|(command, runtime, costs)| {
            let at = |part: f64, field: fn(&Cost) -> f64| {
                let mut values: Vec<f64> = costs.iter().map(field).collect();
                values.sort_by(f64::total_cmp);
                percentile(&values, part)
            };
            Some(EngineRecord {
                engine: engine.clone(),
                command,
                runtime,
                runs: costs.len(),
                wall: at(0.5, |cost| cost.wall)?,
                wall_p99: at(0.99, |cost| cost.wall)?,
                cpu: at(0.5, |cost| cost.cpu)?,
            })
        });
        records.collect()
    }
}

/// Both runtimes in the order of one round: nobody always comes first.
fn turns<T: Clone>(runtimes: &[T; 2], round: usize) -> [T; 2] {
    let [first, second] = runtimes.clone();
    if round.is_multiple_of(2) { [first, second] } else { [second, first] }
}

/// The names of both runtimes, and their programs.
fn both() -> Result<[(&'static str, PathBuf); 2]> {
    let ferrun = std::env::var_os("RUNTIME").context("RUNTIME is not set")?;
    let runc = Runtime::installed("runc").context("runc is not installed")?;
    Ok([("ferrun", PathBuf::from(ferrun)), ("runc", runc.path)])
}

/// `ctr run`.
fn containerd(place: &Place<'_>, group: &str, rounds: usize) -> Result<Vec<EngineRecord>> {
    place.write(
        "/etc/containerd/config.toml",
        "version = 2\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n",
    );
    place.start("containerd", "containerd");
    place.eventually("containerd answers", || place.sh("ctr version").output.code == 0);
    let mut bench = Bench::new(place, &containerd_version(place), group)?;
    // containerd's namespace is the cgroup of its containers.
    let ctr = format!("$(command -v ctr) --namespace {}", place.bed.name);
    place.sh(&format!("{ctr} images pull --plain-http {IMAGE}")).output.success();
    let runtimes = both()?;
    let run = |program: &Path, id: &str| {
        format!("{ctr} run --runc-binary {} --rm {IMAGE} {id} true", program.display())
    };
    for (_, program) in &runtimes {
        place.sh(&run(program, "first")).output.success();
    }
    for round in 0..2 * rounds {
        for (name, program) in turns(&runtimes, round) {
            bench.run("ctr run --rm", name, &run(&program, "one"))?;
        }
    }
    Ok(bench.records())
}

/// The name and the version of the containerd that a place has.
fn containerd_version(place: &Place<'_>) -> String {
    let output = place.sh("containerd --version").output;
    let version = output.success().split(' ').nth(2).unwrap_or("?");
    // Of what is built from a module, the commit is unknown.
    format!("containerd {}", version.trim_end_matches("+unknown"))
}

/// Exec probes of many pods, as Kubernetes' node agent has them done.
fn pods(place: &Place<'_>, group: &str, rounds: usize) -> Result<Vec<EngineRecord>> {
    if !built().join("prober").exists() {
        bail!("make engines-current has not built the program that probes them");
    }
    // Else it would ask every shim for its container's figures, every second.
    let daemon = Containerd::start(place, Release::Current, "stats_collect_period = '1h'");
    daemon.prepare_pods();
    place.sh(&format!("crictl pull {PODS_IMAGE}")).output.success();
    let mut bench = Bench::new(place, &containerd_version(place), group)?;
    let mut prober = Prober::start(place)?;
    let handlers = [("ferrun", runtime_name()), ("runc", "runc")];
    let mut probed = Vec::new();
    for _ in 0..PROBED {
        let [(ours, known), (theirs, others)] = handlers;
        probed.push([(ours, prober.pod(known)?), (theirs, prober.pod(others)?)]);
    }
    let command = format!("exec probe by the CRI, {PROBED} pods probed in turn");
    for round in 0..rounds.div_ceil(20) {
        for (number, pair) in probed.iter().enumerate() {
            for (name, container) in turns(pair, round + number) {
                bench.add(&command, name, || prober.probe(&container))?;
            }
        }
    }
    Ok(bench.records())
}

/// The program `integration/engines/current/prober`, which asks containerd for pods. With
/// it they go.
struct Prober {
    process: Child,
    /// Its input, until it shall end.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Prober {
    fn start(place: &Place<'_>) -> Result<Self> {
        let program = built().join("prober");
        let mut process = Command::new(&program)
            .args(["/run/containerd/containerd.sock", PODS_IMAGE, &format!("/{}", place.bed.name)])
            .arg(&place.bed.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{program:?}"))?;
        let answers = BufReader::new(process.stdout.take().context("its output")?);
        let prober = Self { requests: process.stdin.take(), answers, process };
        // It stands for the node agent, whose time is no part of what is measured.
        let procs = format!("{CPU}/cgroup.procs");
        fs::write(&procs, prober.process.id().to_string()).with_context(|| procs.clone())?;
        Ok(prober)
    }

    /// Makes a pod, and returns the ID of its container.
    fn pod(&mut self, handler: &str) -> Result<String> {
        self.ask(&format!("pod {handler}"))
    }

    /// Probes a container, and returns how many milliseconds that took.
    fn probe(&mut self, container: &str) -> Result<f64> {
        let answer = self.ask(&format!("probe {container}"))?;
        let nanoseconds: f64 = answer.parse().with_context(|| format!("prober: {answer:?}"))?;
        Ok(nanoseconds / 1e6)
    }

    fn ask(&mut self, request: &str) -> Result<String> {
        let requests = self.requests.as_mut().context("its input")?;
        writeln!(requests, "{request}").with_context(|| format!("prober: {request}"))?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let answer = answer.trim_end();
        match answer.strip_prefix("error: ") {
            Some(reason) => bail!("prober: {request}: {reason}"),
            None if answer.is_empty() => bail!("prober: {request}: no answer"),
            None => Ok(answer.to_owned()),
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        drop(self.requests.take());
        match self.process.wait() {
            Ok(status) if status.success() => {}
            Ok(status) => eprintln!("bench: prober: {status}"),
            Err(error) => eprintln!("bench: prober: {error}"),
        }
    }
}

/// `docker run` and `docker exec`.
fn dockerd(place: &Place<'_>, group: &str, rounds: usize) -> Result<Vec<EngineRecord>> {
    // Docker takes `runc` for its own, and `default-runtime` has ferrun's name already.
    let names = [runtime_name(), "other"];
    let runtimes = both()?;
    let known: serde_json::Map<_, _> = names
        .iter()
        .zip(&runtimes)
        .map(|(known, (_, program))| ((*known).to_owned(), json!({"path": program})))
        .collect();
    // Newer daemons ask for a time namespace, and not every runc knows one.
    let more = json!({"runtimes": known, "features": {"time-namespaces": false}});
    let docker = Docker::start(place, &more);
    let version = docker.sh("docker version --format '{{.Server.Version}}'").text().to_owned();
    let mut bench = Bench::new(place, &format!("Docker {version}"), group)?;
    docker.sh("docker pull -q alpine").output.success();
    let [(ours, _), (theirs, _)] = &runtimes;
    let pairs = [(*ours, names[0]), (*theirs, names[1])];
    let client = "$(command -v docker)";
    for (name, known) in pairs {
        docker.sh(&format!("docker run --rm --runtime {known} alpine true")).output.success();
        let line = format!("docker run -d --runtime {known} --name {name} alpine sleep 10000");
        docker.sh(&line).output.success();
    }
    for round in 0..rounds {
        for (name, known) in turns(&pairs, round) {
            let line = format!("{client} run --rm --runtime {known} alpine true");
            bench.run("docker run --rm", name, &line)?;
        }
    }
    for round in 0..2 * rounds {
        for (name, _) in turns(&pairs, round) {
            bench.run("docker exec", name, &format!("{client} exec {name} true"))?;
        }
    }
    docker.clear();
    Ok(bench.records())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_come_first_as_often() {
        let order = |round| turns(&["a", "b"], round);
        assert_eq!([order(0), order(1), order(2)], [["a", "b"], ["b", "a"], ["a", "b"]]);
    }
}
