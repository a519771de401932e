//! Layers and descriptions made to do harm.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::SystemTime;

use serde_json::json;
use tar::EntryType;

use crate::image::{GZIP, Image, Layer, digest, gzip};
use crate::server::{Reply, Server};
use crate::tool::{Scratch, names, pull_badly, pull_well, stderr};

/// A directory beside the bundle that no layer may change.
struct Outside {
    scratch: Scratch,
    made: SystemTime,
}

impl Outside {
    fn new() -> Self {
        let scratch = Scratch::new("hostile");
        fs::create_dir(scratch.join("outside")).unwrap();
        fs::write(scratch.join("outside/file"), "untouched").unwrap();
        let made = fs::metadata(scratch.join("outside/file")).unwrap().modified().unwrap();
        Self { scratch, made }
    }

    fn join(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    fn path(&self) -> String {
        self.join("outside").to_str().unwrap().to_owned()
    }

    /// Fails if anything in it has changed.
    #[track_caller]
    fn check(&self) {
        let file = self.join("outside/file");
        assert_eq!(names(&self.join("outside")), ["file"]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "untouched");
        let metadata = fs::symlink_metadata(file).unwrap();
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(
            (metadata.uid(), metadata.nlink(), metadata.modified().unwrap()),
            (own, 1, self.made)
        );
    }
}

#[track_caller]
fn refused(layers: impl IntoIterator<Item = Layer>) -> String {
    let scratch = Scratch::new("refused");
    let layout = Image::new(layers).layout(&scratch.join("layout"));
    pull_badly(&scratch, &layout, &[])
}

#[test]
fn entries_that_no_good_layer_has_are_refused_by_name() {
    let long = "n".repeat(256);
    let deep = "d/".repeat(300);
    let size = |size: u64| move |header: &mut tar::Header| header.set_size(size);
    for (what, layer, reason) in [
        ("whiteout of ..", Layer::new().file(".wh...", ""), "a whiteout of \"..\""),
        ("whiteout of .", Layer::new().file(".wh..", ""), "a whiteout of \".\""),
        ("whiteout of nothing", Layer::new().file("d/.wh.", ""), "a whiteout of \"\""),
        ("root as file", Layer::new().file(".", ""), "the root of the image is not a directory"),
        (
            "root as symlink",
            Layer::new().symlink("/", "/etc"),
            "the root of the image is not a directory",
        ),
        (
            "root as symlink by ..",
            Layer::new().symlink("a/..", "/etc"),
            "the root of the image is not a directory",
        ),
        (
            "hard link climbing out",
            Layer::new().hard_link("x", "../../etc/passwd"),
            "it points outside the image",
        ),
        (
            "hard link to a file of the machine",
            Layer::new().hard_link("x", "/etc/passwd"),
            "hard link to /etc/passwd",
        ),
        (
            "hard link to a directory",
            Layer::new().directory("d").hard_link("x", "d"),
            "hard link to d",
        ),
        (
            "link loop",
            Layer::new().symlink("a", "b").symlink("b", "a").file("a/x", ""),
            "a/x: directory \"a\"",
        ),
        ("file as directory", Layer::new().file("a", "").file("a/x", ""), "a/x: directory \"a\""),
        ("name of 256 bytes", Layer::new().file(&long, ""), "File name too long"),
        (
            "deep path",
            Layer::new().file(&format!("{deep}f"), ""),
            "a path of more than 256 components",
        ),
        (
            "uid 2^32",
            Layer::new().pax(&[("uid", b"4294967296")]).file("f", ""),
            "uid 4294967296 is out of range",
        ),
        (
            "gid 2^32-1",
            Layer::new().entry(EntryType::Regular, "f", |h| h.set_gid(u32::MAX.into()), b""),
            "gid 4294967295",
        ),
        (
            "a device that the kernel would take for 1:3",
            Layer::new().entry(
                EntryType::Char,
                "f",
                |h| {
                    h.set_device_major(0x1001).unwrap();
                    h.set_device_minor(3).unwrap();
                },
                b"",
            ),
            "no device is 4097:3",
        ),
        (
            "size 2^62",
            Layer::new().entry(EntryType::Regular, "f", size(1 << 62), b""),
            "the archive ends inside a file",
        ),
        (
            "size 2^63",
            Layer::new().entry(EntryType::Regular, "f", size(1 << 63), b""),
            "an entry of 9223372036854775808 bytes",
        ),
        (
            "cut",
            Layer::new().entry(EntryType::Regular, "f", size(5000), b"x"),
            "the archive ends inside a file",
        ),
        (
            "unknown type",
            Layer::new().entry(EntryType::new(b'?'), "f", |_| (), b""),
            "f: an entry of the unknown type '?'",
        ),
    ] {
        let error = refused([layer]);
        assert!(error.contains(reason), "{what}: {error}");
        assert!(error.starts_with("layer 1 of 1 (sha256:"), "{what}: {error}");
    }
}

#[test]
fn an_absolute_or_climbing_path_lands_inside() {
    let outside = Outside::new();
    let layer =
        Layer::new().file(&format!("{}/new", outside.path()), "").file("../../../../../../x", "");
    let layout = Image::new([layer]).layout(&outside.join("layout"));
    let root = pull_well(&outside.scratch, &layout, &[]);
    outside.check();
    assert!(root.join("x").exists());
    assert!(root.join(outside.path().trim_start_matches('/')).join("new").exists());
}

#[test]
fn nothing_outside_is_reached_through_links_in_the_same_or_the_next_layer() {
    let links = |outside: &str| {
        let climbing = format!("{}{}", "../".repeat(20), outside.trim_start_matches('/'));
        Layer::new()
            .symlink_of(1234, "absolute", outside)
            .symlink("climbing", &climbing)
            .symlink_of(1234, "file", &format!("{outside}/file"))
    };
    let attacks = |layer: Layer| {
        layer
            .file("absolute/new", "x")
            .file("climbing/new", "x")
            .file("absolute/file", "x")
            .file("file", "x")
            .hard_link("climbing/linked", "absolute/new")
            .directory("absolute")
    };
    let whiteouts = Layer::new()
        .file("absolute/.wh.file", "")
        .file("climbing/.wh..wh..opq", "")
        .file(".wh.absolute", "");
    let outside = Outside::new();
    let path = outside.path();
    for (name, layers) in [
        ("same", vec![attacks(links(&path))]),
        ("next", vec![links(&path), attacks(Layer::new())]),
        ("whiteouts", vec![links(&path), whiteouts]),
    ] {
        let layout = Image::new(layers).layout(&outside.join(name));
        pull_well(&outside.scratch, &layout, &[]);
        outside.check();
        fs::remove_dir_all(outside.join("bundle")).unwrap();
    }
}

#[test]
fn a_hard_link_to_a_link_is_not_followed_and_not_written_through() {
    let outside = Outside::new();
    let layer = Layer::new()
        .symlink("link", &format!("{}/file", outside.path()))
        .hard_link("hard", "link")
        .file("hard", "overwritten");
    let layout = Image::new([layer]).layout(&outside.join("layout"));
    let root = pull_well(&outside.scratch, &layout, &[]);
    outside.check();
    assert_eq!(fs::read_to_string(root.join("hard")).unwrap(), "overwritten");
    assert!(fs::symlink_metadata(root.join("link")).unwrap().is_symlink());
}

#[test]
fn a_hard_link_to_a_link_is_another_name_of_the_link() {
    let outside = Outside::new();
    let file = format!("{}/file", outside.path());
    let layer = Layer::new().symlink("link", &file).hard_link("hard", "link");
    let layout = Image::new([layer]).layout(&outside.join("layout"));
    let root = pull_well(&outside.scratch, &layout, &[]);
    outside.check();
    assert_eq!(fs::read_link(root.join("hard")).unwrap(), Path::new(&file));
    let names = ["hard", "link"].map(|name| fs::symlink_metadata(root.join(name)).unwrap().ino());
    assert_eq!(names[0], names[1]);
}

#[test]
fn magic_links_of_the_kernel_lead_nowhere() {
    let layer =
        Layer::new().symlink("link", "/proc/self/root").file("link/tmp/image-tool-escape", "x");
    let scratch = Scratch::new("magic");
    let layout = Image::new([layer]).layout(&scratch.join("layout"));
    let root = pull_well(&scratch, &layout, &[]);
    assert!(!Path::new("/tmp/image-tool-escape").exists());
    assert!(root.join("proc/self/root/tmp/image-tool-escape").exists());
}

#[test]
fn a_user_database_that_is_a_trap_is_refused() {
    let outside = Outside::new();
    fs::write(outside.join("outside/passwd"), "evil:x:0:0::/:\n").unwrap();
    for (passwd, reason) in [
        (
            Layer::new().symlink("etc/passwd", &format!("{}/passwd", outside.path())),
            "the image has no user \"evil\"",
        ),
        (
            Layer::new().entry(EntryType::Fifo, "etc/passwd", |_| (), b""),
            "\"etc/passwd\" of the image: not a regular file",
        ),
        (Layer::new().directory("etc/passwd"), "\"etc/passwd\" of the image: not a regular file"),
        (Layer::new().file("etc/passwd", &"x".repeat(5 << 20)), "longer than"),
    ] {
        let layout = Image::new([passwd])
            .with(json!({"Cmd": ["x"], "User": "evil"}))
            .layout(&outside.join("layout"));
        let error = pull_badly(&outside.scratch, &layout, &[]);
        assert!(error.contains(reason), "{error}");
        fs::remove_dir_all(outside.join("layout")).unwrap();
    }
}

#[test]
fn blobs_that_are_not_what_was_promised_are_refused() {
    let good = crate::image::simple();
    let layer = good.layer(0);
    let blob = good.blobs[&layer].clone();
    let with_blob = |bytes: Vec<u8>| {
        let mut image = good.clone();
        image.blobs.insert(layer.clone(), bytes);
        image
    };
    let with_layer = |key: &str, value: serde_json::Value| {
        let mut image = good.clone();
        image.manifest["layers"][0][key] = value;
        image
    };
    let mut flipped = blob.clone();
    flipped[blob.len() / 2] ^= 1;
    let mut other_diff_id = good.clone();
    let mut config = good.config.clone();
    config["rootfs"]["diff_ids"][0] = json!(digest(b"other"));
    other_diff_id.set_config(config.clone());
    let mut more_diff_ids = good.clone();
    config["rootfs"]["diff_ids"] = json!([digest(b"1"), digest(b"2")]);
    more_diff_ids.set_config(config);
    let mut both = good.clone();
    both.manifest["manifests"] = json!([]);
    let tar = Layer::new().file("f", "x").tar();
    let garbage =
        Image::of_blobs([(GZIP, [gzip(&tar), b"garbage".to_vec()].concat(), digest(&tar))]);
    let cut = Image::of_blobs([(GZIP, gzip(&tar)[..40].to_vec(), digest(&tar))]);
    let size = blob.len();
    for (what, image, reason) in [
        ("truncated", with_blob(blob[..size - 1].to_vec()), "not the declared"),
        ("flipped bit", with_blob(flipped), "layer 1 of 1"),
        ("other blob", with_blob(vec![0; size]), "its digest is"),
        ("size - 5", with_layer("size", json!(size - 5)), "not the declared"),
        ("size + 5", with_layer("size", json!(size + 5)), "not the declared"),
        ("size -1", with_layer("size", json!(-1)), "layers[0].size: invalid value: integer `-1`"),
        ("diffID", other_diff_id, "its digest is"),
        ("more diffIDs", more_diff_ids, "it names 2 layers, the manifest has 1"),
        ("manifest and index", both, "an image manifest and an index at once"),
        ("garbage after gzip", garbage, "layer 1 of 1"),
        ("cut gzip", cut, "layer 1 of 1"),
        ("artifact", with_layer("mediaType", json!("text/plain")), "is not a file system layer"),
    ] {
        let scratch = Scratch::new("promise");
        let layout = image.layout(&scratch.join("layout"));
        let error = pull_badly(&scratch, &layout, &[]);
        assert!(error.contains(reason), "{what}: {error}");
    }
}

#[test]
fn a_bomb_is_stopped_at_the_bound() {
    let scratch = Scratch::new("bomb");
    let layer = Layer::new().entry(EntryType::Regular, "zeros", |_| (), &vec![0; 3 << 20]);
    let layout = Image::new([layer]).layout(&scratch.join("layout"));
    let error = pull_badly(&scratch, &layout, &["--max-unpacked=2"]);
    assert!(error.contains("more bytes than allowed"), "{error}");

    // The same behind the end of the archive, where nothing is extracted.
    let mut tar = Layer::new().file("f", "").tar();
    tar.resize(3 << 20, 0);
    let trailing =
        Image::of_blobs([(GZIP, gzip(&tar), digest(&tar))]).layout(&scratch.join("trailing"));
    let error = pull_badly(&scratch, &trailing, &["--max-unpacked=2"]);
    assert!(error.contains("too many bytes"), "{error}");
}

#[test]
fn what_a_failed_pull_has_made_goes_again_however_it_is_shaped() {
    // Links let a tree grow deeper than any path in the archive.
    let mut layer = Layer::new();
    let deep = "d/".repeat(200);
    layer = layer.directory(&deep);
    for level in 0..8 {
        let base = if level == 0 { deep.clone() } else { format!("s{}/{deep}", level - 1) };
        layer = layer.directory(&base).symlink(&format!("s{level}"), &base);
    }
    let error = refused([layer
        .entry(EntryType::Directory, "closed", |h| h.set_mode(0), b"")
        .file(".wh..", "")]);
    assert!(error.contains("a whiteout of"), "{error}");
}

/// The directory of the bundle is another user's, who exchanges what is made there for
/// something else while layers arrive.
#[test]
fn what_takes_the_place_of_the_bundle_meanwhile_is_not_written_to() {
    for directory in [false, true] {
        for then in ["pulled", "refused"] {
            let outside = Outside::new();
            fs::create_dir(outside.join("outside/rootfs")).unwrap();
            let place = outside.join("");
            let once = Once::new();
            let exchange = move || {
                let is_work = |name: &String| name.starts_with(".bundle.");
                let work = names(&place).into_iter().find(is_work).unwrap();
                fs::rename(place.join(&work), place.join("moved")).unwrap();
                if directory {
                    fs::rename(place.join("outside"), place.join(&work)).unwrap();
                } else {
                    std::os::unix::fs::symlink("outside", place.join(&work)).unwrap();
                }
            };
            let layer = Layer::new().file("etc/file", "theirs").file("file", "theirs");
            let server = Server::of_image(Image::new([layer]), move |request| {
                let is_blob = request.path.contains("/blobs/");
                if is_blob {
                    once.call_once(&exchange);
                }
                (is_blob && then == "refused").then(|| Reply::status(403))
            });
            let output = crate::tool::pull(&outside.scratch, &server.reference(), &[]);
            assert_eq!(output.status.code(), Some(1), "{directory} {then}");
            let message = stderr(&output);
            assert!(message.contains("somebody has put something else in its place"), "{message}");
            assert!(!message.contains("panicked"), "{message}");
            if directory {
                let is_other = |name: &String| name.starts_with(".bundle.");
                let work = names(outside.scratch.path()).into_iter().find(is_other).unwrap();
                fs::rename(outside.join(&work), outside.join("outside")).unwrap();
            }
            // Nothing has come to where the bundle's own would be.
            fs::remove_dir(outside.join("outside/rootfs")).unwrap();
            outside.check();
            // What was written is gone, wherever it was moved to.
            assert!(names(&outside.join("moved")).is_empty(), "{directory} {then}");
        }
    }
}
