//! The command `ferrun`.

#![cfg_attr(not(test), no_main)]

#[cfg(not(test))]
use std::{
    ffi::{c_char, c_int},
    process::exit,
};

#[cfg(not(test))]
use ferrun::{command_line, sys::arguments::Arguments};

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
    exit(command_line::main(arguments, option_env!("FERRUN_COMMIT")))
}
