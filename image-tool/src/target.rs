//! The bundle while it is made: a directory beside the target, which becomes
//! the target at the very end and of which nothing stays if the end is not reached.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, Stat, fstat, mkdirat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::text::printable;
use crate::tree;

/// A bundle that is not there yet.
///
/// The directory around it may be another user's, who can give its name to something else
/// at any time. So the work is found by its descriptor, and by name only to take it away.
pub struct Target {
    bundle: PathBuf,
    parent: File,
    work: OsString,
    directory: OwnedFd,
    kept: bool,
}

impl Target {
    /// Makes the directory to work in.
    ///
    /// # Errors
    /// `bundle` exists and is not an empty directory.
    pub fn new(bundle: &Path) -> Result<Self> {
        let shown = bundle.display();
        match fs::read_dir(bundle) {
            Ok(mut entries) => {
                ensure!(entries.next().is_none(), "{shown}: the bundle exists and is not empty")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{shown}: bundle")),
        }
        // The name may be a link to an empty directory: the bundle goes where it points.
        let bundle = bundle.canonicalize().unwrap_or_else(|_| bundle.to_owned());
        let Some(name) = bundle.file_name() else { bail!("{shown}: the bundle needs a name") };
        let above = match bundle.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let parent = File::open(above)
            .with_context(|| format!("{}: directory of the bundle", above.display()))?;
        let mut work = OsString::from(".");
        work.push(name);
        work.push(format!(".{}.partial", process::id()));
        // Nothing can be renamed onto a mount; better said before a long download.
        let mounted = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|own| fstat(&parent).is_ok_and(|above| own.st_dev != above.st_dev));
        ensure!(!mounted, "{shown}: the bundle is a mount point: name a directory inside");
        let directory = make(&parent, &work)
            .with_context(|| format!("{}: mkdir", above.join(&work).display()))?;
        let target = Self { bundle, parent, work, directory, kept: false };
        target.remove_on_signal()?;
        mkdirat(&target.directory, "rootfs", Mode::from_raw_mode(0o755))
            .context("rootfs: mkdir")?;
        Ok(target)
    }

    /// The directory for the layers.
    pub fn rootfs(&self) -> Result<OwnedFd> {
        openat(&self.directory, "rootfs", DIRECTORY, Mode::empty()).context("rootfs")
    }

    /// Writes config.json.
    pub fn write_config(&self, config: &serde_json::Value) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(config)?;
        text.push(b'\n');
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.directory, "config.json", flags, Mode::from_raw_mode(0o644))
            .context("config.json: create")?;
        File::from(file).write_all(&text).context("config.json: write")
    }

    /// Turns the work into the bundle; returns where that is.
    ///
    /// # Errors
    /// The bundle is not empty any more, or somebody has put something else in its place.
    pub fn keep(mut self) -> Result<PathBuf> {
        let shown = self.bundle.display();
        let name = self.bundle.file_name().with_context(|| format!("{shown}: no name"))?;
        let exchanged = || format!("{shown}: somebody has put something else in its place");
        ensure!(is_named(&self.parent, &self.work, &self.directory)?, exchanged());
        // Takes the place of an empty directory, and fails if it is not empty any more.
        renameat(&self.parent, &self.work, &self.parent, name)
            .with_context(|| format!("{shown}: rename"))?;
        ensure!(is_named(&self.parent, name, &self.directory)?, exchanged());
        self.kept = true;
        Ok(std::mem::take(&mut self.bundle))
    }

    /// Has SIGINT, SIGTERM and SIGHUP remove the work before they end the process.
    fn remove_on_signal(&self) -> Result<()> {
        let signals: SigSet =
            [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        // All later threads inherit the mask, so that the one below gets the signal.
        signals.thread_block().context("sigprocmask")?;
        let (parent, work) = (self.parent.try_clone()?, self.work.clone());
        let directory = self.directory.try_clone()?;
        let wait = move || {
            let Ok(signal) = signals.wait() else { return };
            // Extraction goes on meanwhile and may put things back, but not for long.
            for _ in 0..100 {
                if remove(&parent, &work, &directory).is_ok() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            let _ = writeln!(io::stderr().lock(), "image-tool: interrupted by {signal}");
            process::exit(128 + signal as i32);
        };
        thread::Builder::new().name("signals".to_owned()).spawn(wait).context("thread")?;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = remove(&self.parent, &self.work, &self.directory) {
            let place = self.bundle.with_file_name(&self.work);
            let _ = writeln!(
                io::stderr().lock(),
                "image-tool: {}: left behind: {error}",
                printable(&place.to_string_lossy())
            );
        }
    }
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Makes a directory and opens it, and not what somebody has put in its place meanwhile.
fn make(parent: &File, name: &OsStr) -> Result<OwnedFd> {
    // Closed to others: an image brings old set-user-id programs of its own.
    mkdirat(parent, name, Mode::RWXU)?;
    let made = openat(parent, name, DIRECTORY, Mode::empty()).map_err(anyhow::Error::from);
    let made = made.and_then(|made| {
        let Stat { st_uid, st_mode, .. } = fstat(&made)?;
        let own = rustix::process::geteuid().as_raw();
        let is_ours = st_uid == own && st_mode & 0o777 == 0o700 && is_empty(&made)?;
        ensure!(is_ours, "somebody has put another directory in its place");
        Ok(made)
    });
    if made.is_err() {
        let _ = unlinkat(parent, name, AtFlags::REMOVEDIR);
    }
    made
}

fn is_empty(directory: &OwnedFd) -> rustix::io::Result<bool> {
    for entry in Dir::read_from(directory)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether `name` in `parent` is the directory at hand.
fn is_named(parent: &File, name: &OsStr, directory: &OwnedFd) -> rustix::io::Result<bool> {
    let own = fstat(directory)?;
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok((found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the work; no error if it is not there any more, because it has become the
/// bundle. Where something else has its name, that stays.
fn remove(parent: &File, name: &OsStr, directory: &OwnedFd) -> io::Result<()> {
    if statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).err() == Some(Errno::NOENT) {
        return Ok(());
    }
    tree::clear(directory)?;
    if !is_named(parent, name, directory)? {
        return Err(io::Error::other("somebody has put something else in its place"));
    }
    // An empty directory is all that this can remove.
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
