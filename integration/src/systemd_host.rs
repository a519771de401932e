//! A host with systemd, booted in a container by the runtime under test.
//!
//! Its files are the machine's own, or another distribution's, with a tmpfs above, so that
//! they are never written to; its cgroups are version 2 alone, below the bed's. A test runs on
//! a thread inside of its namespaces: files, pids, groups and programs that the test names are
//! the host's. The bed's directory is where it is outside.

use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

use crate::sys::CAPABILITIES;
use crate::{Bed, Bundle, Call, Caller, Container, Output, bed, config, copy_program, runtime};

/// Of packages systemd, dbus, dbus-user-session and libpam-systemd.
const NEEDED: [&str; 4] = [
    "/usr/lib/systemd/systemd",
    "/usr/bin/dbus-daemon",
    "/usr/lib/systemd/user/dbus.socket",
    "/usr/share/pam-configs/systemd",
];
/// How long it may take to boot.
const PATIENCE: Duration = Duration::from_secs(60);
/// The ordinary user of the host, who has a systemd of his own once it is started.
pub const USER: u32 = 12_345;
/// Where callers of the runtime are, as engines are in a service.
const CALLERS: &str = "system.slice/callers.service";
const CALLERS_OF_USER: &str =
    "user.slice/user-12345.slice/user@12345.service/app.slice/callers.service";

/// Groups of containers, their state, and processes of pid namespaces below or of the runtime.
const OTHERS: &str = "\
    find /sys/fs/cgroup -name '*.scope' ! -name init.scope
    ls -A /run/ferrun 2>/dev/null
    find /proc -mindepth 3 -maxdepth 3 -path '/proc/[0-9]*/ns/pid' -printf '%p %l\\n' 2>/dev/null |
        grep --fixed-strings --invert-match \"$(readlink /proc/1/ns/pid)\"
    pgrep --exact --list-full ferrun
    true";

/// What a host is made of.
pub trait Distribution: Debug + Sync {
    /// The files below the layer that is in memory.
    fn files(&self) -> &Path;

    /// Changes that layer, whose top is at `root`, before the host boots.
    fn settle(&self, bed: &Bed, root: &Path);

    /// Adds to the container's configuration.
    fn configure(&self, bundle: Bundle) -> Bundle {
        bundle
    }

    /// What it boots, with which it is up.
    fn target(&self) -> &str;

    /// Where the ordinary user's files are.
    fn home(&self) -> &str;

    /// Why there can be no such host on this machine.
    fn hindrance(&self) -> Option<String> {
        let missing = NEEDED.iter().find(|path| !self.files().join(&path[1..]).exists());
        missing.map(|path| format!("there is no {path}"))
    }
}

/// The machine's own files, lean.
#[derive(Debug)]
struct Copy;

impl Distribution for Copy {
    fn files(&self) -> &Path {
        Path::new("/")
    }

    fn settle(&self, _: &Bed, root: &Path) {
        make_lean(&root.join("etc"));
    }

    fn target(&self) -> &str {
        "bed.target"
    }

    fn home(&self) -> &str {
        "/run/user/12345/home"
    }
}

/// A host that is up.
#[derive(Debug)]
pub struct SystemdHost<'bed> {
    bed: &'bed Bed,
    /// The runtime under test, where everybody can reach it.
    pub program: PathBuf,
    /// The host's first process, by its pid outside.
    first: i32,
    distribution: &'bed dyn Distribution,
}

/// Runs a test on a thread inside of a host with systemd, as root.
#[track_caller]
pub fn on_a_systemd_host<F: Fn(&SystemdHost<'_>) + Sync>(test: F) {
    beside_a_systemd_host(|host| host.inside(|| test(host)));
}

/// Runs a test outside of a host with systemd, as root.
#[track_caller]
pub fn beside_a_systemd_host<F: Fn(&SystemdHost<'_>) + Sync>(test: F) {
    beside_a_host(&Copy, |host| test(host));
}

