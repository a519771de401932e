//! The conversation with CRIU, of which a stand-in holds one side: what it is asked, and what
//! becomes of a container where it answers wrongly, or not at all.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use integration::criu::{Field, Message};
use integration::{Bed, Call, as_root, eventually};

/// Writes each request to a file, and answers as the file `answers` says: a line for each kind of
/// request, of Python.
const STAND_IN: &str = r#"#!/usr/bin/python3
import os, pathlib, socket, sys

here = pathlib.Path(__file__).parent
assert sys.argv[1:] == ["swrk", "3"], sys.argv
talk = socket.socket(fileno=3)

def hear():
    message = talk.recv(1 << 20)
    if not message:
        sys.exit(1)
    with (here / "asked").open("a") as asked:
        asked.write(message.hex() + "\n")
    return message

def say(*fields):
    talk.send(bytes(fields))

def step(name, pid=None):
    body = bytes([0x0a, len(name)]) + name.encode()
    if pid is not None:
        low, high = pid & 0x7f | 0x80, pid >> 7
        middle, high = high & 0x7f | 0x80, high >> 7
        body += bytes([0x10, low, middle, high])
    talk.send(bytes([0x08, 6, 0x10, 1, 0x2a, len(body)]) + body)
    return hear()

def version(major, minor):
    say(0x08, 10, 0x10, 1, 0x52, 4, 0x08, major, 0x10, minor)

kind = hear()[1]
KINDS = {1: "dump", 2: "restore", 4: "pre-dump", 9: "features", 10: "version"}
for line in (here / "answers").read_text().splitlines():
    name, what = line.split(": ", 1)
    if name == KINDS[kind]:
        exec(what)
        break
"#;

/// A stand-in in a directory of its own.
struct StandIn<'bed> {
    bed: &'bed Bed,
    place: PathBuf,
}

const NEW: &str = "version: version(4, 1)\n";

impl<'bed> StandIn<'bed> {
    fn new(bed: &'bed Bed) -> Self {
        let place = bed.make_directory(&format!("stand-in-{}", bed.next()), 0o755);
        fs::write(place.join("criu"), STAND_IN).unwrap();
        fs::set_permissions(place.join("criu"), fs::Permissions::from_mode(0o755)).unwrap();
        Self { bed, place }
    }

    /// A call of the runtime where it answers so.
    fn call(&self, answers: &str, verb: &str) -> Call {
        fs::write(self.place.join("answers"), answers).unwrap();
        let _ = fs::remove_file(self.place.join("asked"));
        let path = format!("{}:/usr/bin:/bin", self.place.display());
        let image = self.place.join("image");
        self.bed.call().env("PATH", path).arg(verb).args(["--image-path"]).arg(image)
    }

    /// What it was asked last that is of this kind.
    #[track_caller]
    fn asked(&self, kind: u64) -> Message {
        let text = fs::read_to_string(self.place.join("asked")).unwrap();
        let bytes = |line: &str| -> Vec<u8> {
            let pairs = line.as_bytes().chunks(2);
            pairs
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect()
        };
        let mut messages = text.lines().map(|line| Message::read(&bytes(line)));
        let is_it = |message: &Message| message.0[0] == (1, Field::Number(kind));
        messages.rfind(is_it).unwrap_or_else(|| panic!("nothing of kind {kind}: {text}"))
    }

    /// The options of a request.
    #[track_caller]
    fn options(&self, kind: u64) -> Message {
        match self.asked(kind).0.into_iter().find(|(number, _)| *number == 2) {
            Some((_, Field::Bytes(bytes))) => Message::read(&bytes),
            other => panic!("no options: {other:?}"),
        }
    }
}

fn numbers(message: &Message, field: u64) -> Vec<u64> {
    let value = |(number, value): &(u64, Field)| match value {
        Field::Number(value) if *number == field => Some(*value),
        _ => None,
    };
    message.0.iter().filter_map(value).collect()
}

