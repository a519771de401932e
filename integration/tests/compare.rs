//! What a program finds around itself under ferrun and under runc: the same, but for
//! the differences that are listed here with their reasons.
//!
//! Orders and defaults that callers have learnt from runc, and the tests of each:
//!
//! | what | here | test |
//! |---|---|---|
//! | the mode of a tmpfs without one | that of what it covers, 1777 where that is made for it | `mounts::a_tmpfs_has_the_mode_of_what_it_covers_or_that_of_a_tmp` |
//! | read-only file systems that are made for the container | closed when all is made below them | `untouched::a_tmpfs_is_read_only_when_all_is_made_in_it` |
//! | devices without a rule | /dev/net/tun is among them | `devices::a_tunnel_can_be_made_without_a_rule` |
//! | what an image has in the place of a device, and what a mount has | an error; stays | `untouched::*` |
//! | a source that an earlier entry mounts | is bound, also in a user namespace | `mounts::what_an_earlier_mount_shows_can_be_bound` |
//! | words about a mount and about all below it | runc gives the latter last, ferrun first | `mounts::a_word_about_the_mount_holds_over_one_about_all_below_it` |
//! | `rnorelatime` | relatime, the kernel's own | `mounts::recursive_words_reach_what_is_mounted_below` |
//! | paths and groups that are listed twice | there once | `mounts::a_path_that_is_listed_twice_is_covered_once`, `given::a_group_is_there_once` |
//! | kernel parameters | after createContainer hooks, before read-only paths | `sysctls::a_hook_may_make_the_interface_that_a_parameter_is_about`, `namespaces::kernel_parameters_may_have_slashes_and_be_read_only_for_the_program` |
//! | the listener of a filter | sent by `create`, where no call of ours would be notified | `notify::*` |
//! | `root.readonly` without a mount namespace | runc passes it over, ferrun refuses it | `errors::each_wrong_configuration_is_refused_in_one_line_with_field_and_value` |
//! | a root that is moved | leaves no whole procfs behind | `protections::no_whole_procfs_can_be_had_behind_a_root_that_was_moved` |
//! | `type: cgroup` in a cgroup namespace of another user namespace | the own group is bound | `untouched::a_joined_cgroup_namespace_beside_a_new_user_namespace_shows_the_own_group` |
//! | a group that was there before | stays, when `create` fails | `lifecycle::a_create_that_fails_leaves_a_group_that_was_there_before` |
//! | KILL without a pid namespace | ends all, whether init lives or not | `lifecycle::kill_ends_all_where_there_is_no_pid_namespace`, `lifecycle::kill_ends_what_outlives_init_without_a_pid_namespace` |
//! | `kill --all` where nobody is left | no error | `lifecycle::nothing_left_to_signal_is_no_error_with_all` |
//! | a frozen group below | is thawed to be ended | `lifecycle::who_is_in_a_frozen_group_below_is_ended` |
//! | `exec` | has personality, memory policy and limits of the container; what `--cap` adds is not inherited | `exec::it_has_the_personality_and_the_memory_policy_of_the_container`, `protections::capabilities_that_exec_adds_are_not_inheritable` |
//! | `exec --tty` whose output nobody takes | passes signals on, and ends with its reader | `callers::exec_ends_though_nobody_reads_its_output` |

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use integration::{Bed, Bundle, as_root, runtime};
use serde_json::{Value, json};

const RUNC: &str = "/usr/sbin/runc";

/// Prints a line for each fact: its name, a tab, its value. The shell is the
/// container's program, so what /proc says of it is what the runtime has left it.
const LOOK: &str = r#"
fact() { printf '%s\t%s\n' "$1" "$2"; }
all() { while IFS= read -r line; do fact "$1 ${line%%$2*}" "$(echo ${line#*$2})"; done; }
all status : < /proc/self/status
while IFS= read -r line; do
    case $line in Limit*) ;; *) fact "limit $(echo $line | sed 's/ [0-9u].*//')" "$(echo $line | sed 's/^[^0-9u]* //')";; esac
