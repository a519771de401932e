//! What each command costs by the kernel's counters: never a twentieth more than it did.
//!
//! A counter depends little on who else is at work; how often somebody has to be waited for does,
//! and stands in the table with the most that was seen on a busy machine. Whoever makes a
//! command dearer changes the table, and says why in the message of the commit.
//!
//! System calls, new processes and opened files are counted by strace(1) until the command itself
//! has ended, page faults and context switches by wait4(2), the least of some lives. The
//! instructions of the command itself, in user mode, are counted by stepping through them, with
//! version 1 alone: that takes a second for some 100,000, and they depend little on the version.
//! A 0 there stands for what is not counted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use integration::counted::{count, instructions_of, is_as_when_counted};
use integration::{
    Bed, Bundle, Running, View, copy_program, eventually, in_views, runtime, usage_of,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

const COUNTERS: [&str; 6] =
    ["system calls", "processes", "opened files", "faults", "waits", "instructions"];
type Cost = [u64; 6];

/// By command: with the controllers of cgroup version 1, and with version 2.
#[rustfmt::skip]
const COSTS: [(&str, Cost, Cost); 9] = [
    ("run",         [611, 1, 96, 132, 12, 571_000], [413, 1, 54, 130, 12, 0]),
    ("create",      [552, 1, 93, 71, 5, 0],         [378, 1, 51, 68, 5, 0]),
    ("start",       [36, 0, 6, 24, 2, 69_700],      [39, 0, 7, 23, 2, 0]),
    ("state",       [21, 0, 4, 22, 1, 66_400],      [24, 0, 5, 21, 1, 0]),
    ("exec",        [190, 2, 17, 129, 9, 197_900],  [168, 2, 10, 127, 9, 0]),
    ("list",        [37, 0, 6, 28, 1, 87_200],      [40, 0, 7, 27, 1, 0]),
    ("list of 401", [3662, 0, 1206, 716, 1, 0],     [4860, 0, 1607, 383, 1, 0]),
    ("kill",        [27, 0, 5, 22, 1, 65_400],      [29, 0, 6, 21, 1, 0]),
    ("delete",      [37, 0, 4, 24, 3, 74_400],      [29, 0, 4, 23, 3, 0]),
];
const NEIGHBOURS: usize = 400;

/// How many lives are looked at for what others may disturb.
const LIVES: usize = 7;

#[test]
fn no_command_costs_more_than_it_did() {
    in_views(|bed| {
        if bed.is_peer("") {
            return;
        }
        if let Err(reason) = is_as_when_counted(bed) {
            return bed.skip(reason);
        }
        let counted = Counted::new(bed);
        let calls = counted.life(|_, words| {
            let (calls, strace) = counted.calls(words);
            (calls, Some(strace))
        });
        let instructions = counted.life(|verb, words| (counted.instructions(verb, words), None));
        let mut least = counted.life(|_, words| (counted.usage(words), None));
        for _ in 1..LIVES {
            for (verb, usage) in counted.life(|_, words| (counted.usage(words), None)) {
                let least = least.get_mut(verb).expect("a command of each life");
                *least = [0, 1].map(|which| least[which].min(usage[which]));
            }
        }
        let mut dearer = Vec::new();
        for (verb, one, two) in COSTS {
            let ([calls, forks, opened], [faults, switches]) = (calls[verb], least[verb]);
            let found = [calls, forks, opened, faults, switches, instructions[verb]];
            eprintln!("{:?}: {verb}: {found:?}", bed.view);
            let compared = COUNTERS.iter().zip(found).zip(bed.by_version(one, two));
            let over = compared.filter(|((_, found), last)| *found > last + last.div_ceil(20));
            dearer.extend(
                over.map(|((counter, found), last)| {
                    format!("{verb}: {counter}: {found}, not {last}")
                }),
            );
        }
        assert!(dearer.is_empty(), "dearer than the table says: {dearer:#?}");
    });
}

/// System calls, processes made and files opened, until the first process of a log of
/// `strace -f` has ended; None where it has not.
fn calls_of_first(log: &str) -> Option<[u64; 3]> {
    let first = log.split_whitespace().next()?;
    let mut counts = [0; 3];
    for line in log.lines() {
        let (pid, event) = line.split_once(' ')?;
        let event = event.trim_start();
        match event.chars().next()? {
            '+' if pid == first => return Some(counts),
            // The second half of a call, the end of another process, a signal.
            '<' | '+' | '-' => {}
            _ => count(&mut counts, event),
        }
    }
    None
}

/// A bed, and a fresh copy of the runtime on pages of one size: what the page cache of other
/// file systems holds in larger pieces takes fewer faults, on one day and not the next.
struct Counted<'bed> {
    bed: &'bed Bed,
    memory: PathBuf,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let _ = umount2(&self.memory, MntFlags::MNT_DETACH);
    }
}