/// Runs a test outside of a host of this distribution, as root.
#[track_caller]
pub fn beside_a_host<F>(distribution: &dyn Distribution, test: F)
where
    F: Fn(&SystemdHost<'_>) + Sync,
{
    bed::where_version_2_is_alone(|bed| {
        if bed.is_peer("theirs is a driver of another kind") {
            return;
        }
        if let Some(reason) = distribution.hindrance() {
            return bed.skip(&reason);
        }
        let files = Files::new(bed, distribution);
        let machine = start(bed, &files, distribution);
        let first = machine.pid();
        let host = SystemdHost { bed, program: files.program.clone(), first, distribution };
        host.wait();
        test(&host);
        machine.delete();
    });
}

/// The host's files, which are unmounted whatever becomes of it.
struct Files {
    layer: PathBuf,
    root: PathBuf,
    program: PathBuf,
}

impl Files {
    fn new(bed: &Bed, distribution: &dyn Distribution) -> Self {
        let layer = bed.make_directory("layer", 0o755);
        mount(Some("tmpfs"), &layer, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .expect("a tmpfs");
        let [upper, work, root] = ["upper", "work", "root"].map(|name| layer.join(name));
        for path in [&upper, &work, &root] {
            fs::DirBuilder::new().mode(0o755).create(path).expect("a directory");
        }
        let [lower, upper, work] = [distribution.files(), &upper, &work].map(|path| path.display());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let program = bed.directory.join("ferrun");
        let files = Self { layer, root, program };
        mount(Some("overlay"), &files.root, Some("overlay"), MsFlags::empty(), Some(&*options))
            .expect("an overlay");
        copy_program(&runtime().program, &files.program);
        fs::write(files.root.join("etc/systemd/system/callers.service"), CALLERS_SERVICE)
            .expect("a unit");
        distribution.settle(bed, &files.root);
        // Where the bed's directory is bound.
        let inside = files.root.join(bed.directory.strip_prefix("/").expect("an absolute path"));
        fs::create_dir_all(inside).expect("the bed's directory");
        files
    }
}

/// What makes a lean host of a copy of the machine.
fn make_lean(etc: &Path) {
    let units = etc.join("systemd/system");
    // Everything that is started by itself but for the journal.
    let usual = Path::new("/usr/lib/systemd/system");
    for directory in [usual, &units] {
        for wants in list(directory).iter().filter(|path| {
            path.extension().is_some_and(|kind| kind == "wants" || kind == "requires")
        }) {
            for unit in list(wants) {
                let name = unit.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let stays = ["journal", "dbus", "logind", "user@", "user-runtime", ".target"];
                if !stays.iter().any(|part| name.contains(part)) {
                    let _ = fs::remove_file(units.join(&name));
                    symlink("/dev/null", units.join(&name)).expect("a mask");
                }
            }
        }
    }
    for kind in ["system-generators", "system-environment-generators"] {
        let masks = etc.join("systemd").join(kind);
        fs::create_dir_all(&masks).expect("a directory");
        for generator in list(&Path::new("/usr/lib/systemd").join(kind)) {
            let _ = symlink("/dev/null", masks.join(generator.file_name().unwrap_or_default()));
        }
    }
    let write = |path: &Path, text: &str| {
        let _ = fs::remove_file(path);
        fs::write(path, text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    };
    // Without one all units would be set up anew.
    write(&etc.join("machine-id"), "0123456789abcdef0123456789abcdef\n");
    write(&etc.join("fstab"), "");
    write(&units.join("bed.target"), BED_TARGET);
    for (file, line) in [
        ("passwd", format!("tester:x:{USER}:{USER}::/:/bin/sh\n")),
        ("group", format!("tester:x:{USER}:\n")),
        ("shadow", "tester:*:19000:0:99999:7:::\n".to_owned()),
    ] {
        let text = fs::read_to_string(etc.join(file)).expect("a data base of users");
        fs::write(etc.join(file), text + &line).expect("a data base of users");
    }
}

const BED_TARGET: &str = "[Unit]\n\
    Requires=dbus.socket callers.service\n\
    After=dbus.socket callers.service\n\
    AllowIsolate=yes\n";

const CALLERS_SERVICE: &str = "[Unit]\n\
    DefaultDependencies=no\n\
    [Service]\n\
    Type=exec\n\
    Delegate=yes\n\
    ExecStart=/bin/sleep infinity\n";

impl Drop for Files {
    fn drop(&mut self) {
        for path in [&self.root, &self.layer] {
            let _ = umount2(path, MntFlags::MNT_DETACH);
        }
    }
}

fn list(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Starts the first process.
fn start<'bed>(bed: &'bed Bed, files: &Files, distribution: &dyn Distribution) -> Container<'bed> {
    let usual = bed.bundle();
    let all = json!(capabilities());
    let directory = bed.directory.to_str().expect("a plain path");
    let host = usual
        .with("/root/path", files.root.to_str().expect("a plain path"))
        .with("/hostname", "bed")
        .args(["/usr/lib/systemd/systemd", &format!("--unit={}", distribution.target())])
        .with("/process/env", json!(["container=ferrun", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]))
        .with("/process/noNewPrivileges", false)
        .with("/process/capabilities", json!({"bounding": all, "effective": all, "permitted": all}))
        .with_namespace("cgroup", None)
        .with("/linux/resources/devices", json!([{"allow": true, "access": "rwm"}]))
        .mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
        .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "rw"])
        .mount("/run", "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=755"])
        .mount(directory, "bind", directory, &["bind"]);
    bed.start(&distribution.configure(host))
}

