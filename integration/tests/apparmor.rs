//! `process.apparmorProfile`: whatever runs as the program runs under it. The tests load
//! profiles of their own by apparmor_parser(8) of Debian's package apparmor.

use integration::apparmor::with_profiles;
use integration::{Bed, Bundle, Container};
use serde_json::{Value, json};

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
