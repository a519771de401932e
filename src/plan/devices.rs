//! `linux.devices`, the default devices and the links that belong to /dev.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, bail};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::mounts::clean;
use super::numbers;
use crate::error::InField as _;

/// A device node that the container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The entry that asked for it; for the default ones `default device`.
    pub field: String,
    /// Where in the container, an absolute path.
    pub path: PathBuf,
    /// How it comes there.
    pub node: Node,
}

/// How a device node comes into the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Made with mknod(2).
    Made {
        /// S_IFCHR, S_IFBLK or S_IFIFO.
        kind: u32,
        /// Major number, 0 for a FIFO.
        major: u32,
        /// Minor number, 0 for a FIFO.
        minor: u32,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// The host's node of the same path, for where mknod(2) is not allowed.
    Bound,
}

/// Devices that every container has (config-linux.md#default-devices).
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links that every container has (runtime-linux.md#dev-symbolic-links), and
/// /dev/ptmx, which must lead to the container's own devpts.
pub const LINKS: [(&str, &str); 6] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// Plans the default devices and those of the configuration, which take the
/// place of a default one at the same path. `may_make` is whether mknod(2) is
/// allowed, which it is not in a user namespace.
pub fn plan_devices(devices: &[LinuxDevice], may_make: bool) -> Result<Vec<Device>> {
    let defaults = DEFAULTS.iter().map(|(path, major, minor)| Device {
        field: "default device".to_owned(),
        path: path.into(),
        node: if may_make {
            Node::Made {
                kind: libc::S_IFCHR,
                major: *major,
                minor: *minor,
                mode: 0o666,
                uid: 0,
                gid: 0,
            }
        } else {
            Node::Bound
        },
    });
    let given = devices
        .iter()
        .enumerate()
        .map(|(at, device)| plan_one(&format!("linux.devices[{at}]"), device, may_make));
    let all = defaults.map(Ok).chain(given).collect::<Result<Vec<Device>>>()?;
    // Of each path the last one; /dev/ptmx is a link always, into the container's own devpts.
    let mut seen = BTreeSet::from([PathBuf::from("/dev/ptmx")]);
    let mut planned: Vec<Device> =
        all.into_iter().rev().filter(|device| seen.insert(device.path.clone())).collect();
    planned.reverse();
    Ok(planned)
}

fn plan_one(field: &str, device: &LinuxDevice, may_make: bool) -> Result<Device> {
    if device.path().as_os_str().is_empty() {
        bail!("{field}.path: missing");
    }
    let path = clean(device.path());
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => bail!("{field}.type: \"a\": not a type of device node"),
    };
    let (major, minor) = if kind == libc::S_IFIFO {
        (0, 0)
    } else {
        (
            numbers::major(device.major()).in_field(format_args!("{field}.major"))?,
            numbers::minor(device.minor()).in_field(format_args!("{field}.minor"))?,
        )
    };
    let id = |id: Option<u32>, name: &str| {
        numbers::id(id.unwrap_or(0)).in_field(format_args!("{field}.{name}"))
    };
    let (uid, gid) = (id(device.uid(), "uid")?, id(device.gid(), "gid")?);
    // Some engines send the whole st_mode: the type is said elsewhere.
    let mode = device.file_mode().unwrap_or(0o666) & 0o7777;
    // A FIFO is no device, and anybody may make one.
    let node = if may_make || kind == libc::S_IFIFO {
        Node::Made { kind, major, minor, mode, uid, gid }
    } else {
        Node::Bound
    };
    Ok(Device { field: field.to_owned(), path, node })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str, may_make: bool) -> Result<Vec<Device>> {
        let devices: Vec<LinuxDevice> = serde_json::from_str(json).unwrap();
        plan_devices(&devices, may_make)
    }

    #[test]
    fn a_device_of_the_configuration_takes_the_place_of_a_default_one() {
        let planned = plan(
            r#"[{"path":"/dev/null","type":"c","major":1,"minor":3,"fileMode":8592,"gid":5}]"#,
            true,
        )
        .unwrap();
        assert_eq!(planned.len(), DEFAULTS.len());
        assert_eq!(
            planned.last().unwrap(),
            &Device {
                field: "linux.devices[0]".into(),
                path: "/dev/null".into(),
                node: Node::Made {
                    kind: libc::S_IFCHR,
                    major: 1,
                    minor: 3,
                    mode: 0o620,
                    uid: 0,
                    gid: 5
                },
            }
        );
    }

    #[test]
    fn the_terminal_multiplexer_of_a_list_is_the_link_that_all_have() {
        for (path, may_make) in [("/dev/ptmx", true), ("dev/../dev/ptmx", false)] {
            let json = format!(r#"[{{"path":"{path}","type":"c","major":5,"minor":2}}]"#);
            assert_eq!(plan(&json, may_make).unwrap().len(), DEFAULTS.len(), "{path}");
        }
    }

    #[test]
    fn without_mknod_the_nodes_of_the_host_are_bound_but_a_fifo_is_made() {
        let planned = plan(r#"[{"path":"/dev/p","type":"p","major":7,"minor":7}]"#, false).unwrap();
        assert!(planned[..6].iter().all(|device| device.node == Node::Bound));
        assert!(matches!(
            planned[6].node,
            Node::Made { kind: libc::S_IFIFO, major: 0, minor: 0, mode: 0o666, .. }
        ));
    }

    #[test]
    fn wrong_devices_are_refused_by_their_field() {
        for (json, reason) in [
            (r#"[{"type":"c"}]"#, "linux.devices[0].path: missing"),
            (
                r#"[{"path":"/dev/a","type":"a"}]"#,
                r#"linux.devices[0].type: "a": not a type of device node"#,
            ),
            (
                r#"[{"path":"/dev/a","type":"c","major":-1}]"#,
                "linux.devices[0].major: -1: not a device number",
            ),
        ] {
            assert_eq!(format!("{:#}", plan(json, true).unwrap_err()), reason);
        }
    }
}
