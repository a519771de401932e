//! What layers make of a rootfs.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::json;
use tar::EntryType;

use crate::image::{GZIP, Image, Layer, digest, gzip};
use crate::tool::{Scratch, config, image_tool, names, pull_well};
use crate::tool::{skip, skip_unless_root};

/// The rootfs that these layers give.
#[track_caller]
fn rootfs(scratch: &Scratch, layers: impl IntoIterator<Item = Layer>) -> PathBuf {
    let layout = Image::new(layers).layout(&scratch.join("layout"));
    pull_well(scratch, &layout, &[])
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_file_has_the_content_mode_owner_and_time_of_its_entry() {
    let scratch = Scratch::new("plain");
    let layer = Layer::new().directory("d").entry(
        EntryType::Regular,
        "d/f",
        |header| {
            header.set_mode(0o4751);
            header.set_uid(1234);
            header.set_gid(4321);
        },
        b"content",
    );
    let root = rootfs(&scratch, [layer]);
    let metadata = fs::metadata(root.join("d/f")).unwrap();
    assert_eq!(text(root.join("d/f")), "content");
    assert_eq!(metadata.mode() & 0o7777, 0o4751);
    assert_eq!(metadata.mtime(), 1_000_000_000);
    assert_eq!(fs::metadata(root.join("d")).unwrap().mtime(), 1_000_000_000);
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let owner = if crate::tool::is_root() { (1234, 4321) } else { own };
    assert_eq!((metadata.uid(), metadata.gid()), owner);
}

#[test]
fn directories_keep_modes_that_would_have_closed_them_to_us() {
    let scratch = Scratch::new("closed");
    let closed = |layer: Layer| {
        layer.entry(EntryType::Directory, "a", |header| header.set_mode(0o1500), b"")
    };
    let root =
        rootfs(&scratch, [closed(Layer::new()).file("a/b", "1"), Layer::new().file("a/c", "2")]);
    assert_eq!(fs::metadata(root.join("a")).unwrap().mode() & 0o7777, 0o1500);
    assert_eq!(names(&root.join("a")), ["b", "c"]);
    fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn whiteouts_hide_what_lower_layers_have_and_nothing_else() {
    let scratch = Scratch::new("whiteouts");
    let lower = Layer::new()
        .file("gone", "")
        .file("kept", "")
        .file("dir/x", "")
        .file("dir/sub/y", "")
        .file("opaque/old", "")
        .file("opaque/both/old", "")
        .file("named/old", "");
    let upper = Layer::new()
        .file(".wh.gone", "")
        .file(".wh.absent", "")
        .file("no/such/.wh.directory", "")
        .file(".wh.dir", "")
        // Entries of the layer itself, before and after the marker.
        .file("opaque/new", "")
        .file("opaque/both/new", "")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/late", "")
        .file("named/new", "")
        .file(".wh.named", "")
        .file(".wh..wh.plnk", "")
        .file("twice", "2")
        .file(".wh.twice", "");
    let root = rootfs(&scratch, [lower.file("twice", "1"), upper]);
    assert_eq!(names(&root), ["kept", "named", "opaque", "twice"]);
    assert_eq!(names(&root.join("opaque")), ["both", "late", "new"]);
    assert_eq!(names(&root.join("opaque/both")), ["new"]);
    assert_eq!(names(&root.join("named")), ["new"]);
    assert_eq!(text(root.join("twice")), "2");
}

#[test]
fn what_comes_later_takes_the_place_of_what_was_there() {
    type Make = fn(Layer) -> Layer;
    let makers: [(&str, Make); 4] = [
        ("file", |layer| layer.file("x", "new")),
        ("directory", |layer| layer.directory("x").file("x/inner", "")),
        ("symlink", |layer| layer.symlink("x", "elsewhere")),
        ("fifo", |layer| layer.entry(EntryType::Fifo, "x", |_| (), b"")),
    ];
    for (before, make_before) in makers {
        for (after, make_after) in makers {
            for layers in [
                vec![make_before(Layer::new().directory("elsewhere")), make_after(Layer::new())],
                vec![make_after(make_before(Layer::new().directory("elsewhere")))],
            ] {
                let scratch = Scratch::new("replace");
                let root = rootfs(&scratch, layers);
                let kind = fs::symlink_metadata(root.join("x")).unwrap().file_type();
                let found = match after {
                    "file" => kind.is_file() && text(root.join("x")) == "new",
                    "directory" => kind.is_dir() && names(&root.join("x")) == ["inner"],
                    "symlink" => kind.is_symlink(),
                    _ => kind.is_fifo(),
                };
                assert!(found, "{after} after {before}");
                assert!(names(&root.join("elsewhere")).is_empty(), "{after} after {before}");
            }
        }
    }
}

#[test]
fn a_directory_that_comes_again_keeps_its_content_and_takes_the_new_mode() {
    let scratch = Scratch::new("again");
    let again =
        Layer::new().entry(EntryType::Directory, "d/", |header| header.set_mode(0o711), b"");
    let root = rootfs(&scratch, [Layer::new().directory("d").file("d/f", ""), again]);
    assert_eq!(names(&root.join("d")), ["f"]);
    assert_eq!(fs::metadata(root.join("d")).unwrap().mode() & 0o7777, 0o711);
}

#[test]
fn a_directory_removed_and_implied_again_does_not_get_the_old_mode() {
    let scratch = Scratch::new("stale");
    let old = Layer::new().entry(EntryType::Directory, "d", |header| header.set_mode(0o1700), b"");
    let root =
        rootfs(&scratch, [old, Layer::new().file(".wh.d", ""), Layer::new().file("d/f", "")]);
    assert_eq!(fs::metadata(root.join("d")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn missing_directories_are_made_also_behind_links() {
    let scratch = Scratch::new("missing");
    let layer = Layer::new()
        .file("a/b/c", "1")
        .symlink("var/run", "/run-of-image")
        .file("var/run/lock/x", "2")
        .symlink("one", "two/three")
        .file("one/y", "3");
    let root = rootfs(&scratch, [layer]);
    assert_eq!(text(root.join("a/b/c")), "1");
    assert_eq!(text(root.join("run-of-image/lock/x")), "2");
    assert_eq!(text(root.join("two/three/y")), "3");
}

#[test]
fn hard_links_share_their_file_across_layers() {
    let scratch = Scratch::new("hardlinks");
    let root = rootfs(
        &scratch,
        [Layer::new().file("d/a", "1"), Layer::new().hard_link("b", "d/a").hard_link("c", "/d/a")],
    );
    let inode = |name: &str| fs::metadata(root.join(name)).unwrap().ino();
    assert_eq!(inode("d/a"), inode("b"));
    assert_eq!(inode("d/a"), inode("c"));
}

#[test]
fn strange_names_are_kept() {
    let scratch = Scratch::new("names");
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    let layer = Layer::new()
        .file("a\nb", "1")
        .file("Case", "2")
        .file("case", "3")
        .pax(&[("path", b"\xff\n=")])
        .file("unused", "4")
        .file(&long, "5");
    let root = rootfs(&scratch, [layer]);
    use std::os::unix::ffi::OsStrExt as _;
    let raw = Path::new(std::ffi::OsStr::from_bytes(b"\xff\n="));
    for (path, content) in [
        (Path::new("a\nb"), "1"),
        (Path::new("Case"), "2"),
        (Path::new("case"), "3"),
        (raw, "4"),
        (Path::new(&long), "5"),
    ] {
        assert_eq!(text(root.join(path)), content);
    }
}

#[test]
fn devices_and_pipes_are_made_for_root() {
    skip_unless_root!();
    let scratch = Scratch::new("devices");
    let device = |header: &mut tar::Header| {
        header.set_mode(0o620);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
    };
    let layer = Layer::new()
        .entry(EntryType::Char, "null", device, b"")
        .entry(EntryType::Block, "disk", device, b"")
        .entry(EntryType::Fifo, "pipe", |_| (), b"");
    let root = rootfs(&scratch, [layer]);
    let metadata = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert!(
        metadata("null").file_type().is_char_device()
            && metadata("disk").file_type().is_block_device()
    );
    assert_eq!((metadata("null").rdev(), metadata("null").mode() & 0o7777), (0x103, 0o620));
    assert!(metadata("pipe").file_type().is_fifo());
}

#[test]
fn capabilities_and_user_attributes_are_kept_and_all_others_dropped_with_a_warning() {
    skip_unless_root!();
    let scratch = Scratch::new("xattrs");
    // With a newline in it, which ends a record for careless readers.
    let capability: &[u8] =
        b"\x01\x00\x00\x02\x0a\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let layer = Layer::new()
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.note", b"\x00\n"),
            ("SCHILY.xattr.security.selinux", b"x"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ])
        .file("ping", "x");
    let layout = Image::new([layer]).layout(&scratch.join("layout"));
    let output = crate::tool::pull(&scratch, &layout, &[]);
    let stderr = crate::tool::stderr(&output);
    assert!(output.status.success(), "{stderr}");
    for dropped in ["security.selinux", "trusted.overlay.opaque"] {
        assert!(
            stderr.contains(&format!("xattr {dropped}: left out 1 times, first at \"ping\"")),
            "{stderr}"
        );
    }
    let path = scratch.join("bundle/rootfs/ping");
    let get = |name: &str| {
        let mut value = vec![0; 64];
        let length = rustix::fs::getxattr(&path, name, &mut value[..])?;
        value.truncate(length);
        rustix::io::Result::Ok(value)
    };
    assert_eq!(get("security.capability").unwrap(), capability);
    assert!(get("trusted.overlay.opaque").is_err());
    if stderr.contains("user.note (not supported here)") {
        skip!("the file system of the temporary directory has no user attributes");
    }
    assert_eq!(get("user.note").unwrap(), b"\x00\n");
}

#[test]
fn set_id_bits_survive_the_change_of_owner() {
    let scratch = Scratch::new("setid");
    let root = rootfs(
        &scratch,
        [Layer::new().file_with_mode("su", 0o4755).file_with_mode("wall", 0o2755)],
    );
    assert_eq!(fs::metadata(root.join("su")).unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(fs::metadata(root.join("wall")).unwrap().mode() & 0o7777, 0o2755);
}

#[test]
fn gzip_zstd_and_plain_layers_are_read_by_what_they_are() {
    let tar = Layer::new().file("f", "content").tar();
    let zstd = zstd::encode_all(&tar[..], 1).unwrap();
    let two = [gzip(&tar[..100]), gzip(&tar[100..])].concat();
    for (media_type, blob) in [
        ("application/vnd.oci.image.layer.v1.tar+zstd", zstd),
        ("application/vnd.oci.image.layer.v1.tar", tar.clone()),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", gzip(&tar)),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", gzip(&tar)),
        (GZIP, two),
        (GZIP, tar.clone()),
    ] {
        let scratch = Scratch::new("compression");
        let layout =
            Image::of_blobs([(media_type, blob, digest(&tar))]).layout(&scratch.join("layout"));
        assert_eq!(text(pull_well(&scratch, &layout, &[]).join("f")), "content", "{media_type}");
    }
}

#[test]
fn the_user_is_looked_up_in_the_image_itself() {
    let scratch = Scratch::new("user");
    if !crate::tool::is_root() {
        skip!("an ordinary user's container has one id");
    }
    let layer = Layer::new()
        .file("usr/etc/passwd", "web:x:33:34::/:\n")
        .file("etc/group", "web:x:34:\nlog:x:4:web\n")
        .symlink("etc/passwd", "/usr/etc/passwd");
    let layout = Image::new([layer])
        .with(json!({"Cmd": ["x"], "User": "web"}))
        .layout(&scratch.join("layout"));
    pull_well(&scratch, &layout, &[]);
    assert_eq!(
        config(&scratch)["process"]["user"],
        json!({"uid": 33, "gid": 34, "additionalGids": [4]})
    );
}

#[test]
fn the_id_that_stands_for_none_is_nobodys() {
    let scratch = Scratch::new("no-id");
    let layer = Layer::new().file("etc/passwd", "web:x:4294967295:4294967295::/:\n");
    for user in ["4294967295", "web", "0:4294967295"] {
        let layout = Image::new([layer.clone()])
            .with(json!({"Cmd": ["x"], "User": user}))
            .layout(&scratch.join("layout"));
        let error = crate::tool::pull_badly(&scratch, &layout, &[]);
        assert!(error.contains(&format!("config.User {user:?}: the image has no ")), "{error}");
    }
}

#[test]
fn an_empty_directory_becomes_the_bundle_and_others_are_left_alone() {
    let scratch = Scratch::new("target");
    let layout = crate::image::simple().layout(&scratch.join("layout"));
    fs::create_dir(scratch.join("bundle")).unwrap();
    pull_well(&scratch, &layout, &[]);
    assert_eq!(names(&scratch.join("bundle")), ["config.json", "rootfs"]);

    let error = crate::tool::pull_badly(&scratch, &layout, &[]);
    assert_eq!(error, "bundle: the bundle exists and is not empty");
    assert_eq!(names(&scratch.join("bundle")), ["config.json", "rootfs"]);
}

#[test]
fn json_events_end_with_the_result() {
    let scratch = Scratch::new("json");
    let image = crate::image::simple();
    let layout = image.layout(&scratch.join("layout"));
    let output =
        image_tool(scratch.path()).args(["pull", "--json", &layout, "bundle"]).output().unwrap();
    let events: Vec<serde_json::Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["image", "layer", "result"]);
    let last = events.last().unwrap();
    assert_eq!(last["event"], "result");
    assert_eq!(last["digest"], digest(&image.manifest_bytes()));
    assert_eq!(last["size"], image.manifest["layers"][0]["size"]);
    assert!(last["bundle"].as_str().unwrap().ends_with("bundle"));
    assert!(output.stderr.is_empty(), "{}", crate::tool::stderr(&output));
}

#[test]
fn quiet_means_nothing_at_all() {
    let scratch = Scratch::new("quiet");
    let layout = crate::image::simple().layout(&scratch.join("layout"));
    let output = crate::tool::pull(&scratch, &layout, &["--quiet"]);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty());
}

#[test]
fn an_interrupted_pull_leaves_nothing() {
    use std::io::Read as _;
    let scratch = Scratch::new("interrupted");
    let stalling = crate::server::Server::start(|_| crate::server::Reply::Stall);
    let reference = format!("{}/x", stalling.address());
    let mut command = image_tool(scratch.path());
    let mut child = command
        .args(["pull", &reference, "bundle"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    stalling.wait_for_request();
    assert_eq!(names(scratch.path()).len(), 1, "the work in progress");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert_eq!(message, "image-tool: interrupted by SIGTERM\n");
    assert!(names(scratch.path()).is_empty());
}
