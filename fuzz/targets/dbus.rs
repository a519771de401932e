//! What a bus or a systemd may say, and addresses as an environment may have them.

#![no_main]

use ferrun_dbus::{Message, addresses, length};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        _ = addresses(text);
    }
    if let Ok(Some(length)) = length(bytes)
        && let Some(bytes) = bytes.get(..length)
        && let Ok(message) = Message::decode(bytes)
    {
        _ = message.body();
    }
});
