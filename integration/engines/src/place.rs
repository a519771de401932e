//! A machine of its own, as far as an engine can tell. It is all in namespaces of the
//! test's thread, so that nothing of the machine's own is touched: not its network, its
//! firewall, its /etc, or what its engines keep in /run and /var/lib.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use integration::terminal::Terminal;
use integration::{Bed, Call, Running, as_root, in_views};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;

use crate::answer::count;
use crate::inventory::{hierarchies, mounts, processes};
use crate::{Answer, Inventory, Session, missing, own_file, path};

/// How long a line may take. The machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);
/// The cgroups that engines make where they are not told another one.
const USUAL_GROUPS: [&str; 3] = ["docker", "libpod_parent", "buildah"];
/// What engines mount for themselves and leave.
const USUAL_MOUNTS: [&str; 5] = [
    "/run/docker/netns/default",
    "/run/netns",
    "/var/lib/containers/storage/overlay",
    "/var/lib/docker",
    "/var/lib/docker/100000.100000",
];
/// How much of a daemon's log is shown when its test fails.
const LINES: usize = 60;

/// The steps of all places so far.
static TOTAL: AtomicU32 = AtomicU32::new(0);

/// Where one engine is tested.
#[derive(Debug)]
pub struct Place<'bed> {
    /// What the place is made of, and where its files are.
    pub bed: &'bed Bed,
    user: Option<u32>,
    /// The cgroup that is the user's own.
    group: RefCell<Option<PathBuf>>,
    daemons: RefCell<Vec<Daemon>>,
    steps: Rc<Cell<u32>>,
    /// Mounts and cgroups that were there before.
    strangers: Vec<String>,
}

#[derive(Debug)]
struct Daemon {
    name: &'static str,
    running: Running,
    log: PathBuf,
}

/// Runs a test as root in a place of its own, with a registry on 127.0.0.1:5000. It is
/// left out where one of `programs` is not installed.
#[track_caller]
pub fn in_place<F: Fn(&Place<'_>) + Sync>(programs: &[&str], test: F) {
    let missing = missing(&[programs, &["docker-registry", "ip"]].concat());
    let test = |bed: &Bed| {
        if !missing.is_empty() {
            return bed.skip(&format!("not installed: {}", missing.join(", ")));
        }
        let images = images();
        let started = Instant::now();
        let place = Place::enter(bed);
        let tested = catch_unwind(AssertUnwindSafe(|| {
            place.serve(images);
            test(&place);
        }));
        if tested.is_err() {
            place.show_logs();
        }
        let left = place.leave();
        tell(&bed.test, place.steps.get(), started);
        if let Err(panic) = tested {
            eprintln!("left behind after the failure: {left:#?}");
            resume_unwind(panic);
        }
        assert!(left.is_empty(), "left behind: {left:#?}");
    };
    // Once: all that an engine does differently in another view is in its cgroups.
    match std::env::var_os("VIEWS") {
        None => as_root(test),
        Some(_) => in_views(test),
    }
}

