//! What to pull: a reference as Docker reads it, or an OCI layout on disk.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};

use crate::digest::Digest;

/// The name under which people write Docker Hub.
const DOCKER_HUB: &str = "docker.io";
/// How other tools name what is neither a registry nor a layout in a directory.
const ELSEWHERE: [&str; 5] =
    ["containers-storage", "dir", "docker-archive", "docker-daemon", "oci-archive"];
/// A name's longest form (distribution, reference grammar).
const NAME_LENGTH: usize = 255;
const TAG_LENGTH: usize = 128;

/// The argument REF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// An image in a registry.
    Registry(Image),
    /// `oci:DIR[:TAG]`: an OCI image layout.
    Layout { directory: PathBuf, tag: Option<String> },
}

/// An image in a registry, all short forms written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Host and port: `docker.io`, `127.0.0.1:5000`.
    pub domain: String,
    /// The repository: `library/alpine`.
    pub repository: String,
    /// The tag; ignored where a digest is given, as Docker does.
    pub tag: Option<String>,
    /// The digest, which pins the content.
    pub digest: Option<Digest>,
}

impl Image {
    /// The host that serves the registry protocol.
    pub fn host(&self) -> &str {
        // Docker Hub's registry has another name than its images.
        if self.domain == DOCKER_HUB { "registry-1.docker.io" } else { &self.domain }
    }

    /// What the registry is asked for: the digest, else the tag.
    pub fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl FromStr for Reference {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.strip_prefix("oci:") {
            // `oci:5000/x` would be a host named oci, but a layout is meant by everyone who writes this.
            Some(layout) => parse_layout(layout),
            // Nor is this an image of Docker Hub's.
            None if text.split_once(':').is_some_and(|(kind, _)| ELSEWHERE.contains(&kind)) => {
                bail!("{text:?}: images come from a registry, or from a layout on disk (oci:DIR)")
            }
            None => parse_image(text).map(Self::Registry),
        }
    }
}

fn parse_layout(text: &str) -> Result<Reference> {
    let (directory, tag) = match text.rsplit_once(':') {
        Some((directory, tag)) if !tag.contains('/') => (directory, Some(tag)),
        _ => (text, None),
    };
    ensure!(!directory.is_empty(), "oci:{text}: the directory is missing");
    ensure!(tag != Some(""), "oci:{text}: the tag is empty");
    Ok(Reference::Layout { directory: directory.into(), tag: tag.map(str::to_owned) })
}

fn parse_image(text: &str) -> Result<Image> {
    if let Some((scheme, _)) = text.split_once("://") {
        bail!("{text:?} is a URL: leave out {scheme}://");
    }
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest.parse()?)),
        None => (text, None),
    };
    // A colon after the last slash starts a tag; one before it, a port.
    let last = name.rfind('/').unwrap_or(0);
    let (name, tag) = match name[last..].find(':') {
        Some(colon) => (&name[..last + colon], Some(&name[last + colon + 1..])),
        None => (name, None),
    };
    let (domain, repository) = split_domain(name);
    ensure!(is_domain(domain), "{text:?}: {domain:?} is not a host name");
    ensure!(
        repository.split('/').all(is_path_component),
        "{text:?}: {repository:?} is not a repository name (lower-case letters, digits, single '.', '_', '-' and '/')"
    );
    let (domain, repository) = expand(domain, repository);
    ensure!(
        domain.len() + 1 + repository.len() <= NAME_LENGTH,
        "{text:?}: the name is longer than {NAME_LENGTH} bytes"
    );
    if let Some(tag) = tag {
        ensure!(is_tag(tag), "{text:?}: {tag:?} is not a tag");
    }
    Ok(Image { domain, repository, tag: tag.map(str::to_owned), digest })
}

/// The first component is a host only if it can't be part of a repository's name.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DOCKER_HUB, name),
    }
}