done < /proc/self/limits
while read -r id parent device root point rest; do fact "mount $point" "$root $rest"; done < /proc/self/mountinfo
tr '\0' '\n' < /proc/1/environ | all environ =
all cgroup : < /proc/self/cgroup
for kind in /proc/self/ns/*; do fact "namespace ${kind##*/}" "$(readlink $kind)"; done
for name in cmdline comm coredump_filter loginuid oom_score_adj personality sessionid setgroups \
    timerslack_ns uid_map gid_map; do
    fact "proc $name" "$(tr '\0' ' ' < /proc/1/$name | tr -s ' \n' ' ')"
done
for path in $(find / -path /proc -prune -o -path /sys -prune -o -print); do
    fact "file $path" "$(stat -c '%A %u:%g %t:%T' $path) $(readlink $path)"
done
for path in $PATHS; do fact "path $path" "$(stat -c '%F %A %u:%g %t:%T' $path 2>&1)"; done
for path in /proc/1/fd/*; do fact "descriptor ${path##*/}" ""; done
fact cwd "$(pwd)"
fact id "$(id)"
fact hostname "$(hostname)"
fact domainname "$(cat /proc/sys/kernel/domainname)"
fact umask "$(umask)"
fact program "$(readlink /proc/1/exe)"
for path in /proc/sys/net/ipv4/ping_group_range /proc/sys/net/ipv4/ip_unprivileged_port_start \
    /sys/class/net/lo/flags; do fact "value $path" "$(cat $path 2>&1)"; done
all key : < /proc/keys
"#;

/// What may differ.
struct Difference {
    /// The fact. One that ends with `*` stands for all that start so.
    name: &'static str,
    /// What its value under ferrun begins with.
    ferrun: &'static str,
    /// What its value under runc begins with.
    runc: &'static str,
    /// Why.
    #[expect(dead_code, reason = "for readers")]
    reason: &'static str,
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "mount *",
        ferrun: "/null rw,relatime - devtmpfs",
        runc: "/null rw,nosuid - tmpfs",
        reason: "files are masked by the host's null device, which no image can have replaced",
    },
    Difference {
        name: "mount *",
        ferrun: "/null rw,relatime - tmpfs",
        runc: "/null rw,nosuid - tmpfs",
        reason: "the same where the host is a container, whose /dev is a tmpfs",
    },
    Difference {
        name: "mount *",
        ferrun: "/ ro,nosuid,nodev,noexec,relatime - tmpfs none",
        runc: "/ ro,relatime - tmpfs tmpfs",
        reason: "nothing in a directory that is masked is ever to be run or opened",
    },
    Difference {
        name: "mount /sys/fs/cgroup",
        ferrun: "/ ro,nosuid,nodev,noexec,relatime - tmpfs",
        runc: "/ rw,nosuid,nodev,noexec,relatime - tmpfs",
        reason: "both configurations ask for `ro`, and runc gives it to the trees alone",
    },
    Difference {
        name: "status SigIgn",
        // What busybox's shell ignores by itself.
        ferrun: "0000000000000004",
        runc: "00000000",
        reason: "runc leaves signals ignored that its C library keeps for itself, where the caller does",
    },
    Difference {
        name: "file /dev/core",
        ferrun: "lrwxrwxrwx",
        runc: NOTHING,
        reason: "runc leaves the link out where the kernel has no /proc/kcore",
    },
];

/// The value of a fact that is not there.
const NOTHING: &str = "nothing";

/// Facts that are another one in each container.
const PASSING: &[&str] = &[
    "status VmPeak",
    "status VmSize",
    "status VmLck",
    "status VmPin",
    "status VmHWM",
    "status VmRSS",
    "status RssAnon",
    "status RssFile",
    "status RssShmem",
    "status VmData",
    "status VmStk",
    "status VmExe",
    "status VmLib",
    "status VmPTE",
    "status VmSwap",
    "status SigQ",
    "status FDSize",
    "status voluntary_ctxt_switches",
    "status nonvoluntary_ctxt_switches",
    "key *",
];

type Facts = BTreeMap<String, String>;

