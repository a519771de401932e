//! The little of netlink(7) and rtnetlink(7) that moving network interfaces takes.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, bail};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// A connection to the part of the kernel that knows interfaces and addresses, of the
/// network namespace that the caller is in when he opens it.
#[derive(Debug)]
pub struct Route {
    socket: OwnedFd,
}

/// Flags of a request (netlink(7)).
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;

/// Kinds of messages that carry no answer.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;

impl Route {
    /// Opens it.
    pub fn open() -> Result<Self> {
        let family = AddressFamily::NETLINK;
        // No protocol: NETLINK_ROUTE is 0.
        let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .context("socket: netlink")?;
        Ok(Self { socket })
    }

    /// Asks for something to be done, and waits until it is.
    pub fn change(&self, kind: u16, flags: u16, body: &[u8]) -> Result<()> {
        self.send(kind, flags | ACKNOWLEDGE, body)?;
        self.receive().map(drop)
    }

    /// Asks for everything of a kind. Returns the bodies of the answers.
    pub fn dump(&self, kind: u16, body: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.send(kind, DUMP, body)?;
        self.receive()
    }

    fn send(&self, kind: u16, flags: u16, body: &[u8]) -> Result<()> {
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(u32::try_from(HEADER + body.len())?.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((flags | REQUEST).to_ne_bytes());
        // Sequence number and port: each socket asks one thing after the other.
        message.extend([0; 8]);
        message.extend(body);
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, &message, SendFlags::empty(), &kernel).context("netlink")?;
        Ok(())
    }

    fn receive(&self) -> Result<Vec<Vec<u8>>> {
        let mut bodies = Vec::new();
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let (length, _) =
                rustix::io::retry_on_intr(|| recv(&self.socket, &mut *buffer, RecvFlags::empty()))
                    .context("netlink")?;
            for (kind, body) in messages(buffer.get(..length).unwrap_or_default()) {
                match kind {
                    DONE => return Ok(bodies),
                    ERROR => match body.first_chunk().map(|number| i32::from_ne_bytes(*number)) {
                        Some(0) => return Ok(bodies),
                        Some(errno) => {
                            return Err(Errno::from_raw_os_error(-errno)).context("netlink");
                        }
                        None => bail!("netlink: an answer was cut short"),
                    },
                    _ => bodies.push(body.to_owned()),
                }
            }
        }
    }
}

/// The messages in what was received: kind and body of each.
fn messages(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    parts(bytes, HEADER, |header| {
        let length = u32::from_ne_bytes(*header.first_chunk()?);
        let kind = u16::from_ne_bytes(*header.get(4..)?.first_chunk()?);
        Some((usize::try_from(length).ok()?, kind))
    })
}

/// The attributes that follow the fixed part of a body: kind and value of each.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// The length of `struct rtattr`.
    const HEADER: usize = 4;
    parts(bytes, HEADER, |header| {
        let length = u16::from_ne_bytes(*header.first_chunk()?);
        let kind = u16::from_ne_bytes(*header.get(2..)?.first_chunk()?);
        Some((length.into(), kind))
    })
}

/// Parts that start with a header, which says how long they are with it, each aligned to
/// four bytes. What is cut short ends it.
fn parts(
    bytes: &[u8],
    header: usize,
    read: impl Fn(&[u8]) -> Option<(usize, u16)>,
) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, kind) = read(rest)?;
        let part = rest.get(header..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, part))
    })
}

/// Appends an attribute.
pub fn push_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let mut body = Vec::new();
        push_attribute(&mut body, 3, b"eth0\0");
        push_attribute(&mut body, 7, &[]);
        push_attribute(&mut body, 28, &[1, 2, 3, 4]);
        assert_eq!(body.len(), 12 + 4 + 8);
        let read: Vec<_> = attributes(&body).collect();
        assert_eq!(read, [(3, &b"eth0\0"[..]), (7, &[]), (28, &[1, 2, 3, 4])]);
    }

    #[test]
    fn what_is_cut_short_is_no_message() {
        assert_eq!(messages(&[]).count(), 0);
        assert_eq!(messages(&[20, 0, 0, 0, 3, 0]).count(), 0);
        let mut message = vec![20, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(messages(&message).collect::<Vec<_>>(), [(9, &[1, 2, 3, 4][..])]);
        // Shorter than its own header.
        message[0] = 3;
        assert_eq!(messages(&message).count(), 0);
    }

    #[test]
    fn the_kernel_knows_the_loopback_address() {
        let route = Route::open().unwrap();
        const GET_ADDRESS: u16 = 22;
        // struct ifaddrmsg
        let addresses = route.dump(GET_ADDRESS, &[0; 8]).unwrap();
        let is_loopback = |body: &Vec<u8>| {
            attributes(body.get(8..).unwrap()).any(|(_, value)| value == [127, 0, 0, 1])
        };
        assert!(addresses.iter().any(is_loopback));
        assert!(route.change(16, 0, &[0; 16]).is_err());
    }
}
