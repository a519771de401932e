//! containerd, configured as `docs/engines.md` says, with the runtime as its default one
//! and runc beside it.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::runtime;
use nix::sys::signal::Signal;

use crate::inventory::processes;
use crate::place::registry_config;
use crate::{Answer, Place, own_file, runtime_name};

/// The runtime that every release of containerd knows, to compare with.
pub const PEER: &str = "/usr/sbin/runc";

/// A CRI that makes containers of archives has to be told to.
const RESTORING: &str = "enable_experimental_restore_via_create = true";

/// What a network of pods, images of a registry on 127.0.0.1:5001 and crictl need.
pub(crate) const FOR_PODS: [(&str, &str); 3] = [
    ("/etc/cni/net.d/10-pods.conflist", include_str!("pods.conflist")),
    // For each registry by its name, as 1.6 does not know `_default` without a host.
    (
        "/etc/containerd/certs.d/_default/hosts.toml",
        "[host.'http://127.0.0.1:5001']\ncapabilities = ['pull', 'resolve']\n",
    ),
    // In seconds: the two of its own are few for a busy or an emulated machine.
    ("/etc/crictl.yaml", "runtime-endpoint: unix:///run/containerd/containerd.sock\ntimeout: 60\n"),
];

/// Where the images of pods are, as those of Kubernetes' registries.
pub(crate) fn images_of_pods() -> String {
    let script = own_file("current/images.py");
    let made = Command::new(script).arg(built().join("stand-in")).output().expect("images.py");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8_lossy(&made.stdout).trim().to_owned()
}

/// Which containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Debian 12's, 1.6.
    Debian,
    /// One between these, by its number, that asks for a shim in another way.
    Between(&'static str),
    /// The one that is built from `current/`, 2.4.
    Current,
}

impl Release {
    /// What has to be installed for it.
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Debian => &["containerd", "ctr"],
            Self::Between(_) | Self::Current => &[],
        }
    }

    /// Where its programs are, where they are not the machine's.
    fn directory(self) -> Option<PathBuf> {
        match self {
            Self::Debian => None,
            Self::Between(number) => Some(built().join("../releases").join(number)),
            Self::Current => Some(built()),
        }
    }

    /// Whether `current/` is built, where the release, or tests of pods, need it. The test's
    /// output says so where it is not.
    pub fn is_built(self, place: &Place<'_>, has_pods: bool) -> bool {
        let needs_current = has_pods || self == Self::Current;
        let own = self.directory().unwrap_or_else(built);
        let is_there =
            (built().exists() || !needs_current) && (own.exists() || self == Self::Debian);
        if !is_there {
            place.bed.skip("make has not built what this needs");
        }
        is_there
    }
}

/// A daemon at work.
#[derive(Debug)]
pub struct Containerd<'place> {
    /// Where it runs.
    pub place: &'place Place<'place>,
    /// Which one it is.
    pub release: Release,
}

/// Where the programs are that `current/` is the source of.
pub fn built() -> PathBuf {
    own_file("../../testbed/cache/engines/bin")
}

impl<'place> Containerd<'place> {
    /// Starts it, with `more` lines in what it is told of pods.
    #[track_caller]
    pub fn start(place: &'place Place<'place>, release: Release, more: &str) -> Self {
        let daemon = Self { place, release };
        if let Some(directory) = release.directory() {
            let programs = directory.read_dir().expect("programs").flatten();
            programs.for_each(|program| daemon.take(&program.path()));
        }
        place.write("/etc/containerd/config.toml", &daemon.config(more));
        place.start("containerd", "containerd");
        place.eventually("containerd answers", || daemon.ctr("version").output.code == 0);
        match release {
            Release::Debian => {}
            Release::Between(number) => drop(daemon.ctr("version").mentions(number)),
            Release::Current => drop(daemon.ctr("version").mentions("2.4.2")),
        }
        let pull = "images pull --plain-http 127.0.0.1:5000/library/alpine:latest";
        daemon.ctr(pull).output.success();
        // The first one leaves directories that all later ones share.
        daemon.run("--rm", "first true").output.success();
        daemon
    }

