//! Images made by hand: tar archives, well-formed or not, and what describes them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A tar archive; names are written as they are given.
#[derive(Clone, Default)]
pub struct Layer(Vec<u8>);

impl Layer {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn entry(
        mut self,
        kind: EntryType,
        path: &str,
        set: impl FnOnce(&mut Header),
        content: &[u8],
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        let short = path.len() <= 100;
        if short {
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        }
        set(&mut header);
        header.set_cksum();
        if !short {
            self = self.pax(&[("path", path.as_bytes())]);
        }
        self.raw(header.as_bytes(), content)
    }

    pub fn raw(mut self, header: &[u8], content: &[u8]) -> Self {
        self.0.extend_from_slice(header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, path, |_| (), content.as_bytes())
    }

    pub fn file_with_mode(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Regular, path, |header| header.set_mode(mode), b"x")
    }

    pub fn directory(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, |_| (), b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, path, target, 0)
    }

    pub fn symlink_of(self, owner: u32, path: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, path, target, owner)
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Link, path, target, 0)
    }

    fn link(mut self, kind: EntryType, path: &str, target: &str, owner: u32) -> Self {
        self = self.pax(&[("path", path.as_bytes()), ("linkpath", target.as_bytes())]);
        self.entry(
            kind,
            path.get(..100).unwrap_or(path),
            |header| header.set_uid(owner.into()),
            b"",
        )
    }

    /// Extended header records for the entry after it.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length =
                (rest..).find(|length| length.to_string().len() + rest == *length).unwrap();
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.entry(EntryType::XHeader, "pax", |_| (), &body)
    }

    /// The archive with its end.
    pub fn tar(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// An image in parts, each of which a test may spoil before it is used.
#[derive(Clone)]
pub struct Image {
    pub config: Value,
    pub manifest: Value,
    pub blobs: BTreeMap<String, Vec<u8>>,
}

impl Image {
    /// A good image for this machine.
    pub fn new(layers: impl IntoIterator<Item = Layer>) -> Self {
        let blobs = layers.into_iter().map(|layer| {
            let tar = layer.tar();
            (GZIP, gzip(&tar), digest(&tar))
        });
        Self::of_blobs(blobs)
    }

    /// An image of blobs with their types and diffIDs.
    pub fn of_blobs(layers: impl IntoIterator<Item = (&'static str, Vec<u8>, String)>) -> Self {
        let mut blobs = BTreeMap::new();
        let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
        for (media_type, blob, diff_id) in layers {
            descriptors.push(
                json!({"mediaType": media_type, "digest": digest(&blob), "size": blob.len()}),
            );
            diff_ids.push(diff_id);
            blobs.insert(digest(&blob), blob);
        }
        let config = json!({
            "os": "linux", "architecture": architecture(),
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": descriptors});
        let mut image = Self { config: Value::Null, manifest, blobs };
        image.set_config(config);
        image
    }

    pub fn set_config(&mut self, config: Value) {
        let bytes = config.to_string().into_bytes();
        self.manifest["config"] = json!({
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&bytes), "size": bytes.len(),
        });
        self.blobs.insert(digest(&bytes), bytes);
        self.config = config;
    }

    /// With these members of the configuration's `config`.
    pub fn with(mut self, execution: Value) -> Self {
        let mut config = self.config.clone();
        config["config"] = execution;
        self.set_config(config);
        self
    }

    pub fn manifest_bytes(&self) -> Vec<u8> {
        self.manifest.to_string().into_bytes()
    }

    /// The digest of layer `index`.
    pub fn layer(&self, index: usize) -> String {
        self.manifest["layers"][index]["digest"].as_str().unwrap().to_owned()
    }

    pub fn descriptor(&self) -> Value {
        let bytes = self.manifest_bytes();
        json!({"mediaType": MANIFEST, "digest": digest(&bytes), "size": bytes.len()})
    }

    /// Writes an OCI layout and returns the reference to it.
    pub fn layout(&self, directory: &Path) -> String {
        let manifest = self.manifest_bytes();
        let mut descriptor = self.descriptor();
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "t"});
        let mut blobs = self.blobs.clone();
        blobs.insert(digest(&manifest), manifest);
        write_layout(directory, &json!({"schemaVersion": 2, "manifests": [descriptor]}), &blobs)
    }
}

pub fn write_layout(directory: &Path, index: &Value, blobs: &BTreeMap<String, Vec<u8>>) -> String {
    let sha256 = directory.join("blobs/sha256");
    fs::create_dir_all(&sha256).unwrap();
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
    for (digest, blob) in blobs {
        fs::write(sha256.join(digest.trim_start_matches("sha256:")), blob).unwrap();
    }
    format!("oci:{}:t", directory.display())
}

/// The machine's, in the terms of the image-spec.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Small, with one file.
pub fn simple() -> Image {
    Image::new([Layer::new().directory("etc/").file("etc/motd", "hello\n")])
}
