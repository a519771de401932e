//! Podman and Buildah, which have no daemon: a configuration in /etc, and who they run as.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use integration::runtime;

use crate::{Place, runtime_name};

/// What a test of Podman needs to be installed.
pub const PROGRAMS: [&str; 3] = ["podman", "conmon", "iptables"];

/// The ordinary user's id, of whom no machine knows.
const USER: u32 = 23_456;

/// Writes the configuration of `docs/engines.md`, with the registry of the place as the
/// whole of Docker Hub.
pub fn configure(place: &Place<'_>) {
    configure_with(place, &runtime().for_others(&place.bed.directory));
}

/// Writes it with `program` as the runtime. Podman judges by the machine's first process whether
/// there is a systemd, and a place has none.
pub fn configure_with(place: &Place<'_>, program: &Path) {
    let name = runtime_name();
    place.write(
        "/etc/containers/containers.conf",
        &format!(
            "[engine]\nruntime = {name:?}\ncgroup_manager = \"cgroupfs\"\n\
             runtime_supports_json = [{name:?}]\nevents_logger = \"file\"\n\
             [engine.runtimes]\n{name} = [{program:?}]\n\
             [containers]\nlog_driver = \"k8s-file\"\n\
             # Podman's own ones may be more than this machine lets root have.\n\
             default_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n"
        ),
    );
    place.write(
        "/etc/containers/registries.conf",
        "unqualified-search-registries = [\"docker.io\"]\n\
         [[registry]]\nprefix = \"docker.io\"\nlocation = \"127.0.0.1:5000\"\ninsecure = true\n",
    );
    let _ = fs::remove_dir_all("/etc/containers/registries.conf.d");
}

/// Makes an ordinary user who has subordinate ids.
pub fn user<'bed>(place: &Place<'bed>) -> Place<'bed> {
    let home = place.bed.make_directory("user", 0o700);
    let runtime_directory = format!("/run/user/{USER}");
    fs::create_dir_all(&runtime_directory).expect("the user's /run");
    for directory in [&home, Path::new(&runtime_directory)] {
        chown(directory, Some(USER), Some(USER)).expect("chown");
    }
    let line = format!("tester:x:{USER}:{USER}::{}:/bin/sh", home.display());
    place.sh(&format!("echo {line} >> /etc/passwd")).output.success();
    place.sh(&format!("echo tester:x:{USER}: >> /etc/group")).output.success();
    for file in ["/etc/subuid", "/etc/subgid"] {
        place.write(file, "tester:300000:65536\n");
    }
    place.as_user(USER)
}
