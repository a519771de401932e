//! A large image: what it costs does not grow with it.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::image::{Image, Layer};
use crate::server::Server;
use crate::tool::{Scratch, image_tool};

const LAYERS: usize = 10;
const FILES: usize = 5_000;
const FILE_BYTES: usize = 20_000;
/// How much the program may have of the machine's memory at any time, in KiB.
const MEMORY: u64 = 64 << 10;

/// Text of which half is left when it is compressed, without an end that repeats.
fn text(length: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut text = String::with_capacity(length + 16);
    while text.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!("{state:016x}"));
    }
    text
}

fn large() -> Image {
    let text = text(4 << 20);
    Image::new((0..LAYERS).map(|layer| {
        (0..FILES).fold(Layer::new().directory(&format!("{layer}")), |made, file| {
            let from = (layer * FILES + file) * 7919 % (text.len() - FILE_BYTES);
            let content = &text[from..from + FILE_BYTES];
            made.file(&format!("{layer}/{:02}/{file}", file % 50), content)
        })
    }))
}

#[test]
#[ignore = "makes and unpacks a gigabyte"]
fn a_gigabyte_in_fifty_thousand_files_takes_little_memory() {
    let registry = Server::of_image(large(), |_| None);
    let scratch = Scratch::new("large");
    let mut command = image_tool(scratch.path());
    command.args(["pull", "--quiet", &registry.reference(), "bundle"]);
    let mut child = command.spawn().unwrap();
    // What wait4(2) tells is not less than what the parent had.
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let ended = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.map_or(peak, |line| line.trim().trim_end_matches(" kB").parse().unwrap());
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        thread::sleep(Duration::from_millis(2));
    };
    assert!(ended.success());
    eprintln!("at most {peak} KiB");
    assert!(peak > 0 && peak < MEMORY, "{peak} KiB");

    let root = scratch.join("bundle/rootfs");
    let mut files = 0;
    for layer in 0..LAYERS {
        for directory in fs::read_dir(root.join(layer.to_string())).unwrap() {
            for file in fs::read_dir(directory.unwrap().path()).unwrap() {
                assert_eq!(file.unwrap().metadata().unwrap().len(), FILE_BYTES as u64);
                files += 1;
            }
        }
    }
    assert_eq!(files, LAYERS * FILES);
}
