//! Manifests, indexes and image configurations: parsed, checked, chosen from.
//!
//! Pure: bytes in, values out. What a field means is in the image-spec's
//! manifest.md, image-index.md, descriptor.md and config.md; Docker's schema 2
//! has the same shape under other media types.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::json::nullable;
use crate::limits;
use crate::platform::Platform;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What a registry is told that we understand, best first.
pub const ACCEPTED: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// Points at content: its type, digest and size.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The type of the content.
    #[serde(default, deserialize_with = "nullable")]
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// The size of the content in bytes; a negative one does not parse.
    pub size: u64,
    /// The platform an index entry is for.
    pub platform: Option<Platform>,
    /// In a layout's index, `org.opencontainers.image.ref.name` is the tag.
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: HashMap<String, String>,
}

impl Descriptor {
    fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }
}

/// The content that a tag or digest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// One image.
    Manifest(Manifest),
    /// Images for several platforms.
    Index(Vec<Descriptor>),
}

/// One image: its configuration, and its layers from the lowest up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, each a tar archive, mostly compressed.
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Parses a manifest or an index. `served_as` is the type under which it was
/// served or described, if that is known.
///
/// # Errors
/// A document that can be read as both is refused (CVE-2021-41190), and so is
/// one whose own media type is not the one it was served as.
pub fn parse(bytes: &[u8], served_as: Option<&str>) -> Result<Content> {
    let document: Document = from_json(bytes)?;
    ensure!(
        document.fs_layers.is_none() && document.schema_version != Some(1),
        "it is of Docker's schema 1, which is no longer supported"
    );
    let served_as = served_as.filter(|served| ACCEPTED.contains(served));
    if let (Some(own), Some(served)) = (document.media_type.as_deref(), served_as) {
        ensure!(own == served, "it calls itself {own:?} but was served as {served:?}");
    }
    let media_type = document.media_type.as_deref().or(served_as);
    match (document.config, document.layers, document.manifests) {
        (Some(config), Some(layers), None) => {
            ensure!(
                matches!(media_type, None | Some(OCI_MANIFEST | DOCKER_MANIFEST)),
                "it has the form of an image but the type {media_type:?}"
            );
            ensure!(
                layers.len() <= limits::LAYERS,
                "it has {} layers, more than {}",
                layers.len(),
                limits::LAYERS
            );
            layers.iter().enumerate().try_for_each(|(index, layer)| {
                let known = is_layer(&layer.media_type);
                ensure!(
                    known,
                    "layers[{index}].mediaType: {:?} is not a file system layer",
                    layer.media_type
                );
                Ok(())
            })?;
            Ok(Content::Manifest(Manifest { config, layers }))
        }
        (None, None, Some(manifests)) => {
            ensure!(
                matches!(media_type, None | Some(OCI_INDEX | DOCKER_LIST)),
                "it has the form of an index but the type {media_type:?}"
            );
            Ok(Content::Index(manifests))
        }
        (None, None, None) => bail!("it is neither an image manifest nor an index"),
        (_, _, Some(_)) => bail!("it claims to be an image manifest and an index at once"),
        (_, _, None) => bail!("it is an image manifest without config or without layers"),
    }
}

/// How a layer is compressed is read from its first bytes, not from its type:
/// builders have been wrong about the latter, and the digests cover both forms.
fn is_layer(media_type: &str) -> bool {
    let stem = media_type
        .strip_prefix("application/vnd.oci.image.layer.v1.tar")
        .or_else(|| {
            media_type.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar")
        })
        .or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.diff.tar"))
        .or_else(|| {
            media_type.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff.tar")
        });
    matches!(stem, Some("" | "+gzip" | "+zstd" | ".gzip" | ".zstd"))
}

