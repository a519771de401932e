//! Any text of a seccomp profile: what a bundle has, and what image-tool makes one of.

#![no_main]
#![allow(dead_code)]

#[path = "../../image-tool/src/json.rs"]
mod json;
#[path = "../../image-tool/src/seccomp.rs"]
mod seccomp;

use ferrun_fuzz::change_json;
use ferrun_seccomp::{Arch, MAX_INSTRUCTIONS, compile};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use oci_spec::runtime::LinuxSeccomp;
use seccomp::{Kernel, Machine, Profile};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(profile) = Profile::parse(text) {
        let machine = Machine { architecture: "amd64", kernel: Kernel(6, 1) };
        check(profile.filter(&["CAP_SYS_ADMIN"], machine).to_string().as_bytes());
    }
    check(bytes);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    change_json(data, size, max_size, seed)
});

fn check(bytes: &[u8]) {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(bytes) else { return };
    for native in [Arch::X86_64, Arch::Aarch64, Arch::S390x, Arch::Mips64n32] {
        if let Ok(filter) = compile(&profile, native) {
            assert!(filter.instructions.len() <= MAX_INSTRUCTIONS);
        }
    }
}
