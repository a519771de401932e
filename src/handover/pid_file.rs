//! The file in which a caller finds a pid.
//!
//! Its directory may be somebody else's, who may have put anything there: what is there
//! already is replaced or removed by name, and never opened.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Writes a pid so that a reader finds the whole number or no file.
pub fn write(path: &Path, pid: i32) -> Result<()> {
    replace(path, pid).with_context(|| format!("--pid-file: {path:?}"))
}

fn replace(path: &Path, pid: i32) -> Result<()> {
    let name = path.file_name().context("no name of a file")?;
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    let directory = rustix::fs::open(
        above.unwrap_or(Path::new(".")),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    let mut file =
        File::from(create(&directory, &temporary).with_context(|| format!("{temporary:?}"))?);
    let written = file
        .write_all(pid.to_string().as_bytes())
        .and_then(|()| Ok(renameat(&directory, &temporary, &directory, name)?));
    if written.is_err() {
        let _ = unlinkat(&directory, &temporary, AtFlags::empty());
    }
    Ok(written?)
}

/// Makes a new file. One of a call that was killed goes first.
fn create(directory: &OwnedFd, name: &OsString) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let make = || openat(directory, name, flags, Mode::from_raw_mode(0o666));
    match make() {
        Err(Errno::EXIST) if unlinkat(directory, name, AtFlags::empty()).is_ok() => make(),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_there_is_replaced_and_what_it_leads_to_is_not_touched() {
        let place = std::env::temp_dir().join(format!("ferrun-pid-file-{}", std::process::id()));
        fs::create_dir(&place).unwrap();
        let (other, file) = (place.join("other"), place.join("pid"));
        for left in ["nothing", "a link", "a hard link", "a file"] {
            fs::write(&other, "theirs").unwrap();
            for name in [".pid", "pid"].map(|name| place.join(name)) {
                match left {
                    "a link" => symlink(&other, name).unwrap(),
                    "a hard link" => fs::hard_link(&other, name).unwrap(),
                    "a file" => fs::write(name, "left").unwrap(),
                    _ => {}
                }
            }
            write(&file, 42).unwrap();
            assert_eq!(fs::read_to_string(&other).unwrap(), "theirs", "{left}");
            assert_eq!(fs::read_to_string(&file).unwrap(), "42", "{left}");
            assert!(fs::symlink_metadata(&file).unwrap().is_file(), "{left}");
            assert!(!place.join(".pid").exists(), "{left}");
            fs::remove_file(&file).unwrap();
        }
        fs::create_dir(place.join(".pid")).unwrap();
        let error = format!("{:#}", write(&file, 42).unwrap_err());
        assert!(error.starts_with("--pid-file: ") && error.contains("File exists"), "{error}");
        assert!(write(Path::new("/"), 42).is_err());
        fs::remove_dir_all(place).unwrap();
    }
}
