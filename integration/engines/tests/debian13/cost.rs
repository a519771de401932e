//! What systemd's driver costs the runtime itself.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use engines::debian13::on_debian_13_by_ferrun;
use integration::systemd_host::SystemdHost;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::{Value, json};

const ROUNDS: usize = 100;

/// CPU time of a call in milliseconds: of its own process, and with the container that it has
/// waited for.
#[derive(Debug, Clone, Copy)]
struct Cost {
    own: f64,
    whole: f64,
}

impl Cost {
    /// Makes the call. Nobody else may start anything meanwhile.
    fn of(call: &[&str]) -> Self {
        let before = of_children();
        let mut command = Command::new(call[0]);
        command.args(&call[1..]).env_clear().env("PATH", "/usr/sbin:/usr/bin");
        let mut child = command.current_dir("/").stdin(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        // Its clock stands until it is waited for.
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        let own = clock_gettime(clock_getcpuclockid(pid).unwrap()).unwrap();
        assert!(child.wait().unwrap().success(), "{call:?}");
        let own = Duration::from(own).as_secs_f64() * 1000.0;
        Self { own, whole: of_children() - before }
    }

    fn median(samples: &[Self]) -> Self {
        let [own, whole] = [|cost: &Self| cost.own, |cost: &Self| cost.whole].map(|part| {
            let mut parts: Vec<f64> = samples.iter().map(part).collect();
            parts.sort_by(f64::total_cmp);
            parts[parts.len() / 2]
        });
        Self { own, whole }
    }
}

/// CPU time of all that was waited for so far, in milliseconds.
fn of_children() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    micros as f64 / 1000.0
}

/// Of systemd itself and of the bus.
const GROUPS: [&str; 2] = ["init.scope", "system.slice/dbus.service"];

/// CPU time of a group so far, in milliseconds.
fn of_group(name: &str) -> f64 {
    let text = fs::read_to_string(format!("/sys/fs/cgroup/{name}/cpu.stat")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap();
    line.parse::<f64>().unwrap() / 1000.0
}

/// What `ferrun spec` writes, with `true` of a static busybox.
fn usual_bundle(host: &SystemdHost<'_>, cgroups_path: &str) -> String {
    let bundle = host.bundle("");
    let path = bundle.save().path.display().to_string();
    let output = host.program("/bin/sh").env("RUNTIME", &host.program).current_dir(&bundle.path);
    output.args(["-c", "rm config.json && $RUNTIME spec"]).output().success();
    let file = bundle.path.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["ociVersion"] = "1.0.2".into();
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = json!(["/bin/true"]);
    config["linux"]["cgroupsPath"] = cgroups_path.into();
    fs::write(file, config.to_string()).unwrap();
    path
}

#[test]
#[ignore = "measures: run it alone, on a calm machine"]
fn the_driver_costs_the_runtime_little() {
    on_debian_13_by_ferrun(|debian| {
        let host = debian.host;
        let plain = usual_bundle(host, "/costs/c1");
        let unit = usual_bundle(host, "system.slice:costs:c1");
        let ferrun = host.program.display().to_string();
        let calls = [
            ("ferrun, cgroupfs", vec![&*ferrun, "run", "--bundle", &plain, "c1"]),
            ("ferrun, systemd", vec![&ferrun, "--systemd-cgroup", "run", "--bundle", &unit, "c1"]),
            ("crun, cgroupfs", vec!["/usr/bin/crun", "run", "--bundle", &plain, "c1"]),
            (
                "crun, systemd",
                vec!["/usr/bin/crun", "--systemd-cgroup", "run", "--bundle", &unit, "c1"],
            ),
        ];
        let mut samples = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            for ((_, call), samples) in calls.iter().zip(&mut samples) {
                samples.push(Cost::of(call));
            }
        }
        let medians = samples.map(|samples| Cost::median(&samples));
        for ((name, _), Cost { own, whole }) in calls.iter().zip(medians) {
            eprintln!("{name}: {own:.2} ms of its own, {whole:.2} ms with the container");
        }
        let before = GROUPS.map(of_group);
        for _ in 0..ROUNDS {
            Cost::of(&calls[1].1);
        }
        for (name, before) in GROUPS.iter().zip(before) {
            let each = (of_group(name) - before) / ROUNDS as f64;
            eprintln!("{name}: {each:.2} ms for each of ferrun's");
        }
        let [plain, unit, _, theirs] = medians.map(|cost| cost.own);
        eprintln!("systemd by cgroupfs: {:.2}, by crun: {:.2}", unit / plain, unit / theirs);
        assert!(unit <= 1.25 * plain && unit <= 0.5 * theirs);
    });
}
