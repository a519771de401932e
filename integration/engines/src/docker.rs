//! Docker's daemon, with the runtime as its default one.

use std::path::Path;

use integration::{Kind, runtime};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{Answer, Place, in_place, runtime_name};

/// What a test of Docker needs to be installed.
pub const PROGRAMS: [&str; 4] = ["dockerd", "docker", "containerd", "iptables"];

/// Runs a test with a daemon that has `more` in its configuration. It leaves nothing of
/// its containers.
pub fn with_docker(more: &Value, test: impl Fn(&Docker<'_>) + Sync) {
    in_place(&PROGRAMS, |place| {
        let docker = Docker::start(place, more);
        let before = place.inventory();
        test(&docker);
        docker.clear();
        place.claim_nothing_since(&before);
    });
}

/// A daemon at work.
#[derive(Debug)]
pub struct Docker<'place> {
    /// Where it runs.
    pub place: &'place Place<'place>,
}

impl<'place> Docker<'place> {
    /// Starts it with the configuration of `docs/engines.md`, the registry of the place as a
    /// mirror of Docker Hub, and `more` beside.
    #[track_caller]
    pub fn start(place: &'place Place<'place>, more: &Value) -> Self {
        Self::start_with(place, &runtime().program, more)
    }

    /// Starts it with `program` as the runtime.
    #[track_caller]
    pub fn start_with(place: &'place Place<'place>, program: &Path, more: &Value) -> Self {
        let name = runtime_name();
        let mut config = json!({
            "runtimes": {name: {"path": program}},
            "default-runtime": name,
            "cgroup-parent": format!("/{}", place.bed.name),
            "insecure-registries": ["127.0.0.1:5000"],
            "registry-mirrors": ["http://127.0.0.1:5000"],
        });
        if runtime().kind != Kind::Ferrun {
            // Newer daemons ask for one, and runc 1.1 does not know it.
            config["features"] = json!({"time-namespaces": false});
        }
        let more = more.as_object().into_iter().flatten();
        config
            .as_object_mut()
            .expect("an object")
            .extend(more.map(|(key, value)| (key.clone(), value.clone())));
        place.write("/etc/docker/daemon.json", &config.to_string());
        let docker = Self { place };
        docker.launch();
        // The first one leaves directories that all later ones share.
        docker.sh("docker run --rm hello-world && docker rmi hello-world").output.success();
        docker
    }

    #[track_caller]
    fn launch(&self) {
        self.place.start("dockerd", "dockerd");
        self.place
            .eventually("dockerd answers", || self.place.sh("docker version").output.code == 0);
    }

    /// Stops it and starts it again.
    #[track_caller]
    pub fn restart(&self, signal: Signal) {
        let file = "/run/docker/containerd/containerd.pid";
        let containerd = std::fs::read_to_string(file).expect("the pid of dockerd's containerd");
        self.place.stop("dockerd", signal);
        // Ended with it, but the machine's init may take a second to reap it, and a new dockerd
        // takes a zombie for a containerd at work.
        let process = Path::new("/proc").join(containerd.trim());
        integration::eventually("dockerd's containerd is reaped", || !process.exists());
        self.launch();
    }

    /// Types a line of shell.
    #[track_caller]
    pub fn sh(&self, line: &str) -> Answer<'_> {
        self.place.sh(line)
    }

    /// What `docker inspect` says of a container, by a Go template.
    #[track_caller]
    pub fn inspect(&self, container: &str, template: &str) -> String {
        let line = format!("docker inspect --format '{{{{{template}}}}}' {container}");
        self.sh(&line).output.success().to_owned()
    }

    /// Waits until `docker inspect` says this of a container.
    #[track_caller]
    pub fn becomes(&self, container: &str, template: &str, value: &str) {
        let what = format!("{template} of {container} is {value}");
        self.place.eventually(&what, || self.inspect(container, template) == value);
    }

    /// Removes all containers.
    #[track_caller]
    pub fn clear(&self) {
        self.sh("docker ps -aq | xargs -r docker rm --force --volumes").output.success();
    }
}
