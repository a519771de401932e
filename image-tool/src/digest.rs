//! Digests, and the check of a stream against what was promised of it.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use sha2::{Digest as _, Sha256, Sha512};

/// The two algorithms that the image-spec registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Sha512,
}

/// A content digest such as `sha256:e3b0...` (image-spec, descriptor.md, "Digests").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self { algorithm: Algorithm::Sha256, hex: hex(&Sha256::digest(bytes)) }
    }

    /// The algorithm as it is written: the name of a directory in a layout.
    pub fn algorithm(&self) -> &'static str {
        match self.algorithm {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// The digest proper, in lower-case hexadecimal.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// Fails unless `bytes` have this digest.
    pub fn verify(&self, bytes: &[u8]) -> Result<()> {
        let mut check = Check::new(self.clone(), None);
        check.update(bytes)?;
        check.finish()
    }
}

impl FromStr for Digest {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (algorithm, digits, hex) = match text.split_once(':') {
            Some(("sha256", hex)) => (Algorithm::Sha256, 64, hex),
            Some(("sha512", hex)) => (Algorithm::Sha512, 128, hex),
            _ => bail!("{text:?} is not a sha256 or sha512 digest"),
        };
        let is_hex = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        ensure!(
            is_hex && hex.len() == digits,
            "{text:?} does not hold {digits} lower-case hex digits"
        );
        Ok(Self { algorithm, hex: hex.to_owned() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.algorithm(), self.hex)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

/// A stream measured while it passes: it may not exceed the promised size by a
/// byte, and at its end size and digest must be the promised ones.
pub struct Check {
    expected: Digest,
    size: Option<u64>,
    seen: u64,
    hasher: Hasher,
}

impl Check {
    /// Expects a stream with the digest `expected` and, where known, of `size` bytes.
    pub fn new(expected: Digest, size: Option<u64>) -> Self {
        let hasher = match expected.algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        };
        Self { expected, size, seen: 0, hasher }
    }

    /// Takes the next bytes; fails at the first byte too many.
    pub fn update(&mut self, bytes: &[u8]) -> Result<()> {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        if let Some(size) = self.size {
            ensure!(self.seen <= size, "it is longer than the declared {size} bytes");
        }
        match &mut self.hasher {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
        Ok(())
    }

    /// Ends the stream: fails unless it was the promised one.
    pub fn finish(self) -> Result<()> {
        if let Some(size) = self.size {
            ensure!(self.seen == size, "it ends after {} of the declared {size} bytes", self.seen);
        }
        let found = match self.hasher {
            Hasher::Sha256(hasher) => hex(&hasher.finalize()),
            Hasher::Sha512(hasher) => hex(&hasher.finalize()),
        };
        let (algorithm, expected) = (self.expected.algorithm(), &self.expected.hex);
        ensure!(
            found == *expected,
            "its digest is {algorithm}:{found}, not {algorithm}:{expected}"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_has_a_known_algorithm_and_the_right_number_of_lower_case_digits() {
        assert_eq!(EMPTY.parse::<Digest>().unwrap().to_string(), EMPTY);
        for wrong in [
            "",
            "sha256",
            "sha256:",
            "md5:00",
            "sha256:../../x",
            &EMPTY.to_uppercase(),
            &EMPTY[..70],
        ] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong:?} was taken for a digest");
        }
    }

    #[test]
    fn sha512_is_verified_too() {
        let abc = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                   2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        abc.parse::<Digest>().unwrap().verify(b"abc").unwrap();
        assert!(abc.parse::<Digest>().unwrap().verify(b"abd").is_err());
    }

    #[test]
    fn a_stream_may_not_exceed_its_declared_size_by_one_byte() {
        let mut check = Check::new(Digest::of(b"ab"), Some(2));
        check.update(b"ab").unwrap();
        assert_eq!(
            check.update(b"c").unwrap_err().to_string(),
            "it is longer than the declared 2 bytes"
        );
    }

    #[test]
    fn a_stream_that_ends_early_or_differs_is_refused() {
        let mut short = Check::new(Digest::of(b"ab"), Some(2));
        short.update(b"a").unwrap();
        assert_eq!(
            short.finish().unwrap_err().to_string(),
            "it ends after 1 of the declared 2 bytes"
        );

        let mut other = Check::new(Digest::of(b"ab"), Some(2));
        other.update(b"ba").unwrap();
        assert!(other.finish().unwrap_err().to_string().starts_with("its digest is sha256:"));

        let mut right = Check::new(Digest::of(b"ab"), Some(2));
        right.update(b"a").unwrap();
        right.update(b"b").unwrap();
        right.finish().unwrap();
    }
}
