//! The command `ferrun`.

#![cfg_attr(not(test), no_main)]

#[cfg(not(test))]
use std::{
    ffi::{c_char, c_int},
    process::exit,
};

#[cfg(not(test))]
use ferrun::{
    command_line,
    sys::{arguments::Arguments, process::OneThread},
};

use ferrun::sys::arena::Arena;

#[global_allocator]
static ARENA: Arena = Arena::new();

/// Where the C library begins. Rust's own beginning would come before: it makes ready for
/// stack overflows with ten system calls and two mappings, and this program starts twice.
#[cfg(not(test))]
#[allow(unsafe_code)]
// SAFETY: this is the one `main` of the program, of the type that the C library calls.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, arguments: *const *const c_char) -> c_int {
    // SAFETY: what C promises of `main`'s arguments; nothing here changes them.
    let arguments = unsafe { Arguments::new(arguments) };
    // SAFETY: this is the beginning, and nothing below starts a thread before it has cloned.
    let alone = unsafe { OneThread::promise() };
    exit(command_line::main(arguments, alone, option_env!("FERRUN_COMMIT")))
}
