//! A whole machine with systemd that is the tests' own, that of `testbed/guest_systemd.py`:
//! engines run as its distribution has set them up, and systemd sees to the same groups as the
//! runtime.

use std::cell::Cell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use integration::{Bed, Call, Kind, on_a_spare_machine, runtime};

use crate::place::tell;
use crate::{Answer, missing, runtime_name};

/// How long a line may take, on a processor made of software.
const PATIENCE: Duration = Duration::from_secs(600);
const GROUPS: &str = "/sys/fs/cgroup";
/// The ordinary user of the machine, whose systemd runs from the start.
const USER: u32 = 12_345;
/// Where the lines are typed: services whose groups are their own.
const CALLERS: [&str; 2] = [
    "system.slice/callers.service",
    "user.slice/user-12345.slice/user@12345.service/app.slice/callers.service",
];
/// An image of one program, as a file that engines import.
const IMAGE: &str = "[ -e /var/tmp/image.tar ] || {
    mkdir -p /var/tmp/image/bin /var/tmp/image/tmp && cp /bin/busybox /var/tmp/image/bin &&
    for name in sh sleep cat true echo ls tail seq; do ln -s busybox /var/tmp/image/bin/$name; done &&
    tar -C /var/tmp/image -cf /var/tmp/image.tar .; }";

/// The machine, or what one of its users has of it.
#[derive(Debug)]
pub struct Host<'bed> {
    /// What the test has to itself besides.
    pub bed: &'bed Bed,
    user: Option<u32>,
    steps: Rc<Cell<u32>>,
}

/// A unit, and whose systemd has it.
#[derive(Debug)]
pub struct Unit<'host> {
    host: &'host Host<'host>,
    /// Its name.
    pub name: String,
    group: PathBuf,
}

/// Runs a test as root on a machine with systemd, unless one of `programs` is not installed.
#[track_caller]
pub fn on_a_host<F: Fn(&Host<'_>)>(programs: &[&str], test: F) {
    let missing = missing(programs);
    on_a_spare_machine(|bed| {
        if !missing.is_empty() {
            return bed.skip(&format!("not installed: {}", missing.join(", ")));
        }
        let started = Instant::now();
        let host = Host { bed, user: None, steps: Rc::default() };
        host.sh(IMAGE).output.success();
        let tested = catch_unwind(AssertUnwindSafe(|| test(&host)));
        tell(&bed.test, host.steps.get(), started);
        if let Err(panic) = tested {
            // What services have said: the kernel says much about its processor of software.
            let journal = "journalctl --no-pager --lines 60 --output cat \
                           _TRANSPORT=stdout + _TRANSPORT=journal + _TRANSPORT=syslog";
            eprintln!("the end of the journal:\n{}", host.sh(journal).output.stdout);
            resume_unwind(panic);
        }
    });
}

