//! A Debian 13 with its own engines, booted by the runtime under test. Each engine is told
//! where the runtime is, and how to reach the registry on 127.0.0.1:5000; the rest it has from
//! its package. So it takes systemd's driver for cgroups by itself.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration::systemd_host::{Distribution, SystemdHost, USER, User, beside_a_host};
use integration::terminal::Terminal;
use integration::{Bed, Bundle, Call};
use serde_json::json;

use crate::answer::count;
use crate::containerd::{FOR_PODS, built, images_of_pods};
use crate::place::{get, images, registry_config, tell};
use crate::shim::Shim;
use crate::{Answer, Session, found, missing, own_file};

/// How long a line may take. The machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// What Podman is told of this machine, which has no controller for a number of pids, and lets
/// root have fewer files than a Podman of root asks for.
const PODMAN: &str = "[containers]\npids_limit = 0\n\
    default_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n";

/// A network as any machine has it, which leads to nowhere.
const NETWORK: &str = "
    ip link set lo up && ip link add eth0 type veth peer name nowhere
    ip address add 192.0.2.2/24 dev eth0 && ip link set nowhere up && ip link set eth0 up
    ip route add default via 192.0.2.1";

/// What there is of containers that are gone: units, groups, state, and processes.
const LEFT: &str = "
    units() {
        systemctl $* list-units --all --plain --no-legend |
            grep -E '^(docker|libpod|ctr|cri-containerd|buildah|nerdctl|crio|ferrun)-|libpod_pod' |
            grep -v ^libpod-conmon
    }
    units; units --user --machine=tester@
    find /run/ferrun /run/user/*/ferrun /run/docker/runtime-runc/moby /run/containerd/runc/* \
        -mindepth 1 2>/dev/null
    pgrep --exact --list-full 'ferrun|runc|crun'
    true";

/// Takes out of a configuration what the CRI always asks for and this machine cannot give: limits,
/// and a better score before the kernel's killer, for which root may lack CAP_SYS_RESOURCE. All
/// else is left as it is.
const UNLIMITED: &str = r#"#!/bin/sh
for word; do
    if [ "$before" = --bundle ]; then
        jq 'del(.process.oomScoreAdj) |
            del(.linux.resources | .cpu, .memory, .pids, .unified, .hugepageLimits)' \
            "$word/config.json" > "$word/config.new" && mv "$word/config.new" "$word/config.json"
    fi
    before=$word
done
exec RUNTIME "$@"
"#;

/// What the host's containers are run by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The runtime under test, which boots the host too.
    Ferrun,
    /// The one in our shim, which boots the host too.
    Shim,
    /// The one that the engine takes by itself: Debian's runc, or Podman's crun.
    Usual,
}

impl By {
    /// What Docker calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ferrun => "ferrun",
            Self::Shim => "shim",
            Self::Usual => "runc",
        }
    }
}

#[derive(Debug)]
struct Debian13 {
    by: By,
    /// What it has besides of the programs that `current/` is the source of.
    built: &'static [&'static str],
}

/// A registry of the host.
struct Registry {
    name: &'static str,
    /// Where its images are in the host.
    at: &'static str,
    port: u16,
    /// Where they are on the machine.
    storage: String,
}

/// A host that is up, for somebody who types lines of shell.
#[derive(Debug, Clone)]
pub struct Machine<'host> {
    /// What it is.
    pub host: &'host SystemdHost<'host>,
    /// What runs its containers.
    pub by: By,
    user: Option<&'host User<'host>>,
    steps: &'host Cell<u32>,
}

/// Runs a test as root of a host, and again of one whose containers are run by the runtime
/// that its engines take by themselves.
#[track_caller]
pub fn on_debian_13(test: impl Fn(&Machine<'_>) + Sync) {
    for by in [By::Ferrun, By::Usual] {
        on(&Debian13 { by, built: &[] }, &test);
    }
}

/// Runs a test in the same way where these programs are, which are not Debian's. With `crictl`
/// comes what pods need: a network, images, and `unlimited`, which is the runtime for pods.
#[track_caller]
pub fn on_debian_13_with(programs: &'static [&'static str], test: impl Fn(&Machine<'_>) + Sync) {
    for by in [By::Ferrun, By::Usual] {
        on(&Debian13 { by, built: programs }, &test);
    }
}

/// Runs a test as root of a host, once.
#[track_caller]
pub fn on_debian_13_by_ferrun(test: impl Fn(&Machine<'_>) + Sync) {
    on(&Debian13 { by: By::Ferrun, built: &[] }, &test);
}

/// Runs a test as root of a host that has our shim, once.
#[track_caller]
pub fn on_debian_13_with_shim(test: impl Fn(&Machine<'_>) + Sync) {
    on(&Debian13 { by: By::Shim, built: &[] }, &test);
}

#[track_caller]
fn on<F: Fn(&Machine<'_>) + Sync>(debian: &Debian13, test: &F) {
    beside_a_host(debian, |host| {
        let started = Instant::now();
        host.inside(|| {
            let steps = Cell::default();
            let machine = Machine { host, by: debian.by, user: None, steps: &steps };
            machine.start();
            let tested = catch_unwind(AssertUnwindSafe(|| {
                test(&machine);
                machine.claim_nothing_left();
            }));
            tell(&format!("{} by {:?}", host.bed().test, debian.by), steps.get(), started);
            if let Err(panic) = tested {
                let journal = "journalctl --no-pager --lines 60 --output cat --priority warning";
                eprintln!("the end of the journal:\n{}", host.sh(journal).stdout);
                resume_unwind(panic);
            }
        });
    });
}

/// Where Debian 13's files are.
fn files() -> &'static str {
    static FILES: OnceLock<String> = OnceLock::new();
    FILES.get_or_init(|| {
        let output =
            Command::new(own_file("../../testbed/debian13.py")).output().expect("a script");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}

impl Debian13 {
    /// What the engines are told.
    fn configuration(&self, program: &Path) -> [(&'static str, String); 4] {
        let mirrors = json!(["http://127.0.0.1:5000"]);
        let docker = match self.by {
            By::Usual => json!({"registry-mirrors": mirrors}),
            By::Ferrun => json!({
                "registry-mirrors": mirrors,
                "runtimes": {self.by.name(): {"path": self.program(program)}},
                "default-runtime": self.by.name(),
            }),
            By::Shim => json!({
                "registry-mirrors": mirrors,
                "runtimes": {self.by.name(): {"runtimeType": "io.containerd.ferrun.v2"}},
                "default-runtime": self.by.name(),
            }),
        };
        let podman = match self.by {
            By::Usual | By::Shim => String::new(),
            By::Ferrun => format!(
                "[engine]\nruntime = \"ferrun\"\nruntime_supports_json = [\"ferrun\"]\n\
                 [engine.runtimes]\nferrun = [{program:?}]\n"
            ),
        };
        [
            ("docker/daemon.json", docker.to_string()),
            ("containers/containers.conf", podman + PODMAN),
            (
                "containers/registries.conf",
                "unqualified-search-registries = [\"docker.io\"]\n\
                 [[registry]]\nprefix = \"docker.io\"\nlocation = \"127.0.0.1:5000\"\n\
                 insecure = true\n"
                    .to_owned(),
            ),
            ("containerd/config.toml", self.of_pods(program)),
        ]
    }

    /// What containerd is told.
    fn of_pods(&self, program: &Path) -> String {
        let program = match self.has_pods() {
            true => program.with_file_name("unlimited"),
            false => self.program(program),
        };
        format!(
            "version = 2\n\
             [plugins.'io.containerd.grpc.v1.cri']\n\
             sandbox_image = 'registry.k8s.io/pause:3.10'\n\
             [plugins.'io.containerd.grpc.v1.cri'.cni]\n\
             bin_dir = '/usr/lib/cni'\n\
             [plugins.'io.containerd.grpc.v1.cri'.registry]\n\
             config_path = '/etc/containerd/certs.d'\n\
             [plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]\n\
             runtime_type = 'io.containerd.runc.v2'\n\
             [plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc.options]\n\
             BinaryName = {program:?}\n\
             SystemdCgroup = true\n"
        )
    }

    fn registries(&self) -> Vec<Registry> {
        let storage = images().to_owned();
        let mut all = vec![Registry { name: "registry", at: "/srv/images", port: 5000, storage }];
        if self.has_pods() {
            let storage = images_of_pods();
            all.push(Registry { name: "pods", at: "/srv/pods", port: 5001, storage });
        }
        all
    }

    fn has_pods(&self) -> bool {
        self.built.contains(&"crictl")
    }

    /// Makes it a host with pods.
    fn settle_pods(&self, bed: &Bed, root: &Path) {
        for (path, text) in FOR_PODS {
            let path = root.join(&path[1..]);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, text).expect("a file");
        }
        let program = self.program(&bed.directory.join("ferrun"));
        let wrapper =
            bed.write("unlimited", &UNLIMITED.replace("RUNTIME", &program.to_string_lossy()));
        fs::set_permissions(wrapper, fs::Permissions::from_mode(0o755)).expect("its mode");
    }

    fn program(&self, ferrun: &Path) -> PathBuf {
        match self.by {
            By::Ferrun | By::Shim => ferrun.to_owned(),
            By::Usual => "/usr/sbin/runc".into(),
        }
    }
}

impl Distribution for Debian13 {
    fn files(&self) -> &Path {
        Path::new(files())
    }

    fn hindrance(&self) -> Option<String> {
        if let Some(name) = self.built.iter().find(|name| !built().join(name).exists()) {
            return Some(format!("make has not built {name}"));
        }
        let missing = missing(&["mmdebstrap", "docker-registry"]);
        (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
    }

    fn settle(&self, bed: &Bed, root: &Path) {
        let etc = root.join("etc");
        for (name, text) in self.configuration(&bed.directory.join("ferrun")) {
            let path = etc.join(name);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(&path, text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        }
        let registry = found("docker-registry").expect("docker-registry");
        fs::copy(registry, bed.directory.join("docker-registry")).expect("a copy");
        let units = etc.join("systemd/system");
        let directory = bed.directory.display();
        for Registry { name, at, port, .. } in self.registries() {
            let config = bed.write(&format!("{name}.yml"), &registry_config(at, port));
            let command = format!("{directory}/docker-registry serve {}", config.display());
            let text = format!("[Service]\nExecStart={command}\n");
            fs::write(units.join(format!("{name}.service")), text).expect("a unit");
        }
        let wanted = self.registries().into_iter().map(|registry| registry.name);
        for name in wanted.chain(["callers"]) {
            let unit = format!("{name}.service");
            let link = units.join("multi-user.target.wants").join(&unit);
            symlink(format!("../{unit}"), link).expect("a link");
        }
        for name in self.built {
            fs::copy(built().join(name), root.join("usr/bin").join(name)).expect("a copy");
        }
        if self.by == By::Shim {
            let place = root.join("usr/bin/containerd-shim-ferrun-v2");
            fs::copy(Shim::program(), place).expect("a copy");
        }
        if self.has_pods() {
            self.settle_pods(bed, root);
        }
        // Nobody answers there, at once.
        let resolver = etc.join("resolv.conf");
        let _ = fs::remove_file(&resolver);
        fs::write(resolver, "nameserver 127.0.0.1\n").expect("resolv.conf");
        // The bed's directory may be below.
        symlink("/dev/null", units.join("tmp.mount")).expect("a mask");
    }

    fn configure(&self, bundle: Bundle) -> Bundle {
        // An overlay cannot be the upper layer of another one.
        let usual = ["/var/lib/docker", "/var/lib/containerd", "/var/lib/containers"];
        let with_disks = usual
            .iter()
            .fold(bundle, |bundle, path| bundle.mount(path, "tmpfs", "tmpfs", &["mode=711"]));
        let with_images = self.registries().into_iter().fold(with_disks, |bundle, registry| {
            bundle.mount(registry.at, "bind", &registry.storage, &["bind", "ro"])
        });
        with_images
            .mount(self.home(), "tmpfs", "tmpfs", &["mode=700", &format!("uid={USER},gid={USER}")])
            .with(
                "/linux/devices",
                json!([{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200,
                        "fileMode": 0o666}]),
            )
    }

    fn target(&self) -> &str {
        "multi-user.target"
    }

    fn home(&self) -> &str {
        "/home/tester"
    }
}

impl<'host> Machine<'host> {
    fn start(&self) {
        self.sh(NETWORK).output.success();
        self.sh("mount --make-rshared /").output.success();
    }

    /// Nothing is left of containers. The engine's own clean-up may take a moment.
    #[track_caller]
    fn claim_nothing_left(&self) {
        let mut left = String::new();
        for _ in 0..100 {
            left = self.host.sh(LEFT).success().to_owned();
            if left.is_empty() {
                return count(self.steps);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("left behind:\n{left}");
    }

    /// The same machine for its ordinary user.
    pub fn as_user(&self, user: &'host User<'host>) -> Self {
        Self { user: Some(user), ..*self }
    }

    /// One of the two: what is so with the runtime under test, and what is with another one.
    pub fn by_runtime<T>(&self, ferrun: T, other: T) -> T {
        if self.by == By::Ferrun { ferrun } else { other }
    }

    /// What an engine says of a container.
    #[track_caller]
    pub fn inspect(&self, engine: &str, container: &str, template: &str) -> String {
        let line = format!("{engine} inspect --format '{{{{{template}}}}}' {container}");
        self.sh(&line).output.success().to_owned()
    }

    /// An engine comes to say so of a container.
    #[track_caller]
    pub fn becomes(&self, engine: &str, container: &str, template: &str, value: &str) {
        let what = format!("{template} of {container} is {value}");
        self.eventually(&what, || self.inspect(engine, container, template) == value);
    }

    /// A web server answers at this address, as that of image `web` does.
    #[track_caller]
    pub fn serves(&self, address: &str) {
        self.eventually("the published port answers", || {
            get(address, "/").is_some_and(|page| page.contains("served from a container"))
        });
    }

    fn call(&self, line: &str) -> Call {
        let shell = Path::new("/bin/sh");
        let call = match self.user {
            None => self.host.service(shell).env("HOME", "/root"),
            Some(user) => user.service(shell),
        };
        let call = call.env("TERM", "xterm").env("LC_ALL", "C.UTF-8");
        call.env("RUNTIME", &self.host.program).args(["-c", line]).patience(PATIENCE)
    }

    /// Types a line of shell, and waits for its end. `docker run` is typed again where dockerd has
    /// lost all that it printed.
    #[track_caller]
    pub fn sh(&self, line: &str) -> Answer<'host> {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
        let output = self.call(line).output();
        let is_silent = output.stdout.is_empty() && (output.code == 0 || output.stderr.is_empty());
        if line.starts_with("docker run ") && is_silent && self.has_lost_output(began) {
            return self.sh(line);
        }
        Answer::new(self.steps, output)
    }

    /// Whether dockerd says so. On a busy machine a container may have ended before dockerd opens
    /// the pipe for what it prints, whatever the runtime; the faster it is the likelier.
    fn has_lost_output(&self, began: u64) -> bool {
        let said = self.host.sh(&format!(
            "journalctl --quiet --unit docker --since @{began} --grep 'reading from a closed fifo'"
        ));
        !said.stdout.is_empty()
    }

    /// Types a line of shell on a terminal of 80 columns and 24 rows.
    #[track_caller]
    pub fn on_terminal(&self, line: &str) -> Session<'host> {
        let (terminal, other) = Terminal::open();
        terminal.resize(80, 24);
        Session::new(self.steps, terminal, self.call(line).on_terminal(&other).spawn())
    }

    /// Writes a file of the host, with the directories above it.
    pub fn write(&self, path: &str, text: &str) {
        let path = Path::new(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    }

    /// Claims something that is no line's answer.
    #[track_caller]
    pub fn claim(&self, what: &str, holds: bool) {
        assert!(holds, "it should be so: {what}");
        count(self.steps);
    }

    /// Asks again and again until the answer is yes, which is a step.
    #[track_caller]
    pub fn eventually(&self, what: &str, happened: impl FnMut() -> bool) {
        integration::within(PATIENCE / 2, what, happened);
        count(self.steps);
    }
}