/// Tells how many steps a test took, and all so far.
pub(crate) fn tell(test: &str, steps: u32, started: Instant) {
    let seconds = started.elapsed().as_secs();
    let total = TOTAL.fetch_add(steps, Ordering::Relaxed) + steps;
    // Past the harness of cargo, which keeps what a good test prints to itself.
    let line = format!("{test}: {steps} steps in {seconds} s, {total} steps in all\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Where the images are that the registry serves.
pub(crate) fn images() -> &'static str {
    static STORAGE: OnceLock<String> = OnceLock::new();
    STORAGE.get_or_init(|| {
        let output = Command::new(own_file("images.py")).output().expect("images.py");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}

impl<'bed> Place<'bed> {
    /// Takes the calling thread there.
    fn enter(bed: &'bed Bed) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let (group, daemons, steps) = Default::default();
        let mut place = Self { bed, user: None, group, daemons, steps, strangers: Vec::new() };
        // Also hides that the machine has systemd, if it has: engines would ask it for cgroups.
        mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .expect("/run");
        let layers = ["etc", "etc-work"].map(|name| bed.make_directory(name, 0o755));
        let options = format!(
            "lowerdir=/etc,upperdir={},workdir={}",
            layers[0].display(),
            layers[1].display()
        );
        mount(Some("etc"), "/etc", Some("overlay"), MsFlags::empty(), Some(&*options))
            .expect("/etc");
        // On the disk: an overlay can't be the upper layer of another one.
        for (name, mode, point) in [("var-lib", 0o755, "/var/lib"), ("var-tmp", 0o1777, "/var/tmp")]
        {
            bind(&bed.make_directory(name, mode), Path::new(point));
        }
        for (name, mode) in [("home", 0o700), ("bin", 0o755), ("tmp", 0o1777)] {
            bed.make_directory(name, mode);
        }
        place.open_tun();
        place.sh("ip link set lo up").output.success();
        place.strangers = standing();
        place
    }

    /// Makes the device of user-mode networks everybody's, as udev does.
    fn open_tun(&self) {
        let device = Path::new("/dev/net/tun");
        if device.exists() {
            let node = self.bed.directory.join("tun");
            mknod(&node, SFlag::S_IFCHR, Mode::empty(), makedev(10, 200)).expect("mknod");
            fs::set_permissions(&node, fs::Permissions::from_mode(0o666)).expect("its mode");
            bind(&node, device);
        }
    }

    /// Starts the registry.
    fn serve(&self, storage: &str) {
        let file = self.bed.write("registry.yml", &registry_config(storage, 5000));
        self.start("docker-registry", &format!("docker-registry serve {}", file.display()));
        self.eventually("the registry answers", || self.get("127.0.0.1:5000", "/v2/").is_some());
    }

    /// The same place for an ordinary user, whose home is the bed's `user`.
    pub fn as_user(&self, id: u32) -> Place<'bed> {
        let steps = Rc::clone(&self.steps);
        let (user, group, daemons) = (Some(id), RefCell::default(), RefCell::default());
        Place { bed: self.bed, user, group, daemons, steps, strangers: Vec::new() }
    }

    /// Runs `test` while the user has a cgroup of version 2, in which all that he types runs.
    pub fn with_a_cgroup(&self, test: impl FnOnce()) {
        let directory = self.cgroup("", "user");
        fs::create_dir_all(&directory).expect("a cgroup");
        for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            chown(directory.join(name), self.user, self.user).expect("chown");
        }
        self.group.replace(Some(directory));
        test();
        self.group.replace(None);
        self.remove_group("user");
    }

    /// Counts one more claim that holds.
    pub fn step(&self) {
        count(&self.steps);
    }

    /// Claims something that is no line's answer.
    #[track_caller]
    pub fn claim(&self, what: &str, holds: bool) {
        assert!(holds, "it should be so: {what}");
        self.step();
    }

    /// Asks again and again until the answer is yes, which is a step.
    #[track_caller]
    pub fn eventually(&self, what: &str, happened: impl FnMut() -> bool) {
        integration::within(PATIENCE / 2, what, happened);
        self.step();
    }

    fn call(&self, line: &str) -> Call {
        let home = self.bed.directory.join(if self.user.is_some() { "user" } else { "home" });
        let path = format!("{}:{}", self.bed.directory.join("bin").display(), path());
        let call = self.bed.program(Path::new("/bin/sh")).args(["-c", line]).patience(PATIENCE);
        // BuildKit leaves what it has made there.
        let call = call.env("TMPDIR", self.bed.directory.join("tmp"));
        let call = call.env("PATH", path).env("HOME", &home).current_dir(&home);
        let call = call.env("TERM", "xterm").env("DOCKER_BUILDKIT", "0").env("LC_ALL", "C.UTF-8");
        let call = match &*self.group.borrow() {
            None => call,
            Some(directory) => call.in_cgroup(directory),
        };
        match self.user {
            None => call,
            Some(id) => call.user(id).env("XDG_RUNTIME_DIR", format!("/run/user/{id}")),
        }
    }

    /// Types a line of shell, and waits for its end.
    #[track_caller]
    pub fn sh(&self, line: &str) -> Answer<'_> {
        Answer::new(&self.steps, self.call(line).output())
    }

    /// Types a line of shell, and does not wait for its end.
    #[track_caller]
    pub fn begin(&self, line: &str) -> Running {
        self.call(line).spawn()
    }

    /// Types a line of shell on a terminal of 80 columns and 24 rows.
    #[track_caller]
    pub fn on_terminal(&self, line: &str) -> Session<'_> {
        let (terminal, other) = Terminal::open();
        terminal.resize(80, 24);
        Session::new(&self.steps, terminal, self.call(line).on_terminal(&other).spawn())
    }

    /// Starts a daemon, which is stopped with the place. Its log is shown if the test fails.
    pub fn start(&self, name: &'static str, line: &str) {
        let log = self.bed.directory.join(format!("{name}.log"));
        let line = format!("exec {line} >>{} 2>&1", log.display());
        let running = self.call(&line).dies_with_us().spawn();
        self.daemons.borrow_mut().push(Daemon { name, running, log });
    }

    /// Stops a daemon.
    #[track_caller]
    pub fn stop(&self, name: &str, signal: Signal) {
        let mut daemons = self.daemons.borrow_mut();
        let at = daemons.iter().position(|daemon| daemon.name == name).expect("a daemon");
        let daemon = daemons.remove(at);
        daemon.running.signal(signal);
        daemon.running.wait();
    }

    /// What a daemon has logged.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.bed.directory.join(format!("{name}.log"))).unwrap_or_default()
    }

    fn show_logs(&self) {
        for daemon in self.daemons.borrow().iter() {
            let text = fs::read_to_string(&daemon.log).unwrap_or_default();
            let lines: Vec<&str> =
                text.lines().filter(|line| !line.contains("level=info")).collect();
            let from = lines.len().saturating_sub(LINES);
            eprintln!("the end of {}'s log:\n{}", daemon.name, lines[from..].join("\n"));
        }
    }

    /// Gets a page of a web server of the place. None: there is no answer.
    pub fn get(&self, address: &str, path: &str) -> Option<String> {
        get(address, path)
    }

    /// Writes a file of the place, such as one in its /etc, with the directories above it.
    pub fn write(&self, path: &str, text: &str) {
        let path = Path::new(path);
        let above = path.parent().expect("a directory");
        fs::create_dir_all(above).unwrap_or_else(|error| panic!("{above:?}: {error}"));
        fs::write(path, text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    }

    /// What engines and containers have now.
    pub fn inventory(&self) -> Inventory {
        Inventory::take(self.bed)
    }

    /// Nothing is left of what has come since.
    #[track_caller]
    pub fn claim_nothing_since(&self, before: &Inventory) {
        // The engine's own clean-up may take a moment longer than the line that asked for it.
        let mut left = Vec::new();
        for _ in 0..100 {
            left = self.inventory().since(before);
            if left.is_empty() {
                return self.step();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("left behind: {left:#?}");
    }

    /// Whether root lacks capabilities here.
    pub fn lacks_capabilities(&self) -> bool {
        let last: u32 = read_number("/proc/sys/kernel/cap_last_cap");
        let status = fs::read_to_string("/proc/self/status").expect("status");
        let all = format!("CapEff:\t{:016x}\n", u64::MAX >> (63 - last));
        !status.contains(&all)
    }

    /// A cgroup below the bed's own: that of version 2, or of a controller of version 1.
    pub fn cgroup(&self, controller: &str, group: &str) -> PathBuf {
        let mount = Path::new("/sys/fs/cgroup").join(self.bed.by_version(controller, ""));
        mount.join(&self.bed.name).join(group)
    }

    /// The file of a cgroup below the bed's own.
    pub fn cgroup_file(&self, group: &str, file: &str) -> String {
        let controller = file.split('.').next().unwrap_or_default();
        let path = self.cgroup(controller, group).join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        text.trim().to_owned()
    }

    /// Removes a cgroup below the bed's own that an engine keeps for later containers.
    #[track_caller]
    pub fn remove_group(&self, name: &str) {
        for hierarchy in hierarchies() {
            let group = hierarchy.join(&self.bed.name).join(name);
            // What has been in it may still be ending.
            integration::eventually("the cgroup can be removed", || {
                !group.exists() || fs::remove_dir(&group).is_ok()
            });
        }
    }

    /// Ends all that runs here and undoes all mounts. Returns what should not have been there.
    fn leave(&self) -> Vec<String> {
        let mut left = Vec::new();
        while let Some(daemon) = self.daemons.borrow_mut().pop() {
            daemon.running.signal(Signal::SIGTERM);
            if catch_unwind(AssertUnwindSafe(|| daemon.running.wait())).is_err() {
                left.push(format!("{} does not end", daemon.name));
            }
        }
        // What a daemon has started may take a moment to see that it has gone.
        let patience = Instant::now() + Duration::from_secs(3);
        while !processes().is_empty() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(20));
        }
        for (pid, command) in processes() {
            left.push(format!("process {pid}: {command}"));
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        left.extend(standing().into_iter().filter(|line| !self.strangers.contains(line)));
        for point in ["/run", "/var/lib", "/var/tmp", "/etc", "/dev/net/tun"] {
            // With all that is mounted below.
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
        left
    }
}

/// What a registry on 127.0.0.1 is told that serves what is in `storage`.
pub(crate) fn registry_config(storage: &str, port: u16) -> String {
    format!(
        "version: 0.1\nlog: {{accesslog: {{disabled: true}}}}\n\
         storage:\n  filesystem: {{rootdirectory: {storage:?}}}\n  \
         maintenance: {{readonly: {{enabled: true}}}}\n\
         http: {{addr: \"127.0.0.1:{port}\"}}\n"
    )
}

/// Gets a page of a web server. None: there is no answer.
pub(crate) fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/").then_some(answer)
}

/// The mounts, and the cgroups of engines that are outside of the bed's own.
fn standing() -> Vec<String> {
    let hierarchies = hierarchies().into_iter();
    let groups = hierarchies.flat_map(|root| USUAL_GROUPS.map(|name| root.join(name)));
    let groups = groups.filter(|path| path.exists());
    let mounts = mounts().into_iter().filter(|point| !USUAL_MOUNTS.contains(&&**point));
    let groups = groups.map(|path| format!("cgroup {}", path.display()));
    groups.chain(mounts.map(|point| format!("mount {point}"))).collect()
}

fn read_number(path: &str) -> u32 {
    let text = fs::read_to_string(path).expect("a file of the kernel");
    text.trim().parse().expect("a number")
}

fn bind(from: &Path, to: &Path) {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .unwrap_or_else(|error| panic!("bind {from:?} to {to:?}: {error}"));
}
