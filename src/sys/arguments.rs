//! What the C library starts a program with.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use nix::errno::Errno;

use super::process::OneThread;

/// A list of C strings that ends with a null.
type Strings = *const *const libc::c_char;

unsafe extern "C" {
    static environ: Strings;
}

/// The arguments of `main`, for [`forget`].
static ARGUMENTS: AtomicPtr<*const libc::c_char> = AtomicPtr::new(null_mut());

/// Overwrites the command line and the environment that this program was started with, where
/// /proc/PID/cmdline and /proc/PID/environ show them: what is left is the name `init`. Only
/// for a copy of its parent that never returns to the code that borrowed from them, and reads
/// neither any more.
pub fn forget(_alone: OneThread) {
    let mut name: &[u8] = b"init";
    // SAFETY: the C library's own list, which no other thread changes: there is none.
    let environment = unsafe { environ };
    for mut next in [ARGUMENTS.load(Relaxed).cast_const(), environment] {
        // SAFETY: `next` is null, or does not go beyond the null that ends the pointers.
        while !next.is_null() && !unsafe { *next }.is_null() {
            // SAFETY: each points to a C string, on the stack where execve(2) put it or on the
            // heap, that may be written to and is not borrowed (see above). The slice ends
            // before its null.
            let text = unsafe {
                let text = (*next).cast_mut().cast::<u8>();
                std::slice::from_raw_parts_mut(text, libc::strlen(*next))
            };
            text.fill(0);
            text.iter_mut().zip(std::mem::take(&mut name)).for_each(|(byte, new)| *byte = *new);
            // SAFETY: that was not the last one.
            next = unsafe { next.add(1) };
        }
        name = b"";
    }
}

/// The arguments of `main`.
#[derive(Debug, Clone, Copy)]
pub struct Arguments(Strings);

impl Arguments {
    /// Takes `main`'s second parameter.
    ///
    /// # Safety
    /// It points to pointers to C strings, the last of them null, and all of it stays as
    /// it is until the process ends.
    pub const unsafe fn new(pointers: Strings) -> Self {
        Self(pointers)
    }

    /// Lets [`forget`] find them.
    pub fn remember(self) {
        ARGUMENTS.store(self.0.cast_mut(), Relaxed);
    }

    /// Each of them, the program's name first.
    pub fn iter(self) -> impl Iterator<Item = &'static OsStr> + Clone {
        let mut next = self.0;
        std::iter::from_fn(move || {
            // SAFETY: `next` does not go beyond the null that ends the pointers, which are
            // there for as long as the process (see `new`).
            let pointer = unsafe { *next };
            if pointer.is_null() {
                return None;
            }
            // SAFETY: that was not the last one.
            next = unsafe { next.add(1) };
            // SAFETY: each is a C string that stays as it is (see `new`).
            Some(OsStr::from_bytes(unsafe { CStr::from_ptr(pointer) }.to_bytes()))
        })
    }

    /// Runs the program that `file` is open on in the place of this one, with the same
    /// arguments and environment (execveat(2)).
    pub fn execute(self, file: impl AsFd) -> Errno {
        // SAFETY: the path is a literal, and both lists end with a null: one by the promise
        // of `new`, the other one is the C library's, which no thread changes meanwhile,
        // because there is one thread.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                file.as_fd().as_raw_fd(),
                c"".as_ptr(),
                self.0,
                environ,
                libc::AT_EMPTY_PATH,
            )
        };
        Errno::last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_end_with_the_null() {
        static TEXTS: [&CStr; 2] = [c"ferrun", c"caf\xe9"];
        let pointers = [TEXTS[0].as_ptr(), TEXTS[1].as_ptr(), std::ptr::null()];
        // SAFETY: they end with a null and outlive what is made of them here.
        let arguments = unsafe { Arguments::new(pointers.as_ptr()) };
        let expected = TEXTS.map(|text| OsStr::from_bytes(text.to_bytes()));
        assert_eq!(arguments.iter().collect::<Vec<_>>(), expected);
    }
}
