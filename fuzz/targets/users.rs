//! passwd and group of an image, and the user that it names.

#![no_main]

#[path = "../../image-tool/src/users.rs"]
mod users;

use libfuzzer_sys::fuzz_target;
use users::{Database, find};

fuzz_target!(|given: (&str, &[u8])| {
    let (user, files) = given;
    let half = files.iter().position(|byte| *byte == 0).unwrap_or(files.len());
    let (passwd, group) = files.split_at(half);
    if let Ok(found) = find(user, Database { passwd, group }) {
        assert!(found.additional_gids.len() <= group.len());
        assert!(![found.uid, found.gid].contains(&u32::MAX), "{found:?}");
    }
});