/// The facts in what the script has printed.
fn facts(printed: &str) -> Facts {
    let mut facts = Facts::new();
    for line in printed.lines() {
        let (name, value) = line.split_once('\t').unwrap_or_else(|| panic!("{line:?}"));
        let value = normal(name, value);
        // Several mounts may lie at one place.
        let known = facts.entry(name.to_owned()).or_default();
        if !known.is_empty() {
            known.push_str("; ");
        }
        known.push_str(&value);
    }
    facts.retain(|name, _| !PASSING.iter().any(|pattern| matches(pattern, name)));
    facts
}

/// A value without what is another one in each container.
fn normal(name: &str, value: &str) -> String {
    if let Some(kind) = name.strip_prefix("namespace ") {
        let own = fs::read_link(Path::new("/proc/thread-self/ns").join(kind)).unwrap();
        return if own == Path::new(value) { "the caller's" } else { "its own" }.to_owned();
    }
    let mut words: Vec<String> = value.split(' ').map(str::to_owned).collect();
    if name.starts_with("mount ") {
        for word in &mut words {
            for tag in ["shared:", "master:"] {
                if word.starts_with(tag) {
                    word.truncate(tag.len());
                }
            }
        }
    }
    words.join(" ")
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

/// What a bundle's program finds around itself under a runtime.
#[track_caller]
fn look(bed: &Bed, program: &Path, bundle: &Bundle) -> Facts {
    let call = bed.program(program).arg("--root").arg(bed.root());
    let call = call.args(["run", "--bundle"]).arg(&bundle.save().path).arg(bed.id());
    facts(call.output().success())
}

/// The bundle that `spec` writes.
fn of_spec(bed: &Bed) -> Bundle {
    let bundle = bed.bundle();
    bed.call().args(["spec", "--bundle"]).arg(&bundle.path).output().success();
    let text = fs::read_to_string(bundle.path.join("config.json")).unwrap();
    let config = serde_json::from_str(&text).unwrap();
    Bundle { config, ..bundle }.with("/process/terminal", false)
}

/// The bundle of a container of Docker's.
fn of_docker(bed: &Bed) -> Bundle {
    let bundle = bed.bundle();
    let mut config: Value =
        serde_json::from_str(include_str!("../data/docker-20.10-default.json")).unwrap();
    config["root"]["path"] = json!(bundle.rootfs());
    config.as_object_mut().unwrap().remove("hooks");
    for mount in config["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "bind" {
            mount["source"] =
                json!(bed.write(&format!("source-{}", bed.next()), "of the engine\n"));
        }
    }
    Bundle { config, ..bundle }
}

#[test]
fn a_program_finds_the_same_around_itself_as_under_runc() {
    as_root(|bed| {
        if bed.is_peer("ferrun is compared with it") {
            return;
        }
        if !Path::new(RUNC).exists() {
            return bed.skip(&format!("{RUNC} is missing"));
        }
        let mut unexpected = Vec::new();
        for (kind, bundle) in [("spec", of_spec(bed)), ("docker", of_docker(bed))] {
            let paths: Vec<_> = ["maskedPaths", "readonlyPaths"]
                .iter()
                .flat_map(|field| bundle.config["linux"][field].as_array().cloned())
                .flatten()
                .map(|path| path.as_str().unwrap().to_owned())
                .collect();
            let script = LOOK.replace("$PATHS", &paths.join(" "));
            let group = format!("/{}/{}", bed.name, bed.next());
            let bundle = bundle.with("/linux/cgroupsPath", group).sh(&script);
            let ours = look(bed, &runtime().program, &bundle);
            let theirs = look(bed, Path::new(RUNC), &bundle);
            assert!(ours.len() > 150, "{ours:#?}");
            let names: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
            for name in names {
                let value = |facts: &Facts| facts.get(name).map_or(NOTHING, |text| text).to_owned();
                let (ours, theirs) = (value(&ours), value(&theirs));
                let is_listed = DIFFERENCES.iter().any(|known| {
                    matches(known.name, name)
                        && ours.starts_with(known.ferrun)
                        && theirs.starts_with(known.runc)
                });
                if ours != theirs && !is_listed {
                    unexpected.push(format!("{kind}: {name}\n  ferrun {ours}\n  runc   {theirs}"));
                }
            }
        }
        assert!(unexpected.is_empty(), "without a reason:\n{}", unexpected.join("\n"));
    });
}
