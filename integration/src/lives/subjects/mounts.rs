//! `mounts`, `root`, and what covers paths: masks, read-only paths, devices.

use serde_json::json;

use super::super::choice::{Asks, Choice, Need};
use super::super::host;
use super::super::place::Place;
use super::super::random::Random;
use crate::{Ground, View};

/// What is found where nothing is asked for.
pub(super) fn defaults(_: &Place) -> Choice {
    let numbers = "stat -c %t:%T /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty";
    Choice::new("the usual files")
        .inside(format!("echo $({numbers})"), "1:3 1:5 1:7 1:8 1:9 5:0")
        .inside("mounted /dev", "rw,nosuid")
        .inside("mounted /proc", "rw,nosuid,nodev,noexec,relatime")
        .inside("readlink /dev/fd; readlink /dev/stderr", "/proc/self/fd\n/proc/self/fd/2")
}

/// Some of each.
pub(super) fn draw(random: &mut Random, place: &Place) -> Vec<Choice> {
    let mut drawn = Vec::new();
    for number in 0..random.between(0, 2) {
        drawn.push(tmpfs(random, place, number));
    }
    for number in 0..random.between(0, 2) {
        drawn.push(bind(random, place, number));
    }
    let rest: [fn(&mut Random, &Place) -> Choice; 12] = [
        tree,
        propagation,
        read_only_root,
        masks,
        masks_of_a_bind,
        read_only_paths,
        read_only_tree,
        device,
        device_of_the_host,
        bind_at_a_device,
        special,
        mapped,
    ];
    for choice in rest {
        if random.once_in(4) {
            drawn.push(choice(random, place));
        }
    }
    drawn
}

/// Flags of a mount, in the order that mountinfo has them in.
#[derive(Debug, Clone)]
struct Flags {
    read_only: bool,
    /// nosuid, nodev and noexec.
    without: Vec<&'static str>,
    /// Words about times, as they are given and as they are shown.
    times: (&'static str, &'static str),
}

const WITHOUT: [&str; 3] = ["nosuid", "nodev", "noexec"];
const TIMES: [(&str, &str); 5] = [
    ("", "relatime"),
    ("relatime", "relatime"),
    ("noatime", "noatime"),
    ("nodiratime", "nodiratime,relatime"),
    ("strictatime", ""),
];

impl Flags {
    fn draw(random: &mut Random) -> Self {
        Self {
            read_only: random.once_in(3),
            without: random.some(&WITHOUT),
            times: random.one(&TIMES),
        }
    }

