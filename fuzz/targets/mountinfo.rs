//! The kernel's table of mounts, whose paths are whoever's who mounted there.

#![no_main]

use ferrun::apply::mountinfo::{is_below, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(table) = parse(bytes) else { return };
    // Mounts that are above each other in a circle must not be followed for ever.
    for mount in &table {
        for top in table.iter().take(16) {
            _ = is_below(&table, mount, top.id);
        }
    }
});
