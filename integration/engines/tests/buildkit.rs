//! BuildKit's own daemon, with the runtime as what its builds run on.

use std::fs;
use std::path::PathBuf;

use engines::{Answer, Place, in_place};
use integration::runtime;

const PROGRAMS: [&str; 3] = ["buildkitd", "buildctl", "openssl"];
const ALPINE: &str = "FROM 127.0.0.1:5000/library/alpine AS first";

/// A daemon at work.
struct BuildKit<'place> {
    place: &'place Place<'place>,
}

/// Runs a test with a daemon, configured as `docs/engines.md` says, and leaves nothing of
/// its builds.
fn with_buildkit(test: impl Fn(&BuildKit<'_>) + Sync) {
    in_place(&PROGRAMS, |place| {
        let config = format!(
            "insecure-entitlements = ['security.insecure', 'network.host']\n\
             [worker.oci]\n\
             enabled = true\n\
             binary = '{}'\n\
             snapshotter = 'overlayfs'\n\
             defaultCgroupParent = '{}'\n\
             [worker.containerd]\n\
             enabled = false\n\
             [registry.'127.0.0.1:5000']\n\
             http = true\n",
            runtime().program.display(),
            place.bed.name
        );
        place.write("/etc/buildkit/buildkitd.toml", &config);
        place.start("buildkitd", "buildkitd");
        place.eventually("buildkitd answers", || {
            place.sh("buildctl debug workers").output.code == 0
        });
        let buildkit = BuildKit { place };
        // The first one leaves directories that all later ones share.
        buildkit.build("RUN true", "").output.success();
        let before = place.inventory();
        test(&buildkit);
        place.claim_nothing_since(&before);
        // Only if it is empty: of the groups that steps had, BuildKit's own is left.
        let hierarchies = place.bed.by_version("*/", "");
        place
            .sh(&format!("rmdir /sys/fs/cgroup/{hierarchies}{}/buildkit", place.bed.name))
            .succeeds();
    });
}

impl BuildKit<'_> {
    /// Builds an image of Alpine and these lines, and unpacks it.
    #[track_caller]
    fn build(&self, lines: &str, options: &str) -> Answer<'_> {
        let context = self.context();
        self.place
            .write(&format!("{}/Dockerfile", context.display()), &format!("{ALPINE}\n{lines}\n"));
        let built = self.built();
        let _ = fs::remove_dir_all(&built);
        self.place.sh(&format!(
            "buildctl build --progress plain --frontend dockerfile.v0 {options} \
             --local context={context} --local dockerfile={context} --output type=local,dest={built}",
            context = context.display(),
            built = built.display(),
        ))
    }

    fn context(&self) -> PathBuf {
        self.place.bed.directory.join("home/context")
    }

    fn built(&self) -> PathBuf {
        self.place.bed.directory.join("home/built")
    }

    /// A file of the image that was built last holds this.
    #[track_caller]
    fn holds(&self, file: &str, text: &str) {
        let found = fs::read_to_string(self.built().join(file)).unwrap_or_default();
        self.place.claim(&format!("{file} holds {text:?}, not {found:?}"), found == text);
    }
}

#[test]
fn a_dockerfile_is_built() {
    with_buildkit(|buildkit| {
        buildkit.place.write(&format!("{}/file", buildkit.context().display()), "of the context\n");
        let lines = "ARG WORD=none\nENV WORD=$WORD\nCOPY file /file\n\
                     RUN echo by $(id -un) of $WORD > /built && cat /file >> /built\n\
                     WORKDIR /work\nUSER nobody\nRUN (id -un; pwd) > /tmp/user";
        buildkit.build(lines, "--opt build-arg:WORD=given").succeeds();
        buildkit.holds("built", "by root of given\nof the context\n");
        buildkit.holds("tmp/user", "nobody\n/work\n");

        buildkit.build("RUN exit 3", "").fails(1, "exit code: 3");
        buildkit.build("RUN [\"/no/such/program\"]", "").fails(1, "no such file or directory");
        buildkit.build("RUN --network=none ls /sys/class/net > /networks", "").succeeds();
        buildkit.holds("networks", "lo\n");
        buildkit
            .build("RUN grep -E '^(CapEff|Seccomp):' /proc/self/status > /status", "")
            .succeeds();
        buildkit.holds("status", "CapEff:\t00000000a80425fb\nSeccomp:\t2\n");
    });
}

#[test]
fn what_is_mounted_for_a_step_is_not_in_the_image() {
    with_buildkit(|buildkit| {
        let home = buildkit.place.bed.directory.join("home");
        buildkit.place.write(&format!("{}/secret", home.display()), "the secret");
        let lines = "RUN --mount=type=secret,id=token sha256sum < /run/secrets/token > /sum";
        let options = format!("--secret id=token,src={}/secret", home.display());
        buildkit.build(lines, &options).succeeds();
        let sum = buildkit.place.sh("sha256sum < secret").output.stdout;
        buildkit.holds("sum", &sum);
        let place = buildkit.place;
        place
            .claim("the secret is not in it", !buildkit.built().join("run/secrets/token").exists());

        place.sh("openssl genrsa -traditional -out key 2048").succeeds();
        let lines = "RUN --mount=type=ssh test -S \"$SSH_AUTH_SOCK\" && echo a socket > /agent";
        buildkit.build(lines, &format!("--ssh default={}/key", home.display())).succeeds();
        buildkit.holds("agent", "a socket\n");

        let lines = "RUN --mount=type=tmpfs,target=/scratch grep -c ' /scratch tmpfs' /proc/mounts > /count";
        buildkit.build(lines, "").succeeds();
        buildkit.holds("count", "1\n");

        let lines = |number: u32| {
            format!(
                "RUN --mount=type=cache,target=/kept echo {number} >> /kept/file && cp /kept/file /copy"
            )
        };
        buildkit.build(&lines(1), "").succeeds();
        buildkit.build(&lines(2), "").succeeds();
        buildkit.holds("copy", "1\n2\n");

        let lines = "RUN echo made > /made\n\
                     FROM 127.0.0.1:5000/library/alpine\n\
                     RUN --mount=type=bind,from=first,source=/made,target=/bound cp /bound /copy";
        buildkit.build(lines, "").succeeds();
        buildkit.holds("copy", "made\n");
    });
}

#[test]
fn a_step_that_may_do_all() {
    with_buildkit(|buildkit| {
        let lines = "RUN --security=insecure mount -t tmpfs none /mnt && \
                     grep Seccomp: /proc/self/status > /status";
        buildkit.build(lines, "").fails(1, "security.insecure is not allowed");
        let runc = "runc fails where it may not grant a capability: unable to apply caps";
        if buildkit.place.lacks_capabilities() && buildkit.place.bed.is_peer(runc) {
            return;
        }
        buildkit.build(lines, "--allow security.insecure").succeeds();
        buildkit.holds("status", "Seccomp:\t0\n");
        let lines = "RUN --network=host ls /sys/class/net > /networks";
        buildkit.build(lines, "--allow network.host").succeeds();
        buildkit.place.sh("ip link add one type veth peer name two").succeeds();
        buildkit.build(&format!("{lines} "), "--allow network.host --no-cache").succeeds();
        buildkit.holds("networks", "lo\none\ntwo\n");
    });
}
