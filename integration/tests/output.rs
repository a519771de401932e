//! What callers parse: state, list, features, version; and how they may write
//! options.

use std::fs;
use std::path::PathBuf;

use integration::{Container, as_both, as_root, runtime};
use nix::unistd::{User, getuid};
use serde_json::{Value, json};

fn whoami() -> String {
    User::from_uid(getuid()).expect("the users").expect("a user with a name").name
}

#[test]
fn state_has_the_keys_of_the_spec_and_of_runc() {
    as_both(|bed| {
        let bundle = bed.bundle().with("/annotations", json!({"org.example": "x"})).sh("sleep 100");
        let container = bed.create(&bundle);
        let state = container.state();
        assert_eq!(state["id"], container.id.as_str());
        assert_eq!(state["status"], "created");
        assert_eq!(state["bundle"], json!(bundle.path));
        assert_eq!(state["annotations"], json!({"org.example": "x"}));
        let pid = state["pid"].as_i64().unwrap();
        assert!(PathBuf::from(format!("/proc/{pid}")).exists());
        let created = state["created"].as_str().unwrap();
        assert!(created.ends_with('Z') && created.as_bytes()[10] == b'T', "{created}");
        // However it is given.
        for in_it in [true, false] {
            let bundle = bed.bundle();
            let path = &bundle.save().path;
            let (name, above) = (path.file_name().unwrap(), path.parent().unwrap());
            let (given, from) = if in_it { (".".as_ref(), path.as_path()) } else { (name, above) };
            let id = bed.id();
            let call = bed.call().args(["create", "--bundle"]).arg(given).arg(&id);
            let container = Container::create(bed, &id, call.current_dir(from));
            assert_eq!(container.state()["bundle"], json!(path), "{given:?}");
        }
        if bed.is_peer("the version is that of runc 1.1, crun's rootfs and owner are its own") {
            return;
        }
        assert_eq!(state["ociVersion"], "1.3.0");
        assert_eq!(state["rootfs"], json!(bundle.rootfs()));
        assert_eq!(state["owner"], "");
        let keys: Vec<_> = state.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = [
            "annotations",
            "bundle",
            "created",
            "id",
            "ociVersion",
            "owner",
            "pid",
            "rootfs",
            "status",
        ];
        assert_eq!(keys, expected);
        // Two blanks of indentation: people read it too.
        let text = container.call("state").stdout;
        assert!(text.starts_with("{\n  \"ociVersion\": \"1.3.0\",\n  \"id\": "), "{text}");
    });
}

#[test]
fn list_shows_all_containers_in_three_forms() {
    as_both(|bed| {
        let first = bed.create(&bed.bundle());
        let second = bed.start(&bed.bundle().sh("sleep 100"));
        let mut ids = [first.id.as_str(), second.id.as_str()];
        ids.sort_unstable();

        let quiet = bed.runtime(["list", "--quiet"]);
        let mut found: Vec<_> = quiet.success().lines().collect();
        found.sort_unstable();
        assert_eq!(found, ids);
        assert_eq!(bed.runtime(["list", "-q"]).stdout, quiet.stdout);

        for options in [["--format", "json"], ["-f", "json"]] {
            let output = bed.runtime(["list"].iter().chain(&options));
            let all: Vec<Value> = serde_json::from_str(output.success()).unwrap();
            assert_eq!(all.len(), 2);
            for state in &all {
                let container = if state["id"] == first.id.as_str() { &first } else { &second };
                assert_eq!(state["status"], container.status());
                assert_eq!(state["pid"], container.pid());
            }
        }
        let table = bed.runtime(["list"]);
        let lines: Vec<_> = table.success().lines().collect();
        let header: Vec<_> = lines[0].split_whitespace().collect();
        if !bed.is_peer("crun's columns are its own") {
            assert_eq!(header, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
            // Whoever runs the tests has a name.
            let owner = bed.user().map_or_else(whoami, |id| format!("#{id}"));
            assert!(lines[1].trim_end().ends_with(&format!(" {owner}")), "{table}");
        }
        assert_eq!(lines.len(), 3);
        for line in &lines[1..] {
            let cells: Vec<_> = line.split_whitespace().collect();
            assert!(ids.contains(&cells[0]), "{table}");
            assert!(["created", "running"].contains(&cells[2]), "{table}");
        }
    });
}

#[test]
fn an_empty_list_is_null_and_a_missing_root_is_none_unless_it_was_given() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 makes the root that is missing, crun prints an empty list") {
            return;
        }
        assert_eq!(bed.runtime(["list", "--format", "json"]).success(), "null");
        assert_eq!(bed.runtime(["list", "-q"]).success(), "");
        let call = bed.bare_call().args(["--root", "/no/such/root", "list"]);
        assert!(call.output().failure(1).contains("/no/such/root"));
    });
}

