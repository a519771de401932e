//! Platforms, and which image of an index suits one.

use std::env::consts;
use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use serde::Deserialize;

use crate::json::nullable;

/// A platform in the terms of Go, as the image-spec asks: `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default, deserialize_with = "nullable")]
    pub os: String,
    /// `amd64`, `arm64`, ...
    #[serde(default, deserialize_with = "nullable")]
    pub architecture: String,
    /// `v7`, `v8`, or nothing.
    #[serde(default, deserialize_with = "nullable")]
    pub variant: String,
}

impl Platform {
    /// The platform this program was built for.
    pub fn host() -> Self {
        let (architecture, variant) = match consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", ""),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            "loongarch64" => ("loong64", ""),
            other => (other, ""),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// How well an image for `offered` runs on this platform: less is better,
    /// `None` means not at all.
    pub fn rank(&self, offered: &Self) -> Option<usize> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let acceptable = acceptable_variants(&self.architecture, &self.variant);
        acceptable.iter().position(|variant| *variant == offered.variant)
    }
}

/// The variants that run where `variant` is asked for, best first. A later
/// variant runs what was built for an earlier one, never the other way round.
fn acceptable_variants(architecture: &str, variant: &str) -> Vec<String> {
    let (levels, unnamed) = match architecture {
        "arm" => (5..=8, 7),
        "arm64" => (8..=9, 8),
        "amd64" => (1..=4, 1),
        _ => return vec![variant.to_owned()],
    };
    let level = match variant.strip_prefix('v').and_then(|digits| digits.parse().ok()) {
        Some(level) => level,
        None if variant.is_empty() => unnamed,
        None => return vec![variant.to_owned()],
    };
    let mut acceptable = Vec::new();
    for offered in levels.rev().filter(|offered| *offered <= level) {
        acceptable.push(format!("v{offered}"));
        if offered == unnamed {
            acceptable.push(String::new());
        }
    }
    acceptable
}

impl FromStr for Platform {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, ""),
            [os, architecture, variant] if !variant.is_empty() => (os, architecture, variant),
            _ => bail!("{text:?} is not os/architecture or os/architecture/variant"),
        };
        ensure!(os == "linux", "{text:?}: only linux images can become a bundle");
        ensure!(!architecture.is_empty(), "{text:?}: the architecture is empty");
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(formatter, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranked(wanted: &str, offered: &[&str]) -> Vec<String> {
        let wanted: Platform = wanted.parse().unwrap();
        let offered = offered.iter().map(|text| text.parse::<Platform>().unwrap());
        let mut suitable: Vec<(usize, String)> = offered
            .filter_map(|offered| Some((wanted.rank(&offered)?, offered.to_string())))
            .collect();
        suitable.sort();
        suitable.into_iter().map(|(_, offered)| offered).collect()
    }

    #[test]
    fn the_best_variant_that_still_runs_comes_first() {
        for (wanted, offered, expected) in [
            ("linux/amd64", vec!["linux/arm64", "linux/amd64"], vec!["linux/amd64"]),
            ("linux/amd64", vec!["linux/amd64/v3"], vec![]),
            (
                "linux/amd64/v3",
                vec!["linux/amd64", "linux/amd64/v2"],
                vec!["linux/amd64/v2", "linux/amd64"],
            ),
            ("linux/arm64", vec!["linux/arm64/v8"], vec!["linux/arm64/v8"]),
            ("linux/arm64/v8", vec!["linux/arm64"], vec!["linux/arm64"]),
            (
                "linux/arm/v6",
                vec!["linux/arm/v7", "linux/arm/v5", "linux/arm/v6"],
                vec!["linux/arm/v6", "linux/arm/v5"],
            ),
            (
                "linux/arm",
                vec!["linux/arm/v6", "linux/arm/v7"],
                vec!["linux/arm/v7", "linux/arm/v6"],
            ),
            ("linux/riscv64", vec!["linux/riscv64"], vec!["linux/riscv64"]),
        ] {
            assert_eq!(ranked(wanted, &offered), expected, "{wanted} from {offered:?}");
        }
    }

    #[test]
    fn only_linux_platforms_are_accepted() {
        for wrong in ["", "linux", "windows/amd64", "linux/", "linux/arm/v7/x", "linux/arm/"] {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong:?} was accepted");
        }
    }
}
