//! docs/by-hand.md and the first container of README.md, as a reader types them: lines are run
//! in their order, README's at a terminal, and what a comment says that a line prints, it prints.
//!
//! Three things differ, and `sudo` is one that does nothing. Its /tmp is a directory of the test's own, containers are remembered
//! there too, and `alpine` is pulled from a layout on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use integration::terminal::Terminal;
use integration::{Bed, as_root};

const PAGE: &str = include_str!("../../docs/by-hand.md");
const README: &str = include_str!("../../README.md");

/// Both pages have a container called `one`, whose cgroup is called so too.
static ONE: Mutex<()> = Mutex::new(());

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
            "for word; do\n    shift\n    [ \"$word\" = alpine ] && word=oci:{}\n\
             \x20   set -- \"$@\" \"$word\"\ndone\n\
             command=$1\nshift\nexec {image_tool} \"$command\" --quiet \"$@\"",
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
    let _turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
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

/// The lines of README's first container, without what builds the programs.
fn first_container() -> Vec<&'static str> {
    let (_, section) = README.split_once("\n## A first container by hand\n").expect("the section");
    let block = section.lines().skip_while(|line| !line.starts_with("    "));
    let block = block.take_while(|line| line.is_empty() || line.starts_with("    "));
    let lines = block.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter(|line| *line != "make").collect()
}

#[test]
fn each_line_of_the_readme_does_at_a_terminal_what_it_says() {
    let _turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    as_root(|bed| {
        if bed.is_peer("runc and crun are called otherwise") {
            return;
        }
        let lines = first_container();
        assert!(lines.len() >= 9, "{lines:?}");
        let programs = programs(bed);
        bed.script("programs/sudo", "exec \"$@\"");
        let tmp = directory(bed, "tmp");
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
        for line in lines {
            let typed = line.replace("bin/", "").replace("/tmp/", &format!("{}/", tmp.display()));
            let (mut terminal, other) = Terminal::open();
            let call = bed.program(Path::new("/bin/sh")).env("PATH", &path).args(["-c", &typed]);
            let running = call.on_terminal(&other).spawn();
            drop(other);
            // What is no word more than a shell waits for somebody to leave it.
            let is_shell = line.ends_with(" sh") || line.contains("# its shell");
            if is_shell {
                terminal.expect("/ # ");
                terminal.send("exit 47\n");
            }
            let code = running.wait().code;
            assert_eq!(code, if is_shell { 47 } else { 0 }, "{line}: {}", terminal.rest());
        }
        bed.assert_nothing_left();
    });
}
