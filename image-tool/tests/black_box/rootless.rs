//! The same for an ordinary user.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use serde_json::json;
use tar::EntryType;

use crate::image::{Image, Layer};
use crate::tool::{Scratch, config, names, stderr};
use crate::tool::{skip, skip_unless_root};

const USER: u32 = 61234;

fn pull_as_user(scratch: &Scratch, layout: &str) -> Output {
    pull_as_user_into(scratch, layout, "bundle")
}

fn pull_as_user_into(scratch: &Scratch, layout: &str, bundle: &str) -> Output {
    // The build directory may be closed to the user.
    let program = scratch.join("image-tool");
    fs::copy(env!("CARGO_BIN_EXE_image-tool"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(scratch.path(), Some(USER), Some(USER)).unwrap();
    let mut command = Command::new(program);
    command.env_clear().current_dir(scratch.path()).uid(USER).gid(USER);
    command.args(["pull", layout, bundle]).output().unwrap()
}

#[test]
fn an_ordinary_user_gets_a_bundle_of_his_own_without_devices() {
    skip_unless_root!();
    let scratch = Scratch::new("rootless");
    let closed = |header: &mut tar::Header| header.set_mode(0);
    let device = |header: &mut tar::Header| {
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
    };
    let lower = Layer::new()
        .entry(EntryType::Regular, "owned", |header| header.set_uid(33), b"x")
        .entry(EntryType::Directory, "closed", closed, b"")
        .file("closed/in", "1")
        .entry(EntryType::Char, "dev/null", device, b"")
        .entry(EntryType::Fifo, "pipe", |_| (), b"")
        .file_with_mode("su", 0o4755);
    let upper = Layer::new().file("closed/more", "2").file("closed/.wh.in", "");
    let image = Image::new([lower, upper]).with(json!({"Cmd": ["x"], "User": "33:33"}));
    let output = pull_as_user(&scratch, &image.layout(&scratch.join("layout")));
    let warnings = stderr(&output);
    assert!(output.status.success(), "{warnings}");
    assert!(
        warnings
            .contains("device (only root can make one): left out 1 times, first at \"dev/null\""),
        "{warnings}"
    );
    assert!(warnings.contains("the image's user 33:33 needs more than one id"), "{warnings}");

    let root = scratch.join("bundle/rootfs");
    assert_eq!(names(&root), ["closed", "dev", "owned", "pipe", "su"]);
    assert_eq!(names(&root.join("closed")), ["more"]);
    assert_eq!(fs::metadata(root.join("closed")).unwrap().mode() & 0o7777, 0);
    assert_eq!(fs::metadata(root.join("owned")).unwrap().uid(), USER);
    assert_eq!(fs::metadata(root.join("su")).unwrap().mode() & 0o7777, 0o4755);

    let config = config(&scratch);
    assert_eq!(config["process"]["user"], json!({"uid": 0, "gid": 0}));
    assert_eq!(
        config["linux"]["uidMappings"],
        json!([{"containerID": 0, "hostID": USER, "size": 1}])
    );
    assert!(config["linux"].get("resources").is_none());
}

#[test]
fn a_failed_pull_of_an_ordinary_user_leaves_nothing() {
    skip_unless_root!();
    let scratch = Scratch::new("rootless-failed");
    let closed = |header: &mut tar::Header| header.set_mode(0);
    let layer = Layer::new()
        .entry(EntryType::Directory, "a", closed, b"")
        .file("a/b", "")
        .file(".wh..", "");
    let layout = Image::new([layer]).layout(&scratch.join("layout"));
    assert_eq!(pull_as_user(&scratch, &layout).status.code(), Some(1));
    assert_eq!(names(scratch.path()), ["image-tool", "layout"]);
}

#[test]
fn closed_directories_go_too_when_the_last_step_fails() {
    skip_unless_root!();
    let scratch = Scratch::new("rootless-last");
    let closed = |header: &mut tar::Header| header.set_mode(0);
    let layer = Layer::new().entry(EntryType::Directory, "a", closed, b"").file("a/b/c", "");
    let layout = Image::new([layer]).layout(&scratch.join("layout"));
    // A directory of root's in a sticky one: nothing can be renamed onto it.
    fs::create_dir(scratch.join("shared")).unwrap();
    fs::set_permissions(scratch.join("shared"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::create_dir(scratch.join("shared/bundle")).unwrap();
    let output = pull_as_user_into(&scratch, &layout, "shared/bundle");
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("shared/bundle: rename: "), "{message}");
    assert_eq!(names(&scratch.join("shared")), ["bundle"]);
}

#[test]
fn the_bundle_of_an_ordinary_user_runs_for_that_user() {
    skip_unless_root!();
    let Ok(busybox) = fs::read("/bin/busybox") else { skip!("no static busybox at /bin/busybox") };
    if Command::new("runc").arg("--version").output().is_err() {
        skip!("runc is not installed");
    }
    let scratch = Scratch::new("rootless-run");
    let layer = Layer::new().directory("proc").directory("sys").directory("dev").entry(
        EntryType::Regular,
        "bin/busybox",
        |header| header.set_mode(0o755),
        &busybox,
    );
    let image =
        Image::new([layer]).with(json!({"Cmd": ["/bin/busybox", "cat", "/proc/self/uid_map"]}));
    let output = pull_as_user(&scratch, &image.layout(&scratch.join("layout")));
    assert!(output.status.success(), "{}", stderr(&output));
    let mut command = Command::new("runc");
    command.env("XDG_RUNTIME_DIR", scratch.path()).current_dir(scratch.path()).uid(USER).gid(USER);
    let output =
        command.args(["--root", "state", "run", "-b", "bundle", "image-tool"]).output().unwrap();
    let map = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(numbers, ["0", &USER.to_string(), "1"], "{}", stderr(&output));
}
