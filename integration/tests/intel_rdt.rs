//! `linux.intelRdt`: which class of service a container's processes are in, and what of
//! resctrl is left afterwards.
//!
//! Few machines have resctrl. In the virtual machine of `make test-guest` it is a stand-in
//! (testbed/resctrl) that follows the kernel's description and controls nothing: what is
//! seen here is what ferrun asks of resctrl, and not what a processor makes of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use integration::{Bed, Bundle, Container, Output, as_both, as_root, eventually};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

const ROOT: &str = "/sys/fs/resctrl";

/// Classes are few, and one test takes all of them.
static CLASSES: RwLock<()> = RwLock::new(());

/// Runs the test where resctrl is, beside others.
fn with_resctrl(test: impl Fn(&Bed) + Sync) {
    let _few = CLASSES.read();
    as_root(|bed| {
        if !has_resctrl() {
            bed.skip("no resctrl is mounted here");
        } else if !bed.is_peer("runc 1.1 and crun 1.8 know part of it") {
            test(bed);
        }
    });
}

fn has_resctrl() -> bool {
    Path::new(ROOT).join("schemata").exists()
}

/// A class of resctrl. One that a test has made or had made it has to remove.
struct Class(PathBuf);

impl Class {
    fn named(name: &str) -> Self {
        Self(Path::new(ROOT).join(name))
    }

    /// One with these schemata.
    #[track_caller]
    fn make(name: &str, schemata: &str) -> Self {
        let class = Self::named(name);
        fs::create_dir(&class.0).expect("a class");
        fs::write(class.0.join("schemata"), format!("{schemata}\n")).expect("schemata");
        class
    }

    fn exists(&self) -> bool {
        self.0.exists()
    }

    fn name(&self) -> &str {
        self.0.file_name().and_then(|name| name.to_str()).expect("a name")
    }

    #[track_caller]
    fn remove(self) {
        fs::remove_dir(&self.0).expect("the class is there");
    }

    #[track_caller]
    fn tasks(&self) -> BTreeSet<i32> {
        tasks(&self.0)
    }

    /// The schemata, as they are shown but for white space.
    #[track_caller]
    fn schemata(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.join("schemata")).expect("schemata");
        text.lines().map(|line| line.replace(' ', "")).collect()
    }
}

#[track_caller]
fn tasks(group: &Path) -> BTreeSet<i32> {
    let path = group.join("tasks");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    text.lines().map(|line| line.parse().expect("a pid")).collect()
}

fn bundle(bed: &Bed, intel_rdt: Value) -> Bundle {
    bed.bundle().with("/linux/intelRdt", intel_rdt).sh("sleep 100 & echo up; wait")
}

/// Creates a container that is expected to fail, and returns what it has said.
#[track_caller]
fn refused(bed: &Bed, intel_rdt: Value) -> String {
    let output = bed.run(&bundle(bed, intel_rdt));
    output.failure(1).to_owned()
}

fn update(bed: &Bed, container: &Container<'_>, flags: &[&str]) -> Output {
    bed.call().arg("update").args(flags).arg(&container.id).output()
}

#[test]
fn without_resctrl_it_is_an_error_and_nothing_is_left() {
    as_both(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 go on without it") {
            return;
        }
        // In the mounts of this test alone.
        if has_resctrl() {
            umount2(ROOT, MntFlags::MNT_DETACH).expect("umount");
        }
        for asked in [json!({}), json!({"closID": "/"}), json!({"enableMonitoring": true})] {
            let said = refused(bed, asked);
            assert!(said.contains("linux.intelRdt: no resctrl file system is mounted"), "{said}");
            bed.assert_nothing_left();
        }
        let container = bed.create(&bed.bundle());
        for flag in ["--l3-cache-schema=L3:0=1", "--mem-bw-schema=MB:0=10"] {
            let said = update(bed, &container, &[flag]).failure(1).to_owned();
            let name = flag.split('=').next().unwrap();
            assert!(said.contains(&format!("{name}: no resctrl")), "{said}");
        }
    });
}

