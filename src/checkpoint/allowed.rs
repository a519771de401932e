//! Who may have CRIU called, and by which settings.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::error::Kind;
use crate::plan::host::Host;

/// CRIU takes rights that only root of the machine has.
pub fn refuse_ordinary(host: &Host) -> Result<()> {
    if host.uid != 0 || host.in_user_namespace {
        let text = "only root of the machine can checkpoint or restore a container";
        return Err(Kind::Unsupported.error(text));
    }
    Ok(())
}

/// Whether the settings that CRIU is to read are there. They may name programs that CRIU calls as
/// root, so nobody else may write them, nor replace them.
pub fn has_settings(path: Option<&Path>) -> Result<bool> {
    let Some(path) = path else { return Ok(false) };
    let check = || -> Result<bool> {
        ensure!(path.is_absolute(), "not absolute");
        let real = match fs::canonicalize(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            real => real?,
        };
        for part in real.ancestors() {
            let found = fs::symlink_metadata(part).with_context(|| format!("{part:?}"))?;
            if found.uid() != 0 || found.mode() & 0o022 != 0 {
                bail!("{part:?} can be changed by others than root");
            }
        }
        ensure!(fs::metadata(&real)?.is_file(), "is no file");
        Ok(true)
    };
    check().with_context(|| format!("settings of CRIU: {path:?}"))
}
