//! What is measured. Within a case the runtimes take turns (A B C A B C ...), so
//! that whatever else the machine does falls on all of them alike.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::bed::{Bed, Container, Launch, MOST_BINDS, VOLUME};
use crate::results::{Record, Setting};
use crate::runtime::{FERRUN, Runtime};
use crate::sample::{Sample, Summary, median};

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Extent {
    /// Rounds of every case; those with many containers take fewer.
    pub rounds: usize,
    /// How many other containers there are, in the cases about that.
    pub existing: Vec<usize>,
}

/// Docker's default profile, as Docker 29 hands it to a runtime on x86_64.
const DOCKER_PROFILE: &str = include_str!("../../seccomp/tests/data/docker-29.json");
/// How many containers `many` runs.
const MANY: usize = 50;

/// Samples by command and runtime, in the order of their first coming.
#[derive(Debug, Default)]
struct Samples(Vec<(String, String, Vec<Sample>)>);

impl Samples {
    fn add(&mut self, command: &str, runtime: &Runtime, sample: Sample) {
        let known = self.0.iter_mut().find(|(a, b, _)| a == command && *b == runtime.name);
        match known {
            Some((.., samples)) => samples.push(sample),
            None => self.0.push((command.to_owned(), runtime.name.clone(), vec![sample])),
        }
    }

    fn records(self, bed: &Bed, setting: Setting) -> Vec<Record> {
        let record = |(command, runtime, samples): (String, String, Vec<Sample>)| {
            let summary = Summary::of(&samples)?;
            let view = bed.view;
            Some(Record { view, setting, command, runtime, summary, rate: None, calls: None })
        };
        self.0.into_iter().filter_map(record).collect()
    }
}

/// The runtimes in the order of one round: nobody always comes first.
fn turns(runtimes: &[Runtime], round: usize) -> impl Iterator<Item = &Runtime> {
    let first = round % runtimes.len().max(1);
    runtimes.iter().cycle().skip(first).take(runtimes.len())
}

/// Whether a runtime can run the default bundle here. Its first run also fills the
/// caches, and is not measured.
///
/// # Errors
/// What it says where it cannot.
pub fn probe(bed: &Bed, runtime: &Runtime, config: &Value) -> Result<()> {
    let container = bed.container(config)?;
    bed.measure(&bed.command(runtime, &["run"], &container))?;
    bed.discard(&container)
}

/// A life, without and with Docker's profile: `run` of a program that ends at once;
/// `create`, `start`, `state`, `exec`, `list`, `kill`, `delete` of one that stays.
pub fn lives(
    bed: &Bed,
    runtimes: &[Runtime],
    config: &Value,
    rounds: usize,
) -> Result<Vec<Record>> {
    let mut parts = [
        (Setting::Default, config.clone(), Samples::default()),
        (Setting::Seccomp, with_profile(config)?, Samples::default()),
    ];
    for round in 0..rounds {
        // Whatever comes second finds its runtime's pages warm.
        parts.reverse();
        for runtime in turns(runtimes, round) {
            for (setting, config, samples) in &mut parts {
                // The floor knows no filters.
                if runtime.is_floor() && *setting == Setting::Seccomp {
                    continue;
                }
                run_once(bed, Launch::Time, runtime, config, samples)?;
                if !runtime.is_floor() {
                    live(bed, Launch::Time, runtime, &staying(config), samples)?;
                }
            }
        }
    }
    parts.sort_by_key(|(setting, ..)| *setting == Setting::Seccomp);
    let mut all = Vec::new();
    for (setting, config, samples) in parts {
        let mut records = samples.records(bed, setting);
        count_calls(bed, runtimes, &config, setting, &mut records)?;
        count_instructions(bed, runtimes, &config, setting, &mut records)?;
        all.extend(records);
    }
    Ok(all)
}

fn run_once(
    bed: &Bed,
    how: Launch,
    runtime: &Runtime,
    config: &Value,
    samples: &mut Samples,
) -> Result<()> {
    let container = bed.container(config)?;
    let command = bed.command(runtime, &["run"], &container);
    samples.add("run", runtime, bed.start(how, &command, 0)?.finish()?);
    bed.discard(&container)
}

