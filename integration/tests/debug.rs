//! What `--debug` tells, where it goes, and what it never holds.
//!
//! | who tells | what |
//! |---|---|
//! | the creator | bundle, host, plan, record, cgroups, the processes that it makes, hooks, what came of it |
//! | init, and the process in between | namespaces, mounts, devices, masks, the root, the program's rights; until it closes what is the host's |
//! | `start`, and who stays | startContainer hooks, which init can no longer tell of, and that the program was executed |
//! | `kill`, `delete`, `update` and others | whom a signal went to, what was removed, what was written or refused |

use std::fs;
use std::path::Path;

use integration::terminal::ConsoleSocket;
use integration::{Bed, Bundle, Call, Container, Output, as_both, as_root};
use serde_json::{Value, json};

/// What the life of a container has to leave in a log, by verb.
const STEPS: &[(&str, &[&str])] = &[
    (
        "create",
        &[
            ": create; runs from ",
            "bytes of config.json",
            "caller: uid ",
            "plan: new namespaces [",
            ": remembered in ",
            ": made: init",
            ": has its ids, and is on record",
            "root.path: ",
            "mounts[0]: \"/proc\": new proc",
            "devices and links of /dev: made: true",
            "hooks.prestart[0]: \"/bin/true\": called in ",
            "hooks.prestart[0]: \"/bin/true\": has ended well",
            "linux.maskedPaths: \"/proc/keys\": covered",
            "process.args[0]: \"/bin/sh\"",
            ": ready, with the program's rights",
            ": created",
        ],
    ),
    (
        "start",
        &[
            ": the gate is open",
            "init calls hooks.startContainer[0] \"/bin/true\"",
            ": the program was executed",
        ],
    ),
    ("exec", &[": made: in between", "setns: joined", "args[0]: \"/bin/true\"", "was executed"]),
    ("kill", &["signal 9 to init, process "]),
    ("delete", &["hooks.poststop[0]: \"/bin/true\": called in ", "record "]),
];

fn hooks() -> Value {
    json!([{"path": "/bin/true", "env": ["HOOK=hunter2"]}])
}

/// A bundle with a secret wherever a configuration may have one.
fn secretive(bed: &Bed) -> Bundle {
    let mut bundle = bed
        .bundle()
        .with("/linux/maskedPaths", json!(["/proc/keys"]))
        .sh("[ \"$INIT\" = hunter2 ] && echo $INIT; sleep 100");
    for kind in
        ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    {
        bundle = bundle.with(&format!("/hooks/{kind}"), hooks());
    }
    let annotations = json!({"org.example.secret": "hunter2"});
    bundle.with("/process/env/-", "INIT=hunter2").with("/annotations", annotations)
}

/// Calls of each verb with options of the log in front of it. What the program gets as its
/// stdout goes elsewhere.
fn live(bed: &Bed, bundle: &Bundle, options: &[&str]) -> Vec<(&'static str, Output)> {
    let id = bed.id();
    let call = |verb: &str| {
        let call = bed.call().args(options).env("CALLER", "hunter2");
        call.arg(verb)
    };
    let file = bed.write(
        "process.json",
        &json!({"args": ["/bin/true"], "cwd": "/", "env": ["FILE=hunter2"]}).to_string(),
    );
    let create = call("create").arg("--bundle").arg(&bundle.save().path).arg(&id);
    let create = create.output();
    create.success();
    let mut outputs = vec![("create", create)];
    outputs.push(("start", call("start").arg(&id).output()));
    let exec = |options: &[&str]| call("exec").args(options).arg(&id);
    let given = exec(&["--env", "GIVEN=hunter2"]).arg("/bin/true").output();
    outputs.push(("exec", given));
    outputs.push(("exec", exec(&["--process", file.to_str().unwrap()]).output()));
    outputs.push(("kill", call("kill").args([&id, "KILL"]).output()));
    integration::eventually("the container stops", || {
        bed.runtime(["state", &id]).success().contains("\"stopped\"")
    });
    outputs.push(("delete", call("delete").arg(&id).output()));
    for (verb, output) in &outputs {
        assert_eq!(output.code, 0, "{verb}: {output}");
    }
    outputs
}

/// The messages of a log, each line of which has to be an entry of this level.
fn messages(text: &str, json: bool) -> Vec<String> {
    let message = |line: &str| {
        if json {
            let entry: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            assert_eq!(entry["level"], "debug", "{line}");
            return entry["msg"].as_str().unwrap().to_owned();
        }
        assert!(line.starts_with("time=\"20"), "{line}");
        let (_, message) =
            line.split_once("\" level=debug msg=").unwrap_or_else(|| panic!("{line}"));
        serde_json::from_str(message).unwrap_or_else(|e| panic!("{e}: {line}"))
    };
    text.lines().map(message).collect()
}

