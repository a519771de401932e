//! Terminals as callers have them: one to call the runtime on, and a socket that
//! gets one.

use std::fs::File;
use std::io::{IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcgetwinsize, tcsetwinsize};

use crate::Bed;

/// The master side of a terminal.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    said: String,
}

impl Terminal {
    /// A new terminal, and its other side.
    pub fn open() -> (Self, File) {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("openpt");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("ptsname");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let other = rustix::fs::open(name, flags, Mode::empty()).expect("the terminal");
        (Self::from(master), other.into())
    }

    /// Waits until the other side has printed `text`. Returns all that it has
    /// printed until then.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> &str {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.said.contains(text) {
            assert!(Instant::now() < deadline, "{text:?} was not printed: {:?}", self.said);
            if !self.read() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        &self.said
    }

    /// Reads what is there. Returns whether there was anything.
    fn read(&mut self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        if !matches!(poll(&mut fds, Some(&at_once)), Ok(1)) {
            return false;
        }
        let mut buffer = [0; 4096];
        // The end of the last process on the other side is an error (EIO).
        let length = self.master.read(&mut buffer).unwrap_or(0);
        self.said.push_str(&String::from_utf8_lossy(&buffer[..length]));
        length > 0
    }

    /// All that the other side has printed.
    pub fn rest(&mut self) -> &str {
        while self.read() {}
        &self.said
    }

    /// Types something.
    pub fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("write to the terminal");
    }

    /// Changes its size, of which the other side's foreground hears by SIGWINCH.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("tcsetwinsize");
    }

    /// Its columns and rows.
    pub fn size(&self) -> (u16, u16) {
        let size = tcgetwinsize(&self.master).expect("tcgetwinsize");
        (size.ws_col, size.ws_row)
    }

    /// Whether keys are passed on one by one and unseen.
    pub fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.master).expect("tcgetattr").local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }
}

impl From<OwnedFd> for Terminal {
    fn from(master: OwnedFd) -> Self {
        Self { master: master.into(), said: String::new() }
    }
}

/// A socket that gets a terminal (`--console-socket`).
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    /// Where it is.
    pub path: PathBuf,
}

impl ConsoleSocket {
    /// Listens in the bed's directory.
    pub fn listen(bed: &Bed) -> Self {
        let path = bed.make_directory(&format!("console-{}", bed.next()), 0o755).join("socket");
        let listener = UnixListener::bind(&path).expect("bind");
        listener.set_nonblocking(true).expect("a socket that does not block");
        make_writable(&path);
        Self { listener, path }
    }

    /// Takes the terminal, and its name as the sender has it.
    ///
    /// # Panics
    /// If none has been sent: the runtime is done when it is asked for.
    #[track_caller]
    pub fn terminal(&self) -> (Terminal, String) {
        let (stream, _) = self.listener.accept().expect("a connection to the console socket");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 4096];
        let received = recvmsg(
            &stream,
            &mut [IoSliceMut::new(&mut name)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .expect("recvmsg");
        let master = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let name = String::from_utf8_lossy(&name[..received.bytes]).into_owned();
        (Terminal::from(master.expect("a descriptor")), name)
    }
}

fn make_writable(path: &Path) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .expect("the socket's mode");
}