fn live(
    bed: &Bed,
    how: Launch,
    runtime: &Runtime,
    config: &Value,
    samples: &mut Samples,
) -> Result<()> {
    let container = bed.container(config)?;
    let measure = |command: &[String]| bed.start(how, command, 0)?.finish();
    let steps: [&[&str]; 6] =
        [&["create"], &["start"], &["state"], &["exec", "true"], &["list"], &["kill", "KILL"]];
    for verb in steps {
        let sample = measure(&bed.command(runtime, verb, &container))?;
        samples.add(verb.first().copied().unwrap_or_default(), runtime, sample);
        // Its floor enters the container that it is compared in.
        if runtime.name == FERRUN && verb.first() == Some(&"exec") {
            let sample = measure(&bed.entrance(&container)?)?;
            samples.add("exec", &Runtime::floor(), sample);
        }
    }
    bed.reap(&container)?;
    let sample = measure(&bed.command(runtime, &["delete"], &container))?;
    samples.add("delete", runtime, sample);
    bed.discard(&container)
}

/// `run` with many bind mounts.
pub fn binds(
    bed: &Bed,
    runtimes: &[Runtime],
    config: &Value,
    count: usize,
    rounds: usize,
) -> Result<Vec<Record>> {
    let config = with_binds(bed, config, count);
    let mut samples = Samples::default();
    for round in 0..rounds {
        for runtime in turns(runtimes, round) {
            run_once(bed, Launch::Time, runtime, &config, &mut samples)?;
        }
    }
    Ok(samples.records(bed, Setting::Binds(count)))
}

/// 50 containers, one after another and at once.
pub fn many(
    bed: &Bed,
    runtimes: &[Runtime],
    config: &Value,
    setting: Setting,
    rounds: usize,
) -> Result<Vec<Record>> {
    let (count, at_once) = match setting {
        Setting::AtOnce(count) => (count, count),
        Setting::InSequence(count) => (count, 1),
        _ => bail!("{setting:?}: not about many containers"),
    };
    let mut samples = Samples::default();
    let mut rates: Vec<(&Runtime, f64)> = Vec::new();
    for round in 0..rounds {
        for runtime in turns(runtimes, round) {
            let containers: Vec<Container> =
                (0..count).map(|_| bed.container(config)).collect::<Result<_>>()?;
            let begin = Instant::now();
            for wave in containers.chunks(at_once) {
                let running = wave.iter().enumerate().map(|(slot, container)| {
                    bed.start(Launch::Time, &bed.command(runtime, &["run"], container), slot)
                });
                for running in running.collect::<Result<Vec<_>>>()? {
                    samples.add("run", runtime, running.finish()?);
                }
            }
            rates.push((runtime, count as f64 / begin.elapsed().as_secs_f64()));
            containers.iter().try_for_each(|container| bed.discard(container))?;
        }
    }
    let mut records = samples.records(bed, setting);
    for record in &mut records {
        let own = rates.iter().filter(|(runtime, _)| runtime.name == record.runtime);
        let mut own: Vec<f64> = own.map(|(_, rate)| *rate).collect();
        own.sort_by(f64::total_cmp);
        record.rate = own.get(own.len() / 2).copied();
    }
    Ok(records)
}

/// The settings of `many`.
pub fn many_settings() -> [Setting; 2] {
    [Setting::InSequence(MANY), Setting::AtOnce(MANY)]
}

