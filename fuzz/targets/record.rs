//! What stands where the record of a container is looked for.

#![no_main]

use ferrun::store::record::{FoundRecord, parse};
use ferrun_fuzz::change_json;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(FoundRecord::Own(record)) = parse(bytes) {
        // What is written is what is read again.
        let text = serde_json::to_vec(&record).expect("a record can be written");
        match parse(&text) {
            Ok(FoundRecord::Own(again)) => assert_eq!(again, record),
            other => panic!("{other:?}"),
        }
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    change_json(data, size, max_size, seed)
});
