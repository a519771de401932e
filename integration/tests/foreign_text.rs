//! What others have written reaches no terminal as it is: it could clear the screen, give
//! it another title, or add lines that look like the runtime's own.
//!
//! | whose text | where it comes out |
//! |---|---|
//! | a hook's last words; for startContainer hooks the image's | the error, the log, a warning of delete |
//! | paths and names of config.json and of the image | the error, the log |
//! | a file system's words about its options | the error |
//! | the path of a bundle | `list` |
//! | names and arguments of processes | `ps`, with ps(1) and without |
//! | the command line | the error |

use std::fs;

use integration::{Bed, Output, as_root};
use serde_json::{Value, json};

/// A title, a cleared screen, a line of one's own, and one that is read from the right.
const EVIL: &str = "x\u{1b}]0;owned\u{7}\u{1b}[2J\r\u{9b}1m\u{202e}y";

/// Fails if a terminal would do anything with this but show it.
#[track_caller]
fn assert_harmless(text: &str, what: &str) {
    let is_obeyed = |letter: char| letter != '\n' && (letter.is_control() || letter == '\u{202e}');
    assert!(!text.contains(is_obeyed), "{what}: {text:?}");
}

/// Fails unless the text has come, in one line, and does no harm.
#[track_caller]
fn assert_told(what: &str, output: &Output) {
    assert!(output.code != 0, "{what}: {output}");
    assert_harmless(&output.stderr, what);
    assert_eq!(output.stderr.lines().count(), 1, "{what}: {output}");
    for part in ["owned", "\\u{1b}", "\\r"] {
        assert!(output.stderr.contains(part), "{what}: {part} is not in {output}");
    }
}

fn hook(script: &str) -> Value {
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}])
}

/// Prints [`EVIL`] and fails.
fn evil_script() -> String {
    let bytes = EVIL.bytes().map(|byte| format!("\\{byte:03o}")).collect::<String>();
    format!("printf '{bytes}\\n' >&2; exit 1")
}

fn peers_do_it(bed: &Bed) -> bool {
    bed.is_peer("they print what they are told")
}

#[test]
fn the_last_words_of_a_hook_are_written_out() {
    as_root(|bed| {
        if peers_do_it(bed) {
            return;
        }
        for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"]
        {
            let bundle = bed.bundle().with(&format!("/hooks/{kind}"), hook(&evil_script()));
            assert_told(kind, &bed.run(&bundle));
        }
        let bundle = bed.bundle().with("/hooks/poststop", hook(&evil_script()));
        let output = bed.run(&bundle);
        assert!(output.stderr.contains("owned"), "{output}");
        assert_harmless(&output.stderr, "poststop");
        // containerd's shim shows the log to its own callers.
        let log = bed.directory.join("log.json");
        let bundle = bed.bundle().with("/hooks/startContainer", hook(&evil_script()));
        let path = bundle.save().path.clone();
        let call = bed.call().args(["--log-format", "json", "--log"]).arg(&log);
        call.args(["run", "--bundle"]).arg(path).arg(bed.id()).output().failure(1);
        let text = fs::read_to_string(&log).unwrap();
        let entry: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_harmless(entry["msg"].as_str().unwrap(), "the log");
    });
}

#[test]
fn names_and_paths_are_written_out() {
    as_root(|bed| {
        if peers_do_it(bed) {
            return;
        }
        let bundle = || bed.bundle();
        let path = format!("/{EVIL}");
        for (what, bundle) in [
            ("a program by its path", bundle().args([path.as_str()])),
            ("a program by its name", bundle().args([EVIL])),
            ("a root", bundle().with("/root/path", EVIL)),
            ("a source", bundle().mount("/data", "bind", &path, &["bind"])),
            ("a type", bundle().mount("/data", EVIL, "x", &[])),
            ("an option", bundle().mount("/data", "tmpfs", "tmpfs", &[EVIL])),
            ("a namespace", bundle().with("/linux/namespaces/-", json!({"type": EVIL}))),
            ("a sysctl", bundle().with("/linux/sysctl", json!({EVIL: "1"}))),
            ("a hook", bundle().with("/hooks/prestart", json!([{"path": path}]))),
        ] {
            assert_told(what, &bed.run(&bundle));
        }
        let bundle = bundle();
        fs::remove_file(bundle.rootfs().join("bin/true")).unwrap();
        std::os::unix::fs::symlink(&path, bundle.rootfs().join("bin/true")).unwrap();
        let output = bed.run(&bundle.args(["/bin/true"]));
        assert!(output.code != 0, "{output}");
        assert_harmless(&output.stderr, "a link of the image");
        for line in [&["state", EVIL] as &[&str], &[EVIL], &["list", &format!("--{EVIL}")]] {
            assert_told("the command line", &bed.call().args(line).output());
        }
    });
}

#[test]
fn a_bundle_adds_no_rows_to_list() {
    as_root(|bed| {
        if peers_do_it(bed) {
            return;
        }
        let mut bundle = bed.bundle();
        let path = bundle.path.with_file_name(format!("{EVIL}\nfake"));
        fs::rename(&bundle.path, &path).unwrap();
        bundle.path = path;
        let _container = bed.create(&bundle);
        let output = bed.runtime(["list"]);
        assert_harmless(output.success(), "list");
        assert_eq!(output.stdout.lines().count(), 2, "{output}");
    });
}

#[test]
fn processes_add_no_rows_to_ps() {
    as_root(|bed| {
        if bed.is_peer("they call ps(1), which is not there, or print no table") {
            return;
        }
        let container = bed.start(&bed.bundle().args([
            "/bin/sh",
            "-c",
            "trap : TERM; echo ready; while :; do sleep 0.1; done",
            &format!("{EVIL}\nroot 1 0 00:00:00 init"),
        ]));
        container.prints("ready");
        let empty = bed.make_directory("no-programs", 0o755);
        for path in ["/usr/bin:/bin", empty.to_str().unwrap()] {
            let output = bed.call().args(["ps", &container.id]).env("PATH", path).output();
            let table = output.success();
            assert_harmless(table, path);
            assert!(table.contains("trap : TERM"), "{table}");
            assert!(!table.lines().any(|line| line.starts_with("root 1 0")), "{table}");
        }
    });
}