/// `run`, `state`, `kill` and `list` beside many other containers of the same
/// runtime, which run: of one that was only created crun knows without a look at its
/// freezer that it is not paused. They have no network namespace of their own, which would be most of
/// the waiting. Here each runtime is measured alone: all at once would be
/// thousands of containers.
pub fn existing(
    bed: &Bed,
    runtimes: &[Runtime],
    config: &Value,
    count: usize,
    rounds: usize,
) -> Result<Vec<Record>> {
    let resident = resident(config);
    let mut samples = Samples::default();
    for runtime in runtimes.iter().filter(|runtime| !runtime.is_floor()) {
        let others: Vec<Container> =
            (0..count).map(|_| bed.container(&resident)).collect::<Result<_>>()?;
        for other in &others {
            bed.measure(&bed.command(runtime, &["create"], other))?;
            bed.measure(&bed.command(runtime, &["start"], other))?;
        }
        let one = others.last().context("no containers")?;
        for _ in 0..rounds {
            run_once(bed, Launch::Time, runtime, config, &mut samples)?;
            for verb in [&["state"][..], &["kill", "CONT"], &["list"]] {
                let sample = bed.measure(&bed.command(runtime, verb, one))?;
                samples.add(verb.first().copied().unwrap_or_default(), runtime, sample);
            }
        }
        for other in &others {
            bed.measure(&bed.command(runtime, &["delete", "--force"], other))?;
            bed.reap(other)?;
            bed.discard(other)?;
        }
    }
    Ok(samples.records(bed, Setting::Existing(count)))
}

/// Counts the instructions of each command, in some lives of their own, and puts them into
/// its record. Nothing is done where the machine does not count them.
fn count_instructions(
    bed: &Bed,
    runtimes: &[Runtime],
    config: &Value,
    setting: Setting,
    records: &mut [Record],
) -> Result<()> {
    const LIVES: usize = 5;
    for runtime in runtimes.iter().filter(|r| !(r.is_floor() && setting == Setting::Seccomp)) {
        let mut counted = Samples::default();
        for _ in 0..LIVES {
            run_once(bed, Launch::Count, runtime, config, &mut counted)?;
            if counted.0.iter().all(|(.., samples)| samples.iter().all(is_uncounted)) {
                return Ok(());
            }
            if !runtime.is_floor() {
                live(bed, Launch::Count, runtime, &staying(config), &mut counted)?;
            }
        }
        for (command, name, samples) in counted.0 {
            let same = |record: &&mut Record| record.command == command && record.runtime == name;
            if let Some(record) = records.iter_mut().find(same) {
                record.summary.instructions =
                    median(samples.iter().filter_map(|sample| sample.instructions));
            }
        }
    }
    Ok(())
}

fn is_uncounted(sample: &Sample) -> bool {
    sample.instructions.is_none()
}

/// Counts the system calls of each command under strace and puts them into its
/// record. Those of a command's children count until the command itself ends.
fn count_calls(
    bed: &Bed,
    runtimes: &[Runtime],
    config: &Value,
    setting: Setting,
    records: &mut [Record],
) -> Result<()> {
    let staying = staying(config);
    for runtime in runtimes {
        if runtime.is_floor() && setting == Setting::Seccomp {
            continue;
        }
        let container = bed.container(config)?;
        let mut counts = vec![("run", trace(bed, runtime, &["run"], &container)?)];
        bed.discard(&container)?;
        if !runtime.is_floor() {
            let container = bed.container(&staying)?;
            counts.push(("create", trace(bed, runtime, &["create"], &container)?));
            counts.push(("start", trace(bed, runtime, &["start"], &container)?));
            counts.push(("state", trace(bed, runtime, &["state"], &container)?));
            counts.push(("exec", trace(bed, runtime, &["exec", "true"], &container)?));
            counts.push(("list", trace(bed, runtime, &["list"], &container)?));
            counts.push(("kill", trace(bed, runtime, &["kill", "KILL"], &container)?));
            wait_for_death(&container)?;
            counts.push(("delete", trace(bed, runtime, &["delete"], &container)?));
            bed.discard(&container)?;
        }
        for (command, calls) in counts {
            let same =
                |record: &&mut Record| record.command == command && record.runtime == runtime.name;
            if let Some(record) = records.iter_mut().find(same) {
                record.calls = Some(calls);
            }
        }
    }
    Ok(())
}

