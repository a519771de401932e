//! What the C library starts a program with.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;

use nix::errno::Errno;

/// The arguments of `main`.
#[derive(Debug, Clone, Copy)]
pub struct Arguments(*const *const libc::c_char);

impl Arguments {
    /// Takes `main`'s second parameter.
    ///
    /// # Safety
    /// It points to pointers to C strings, the last of them null, and all of it stays as
    /// it is until the process ends.
    pub const unsafe fn new(pointers: *const *const libc::c_char) -> Self {
        Self(pointers)
    }

    /// Each of them, the program's name first.
    pub fn iter(self) -> impl Iterator<Item = &'static OsStr> {
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
        unsafe extern "C" {
            static environ: *const *const libc::c_char;
        }
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
