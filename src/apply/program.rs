//! Finding the program, as the user that it runs as and in the container's files, which are
//! hostile.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use nix::errno::Errno;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, accessat, fstat, open, statat};

use crate::error::{InField as _, errno_words};
use crate::plan::process::ProcessPlan;

/// Where programs are looked for without a PATH, as execvp(3) does.
pub const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// Finds the program as execvp(3) does. The texts are those that engines turn
/// into exit codes 126 and 127.
pub fn find_program(plan: &ProcessPlan) -> Result<CString> {
    look_up(plan).in_field(plan.field.of("args[0]"))
}

fn look_up(plan: &ProcessPlan) -> Result<CString> {
    let Some(name) = plan.args.first() else { bail!("args must not be empty") };
    let shown = name.to_string_lossy();
    let as_path = |bytes: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
    if name.as_bytes().contains(&b'/') {
        return match check_program(&as_path(name.as_bytes())) {
            Ok(()) => Ok(name.clone()),
            Err(Refusal::Missing(errno)) => {
                bail!(
                    "exec: {shown:?}: stat {shown}: {}",
                    errno_text(Errno::from_raw(errno.raw_os_error()))
                )
            }
            Err(Refusal::Directory) => bail!("exec: {shown:?}: is a directory"),
            Err(Refusal::Permission) => bail!("exec: {shown:?}: permission denied"),
        };
    }
    let mut refused = false;
    let path = plan.variable("PATH").unwrap_or(DEFAULT_PATH);
    for directory in path.split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let candidate = [directory, b"/", name.as_bytes()].concat();
        match check_program(&as_path(&candidate)) {
            Ok(()) => return Ok(CString::new(candidate)?),
            Err(Refusal::Permission) => refused = true,
            Err(_) => {}
        }
    }
    if refused && !name.is_empty() {
        bail!("exec: {shown:?}: permission denied");
    }
    bail!("exec: {shown:?}: executable file not found in $PATH")
}

/// Why a file cannot be the program.
enum Refusal {
    Missing(rustix::io::Errno),
    Directory,
    Permission,
}

fn check_program(path: &Path) -> std::result::Result<(), Refusal> {
    let stat = statat(CWD, path, AtFlags::empty()).map_err(|errno| match errno {
        rustix::io::Errno::ACCESS => Refusal::Permission,
        errno => Refusal::Missing(errno),
    })?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Refusal::Directory);
    }
    accessat(CWD, path, rustix::fs::Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|_| Refusal::Permission)
}

/// An errno in the words that engines look for, all lower case.
pub fn errno_text(errno: Errno) -> String {
    let text = errno_words(errno as i32);
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(chars).collect()
}

/// The home directory of a user by the container's /etc/passwd, which is hostile:
/// it may be a FIFO or endless.
pub fn home_directory(uid: u32) -> Vec<u8> {
    const LONGEST: u64 = 1 << 20;
    let read = || -> Option<Vec<u8>> {
        use std::io::Read as _;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = open("/etc/passwd", flags, Mode::empty()).ok()?;
        let stat = fstat(file.as_fd()).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut text = Vec::new();
        fs::File::from(file).take(LONGEST).read_to_end(&mut text).ok()?;
        text.split(|byte| *byte == b'\n').find_map(|line| {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
            let [_, _, id, _, _, home, ..] = fields.as_slice() else { return None };
            (*id == uid.to_string().as_bytes() && !home.is_empty()).then(|| home.to_vec())
        })
    };
    read().unwrap_or_else(|| b"/".to_vec())
}
