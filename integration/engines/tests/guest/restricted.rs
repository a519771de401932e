//! A kernel on which a user namespace grants nothing to a program without a profile of AppArmor,
//! as Ubuntu's since 24.04 (`KERNEL=` of testbed/guest_systemd.py).

use engines::{Host, on_a_host};

const SETTING: &str = "kernel.apparmor_restrict_unprivileged_userns";
const PROFILE: &str = include_str!("../../../../packaging/apparmor/ferrun");
/// The copy that the profile is for.
const COPY: &str = "/usr/local/libexec/ferrun/ferrun";
const BUNDLE: &str = "
    mkdir -p ~/one/rootfs/bin && cd ~/one && cp /bin/busybox rootfs/bin/id && $RUNTIME spec --rootless &&
    jq '.process.terminal = false | .process.args = [\"/bin/id\", \"-u\"]' config.json > new && mv new config.json";

/// Loads Ubuntu's profile of such namespaces, which Debian has in a mode that refuses nothing.
fn load_the_usual(host: &Host<'_>) {
    let line = "sed 's/ flags=(complain)//' /etc/apparmor.d/unprivileged_userns | apparmor_parser --replace";
    host.sh(line).succeeds();
}

#[test]
fn a_profile_lets_an_ordinary_user_have_containers() {
    on_a_host(&["apparmor_parser", "podman"], |host| {
        if host.sh(&format!("sysctl {SETTING}")).output.code != 0 {
            return host.bed.skip(&format!("this kernel has no {SETTING}"));
        }
        if host.bed.is_peer("the message is ferrun's") {
            return;
        }
        let user = host.as_user();
        let run = "$RUNTIME run --bundle ~/one one";
        user.sh(BUNDLE).succeeds();
        user.sh(run).prints("0");
        host.sh(&format!("sysctl -w {SETTING}=1")).succeeds();
        load_the_usual(host);
        // It can be made, and its root can do nothing.
        user.sh(run).fails(1, &format!("ferrun itself runs under {SETTING} = 1"));
        host.sh("apparmor_parser --remove /etc/apparmor.d/unprivileged_userns").succeeds();
        // It cannot even be made.
        user.sh(run).fails(1, &format!("linux.namespaces: user: forbidden by {SETTING} = 1"));
        load_the_usual(host);
        host.write("/etc/apparmor.d/ferrun", PROFILE);
        host.sh("apparmor_parser --replace /etc/apparmor.d/ferrun").succeeds();
        host.sh(&format!("install -D $RUNTIME {COPY}")).succeeds();
        user.sh(&run.replace("$RUNTIME", COPY)).prints("0");
        host.sh("apparmor_parser --remove /etc/apparmor.d/ferrun").succeeds();
        // Who makes the namespace itself needs one, as Ubuntu has for Podman.
        host.write(
            "/etc/apparmor.d/podman",
            &PROFILE.replace(COPY, "/usr/bin/podman").replace("ferrun-rootless", "podman"),
        );
        host.sh("apparmor_parser --replace /etc/apparmor.d/podman").succeeds();
        host.write("/etc/containers/containers.conf", crate::podman::CONFIG);
        user.sh("podman import --quiet /var/tmp/image.tar small").succeeds();
        user.sh("podman run --rm --network none small echo hello").prints("hello");
        host.sh("apparmor_parser --remove /etc/apparmor.d/podman").succeeds();
        host.sh(&format!("sysctl -w {SETTING}=0")).succeeds();
    });
}
