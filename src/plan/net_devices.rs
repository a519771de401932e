//! `linux.netDevices`: interfaces of the host that become the container's.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use oci_spec::runtime::{Linux, LinuxNamespaceType as Kind};

use super::namespaces::Namespaces;
use crate::error::InField as _;

/// The most bytes of a name (IFNAMSIZ of linux/if.h, less its end).
const LONGEST: usize = 15;

/// One interface to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevice {
    /// `linux.netDevices.NAME`.
    pub field: String,
    /// Its name on the host.
    pub name: String,
    /// Its name in the container. One that ends in `%d` gets the number that is free there.
    pub inside: String,
}

impl NetDevice {
    /// Whether the kernel completes its name in the container.
    pub fn has_template(&self) -> bool {
        is_template(&self.inside)
    }
}

/// Plans the interfaces, by name. `may_move` says whether the caller can move any.
pub fn plan_net_devices(
    linux: Option<&Linux>,
    namespaces: &Namespaces,
    may_move: bool,
) -> Result<Vec<NetDevice>> {
    let given = linux.and_then(|linux| linux.net_devices().as_ref());
    let given: BTreeMap<_, _> = given.into_iter().flatten().collect();
    let mut devices: Vec<NetDevice> = Vec::new();
    let mut takers: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, device) in given {
        let field = format!("linux.netDevices.{name}");
        check_name(name).in_field(&field)?;
        let inside = device.name().as_deref().filter(|inside| !inside.is_empty()).unwrap_or(name);
        check_inside(inside).in_field(format_args!("{field}.name"))?;
        // A new namespace has this one, and in a joined one it could be no other's either.
        if inside == "lo" {
            bail!("{field}: \"lo\" is the container's own");
        }
        if !is_template(inside)
            && let Some(other) = takers.insert(inside, name)
        {
            bail!("{field}: {inside:?} is the name of linux.netDevices.{other} inside as well");
        }
        devices.push(NetDevice { field, name: name.clone(), inside: inside.to_owned() });
    }
    if !devices.is_empty() && !namespaces.has(Kind::Network) {
        bail!("linux.netDevices: needs a network namespace");
    }
    if !devices.is_empty() && !may_move {
        bail!("linux.netDevices: an ordinary user has no interface to give away");
    }
    Ok(devices)
}

fn is_template(name: &str) -> bool {
    name.ends_with("%d")
}

/// A name, or one with a template at its end, which is as long as the number that it stands for.
fn check_inside(name: &str) -> Result<()> {
    match name.strip_suffix("%d") {
        Some(stem) if name.len() <= LONGEST => check_name(stem),
        _ => check_name(name),
    }
}

/// What the kernel takes for a name (dev_valid_name of net/core/dev.c).
fn check_name(name: &str) -> Result<()> {
    let is_wrong = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    if name.is_empty() || name.len() > LONGEST || name == "." || name == ".." {
        bail!("{name:?}: not a name of 1 to {LONGEST} bytes");
    }
    if name.contains(is_wrong) {
        bail!("{name:?}: holds what no name of an interface may");
    }
    // The kernel would put a number there.
    if name.contains('%') {
        bail!("{name:?}: holds a %");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(devices: &str, namespaces: &str, may_move: bool) -> Result<Vec<(String, String)>> {
        let json = format!(r#"{{"namespaces":[{namespaces}],"netDevices":{devices}}}"#);
        let linux: Linux = serde_json::from_str(&json).unwrap();
        let planned = Namespaces::plan(Some(&linux)).unwrap();
        let devices = plan_net_devices(Some(&linux), &planned, may_move)?;
        Ok(devices.into_iter().map(|device| (device.name, device.inside)).collect())
    }

    const NETWORK: &str = r#"{"type":"network"}"#;

    #[test]
    fn a_device_keeps_its_name_unless_it_gets_another() {
        let devices = r#"{"b":{"name":""},"a":{"name":"eth0"},"c":{}}"#;
        let planned = plan(devices, NETWORK, true).unwrap();
        let same = r#"{"a":{"name":"eth%d"},"b":{"name":"eth%d"}}"#;
        assert_eq!(plan(same, NETWORK, true).unwrap().len(), 2);
        let expected = [("a", "eth0"), ("b", "b"), ("c", "c")];
        assert_eq!(planned, expected.map(|(name, inside)| (name.to_owned(), inside.to_owned())));
    }

    #[test]
    fn the_kernel_completes_a_name_that_ends_in_a_template() {
        let device =
            |inside: &str| NetDevice { field: "f".into(), name: "a".into(), inside: inside.into() };
        assert!(device("eth%d").has_template() && !device("eth0").has_template());
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_name() {
        for (devices, namespaces, may_move, reason) in [
            (r#"{"a":{}}"#, "", true, "linux.netDevices: needs a network namespace"),
            (
                r#"{"a":{}}"#,
                NETWORK,
                false,
                "linux.netDevices: an ordinary user has no interface to give away",
            ),
            (
                r#"{"a":{"name":"x"},"b":{"name":"x"}}"#,
                NETWORK,
                true,
                r#"linux.netDevices.b: "x" is the name of linux.netDevices.a inside as well"#,
            ),
            (
                r#"{"a":{"name":"1234567890123456"}}"#,
                NETWORK,
                true,
                r#"linux.netDevices.a.name: "1234567890123456": not a name of 1 to 15 bytes"#,
            ),
            (
                r#"{"a/b":{}}"#,
                NETWORK,
                true,
                r#"linux.netDevices.a/b: "a/b": holds what no name of an interface may"#,
            ),
            (
                r#"{"a":{"name":"lo"}}"#,
                NETWORK,
                true,
                r#"linux.netDevices.a: "lo" is the container's own"#,
            ),
            (
                r#"{"a":{"name":"eth%dx"}}"#,
                NETWORK,
                true,
                r#"linux.netDevices.a.name: "eth%dx": holds a %"#,
            ),
            (
                r#"{"a":{"name":"abcdefghijklmn%d"}}"#,
                NETWORK,
                true,
                r#"linux.netDevices.a.name: "abcdefghijklmn%d": not a name of 1 to 15 bytes"#,
            ),
        ] {
            let error = plan(devices, namespaces, may_move).unwrap_err();
            assert_eq!(format!("{error:#}"), reason);
        }
    }

    #[test]
    fn names_are_those_that_the_kernel_takes() {
        for name in ["a", "123456789012345", "...", "a.b", "é"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
        for wrong in ["", ".", "..", "1234567890123456", "a/", ":", "a b", "\t", "\0"] {
            assert!(check_name(wrong).is_err(), "{wrong:?}");
        }
    }
}
