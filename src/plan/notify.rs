//! What a program needs to tell a service manager that it is ready (sd_notify(3)): the mount
//! of a directory in which a socket will be, and the variable that names it.

use std::path::Path;

use oci_spec::runtime::Mount;

/// The variable that names the socket, to the runtime and to the program.
pub const VARIABLE: &str = "NOTIFY_SOCKET";
/// The directory of the socket in that of the container.
pub const DIRECTORY: &str = "notify";
/// The socket's name in it.
pub const NAME: &str = "notify.sock";
/// Where the directory is in the container, as under runc.
pub const INSIDE: &str = "/run/notify";

/// Shows the program the directory, which is there before the mount is made.
pub fn mount(directory: &Path) -> Mount {
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec();
    let mut mount = Mount::default();
    mount
        .set_destination(INSIDE.into())
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(directory.to_owned()))
        .set_options(Some(options));
    mount
}

/// The value of the variable.
pub fn value() -> String {
    format!("{INSIDE}/{NAME}")
}
