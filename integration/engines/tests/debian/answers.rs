//! What engines ask a runtime for and what it answers, call by call, beside what Debian's
//! runc answers to the same calls. Values differ from run to run; fields and their types,
//! exit codes, and the words that callers look for in an error must not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use engines::docker::{Docker, PROGRAMS};
use engines::podman::{self, configure_with};
use engines::{Place, Recorded, Recorder, form, in_place};
use integration::runtime;
use serde_json::{Value, json};

/// The runtime whose answers all callers know.
const PEER: &str = "/usr/sbin/runc";

/// What dockerd, Docker's client, containerd's shim, Podman and CRI-O look for in errors.
const WORDS: [&str; 11] = [
    "executable file not found in $path",
    "no such file or directory",
    "permission denied",
    "operation not permitted",
    "not a directory",
    "container not running",
    "container not paused",
    "container already exists",
    "does not exist",
    "no such process",
    "process already finished",
];

/// Fields that are not compared: annotations of `features` have names of the runtime's own,
/// and how often a container was throttled is chance, with zeros left out.
const OWN: [&str; 2] = ["annotations", "throttling"];

/// Calls by what was typed that led to them.
type Calls<'a> = BTreeMap<&'a str, Vec<&'a Recorded>>;

/// All that is recorded of a runtime at work for Docker, and when asked by hand.
fn record(place: &Place<'_>, program: &Path) -> Vec<Recorded> {
    let recorder = Recorder::new(place.bed, program);
    configure_with(place, &recorder.program);
    let docker = Docker::start_with(place, &recorder.program, &json!({}));
    let types = |line: &str| {
        recorder.title(line);
        docker.sh(line);
        recorder.settle();
    };
    types("docker run --rm alpine echo hello");
    types("docker run --rm alpine sh -c 'exit 7'");
    types("docker run --rm alpine no-such-program");
    types("docker run --rm alpine /no/such/program");
    types("docker run --rm alpine /etc/passwd");
    types("docker run -d --name one --pid host alpine sleep 1000");
    types("docker rm -f one");
    types("docker run -d --name one -m 64m --cpus 0.5 alpine sleep 1000");
    types("docker exec one true");
    types("docker exec one no-such-program");
    types("docker exec -d one sleep 500");
    types("docker top one");
    types("docker pause one");
    types("docker unpause one");
    types("docker update --memory 96m --memory-swap -1 --pids-limit 50 one");

    // Shims of Docker's containerd keep the records of their containers here.
    let id = docker.inspect("one", ".Id");
    let runtime = recorder.program.display();
    let asks = |line: &str| {
        let line = line.replace("ID", &id);
        recorder.title(&line.replace(&id, "ID"));
        docker.sh(&format!("{runtime} --root /run/docker/runtime-runc/moby {line}"));
    };
    asks("state ID");
    asks("list --format json");
    asks("list");
    asks("list -q");
    asks("ps --format json ID");
    asks("ps ID");
    asks("events --stats ID");
    asks("features");
    asks("--version");
    asks("pause ID");
    asks("state ID");
    asks("pause ID");
    asks("resume ID");
    asks("resume ID");
    asks("start ID");
    asks("state missing");
    asks("kill missing 9");
    asks("ps missing");
    asks("pause missing");
    asks("delete missing");
    asks("delete --force missing");
    asks("delete ID");
    asks("update --memory 1k missing");

    types("docker kill one");
    docker.becomes("one", ".State.Running", "false");
    types("docker start one");
    types("docker stop -t 0 one");
    types("docker rm one");
    for line in [
        "podman run --name two --detach GROUP alpine sleep 1000",
        "podman exec two true",
        "podman exec two no-such-program",
        "podman exec two /etc/passwd",
        "podman pause two",
        "podman unpause two",
        "podman update --memory 96m two",
        "podman kill two && podman rm -f two",
        "podman run --rm GROUP alpine no-such-program",
        "podman run --rm GROUP alpine /etc/passwd",
    ] {
        recorder.title(line);
        let group = format!("--network none --cgroup-parent /{}", place.bed.name);
        place.sh(&line.replace("GROUP", &group));
        recorder.settle();
    }
    recorder.title("");
    place.remove_group("conmon");
    recorder.calls()
}

/// The calls of each line, in an order that does not depend on which of two processes
/// came first, nor on whether both have cleaned up.
fn by_title(calls: &[Recorded]) -> Calls<'_> {
    let mut sorted = Calls::new();
    for call in calls.iter().filter(|call| !call.title.is_empty()) {
        sorted.entry(&call.title).or_default().push(call);
    }
    for calls in sorted.values_mut() {
        calls.sort_by_key(|call| call.form());
        calls.dedup_by(|one, other| one.verb() == "delete" && one.form() == other.form());
    }
    sorted
}

/// Whether both runtimes leave a field out where the kernel has counted nothing: what a container
/// reads comes from the disk for whoever reads it first, and from memory for the one after.
fn is_left_out(place: &str, key: &str) -> bool {
    (place.ends_with(".data.blkio") && key.starts_with("io"))
        || (place.ends_with(".data.memory") && key == "cache")
}

