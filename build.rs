//! Has the linker put the functions of everyday commands side by side: in the command, and in
//! containerd's shim, which is executed as the command for each container.

use std::env;
use std::path::Path;

/// Where `make text-order` writes the order, at the top of the workspace.
const ORDER: &str = "text-order.ld";

fn main() {
    let directory = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let mut places = Path::new(&directory).ancestors().map(|above| above.join(ORDER));
    let Some(order) = places.find(|place| place.exists()) else { return };
    println!("cargo::rerun-if-changed={}", order.display());
    // The names in it are those of the release build, which is for musl.
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl") {
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", order.display());
    }
}
