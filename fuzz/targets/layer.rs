//! Layers into an empty root: nothing outside of it is touched, whatever comes.
//!
//! Half of the inputs are bytes of an archive, whose checksums are put right; the other half
//! are entries of a few names that meet each other: links that lead out, whiteouts, parents
//! that are links.

#![no_main]
#![allow(dead_code)]

#[path = "../../image-tool/src/archive.rs"]
mod archive;
#[path = "../../image-tool/src/limits.rs"]
mod limits;
#[path = "../../image-tool/src/rootfs.rs"]
mod rootfs;
#[path = "../../image-tool/src/tree.rs"]
mod tree;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use rootfs::Rootfs;
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// A file system of the process's own, without devices; the root is a directory in it.
const TOP: &str = "/mnt";
const ROOT: &str = "/mnt/root";

const PARTS: [&str; 14] = [
    "a",
    "b",
    "c",
    "..",
    ".",
    "",
    "link",
    ".wh.a",
    ".wh.link",
    ".wh..wh..opq",
    ".wh...",
    "root",
    "outside",
    "kept",
];
const TARGETS: [&str; 10] = [
    "..",
    "../outside",
    "/mnt/outside",
    "/mnt/outside/kept",
    "a",
    "../../mnt/outside",
    "/",
    ".",
    "link",
    "/proc/self/root/mnt/outside",
];
/// Of a file, hard and symbolic link, devices, directory, named pipe, and headers alone.
const KINDS: &[u8] = b"0123456xLKg7";

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Bytes(&'a [u8]),
    Layers(Vec<Vec<Entry>>),
}

#[derive(Arbitrary, Debug)]
struct Entry {
    kind: u8,
    path: Vec<u8>,
    target: u8,
    mode: u16,
    size: u8,
}

fn pick<T: Copy>(from: &[T], number: u8) -> T {
    from[usize::from(number) % from.len()]
}

impl Entry {
    fn write(&self, to: &mut Vec<u8>) {
        let parts: Vec<_> = self.path.iter().take(5).map(|part| pick(&PARTS, *part)).collect();
        let kind = pick(KINDS, self.kind);
        let target = pick(&TARGETS, self.target);
        let content = match kind {
            b'0' | b'7' => vec![b'x'; self.size.into()],
            b'L' | b'K' => target.as_bytes().to_vec(),
            b'x' | b'g' => record("linkpath", target).into_bytes(),
            _ => Vec::new(),
        };
        let mut header = [0; 512];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, parts.join("/").as_bytes());
        put(100, format!("{:07o}", self.mode & 0o7777).as_bytes());
        // Of root, made long ago.
        put(108, b"0000000");
        put(116, b"0000000");
        put(136, b"00000000000");
        put(124, format!("{:011o}", content.len()).as_bytes());
        put(156, &[kind]);
        put(157, target.as_bytes());
        put(257, b"ustar\x0000");
        to.extend(header);
        to.extend(&content);
        to.resize(to.len().next_multiple_of(512), 0);
    }
}

/// A record of an extended header, which says its own length.
fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let length = rest.len() + if rest.len() + 2 < 100 { 2 } else { 3 };
    format!("{length}{rest}")
}

/// With the checksum in each header, as far as the headers can be followed.
fn with_checksums(mut archive: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some(block) = archive.get_mut(at..at + 512) {
        if block.iter().any(|byte| *byte != 0) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let size = std::str::from_utf8(&block[124..135]).unwrap_or_default();
        let size = usize::from_str_radix(size, 8).unwrap_or(0).min(1 << 20);
        at += 512 + size.next_multiple_of(512);
    }
    archive
}

fn set_up() {
    // SAFETY: no other thread is there yet.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("a mount namespace takes root");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).expect("private mounts");
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("tmpfs", TOP, "tmpfs", flags, c"size=64m,nr_inodes=20000").expect("a tmpfs");
    fs::create_dir("/mnt/outside").expect("mkdir");
    fs::write("/mnt/outside/kept", "kept").expect("write");
    symlink("outside", "/mnt/link").expect("symlink");
}

/// All that is beside the root, with all that is known of it.
fn outside() -> Vec<(String, u64, u64, u32, u32, u64, (i64, i64), String)> {
    let list = |directory: &str| {
        let mut names: Vec<_> = fs::read_dir(directory)
            .expect("readdir")
            .map(|entry| entry.expect("entry").path())
            .collect();
        names.sort();
        names
    };
    let found = list(TOP).into_iter().chain(list("/mnt/outside"));
    found
        .filter(|path| path != Path::new(ROOT))
        .map(|path| {
            let about = fs::symlink_metadata(&path).expect("lstat");
            let changed = (about.ctime(), about.ctime_nsec());
            let content = fs::read_to_string(&path).unwrap_or_default();
            let name = path.display().to_string();
            (
                name,
                about.ino(),
                about.nlink(),
                about.mode(),
                about.uid(),
                about.size(),
                changed,
                content,
            )
        })
        .collect()
}

fn apply(layers: &[Vec<u8>]) {
    fs::create_dir(ROOT).expect("mkdir");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root: OwnedFd = open(ROOT, flags, Mode::empty()).expect("open");
    let before = outside();
    let mut rootfs = Rootfs::new(root.try_clone().expect("dup"), 1 << 20).expect("an empty root");
    let is_applied = layers.iter().all(|layer| rootfs.apply(&layer[..]).is_ok());
    for path in ["etc/passwd", "a/b", "link/kept", "link"] {
        let read = rootfs.read(Path::new(path), 4096).ok().flatten();
        assert_ne!(read.as_deref(), Some(&b"kept"[..]), "{path} is the one outside");
    }
    if is_applied {
        _ = rootfs.finish().map(|omitted| omitted.warnings().count());
    }
    assert_eq!(before, outside());
    tree::clear(&root).expect("what was made can be removed");
    fs::remove_dir(ROOT).expect("the root is empty");
}

fuzz_target!(
    init: set_up(),
    |input: Input<'_>| match input {
        Input::Bytes(bytes) => {
            // In two halves, for what comes in a second layer.
            let middle = bytes.len() / 2 / 512 * 512;
            let (first, second) = bytes.split_at(middle);
            apply(&[first, second].map(|half| with_checksums(half.to_vec())));
        }
        Input::Layers(layers) => {
            let layers = layers.iter().take(3).map(|entries| {
                let mut archive = Vec::new();
                entries.iter().take(24).for_each(|entry| entry.write(&mut archive));
                archive.resize(archive.len() + 1024, 0);
                with_checksums(archive)
            });
            apply(&layers.collect::<Vec<_>>());
        }
    }
);
