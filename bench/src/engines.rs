//! What ferrun and runc cost where an engine calls them. The engines are started as
//! `make test-engines` starts them, in a process of its own: their tests end by a
//! panic where something is wrong, and they take this process for the machine's own.
//!
//! Both runtimes are configured in one daemon and take turns, so that they differ in
//! nothing but the runtime.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use engines::docker::{self, Docker};
use engines::{Place, missing, runtime_name};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::bed::compile;
use crate::runtime::Runtime;
use crate::sample::{Sample, percentile};

/// The cost of one command of an engine with one runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineRecord {
    /// The engine and its version.
    pub engine: String,
    /// What was typed.
    pub command: String,
    /// The runtime that the engine called.
    pub runtime: String,
    /// How many runs.
    pub runs: usize,
    /// Milliseconds of wall time, the median.
    pub wall: f64,
    /// Milliseconds of wall time that 99 of 100 runs did not exceed.
    pub wall_p99: f64,
    /// Milliseconds of processor time of client, daemons, shims, runtime and container
    /// together, the median.
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

/// How many containers are alive while each of them is probed.
const PROBED: usize = 100;
const IMAGE: &str = "127.0.0.1:5000/library/alpine:latest";
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
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        anyhow!("{}", text.and_then(|text| text.lines().next()).unwrap_or("it failed"))
    })?;
    let answer = answer.into_inner().unwrap_or_else(PoisonError::into_inner);
    answer.context("this machine has not the cgroups for it")?
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

/// What one command cost, in milliseconds.
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
    fn add(&mut self, command: &str, runtime: &str, line: &str) -> Result<()> {
        let result = self.place.bed.directory.join("result");
        let before = self.cpu();
        let launched = format!("{} {} {line}", self.launcher.display(), result.display());
        let answer = self.place.sh(&launched);
        std::thread::sleep(AFTERWARDS);
        let cpu = self.cpu() - before;
        let (status, sample) = Sample::parse(&fs::read(&result).context("launcher")?)?;
        if status != 0 {
            bail!("{line}: wait status {status:#x}: {}", answer.output.stderr.trim());
        }
        let cost = Cost { wall: sample.wall, cpu };
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

/// `ctr run`, and programs in many containers that are alive, as probes are.
fn containerd(place: &Place<'_>, group: &str, rounds: usize) -> Result<Vec<EngineRecord>> {
    place.write(
        "/etc/containerd/config.toml",
        "version = 2\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n",
    );
    place.start("containerd", "containerd");
    place.eventually("containerd answers", || place.sh("ctr version").output.code == 0);
    let version = place.sh("containerd --version").output.success().to_owned();
    let version = version.split(' ').nth(2).unwrap_or("?");
    let mut bench = Bench::new(place, &format!("containerd {version}"), group)?;
    // containerd's namespace is the cgroup of its containers.
    let ctr = format!("$(command -v ctr) --namespace {}", place.bed.name);
    place.sh(&format!("{ctr} images pull --plain-http {IMAGE}")).output.success();
    let runtimes = both()?;
    let run = |program: &Path, options: &str, id: &str, command: &str| {
        format!("{ctr} run --runc-binary {} {options} {IMAGE} {id} {command}", program.display())
    };
    for (_, program) in &runtimes {
        place.sh(&run(program, "--rm", "first", "true")).output.success();
    }
    for round in 0..2 * rounds {
        for (name, program) in turns(&runtimes, round) {
            bench.add("ctr run --rm", name, &run(&program, "--rm", "one", "true"))?;
        }
    }
    let mut ids = Vec::new();
    for number in 0..PROBED {
        for (name, program) in &runtimes {
            let id = format!("{name}-{number}");
            place.sh(&run(program, "-d", &id, "sleep 10000")).output.success();
            ids.push(id);
        }
    }
    let probe = format!("ctr task exec, {PROBED} containers probed in turn");
    for round in 0..rounds.div_ceil(20) {
        for number in 0..PROBED {
            for (name, _) in turns(&runtimes, round + number) {
                let line = format!("{ctr} task exec --exec-id probe {name}-{number} true");
                bench.add(&probe, name, &line)?;
            }
        }
    }
    let ids = ids.join(" ");
    place.sh(&format!("{ctr} task rm --force {ids} && {ctr} container rm {ids}")).output.success();
    Ok(bench.records())
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
            bench.add("docker run --rm", name, &line)?;
        }
    }
    for round in 0..2 * rounds {
        for (name, _) in turns(&pairs, round) {
            bench.add("docker exec", name, &format!("{client} exec {name} true"))?;
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
