//! `process.apparmorProfile`: whatever runs as the program runs under it. The tests load
//! profiles of their own by apparmor_parser(8) of Debian's package apparmor.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use integration::{Bed, Bundle, Container, as_root};
use serde_json::{Value, json};

/// Profiles that are loaded, and taken out again.
struct Profiles {
    /// Refuses /etc/secret.
    confined: String,
    /// Refuses nothing.
    open: String,
    text: String,
}

impl Profiles {
    fn load(bed: &Bed) -> Self {
        let [confined, open] = ["confined", "open"].map(|kind| format!("{}-{kind}", bed.name));
        // A container's files are none of the host's: their paths are relative to its root.
        let profile = |name: &str, rules: &str| {
            format!(
                "profile {name} flags=(attach_disconnected,mediate_deleted) {{ \
                 file, capability, network, mount, umount, signal, ptrace, unix, {rules} }}\n"
            )
        };
        let text = profile(&confined, "deny /etc/secret rw,") + &profile(&open, "");
        parse("--add", &text);
        Self { confined, open, text }
    }
}

impl Drop for Profiles {
    fn drop(&mut self) {
        parse("--remove", &self.text);
    }
}

fn parse(verb: &str, profiles: &str) {
    let mut parser = Command::new("apparmor_parser");
    let mut parser = parser
        .args([verb, "--skip-cache", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("apparmor_parser");
    parser.stdin.take().unwrap().write_all(profiles.as_bytes()).unwrap();
    assert!(parser.wait().unwrap().success(), "apparmor_parser {verb}:\n{profiles}");
}

/// Runs the test where profiles can be had, and says so elsewhere.
fn with_profiles(test: impl Fn(&Bed, &Profiles) + Sync) {
    as_root(|bed| {
        let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        if !enabled.is_ok_and(|text| text.starts_with('Y')) {
            return bed.skip("this kernel has no AppArmor, or it is switched off");
        }
        if Command::new("apparmor_parser").arg("--version").output().is_err() {
            return bed.skip("apparmor_parser is missing");
        }
        test(bed, &Profiles::load(bed));
    });
}

/// Says which profile it runs under, and what becomes of a file that one refuses.
const SCRIPT: &str = "cat /proc/self/attr/current; cat /etc/secret 2>/dev/null || echo refused";

/// A bundle under a profile, with that file, which runs `script`.
fn under(bed: &Bed, profile: &str, script: &str) -> Bundle {
    let bundle = bed.bundle().with("/process/apparmorProfile", profile).sh(script);
    bundle.write("/etc/secret", "secret\n");
    bundle
}

/// What `SCRIPT` prints under a profile.
fn seen(profile: &str, file: &str) -> String {
    format!("{profile} (enforce)\n{file}")
}

#[test]
fn the_program_runs_under_its_profile() {
    with_profiles(|bed, profiles| {
        for no_new_privileges in [true, false] {
            for (profile, file) in [(&profiles.confined, "refused"), (&profiles.open, "secret")] {
                let bundle =
                    under(bed, profile, SCRIPT).with("/process/noNewPrivileges", no_new_privileges);
                assert_eq!(bed.run(&bundle).success(), seen(profile, file));
                let mapped = bundle.in_user_namespace(1000);
                assert_eq!(bed.run(&mapped).success(), seen(profile, file), "mapped");
            }
        }
        let unconfined = bed.bundle().sh("cat /proc/self/attr/current");
        assert_eq!(bed.run(&unconfined).success(), "unconfined");
    });
}

#[test]
fn exec_has_the_profile_of_the_container_or_one_of_its_own() {
    with_profiles(|bed, profiles| {
        let (confined, open) = (&*profiles.confined, &*profiles.open);
        for no_new_privileges in [true, false] {
            let bundle = under(bed, confined, "sleep 100")
                .with("/process/noNewPrivileges", no_new_privileges);
            for bundle in [bundle.clone(), bundle.in_user_namespace(1000)] {
                let container = bed.start(&bundle);
                let exec = |options: &[&str]| {
                    container.exec_call(options, &["/bin/sh", "-c", SCRIPT]).output()
                };
                assert_eq!(exec(&[]).success(), seen(confined, "refused"));
                assert_eq!(exec(&["--apparmor", open]).success(), seen(open, "secret"));
                let output = exec(&["--apparmor", "no-such-profile"]);
                assert_profile_is_named(&output);
                of_a_process_file(bed, &container, json!(open), &seen(open, "secret"));
                // None is no way out of the container's.
                if !bed.is_peer("runc takes it for one") {
                    of_a_process_file(bed, &container, json!(null), &seen(confined, "refused"));
                }
            }
        }
    });
}

/// A process file names the profile of what it describes.
#[track_caller]
fn of_a_process_file(bed: &Bed, container: &Container<'_>, profile: Value, expected: &str) {
    let process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"],
        "args": ["/bin/sh", "-c", SCRIPT], "apparmorProfile": profile});
    let path = bed.write("process.json", &process.to_string());
    let call = bed.call().args(["exec", "--process"]).arg(path).arg(&container.id);
    assert_eq!(call.output().success(), expected);
}

#[test]
fn a_profile_that_is_not_loaded_is_refused_by_name() {
    with_profiles(|bed, _| {
        let bundle = under(bed, "no-such-profile", SCRIPT);
        for bundle in [bundle.clone(), bundle.in_user_namespace(1000)] {
            assert_profile_is_named(&bed.run(&bundle));
            bed.assert_nothing_left();
        }
    });
}

#[track_caller]
fn assert_profile_is_named(output: &integration::Output) {
    assert!(output.code != 0 && output.stdout.is_empty(), "{output}");
    if integration::runtime().kind == integration::Kind::Ferrun {
        assert!(output.stderr.contains("apparmorProfile: \"no-such-profile\""), "{output}");
    }
}

#[test]
fn a_start_container_hook_runs_under_the_profile_too() {
    with_profiles(|bed, profiles| {
        let hook = format!("({SCRIPT}) > /tmp/hook");
        let bundle = under(bed, &profiles.confined, "cat /tmp/hook").with(
            "/hooks/startContainer",
            json!([{"path": "/bin/sh", "args": ["sh", "-c", hook], "env": ["PATH=/bin"]}]),
        );
        assert_eq!(bed.run(&bundle).success(), seen(&profiles.confined, "refused"));
    });
}