#[test]
fn features_tell_what_engines_look_for() {
    as_both(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 say less") {
            return;
        }
        let output = bed.runtime(["features"]);
        let features: Value = serde_json::from_str(output.success()).unwrap();
        assert_eq!(features["ociVersionMin"], "1.0.0");
        assert_eq!(features["ociVersionMax"], "1.3.0");
        let has = |pointer: &str, value: &str| {
            let list = features.pointer(pointer).and_then(Value::as_array);
            let list = list.unwrap_or_else(|| panic!("{pointer}: {output}"));
            assert!(list.iter().any(|item| item == value), "{value} is not in {pointer}");
        };
        for hook in [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ] {
            has("/hooks", hook);
        }
        for word in ["rro", "rbind", "nosymfollow", "tmpcopyup", "rslave"] {
            has("/mountOptions", word);
        }
        for kind in ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"] {
            has("/linux/namespaces", kind);
        }
        has("/linux/capabilities", "CAP_CHECKPOINT_RESTORE");
        has("/linux/seccomp/actions", "SCMP_ACT_ERRNO");
        has("/linux/seccomp/operators", "SCMP_CMP_MASKED_EQ");
        has("/linux/seccomp/archs", "SCMP_ARCH_X86_64");
        assert_eq!(features["annotations"]["org.opencontainers.runc.checkpoint.enabled"], "true");
        assert_eq!(features["linux"]["seccomp"]["enabled"], true);
        assert_eq!(features["linux"]["cgroup"]["v1"], true);
        assert_eq!(features["linux"]["cgroup"]["v2"], true);
        for part in ["mountExtensions/idmap", "apparmor", "selinux", "intelRdt", "netDevices"] {
            assert_eq!(
                features.pointer(&format!("/linux/{part}/enabled")),
                Some(&json!(true)),
                "{part}"
            );
        }
    });
}

#[test]
fn every_mount_option_that_features_lists_is_known() {
    as_root(|bed| {
        if bed.is_peer("runc lists none, crun lists some that it does not know") {
            return;
        }
        let output = bed.runtime(["features"]);
        let features: Value = serde_json::from_str(output.success()).unwrap();
        for word in features["mountOptions"].as_array().unwrap() {
            let word = word.as_str().unwrap();
            // These need more than a word, or change what kind of mount it is.
            if ["bind", "rbind", "remount", "idmap", "ridmap", "tmpcopyup", "mand"].contains(&word)
            {
                continue;
            }
            let bundle = bed.bundle().mount("/tmp", "tmpfs", "tmpfs", &[word]);
            let output = bed.run(&bundle);
            assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{word}: {output}");
        }
    });
}

#[test]
fn the_version_starts_with_the_runtimes_name() {
    as_both(|bed| {
        let name = runtime().program.file_name().unwrap().to_str().unwrap();
        for option in ["--version", "-v"] {
            let output = bed.bare_call().arg(option).output();
            let first = output.success().lines().next().unwrap();
            let version = first
                .strip_prefix(&format!("{name} version "))
                .unwrap_or_else(|| panic!("{output}"));
            assert!(version.starts_with(|first: char| first.is_ascii_digit()), "{output}");
            assert!(output.stdout.lines().any(|line| line.starts_with("spec: ")), "{output}");
        }
    });
}