/// What was printed on stderr but for what an ordinary user is told in any case.
fn without_warnings(output: &Output) -> String {
    let lines = output.stderr.lines().filter(|line| !line.contains("gets no cgroup"));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn each_step_is_told_on_stderr_or_in_the_log_in_both_formats() {
    as_both(|bed| {
        if bed.is_peer("they tell other things") {
            return;
        }
        let log = bed.make_directory("logs", 0o777).join("log");
        let log = log.to_str().unwrap();
        for options in [
            &["--debug"] as &[&str],
            &["--debug", "--log", log],
            &["--debug", "--log-format", "json"],
            &["--debug", "--log", log, "--log-format", "json"],
        ] {
            let _ = fs::remove_file(log);
            let outputs = live(bed, &secretive(bed), options);
            let is_json = options.contains(&"json");
            let mut told = Vec::new();
            for (verb, output) in &outputs {
                let said = without_warnings(output);
                if options.contains(&log) {
                    assert_eq!(said, "", "{verb}: {output}");
                } else {
                    told.extend(messages(&said, is_json));
                }
            }
            if options.contains(&log) {
                let text = fs::read_to_string(log).unwrap();
                let text = text.lines().filter(|line| !line.contains("gets no cgroup"));
                told = messages(&text.collect::<Vec<_>>().join("\n"), is_json);
            }
            for (verb, steps) in STEPS {
                for step in *steps {
                    let is_there = told.iter().any(|message| message.contains(step));
                    assert!(is_there, "{verb}, {options:?}: {step:?} is not in {told:#?}");
                }
            }
        }
    });
}

#[test]
fn no_value_of_a_variable_and_no_annotation_is_ever_logged() {
    as_both(|bed| {
        if bed
            .is_peer("crun 1.8 ends by SIGPIPE where a hook does not read, and has other warnings")
        {
            return;
        }
        let log = bed.make_directory("logs", 0o777).join("log");
        let options = ["--debug", "--log-format", "json", "--log", log.to_str().unwrap()];
        let call = || bed.call().args(options).env("CALLER", "hunter2");
        let run = |bundle: &Bundle| {
            let call = call().arg("run").arg("--bundle").arg(&bundle.save().path);
            call.arg(bed.id()).output()
        };
        let mut said = String::new();
        for (_, output) in live(bed, &secretive(bed), &options) {
            said.push_str(&output.stderr);
        }
        // Errors tell of them as little.
        for bundle in [
            secretive(bed).args(["/no/such/program"]),
            secretive(bed).with("/process/env/-", "=hunter2"),
            secretive(bed).with("/process/env", "hunter2"),
            secretive(bed).with("/process/env/-", json!({"hunter2": "hunter2"})),
            secretive(bed).with("/process/env/-", json!(7654321)),
            secretive(bed).with("/annotations", json!(["hunter2"])),
            secretive(bed).with("/annotations", "hunter2"),
            secretive(bed).with("/hooks/prestart/0/env", "hunter2"),
            secretive(bed).with("/hooks/prestart/0/path", "/bin/false"),
            secretive(bed).with("/process/cwd", "/proc/self/environ"),
        ] {
            let output = run(&bundle);
            if !bed.is_peer("runc takes what is no annotation for none") {
                assert_eq!(output.code, 1, "{output}");
            }
            said.push_str(&output.stderr);
        }
        let logged = fs::read_to_string(&log).unwrap();
        assert!(logged.contains("\"level\":\"debug\"") && logged.contains("\"level\":\"error\""));
        if bed.is_peer("runc shows what it cannot read") {
            return;
        }
        for text in [&said, &logged] {
            for secret in ["hunter2", "7654321"] {
                let line = text.lines().find(|line| line.contains(secret));
                assert!(line.is_none(), "{line:?}");
            }
        }
    });
}

#[test]
fn without_the_switch_nothing_is_told() {
    as_both(|bed| {
        if bed
            .is_peer("crun 1.8 ends by SIGPIPE where a hook does not read, and has other warnings")
        {
            return;
        }
        let log = bed.make_directory("logs", 0o777).join("log");
        for options in [&[] as &[&str], &["--debug=false"], &["--log", log.to_str().unwrap()]] {
            for (verb, output) in live(bed, &secretive(bed), options) {
                assert_eq!(without_warnings(&output), "", "{verb}: {output}");
            }
        }
        let logged = fs::read_to_string(&log).unwrap_or_default();
        assert!(!logged.contains("debug"), "{logged}");
    });
}

/// The files that the descriptors of a process are on, but for its stdio.
fn descriptors(pid: i32) -> Vec<String> {
    let numbers = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let numbers = numbers.filter(|entry| {
        entry.file_name().to_str().unwrap().len() > 1 || entry.file_name().to_str().unwrap() > "2"
    });
    numbers.map(|entry| fs::read_link(entry.path()).unwrap().display().to_string()).collect()
}

#[test]
fn a_container_that_waits_holds_neither_the_log_nor_the_callers_stderr() {
    as_root(|bed| {
        if bed.is_peer("crun's holds the log") {
            return;
        }
        let log = bed.make_directory("logs", 0o777).join("log");
        for options in [&["--debug"] as &[&str], &["--debug", "--log", log.to_str().unwrap()]] {
            // More than the caller has passed on: the log's number is among them.
            for preserved in ["0", "9"] {
                if preserved == "9" && bed.is_peer("they refuse what is not open") {
                    continue;
                }
                let id = bed.id();
                let call = bed.call().args(options).args(["create", "--preserve-fds", preserved]);
                let call = call.arg("--bundle").arg(&bed.bundle().save().path).arg(&id);
                let container = Container::create(bed, &id, call);
                let held = descriptors(container.pid());
                let places = ["logs", "output"].map(|name| bed.directory.join(name));
                let is_log =
                    |path: &String| places.iter().any(|place| Path::new(path).starts_with(place));
                assert!(!held.iter().any(is_log), "{held:?}");
            }
        }
    });
}

#[test]
fn the_containers_terminal_shows_none_of_it() {
    as_root(|bed| {
        if bed.is_peer("they tell other things") {
            return;
        }
        let socket = ConsoleSocket::listen(bed);
        let bundle = bed.bundle().with("/process/terminal", true).sh("echo up; sleep 100");
        let id = bed.id();
        let call = bed.call().args(["--debug", "create", "--console-socket"]).arg(&socket.path);
        let call = call.arg("--bundle").arg(&bundle.save().path).arg(&id);
        let container = Container::create(bed, &id, call);
        let (mut terminal, _) = socket.terminal();
        container.start();
        let shown = terminal.expect("up").to_owned();
        assert!(!shown.contains("level="), "{shown:?}");
        // What init does after it has taken the terminal is told to the caller all the same.
        let told = &container.warnings;
        assert!(told.contains("terminal: opened") && told.contains("entered\""), "{told}");
    });
}

fn logs_to(bed: &Bed, log: &Path, debug: bool) -> Call {
    let call = bed.call().arg("--log").arg(log);
    if debug { call.arg("--debug") } else { call }
}

#[test]
fn a_limit_on_the_size_of_files_is_not_for_the_log() {
    as_root(|bed| {
        let log = bed.write("log", &"x".repeat(8192));
        let limit = json!([{"type": "RLIMIT_FSIZE", "soft": 4096, "hard": 4096}]);
        for debug in [true, false] {
            // The first process of a pid namespace would not die of it.
            for bundle in [bed.bundle(), bed.bundle().without_namespace("pid")] {
                // Warnings come as late as can be.
                let ambient = json!(["CAP_SYS_RAWIO"]);
                let bundle = bundle.with("/process/capabilities/ambient", ambient);
                let bundle = bundle.with("/process/rlimits", limit.clone()).sh("ulimit -f");
                let call = logs_to(bed, &log, debug).arg("run").arg("--bundle");
                let output = call.arg(&bundle.save().path).arg(bed.id()).output();
                assert_eq!(output.success(), "8", "debug: {debug}");
            }
            if bed.is_peer("their warnings have other words") {
                continue;
            }
            let text = fs::read_to_string(&log).unwrap();
            assert_eq!(text.matches("can't raise ambient capability CAP_SYS_RAWIO").count(), 2);
            fs::write(&log, "x".repeat(8192)).unwrap();
        }
    });
}

#[test]
fn what_is_refused_and_done_in_another_way_is_told() {
    as_root(|bed| {
        if bed.is_peer("they tell other things") {
            return;
        }
        let told = |bundle: &Bundle| {
            let call = bed.call().args(["--debug", "run", "--bundle"]);
            let output = call.arg(&bundle.save().path).arg(bed.id()).output();
            output.success();
            output.stderr
        };
        let layers: Vec<_> = (0..8)
            .map(|number| bed.make_directory(&format!("{number}{}", "x".repeat(40)), 0o755))
            .map(|layer| layer.to_str().unwrap().to_owned())
            .collect();
        let lower = format!("lowerdir={}", layers.join(":"));
        let bundle = bed.bundle().mount("/data", "overlay", "overlay", &[&lower]);
        assert!(told(&bundle).contains("mounts[4]: a parameter too long for fsconfig: mount(2)"));
        let missing = bed.bundle().with("/root/readonly", true).with("/process/cwd", "/proc/none");
        let call = bed.call().args(["--debug", "run", "--bundle"]).arg(&missing.save().path);
        assert!(call.arg(bed.id()).output().failure(1).contains("process.cwd: not made: "));
    });
}