/// What an index has for a platform.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    /// The image to take.
    Manifest(&'a Descriptor),
    /// No image, but indexes which may hold one.
    Indexes(Vec<&'a Descriptor>),
}

/// Chooses the image for `wanted`: the best variant, and of equals the first.
/// An image of unstated platform is taken only where it is the only one.
pub fn choose<'a>(index: &'a [Descriptor], wanted: &Platform) -> Choice<'a> {
    let images = || index.iter().filter(|entry| !entry.is_index());
    let rank =
        |entry: &Descriptor| entry.platform.as_ref().and_then(|offered| wanted.rank(offered));
    let best =
        images().filter_map(|entry| Some((rank(entry)?, entry))).min_by_key(|(rank, _)| *rank);
    if let Some((_, entry)) = best {
        return Choice::Manifest(entry);
    }
    if let ([only], None) =
        (index, index.iter().find(|entry| entry.is_index() || entry.platform.is_some()))
    {
        return Choice::Manifest(only);
    }
    let may_hold = |entry: &&Descriptor| {
        entry.is_index()
            && entry.platform.as_ref().is_none_or(|offered| wanted.rank(offered).is_some())
    };
    Choice::Indexes(index.iter().filter(may_hold).collect())
}

/// The platforms an index has images for; attestations have none.
pub fn platforms(index: &[Descriptor]) -> Vec<String> {
    let stated = index.iter().filter_map(|entry| entry.platform.as_ref());
    stated.filter(|platform| platform.os != "unknown").map(Platform::to_string).collect()
}

/// The image configuration (image-spec, config.md): what becomes config.json.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `linux`.
    #[serde(deserialize_with = "nullable")]
    pub os: String,
    /// `amd64`, ...
    #[serde(deserialize_with = "nullable")]
    pub architecture: String,
    /// The variant of the architecture.
    pub variant: Option<String>,
    /// The version of the operating system; used by Windows.
    #[serde(rename = "os.version")]
    pub os_version: Option<String>,
    /// What the image needs of the operating system.
    #[serde(rename = "os.features", deserialize_with = "nullable")]
    pub os_features: Vec<String>,
    /// Who made it.
    pub author: Option<String>,
    /// When it was made (RFC 3339).
    pub created: Option<String>,
    /// How to run it.
    #[serde(deserialize_with = "nullable")]
    pub config: Execution,
    /// The digests of the uncompressed layers.
    #[serde(deserialize_with = "nullable")]
    pub rootfs: Rootfs,
}

/// The member `config` of an image configuration. Go writes its empty members as null.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Execution {
    /// `user`, `uid`, `user:group`, `uid:gid` and mixtures.
    #[serde(deserialize_with = "nullable")]
    pub user: String,
    /// `NAME=value`.
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// The program and its first arguments.
    #[serde(deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program where there is no entry point.
    #[serde(deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    /// Where the program starts.
    #[serde(deserialize_with = "nullable")]
    pub working_dir: String,
    /// `80/tcp`; the values are empty objects.
    #[serde(deserialize_with = "nullable")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// The annotations of the image's author.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// The signal that stops the program.
    #[serde(deserialize_with = "nullable")]
    pub stop_signal: String,
}

/// The member `rootfs` of an image configuration.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Rootfs {
    /// From the lowest layer up.
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Parses the configuration of an image of `layers` layers for `wanted`.
    ///
    /// # Errors
    /// The image is for another platform, or does not name one digest a layer.
    pub fn parse(bytes: &[u8], layers: usize, wanted: &Platform) -> Result<Self> {
        let config: Self = from_json(bytes)?;
        let named = config.rootfs.diff_ids.len();
        ensure!(
            named == layers,
            "rootfs.diff_ids: it names {named} layers, the manifest has {layers}"
        );
        let offered = config.platform();
        // Old images leave both out; nothing can be said of them.
        let unstated = offered.os.is_empty() && offered.architecture.is_empty();
        ensure!(
            unstated || wanted.rank(&offered).is_some(),
            "there is no image for {wanted}, only for {offered} (choose with --platform)"
        );
        Ok(config)
    }

    /// The platform the image says it is for.
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone().unwrap_or_default(),
        }
    }
}

