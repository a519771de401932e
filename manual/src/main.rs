//! Writes the man pages and completions to where they are committed.

use std::fs;

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    for file in manual::generate()? {
        let path = manual::repository().join(&file.path);
        fs::write(&path, file.text).with_context(|| format!("{path:?}"))?;
        println!("{}", file.path.display());
    }
    Ok(())
}