/// All that the machine has: its root may do without some.
fn capabilities() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("CapBnd");
    let set = u64::from_str_radix(line.trim(), 16).expect("a set");
    let named = CAPABILITIES.iter().enumerate().filter(|(number, _)| set & (1 << number) != 0);
    named.map(|(_, name)| format!("CAP_{name}")).collect()
}

impl SystemdHost<'_> {
    /// Waits until it is up.
    fn wait(&self) {
        let began = Instant::now();
        let is_up = || {
            let call =
                self.program("/bin/systemctl").args(["is-active", self.distribution.target()]);
            self.inside(|| call.output().stdout.trim() == "active")
        };
        while !is_up() {
            if began.elapsed() > PATIENCE {
                let call = self.program("/bin/journalctl").args(["--no-pager", "--lines=60"]);
                let journal = self.inside(|| call.output().stdout);
                panic!("the host is not up within {PATIENCE:?}; its journal:\n{journal}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("a host with systemd: up within {:?}", began.elapsed());
    }

    /// Runs something on a thread inside of the host.
    pub fn inside<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        let in_thread = || {
            self.enter();
            task()
        };
        std::thread::scope(|scope| {
            scope.spawn(in_thread).join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Takes the calling thread into the host for good. Processes that it makes from now on
    /// are there too, and it can make no more threads.
    pub fn enter(&self) {
        let first = Pid::from_raw(self.first).expect("a pid");
        let first = pidfd_open(first, PidfdFlags::empty()).expect("the host's first process");
        unshare(CloneFlags::CLONE_FS).expect("unshare");
        let all = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWCGROUP
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWNET;
        setns(first, all).expect("setns");
    }

    /// A call of a program of the host.
    pub fn program(&self, path: &str) -> Call {
        self.bed.program(Path::new(path))
    }

    /// Runs a shell script, which finds the runtime as `$RUNTIME`.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Output {
        let call = self.service(Path::new("/bin/sh")).env("RUNTIME", &self.program);
        call.args(["-c", script]).output()
    }

    /// A call of the runtime by a service of the host, with the driver. Its root is the usual
    /// one.
    pub fn call(&self) -> Call {
        self.service(&self.program).arg("--systemd-cgroup")
    }

    /// A call of a program by a service of the host.
    pub fn service(&self, path: &Path) -> Call {
        self.bed.program(path).in_cgroup(&Path::new("/sys/fs/cgroup").join(CALLERS))
    }

    /// Calls the runtime with these arguments.
    #[track_caller]
    pub fn runtime(&self, arguments: &[&str]) -> Output {
        self.call().args(arguments).output()
    }

    /// A bundle whose container's unit is that of `cgroups_path`.
    pub fn bundle(&self, cgroups_path: &str) -> Bundle {
        self.bed
            .bundle()
            .with("/linux/cgroupsPath", cgroups_path)
            .with_namespace("cgroup", None)
            .sh("sleep 1000")
    }

    /// A call of `run --detach`.
    pub fn run_call(&self, bundle: &Bundle, id: &str) -> Call {
        let path = bundle.save().path.clone();
        self.call().args(["run", "--detach", "--bundle"]).arg(path).arg(id)
    }

    /// Starts a container, and leaves it to the end of the host unless it is deleted.
    #[track_caller]
    pub fn start(&self, bundle: &Bundle, id: &str) {
        self.run_call(bundle, id).output().success();
    }

    /// What `state` says of a container.
    #[track_caller]
    pub fn state(&self, id: &str) -> Value {
        let output = self.runtime(&["state", id]);
        serde_json::from_str(output.success()).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// The pid of a container's first process, in the host.
    #[track_caller]
    pub fn pid(&self, id: &str) -> u64 {
        self.state(id)["pid"].as_u64().expect("a pid")
    }

    /// The group of version 2 of a process, as the host's root sees it.
    #[track_caller]
    pub fn group_of(&self, pid: u64) -> String {
        // By a process: a thread that has entered has no pid in the host.
        let output = self.program("/bin/cat").arg(format!("/proc/{pid}/cgroup")).output();
        let mut lines = output.success().lines();
        lines.find_map(|line| line.strip_prefix("0::")).expect("version 2").to_owned()
    }

    /// The same of a container's first process.
    #[track_caller]
    pub fn group(&self, id: &str) -> String {
        self.group_of(self.pid(id))
    }

    /// Writes a file that the host and the machine have at the same place.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        self.bed.write(name, text)
    }

    /// Asks again and again until the answer is yes.
    ///
    /// # Panics
    /// After some seconds, with the name of what did not happen.
    #[track_caller]
    pub fn eventually(&self, what: &str, happened: impl FnMut() -> bool) {
        crate::eventually(what, happened);
    }

    /// A property of a unit by systemd's word.
    #[track_caller]
    pub fn show(&self, unit: &str, property: &str) -> String {
        let call = self.program("/bin/systemctl").args(["show", "--value", "--property"]);
        call.args([property, unit]).output().success().to_owned()
    }

    /// Runs systemctl.
    #[track_caller]
    pub fn systemctl(&self, arguments: &[&str]) -> Output {
        self.program("/bin/systemctl").args(arguments).output()
    }

    /// What is left of containers: units, running or failed, groups, state, and processes.
    #[track_caller]
    pub fn left(&self) -> Vec<String> {
        let units = self.systemctl(&[
            "list-units",
            "--all",
            "--plain",
            "--no-legend",
            "--type=scope",
            "--full",
        ]);
        let mut left: Vec<String> = units.success().lines().map(str::to_owned).collect();
        left.retain(|line| !line.starts_with("init.scope"));
        let others = self.sh(OTHERS);
        left.extend(others.stdout.lines().map(str::to_owned));
        left
    }

    /// Waits until nothing is left of containers, as a unit needs a moment to go when its last
    /// process has ended. Says whether that came.
    pub fn settles(&self) -> bool {
        (0..100).any(|_| {
            let is_clear = self.left().is_empty();
            if !is_clear {
                std::thread::sleep(Duration::from_millis(20));
            }
            is_clear
        })
    }

    /// # Panics
    /// If anything is left of containers.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        assert!(self.settles(), "left behind: {:#?}", self.left());
    }

    /// The bed that it is in.
    pub fn bed(&self) -> &Bed {
        self.bed
    }

    /// A bundle for the host's ordinary user.
    pub fn users_bundle(&self, cgroups_path: &str) -> Bundle {
        let bundle = self.bed.bundle_of(config(Caller::User(USER), cgroups_path));
        bundle.with_namespace("cgroup", None)
    }

    /// A call of the runtime by the ordinary user, who finds no systemd but by this variable. The
    /// root is below /run/users.
    #[track_caller]
    pub fn users_call_without_systemd(&self, variable: &str, value: &str) -> Call {
        let own = "/run/users";
        self.sh(&format!("mkdir -p -m 700 {own}; chown {USER} {own}")).success();
        self.call().user(USER).env(variable, value).args(["--root", &format!("{own}/root")])
    }

    /// The ordinary user, whose systemd is started.
    #[track_caller]
    pub fn user(&self) -> User<'_> {
        self.systemctl(&["start", &format!("user@{USER}.service")]).success();
        let user = User { host: self };
        let run = user.program(Path::new("/usr/bin/systemd-run"));
        let run = run.args(["--user", "--quiet", "--unit=callers", "--property=Delegate=yes"]);
        run.args(["/bin/sleep", "infinity"]).output().success();
        user
    }
}

/// The host's ordinary user with his systemd.
#[derive(Debug)]
pub struct User<'host> {
    host: &'host SystemdHost<'host>,
}