impl Counted<'_> {
    fn new(bed: &Bed) -> Counted<'_> {
        let memory = bed.make_directory("memory", 0o755);
        mount(Some("memory"), &memory, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .expect("a tmpfs");
        copy_program(&runtime().program, &memory.join("ferrun"));
        Counted { bed, memory }
    }

    /// A bundle of the default configuration with this program.
    fn bundle(&self, args: &[&str]) -> Bundle {
        let directory = self.bed.make_directory(&format!("spec-{}", self.bed.next()), 0o755);
        self.bed.runtime(["spec".as_ref(), "--bundle".as_ref(), directory.as_os_str()]).success();
        let config = fs::read_to_string(directory.join("config.json")).expect("what spec wrote");
        let config: Value = serde_json::from_str(&config).expect("JSON");
        let group = format!("/{}/{}", self.bed.name, self.bed.next());
        let bundle = self.bed.bundle_of(config).with("/process/terminal", false);
        bundle.with("/process/args", json!(args)).with("/linux/cgroupsPath", group)
    }

    /// Counts each command of a container's life.
    fn life<T>(
        &self,
        count: impl Fn(&str, &[&str]) -> (T, Option<Running>),
    ) -> BTreeMap<&'static str, T> {
        let id = self.bed.id();
        let [short, long] = [&["true"][..], &["sleep", "1000"]].map(|args| self.bundle(args));
        let [short, long] =
            [&short, &long].map(|bundle| bundle.save().path.to_str().expect("UTF-8"));
        let commands: [(&str, &[&str]); 9] = [
            ("run", &["run", "--bundle", short, &id]),
            ("create", &["create", "--bundle", long, &id]),
            ("start", &["start", &id]),
            ("state", &["state", &id]),
            ("exec", &["exec", &id, "true"]),
            ("list", &["list"]),
            ("list of 401", &["list"]),
            ("kill", &["kill", &id, "KILL"]),
            ("delete", &["delete", &id]),
        ];
        // What ends with the container ends last.
        let mut straces = Vec::new();
        let mut neighbours = Vec::new();
        let counts = commands.map(|(verb, words)| {
            match verb {
                "list of 401" => neighbours = self.neighbours_of(&id),
                "kill" => {
                    neighbours.drain(..).for_each(|path| fs::remove_dir_all(path).expect("rm"))
                }
                "delete" => eventually("the container stops", || {
                    self.bed.runtime(["state", &id]).stdout.contains("\"stopped\"")
                }),
                _ => {}
            }
            let (counted, strace) = count(verb, words);
            straces.extend(strace);
            (verb, counted)
        });
        counts.into_iter().collect()
    }

    /// Has many more containers remembered, whose processes are those of this one.
    fn neighbours_of(&self, id: &str) -> Vec<PathBuf> {
        let root = self.bed.root();
        let record = fs::read_to_string(root.join(id).join("state.json")).expect("the record");
        let neighbour = |number| {
            let name = format!("neighbour-{number}");
            let directory = root.join(&name);
            fs::create_dir(&directory).expect("a directory");
            let record = record.replace(&format!("\"id\":\"{id}\""), &format!("\"id\":\"{name}\""));
            fs::write(directory.join("state.json"), record).expect("a record");
            directory
        };
        (0..NEIGHBOURS).map(neighbour).collect()
    }

    /// Page faults and context switches of a command.
    fn usage(&self, words: &[&str]) -> [u64; 2] {
        let mut command = Command::new(self.memory.join("ferrun"));
        command.arg("--root").arg(self.bed.root()).args(words);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        let (status, usage) = usage_of(&mut command).expect("the runtime");
        assert!(status.success(), "{words:?}");
        [usage.faults, usage.switches]
    }

    /// The instructions of a command. Those of `create` are among `run`'s, and a long list would take
    /// minutes.
    fn instructions(&self, verb: &str, words: &[&str]) -> u64 {
        let call = self.bed.program(&self.memory.join("ferrun"));
        let call = call.arg("--root").arg(self.bed.root()).args(words);
        if self.bed.view == View::V2 || matches!(verb, "create" | "list of 401") {
            call.output().success();
            return 0;
        }
        instructions_of(&call.traced().spawn())
    }

    /// What strace(1) counts of a command. strace stays as long as a container that was made
    /// under it.
    fn calls(&self, words: &[&str]) -> ([u64; 3], Running) {
        let log = self.bed.directory.join(format!("strace-{}", self.bed.next()));
        let strace = self.bed.program(Path::new("/usr/bin/strace"));
        let strace = strace.args(["-f", "-q", "-o"]).arg(&log).arg(self.memory.join("ferrun"));
        let running = strace.arg("--root").arg(self.bed.root()).args(words).spawn();
        let mut counts = None;
        eventually("a command ends under strace", || {
            counts = calls_of_first(&fs::read_to_string(&log).unwrap_or_default());
            counts.is_some()
        });
        (counts.expect("there by now"), running)
    }
}