#[test]
fn an_unknown_command_is_3_and_an_unknown_option_1() {
    as_root(|bed| {
        if bed.is_peer("runc prints its help, crun's codes are its own") {
            return;
        }
        let output = bed.bare_call().arg("no-such-command").output();
        assert!(output.failure(3).contains("No help topic for 'no-such-command'"), "{output}");
        // Engines ask by `checkpoint --help` whether it is there.
        let output = bed.bare_call().args(["checkpoint", "--help"]).output();
        output.success();
        // And whether a restored container can come into a pod by this.
        let output = bed.bare_call().args(["restore", "--help"]).output();
        assert!(output.success().contains("--lsm-mount-context"), "{output}");
        for line in [&["--help"] as &[&str], &[], &["create", "--help"]] {
            assert_eq!(bed.bare_call().args(line).output().code, 0);
        }
    });
}

/// Every verb, with how many arguments it needs and may have.
const VERBS: [(&str, usize, usize); 17] = [
    ("checkpoint", 1, 1),
    ("create", 1, 1),
    ("delete", 1, 1),
    ("events", 1, 1),
    ("exec", 2, usize::MAX),
    ("features", 0, 0),
    ("kill", 1, 2),
    ("list", 0, 0),
    ("pause", 1, 1),
    ("ps", 1, usize::MAX),
    ("restore", 1, 1),
    ("resume", 1, 1),
    ("run", 1, 1),
    ("spec", 0, 0),
    ("start", 1, 1),
    ("state", 1, 1),
    ("update", 1, 1),
];

#[test]
fn what_is_typed_wrongly_is_told_whole_in_one_line() {
    as_root(|bed| {
        if bed.is_peer("they print their help") {
            return;
        }
        let told = |line: &[&str], code: i32, reason: &str| {
            let output = bed.bare_call().args(line).output();
            assert_eq!(output.failure(code), format!("ferrun: error: {reason}"), "{line:?}");
            assert_eq!(output.stdout, "", "{line:?}");
        };
        // What has no place in the usage is told with it.
        let unexpected = |line: &[&str], argument: &str, words: &[&str]| {
            let help = bed.bare_call().args(words).output();
            let usage = help.success().lines().find_map(|line| line.strip_prefix("Usage: "));
            let reason = format!("unexpected argument '{argument}' found");
            told(line, 1, &format!("{reason} (usage: {})", usage.unwrap()));
        };
        for (verb, least, most) in VERBS {
            unexpected(&[verb, "--no-such-option"], "--no-such-option", &[verb, "--help"]);
            if least > 0 {
                told(&[verb], 1, "the following required arguments were not provided: <ID>");
            }
            if most < usize::MAX {
                let line = [&[verb], ["a"].repeat(most).as_slice(), &["more"]].concat();
                unexpected(&line, "more", &[verb, "--help"]);
            }
            let help = bed.bare_call().args([verb, "--help"]).output();
            // Each option that takes a value, without one.
            let is_option = |line: &&str| line.trim_start().starts_with('-') && line.contains('>');
            for line in help.success().lines().filter(is_option) {
                let Some(at) = line.find("--") else { continue };
                let Some((option, _)) = line[at..].split_once('>') else { continue };
                let name = option.split(' ').next().unwrap();
                let output = bed.bare_call().args([verb, name]).output();
                let reason = format!("a value is required for '{option}>' but none was supplied");
                let expected = format!("ferrun: error: {reason}");
                assert!(output.failure(1).starts_with(&expected), "{output}");
                assert_eq!(output.stderr.lines().count(), 1, "{output}");
            }
        }
        told(&["exec", "c"], 255, "exec: neither a program nor --process is given");
        unexpected(&["--no-such-option", "list"], "--no-such-option", &["--help"]);
        told(&["--root"], 1, "a value is required for '--root <PATH>' but none was supplied");
        told(&["runn", "c"], 3, "No help topic for 'runn': there is no such command");
        told(
            &["list", "--format", "x"],
            1,
            "invalid value 'x' for '--format <VALUE>' [possible values: table, json]",
        );
        told(
            &["run", "--preserve-fds", "x", "c"],
            1,
            "invalid value 'x' for '--preserve-fds <N>': invalid digit found in string",
        );
    });
}

