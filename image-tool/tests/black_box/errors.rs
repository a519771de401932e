//! Each thing that goes wrong has an error of its own.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::image::{Image, Layer, digest, simple};
use crate::server::{Reply, Server};
use crate::tool::skip_unless_root;
use crate::tool::{Scratch, image_tool, pull_badly, stderr};

#[test]
fn every_failure_names_what_failed_and_why() {
    let image = simple();
    let layer = image.layer(0);
    let spoil = |name: &str, value: serde_json::Value| {
        let mut image = simple();
        image.manifest["layers"][0][name] = value;
        image
    };
    let mut wrong_diff_id = simple();
    let mut config = wrong_diff_id.config.clone();
    config["rootfs"]["diff_ids"][0] = json!(digest(b"other"));
    wrong_diff_id.set_config(config);
    let flipped = {
        let (mut image, layer) = (simple(), layer.clone());
        // The last byte of a gzip stream is of its length: the data still come out whole.
        if let Some(byte) = image.blobs.get_mut(&layer).and_then(|blob| blob.get_mut(4)) {
            *byte ^= 1;
        }
        image
    };
    let servers = [
        (
            "401",
            Server::start(|_| Reply::challenge("Basic realm=\"r\"")),
            "manifest latest of x: authentication is required".to_owned(),
        ),
        (
            "403",
            Server::start(|_| Reply::status(403)),
            "manifest latest of x: access is denied".to_owned(),
        ),
        (
            "404",
            Server::start(|_| Reply::status(404)),
            "manifest latest of x: not found".to_owned(),
        ),
        (
            "500",
            Server::start(|_| Reply::Whole(500, vec![("Retry-After", "0".to_owned())], vec![])),
            "manifest latest of x: the registry answers 500 Internal Server Error".to_owned(),
        ),
        (
            "not JSON",
            Server::start(|_| Reply::ok("<html>")),
            "manifest latest: expected value at line 1 column 1".to_owned(),
        ),
        (
            "wrong digest",
            Server::of_image(flipped, |_| None),
            format!("layer 1 of 1 ({layer}): blob: its digest is "),
        ),
        (
            "wrong size",
            Server::of_image(spoil("size", json!(7)), |_| None),
            format!("layer 1 of 1 ({layer}): blob: the registry sends "),
        ),
        (
            "wrong diffID",
            Server::of_image(wrong_diff_id, |_| None),
            format!("layer 1 of 1 ({layer}): its digest is "),
        ),
        (
            "missing layer",
            Server::of_image(spoil("digest", json!(digest(b"none"))), |_| None),
            format!("layer 1 of 1 ({}): blob: not found", digest(b"none")),
        ),
    ];
    for (what, server, expected) in servers {
        let error = pull_badly(&Scratch::new("error"), &server.reference(), &[]);
        assert!(error.starts_with(&expected), "{what}: {error}");
    }

    let unreachable = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    for (what, reference, expected) in [
        ("unknown host", "registry.invalid/x".to_owned(), "registry.invalid: no such host ("),
        ("nobody listens", format!("{unreachable}/x"), "Connection refused"),
        ("no layout", "oci:absent".to_owned(), "absent is not an OCI image layout"),
    ] {
        let error = pull_badly(&Scratch::new("error"), &reference, &[]);
        assert!(error.contains(expected), "{what}: {error}");
    }
}

#[test]
fn an_image_for_another_platform_names_the_one_it_is_for() {
    let mut image = simple();
    let mut config = image.config.clone();
    config["architecture"] = json!("s390x");
    image.set_config(config);
    let server = Server::of_image(image, |_| None);
    let error =
        pull_badly(&Scratch::new("platform"), &server.reference(), &["--platform=linux/arm64"]);
    assert!(
        error.ends_with(
            "there is no image for linux/arm64, only for linux/s390x (choose with --platform)"
        ),
        "{error}"
    );
}

#[test]
fn a_layout_names_its_tags() {
    let scratch = Scratch::new("tags");
    let layout = simple().layout(&scratch.join("layout"));
    let error = pull_badly(&scratch, &layout.replace(":t", ":other"), &[]);
    assert!(error.ends_with("there is no tag \"other\", only [\"t\"]"), "{error}");
}

#[test]
fn wrong_usage_exits_with_2_and_touches_nothing() {
    let scratch = Scratch::new("usage");
    for arguments in [
        &["pull"][..],
        &["pull", "x"],
        &["pull", "UPPER", "bundle"],
        &["pull", "x", "bundle", "--platform=windows/amd64"],
        &["pull", "x", "bundle", "--caps=all"],
        &["pull", "x", "bundle", "ls"],
        &["push", "x", "bundle"],
    ] {
        let output = image_tool(scratch.path()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(crate::tool::names(scratch.path()).is_empty());
    }
}

#[test]
fn a_mount_point_is_refused_before_the_download() {
    skip_unless_root!();
    let scratch = Scratch::new("mount");
    fs::create_dir(scratch.join("bundle")).unwrap();
    let script = r#"mount -t tmpfs tmpfs bundle && exec "$0" pull oci:absent bundle"#;
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_image-tool")])
        .current_dir(scratch.path());
    let output = command.output().unwrap();
    assert_eq!(
        stderr(&output),
        "image-tool: bundle: the bundle is a mount point: name a directory inside\n"
    );
}

#[test]
fn a_full_disk_is_reported_and_freed_again() {
    skip_unless_root!();
    let scratch = Scratch::new("full");
    let layer = Layer::new().file("big", &"x".repeat(3 << 20));
    let layout = Image::new([layer]).layout(&scratch.join("layout"));
    fs::create_dir(scratch.join("disk")).unwrap();
    // In a mount namespace of its own, where nothing can stay mounted.
    let script = r#"mount -t tmpfs -o size=1m tmpfs disk && { "$0" pull "$1" disk/bundle; status=$?; ls -A disk; exit $status; }"#;
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_image-tool"), &layout])
        .current_dir(scratch.path());
    let output = command.output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("big: No space left on device"), "{message}");
    assert!(
        output.stdout.is_empty(),
        "left on the disk: {:?}",
        String::from_utf8_lossy(&output.stdout)
    );
}
