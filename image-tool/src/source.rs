//! Where an image comes from: finds its manifest, and opens its blobs.

use std::io::Read;

use anyhow::{Context as _, Result, bail, ensure};

use crate::digest::Digest;
use crate::layout::Layout;
use crate::limits;
use crate::manifest::{self, Choice, Content, Descriptor, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::auth::Credentials;
use crate::registry::{Download, Registry};

/// A registry or a layout.
pub enum Source {
    /// Over HTTP.
    Registry(Box<Registry>),
    /// On disk.
    Layout(Layout),
}

/// An image found: what it is called by its content, and what it consists of.
pub struct Resolved {
    /// The digest of the manifest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
}

impl Source {
    /// Opens the source that `reference` names; nothing is asked of it yet.
    pub fn open(
        reference: &Reference,
        plain_http: Option<bool>,
        credentials: Option<Credentials>,
    ) -> Result<Self> {
        Ok(match reference {
            Reference::Registry(image) => {
                Self::Registry(Box::new(Registry::new(image, plain_http, credentials)?))
            }
            Reference::Layout { directory, .. } => Self::Layout(Layout::open(directory)?),
        })
    }

    /// Finds the image for `platform` under `reference`.
    pub fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Resolved> {
        let mut search = Search { source: self, platform, fetched: 0, seen: Vec::new() };
        let found = match (self, reference) {
            (Self::Registry(registry), Reference::Registry(image)) => {
                let target = image.target();
                let served = registry.manifest(&target)?;
                let digest = image.digest.clone().or(served.digest);
                let document =
                    Document { bytes: served.bytes, media_type: served.media_type, digest };
                search.open(document, 0).with_context(|| format!("manifest {target}"))?
            }
            (Self::Layout(layout), Reference::Layout { tag, .. }) => {
                search.descend(&layout.entries(tag.as_deref())?, 0)?
            }
            _ => bail!("{reference}: it is of another kind than its source"),
        };
        found.with_context(|| match search.seen.is_empty() {
            true => format!("there is no image for {platform}"),
            false => {
                format!("there is no image for {platform}, only for {}", search.seen.join(", "))
            }
        })
    }

    /// The content of a blob, not verified.
    pub fn blob<'a>(&'a self, blob: &'a Descriptor) -> Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::Registry(registry) => Box::new(Download::new(registry, blob)?),
            Self::Layout(layout) => Box::new(layout.blob(blob)?),
        })
    }

    /// A small blob as a whole, verified.
    pub fn small_blob(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        ensure!(blob.size <= limit, "it has {} bytes, more than {limit}", blob.size);
        let mut bytes = Vec::new();
        self.blob(blob)?.take(blob.size + 1).read_to_end(&mut bytes)?;
        let mut check = crate::digest::Check::new(blob.digest.clone(), Some(blob.size));
        check.update(&bytes)?;
        check.finish()?;
        Ok(bytes)
    }

    fn document(&self, entry: &Descriptor) -> Result<Document> {
        let (bytes, media_type) = match self {
            Self::Registry(registry) => {
                let served = registry.manifest(&entry.digest.to_string())?;
                (served.bytes, served.media_type)
            }
            Self::Layout(_) => (self.small_blob(entry, limits::MANIFEST_BYTES)?, None),
        };
        let length = bytes.len() as u64;
        ensure!(length == entry.size, "it has {length} bytes, not the declared {}", entry.size);
        let declared = Some(entry.media_type.clone()).filter(|media_type| !media_type.is_empty());
        Ok(Document {
            bytes,
            media_type: declared.or(media_type),
            digest: Some(entry.digest.clone()),
        })
    }
}

/// A manifest or an index, not yet verified.
struct Document {
    bytes: Vec<u8>,
    media_type: Option<String>,
    digest: Option<Digest>,
}

/// The way through nested indexes.
struct Search<'a> {
    source: &'a Source,
    platform: &'a Platform,
    fetched: usize,
    /// The platforms met on the way.
    seen: Vec<String>,
}

impl Search<'_> {
    fn open(&mut self, document: Document, depth: usize) -> Result<Option<Resolved>> {
        let digest = match document.digest {
            Some(digest) => {
                digest.verify(&document.bytes)?;
                digest
            }
            None => Digest::of(&document.bytes),
        };
        match manifest::parse(&document.bytes, document.media_type.as_deref())? {
            Content::Manifest(manifest) => Ok(Some(Resolved { digest, manifest })),
            Content::Index(entries) => self.descend(&entries, depth),
        }
    }

    fn descend(&mut self, entries: &[Descriptor], depth: usize) -> Result<Option<Resolved>> {
        self.seen.extend(manifest::platforms(entries));
        match manifest::choose(entries, self.platform) {
            Choice::Manifest(entry) => self.fetch(entry, depth),
            Choice::Indexes(indexes) => {
                for index in indexes {
                    ensure!(
                        depth < limits::INDEX_DEPTH,
                        "indexes are nested deeper than {}",
                        limits::INDEX_DEPTH
                    );
                    if let Some(found) = self.fetch(index, depth + 1)? {
                        return Ok(Some(found));
                    }
                }
                Ok(None)
            }
        }
    }

    fn fetch(&mut self, entry: &Descriptor, depth: usize) -> Result<Option<Resolved>> {
        self.fetched += 1;
        ensure!(
            self.fetched <= limits::INDEXES,
            "it takes more than {} indexes to find an image",
            limits::INDEXES
        );
        let document = self.source.document(entry);
        document
            .and_then(|document| self.open(document, depth))
            .with_context(|| format!("manifest {}", entry.digest))
    }
}
