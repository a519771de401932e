//! containerd-shim-ferrun-v2: containerd's shim, with the runtime inside. Executed by the name
//! `ferrun` it is the command of that name, which it executes itself to make containers.

#![cfg_attr(not(test), no_main)]

use std::ffi::{c_char, c_int};
use std::process::exit;

use ferrun::command_line;
use ferrun::sys::{arena::Arena, arguments::Arguments, process::OneThread};
use shim::program;

/// A command gives nothing back; the program that stays must.
#[global_allocator]
static ARENA: Arena = Arena::new();

/// The commit of the sources, where the build was told (`make` does).
const COMMIT: Option<&str> = option_env!("FERRUN_COMMIT");

/// Where the C library begins, as in `ferrun`.
#[allow(unsafe_code)]
// SAFETY: this is the one `main` of the program, of the type that the C library calls.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, arguments: *const *const c_char) -> c_int {
    // Before anything is asked of it.
    ARENA.close();
    // SAFETY: what C promises of `main`'s arguments; nothing here changes them.
    let arguments = unsafe { Arguments::new(arguments) };
    if program::is_command(arguments) {
        ARENA.open();
        // SAFETY: this is the beginning, and nothing below starts a thread before it has cloned.
        let alone = unsafe { OneThread::promise() };
        exit(command_line::main(arguments, alone, COMMIT));
    }
    exit(program::main(arguments, COMMIT.unwrap_or("unknown")))
}