fn texts(message: &Message, field: u64) -> Vec<String> {
    let value = |(number, value): &(u64, Field)| match value {
        Field::Bytes(value) if *number == field => {
            Some(String::from_utf8_lossy(value).into_owned())
        }
        _ => None,
    };
    message.0.iter().filter_map(value).collect()
}

#[test]
fn each_option_is_handed_on() {
    as_root(|bed| {
        if bed.is_peer("it is ferrun that is asked") {
            return;
        }
        let criu = StandIn::new(bed);
        let container = bed.start(&bed.bundle().sh("while :; do sleep 1; done"));
        let done = format!("{NEW}dump: step('pre-dump'); step('x-unknown'); say(8, 1, 16, 1)\n");
        // By the field of criu_opts that says it (rpc.proto).
        for (option, field, value) in [
            ("--leave-running", 3, 1),
            ("--ext-unix-sk", 4, 1),
            ("--tcp-established", 5, 1),
            ("--shell-job", 7, 1),
            ("--file-locks", 8, 1),
            ("--auto-dedup", 16, 1),
            ("--link-remap", 18, 1),
            ("--tcp-skip-in-flight", 46, 1),
            ("--manage-cgroups-mode=full", 34, 4),
            ("--manage-cgroups-mode=ignore", 34, 0),
        ] {
            let call = criu.call(&done, "checkpoint").args([option, "--leave-running"]);
            call.arg(&container.id).output().success();
            let options = criu.options(1);
            assert_eq!(numbers(&options, field), [value], "{option}");
            assert_eq!(numbers(&options, 2), [container.pid() as u64]);
            assert_eq!((numbers(&options, 12), numbers(&options, 50)), (vec![1], vec![1]));
            let unasked = [4, 5, 7, 8, 16, 18, 46, 34];
            let others = unasked.into_iter().filter(|other| *other != field);
            assert!(
                others.into_iter().all(|other| numbers(&options, other).is_empty()),
                "{option}"
            );
        }
        let call = criu.call(&done, "checkpoint").args(["--page-server", "10.0.0.1:99"]);
        call.args(["--leave-running", "--empty-ns", "network", &container.id]).output().success();
        assert_eq!(texts(&criu.options(1), 11), ["\n\u{8}10.0.0.1\u{10}c"]);
        let log = texts(&criu.options(1), 10);
        assert_eq!((log, numbers(&criu.options(1), 38)), (vec!["dump.log".into()], vec![1 << 30]));
        assert_eq!(container.status(), "running");
    });
}

#[test]
fn what_is_not_there_is_said() {
    as_root(|bed| {
        if bed.is_peer("it is ferrun that is asked") {
            return;
        }
        let criu = StandIn::new(bed);
        let container = bed.start(&bed.bundle().sh("while :; do sleep 1; done"));
        let none = format!("{NEW}features: say(8, 9, 16, 1, 0x42, 4, 8, 0, 16, 0)\n");
        for (answers, option, reason) in [
            ("version: version(2, 12)\n", "--shell-job", "CRIU 2.12 is older than 3.0"),
            (&none, "--pre-dump", "--pre-dump: this kernel, or this CRIU, cannot know which pages"),
            (&none, "--lazy-pages", "--lazy-pages: this kernel, or this CRIU, cannot bring pages"),
        ] {
            let output = criu.call(answers, "checkpoint").args([option, &container.id]).output();
            assert!(output.failure(1).contains(reason), "{option}: {output}");
        }
        let there = format!(
            "{NEW}features: say(8, 9, 16, 1, 0x42, 4, 8, 1, 16, 1)\npre-dump: say(8, 4, 16, 1); hear()\n"
        );
        criu.call(&there, "checkpoint").args(["--pre-dump", &container.id]).output().success();
        assert!(texts(&criu.options(4), 23).is_empty(), "no mounts");
        assert_eq!(container.status(), "running");
    });
}

