//! Moving network interfaces of the host into a container
//! (config-linux.md#network-devices).
//!
//! The creator finds them and moves them, which only he may do; an interface that is
//! moved loses its addresses and goes down, so init, who is where it arrives, gives it
//! back what it had. It is never taken back: with the namespace the kernel returns a
//! real one to the host, and a virtual one is gone.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, bail};
use nix::unistd::Pid;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::namespaces::{LeftNamespaces, Opened};
use crate::apply::netlink::{Route, attributes, push_attribute};
use crate::error::InField as _;
use crate::plan::net_devices::NetDevice;

// Kinds of messages, attributes and flags: linux/rtnetlink.h, if_link.h, if_addr.h, if.h.
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const LINK_NAME: u16 = 3;
const LINK_NAMESPACE_PID: u16 = 19;
const LINK_NAMESPACE_FD: u16 = 28;
const ADDRESS_FLAGS: u16 = 8;
/// IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_RT_PRIORITY. A label holds the old name.
const ADDRESS_KEPT: [u16; 4] = [1, 2, 4, 9];
const PERMANENT: u32 = 0x80;
const UNIVERSE: u8 = 0;
const CREATE_EXCLUSIVE: u16 = 0x600;
const UP: u32 = 1;

/// The lengths of `struct ifinfomsg` and `struct ifaddrmsg`.
const LINK: usize = 16;
const ADDRESS: usize = 8;

/// An interface that was found on the host.
#[derive(Debug)]
pub struct FoundDevice {
    device: NetDevice,
    index: u32,
    /// Its permanent global addresses, as bodies of messages without the index.
    addresses: Vec<Vec<u8>>,
}

impl FoundDevice {
    /// The name that it arrives with. What the kernel makes of a template nobody is told, so
    /// one with a template is moved by a name that can be found again.
    fn arrives_as(&self) -> String {
        match self.device.has_template() {
            true => format!("fr-{}", self.index),
            false => self.device.inside.clone(),
        }
    }
}

/// Looks the interfaces up, before anything is made.
pub fn find(devices: &[NetDevice]) -> Result<Vec<FoundDevice>> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let all = Route::open()?.dump(GET_ADDRESS, &[0; ADDRESS])?;
    let find = |device: &NetDevice| {
        let index = index_of(&device.name)
            .with_context(|| format!("{:?}", device.name))
            .in_field(&device.field)?;
        let addresses = all.iter().filter_map(|body| kept(body, index)).collect();
        Ok(FoundDevice { device: device.clone(), index, addresses })
    };
    devices.iter().map(find).collect()
}

fn index_of(name: &str) -> rustix::io::Result<u32> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    name_to_index(socket, name)
}

/// What of an address goes along: of this interface, permanent, and valid everywhere.
fn kept(body: &[u8], index: u32) -> Option<Vec<u8>> {
    let [family, prefix, flags, scope] = *body.first_chunk()?;
    let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    let given = attributes(body.get(ADDRESS..)?);
    let mut flags = u32::from(flags);
    let mut kept = vec![family, prefix, 0, scope, 0, 0, 0, 0];
    for (kind, value) in given {
        if kind == ADDRESS_FLAGS {
            flags = number(value)?;
        } else if ADDRESS_KEPT.contains(&kind) {
            push_attribute(&mut kept, kind, value);
        }
    }
    let is_of_device = number(body.get(4..)?)? == index;
    (is_of_device && scope == UNIVERSE && flags & PERMANENT != 0).then_some(kept)
}

/// Where interfaces are moved to.
#[derive(Debug)]
pub enum Destination {
    /// The network namespace that a process was made with.
    Process(Pid),
    /// One that the process will join.
    Namespace(Opened),
}

