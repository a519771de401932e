//! Whose the pipes and files are that a program has as stdin, stdout and stderr.

use rustix::fs::{FileType, fchown, fstat};

use crate::sys;

/// Lets the user of the program open its stdio again through /proc/self/fd. A device is the
/// host's, and stays as it is, but for the container's own terminal; so does what cannot be
/// given away, a file of a read-only file system say.
pub fn give_stdio(uid: u32, is_own_terminal: bool) {
    for number in 0..=2 {
        let descriptor = sys::borrow_descriptor(number);
        let Ok(stat) = fstat(descriptor) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        if stat.st_uid != uid && (is_own_terminal || !is_device) {
            let _ = fchown(descriptor, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    }
}

/// The same for a program in a new user namespace, from outside of it: inside, what belongs to
/// nobody there cannot be given away. `uid` is the caller's name for the user. A file with a
/// name of its own stays the caller's.
pub fn give_pipes(uid: u32) {
    for number in 0..=2 {
        let descriptor = sys::borrow_descriptor(number);
        let Ok(stat) = fstat(descriptor) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if stat.st_uid != uid && matches!(kind, FileType::Fifo | FileType::Socket) {
            let _ = fchown(descriptor, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    }
}
