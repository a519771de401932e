//! What may wait for a disk or a network, in a process of its own: this program with another
//! action, which has of its caller a request as its stdin and a socket to say by what has failed.
//! It ends with its caller.

use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Error, Result};
use ferrun::error::message;
use ferrun::sys::process::spawn_alone;
use ferrun::sys::take_descriptor;
use prost::Message as _;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

use crate::messages::{CreateTaskRequest, Mount};
use crate::mounts::{mount_all, unmount_all};
use crate::server::memory_file;

/// Mount the root of a container.
pub const MOUNT: &str = "mount";
/// Unmount it.
pub const UNMOUNT: &str = "unmount";
/// What a message is cut off at.
const LONGEST: usize = 16 * 1024;
/// The number that the process has its socket by.
const SOCKET: i32 = 3;

/// Whether to mount these may take long. Layers and directories lie where containerd has written
/// a moment ago; all else may be a disk or a server, or takes a mount namespace of its own.
pub fn may_wait(mounts: &[Mount]) -> bool {
    let is_quick = |mount: &Mount| {
        matches!(mount.r#type.as_str(), "overlay" | "bind")
            && !mount.options.iter().any(|word| {
                word == "loop" || word.starts_with("uidmap=") || word.starts_with("gidmap=")
            })
    };
    !mounts.iter().all(is_quick)
}

/// One at work. Its descriptor becomes readable when [`Apart::ended`] has more to say.
#[derive(Debug)]
pub struct Apart {
    child: Child,
    socket: OwnedFd,
    failed: Option<String>,
}

impl Apart {
    /// Begins to mount or unmount the root of the container that is asked for.
    ///
    /// # Errors
    /// Those of starting the program.
    pub fn begin(action: &str, bundle: &str, mounts: &[Mount]) -> Result<Self> {
        let request = CreateTaskRequest {
            bundle: bundle.to_owned(),
            rootfs: mounts.to_vec(),
            ..Default::default()
        };
        let flags = SocketFlags::CLOEXEC;
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .context("socketpair")?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(action)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(memory_file(&request.encode_to_vec())?)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = spawn_alone(&mut command, theirs).context("execute itself")?;
        Ok(Self { child, socket, failed: None })
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<Result<()>> {
        loop {
            let mut text = [0; LONGEST];
            match recv(&self.socket, &mut text, RecvFlags::DONTWAIT) {
                Ok((length @ 1.., _)) => {
                    self.failed = Some(String::from_utf8_lossy(&text[..length]).into_owned());
                }
                Err(Errno::AGAIN) => return None,
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => break,
            }
        }
        Some(match (self.child.wait(), self.failed.take()) {
            (_, Some(failed)) => Err(Error::msg(failed)),
            (Ok(status), None) if status.success() => Ok(()),
            (Ok(status), None) => Err(Error::msg(format!("it ended by {status}"))),
            (Err(error), None) => Err(Error::new(error)),
        })
    }
}

impl AsFd for Apart {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does what [`Apart::begin`] has asked this process for.
///
/// # Errors
/// What has failed, which its caller is told.
pub fn run(action: &str) -> Result<()> {
    let socket = take_descriptor(SOCKET).context("the caller's socket")?;
    let done = act(action);
    if let Err(error) = &done {
        let text = message(error);
        let _ = send(&socket, &text.as_bytes()[..text.len().min(LONGEST)], SendFlags::NOSIGNAL);
    }
    done
}

fn act(action: &str) -> Result<()> {
    let mut request = Vec::new();
    std::io::stdin().lock().read_to_end(&mut request).context("stdin")?;
    let request = CreateTaskRequest::decode(request.as_slice()).context("stdin")?;
    let root = Path::new(&request.bundle).join("rootfs");
    match action {
        MOUNT => mount_all(&root, &request.rootfs),
        _ => unmount_all(&root),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_wait_is_told_by_its_type_and_words() {
        let mount = |kind: &str, option: &str| Mount {
            r#type: kind.into(),
            options: vec![option.into()],
            ..Default::default()
        };
        for (mount, waits) in [
            (mount("overlay", "lowerdir=/a:/b"), false),
            (mount("bind", "rbind"), false),
            (mount("overlay", "uidmap=0:100000:65536"), true),
            (mount("erofs", "loop"), true),
            (mount("ext4", "ro"), true),
            (mount("nfs", "ro"), true),
        ] {
            let of_both =
                may_wait(&[super::Mount { r#type: "bind".into(), ..Default::default() }, mount]);
            assert_eq!(of_both, waits);
        }
        assert!(!may_wait(&[]));
    }
}
