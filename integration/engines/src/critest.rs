//! Kubernetes' own tests of the interface between it and containerd (critest): whatever
//! passes with runc passes with the runtime too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use integration::within;
use serde_json::Value;

use crate::containerd::{Containerd, PEER};

/// What the machine has no kernel for, and what is no runtime's business.
const LEFT_OUT: &str = "AppArmor|SELinux|NRI|benchmark";
/// How long a run may take. It waits more than it works.
const PATIENCE: Duration = Duration::from_secs(540);

/// How often what failed is run once more after the second time.
const MORE_TRIES: u32 = 2;

/// What came of a specification, and why it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Passed,
    /// It does not, and why.
    Failed(String),
    /// It was left out.
    Skipped,
}

/// What came of all, by their names.
pub type Verdicts = BTreeMap<String, Verdict>;

/// Runs all with one of the daemon's runtimes, `ours`, and with runc: what passes with runc
/// passes with ours.
#[track_caller]
pub fn compare(daemon: &Containerd<'_>, ours_is: &str) {
    if !Path::new(PEER).exists() {
        return daemon.place.bed.skip("there is no runc to compare with");
    }
    let (mut ours, mut peers) = (run(daemon, ours_is, &[]), run(daemon, "runc", &[]));
    // Some fail now and then, whatever runs them: those get another try, with runc too.
    let failed = |_: &str, verdict: &Verdict| matches!(verdict, Verdict::Failed(_));
    let again = chosen(&ours, failed);
    if !again.is_empty() {
        take_better(&mut ours, run(daemon, ours_is, &again));
        take_better(&mut peers, run(daemon, "runc", &again));
    }
    // On a busy machine containerd itself loses a race more than once: what it says of a
    // container comes late. What runc has passed by then may be tried again.
    for _ in 0..MORE_TRIES {
        let again = chosen(&ours, |name, verdict| {
            failed(name, verdict) && peers.get(name) == Some(&Verdict::Passed)
        });
        if again.is_empty() {
            break;
        }
        eprintln!("once more: {again:?}");
        take_better(&mut ours, run(daemon, ours_is, &again));
    }
    show(ours_is, &ours, &peers);
    // Only if it is empty: of the groups that containers had, containerd's own is left.
    let hierarchies = daemon.place.bed.by_version("*/", "");
    daemon.place.sh(&format!("rmdir /sys/fs/cgroup/{hierarchies}k8s.io")).succeeds();
    let passed = names(&peers, |verdict| *verdict == Verdict::Passed);
    daemon.place.claim("most of them pass with runc", passed.len() >= 90);
    let missing: Vec<_> =
        passed.iter().filter(|name| ours.get(**name) != Some(&Verdict::Passed)).collect();
    for name in &missing {
        eprintln!("{name}: {:?}", ours.get(**name));
    }
    daemon.place.claim("what passes with runc passes", missing.is_empty());
    for _ in names(&ours, |verdict| *verdict == Verdict::Passed) {
        daemon.place.step();
    }
}

/// Runs all specifications, or `only` these, with one of the daemon's runtimes.
#[track_caller]
fn run(daemon: &Containerd<'_>, handler: &str, only: &[String]) -> Verdicts {
    let name = format!("critest-{}", daemon.place.bed.next());
    let directory = daemon.place.bed.make_directory(&name, 0o755);
    let focus =
        if only.is_empty() { String::new() } else { format!("--focus='{}'", pattern(only)) };
    let line = format!(
        "ginkgo run --procs=4 --no-color --skip='{LEFT_OUT}' {focus} \
         --output-dir={} --json-report=report.json $(command -v critest.test) -- \
         -runtime-endpoint=unix:///run/containerd/containerd.sock -runtime-handler={handler}",
        directory.display(),
    );
    let ended = directory.join("ended");
    let running = daemon.place.begin(&format!("{line}; touch {}", ended.display()));
    within(PATIENCE, "critest ends", || ended.exists());
    let output = running.wait();
    let report = fs::read(directory.join("report.json"))
        .unwrap_or_else(|error| panic!("critest's report: {error}: {output}"));
    let report: Value = serde_json::from_slice(&report).expect("a report");
    let specs = report[0]["SpecReports"].as_array().into_iter().flatten();
    specs.filter(|spec| spec["LeafNodeType"] == "It").map(verdict).collect()
}

/// The name of a specification, and what came of it.
fn verdict(spec: &Value) -> (String, Verdict) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut words: Vec<_> =
        spec["ContainerHierarchyTexts"].as_array().into_iter().flatten().map(text).collect();
    words.push(text(&spec["LeafNodeText"]));
    let verdict = match spec["State"].as_str() {
        Some("passed") => Verdict::Passed,
        Some("skipped" | "pending") => Verdict::Skipped,
        _ => Verdict::Failed(text(&spec["Failure"]["Message"])),
    };
    (words.join(" "), verdict)
}

/// An expression that matches these names. What might be a sign of its own in there is any.
fn pattern(names: &[String]) -> String {
    let plain = |sign: char| if sign.is_ascii_alphanumeric() { sign } else { '.' };
    let names: Vec<String> = names
        .iter()
        .map(|name| format!("^{}$", name.chars().map(plain).collect::<String>()))
        .collect();
    names.join("|")
}

/// The names of those of which this holds.
pub fn names(verdicts: &Verdicts, wanted: impl Fn(&Verdict) -> bool) -> Vec<&str> {
    let found = verdicts.iter().filter(|(_, verdict)| wanted(verdict));
    found.map(|(name, _)| name.as_str()).collect()
}

fn chosen(verdicts: &Verdicts, wanted: impl Fn(&str, &Verdict) -> bool) -> Vec<String> {
    let chosen = verdicts.iter().filter(|(name, verdict)| wanted(name, verdict));
    chosen.map(|(name, _)| name.clone()).collect()
}

fn take_better(verdicts: &mut Verdicts, again: Verdicts) {
    verdicts.extend(again.into_iter().filter(|(_, verdict)| *verdict == Verdict::Passed));
}

/// Prints both sets side by side, past cargo's harness.
pub fn show(ours_is: &str, ours: &Verdicts, peers: &Verdicts) {
    let mut text = format!("{:<8} {:<8} specification\n", ours_is, "runc");
    for (name, verdict) in ours {
        let word = |verdict: Option<&Verdict>| match verdict {
            Some(Verdict::Passed) => "passes",
            Some(Verdict::Failed(_)) => "FAILS",
            Some(Verdict::Skipped) | None => "-",
        };
        if *verdict != Verdict::Skipped || peers.get(name) != Some(&Verdict::Skipped) {
            let (ours, peers) = (word(Some(verdict)), word(peers.get(name)));
            let _ = writeln!(text, "{ours:<8} {peers:<8} {name}");
        }
    }
    let count = |verdicts| names(verdicts, |verdict| *verdict == Verdict::Passed).len();
    let _ = writeln!(text, "{:<8} {:<8} pass", count(ours), count(peers));
    let _ = std::io::stderr().write_all(text.as_bytes());
}
