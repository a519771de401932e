//! An OCI image layout on disk (image-spec, image-layout.md).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::limits;
use crate::manifest::{self, Content, Descriptor};

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A directory with `oci-layout`, `index.json` and `blobs/`.
pub struct Layout {
    directory: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

impl Layout {
    /// Opens a layout of version 1.
    pub fn open(directory: &Path) -> Result<Self> {
        let path = directory.join("oci-layout");
        let text = read_bounded(&path, limits::CONFIG_BYTES)
            .with_context(|| format!("{} is not an OCI image layout", directory.display()))?;
        let marker: Marker =
            serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        let version = &marker.image_layout_version;
        ensure!(
            version.starts_with("1."),
            "{}: imageLayoutVersion: {version:?} is unknown",
            path.display()
        );
        Ok(Self { directory: directory.to_owned() })
    }

    /// The entries of the index under `tag`, or all of them.
    pub fn entries(&self, tag: Option<&str>) -> Result<Vec<Descriptor>> {
        let path = self.directory.join("index.json");
        let bytes = read_bounded(&path, limits::MANIFEST_BYTES)?;
        let Content::Index(entries) =
            manifest::parse(&bytes, None).with_context(|| path.display().to_string())?
        else {
            bail!("{}: it is an image manifest, not an index", path.display());
        };
        let name = |entry: &Descriptor| entry.annotations.get(REF_NAME).cloned();
        let Some(tag) = tag else {
            let tags: BTreeSet<String> = entries.iter().filter_map(name).collect();
            ensure!(
                tags.len() <= 1,
                "{}: there are several images, choose a tag of {tags:?}",
                path.display()
            );
            return Ok(entries);
        };
        let (tagged, others): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| name(entry).as_deref() == Some(tag));
        let known: Vec<String> = others.iter().filter_map(name).collect();
        ensure!(!tagged.is_empty(), "{}: there is no tag {tag:?}, only {known:?}", path.display());
        Ok(tagged)
    }

    /// A blob, of the declared size.
    pub fn blob(&self, blob: &Descriptor) -> Result<File> {
        let path =
            self.directory.join("blobs").join(blob.digest.algorithm()).join(blob.digest.hex());
        let (file, length) = open_regular(&path)?;
        let declared = blob.size;
        ensure!(
            length == declared,
            "{}: it has {length} bytes, not the declared {declared}",
            path.display()
        );
        Ok(file)
    }
}

fn open_regular(path: &Path) -> Result<(File, u64)> {
    // Looked at first: opening a FIFO would wait for a writer.
    let metadata = fs::metadata(path).with_context(|| path.display().to_string())?;
    ensure!(metadata.is_file(), "{}: not a regular file", path.display());
    let file = File::open(path).with_context(|| path.display().to_string())?;
    Ok((file, metadata.len()))
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, _) = open_regular(path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).with_context(|| path.display().to_string())?;
    ensure!(bytes.len() as u64 <= limit, "{}: it is longer than {limit} bytes", path.display());
    Ok(bytes)
}
