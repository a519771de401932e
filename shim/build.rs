//! Has the linker put the functions of the runtime's everyday commands side by side, as in the
//! command itself: it is executed for each container.

use std::env;
use std::path::Path;

/// Where `make text-order` writes the order.
const ORDER: &str = "../text-order.ld";

fn main() {
    println!("cargo::rerun-if-changed={ORDER}");
    let directory = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let order = Path::new(&directory).join(ORDER);
    // The names in it are those of the release build, which is for musl.
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl") {
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", order.display());
    }
}