/// Moves the interfaces. One of the same name there is an error, found before anything
/// is moved: the kernel would rename an interface after it has moved it.
pub fn move_to(destination: &Destination, found: &[FoundDevice]) -> Result<()> {
    let (kind, number) = match destination {
        Destination::Process(pid) => (LINK_NAMESPACE_PID, pid.as_raw()),
        Destination::Namespace(opened) => (LINK_NAMESPACE_FD, opened.namespace.as_raw_fd()),
    };
    if let Destination::Namespace(opened) = destination {
        refuse_taken(opened, found)?;
    }
    let route = Route::open()?;
    found.iter().try_for_each(|found| {
        let mut body = link(found.index, 0);
        push_name(&mut body, &found.arrives_as());
        push_attribute(&mut body, kind, &number.to_ne_bytes());
        route
            .change(NEW_LINK, 0, &body)
            .with_context(|| format!("move it into the container as {:?}", found.device.inside))
            .in_field(&found.device.field)
    })
}

fn refuse_taken(namespace: &Opened, found: &[FoundDevice]) -> Result<()> {
    let mut left = LeftNamespaces::default();
    left.leave(namespace.kind)?;
    namespace.join()?;
    for found in found {
        let (name, field) = (found.arrives_as(), &found.device.field);
        if index_of(&name).is_ok() {
            bail!("{field}: {name:?} is there already in the container");
        }
    }
    Ok(())
}

/// Gives the interfaces, which have arrived, their addresses, and sets them up.
pub fn set_up(found: &[FoundDevice]) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    let route = Route::open()?;
    found.iter().try_for_each(|found| set_one_up(&route, found).in_field(&found.device.field))
}

fn set_one_up(route: &Route, found: &FoundDevice) -> Result<()> {
    let index = index_of(&found.arrives_as()).context("look it up inside")?;
    if found.device.has_template() {
        let mut body = link(index, 0);
        push_name(&mut body, &found.device.inside);
        route
            .change(NEW_LINK, 0, &body)
            .with_context(|| format!("name it by {:?}", found.device.inside))?;
    }
    for address in &found.addresses {
        let mut body = address.clone();
        body.splice(4..8, index.to_ne_bytes());
        route.change(NEW_ADDRESS, CREATE_EXCLUSIVE, &body).context("give it its address")?;
    }
    route.change(NEW_LINK, 0, &link(index, UP)).context("set it up")
}

/// Sets the interface `lo` up by netlink, which needs no socket of the internet's families.
pub fn set_loopback_up() -> Result<()> {
    /// The same in every network namespace (LOOPBACK_IFINDEX of net/flow.h).
    const INDEX: u32 = 1;
    Route::open()?.change(NEW_LINK, 0, &link(INDEX, UP))
}

/// `struct ifinfomsg`, which changes these flags alone to be set.
fn link(index: u32, flags: u32) -> Vec<u8> {
    let mut body = Vec::with_capacity(LINK);
    // Family, padding, type.
    body.extend([0; 4]);
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body
}

fn push_name(body: &mut Vec<u8>, name: &str) {
    push_attribute(body, LINK_NAME, &[name.as_bytes(), b"\0"].concat());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permanent_global_addresses_of_the_interface_go_along() {
        let body = |flags: u32, scope: u8, index: u32| {
            let mut body = vec![2, 24, 0, scope];
            body.extend(index.to_ne_bytes());
            push_attribute(&mut body, 2, &[10, 0, 0, 1]);
            push_attribute(&mut body, 3, b"eth0\0");
            push_attribute(&mut body, ADDRESS_FLAGS, &flags.to_ne_bytes());
            body
        };
        let mut expected = vec![2, 24, 0, 0, 0, 0, 0, 0];
        push_attribute(&mut expected, 2, &[10, 0, 0, 1]);
        assert_eq!(kept(&body(PERMANENT, UNIVERSE, 7), 7), Some(expected));
        assert_eq!(kept(&body(0, UNIVERSE, 7), 7), None);
        assert_eq!(kept(&body(PERMANENT, 253, 7), 7), None);
        assert_eq!(kept(&body(PERMANENT, UNIVERSE, 8), 7), None);
        assert_eq!(kept(&[2, 24], 7), None);
    }
}
