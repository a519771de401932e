//! What a program has as stdin, stdout and stderr: whose the pipes and files are, and which null
//! device.

use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fchown, fstat, makedev, openat2, stat,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::sys;

/// Opens the container's own null device where stdin, stdout or stderr is the host's: that lies in
/// a mount which is not there inside, so no image could be made of the program. The container's
/// must be one; where it has none, the host's stays. Others may change its files meanwhile: no
/// link leads to a descriptor of ours, and what was opened is looked at again.
pub fn own_null() {
    const PATH: &str = "/dev/null";
    let is_null = |stat: Stat| {
        let kind = FileType::from_raw_mode(stat.st_mode);
        kind == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3)
    };
    let is_hosts = [0, 1, 2].map(|number| fstat(sys::borrow_descriptor(number)).is_ok_and(is_null));
    if is_hosts == [false; 3] || !stat(PATH).is_ok_and(is_null) {
        return;
    }
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let own = openat2(CWD, PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty(), resolve);
    let Ok(own) = own else { return };
    if !fstat(&own).is_ok_and(is_null) {
        return;
    }
    for (is_hosts, replace) in is_hosts.into_iter().zip([dup2_stdin, dup2_stdout, dup2_stderr]) {
        if is_hosts {
            let _ = replace(&own);
        }
    }
}

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
