//! The kernel takes the programs and does what they say.

#![cfg(test)]
#![cfg(target_arch = "x86_64")]

#[path = "load/mod.rs"]
mod load;

use std::io;

use ferrun_seccomp::{Arch, compile};
use libc::{ENOSYS, EPERM};

/// Makes a call whose arguments are numbers only, or null pointers; 0 or the errno.
#[allow(unsafe_code)]
fn call(number: i64, arguments: [i64; 3]) -> i32 {
    let [a, b, c] = arguments;
    // SAFETY: the tests below make only calls that touch no memory of ours.
    match unsafe { libc::syscall(number, a, b, c) } {
        -1 => io::Error::last_os_error().raw_os_error().unwrap(),
        _ => 0,
    }
}

#[test]
fn under_dockers_profile_calls_end_as_it_says() {
    let profile = serde_json::from_str(include_str!("data/docker-29.json")).unwrap();
    let filter = compile(&profile, Arch::native()).unwrap();
    // A filter is a thread's own, so this thread can go under it and end.
    let results = std::thread::spawn(move || {
        load::load(&filter.instructions).unwrap();
        [
            ("getpid", call(libc::SYS_getpid, [0; 3])),
            ("keyctl", call(libc::SYS_keyctl, [0; 3])),
            ("clone3", call(libc::SYS_clone3, [0; 3])),
            ("newer than the profile", call(600, [0; 3])),
            ("personality of today", call(libc::SYS_personality, [0xffff_ffff, 0, 0])),
            ("personality SVr4", call(libc::SYS_personality, [1, 0, 0])),
            ("an unknown socket family", call(libc::SYS_socket, [39, 1, 0])),
            ("a VSOCK socket", call(libc::SYS_socket, [40, 1, 0])),
            ("a VSOCK socket, in the upper half too", call(libc::SYS_socket, [1 << 32 | 40, 1, 0])),
        ]
    });
    let results = results.join().unwrap();
    let unfiltered = call(libc::SYS_socket, [39, 1, 0]);
    assert_ne!(unfiltered, EPERM);
    let expected = [0, EPERM, ENOSYS, ENOSYS, 0, EPERM, unfiltered, EPERM];
    for ((what, result), expected) in results.into_iter().zip(expected) {
        assert_eq!(result, expected, "{what}");
    }
    // The kernel cuts the family to 32 bits, the filter does not, and 2^32 + 40
    // is greater than 40. That is how the profile reads and libseccomp compiles it.
    assert_ne!(results[8].1, EPERM);
}

#[test]
fn a_program_with_distant_jumps_is_taken() {
    let rule = |value: u64| {
        serde_json::json!({"names": ["ioperm"], "action": "SCMP_ACT_ERRNO", "errnoRet": value % 7 + 1,
            "args": [{"index": 0, "op": "SCMP_CMP_GT", "value": value << 33}]})
    };
    let rules: Vec<_> = (0..450).map(rule).collect();
    let json = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules});
    let filter = compile(&serde_json::from_value(json).unwrap(), Arch::native()).unwrap();
    assert!(filter.instructions.len() > 2000);
    std::thread::spawn(move || load::load(&filter.instructions)).join().unwrap().unwrap();
}
