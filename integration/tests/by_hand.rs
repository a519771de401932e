//! docs/by-hand.md, as a reader types it: its blocks are run in their order, and what a
//! comment says that a line prints, it prints.
//!
//! Three things differ. Its /tmp is a directory of the test's own, containers are remembered
//! there too, and `alpine` is pulled from a layout on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::{Bed, as_root};

const PAGE: &str = include_str!("../../docs/by-hand.md");

/// The repository.
fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The lines of the page's blocks that are marked `sh`.
fn script() -> String {
    let blocks = PAGE.split("\n```sh\n").skip(1);
    let blocks = blocks.map(|rest| rest.split_once("\n```").expect("the end of a block").0);
    blocks.collect::<Vec<_>>().join("\n")
}

/// An Alpine as an OCI layout.
fn alpine() -> PathBuf {
    let made = Command::new(repository().join("testbed/alpine.py")).output().expect("alpine.py");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).expect("a path").trim().into()
}

/// A new directory of the bed.
fn directory(bed: &Bed, name: &str) -> PathBuf {
    let path = bed.root().with_file_name(name);
    fs::create_dir(&path).expect("mkdir");
    path
}

/// A directory of programs for PATH, which holds the two that the page is about.
fn programs(bed: &Bed) -> PathBuf {
    let directory = directory(bed, "programs");
    let runtime = integration::runtime().program.display();
    let image_tool = repository().join("bin/image-tool");
    assert!(image_tool.exists(), "{}: run `make` first", image_tool.display());
    let (image_tool, layout) = (image_tool.display(), alpine());
    let root = bed.root();
    bed.script("programs/ferrun", &format!("exec {runtime} --root {} \"$@\"", root.display()));
    bed.script(
        "programs/image-tool",
        &format!(
            "[ \"$1 $2\" = 'pull alpine' ] || exit 1\nshift 2\n\
             exec {image_tool} pull --quiet oci:{} \"$@\"",
            layout.display()
        ),
    );
    directory
}

/// The script, with a check behind each line that says what it prints.
fn checked(script: &str) -> (String, usize) {
    let mut checks = 0;
    let lines = script.lines().map(|line| match line.split_once("    # prints ") {
        None => format!("{line}\n"),
        Some((command, expected)) => {
            checks += 1;
            let expected = expected.replace('\'', "'\\''");
            format!(
                "said=$({command})\n[ \"$said\" = '{expected}' ] || \
                 {{ echo \"check {checks}: $said\" >&2; exit 1; }}\n"
            )
        }
    });
    (lines.collect(), checks)
}

#[test]
fn each_block_does_what_the_page_says() {
    as_root(|bed| {
        if bed.is_peer("runc and crun are called otherwise") {
            return;
        }
        let (script, checks) = checked(&script());
        assert!(checks >= 8 && script.lines().count() > 40, "{checks}:\n{script}");
        let programs = programs(bed);
        let tmp = directory(bed, "tmp");
        let script = script.replace("/tmp/", &format!("{}/", tmp.display()));
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
        let call = bed.program(Path::new("/bin/sh")).env("PATH", path);
        call.args(["-euc", &script]).output().success();
        bed.assert_nothing_left();
    });
}