fn expand(domain: &str, repository: &str) -> (String, String) {
    let domain = if domain == "index.docker.io" { DOCKER_HUB } else { domain };
    let official = domain == DOCKER_HUB && !repository.contains('/');
    let repository = if official { format!("library/{repository}") } else { repository.to_owned() };
    (domain.to_owned(), repository)
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("ipv6", port.strip_prefix(':').or((!port.is_empty()).then_some("")))
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let is_label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    host.split('.').all(is_label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separator = Vec::new();
    let mut words = 0;
    for byte in component.bytes() {
        if is_word(byte) {
            let legal = matches!(&separator[..], b"" | b"." | b"_" | b"__")
                || separator.iter().all(|byte| *byte == b'-');
            if !legal || (words == 0 && !separator.is_empty()) {
                return false;
            }
            words += 1;
            separator.clear();
        } else if matches!(byte, b'.' | b'_' | b'-') {
            separator.push(byte);
        } else {
            return false;
        }
    }
    words > 0 && separator.is_empty()
}

fn is_tag(tag: &str) -> bool {
    let inner =
        tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    inner && !tag.is_empty() && tag.len() <= TAG_LENGTH && !tag.starts_with(['.', '-'])
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(image) => image.fmt(formatter),
            Self::Layout { directory, tag: Some(tag) } => {
                write!(formatter, "oci:{}:{tag}", directory.display())
            }
            Self::Layout { directory, tag: None } => {
                write!(formatter, "oci:{}", directory.display())
            }
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.domain, self.repository)?;
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(formatter, "@{digest}"),
            (None, Some(tag)) => write!(formatter, ":{tag}"),
            (None, None) => write!(formatter, ":latest"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn short_names_are_written_out_as_docker_does() {
        for (short, long, host) in [
            ("alpine", "docker.io/library/alpine:latest", "registry-1.docker.io"),
            ("alpine:3.23", "docker.io/library/alpine:3.23", "registry-1.docker.io"),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest", "registry-1.docker.io"),
            ("docker.io/grafana/loki:2", "docker.io/grafana/loki:2", "registry-1.docker.io"),
            ("user/name", "docker.io/user/name:latest", "registry-1.docker.io"),
            ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1", "ghcr.io"),
            ("localhost/x", "localhost/x:latest", "localhost"),
            ("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000"),
            ("a-b.c/x", "a-b.c/x:latest", "a-b.c"),
            ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest", "127.0.0.1:5000"),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000"),
            ("Host/x", "Host/x:latest", "Host"),
            ("a__b/c--d.e", "docker.io/a__b/c--d.e:latest", "registry-1.docker.io"),
        ] {
            let Reference::Registry(image) = short.parse().unwrap() else {
                panic!("{short} is no image")
            };
            assert_eq!((image.to_string(), image.host()), (long.to_owned(), host), "{short}");
            let tag = long.rsplit_once(':').unwrap().1;
            assert_eq!(image.target(), tag, "{short}");
        }
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let reference: Reference = format!("alpine:3@sha256:{HEX}").parse().unwrap();
        assert_eq!(reference.to_string(), format!("docker.io/library/alpine@sha256:{HEX}"));
        let Reference::Registry(image) = reference else { panic!("no image") };
        assert_eq!(image.target(), format!("sha256:{HEX}"));
    }

    #[test]
    fn a_layout_may_carry_a_tag() {
        let layout = |directory: &str, tag: Option<&str>| Reference::Layout {
            directory: directory.into(),
            tag: tag.map(str::to_owned),
        };
        for (text, expected) in [
            ("oci:dir", layout("dir", None)),
            ("oci:/a/b:3.23", layout("/a/b", Some("3.23"))),
            ("oci:/a:b/c", layout("/a:b/c", None)),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap(), expected);
        }
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        for wrong in [
            "",
            "/",
            "a//b",
            "A",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "a:",
            "a:.b",
            "a: ",
            "a b",
            "a@",
            "a@sha256:1",
            "a@b@c",
            "host.:1/",
            "x:99999/y",
            "x.y:p/z",
            "../x",
            "[::x]:1/a",
            "[::1]x/a",
            "docker-daemon:alpine",
            "https://a/b",
            "a/\u{e9}",
            "oci:",
            "oci::x",
            "oci:a:",
        ] {
            assert!(wrong.parse::<Reference>().is_err(), "{wrong:?} was accepted");
        }
    }
}
