//! A daemon for each test, shim and release, which leaves nothing of its containers.

use std::ops::Deref;

use engines::containerd::{Containerd, Release};
use engines::pod::Pod;
use engines::shim::Shim;
use engines::{Answer, in_place};
use serde_json::{Value, json};

/// A daemon with a shim.
pub struct Daemon<'place> {
    containerd: Containerd<'place>,
    pub shim: Shim,
}

impl<'place> Deref for Daemon<'place> {
    type Target = Containerd<'place>;

    fn deref(&self) -> &Self::Target {
        &self.containerd
    }
}

impl<'place> Daemon<'place> {
    /// `ctr run` by the shim: options, an ID, and a program.
    #[track_caller]
    pub fn run(&self, options: &str, id_and_program: &str) -> Answer<'_> {
        self.ctr(&self.run_line(options, id_and_program))
    }

    pub fn run_line(&self, options: &str, id_and_program: &str) -> String {
        self.run_line_by(self.shim, options, id_and_program)
    }

    /// A program in a container that runs.
    #[track_caller]
    pub fn exec(&self, id: &str, line: &str) -> Answer<'_> {
        self.ctr(&format!("task exec --exec-id e{} {id} {line}", self.place.bed.next()))
    }

    /// A program that sleeps beside the first one of a container, by an ID.
    #[track_caller]
    pub fn exec_beside(&self, id: &str, exec_id: &str) -> Answer<'_> {
        // `ctr` leaves the fifos of what it does not wait for.
        let fifos = self.place.bed.directory.join("fifos");
        let options = format!("--detach --fifo-dir {} --exec-id {exec_id}", fifos.display());
        self.ctr(&format!("task exec {options} {id} sleep 1000"))
    }

    /// The status of a task, as `ctr` lists it; empty where there is none.
    #[track_caller]
    pub fn status(&self, id: &str) -> String {
        let output = self.ctr("task ls").output;
        let mut lines = output.success().lines().map(str::split_whitespace);
        let line = lines.find_map(|mut words| (words.next() == Some(id)).then_some(words));
        line.and_then(Iterator::last).unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub fn becomes(&self, id: &str, status: &str) {
        let what = format!("{id} is {status:?}");
        self.place.eventually(&what, || self.status(id) == status);
    }

    /// Forgets a container that has ended with this code.
    #[track_caller]
    pub fn remove_ended(&self, id: &str, code: i32) {
        let output = self.ctr(&format!("task rm {id}")).output;
        let told = output.stderr.contains(&format!("exit with non-zero exit code {code}"));
        self.place.claim(&format!("{id} has ended with {code}: {output}"), told);
        self.ctr(&format!("container rm {id}")).succeeds();
    }

    /// Ends a container and forgets it.
    #[track_caller]
    pub fn remove(&self, id: &str) {
        // Its code is that of the task.
        let _ = self.ctr(&format!("task rm --force {id}")).output;
        self.becomes(id, "");
        self.ctr(&format!("container rm {id}")).succeeds();
    }

    #[track_caller]
    pub fn pod(&self, name: &str, more: &Value) -> Pod<'_> {
        Pod::by(self, self.shim.handler(), name, more)
    }
}

/// Runs a test with each release and each shim that is tested.
#[track_caller]
pub fn with_shims(test: impl Fn(&Daemon<'_>) + Sync) {
    with_each(false, &test);
}

/// The same with a test of pods.
#[track_caller]
pub fn with_pods(test: impl Fn(&Daemon<'_>) + Sync) {
    with_each(true, &test);
}

#[track_caller]
fn with_each(has_pods: bool, test: &(impl Fn(&Daemon<'_>) + Sync)) {
    for shim in Shim::tested() {
        for release in [Release::Debian, Release::Current] {
            // A type by its path is the same to all releases for `ctr`, and for pods 1.6 calls
            // runc's shim all the same.
            if shim != Shim::ByPath || release == Release::Current {
                with_daemon(release, shim, has_pods, test);
            }
        }
    }
}

#[track_caller]
pub fn with_daemon(
    release: Release,
    shim: Shim,
    has_pods: bool,
    test: &(impl Fn(&Daemon<'_>) + Sync),
) {
    in_place(release.programs(), |place| {
        if !release.is_built(place, has_pods) {
            return;
        }
        eprintln!("{}: {release:?}, {shim:?}", place.bed.test);
        let handlers = if shim.is_ours() { Shim::handlers(release) } else { String::new() };
        if shim.is_ours() {
            // Before: it is asked what it can do as containerd starts.
            Containerd { place, release }.take(&Shim::program());
        }
        let containerd = Containerd::start(place, release, &handlers);
        let daemon = Daemon { containerd, shim };
        // The first one leaves directories that all later ones share.
        daemon.run("--rm", "first-of-shim true").output.success();
        if has_pods {
            daemon.prepare_pods();
            let first = daemon.pod("first-pod", &json!({}));
            first.start("first", &["true"], &json!({}));
            let ours = |line: &str| line.contains("containerd-shim-ferrun");
            let asked_for = daemon.shims().iter().all(|(_, line)| ours(line) == shim.is_ours());
            place.claim("its shim is the one that is tested", asked_for);
            first.remove();
        }
        let before = place.inventory();
        test(&daemon);
        if !shim.is_ours() {
            // The socket of one that was killed stays.
            place.sh("find /run/containerd/s -type s -delete").output.success();
        }
        place.claim_nothing_since(&before);
    });
}
