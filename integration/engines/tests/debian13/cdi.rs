//! Devices by the Container Device Interface, as graphics cards come: engines put what a
//! description of the device says into the runtime's configuration, hooks among it.

use engines::debian13::{Machine, on_debian_13};

/// A device by another name, a variable, a file, and a hook.
const CARD: &str = r#"{
    "cdiVersion": "0.6.0", "kind": "ferrun.test/card",
    "devices": [{"name": "one", "containerEdits": {
        "env": ["CARD=one"],
        "deviceNodes": [{"path": "/dev/card", "hostPath": "/dev/zero"}],
        "mounts": [{"hostPath": "/etc/hostname", "containerPath": "/card/host", "options": ["ro", "bind"]}],
        "hooks": [{"hookName": "createContainer", "path": "/bin/sh", "args": ["sh", "-c", "cat > /run/hooked"]}]
    }}]
}"#;

/// What a container says of the card.
const LOOK: &str = "sh -c 'echo $CARD; cat /card/host; head -c 3 /dev/card | wc -c; echo x > /dev/card && echo written'";

fn is_given(debian: &Machine<'_>, engine: &str, refused: i32) {
    debian.sh(&format!("{engine} pull -q alpine")).succeeds();
    debian
        .sh(&format!("{engine} run --rm --device ferrun.test/card=one alpine {LOOK}"))
        .prints("one\ndebian13\n3\nwritten");
    debian.sh("jq '.id | length' /run/hooked && rm /run/hooked").prints("64");
    debian.sh(&format!("{engine} run --rm alpine ls /dev/card")).exits(1);
    debian
        .sh(&format!("{engine} run --rm --device ferrun.test/card=two alpine true"))
        .fails(refused, "unresolvable CDI devices");
}

#[test]
fn docker_and_podman_give_a_card() {
    on_debian_13(|debian| {
        debian.write("/etc/cdi/card.json", CARD);
        debian
            .sh("cd /etc/docker && jq '.features.cdi = true' daemon.json > new && \
                mv new daemon.json && systemctl restart docker")
            .succeeds();
        is_given(debian, "docker", 125);
        is_given(debian, "podman", 126);
    });
}