#[test]
fn a_dump_that_ends_in_any_way_leaves_the_container_as_it_was() {
    as_root(|bed| {
        if bed.is_peer("it is ferrun that is asked") {
            return;
        }
        let criu = StandIn::new(bed);
        let container = bed.start(&bed.bundle().sh("while :; do sleep 1; done"));
        let freezer = bed.by_version("freezer.state", "cgroup.freeze");
        let word = bed.by_version("FROZEN", "1");
        let group = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
        let path = |controller: &str| {
            let line = group.lines().find(|line| line.contains(controller)).unwrap();
            line.rsplit(':').next().unwrap().to_owned()
        };
        let file = match bed.by_version(true, false) {
            true => format!("/sys/fs/cgroup/freezer{}/{freezer}", path(":freezer:")),
            false => format!("/sys/fs/cgroup{}/{freezer}", path("0::")),
        };
        let freeze = format!("open({file:?}, 'w').write({word:?})");
        for (end, reason) in [
            ("sys.exit(0)", "criu ended by exit status: 0, and has not answered"),
            ("os.kill(os.getpid(), 9)", "criu ended by signal: 9"),
            ("talk.send(b'\\xff\\xff'); hear()", "criu's answer is not understood"),
            ("talk.send(b'x' * 70000); hear()", "criu says more than"),
            ("say(8, 1, 16, 0, 0x38, 13); hear()", "Permission denied"),
            ("say(8, 1, 16, 0, 0x4a, 3, 0x77, 0x68, 0x79); hear()", "to dump the container: why"),
            ("say(8, 1, 16, 1); sys.exit(3)", "criu ended by exit status: 3"),
        ] {
            let answers = format!("{NEW}dump: step('pre-dump'); {freeze}; {end}\n");
            let output = criu.call(&answers, "checkpoint").arg(&container.id).output();
            assert!(output.failure(1).contains(reason), "{end}: {output}");
            eventually("it runs again", || container.status() == "running");
        }
        // One that somebody has paused stays so.
        container.call("pause").success();
        let answers = format!("{NEW}dump: sys.exit(0)\n");
        criu.call(&answers, "checkpoint").arg(&container.id).output().failure(1);
        assert_eq!(container.status(), "paused");
        container.call("resume").success();
    });
}

#[test]
fn a_restore_that_ends_in_any_way_leaves_nothing() {
    as_root(|bed| {
        if bed.is_peer("it is ferrun that is asked") {
            return;
        }
        let criu = StandIn::new(bed);
        let bundle = bed.bundle().save().clone();
        let image = criu.place.join("image");
        fs::create_dir(&image).unwrap();
        fs::set_permissions(&image, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(image.join("inventory.img"), "x").unwrap();
        fs::write(image.join("descriptors.json"), "[]").unwrap();
        for (end, reason) in [
            ("sys.exit(0)", "has not answered"),
            ("os.kill(os.getpid(), 9)", "criu ended by signal: 9"),
            ("say(8, 2, 16, 1, 0x22, 2, 8, 1)", "criu has restored no process"),
            ("say(8, 2, 16, 0, 0x38, 13); hear()", "Permission denied"),
            ("step('setup-namespaces', 1 << 20); say(8, 2, 16, 0)", "the init process is gone"),
            ("step('pre-resume'); hear()", "criu has told of no process"),
            ("step('orphan-pts-master'); say(8, 2, 16, 0)", "criu sends no terminal"),
        ] {
            let id = bed.id();
            let call = criu.call(&format!("{NEW}restore: {end}\n"), "restore");
            let output = call.arg("--bundle").arg(&bundle.path).arg(&id).output();
            assert!(output.failure(1).contains(reason), "{end}: {output}");
            assert_eq!(bed.runtime(["state", &id]).code, 1, "{end}");
            let options = criu.options(2);
            assert_eq!((numbers(&options, 26), numbers(&options, 6)), (vec![1], vec![1]));
            let root = texts(&options, 13);
            assert!(root[0].ends_with("/criu-root") && !Path::new(&root[0]).exists(), "{root:?}");
        }
    });
}