/// The system calls of one command until it ends, by strace(1).
fn trace(bed: &Bed, runtime: &Runtime, verb: &[&str], container: &Container) -> Result<u64> {
    let log = container.bundle.join(format!("strace-{}", verb.join("-")));
    let mut strace = Command::new("strace")
        .args(["-f", "-q", "-o"])
        .arg(&log)
        .args(bed.command(runtime, verb, container))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .context("strace")?;
    // It stays as long as a traced child does, and so `create`'s longer than the command.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(calls) = calls_of_first(&fs::read_to_string(&log).unwrap_or_default()) {
            if verb != ["create"] {
                strace.wait()?;
            }
            return Ok(calls);
        }
        if Instant::now() > deadline {
            strace.kill()?;
            bail!("{} {verb:?} did not end under strace", runtime.name);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Counts the calls in a log of `strace -f` until its first process has ended;
/// nothing where it has not.
fn calls_of_first(log: &str) -> Option<u64> {
    let first = log.split_whitespace().next()?;
    let mut calls = 0;
    for line in log.lines() {
        let (pid, event) = line.split_once(' ')?;
        let event = event.trim_start();
        match event.chars().next()? {
            '+' if pid == first => return Some(calls),
            // The second half of a call, the end of another process, a signal.
            '<' | '+' | '-' => {}
            _ => calls += 1,
        }
    }
    None
}

/// A traced init is strace's child: that it died shows in /proc alone.
fn wait_for_death(container: &Container) -> Result<()> {
    let status = format!("/proc/{}/stat", container.pid()?);
    let deadline = Instant::now() + Duration::from_secs(10);
    while Path::new(&status).exists() {
        if Instant::now() > deadline {
            bail!("init of {} did not end", container.id);
        }
        std::thread::sleep(Duration::from_millis(5));
        // Reparented ones are ours.
        let _ = nix::sys::wait::waitpid(
            nix::unistd::Pid::from_raw(-1),
            Some(nix::sys::wait::WaitPidFlag::WNOHANG),
        );
    }
    Ok(())
}

fn staying(config: &Value) -> Value {
    let mut config = config.clone();
    config["process"]["args"] = json!(["sleep", "1000"]);
    config
}

fn with_profile(config: &Value) -> Result<Value> {
    let mut config = config.clone();
    config["linux"]["seccomp"] = serde_json::from_str(DOCKER_PROFILE)?;
    Ok(config)
}

fn with_binds(bed: &Bed, config: &Value, count: usize) -> Value {
    let mut config = config.clone();
    // crun opens all sources at once and under the container's limit, 1024.
    config["process"]["rlimits"] = json!([]);
    let source = bed.directory.join(VOLUME);
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.extend((0..count.min(MOST_BINDS)).map(|number| {
            json!({"destination": format!("/binds/{number:04}"), "type": "bind",
                "source": source, "options": ["bind", "ro"]})
        }));
    }
    config
}

/// A container of `existing`. Without a network namespace of its own it cannot have a sysfs
/// of its own either.
fn resident(config: &Value) -> Value {
    let mut config = staying(config);
    if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
    }
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["type"] != "sysfs" && mount["type"] != "cgroup");
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_until_the_first_process_ends() {
        let log = "7 execve(\"/bin/x\") = 0\n\
                   7 clone3({flags=0} <unfinished ...>\n\
                   8 getpid( <unfinished ...>\n\
                   7 <... clone3 resumed>) = 8\n\
                   8 <... getpid resumed>) = 1\n\
                   8 --- SIGCHLD {si_signo=SIGCHLD} ---\n\
                   7 exit_group(0) = ?\n\
                   7 +++ exited with 0 +++\n\
                   8 read(0, \"\", 1) = 0\n";
        assert_eq!(calls_of_first(log), Some(4));
        assert_eq!(calls_of_first("7 execve(\"/bin/x\") = 0\n8 +++ exited with 0 +++\n"), None);
        assert_eq!(calls_of_first(""), None);
    }

    #[test]
    fn nobody_always_comes_first() {
        let runtimes = ["a", "b", "c"].map(|name| Runtime { name: name.into(), path: "/x".into() });
        let order =
            |round| -> String { turns(&runtimes, round).map(|r| r.name.as_str()).collect() };
        assert_eq!([order(0), order(1), order(2), order(3)], ["abc", "bca", "cab", "abc"]);
    }

    #[test]
    fn dockers_profile_is_one() {
        let config = with_profile(&json!({"linux": {}})).unwrap();
        assert_eq!(config["linux"]["seccomp"]["syscalls"].as_array().unwrap().len(), 15);
    }
}