impl User<'_> {
    fn program(&self, path: &Path) -> Call {
        let directory = format!("/run/user/{USER}");
        let bus = format!("unix:path={directory}/bus");
        let call = self.host.bed.program(path).user(USER);
        call.env("XDG_RUNTIME_DIR", &directory).env("DBUS_SESSION_BUS_ADDRESS", bus)
    }

    /// A call of the runtime by a service of the user, with the driver.
    pub fn call(&self) -> Call {
        let call = self.program(&self.host.program).arg("--systemd-cgroup");
        call.in_cgroup(&Path::new("/sys/fs/cgroup").join(CALLERS_OF_USER))
    }

    /// The same by a process that is in no group of the user's systemd.
    pub fn call_from_elsewhere(&self) -> Call {
        let call = self.program(&self.host.program).arg("--systemd-cgroup");
        call.in_cgroup(&Path::new("/sys/fs/cgroup").join(CALLERS))
    }

    /// Calls the runtime with these arguments.
    #[track_caller]
    pub fn runtime(&self, arguments: &[&str]) -> Output {
        self.call().args(arguments).output()
    }

    /// Runs a shell script as the user, which finds the runtime as `$RUNTIME`.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Output {
        let call = self.service(Path::new("/bin/sh")).env("RUNTIME", &self.host.program);
        call.args(["-c", script]).output()
    }

    /// A call of a program by a service of the user.
    pub fn service(&self, path: &Path) -> Call {
        let call = self.program(path).env("HOME", self.host.distribution.home());
        call.in_cgroup(&Path::new("/sys/fs/cgroup").join(CALLERS_OF_USER))
    }

    /// Runs systemctl for his own units.
    #[track_caller]
    pub fn systemctl(&self, arguments: &[&str]) -> Output {
        self.program(Path::new("/bin/systemctl")).arg("--user").args(arguments).output()
    }

    /// What is left of his containers: units, running or failed, and state.
    #[track_caller]
    pub fn left(&self) -> String {
        let units = ["list-units", "--all", "--plain", "--no-legend", "--type=scope", "--full"];
        let units = self.systemctl(&units);
        let own = units.success().lines().filter(|line| !line.starts_with("init.scope"));
        let state = self.host.sh(&format!("ls -A /run/user/{USER}/ferrun 2>/dev/null"));
        own.map(|line| format!("{line}\n")).collect::<String>() + &state.stdout
    }
}
