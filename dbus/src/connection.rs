//! A connection: the one part that makes kernel calls.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};

use crate::address::Address;
use crate::message::{Call, Malformed, Message, length};

/// What is said before all messages: who we are, which the kernel vouches for, and that what
/// comes next are messages ("Authentication Protocol"). The answers are read later.
const GREETING: &[u8] = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";
/// The answers to it, each ended by CR LF: go on; welcome.
const ANSWERS: [&[u8]; 2] = [b"DATA", b"OK "];
/// The bytes of an answer that nobody has a reason for.
const LONGEST_ANSWER: usize = 1024;

/// What went wrong on the way to the other side or back.
#[derive(Debug)]
pub enum Error {
    /// A kernel call was refused.
    Call(&'static str, Errno),
    /// Somebody else listens there: the user id of who does.
    Stranger(u32),
    /// The other side does not let us in. Its answer.
    Refused(String),
    /// The other side has ended the connection.
    Closed,
    /// Nothing came in time.
    Late,
    /// What came is no message.
    Malformed(Malformed),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(call, errno) => write!(f, "{call}: {errno}"),
            Self::Stranger(uid) => write!(f, "user {uid} listens there, who is not trusted"),
            Self::Refused(answer) => write!(f, "the connection is refused: {answer:?}"),
            Self::Closed => write!(f, "the connection was closed"),
            Self::Late => write!(f, "no answer in time"),
            Self::Malformed(what) => write!(f, "sent {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        None
    }
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// Who may be at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The user id of whoever listens, as this process sees it.
    pub uid: u32,
}

/// A connection to a bus, or to one program.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    /// What is not sent yet.
    outgoing: Vec<u8>,
    /// What has come and is not read yet.
    incoming: Vec<u8>,
    /// How many of [`ANSWERS`] have come.
    answered: usize,
    serial: u32,
    /// How many writes were needed so far.
    pub writes: u32,
}

impl Connection {
    /// Connects to who listens at `address`, if that is `peer`. Nothing is sent yet.
    pub fn open(address: &Address, peer: Peer) -> Result<Self, Error> {
        let call = |call| move |errno| Error::Call(call, errno);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(call("socket"))?;
        let to = match address {
            Address::Path(path) => SocketAddrUnix::new(path.as_path()),
            Address::Abstract(name) => SocketAddrUnix::new_abstract_name(name),
        };
        connect(&socket, &to.map_err(call("address"))?).map_err(call("connect"))?;
        let uid = socket_peercred(&socket).map_err(call("getsockopt"))?.uid.as_raw();
        if uid != peer.uid {
            return Err(Error::Stranger(uid));
        }
        let (outgoing, incoming) = (GREETING.to_vec(), Vec::new());
        Ok(Self { socket, outgoing, incoming, answered: 0, serial: 0, writes: 0 })
    }

    /// Greets at once, and waits until that is answered. systemd's own socket needs it before a
    /// short call: what it has read together with the greeting it forgets until more comes.
    pub fn greet(&mut self, deadline: Instant) -> Result<(), Error> {
        self.flush(deadline)?;
        while !self.take_answers()? {
            self.read(deadline)?;
        }
        Ok(())
    }

    /// Takes a call to be sent. Returns its serial number, which the answer refers to.
    pub fn call(&mut self, call: &Call<'_>) -> u32 {
        self.serial += 1;
        self.outgoing.extend(call.encode(self.serial));
        self.serial
    }

    /// Sends all that was taken.
    pub fn flush(&mut self, deadline: Instant) -> Result<(), Error> {
        while !self.outgoing.is_empty() {
            self.writes += 1;
            match send(&self.socket, &self.outgoing, SendFlags::NOSIGNAL) {
                Ok(length) => drop(self.outgoing.drain(..length)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Error::Closed),
                Err(errno) => return Err(Error::Call("send", errno)),
            }
        }
        Ok(())
    }

    /// Waits for the next message, until `deadline`.
    pub fn receive(&mut self, deadline: Instant) -> Result<Message, Error> {
        loop {
            if self.take_answers()?
                && let Some(length) = length(&self.incoming)?
                && let Some(bytes) = self.incoming.get(..length)
            {
                let message = Message::decode(bytes)?;
                self.incoming.drain(..length);
                return Ok(message);
            }
            self.read(deadline)?;
        }
    }

    /// Takes the answers to the greeting. Says whether all of them have come.
    fn take_answers(&mut self) -> Result<bool, Error> {
        while let Some(expected) = ANSWERS.get(self.answered) {
            let end = self.incoming.windows(2).position(|pair| pair == b"\r\n");
            let Some(end) = end else {
                return match self.incoming.len() {
                    ..=LONGEST_ANSWER => Ok(false),
                    _ => Err(Malformed("a greeting without end").into()),
                };
            };
            let line: Vec<u8> = self.incoming.drain(..end + 2).collect();
            if !line.starts_with(expected) {
                let line = line.trim_ascii_end();
                return Err(Error::Refused(String::from_utf8_lossy(line).into_owned()));
            }
            self.answered += 1;
        }
        Ok(true)
    }