/// Parses JSON; an error names the field.
fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer)?;
    deserializer.end().context("something follows the JSON document")?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const HEX: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": HEX, "size": 7})
    }

    fn image() -> Value {
        json!({
            "schemaVersion": 2,
            "config": descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip")],
        })
    }

    fn with(mut base: Value, pointer: &str, value: Value) -> Value {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match base.pointer_mut(parent).unwrap() {
            Value::Object(map) => {
                map.insert(key.to_owned(), value);
            }
            Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
            _ => panic!("{parent} holds nothing"),
        }
        base
    }

    fn parse_json(document: &Value, served_as: Option<&str>) -> Result<Content> {
        parse(document.to_string().as_bytes(), served_as)
    }

    #[test]
    fn a_manifest_needs_no_media_type_inside() {
        for served_as in [
            None,
            Some(OCI_MANIFEST),
            Some(DOCKER_MANIFEST),
            Some("application/json"),
            Some("text/plain"),
        ] {
            assert!(matches!(parse_json(&image(), served_as).unwrap(), Content::Manifest(_)));
        }
    }

    #[test]
    fn a_manifest_that_is_not_one_image_or_one_index_is_refused_with_the_reason() {
        for (document, served_as, reason) in [
            (json!({}), None, "neither an image manifest nor an index"),
            (
                with(image(), "/manifests", json!([])),
                None,
                "an image manifest and an index at once",
            ),
            (with(image(), "/mediaType", json!(OCI_INDEX)), None, "form of an image but the type"),
            (with(image(), "/mediaType", json!(OCI_MANIFEST)), Some(OCI_INDEX), "calls itself"),
            (image(), Some(DOCKER_LIST), "form of an image but the type"),
            (json!({"manifests": []}), Some(OCI_MANIFEST), "form of an index but the type"),
            (
                with(image(), "/layers/0/size", json!(-5)),
                None,
                "layers[0].size: invalid value: integer `-5`",
            ),
            (with(image(), "/layers/0/digest", json!("sha256:../x")), None, "layers[0].digest"),
            (
                with(image(), "/layers/0/mediaType", json!("text/plain")),
                None,
                "layers[0].mediaType: \"text/plain\"",
            ),
            (with(image(), "/layers", Value::Null), None, "without config or without layers"),
            (json!({"schemaVersion": 1, "fsLayers": []}), None, "schema 1"),
        ] {
            let error = format!("{:#}", parse_json(&document, served_as).unwrap_err());
            assert!(error.contains(reason), "{document}: {error}");
        }
        assert!(parse(b"{} {}", None).is_err());
        assert!(parse(b"\xff", None).is_err());
    }

    fn entry(media_type: &str, platform: Option<&str>) -> Value {
        match platform.map(|platform| platform.split('/').collect::<Vec<_>>()) {
            None => descriptor(media_type),
            Some(parts) => with(
                descriptor(media_type),
                "/platform",
                json!({"os": parts[0], "architecture": parts[1], "variant": parts.get(2).unwrap_or(&"")}),
            ),
        }
    }

    fn index(entries: &[Value]) -> Vec<Descriptor> {
        match parse_json(&json!({"schemaVersion": 2, "manifests": entries}), Some(OCI_INDEX))
            .unwrap()
        {
            Content::Index(entries) => entries,
            Content::Manifest(_) => panic!("an index was taken for a manifest"),
        }
    }

    #[test]
    fn an_index_yields_its_best_image_then_its_only_one_then_nested_indexes() {
        let arm7: Platform = "linux/arm/v7".parse().unwrap();
        let image = |platform| entry(OCI_MANIFEST, platform);
        let chosen = |entries: &[Value]| {
            let entries = index(entries);
            match choose(&entries, &arm7) {
                Choice::Manifest(chosen) => {
                    entries.iter().position(|entry| std::ptr::eq(entry, chosen))
                }
                Choice::Indexes(_) => None,
            }
        };
        assert_eq!(
            chosen(&[
                image(Some("linux/amd64")),
                image(Some("linux/arm/v6")),
                image(Some("linux/arm/v7"))
            ]),
            Some(2)
        );
        assert_eq!(chosen(&[image(Some("linux/arm/v8"))]), None);
        assert_eq!(chosen(&[image(None)]), Some(0));
        assert_eq!(chosen(&[image(None), image(None)]), None);
        assert_eq!(chosen(&[entry(OCI_INDEX, None)]), None);

        let nested = index(&[entry(OCI_INDEX, Some("linux/amd64")), entry(OCI_INDEX, None)]);
        assert_eq!(choose(&nested, &arm7), Choice::Indexes(vec![&nested[1]]));
    }

    #[test]
    fn what_is_null_is_not_given() {
        let mut entry = descriptor(OCI_MANIFEST);
        for (key, value) in [("annotations", Value::Null), ("platform", Value::Null)] {
            entry[key] = value;
        }
        let document = with(json!({"manifests": [entry]}), "/mediaType", Value::Null);
        let Content::Index(entries) = parse_json(&document, None).unwrap() else { panic!() };
        assert_eq!(entries[0].platform, None);

        let platform = json!({"os": "linux", "architecture": "amd64", "variant": null});
        let document = with(document, "/manifests/0/platform", platform);
        let Content::Index(entries) = parse_json(&document, None).unwrap() else { panic!() };
        assert_eq!(platforms(&entries), ["linux/amd64"]);

        let document = with(image(), "/manifests", Value::Null);
        assert!(matches!(parse_json(&document, None).unwrap(), Content::Manifest(_)));

        let wanted: Platform = "linux/amd64".parse().unwrap();
        let bare = json!({"os": null, "architecture": null, "variant": null, "config": null,
            "created": null, "author": null, "rootfs": {"diff_ids": null}});
        for config in [with(bare.clone(), "/rootfs", Value::Null), bare] {
            let text = config.to_string();
            assert!(ImageConfig::parse(text.as_bytes(), 0, &wanted).is_ok(), "{text}");
        }
    }

    #[test]
    fn attestations_are_not_platforms() {
        let entries = index(&[
            entry(OCI_MANIFEST, Some("linux/amd64")),
            entry(OCI_MANIFEST, Some("unknown/unknown")),
        ]);
        assert_eq!(platforms(&entries), ["linux/amd64"]);
    }

    #[test]
    fn a_configuration_must_name_one_digest_a_layer_and_the_wanted_platform() {
        let wanted: Platform = "linux/amd64".parse().unwrap();
        let config = |architecture: &str| {
            json!({"os": "linux", "architecture": architecture, "config": {"Env": null}, "rootfs": {"diff_ids": [HEX]}})
                .to_string()
        };
        assert!(ImageConfig::parse(config("amd64").as_bytes(), 1, &wanted).is_ok());
        for (architecture, layers, reason) in [
            ("amd64", 0, "rootfs.diff_ids: it names 1 layers, the manifest has 0"),
            ("amd64", 2, "rootfs.diff_ids: it names 1 layers, the manifest has 2"),
            ("arm64", 1, "there is no image for linux/amd64, only for linux/arm64"),
        ] {
            let error = ImageConfig::parse(config(architecture).as_bytes(), layers, &wanted)
                .unwrap_err()
                .to_string();
            assert!(error.contains(reason), "{error}");
        }
        // Nothing can be said of an image that tells neither, but of one that tells either.
        let config = |os: &str, architecture: &str| {
            let image = json!({"os": os, "architecture": architecture, "config": {},
                "rootfs": {"diff_ids": [HEX]}});
            ImageConfig::parse(image.to_string().as_bytes(), 1, &wanted)
        };
        assert!(config("", "").is_ok());
        assert!(config("linux", "").is_err() && config("", "amd64").is_err());
    }
}