#[test]
fn a_name_that_leads_out_of_resctrl_is_refused() {
    as_both(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 make directories of it") {
            return;
        }
        let target = bed.directory.join("class");
        let climbing = format!("../../..{}", target.display());
        for name in [&climbing, "..", ".", "a/b", "info", "mon_groups"] {
            let said = refused(bed, json!({"closID": name, "schemata": ["L3:0=1"]}));
            assert!(said.contains(&format!("linux.intelRdt.closID: {name:?}: ")), "{said}");
        }
        assert!(!target.exists());
    });
}

#[test]
fn features_tell_of_it() {
    as_both(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 know less") {
            return;
        }
        let features: Value = serde_json::from_str(bed.runtime(["features"]).success()).unwrap();
        let expected = json!({"enabled": true, "schemata": true, "monitoring": true});
        assert_eq!(features["linux"]["intelRdt"], expected);
    });
}

#[test]
fn a_container_without_it_stays_in_the_class_of_its_caller() {
    with_resctrl(|bed| {
        let class = Class::make(&bed.id(), "L3:0=1");
        // This thread; what it starts is where it is.
        fs::write(class.0.join("tasks"), "0").unwrap();
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        assert!(class.tasks().contains(&container.pid()));
        let root = bed.start(&bundle(bed, json!({"closID": "/"})));
        fs::write(Path::new(ROOT).join("tasks"), "0").unwrap();
        assert!(!class.tasks().contains(&root.pid()), "it is in the root, as it was asked for");
        assert!(tasks(Path::new(ROOT)).contains(&root.pid()));
        root.delete();
        container.delete();
        class.remove();
        bed.assert_nothing_left();
    });
}

#[test]
fn a_class_of_its_own_is_made_filled_joined_and_removed() {
    with_resctrl(|bed| {
        let asked = json!({"l3CacheSchema": "L3:0=7f0;1=1f", "memBwSchema": "MB:0=20;1=70"});
        let container = bed.create(&bundle(bed, asked));
        let class = Class::named(&container.id);
        assert_eq!(class.schemata(), ["MB:0=20;1=70", "L3:0=7f0;1=01f"]);
        assert_eq!(class.tasks(), [container.pid()].into());
        container.start();
        container.prints("up");
        eventually("what it starts is there too", || class.tasks().len() == 2);

        let file = bed.directory.join("pid");
        let options = ["--detach", "--pid-file", file.to_str().unwrap()];
        container.exec_call(&options, &["/bin/sh", "-c", "sleep 100 & wait"]).output().success();
        let pid = fs::read_to_string(&file).unwrap().parse().unwrap();
        assert!(class.tasks().contains(&pid), "exec's process is in it");
        eventually("and what that starts", || class.tasks().len() == 4);
        assert_eq!(fs::read_dir(class.0.join("mon_groups")).unwrap().count(), 0);

        container.delete();
        assert!(!class.exists());
        bed.assert_nothing_left();
    });
}