    fn config(&self, more: &str) -> String {
        let (version, runtimes, restoring) = match self.release {
            Release::Debian => (2, "io.containerd.grpc.v1.cri", ""),
            Release::Between(_) => (3, "io.containerd.cri.v1.runtime", RESTORING),
            Release::Current => (4, "io.containerd.cri.v1.runtime", ""),
        };
        let (name, program) = (runtime_name(), runtime().program.display());
        // A root that lacks CAP_SYS_RESOURCE cannot lower the score of a pod.
        let mut text = format!(
            "version = {version}\n\
             [plugins.'{runtimes}']\n\
             restrict_oom_score_adj = true\n\
             enable_unprivileged_icmp = false\n\
             {restoring}\n\
             {more}\n\
             [plugins.'{runtimes}'.containerd]\n\
             default_runtime_name = '{name}'\n"
        );
        for (name, program) in [(name, program), ("runc", Path::new(PEER).display())] {
            text += &format!(
                "[plugins.'{runtimes}'.containerd.runtimes.{name}]\n\
                 runtime_type = 'io.containerd.runc.v2'\n\
                 [plugins.'{runtimes}'.containerd.runtimes.{name}.options]\n\
                 BinaryName = '{program}'\n"
            );
        }
        text + &match self.release {
            Release::Debian => format!(
                "[plugins.'{runtimes}'.cni]\n\
                 bin_dir = '/usr/lib/cni'\n\
                 [plugins.'{runtimes}'.registry]\n\
                 config_path = '/etc/containerd/certs.d'\n"
            ),
            Release::Between(_) => format!(
                "[plugins.'{runtimes}'.cni]\n\
                 bin_dir = {:?}\n\
                 [plugins.'io.containerd.cri.v1.images'.pinned_images]\n\
                 sandbox = 'registry.k8s.io/pause:3.10'\n\
                 [plugins.'io.containerd.cri.v1.images'.registry]\n\
                 config_path = '/etc/containerd/certs.d'\n",
                built()
            ),
            Release::Current => format!(
                "[plugins.'{runtimes}'.cni]\n\
                 bin_dirs = [{:?}]\n\
                 [plugins.'io.containerd.cri.v1.images'.registry]\n\
                 config_path = '/etc/containerd/certs.d'\n",
                built()
            ),
        }
    }

    /// Kills it with its shims left at work, and starts it again.
    #[track_caller]
    pub fn restart(&self, signal: Signal, meanwhile: impl FnOnce()) {
        self.place.stop("containerd", signal);
        meanwhile();
        self.place.start("containerd", "containerd");
        let answers = || self.ctr("version").output.code == 0;
        self.place.eventually("containerd answers", answers);
    }

    /// The process of the daemon itself.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        let all = processes();
        all.iter().find(|(_, line)| line == "containerd").expect("containerd").0
    }

    /// The processes of shims, with their command lines.
    pub fn shims(&self) -> Vec<(i32, String)> {
        let mut all = processes();
        all.retain(|(_, line)| line.contains("containerd-shim"));
        all
    }

    /// Puts a program before the machine's own in the place's PATH.
    pub fn take(&self, program: &Path) {
        let name = program.file_name().expect("a name");
        let own = self.place.bed.directory.join("bin").join(name);
        if !own.exists() {
            symlink(program.canonicalize().expect("a program"), own).expect("a link");
        }
    }

    /// Gives pods a network, and the images of Kubernetes' registries from one of ours.
    #[track_caller]
    pub fn prepare_pods(&self) {
        let place = self.place;
        self.take(&built().join("crictl"));
        let file = place.bed.write("pods-registry.yml", &registry_config(&images_of_pods(), 5001));
        place.start("pods-registry", &format!("docker-registry serve {}", file.display()));
        place.eventually("the registry for pods answers", || {
            place.get("127.0.0.1:5001", "/v2/").is_some()
        });
        for (path, text) in FOR_PODS {
            place.write(path, text);
        }
    }

    /// A call of `ctr` in a namespace, and so in cgroups, of the bed's name.
    #[track_caller]
    pub fn ctr(&self, line: &str) -> Answer<'_> {
        self.place.sh(&self.line(line))
    }

    /// The same call, not made yet.
    pub fn line(&self, line: &str) -> String {
        format!("ctr --namespace {} {line}", self.place.bed.name)
    }

    /// `ctr run` with the runtime under test: options, an ID, and a program.
    #[track_caller]
    pub fn run(&self, options: &str, id_and_program: &str) -> Answer<'_> {
        self.ctr(&self.run_line(options, id_and_program))
    }

    /// The words of such a call.
    pub fn run_line(&self, options: &str, id_and_program: &str) -> String {
        let runtime = runtime().program.display();
        let image = "127.0.0.1:5000/library/alpine:latest";
        format!("run --runc-binary {runtime} {options} {image} {id_and_program}")
    }
}
