//! Those who call: containerd, by a connection for each container.

use std::collections::BTreeMap;

use prost::Message as _;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{getegid, geteuid};

use super::{PAUSE, Server, Timer};
use crate::connection::{Connection, End};
use crate::frames::{Frame, Kind};
use crate::log;
use crate::messages::Request;
use crate::poller::Source;
use crate::service::answer::{Answer, Call, Code, Refusal, response};

/// How many may be connected at once.
const MOST: usize = 8192;
/// How many calls of one caller may wait for their answers.
const MOST_CALLS: usize = 16 * 1024;

/// Somebody who is connected.
#[derive(Debug)]
pub struct Caller {
    connection: Connection,
    /// The call that came last.
    last: u32,
    /// How many calls are not answered.
    waiting: usize,
}

impl Server {
    /// Lets in whoever waits at the socket, if he may.
    pub(super) fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match accept_with(&self.listener, flags) {
            Ok(socket) => socket,
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                // He waits there, and would be told of again and again.
                self.poller.change(&self.listener, Source::Listener, EventFlags::empty());
                return self.set_timer(PAUSE, Timer::Listen);
            }
            Err(_) => return,
        };
        let is_own = socket_peercred(&socket)
            .is_ok_and(|peer| (peer.uid, peer.gid) == (geteuid(), getegid()));
        if !is_own || self.callers.len() >= MOST {
            return log::warn("a caller of another user, or one too many, was turned away");
        }
        let number = self.number();
        let connection = Connection::over(socket);
        if self.poller.add(&connection, Source::Caller(number), EventFlags::IN).is_ok() {
            self.callers.insert(number, Caller { connection, last: 0, waiting: 0 });
        }
    }

    /// Takes in what a caller says.
    pub(super) fn hear(&mut self, number: u64, flags: EventFlags) {
        let Some(caller) = self.callers.get_mut(&number) else { return };
        if flags.contains(EventFlags::OUT) {
            let _ = caller.connection.flush();
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR)
            && let Err(end) = self.hear_calls(number)
        {
            if let End::Broken(broken) = end {
                log::warn(format!("a caller was turned away: {broken}"));
            }
            return self.hang_up(number);
        }
        if let Some(caller) = self.callers.get_mut(&number) {
            caller.connection.wait_for_next(&self.poller, Source::Caller(number));
        }
    }

    fn hear_calls(&mut self, number: u64) -> Result<(), End> {
        let Some(caller) = self.callers.get_mut(&number) else { return Ok(()) };
        let ended = caller.connection.read();
        while let Some(frame) = caller.connection.take()? {
            let request = taken(caller, &frame)?;
            self.service.call(Call { connection: number, stream: frame.stream }, &request);
        }
        ended
    }

    fn hang_up(&mut self, number: u64) {
        if let Some(caller) = self.callers.remove(&number) {
            self.poller.remove(&caller.connection);
            self.service.gone(number);
        }
    }

    /// Answers a call.
    pub(super) fn answer(&mut self, call: Call, answer: Answer) {
        if let Err(refusal) = &answer {
            log::debug(|| format!("refused: {}", refusal.message));
        }
        let callers: &mut BTreeMap<u64, Caller> = &mut self.callers;
        let Some(caller) = callers.get_mut(&call.connection) else { return };
        caller.waiting = caller.waiting.saturating_sub(1);
        let connection = &mut caller.connection;
        if !connection.send(call.stream, Kind::Response, &response(answer)) {
            let long = Refusal::new(Code::Unknown, "the answer is too long");
            connection.send(call.stream, Kind::Response, &response(Err(long)));
        }
        match connection.flush() {
            Ok(()) => connection.wait_for_next(&self.poller, Source::Caller(call.connection)),
            Err(_) => self.hang_up(call.connection),
        }
    }
}

/// The call in a frame.
fn taken(caller: &mut Caller, frame: &Frame) -> Result<Request, End> {
    let is_next = frame.stream % 2 == 1 && frame.stream > caller.last;
    if frame.kind != Kind::Request || !is_next || caller.waiting >= MOST_CALLS {
        return Err(End::Closed);
    }
    caller.last = frame.stream;
    caller.waiting += 1;
    Request::decode(frame.data.as_slice()).map_err(|_| End::Closed)
}
