//! The bundle while it is made: a directory beside the target, which becomes
//! the target at the very end and of which nothing stays if the end is not reached.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{SigSet, Signal};

use crate::tree;

/// A bundle that is not there yet.
pub struct Target {
    bundle: PathBuf,
    parent: File,
    work: OsString,
    /// Where `work` can be found by name.
    path: PathBuf,
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
        let path = above.join(&work);
        // Nothing can be renamed onto a mount; better said before a long download.
        let mounted = fs::metadata(&bundle)
            .is_ok_and(|own| parent.metadata().is_ok_and(|above| own.dev() != above.dev()));
        ensure!(!mounted, "{shown}: the bundle is a mount point: name a directory inside");
        // Closed to others: an image brings old set-user-id programs of its own.
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("{}: mkdir", path.display()))?;
        let target = Self { bundle, parent, work, path, kept: false };
        target.remove_on_signal()?;
        DirBuilder::new().mode(0o755).create(target.rootfs()).context("rootfs: mkdir")?;
        Ok(target)
    }

    /// The directory for the layers.
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// Writes config.json.
    pub fn write_config(&self, config: &serde_json::Value) -> Result<()> {
        let path = self.path.join("config.json");
        let mut text = serde_json::to_vec_pretty(config)?;
        text.push(b'\n');
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&path)
            .context("config.json: create")?;
        file.write_all(&text).context("config.json: write")
    }

    /// Turns the work into the bundle; returns where that is.
    pub fn keep(mut self) -> Result<PathBuf> {
        // Takes the place of an empty directory, and fails if it is not empty any more.
        fs::rename(&self.path, &self.bundle)
            .with_context(|| format!("{}: rename", self.bundle.display()))?;
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
        let wait = move || {
            let Ok(signal) = signals.wait() else { return };
            // Extraction goes on meanwhile and may put things back, but not for long.
            for _ in 0..100 {
                if remove(&parent, &work).is_ok() {
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
        if let Err(error) = remove(&self.parent, &self.work) {
            let _ = writeln!(
                io::stderr().lock(),
                "image-tool: {}: left behind: {error}",
                self.path.display()
            );
        }
    }
}

fn remove(parent: &File, name: &OsStr) -> io::Result<()> {
    Ok(tree::remove(parent, &CString::new(name.as_bytes())?)?)
}