#[test]
fn processes_of_a_user_namespace_join_too() {
    with_resctrl(|bed| {
        let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        let bundle = bundle(bed, json!({"enableMonitoring": true}))
            .with_namespace("user", None)
            .with("/linux/uidMappings", ids.clone())
            .with("/linux/gidMappings", ids);
        let container = bed.start(&bundle);
        let class = Class::named(&container.id);
        let group = class.0.join("mon_groups").join(&container.id);
        let file = bed.directory.join("pid");
        let options = ["--detach", "--pid-file", file.to_str().unwrap()];
        container.exec_call(&options, &["/bin/sleep", "100"]).output().success();
        let pid = fs::read_to_string(&file).unwrap().parse().unwrap();
        assert!(tasks(&group).is_superset(&[pid, container.pid()].into()));
        assert!(class.tasks().is_superset(&tasks(&group)));
        container.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn it_is_found_wherever_it_is_mounted() {
    with_resctrl(|bed| {
        // In the mounts of this test alone.
        let elsewhere = bed.make_directory("a mount", 0o755);
        let none = None::<&str>;
        mount(Some(ROOT), &elsewhere, none, MsFlags::MS_BIND, none).expect("mount");
        umount2(ROOT, MntFlags::MNT_DETACH).expect("umount");
        let container = bed.create(&bundle(bed, json!({"l3CacheSchema": "L3:0=7"})));
        let class = Class(elsewhere.join(&container.id));
        assert_eq!(class.tasks(), [container.pid()].into());
        assert_eq!(class.schemata(), ["MB:0=100;1=100", "L3:0=007;1=7ff"]);
        container.delete();
        assert!(!class.exists());
        umount2(&elsewhere, MntFlags::MNT_DETACH).expect("umount");
    });
}

#[test]
fn schemata_are_written_after_the_others() {
    with_resctrl(|bed| {
        let asked = json!({
            "schemata": ["L3:0=3", "MB:1=50"],
            "l3CacheSchema": "L3:0=f;1=7",
            "memBwSchema": "MB:0=20;1=20"
        });
        let container = bed.create(&bundle(bed, asked));
        assert_eq!(Class::named(&container.id).schemata(), ["MB:0=20;1=50", "L3:0=003;1=007"]);
    });
}

#[test]
fn a_class_that_has_a_name_is_made_where_it_is_missing_and_stays() {
    with_resctrl(|bed| {
        let class = Class::named(&bed.id());
        let name = class.name();
        let asked = json!({"closID": name, "l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=25"});
        let first = bed.create(&bundle(bed, asked.clone()));
        assert_eq!(class.schemata(), ["MB:0=30;1=100", "L3:0=00f;1=7ff"]);
        // The same again is no contradiction, although the kernel has rounded a value up.
        let second = bed.create(&bundle(bed, asked));
        assert_eq!(class.tasks(), [first.pid(), second.pid()].into());
        // Nor is nothing.
        let third = bed.create(&bundle(bed, json!({"closID": name})));
        assert_eq!(class.tasks().len(), 3);
        for other in [json!({"l3CacheSchema": "L3:0=1"}), json!({"memBwSchema": "MB:0=40"})] {
            let mut asked = other.clone();
            asked["closID"] = name.into();
            let said = refused(bed, asked);
            assert!(said.contains("linux.intelRdt.") && said.contains("the class has"), "{said}");
        }
        assert_eq!(class.schemata(), ["MB:0=30;1=100", "L3:0=00f;1=7ff"]);
        third.delete();
        second.delete();
        first.delete();
        assert!(class.tasks().is_empty());
        class.remove();
    });
}

#[test]
fn a_class_that_is_missing_without_a_schema_is_an_error() {
    with_resctrl(|bed| {
        let name = bed.id();
        let said = refused(bed, json!({"closID": name}));
        let reason = format!("linux.intelRdt.closID: {name:?}: there is no such class");
        assert!(said.contains(&reason), "{said}");
        bed.assert_nothing_left();
    });
}

#[test]
fn a_directory_that_somebody_else_has_made_under_the_id_stays() {
    with_resctrl(|bed| {
        let id = bed.id();
        let class = Class::make(&id, "L3:0=7");
        let bundle = bundle(bed, json!({"memBwSchema": "MB:0=10"}));
        let container = Container::create(bed, &id, bed.create_call(&bundle, &id));
        assert_eq!(class.schemata(), ["MB:0=10;1=100", "L3:0=007;1=7ff"]);
        assert_eq!(class.tasks(), [container.pid()].into());
        container.delete();
        class.remove();
    });
}

#[test]
fn a_mon_group_is_made_in_the_class_and_removed() {
    with_resctrl(|bed| {
        let named = Class::make(&bed.id(), "L3:0=7");
        let name = named.name();
        for class in [None, Some(name), Some("/")] {
            let mut asked = json!({"enableMonitoring": true});
            if let Some(class) = class {
                asked["closID"] = class.into();
            }
            let container = bed.create(&bundle(bed, asked));
            let class = match class {
                None => Path::new(ROOT).join(&container.id),
                Some("/") => ROOT.into(),
                Some(name) => Path::new(ROOT).join(name),
            };
            let group = class.join("mon_groups").join(&container.id);
            assert_eq!(tasks(&group), [container.pid()].into());
            assert!(tasks(&class).contains(&container.pid()));
            container.delete();
            assert!(!group.exists());
        }
        named.remove();
    });
}

#[test]
fn a_mon_group_that_is_there_is_an_error_and_stays() {
    with_resctrl(|bed| {
        let class = Class::make(&bed.id(), "L3:0=7");
        let id = bed.id();
        let group = class.0.join("mon_groups").join(&id);
        fs::create_dir(&group).unwrap();
        let name = class.name();
        let bundle = bundle(bed, json!({"closID": name, "enableMonitoring": true}));
        let said = bed.create_call(&bundle, &id).output().failure(1).to_owned();
        let reason =
            format!("linux.intelRdt.enableMonitoring: the class has a MON group {id:?} already");
        assert!(said.contains(&reason), "{said}");
        assert!(group.exists());
        class.remove();
    });
}

#[test]
fn who_changes_resctrl_waits_for_others_who_do() {
    with_resctrl(|bed| {
        let id = bed.id();
        let class = Class::named(&id);
        let root = fs::File::open(ROOT).unwrap();
        flock(&root, FlockOperation::LockExclusive).unwrap();
        let bundle = bundle(bed, json!({}));
        let creating = bed.create_call(&bundle, &id).spawn();
        let waits = || {
            let path = format!("/proc/{}/syscall", creating.pid());
            let call = fs::read_to_string(path).unwrap_or_default();
            call.starts_with(&format!("{} ", libc::SYS_flock))
        };
        eventually("it waits for the lock", waits);
        assert!(!class.exists());
        drop(root);
        creating.wait().success();
        assert!(class.exists());
        bed.runtime(["delete", "--force", &id]).success();
    });
}

#[test]
fn what_the_kernel_refuses_is_told_with_its_reason_and_nothing_is_left() {
    with_resctrl(|bed| {
        let name = bed.id();
        for (asked, field, reason) in [
            (
                json!({"l3CacheSchema": "L3:0=5"}),
                "l3CacheSchema: write \"L3:0=5\" to ",
                "mask 5 has non-consecutive 1-bits: Invalid argument",
            ),
            (
                json!({"memBwSchema": "MB:0=1"}),
                "memBwSchema: write ",
                "bandwidth 1 is out of range",
            ),
            (
                json!({"closID": name, "schemata": ["L3:0=1", "L4:0=1"], "enableMonitoring": true}),
                "schemata: write \"L3:0=1\\nL4:0=1\" to ",
                "there is no resource L4: Invalid argument",
            ),
        ] {
            let said = refused(bed, asked);
            assert!(said.contains(&format!("linux.intelRdt.{field}")), "{said}");
            assert!(said.contains(reason), "{said}");
            bed.assert_nothing_left();
        }
    });
}

#[test]
fn a_create_that_fails_later_takes_its_groups_along() {
    with_resctrl(|bed| {
        let name = bed.id();
        let schema = json!(["L3:0=1"]);
        for asked in [
            json!({"enableMonitoring": true}),
            json!({"schemata": schema}),
            json!({"closID": name, "schemata": schema, "enableMonitoring": true}),
        ] {
            let bundle = bundle(bed, asked).args(["/no/such/program"]);
            let said = bed.create_call(&bundle, &bed.id()).output().failure(1).to_owned();
            assert!(said.contains("process.args"), "{said}");
            bed.assert_nothing_left();
        }
        // The class was there before.
        let class = Class::make(&name, "L3:0=1");
        let bundle = bundle(bed, json!({"closID": name})).args(["/no/such/program"]);
        bed.create_call(&bundle, &bed.id()).output().failure(1);
        class.remove();
    });
}

#[test]
fn a_class_that_others_have_joined_outlives_the_create_that_made_it() {
    with_resctrl(|bed| {
        let class = Class::named(&bed.id());
        let name = class.name();
        let hook = json!([{"path": "/bin/sleep", "args": ["sleep", "92"]}]);
        let maker = bundle(bed, json!({"closID": name, "schemata": ["L3:0=1"]}))
            .with("/hooks/createRuntime", hook);
        let id = bed.id();
        let making = bed.create_call(&maker, &id).spawn();
        eventually("the class is made", || class.exists() && !class.tasks().is_empty());
        let other = bed.create(&bundle(bed, json!({"closID": name})));
        making.signal(Signal::SIGKILL);
        making.wait();
        bed.runtime(["delete", "--force", &id]).success();
        assert_eq!(class.tasks(), [other.pid()].into());
        other.delete();
        class.remove();
    });
}

#[test]
fn nothing_is_left_of_a_create_that_was_killed() {
    with_resctrl(|bed| {
        let hook = json!([{"path": "/bin/sleep", "args": ["sleep", "93"]}]);
        let name = bed.id();
        for asked in [
            json!({"enableMonitoring": true}),
            json!({"closID": name, "schemata": ["L3:0=1"], "enableMonitoring": true}),
        ] {
            let class = asked["closID"].as_str().map(str::to_owned);
            let bundle = bundle(bed, asked).with("/hooks/createRuntime", hook.clone());
            let id = bed.id();
            let group = Class::named(&class.unwrap_or(id.clone())).0.join("mon_groups").join(&id);
            let making = bed.create_call(&bundle, &id).spawn();
            eventually("it is at its hook", || {
                fs::read_to_string(format!("/proc/{0}/task/{0}/children", making.pid()))
                    .is_ok_and(|children| children.split_whitespace().count() >= 2)
            });
            assert!(!tasks(&group).is_empty());
            making.signal(Signal::SIGKILL);
            making.wait();
            bed.runtime(["delete", "--force", &id]).success();
            bed.assert_nothing_left();
        }
    });
}

#[test]
fn groups_go_with_a_container_however_it_ends() {
    with_resctrl(|bed| {
        let asked = json!({"enableMonitoring": true});
        // In the foreground.
        bed.run(&bundle(bed, asked.clone()).sh("exit 0")).success();
        bed.assert_nothing_left();
        // Its program cannot be started.
        let broken = bundle(bed, asked.clone())
            .with("/hooks/startContainer", json!([{"path": "/no/such/hook"}]));
        bed.run(&broken).failure(1);
        bed.assert_nothing_left();
        // Its init process has died.
        let container = bed.start(&bundle(bed, asked));
        container.prints("up");
        container.kill("KILL");
        container.ended();
        assert!(Class::named(&container.id).exists());
        bed.runtime(["delete", &container.id]).success();
        bed.assert_nothing_left();
    });
}

#[test]
fn where_there_is_no_class_left_the_kernels_reason_is_told() {
    let _all = CLASSES.write();
    as_root(|bed| {
        if !has_resctrl() {
            return bed.skip("no resctrl is mounted here");
        }
        if bed.is_peer("runc 1.1 and crun 1.8 know part of it") {
            return;
        }
        let mut taken = Vec::new();
        loop {
            let class = Class::named(&bed.id());
            match fs::create_dir(&class.0) {
                Ok(()) => taken.push(class),
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
        let said = refused(bed, json!({}));
        let reason = "out of CLOSIDs: No space left on device";
        assert!(said.contains("linux.intelRdt: mkdir ") && said.contains(reason), "{said}");
        taken.into_iter().for_each(Class::remove);
    });
}

#[test]
fn update_changes_the_class_of_a_container() {
    with_resctrl(|bed| {
        let container = bed.start(&bundle(bed, json!({"l3CacheSchema": "L3:0=f"})));
        let class = Class::named(&container.id);
        update(bed, &container, &["--l3-cache-schema", "L3:0=3"]).success();
        assert_eq!(class.schemata(), ["MB:0=100;1=100", "L3:0=003;1=7ff"]);
        update(bed, &container, &["--mem-bw-schema", "MB:1=20"]).success();
        let both = ["--l3-cache-schema", "L3:1=1", "--mem-bw-schema", "MB:0=50"];
        update(bed, &container, &both).success();
        let expected = ["MB:0=50;1=20", "L3:0=003;1=001"];
        assert_eq!(class.schemata(), expected);
        // What is refused changes nothing.
        for (flags, reason) in [
            (
                &["--l3-cache-schema", "L3:0=1", "--mem-bw-schema", "MB:0=1"][..],
                "bandwidth 1 is out of range",
            ),
            (&["--l3-cache-schema", "L2:0=1"], "--l3-cache-schema: resctrl has no L2 here"),
            (&["--mem-bw-schema", "L3:0=1"], "--mem-bw-schema: \"L3:0=1\": not one line"),
        ] {
            let said = update(bed, &container, flags).failure(1).to_owned();
            assert!(said.contains(reason), "{said}");
            assert_eq!(class.schemata(), expected, "{flags:?}");
        }
        container.delete();
        assert!(!class.exists());
    });
}

#[test]
fn update_puts_a_running_container_into_a_class_of_its_own() {
    with_resctrl(|bed| {
        let container = bed.start(&bed.bundle().sh("sleep 100 & sleep 100 & echo up; wait"));
        container.prints("up");
        let class = Class::named(&container.id);
        // What cannot be is undone.
        update(bed, &container, &["--l3-cache-schema", "L3:0=5"]).failure(1);
        assert!(!class.exists());
        update(bed, &container, &["--l3-cache-schema", "L3:0=3"]).success();
        assert_eq!(class.schemata(), ["MB:0=100;1=100", "L3:0=003;1=7ff"]);
        assert_eq!(class.tasks().len(), 3, "all of its processes are there");
        assert!(class.tasks().contains(&container.pid()));
        let file = bed.directory.join("pid");
        let options = ["--detach", "--pid-file", file.to_str().unwrap()];
        container.exec_call(&options, &["/bin/sleep", "100"]).output().success();
        let pid = fs::read_to_string(&file).unwrap().parse().unwrap();
        assert!(class.tasks().contains(&pid), "exec's too, from then on");
        container.delete();
        assert!(!class.exists());
    });
}

#[test]
fn events_tell_of_the_class_and_of_what_was_counted() {
    with_resctrl(|bed| {
        let named = Class::make(&bed.id(), "L3:0=f\nMB:0=50");
        let name = named.name();
        let start = |asked| {
            let container =
                bed.start(&bed.bundle().with("/linux/intelRdt", asked).args(["/bin/sleep", "100"]));
            eventually("it runs", || container.status() == "running");
            container
        };
        let counted = start(json!({"closID": name, "enableMonitoring": true}));
        let other = start(json!({"closID": name}));
        let stats = |container: &Container<'_>| {
            let output = bed.runtime(["events", "--stats", &container.id]);
            let mut event: Value = serde_json::from_str(output.success()).unwrap();
            event["data"]["intel_rdt"].take()
        };
        let expected = |tasks: u64| {
            json!({
                "l3_cache_info": {"cbm_mask": "7ff", "min_cbm_bits": 1, "num_closids": 8},
                "l3_cache_schema_root": "L3:0=7ff;1=7ff",
                "l3_cache_schema": "L3:0=00f;1=7ff",
                "mem_bw_info": {
                    "bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 8
                },
                "mem_bw_schema_root": "MB:0=100;1=100",
                "mem_bw_schema": "MB:0= 50;1=100",
                "schemata": ["MB:0= 50;1=100", "L3:0=00f;1=7ff"],
                "mbm_stats": [
                    {"mbm_total_bytes": tasks * 1000, "mbm_local_bytes": tasks * 100},
                    {"mbm_total_bytes": tasks * 1000 + 1, "mbm_local_bytes": tasks * 100 + 1}
                ],
                "cmt_stats": [{"llc_occupancy": tasks * 4096}, {"llc_occupancy": tasks * 4096 + 1}]
            })
        };
        assert_eq!(stats(&counted), expected(1), "the container alone");
        assert_eq!(stats(&other), expected(2), "all of its class, where it is not counted alone");
        let without = bed.start(&bed.bundle().sh("sleep 100"));
        assert_eq!(stats(&without), json!({}));
        for container in [counted, other] {
            container.delete();
        }
        named.remove();
    });
}