impl<'bed> Host<'bed> {
    /// The same for the ordinary user.
    #[track_caller]
    pub fn as_user(&self) -> Host<'bed> {
        let user = Host { bed: self.bed, user: Some(USER), steps: Rc::clone(&self.steps) };
        if !user.callers().exists() {
            // The machine may still be starting it.
            self.sh(&format!("systemctl start user@{USER}.service")).output.success();
            let line =
                "systemd-run --user --quiet --unit callers --property Delegate=yes sleep infinity";
            let call = user.call("/bin/sh").args(["-c", line]);
            call.output().success();
        }
        user
    }

    fn callers(&self) -> PathBuf {
        Path::new(GROUPS).join(CALLERS[usize::from(self.user.is_some())])
    }

    fn call(&self, program: &str) -> Call {
        let call = self.bed.program(Path::new(program)).patience(PATIENCE);
        let call = call.env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin").env("LC_ALL", "C.UTF-8");
        let call = call.env("RUNTIME", &runtime().program).env("NAME", runtime_name());
        let Some(id) = self.user else { return call.env("HOME", "/root") };
        let directory = format!("/run/user/{id}");
        let bus = format!("unix:path={directory}/bus");
        let call = call.user(id).env("HOME", "/home/tester").env("XDG_RUNTIME_DIR", directory);
        call.env("DBUS_SESSION_BUS_ADDRESS", bus)
    }

    /// Types a line of shell, and waits for its end. `$RUNTIME` is the runtime, and engines call
    /// it `$NAME`.
    #[track_caller]
    pub fn sh(&self, line: &str) -> Answer<'_> {
        let call = self.call("/bin/sh").args(["-c", line]).in_cgroup(&self.callers());
        Answer::new(&self.steps, call.output())
    }

    /// What a line prints, which is no step.
    #[track_caller]
    pub fn ask(&self, line: &str) -> String {
        self.sh(line).output.success().to_owned()
    }

    /// Asks again and again until the answer is yes, which is a step.
    #[track_caller]
    pub fn eventually(&self, what: &str, happened: impl FnMut() -> bool) {
        integration::within(PATIENCE / 2, what, happened);
        self.steps.set(self.steps.get() + 1);
    }

    /// Waits until a line prints this.
    #[track_caller]
    pub fn becomes(&self, line: &str, text: &str) {
        let what = format!("{line:?} prints {text:?}");
        self.eventually(&what, || self.sh(line).output.stdout.trim() == text);
    }

    /// What the runtime under test makes of something, or another one.
    pub fn own_or<T>(&self, own: T, others: T) -> T {
        if runtime().kind == Kind::Ferrun { own } else { others }
    }

    /// Writes a file, with the directories above it. `$RUNTIME` and `$NAME` in it are replaced.
    pub fn write(&self, path: &str, text: &str) {
        let program = runtime().program.display().to_string();
        let text = text.replace("$RUNTIME", &program).replace("$NAME", runtime_name());
        let above = Path::new(path).parent().expect("a directory");
        fs::create_dir_all(above).unwrap_or_else(|error| panic!("{above:?}: {error}"));
        fs::write(path, text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    }

    /// A unit that is there.
    #[track_caller]
    pub fn unit(&self, name: &str) -> Unit<'_> {
        let line = format!("{} show --property ControlGroup --value {name}", self.systemctl());
        let group = self.ask(&line);
        assert!(group.starts_with('/'), "{name} has no group: {group:?}");
        let group = Path::new(GROUPS).join(group.trim_start_matches('/'));
        Unit { host: self, name: name.to_owned(), group }
    }

    /// The unit of a process.
    #[track_caller]
    pub fn unit_of(&self, pid: &str) -> Unit<'_> {
        let group = self.ask(&format!("sed -n s/^0:://p /proc/{pid}/cgroup"));
        let name = group.rsplit('/').find(|part| part.ends_with(".scope"));
        let unit = self.unit(name.unwrap_or_else(|| panic!("{pid} is in no scope: {group}")));
        assert_eq!(unit.group(), group, "the group of {}", unit.name);
        unit
    }

    /// How its systemd is called.
    pub fn systemctl(&self) -> &'static str {
        if self.user.is_some() { "systemctl --user" } else { "systemctl" }
    }
}

impl Unit<'_> {
    /// Its group, as `/proc/PID/cgroup` has it.
    pub fn group(&self) -> String {
        self.group.to_string_lossy().replace(GROUPS, "")
    }

    /// Its group's file.
    #[track_caller]
    pub fn file(&self, name: &str) -> String {
        let path = self.group.join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        text.trim().to_owned()
    }

    /// Each of these is so: a property, as systemd shows it, or what is in a file of the group,
    /// which has a dot in its name. Each is a step.
    #[track_caller]
    pub fn has(&self, when: &str, expected: &[(&str, &str)]) {
        let (files, properties): (Vec<_>, Vec<_>) =
            expected.iter().partition(|(name, _)| name.contains('.'));
        let names: Vec<_> = properties.iter().map(|(name, _)| *name).collect();
        let names = names.join(",");
        let line = format!("{} show --property {names} {}", self.host.systemctl(), self.name);
        let shown = if names.is_empty() { String::new() } else { self.host.ask(&line) };
        let mut wrong = Vec::new();
        for (name, value) in properties {
            let line = format!("{name}={value}");
            if !shown.lines().any(|shown| shown == line) {
                let found = shown.lines().find(|line| line.starts_with(&format!("{name}=")));
                wrong.push(format!("{line}, not {found:?}"));
            }
        }
        for (name, value) in files {
            let found = self.file(name);
            if found != *value {
                wrong.push(format!("{name} is {value:?}, not {found:?}"));
            }
        }
        assert!(wrong.is_empty(), "{when}: {} should have {wrong:#?}", self.name);
        let steps = &self.host.steps;
        steps.set(steps.get() + expected.len() as u32);
    }
}