    /// The words of the configuration. Their order says nothing.
    fn words(&self) -> Vec<String> {
        let first = if self.read_only { "ro" } else { "" };
        let words = [first, self.times.0].into_iter().chain(self.without.iter().copied());
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    fn shown(&self) -> String {
        let first = if self.read_only { "ro" } else { "rw" };
        let words =
            std::iter::once(first).chain(self.without.iter().copied()).chain([self.times.1]);
        words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(",")
    }

    /// What a bind shows whose source has these flags: it keeps them all.
    fn shown_beside(&self, source: &str) -> String {
        let has = |word: &str| source.split(',').any(|found| found == word);
        let both = Self {
            read_only: self.read_only || has("ro"),
            without: WITHOUT
                .into_iter()
                .filter(|word| self.without.contains(word) || has(word))
                .collect(),
            times: if self.times.0.is_empty() {
                let own = |(_, shown): &&(&str, &str)| {
                    shown.split(',').all(|word| word.is_empty() || has(word))
                };
                *TIMES.iter().find(own).unwrap_or(&TIMES[0])
            } else {
                self.times
            },
        };
        both.shown()
    }
}

fn mount(destination: &str, kind: &str, source: &str, options: Vec<String>) -> serde_json::Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

fn tmpfs(random: &mut Random, place: &Place, number: u64) -> Choice {
    let path = format!("/life/tmpfs{number}");
    let flags = Flags::draw(random);
    let blocks = random.between(4, 1000);
    let mut words = flags.words();
    words.extend([format!("size={}k", 4 * blocks), "nr_inodes=99".to_owned()]);
    let mut choice = Choice::new("")
        .inside(format!("mounted {path}"), flags.shown())
        .inside(format!("stat -f -c '%b %c' {path}"), format!("{blocks} 99"));
    let mode = if random.once_in(3) {
        words.push("tmpcopyup".to_owned());
        choice = choice
            .directory(&path, 0o2751)
            .file(format!("{path}/copied"), 0o666, "up\n")
            .inside(format!("stat -c %a {path}/copied"), "666");
        0o2751
    } else {
        let mode = random.one(&[0o700, 0o755, 0o1777, 0o511]);
        words.push(format!("mode={mode:o}"));
        mode
    };
    let (mut uid, mut gid) = (0, 0);
    if !place.is_rootless && random.once_in(2) {
        (uid, gid) = (random.between(0, 60_000), random.between(0, 60_000));
        words.extend([format!("uid={uid}"), format!("gid={gid}")]);
        choice = choice.needs(&[Need::NotJoined("user")]);
    }
    choice.name = format!("tmpfs {path} {words:?}");
    choice
        .inside(format!("stat -c '%a %u:%g' {path}"), format!("{mode:o} {uid}:{gid}"))
        .set("/mounts/-", mount(&path, "tmpfs", "tmpfs", words))
}

fn bind(random: &mut Random, place: &Place, number: u64) -> Choice {
    let path = format!("/life/bind{number}");
    let flags = Flags::draw(random);
    let mut words = flags.words();
    words.push(random.one(&["bind", "rbind"]).to_owned());
    let (name, read) = random.one(&[("directory", "cat PATH/file"), ("file", "cat PATH")]);
    let shown = flags.shown_beside(&place.flags);
    let choice = Choice::new(format!("a bind of the host's {name} at {path} {words:?}"))
        .set("/mounts/-", mount(&path, "bind", &place.source(name), words))
        .inside(format!("mounted {path}"), shown)
        .inside(read.replace("PATH", &path), host::TEXT.trim_end());
    // A user namespace cannot change what the source says about times.
    if flags.times.0.is_empty() { choice } else { choice.needs(&[Need::Callers("user")]) }
}

/// A tree with another mount in it, with a word for all and words for the first.
fn tree(random: &mut Random, place: &Place) -> Choice {
    let path = "/life/tree";
    let (word, below) = random.one(&[
        ("", "rw,relatime"),
        ("rro", "ro,relatime"),
        ("rnosuid", "rw,nosuid,relatime"),
        ("rnodev", "rw,nodev,relatime"),
        ("rnoexec", "rw,noexec,relatime"),
        ("rnoatime", "rw,noatime"),
    ]);
    // A word about the mount itself holds for it, whatever is said of all.
    let mut first = Flags { read_only: false, without: vec![], times: ("", "relatime") };
    let read_only = word != "rro" && random.once_in(2);
    match word {
        "rro" => first.read_only = true,
        "rnoatime" => first.times = ("noatime", "noatime"),
        "" => {}
        word => first.without.extend(WITHOUT.iter().filter(|name| **name == &word[1..])),
    }
    first.read_only |= read_only;
    let mut words = vec!["rbind".to_owned()];
    words.extend(read_only.then(|| "ro".to_owned()));
    words.extend(Some(word).filter(|word| !word.is_empty()).map(str::to_owned));
    let choice = Choice::new(format!("a bind of the host's tree {words:?}"))
        .set("/mounts/-", mount(path, "bind", &place.source(host::TREE), words))
        .inside(format!("mounted {path}"), first.shown_beside(&place.flags))
        .inside(format!("mounted {path}/below"), below);
    if word == "rnoatime" { choice.needs(&[Need::Callers("user")]) } else { choice }
}

/// Words about peers: of the root, and of a bind.
fn propagation(random: &mut Random, place: &Place) -> Choice {
    let path = "/life/peer";
    let is_shared = place.ground == Ground::Shared;
    let slave = if is_shared { "master" } else { "" };
    // One whose root is shared may mount on the host.
    let mut roots = vec![("", slave), ("rslave", slave), ("private", ""), ("rprivate", "")];
    if !is_shared {
        roots.push(("shared", "shared"));
    }
    let (root, of_root) = random.one(&roots);
    let word = random.one(&["", "private", "rprivate", "slave", "rslave", "shared", "rshared"]);
    let cut = root == "rprivate" || !is_shared;
    let of_bind = match word {
        "shared" | "rshared" if cut => "shared",
        "shared" | "rshared" => "shared master",
        "private" | "rprivate" => "",
        _ if cut => "",
        _ => "master",
    };
    let words =
        ["bind", word].into_iter().filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let choice = Choice::new(format!("a root {root:?}, a bind {word:?}"))
        .needs(&[Need::New("mount")])
        .set("/mounts/-", mount(path, "bind", &place.source("directory"), words))
        .inside(format!("ties {path}"), of_bind)
        .inside("ties /", of_root);
    if root.is_empty() { choice } else { choice.set("/linux/rootfsPropagation", root) }
}

fn read_only_root(_: &mut Random, _: &Place) -> Choice {
    Choice::new("a read-only root")
        .needs(&[Need::New("mount")])
        .set("/root/readonly", true)
        .inside("(: > /tmp/written) 2>&1 | grep -o Read-only", "Read-only")
}

fn masks(random: &mut Random, _: &Place) -> Choice {
    let mut choice = Choice::new("masks")
        .file("/srv/secret", 0o644, "secret\n")
        .directory("/srv/secrets", 0o755)
        .file("/srv/secrets/one", 0o644, "secret\n");
    for path in random.some(&["/srv/secret", "/proc/interrupts", "/proc/stat", "/proc/keys"]) {
        choice =
            choice.set("/linux/maskedPaths/-", path).inside(format!("stat -c %t:%T {path}"), "1:3");
    }
    for path in random.some(&["/srv/secrets", "/proc/irq", "/proc/tty"]) {
        choice = choice
            .set("/linux/maskedPaths/-", path)
            .inside(format!("ls {path} | wc -l"), "0")
            .inside(format!("mounted {path} | cut -c1-2"), "ro");
    }
    choice
        .set("/linux/maskedPaths/-", "/srv/none")
        .inside("ls -d /srv/none 2>&1 | grep -c No.such", "1")
}

fn masks_of_a_bind(_: &mut Random, place: &Place) -> Choice {
    let path = "/life/covered";
    Choice::new("masks of what is the host's")
        .set("/mounts/-", mount(path, "bind", &place.source("directory"), vec!["bind".to_owned()]))
        .set("/linux/maskedPaths/-", format!("{path}/file"))
        .set("/linux/maskedPaths/-", format!("{path}/below"))
        .inside(format!("stat -c %t:%T {path}/file"), "1:3")
        .inside(format!("ls {path}/below | wc -l"), "0")
}

fn read_only_paths(random: &mut Random, _: &Place) -> Choice {
    let mut choice = Choice::new("read-only paths")
        .directory("/srv/closed", 0o1777)
        .file("/srv/closed/file", 0o666, "text\n")
        .set("/linux/readonlyPaths/-", "/srv/none");
    for path in random.some(&["/srv/closed", "/srv/closed/file", "/proc/sys", "/proc/bus"]) {
        choice = choice
            .set("/linux/readonlyPaths/-", path)
            .inside(format!("mounted {path} | cut -c1-2"), "ro");
    }
    choice
}

/// What is mounted below is read-only too.
fn read_only_tree(_: &mut Random, place: &Place) -> Choice {
    let path = "/life/closed";
    Choice::new("a read-only tree")
        .set("/mounts/-", mount(path, "bind", &place.source(host::TREE), vec!["rbind".to_owned()]))
        .set("/linux/readonlyPaths/-", path)
        .inside(format!("mounted {path} | cut -c1-2"), "ro")
        .inside(format!("mounted {path}/below | cut -c1-2"), "ro")
}

fn device(random: &mut Random, _: &Place) -> Choice {
    let (kind, letter) =
        random.one(&[("c", "character special file"), ("b", "block special file")]);
    let (minor, mode) = (random.between(0, 255), random.one(&[0o600, 0o640, 0o666, 0o444]));
    let (uid, gid) = (random.between(0, 60_000), random.between(0, 60_000));
    let path = random.one(&["/dev/life", "/dev/deep/life", "/srv/life"]);
    let device = json!({"path": path, "type": kind, "major": 240, "minor": minor,
                        "fileMode": mode, "uid": uid, "gid": gid});
    Choice::new(format!("device {device}"))
        .needs(&[Need::Callers("user")])
        .set("/linux/devices/-", device)
        .inside(
            format!("stat -c '%F %t:%T %a %u:%g' {path}"),
            format!("{letter} f0:{minor:x} {mode:o} {uid}:{gid}"),
        )
}

/// One that a user namespace gets from the host.
fn device_of_the_host(random: &mut Random, place: &Place) -> Choice {
    let (path, major, minor) = random.one(&place.devices);
    Choice::new(format!("device {path}"))
        .set("/linux/devices/-", json!({"path": path, "type": "c", "major": major, "minor": minor}))
        .inside(format!("stat -c %t:%T {path}"), format!("{major:x}:{minor:x}"))
}

/// What a mount puts at a device's path stays there as it is.
fn bind_at_a_device(random: &mut Random, place: &Place) -> Choice {
    let path = random.one(&["/dev/full", "/dev/random", "/dev/zero"]);
    let name = if place.is_rootless { "file" } else { random.one(&["file", "full"]) };
    let shown = if name == "full" { "1:7" } else { "0:0" };
    let options = vec!["bind".to_owned(), random.one(&["ro", "rw"]).to_owned()];
    let numbers = "stat -c %t:%T /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty";
    let all = [
        ("/dev/null", "1:3"),
        ("/dev/zero", "1:5"),
        ("/dev/full", "1:7"),
        ("/dev/random", "1:8"),
        ("/dev/urandom", "1:9"),
        ("/dev/tty", "5:0"),
    ];
    let all = all.map(|(node, number)| if node == path { shown } else { number });
    Choice::new(format!("the host's {name} at {path} {options:?}"))
        .set("/mounts/-", mount(path, "bind", &place.source(name), options))
        .inside(format!("echo $({numbers})"), all.join(" "))
}

/// A file system of the kernel's.
fn special(random: &mut Random, place: &Place) -> Choice {
    let words = ["nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec();
    let flags = "ro,nosuid,nodev,noexec,relatime";
    match random.between(0, 2) {
        0 => Choice::new("mqueue")
            .needs(&[Need::New("ipc")])
            .set("/mounts/-", mount("/dev/mqueue", "mqueue", "mqueue", words))
            .inside("mounted /dev/mqueue", flags)
            .inside("stat -f -c %t /dev/mqueue", "19800202"),
        1 => Choice::new("sysfs")
            .needs(&[Need::New("network")])
            .set("/mounts/-", mount("/sys", "sysfs", "sysfs", words))
            .inside("mounted /sys", flags)
            .inside("ls /sys/class/net", "lo"),
        _ => {
            let kind = if place.view == View::V2 { "63677270" } else { "1021994" };
            Choice::new("cgroup")
                .set("/mounts/-", mount("/sys/fs/cgroup", "cgroup", "cgroup", words))
                .inside("mounted /sys/fs/cgroup | cut -c1-2", "ro")
                .check(Asks::Inside("stat -f -c %t /sys/fs/cgroup".to_owned()), kind)
        }
    }
}

/// A bind with mappings of its own: the file's 11:12 are other ids inside.
fn mapped(random: &mut Random, place: &Place) -> Choice {
    if place.is_rootless {
        return bind(random, place, 9);
    }
    let (uid, gid) = (random.between(0, 50_000), random.between(0, 50_000));
    let ids = |host| json!([{"containerID": 0, "hostID": host, "size": 100}]);
    let path = "/life/mapped";
    Choice::new(format!("an id-mapped bind, {uid} and {gid}"))
        .needs(&[Need::Callers("user")])
        .set(
            "/mounts/-",
            json!({"destination": path, "type": "bind", "source": place.source("directory"),
                   "options": ["bind"], "uidMappings": ids(uid), "gidMappings": ids(gid)}),
        )
        .inside(format!("stat -c %u:%g {path}/odd"), format!("{}:{}", uid + 11, gid + 12))
}