#[test]
fn options_are_written_as_go_programs_take_them() {
    as_root(|bed| {
        if bed.is_peer("crun takes two dashes only, runc no options behind the ID") {
            return;
        }
        let bundle = bed.bundle().save().clone();
        let path = bundle.path.to_str().unwrap().to_owned();
        let root = bed.root().to_str().unwrap().to_owned();
        let pid_file = bed.directory.join("pid").to_str().unwrap().to_owned();
        let lines: &[&[&str]] = &[
            &["--root", &root, "create", "--bundle", &path, "ID"],
            &["--root", &root, "create", "-b", &path, "ID"],
            &["-root", &root, "create", "-bundle", &path, "ID"],
            &["-root", &root, "create", &format!("-bundle={path}"), "ID"],
            &[&format!("--root={root}"), "create", &format!("--bundle={path}"), "ID"],
            &["--root", &root, "create", "ID", "--bundle", &path, "--pid-file", &pid_file],
            &["--root", &root, "run", "--detach", "-no-subreaper", "--bundle", &path, "ID"],
            &[
                "--root",
                &root,
                "--rootless=false",
                "run",
                "-d",
                "--no-new-keyring",
                "-b",
                &path,
                "ID",
            ],
            &["--debug", "--root", &root, "create", "-b", &path, "ID"],
            &["--root", "/no/such/root", "--root", &root, "create", "-b", &path, "ID"],
            &["--root", &root, "run", "-d=true", "--keep=false", "-b", &path, "ID"],
        ];
        for line in lines {
            let id = bed.id();
            let line: Vec<_> =
                line.iter().map(|word| if *word == "ID" { &id } else { *word }).collect();
            let output = bed.bare_call().args(&line).output();
            assert_eq!(output.code, 0, "{output}");
            bed.runtime(["delete", "--force", &id]).success();
        }
        assert!(fs::read_to_string(pid_file).unwrap().parse::<i32>().is_ok());
        // The bundle is the working directory where none is named.
        let id = bed.id();
        bed.call().args(["create", &id]).current_dir(&bundle.path).output().success();
        bed.runtime(["delete", "-force", &id]).success();
        let id = bed.id();
        let container = Container::create(bed, &id, bed.create_call(&bundle, &id));
        let call = container.exec_call(&["--tty=false", "-d=false"], &["/bin/echo", "--tty=false"]);
        assert_eq!(call.output().success(), "--tty=false");
        bed.runtime(["delete", "-f=true", &id]).success();
        let new = bed.make_directory("new", 0o755);
        bed.runtime(["spec", "--rootless", "-bundle", new.to_str().unwrap()]).success();
        assert!(new.join("config.json").exists());
    });
}

#[test]
fn the_pid_file_holds_the_pid_and_nothing_else() {
    as_both(|bed| {
        let file = bed.make_directory("pids", 0o755).join("pid");
        let id = bed.id();
        let call = bed.create_call(&bed.bundle(), &id).option("--pid-file", &file);
        let container = integration::Container::create(bed, &id, call);
        assert_eq!(fs::read_to_string(&file).unwrap(), container.pid().to_string());
        let names: Vec<_> = fs::read_dir(file.parent().unwrap()).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "no temporary file is left");
    });
}