/// Where an answer lacks a field that the other has, or has another type there. What it
/// has more is its own.
fn differences(place: &str, expected: &Value, found: &Value, into: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            for (key, value) in expected.iter().filter(|(key, _)| !OWN.contains(&key.as_str())) {
                match found.get(key) {
                    Some(other) => differences(&format!("{place}.{key}"), value, other, into),
                    None if is_left_out(place, key) => {}
                    None => into.push(format!("{place}.{key} is missing")),
                }
            }
        }
        (Value::Array(expected), Value::Array(found)) => {
            if let (Some(expected), Some(found)) = (expected.first(), found.first()) {
                differences(&format!("{place}[0]"), expected, found, into);
            }
        }
        _ if std::mem::discriminant(expected) != std::mem::discriminant(found) => {
            into.push(format!("{place} is {found}, not like {expected}"));
        }
        _ => {}
    }
}

/// The last entry of a log that is an error, as containerd's shim reads it, or else the
/// last line.
fn error(call: &Recorded) -> String {
    let mut entries = call.log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let last = entries.rfind(|entry| entry["level"] == "error");
    let text = last.map(|entry| entry["msg"].as_str().unwrap_or_default().to_owned());
    text.unwrap_or_else(|| call.log.lines().last().unwrap_or_default().to_owned()).to_lowercase()
}

fn compare(expected: &Recorded, found: &Recorded, into: &mut Vec<String>) {
    let title = format!("{}: {}", expected.title, expected.form());
    if expected.code != found.code {
        into.push(format!("{title}: exit code {}, not {}", found.code, expected.code));
    }
    if expected.code != 0 {
        let [expected, found] = [expected, found].map(error);
        let known = |text: &str| WORDS.map(|word| text.contains(word));
        if known(&expected) != known(&found) {
            into.push(format!("{title}: {found:?} has not the words of {expected:?}"));
        }
    }
    for (name, expected, found) in
        [("stdin", &expected.stdin, &found.stdin), ("stdout", &expected.stdout, &found.stdout)]
    {
        match (fields(expected), fields(found)) {
            (Some(expected), Some(found)) => {
                differences(&format!("{title}: {name}"), &expected, &found, into);
            }
            (None, None) => {
                // Text: a table's header, or a list of names and values.
                let heads = [expected, found].map(|text| head(text));
                if heads[0] != heads[1] {
                    into.push(format!("{title}: {name}: {:?}, not {:?}", heads[1], heads[0]));
                }
            }
            _ => into.push(format!("{title}: {name}: {found:?}, not like {expected:?}")),
        }
    }
}

/// What callers take apart: JSON, or the lines that they read of `--version`.
fn fields(text: &str) -> Option<Value> {
    if !text.lines().next().is_some_and(|line| line.contains(" version ")) {
        return serde_json::from_str(text).ok();
    }
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    let read = lines.filter(|(name, _)| ["commit", "spec"].contains(name));
    Some(read.map(|(name, value)| (name.to_owned(), json!(value))).collect())
}

/// The words of a text's first line.
fn head(text: &str) -> String {
    form(text.lines().next().unwrap_or_default())
}

#[test]
fn engines_are_answered_as_runc_answers_them() {
    if !Path::new(PEER).exists() {
        eprintln!("SKIP: {PEER} is not installed");
        return;
    }
    let peer = Mutex::new(Vec::new());
    let programs = [&PROGRAMS[..], &podman::PROGRAMS].concat();
    in_place(&programs, |place| *peer.lock().unwrap() = record(place, Path::new(PEER)));
    in_place(&programs, |place| {
        let own = record(place, &runtime().program);
        compare_all(place, &by_title(&peer.lock().unwrap()), &by_title(&own));
    });
}

fn compare_all(place: &Place<'_>, peer: &Calls<'_>, own: &Calls<'_>) {
    let mut wrong = Vec::new();
    for (title, expected) in peer {
        let found = own.get(title).map(Vec::as_slice).unwrap_or_default();
        let [forms, own_forms] = [expected.as_slice(), found]
            .map(|calls| calls.iter().map(|call| call.form()).collect::<Vec<_>>());
        if forms != own_forms {
            wrong.push(format!("{title}: the calls are {own_forms:#?}, not {forms:#?}"));
            continue;
        }
        for (expected, found) in expected.iter().zip(found) {
            compare(expected, found, &mut wrong);
            place.step();
        }
    }
    let verbs: Vec<&str> = peer.values().flatten().map(|call| call.verb()).collect();
    for verb in ["create", "start", "exec", "kill", "delete", "ps", "pause", "resume", "update"] {
        assert!(verbs.contains(&verb), "no engine has called {verb}");
    }
    let failed = peer.values().flatten().filter(|call| call.code != 0).map(|call| error(call));
    let errors = failed.collect::<Vec<_>>().join("\n");
    for word in ["executable file not found", "permission denied", "not running", "not exist"] {
        assert!(errors.contains(word), "{word:?} is in no error:\n{errors}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
