//! Where a bus listens ("Server Addresses" of the specification).

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// A socket of the Unix domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// In the file system.
    Path(PathBuf),
    /// By a name of the kernel's own (unix(7)).
    Abstract(Vec<u8>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{path:?}"),
            Self::Abstract(name) => write!(f, "\"@{}\"", name.escape_ascii()),
        }
    }
}

/// An address that is not one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadAddress(String);

impl fmt::Display for BadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: only unix:path=... and unix:abstract=... are taken", self.0)
    }
}

impl std::error::Error for BadAddress {}

/// The addresses of a list, to be tried in their order. One that would run a program or leave
/// the machine is refused.
pub fn addresses(list: &str) -> Result<Vec<Address>, BadAddress> {
    let bad = || BadAddress(list.to_owned());
    list.split(';')
        .filter(|text| !text.is_empty())
        .map(|text| {
            let keys = text.strip_prefix("unix:")?;
            let value = |key: &str| {
                keys.split(',').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
            };
            match (value("path"), value("abstract")) {
                (Some(path), None) => {
                    let path = PathBuf::from(OsString::from_vec(unescape(path)?));
                    path.is_absolute().then_some(Address::Path(path))
                }
                (None, Some(name)) => Some(Address::Abstract(unescape(name)?)),
                _ => None,
            }
        })
        .collect::<Option<Vec<_>>>()
        .filter(|found| !found.is_empty())
        .ok_or_else(bad)
}

/// The bytes of a value: `%2f` is a slash.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (number, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(number, 16).ok()?);
        bytes.extend(rest.bytes());
    }
    (!bytes.is_empty() && !bytes.contains(&0)).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_the_machine_are_taken_in_their_order() {
        let path = |path: &str| Address::Path(path.into());
        for (list, expected) in [
            ("unix:path=/run/dbus/system_bus_socket", vec![path("/run/dbus/system_bus_socket")]),
            ("unix:path=/run/user/1/bus,guid=ab;", vec![path("/run/user/1/bus")]),
            ("unix:guid=ab,path=/a%20b", vec![path("/a b")]),
            (
                "unix:abstract=/tmp/x;unix:path=/y",
                vec![Address::Abstract(b"/tmp/x".to_vec()), path("/y")],
            ),
        ] {
            assert_eq!(addresses(list), Ok(expected), "{list}");
        }
    }

    #[test]
    fn nothing_else_is() {
        for list in [
            "",
            ";",
            "unix:",
            "unix:path=",
            "unix:path=relative",
            "unix:path=/a%0",
            "unix:path=/a%zz",
            "unix:path=/a%00",
            "unix:path=/a,abstract=b",
            "unix:tmpdir=/tmp",
            "unixexec:path=/bin/sh",
            "tcp:host=localhost,port=1",
            "unix:path=/a;tcp:host=x",
            "autolaunch:",
        ] {
            assert!(addresses(list).is_err(), "{list}");
        }
    }
}