    fn read(&mut self, deadline: Instant) -> Result<(), Error> {
        // Whoever is never out of words would never be waited for.
        if Instant::now() >= deadline {
            return Err(Error::Late);
        }
        let mut buffer = [0; 4096];
        match recv(&self.socket, &mut buffer, RecvFlags::empty()) {
            Ok((0, _)) => Err(Error::Closed),
            Ok((length, _)) => {
                self.incoming.extend(buffer.get(..length).unwrap_or_default());
                Ok(())
            }
            Err(Errno::INTR) => Ok(()),
            Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline),
            Err(Errno::CONNRESET) => Err(Error::Closed),
            Err(errno) => Err(Error::Call("recv", errno)),
        }
    }

    fn wait(&self, flags: PollFlags, deadline: Instant) -> Result<(), Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Late);
        }
        // Rounded up: a wait of no time at all would be repeated.
        let left = Timespec::try_from(left + Duration::from_micros(1)).ok();
        match poll(&mut [PollFd::new(&self.socket, flags)], left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(Error::Call("poll", errno)),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    fn own_uid() -> u32 {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata("/proc/self").unwrap().uid()
    }

    struct Socket(PathBuf, UnixListener);

    impl Socket {
        fn new(name: &str) -> Self {
            let name = format!("ferrun-dbus-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let listener = UnixListener::bind(&path).unwrap();
            Self(path, listener)
        }

        fn connect(&self) -> Connection {
            Connection::open(&Address::Path(self.0.clone()), Peer { uid: own_uid() }).unwrap()
        }
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn ping() -> Call<'static> {
        Call { destination: None, path: "/", interface: "a.b", member: "P", arguments: vec![] }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn greeting_and_calls_go_out_with_one_write() {
        let socket = Socket::new("write");
        let mut connection = socket.connect();
        connection.call(&ping());
        connection.call(&ping());
        connection.flush(soon()).unwrap();
        assert_eq!(connection.writes, 1);
        let (mut peer, _) = socket.1.accept().unwrap();
        let mut bytes = vec![0; 4096];
        let length = peer.read(&mut bytes).unwrap();
        let expected = [GREETING, &ping().encode(1), &ping().encode(2)].concat();
        assert_eq!(bytes[..length], expected);
    }

    #[test]
    fn answers_come_in_any_pieces() {
        let answer = Call { arguments: vec![Value::text("x")], ..ping() }.encode(9);
        let bytes = [b"DATA\r\nOK 0123\r\n", answer.as_slice(), answer.as_slice()].concat();
        for piece in [1, 3, 7, bytes.len()] {
            let socket = Socket::new(&format!("pieces-{piece}"));
            let mut connection = socket.connect();
            let (mut peer, _) = socket.1.accept().unwrap();
            let bytes = bytes.clone();
            let talker = std::thread::spawn(move || {
                for part in bytes.chunks(piece) {
                    peer.write_all(part).unwrap();
                }
            });
            for _ in 0..2 {
                let message = connection.receive(soon()).unwrap();
                assert_eq!(message.body(), Ok(vec![Value::text("x")]));
            }
            talker.join().unwrap();
            assert!(matches!(connection.receive(soon()), Err(Error::Closed)));
        }
    }

    #[test]
    fn a_side_that_refuses_or_lies_or_is_silent_is_an_error() {
        let long = [b'x'; 2000];
        let cases: [(&[u8], &str); 5] = [
            (b"REJECTED EXTERNAL\r\n", "the connection is refused: \"REJECTED EXTERNAL\""),
            (b"DATA\r\nERROR\r\n", "the connection is refused: \"ERROR\""),
            (b"DATA\r\nOK\r\nxxxxxxxxxxxxxxxxxxxxxxxx", "the connection is refused: \"OK\""),
            (b"DATA\r\nOK 1\r\nxxxxxxxxxxxxxxxxxxxxxxxx", "sent no message of this protocol"),
            (&long, "sent a greeting without end"),
        ];
        for (index, (bytes, text)) in cases.into_iter().enumerate() {
            let socket = Socket::new(&format!("lies-{index}"));
            let mut connection = socket.connect();
            let (mut peer, _) = socket.1.accept().unwrap();
            peer.write_all(bytes).unwrap();
            assert_eq!(connection.receive(soon()).unwrap_err().to_string(), text);
        }
        let socket = Socket::new("silent");
        let mut connection = socket.connect();
        let deadline = Instant::now() + Duration::from_millis(50);
        assert!(matches!(connection.receive(deadline), Err(Error::Late)));
        assert!(Instant::now() >= deadline);
    }

    #[test]
    fn who_never_stops_talking_has_no_more_time_than_who_is_silent() {
        let socket = Socket::new("talks");
        let mut connection = socket.connect();
        let (mut peer, _) = socket.1.accept().unwrap();
        let talker = std::thread::spawn(move || {
            let words = ping().encode(1).repeat(100);
            let mut sent = peer.write_all(b"DATA\r\nOK 1\r\n");
            while sent.is_ok() {
                sent = peer.write_all(&words);
            }
        });
        let deadline = Instant::now() + Duration::from_millis(50);
        let end = soon();
        let told = loop {
            match connection.receive(deadline) {
                Ok(_) if Instant::now() < end => {}
                told => break told,
            }
        };
        assert!(matches!(told, Err(Error::Late)), "{told:?}");
        drop(connection);
        talker.join().unwrap();
    }

    #[test]
    fn nobody_but_the_peer_is_talked_to() {
        let socket = Socket::new("stranger");
        let peer = Peer { uid: own_uid() + 1 };
        let refused = Connection::open(&Address::Path(socket.0.clone()), peer);
        assert!(matches!(refused, Err(Error::Stranger(uid)) if uid == own_uid()));
    }
}
