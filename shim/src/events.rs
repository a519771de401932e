//! Events on their way to containerd: one after the other, each until containerd has it.
//!
//! What is sent and not answered when the connection ends is sent once more: containerd may get an
//! event twice, and none is lost while this program lives.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::Message as _;
use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::connection::Connection;
use crate::frames::Kind;
use crate::messages::{Any, Envelope, ForwardRequest, Request, Response, Timestamp};
use crate::poller::{Poller, Source};

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
const METHOD: &str = "Forward";

/// How many may wait for a containerd that is away; the oldest are forgotten.
const MOST: usize = 16 * 1024;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before the first and the last attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// The events that containerd does not have yet.
#[derive(Debug)]
pub struct Events {
    /// The socket of containerd.
    address: PathBuf,
    namespace: String,
    /// Encoded calls, the first of which may be under way.
    queue: VecDeque<Vec<u8>>,
    connection: Option<Connection>,
    /// The number of the call that is under way.
    under_way: Option<u32>,
    next_stream: u32,
    /// When to look again: an answer is late, or a connection is tried again.
    due: Option<Instant>,
    pause: Duration,
}

impl Events {
    /// To the containerd that listens at `address`, of things in `namespace`.
    pub fn to(address: &str, namespace: &str) -> Self {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        Self {
            address: path.into(),
            namespace: namespace.to_owned(),
            queue: VecDeque::new(),
            connection: None,
            under_way: None,
            next_stream: 1,
            due: None,
            pause: PAUSES.0,
        }
    }

    /// Whether containerd has all of them.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// When to call [`Events::go_on`] at the latest.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Tells of an event.
    pub fn publish(&mut self, topic: &str, event: Any, at: Timestamp) {
        if self.address.as_os_str().is_empty() {
            return;
        }
        let envelope = Envelope {
            timestamp: Some(at),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(event),
        };
        let request = Request {
            service: SERVICE.to_owned(),
            method: METHOD.to_owned(),
            payload: ForwardRequest { envelope: Some(envelope) }.encode_to_vec(),
            timeout_nano: PATIENCE.as_nanos() as i64,
            metadata: Vec::new(),
        };
        if self.queue.len() >= MOST {
            // The first one may be under way.
            self.queue.remove(1);
        }
        self.queue.push_back(request.encode_to_vec());
    }

    /// Does what can be done without waiting. `is_ready`: the connection has said something.
    pub fn go_on(&mut self, poller: &Poller, now: Instant, is_ready: bool) {
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            if self.under_way.is_some() {
                self.disconnect(poller, now);
            }
        }
        if is_ready {
            self.hear(poller, now);
        }
        while self.under_way.is_none() && self.due.is_none() && !self.queue.is_empty() {
            if self.connection.is_none() && !self.connect(poller) {
                self.try_later(now);
                return;
            }
            self.send(poller, now);
        }
    }

    fn connect(&mut self, poller: &Poller) -> bool {
        let Some(socket) = dial(&self.address) else { return false };
        let connection = Connection::over(socket);
        if poller.add(&connection, Source::Events, EventFlags::IN).is_err() {
            return false;
        }
        self.connection = Some(connection);
        true
    }

    fn try_later(&mut self, now: Instant) {
        self.due = Some(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSES.1);
    }

    fn send(&mut self, poller: &Poller, now: Instant) {
        let (Some(connection), Some(first)) = (&mut self.connection, self.queue.front()) else {
            return;
        };
        let stream = self.next_stream;
        if !connection.send(stream, Kind::Request, first) {
            self.queue.pop_front();
            return;
        }
        self.next_stream = stream.wrapping_add(2);
        self.under_way = Some(stream);
        self.due = Some(now + PATIENCE);
        self.flush(poller, now);
    }

    fn flush(&mut self, poller: &Poller, now: Instant) {
        let Some(connection) = &mut self.connection else { return };
        match connection.flush() {
            Ok(()) => connection.wait_for_next(poller, Source::Events),
            Err(_) => self.disconnect(poller, now),
        }
    }

    fn hear(&mut self, poller: &Poller, now: Instant) {
        let Some(connection) = &mut self.connection else { return };
        let mut is_there = connection.read().is_ok();
        while let Some(frame) = connection.take().unwrap_or_else(|_| {
            is_there = false;
            None
        }) {
            if frame.kind == Kind::Response && self.under_way == Some(frame.stream) {
                // What containerd refuses it would refuse again.
                let _ = Response::decode(frame.data.as_slice());
                self.queue.pop_front();
                self.under_way = None;
                self.due = None;
                self.pause = PAUSES.0;
            }
        }
        match is_there {
            true => self.flush(poller, now),
            false => self.disconnect(poller, now),
        }
    }

    fn disconnect(&mut self, poller: &Poller, now: Instant) {
        if let Some(connection) = self.connection.take() {
            poller.remove(&connection);
        }
        self.under_way = None;
        self.next_stream = 1;
        self.due = None;
        if !self.queue.is_empty() {
            self.try_later(now);
        }
    }
}

/// A connection to the socket at `path`, if somebody listens and has room.
fn dial(path: &Path) -> Option<std::os::fd::OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    connect(&socket, &SocketAddrUnix::new(path).ok()?).ok()?;
    Some(socket)
}
