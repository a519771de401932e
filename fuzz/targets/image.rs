//! Manifests, indexes and configurations of images, and the bundle that they become.

#![no_main]
#![allow(dead_code)]

#[path = "../../image-tool/src/convert.rs"]
mod convert;
#[path = "../../image-tool/src/digest.rs"]
mod digest;
#[path = "../../image-tool/src/json.rs"]
mod json;
#[path = "../../image-tool/src/limits.rs"]
mod limits;
#[path = "../../image-tool/src/manifest.rs"]
mod manifest;
#[path = "../../image-tool/src/platform.rs"]
mod platform;
#[path = "../../image-tool/src/reference.rs"]
mod reference;
#[path = "../../image-tool/src/seccomp.rs"]
mod seccomp;
#[path = "../../image-tool/src/users.rs"]
mod users;

use ferrun_fuzz::change_json;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use manifest::{Content, ImageConfig};
use platform::Platform;

fuzz_target!(|bytes: &[u8]| {
    let host = Platform::host();
    if let Ok(Content::Index(index)) = manifest::parse(bytes, None) {
        _ = manifest::choose(&index, &host);
        _ = manifest::platforms(&index);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        _ = text.parse::<reference::Reference>();
        _ = text.parse::<Platform>();
        _ = text.parse::<digest::Digest>();
    }
    for layers in 0..3 {
        if let Ok(image) = ImageConfig::parse(bytes, layers, &host) {
            convert(&image);
        }
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    change_json(data, size, max_size, seed)
});

/// What comes out is for the runtime to read, and as far as it is ours it is right.
fn convert(image: &ImageConfig) {
    let user = users::find(&image.config.user, users::Database::default()).unwrap_or_default();
    let facts = convert::Facts {
        rootless: None,
        cgroup_v2: true,
        terminal: false,
        capabilities: convert::Capabilities::Docker,
        command: &[],
        seccomp: None,
        machine: seccomp::Machine { architecture: "amd64", kernel: seccomp::Kernel(6, 1) },
    };
    let text = convert::convert(image, &user, facts).config.to_string();
    if let Err(error) = ferrun::bundle::parse_spec(&text) {
        let error = ferrun::error::message(&error);
        // What an image says of itself may hold what no configuration can.
        assert!(error.contains("NUL") || error.contains("annotations: an empty key"), "{error}");
    }
}
