//! `linux.namespaces`, and what is set in them: each is new, the caller's, or joined.

use serde_json::{Value, json};

use super::super::choice::{Asks, Choice, Need};
use super::super::place::{NAMESPACES, Place};
use super::super::random::Random;

/// Which namespaces a container is in where nothing is asked for.
pub(super) fn defaults(place: &Place) -> Choice {
    NAMESPACES.iter().fold(Choice::new("the usual namespaces"), |choice, (kind, _)| {
        let is_new = match *kind {
            "user" => place.is_rootless,
            "cgroup" | "time" => false,
            _ => true,
        };
        if is_new { differs(choice, place, kind) } else { is(choice, kind, &place.own[kind]) }
    })
}

/// A new user namespace or one of others comes first: what else can be depends on it.
pub(super) fn draw(random: &mut Random, place: &Place) -> Vec<Choice> {
    let mut drawn = Vec::new();
    if random.once_in(3) {
        drawn.push(if !place.is_rootless && random.once_in(2) {
            new_user(random, place)
        } else {
            joined_user(place)
        });
    }
    for kind in ["network", "ipc", "uts", "pid", "cgroup", "time"] {
        let other = place.others.get(kind);
        match random.between(0, 9) {
            0 | 1 => {
                if let Some((path, which)) = other {
                    // What is joined belongs to the caller, or to the user namespace that an
                    // ordinary user joins beside it.
                    let with = if place.is_rootless {
                        Need::Joined("user")
                    } else {
                        Need::NotJoined("user")
                    };
                    let choice = Choice::new(format!("joined {kind}")).needs(&[with]);
                    let choice = choice.namespace(kind, Some(path.clone()));
                    drawn.push(is(choice, kind, which));
                }
            }
            2 if kind == "cgroup" => {
                let choice = Choice::new("new cgroup").namespace(kind, None);
                let groups = "cut -d: -f3 /proc/self/cgroup | sort -u";
                drawn.push(differs(choice, place, kind).inside(groups, "/"));
            }
            2 | 3 if kind == "time" => drawn.push(time(random, place)),
            4 if !["cgroup", "time"].contains(&kind) => {
                let choice = Choice::new(format!("the caller's {kind}")).no_namespace(kind);
                drawn.push(is(choice, kind, &place.own[kind]));
            }
            _ => {}
        }
    }
    if !place.is_rootless && random.once_in(10) {
        let choice = Choice::new("the caller's mount").needs(&[Need::Callers("user")]);
        drawn.push(is(choice.no_namespace("mount"), "mount", &place.own["mount"]));
    }
    drawn.extend(names(random));
    if random.once_in(3) {
        drawn.push(sysctls(random));
    }
    drawn
}

fn file(kind: &str) -> &'static str {
    NAMESPACES.iter().find(|(name, _)| *name == kind).map_or("", |(_, file)| file)
}

fn question(kind: &str) -> Asks {
    Asks::Outside(format!("readlink /proc/$1/ns/{}", file(kind)))
}

fn question_inside(kind: &str) -> Asks {
    Asks::Inside(format!("readlink /proc/self/ns/{}", file(kind)))
}

fn is(choice: Choice, kind: &str, which: &str) -> Choice {
    choice.check(question(kind), which).check(question_inside(kind), which)
}

fn differs(choice: Choice, place: &Place, kind: &str) -> Choice {
    let own = &place.own[kind];
    choice.check_not(question(kind), own).check_not(question_inside(kind), own)
}

fn new_user(random: &mut Random, place: &Place) -> Choice {
    let ids =
        |container, host, size| json!({"containerID": container, "hostID": host, "size": size});
    let ranges: Vec<Value> = random.one(&[
        vec![ids(0, 0, 65_536)],
        vec![ids(0, 100_000, 65_536)],
        vec![ids(0, 100_000, 1_000), ids(1_000, 200_000, 64_536)],
    ]);
    let line = |range: &Value| {
        ["containerID", "hostID", "size"].map(|name| range[name].to_string()).join(" ")
    };
    let map = ranges.iter().map(line).collect::<Vec<_>>().join(" ");
    let choice = Choice::new(format!("new user {map}"))
        .namespace("user", None)
        .set("/linux/uidMappings", ranges.clone())
        .set("/linux/gidMappings", ranges);
    differs(choice, place, "user")
        .inside("echo $(cat /proc/self/uid_map)", &map)
        .inside("echo $(cat /proc/self/gid_map)", map)
}

fn joined_user(place: &Place) -> Choice {
    let (path, which) = &place.others["user"];
    let mut choice = Choice::new("joined user").namespace("user", Some(path.clone()));
    if place.is_rootless {
        choice = choice.without("/linux/uidMappings").without("/linux/gidMappings");
    }
    is(choice, "user", which)
}

fn time(random: &mut Random, place: &Place) -> Choice {
    let choice = Choice::new("new time").namespace("time", None);
    let choice = differs(choice, place, "time");
    let (seconds, nanoseconds) = (random.between(0, 1_000_000), random.between(0, 999_999_999));
    let boot = json!({"secs": seconds, "nanosecs": nanoseconds});
    choice.set("/linux/timeOffsets", json!({"boottime": boot, "monotonic": {"secs": 7}})).inside(
        "echo $(cat /proc/self/timens_offsets)",
        format!("monotonic 7 0 boottime {seconds} {nanoseconds}"),
    )
}

fn names(random: &mut Random) -> Vec<Choice> {
    let own = [Need::New("uts")];
    let mut drawn = Vec::new();
    if random.once_in(3) {
        let name = random.one(&["box", "box.example", "b"]);
        drawn.push(
            Choice::new("hostname").needs(&own).set("/hostname", name).inside("hostname", name),
        );
    }
    if random.once_in(4) {
        let name = random.one(&["nis.example", "n"]);
        let read = "cat /proc/sys/kernel/domainname";
        drawn.push(
            Choice::new("domainname").needs(&own).set("/domainname", name).inside(read, name),
        );
    }
    drawn
}

/// Parameters that a namespace has for itself. Not every kernel lets a user namespace change
/// those of its ipc namespace.
fn sysctls(random: &mut Random) -> Choice {
    let ipc = [Need::New("ipc"), Need::Callers("user")];
    let network = [Need::New("network"); 2];
    let (needs, name, value) = random.one(&[
        (ipc, "kernel.msgmax", "4097"),
        (ipc, "kernel.shm_rmid_forced", "1"),
        (ipc, "fs.mqueue.msg_max", "11"),
        (network, "net.ipv4.ip_unprivileged_port_start", "80"),
        (network, "net.ipv4.ip_default_ttl", "77"),
        (network, "net/ipv4/ip_forward", "1"),
    ]);
    let path = name.replace('.', "/");
    Choice::new(format!("{name} = {value}"))
        .needs(&needs)
        .set("/linux/sysctl", json!({name: value}))
        .inside(format!("cat /proc/sys/{path}"), value)
}
