//! One pass over the text of a JSON file for what serde would pass over.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use anyhow::Result;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Which properties the text gives that oci-spec would fill in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// `ociVersion`
    pub version: bool,
    /// `root.path`
    pub root_path: bool,
    /// `process.user.uid`
    pub uid: bool,
    /// `process.user.gid`
    pub gid: bool,
    /// `process.ioPriority.class`
    pub io_class: bool,
    /// `linux.resources.pids.limit`
    pub pids_limit: bool,
}

/// Scans a config.json.
pub fn scan(text: &str) -> Result<Given> {
    scan_from(text, &[])
}

/// Scans a process, as `exec --process` reads it.
pub fn scan_process(text: &str) -> Result<Given> {
    scan_from(text, &["process"])
}

fn scan_from(text: &str, place: &[&'static str]) -> Result<Given> {
    let mut scan = Scan {
        given: Given::default(),
        place: place.iter().map(|key| Cow::Borrowed(*key)).collect(),
        prefix: place.len(),
    };
    let mut json = serde_json::Deserializer::from_str(text);
    Node(&mut scan).deserialize(&mut json)?;
    json.end()?;
    Ok(scan.given)
}

struct Scan<'de> {
    given: Given,
    /// The keys on the way from the root to here; indices of arrays are left out.
    place: Vec<Cow<'de, str>>,
    /// How much of `place` is not in the text.
    prefix: usize,
}

impl Scan<'_> {
    fn note(&mut self) {
        let given = &mut self.given;
        match self.place.as_slice() {
            [a] if a == "ociVersion" => given.version = true,
            [a, b] if a == "root" && b == "path" => given.root_path = true,
            [a, b, c] if a == "process" && b == "user" && c == "uid" => given.uid = true,
            [a, b, c] if a == "process" && b == "user" && c == "gid" => given.gid = true,
            [a, b, c] if a == "process" && b == "ioPriority" && c == "class" => {
                given.io_class = true;
            }
            [a, b, c, d] if a == "linux" && b == "resources" && c == "pids" && d == "limit" => {
                given.pids_limit = true;
            }
            _ => {}
        }
    }

    fn field(&self) -> String {
        self.place.get(self.prefix..).unwrap_or_default().join(".")
    }

    fn check_text<E: serde::de::Error>(&self, text: &str) -> Result<(), E> {
        if text.contains('\0') {
            return Err(E::custom(format!("{}: a NUL character", self.field())));
        }
        Ok(())
    }
}

struct Node<'scan, 'de>(&'scan mut Scan<'de>);

impl<'de> DeserializeSeed<'de> for Node<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen: BTreeSet<Cow<'de, str>> = BTreeSet::new();
        while let Some(Key(key)) = map.next_key()? {
            self.0.place.push(key.clone());
            self.0.check_text(&key)?;
            if !seen.insert(key) {
                return Err(A::Error::custom(format!("{}: given twice", self.0.field())));
            }
            map.next_value_seed(Node(self.0))?;
            self.0.place.pop();
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Node(self.0))?.is_some() {}
        Ok(())
    }

    /// A text without escapes, and so without a NUL: JSON has no other way to say one.
    fn visit_borrowed_str<E>(self, _: &'de str) -> Result<(), E> {
        self.0.note();
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.0.note();
        self.0.check_text(text)
    }

    /// What is null is not given.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.0.note();
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.0.note();
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.0.note();
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.0.note();
        Ok(())
    }
}

/// A key, borrowed from the text where it has no escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}
