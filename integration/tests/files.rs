//! The files that a runtime writes where its caller says. The directory may be another
//! user's, who has put there what he likes.
//!
//! | file | what is there already |
//! |---|---|
//! | `--pid-file` of create, run and exec | replaced; never written to, nor what it leads to |
//! | `spec --bundle` | refused, a link that leads nowhere too |
//! | `--log` | appended to, also through a link: callers give `/dev/stderr`, which is one |
//! | `--console-socket`, `--pidfd-socket` | connected to; nothing is written by name |

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::PathBuf;

use integration::{Bed, Container, as_both, as_root};

/// A directory of another user, in which a name leads to a file of root's.
fn trap(bed: &Bed, names: &[&str]) -> (PathBuf, PathBuf) {
    let secret = bed.write("secret", "untouched");
    let theirs = bed.make_directory(&format!("theirs-{}", bed.next()), 0o755);
    for name in names {
        symlink(&secret, theirs.join(name)).unwrap();
    }
    chown(&theirs, Some(4321), Some(4321)).unwrap();
    (theirs, secret)
}

#[test]
fn a_pid_file_is_written_through_no_link() {
    as_root(|bed| {
        if bed.is_peer("runc refuses what is left of a call that was killed, crun writes through") {
            return;
        }
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        for names in [&[".pid"] as &[&str], &["pid"], &[".pid", "pid"]] {
            let (theirs, secret) = trap(bed, names);
            let file = theirs.join("pid");
            let id = bed.id();
            let call = bed.create_call(&bed.bundle(), &id).option("--pid-file", &file);
            let created = Container::create(bed, &id, call);
            let pid = fs::read_to_string(&file).unwrap();
            assert_eq!(pid, created.pid().to_string(), "{names:?}");
            assert!(fs::symlink_metadata(&file).unwrap().is_file(), "{names:?}");
            assert_eq!(fs::read_to_string(&secret).unwrap(), "untouched", "{names:?}");
            assert_eq!(fs::read_dir(&theirs).unwrap().count(), 1, "{names:?}");

            let (theirs, secret) = trap(bed, names);
            let option = format!("--pid-file={}", theirs.join("pid").display());
            container.exec_call(&[&option], &["/bin/true"]).output().success();
            assert_eq!(fs::read_to_string(&secret).unwrap(), "untouched", "{names:?}");
            assert_eq!(fs::read_dir(&theirs).unwrap().count(), 1, "{names:?}");
        }
    });
}

#[test]
fn a_configuration_is_not_written_through_a_link() {
    as_both(|bed| {
        if bed.is_peer("runc and crun look whether it is there, and write then") {
            return;
        }
        let directory = bed.make_directory("new", 0o755);
        let (config, elsewhere) = (directory.join("config.json"), bed.directory.join("elsewhere"));
        symlink(&elsewhere, &config).unwrap();
        let spec = || bed.runtime(["spec", "--bundle", directory.to_str().unwrap()]);
        let output = spec();
        assert!(output.failure(1).contains("config.json\": exists"), "{output}");
        assert!(!elsewhere.exists());
        fs::remove_file(&config).unwrap();
        spec().success();
        assert!(spec().failure(1).contains("config.json\": exists"));
    });
}

#[test]
fn a_log_is_appended_to_whatever_it_is() {
    as_root(|bed| {
        if bed.is_peer("their messages have other words") {
            return;
        }
        let log = bed.write("log", "first\n");
        let link = bed.directory.join("link");
        symlink(&log, &link).unwrap();
        let call = bed.call().arg("--log").arg(&link).args(["state", "no-such-container"]);
        call.output().failure(1);
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.starts_with("first\n") && text.contains("level=error"), "{text}");
        let output = bed.call().args(["--log", "/dev/stdout", "state", "none"]).output();
        assert!(output.stdout.contains("level=error"), "{output}");
    });
}
