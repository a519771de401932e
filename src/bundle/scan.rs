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
    scan_from(text, &[], true)
}

/// Scans one that was accepted before, maybe by a version that asked for less.
pub fn scan_stored(text: &str) -> Result<Given> {
    scan_from(text, &[], false)
}

/// Scans a process, as `exec --process` reads it.
pub fn scan_process(text: &str) -> Result<Given> {
    scan_from(text, &["process"], true)
}

/// Scans limits, as `update --resources` reads them.
pub fn scan_resources(text: &str) -> Result<Given> {
    scan_from(text, &["linux", "resources"], true)
}

fn scan_from(text: &str, place: &[&'static str], is_checked: bool) -> Result<Given> {
    let mut scan = Scan {
        given: Given::default(),
        place: place.iter().map(|key| Cow::Borrowed(*key)).collect(),
        entries: vec![None; place.len()],
        prefix: place.len(),
        is_checked,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    Node { scan: &mut scan, in_list: false }.deserialize(&mut json)?;
    json.end()?;
    Ok(scan.given)
}

/// What the specification has at a place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// An object.
    Object,
    /// A list of objects.
    Objects,
    /// Anything else, or nothing.
    Other,
}

/// What is at a place, and which of its properties are required that oci-spec would fill in.
fn known(place: &[Cow<'_, str>]) -> (Shape, &'static [&'static str]) {
    use Shape::{Object, Objects, Other};
    match place {
        [a, b, _] if a == "linux" && b == "netDevices" => return (Object, &[]),
        [a, b, c, _] if a == "linux" && b == "resources" && c == "rdma" => return (Object, &[]),
        _ => {}
    }
    if place.iter().any(|key| key.contains('.')) {
        return (Other, &[]);
    }
    match place.join(".").as_str() {
        "process.consoleSize" => (Object, &["height", "width"]),
        "process.rlimits" => (Objects, &["soft", "hard"]),
        "mounts.uidMappings" | "mounts.gidMappings" | "linux.uidMappings" | "linux.gidMappings" => {
            (Objects, &["containerID", "hostID", "size"])
        }
        "linux.resources.devices" => (Objects, &["allow"]),
        "linux.resources.hugepageLimits" => (Objects, &["limit"]),
        "linux.resources.network.priorities" => (Objects, &["name", "priority"]),
        "linux.resources.blockIO.weightDevice"
        | "linux.resources.blockIO.throttleReadBpsDevice"
        | "linux.resources.blockIO.throttleReadIOPSDevice"
        | "linux.resources.blockIO.throttleWriteBpsDevice"
        | "linux.resources.blockIO.throttleWriteIOPSDevice" => (Objects, &["major", "minor"]),
        "hooks.prestart"
        | "hooks.createRuntime"
        | "hooks.createContainer"
        | "hooks.startContainer"
        | "hooks.poststart"
        | "hooks.poststop"
        | "mounts"
        | "linux.devices"
        | "linux.namespaces"
        | "linux.seccomp.syscalls"
        | "linux.seccomp.syscalls.args" => (Objects, &[]),
        ""
        | "root"
        | "hooks"
        | "process"
        | "process.user"
        | "process.capabilities"
        | "process.scheduler"
        | "process.ioPriority"
        | "process.execCPUAffinity"
        | "linux"
        | "linux.intelRdt"
        | "linux.memoryPolicy"
        | "linux.personality"
        | "linux.seccomp"
        | "linux.timeOffsets.monotonic"
        | "linux.timeOffsets.boottime"
        | "linux.resources"
        | "linux.resources.blockIO"
        | "linux.resources.cpu"
        | "linux.resources.memory"
        | "linux.resources.network"
        | "linux.resources.pids" => (Object, &[]),
        _ => (Other, &[]),
    }
}

struct Scan<'de> {
    given: Given,
    /// The keys on the way from the root to here; indices of arrays are left out.
    place: Vec<Cow<'de, str>>,
    /// Which entry of the list that a key names is meant, where it names one.
    entries: Vec<Option<usize>>,
    /// How much of `place` is not in the text.
    prefix: usize,
    /// Whether what is there must be what the specification has there.
    is_checked: bool,
}

impl<'de> Scan<'de> {
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
        let mut field = String::new();
        for (key, entry) in self.place.iter().zip(&self.entries).skip(self.prefix) {
            field.push_str(if field.is_empty() { "" } else { "." });
            field.push_str(key);
            if let Some(index) = entry {
                field.push_str(&format!("[{index}]"));
            }
        }
        field
    }

    fn enter(&mut self, key: Cow<'de, str>) {
        self.place.push(key);
        self.entries.push(None);
    }

    fn leave(&mut self) {
        self.place.pop();
        self.entries.pop();
    }

    /// serde takes a list for an object, and its entries for properties by their order.
    fn check_list<E: serde::de::Error>(&self, in_list: bool) -> Result<(), E> {
        let (shape, _) = known(&self.place);
        if shape == Shape::Object || shape == Shape::Objects && in_list {
            let field = self.field();
            let colon = if field.is_empty() { "" } else { ": " };
            return Err(E::custom(format!("{field}{colon}a list, and an object is expected")));
        }
        Ok(())
    }

    fn check_text<E: serde::de::Error>(&self, text: &str) -> Result<(), E> {
        if text.contains('\0') {
            return Err(E::custom(format!("{}: a NUL character", self.field())));
        }
        Ok(())
    }
}

struct Node<'scan, 'de> {
    scan: &'scan mut Scan<'de>,
    in_list: bool,
}

/// Whether anything was there: what is null is not given.
impl<'de> DeserializeSeed<'de> for Node<'_, 'de> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, 'de> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let scan = self.scan;
        let required = match scan.is_checked {
            true => known(&scan.place).1,
            false => &[],
        };
        let mut found = 0;
        let mut seen: BTreeSet<Cow<'de, str>> = BTreeSet::new();
        while let Some(Key(key)) = map.next_key()? {
            scan.enter(key.clone());
            // As of a value: without escapes there is no NUL.
            if let Cow::Owned(key) = &key {
                scan.check_text(key)?;
            }
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("{}: given twice", scan.field())));
            }
            let is_given = map.next_value_seed(Node { scan, in_list: false })?;
            scan.leave();
            if is_given && let Some(index) = required.iter().position(|name| *name == key) {
                found |= 1 << index;
            }
        }
        let is_missing = |(index, _): &(usize, _)| found & 1 << index == 0;
        if let Some((_, name)) = required.iter().enumerate().find(is_missing) {
            scan.enter(Cow::Borrowed(name));
            return Err(A::Error::custom(format!("{}: missing", scan.field())));
        }
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let scan = self.scan;
        if scan.is_checked {
            scan.check_list(self.in_list)?;
        }
        let outer = scan.entries.last().copied().flatten();
        for index in 0.. {
            if let Some(entry) = scan.entries.last_mut() {
                *entry = Some(index);
            }
            if seq.next_element_seed(Node { scan, in_list: true })?.is_none() {
                break;
            }
        }
        if let Some(entry) = scan.entries.last_mut() {
            *entry = outer;
        }
        Ok(true)
    }

    /// A text without escapes, and so without a NUL: JSON has no other way to say one.
    fn visit_borrowed_str<E>(self, _: &'de str) -> Result<bool, E> {
        self.scan.note();
        Ok(true)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<bool, E> {
        self.scan.note();
        self.scan.check_text(text)?;
        Ok(true)
    }

    /// What is null is not given.
    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        self.scan.note();
        Ok(true)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        self.scan.note();
        Ok(true)
    }

    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        self.scan.note();
        Ok(true)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        self.scan.note();
        Ok(true)
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A configuration with a value at `place`, and nothing else.
    fn at(place: &str, value: Value) -> String {
        place.rsplit('.').fold(value, |inner, key| json!({ key: inner })).to_string()
    }

    fn refused(text: &str) -> String {
        scan(text).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn an_object_is_no_list() {
        for place in [
            "root",
            "hooks",
            "process",
            "process.user",
            "process.consoleSize",
            "process.capabilities",
            "process.scheduler",
            "process.ioPriority",
            "process.execCPUAffinity",
            "linux",
            "linux.intelRdt",
            "linux.memoryPolicy",
            "linux.personality",
            "linux.seccomp",
            "linux.timeOffsets.monotonic",
            "linux.timeOffsets.boottime",
            "linux.resources",
            "linux.resources.blockIO",
            "linux.resources.cpu",
            "linux.resources.memory",
            "linux.resources.network",
            "linux.resources.pids",
            "linux.resources.rdma.mlx",
            "linux.netDevices.eth0",
        ] {
            let reason = format!("{place}: a list, and an object is expected");
            assert!(refused(&at(place, json!([]))).starts_with(&reason), "{place}");
        }
        // What is none of the specification's may be anything.
        for place in ["x", "x.root", "linux.devices.x", "x.netDevices.eth0", "linux.x.rdma.mlx"] {
            assert_eq!(refused(&at(place, json!([[]]))), "", "{place}");
        }
    }

    #[test]
    fn a_list_of_objects_has_no_list_in_it() {
        for place in [
            "mounts",
            "mounts.uidMappings",
            "mounts.gidMappings",
            "hooks.prestart",
            "hooks.createRuntime",
            "hooks.createContainer",
            "hooks.startContainer",
            "hooks.poststart",
            "hooks.poststop",
            "process.rlimits",
            "linux.devices",
            "linux.namespaces",
            "linux.uidMappings",
            "linux.gidMappings",
            "linux.seccomp.syscalls",
            "linux.seccomp.syscalls.args",
            "linux.resources.devices",
            "linux.resources.hugepageLimits",
            "linux.resources.network.priorities",
            "linux.resources.blockIO.weightDevice",
            "linux.resources.blockIO.throttleReadBpsDevice",
            "linux.resources.blockIO.throttleReadIOPSDevice",
            "linux.resources.blockIO.throttleWriteBpsDevice",
            "linux.resources.blockIO.throttleWriteIOPSDevice",
        ] {
            let reason = format!("{place}[0]: a list, and an object is expected");
            assert!(refused(&at(place, json!([[]]))).starts_with(&reason), "{place}");
            assert_eq!(refused(&at(place, json!([]))), "", "{place}");
        }
    }

    #[test]
    fn what_oci_spec_would_make_zero_is_missing() {
        const RANGE: &[&str] = &["containerID", "hostID", "size"];
        const DEVICE: &[&str] = &["major", "minor"];
        for (place, required) in [
            ("process.rlimits", &["soft", "hard"][..]),
            ("mounts.uidMappings", RANGE),
            ("mounts.gidMappings", RANGE),
            ("linux.uidMappings", RANGE),
            ("linux.gidMappings", RANGE),
            ("linux.resources.devices", &["allow"]),
            ("linux.resources.hugepageLimits", &["limit"]),
            ("linux.resources.network.priorities", &["name", "priority"]),
            ("linux.resources.blockIO.weightDevice", DEVICE),
            ("linux.resources.blockIO.throttleReadBpsDevice", DEVICE),
        ] {
            let whole: Value = required.iter().map(|key| ((*key).to_owned(), json!(1))).collect();
            assert_eq!(refused(&at(place, json!([whole]))), "", "{place}");
            for key in required {
                let mut entry = whole.clone();
                entry[*key] = Value::Null;
                let reason = format!("{place}[1].{key}: missing");
                assert!(refused(&at(place, json!([whole, entry]))).starts_with(&reason), "{place}");
            }
        }
        let reason = refused(&at("process.consoleSize", json!({"height": 1})));
        assert!(reason.starts_with("process.consoleSize.width: missing"), "{reason}");
    }

    #[test]
    fn what_is_given_is_not_what_is_null_or_stands_elsewhere() {
        let all = Given {
            version: true,
            root_path: true,
            uid: true,
            gid: true,
            io_class: true,
            pids_limit: true,
        };
        let text = |value: Value| {
            json!({
                "ociVersion": value, "root": {"path": value},
                "process": {"user": {"uid": value, "gid": value}, "ioPriority": {"class": value}},
                "linux": {"resources": {"pids": {"limit": value}}},
            })
        };
        for value in [json!(1), json!(-1), json!(1.5), json!("a"), json!("a\"b"), json!(true)] {
            assert_eq!(scan(&text(value.clone()).to_string()).unwrap(), all, "{value}");
        }
        assert_eq!(scan(&text(Value::Null).to_string()).unwrap(), Given::default());
        let elsewhere = json!({"x": text(json!(1))}).to_string();
        assert_eq!(scan(&elsewhere).unwrap(), Given::default());
        for place in [
            "ociVersion",
            "root.path",
            "process.user.uid",
            "process.user.gid",
            "process.ioPriority.class",
            "linux.resources.pids.limit",
        ] {
            assert_ne!(scan(&at(place, json!(1))).unwrap(), Given::default(), "{place}");
            for key in place.split('.') {
                let other = place.replace(key, "x");
                assert_eq!(scan(&at(&other, json!(1))).unwrap(), Given::default(), "{other}");
            }
        }
    }
}
