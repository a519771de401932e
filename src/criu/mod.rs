//! CRIU at work: one process of the program `criu` for each request, and the conversation with
//! it (`criu swrk`), over a pair of sockets of which each packet is a message.

mod log;
pub mod message;

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
    Shutdown, SocketFlags, SocketType, recvmsg, send, shutdown, socketpair,
};

use self::message::{Answer, Features, Kind};
use crate::error::{Kind as ErrorKind, words};
use crate::plan::checkpoint::{OLDEST, Options, name};
use crate::sys::process::spawn_with;

/// The program, which is looked for in PATH.
const PROGRAM: &str = "criu";
/// The number by which the program has its socket, and the first behind it.
const SOCKET: &str = "3";
/// The number of the first descriptor that the program gets besides.
pub const FIRST_DESCRIPTOR: i32 = 4;
/// The step at which CRIU asks for no answer any more: it lets what it has restored run, or waits
/// for ever for who has ended meanwhile. It is killed then.
const PAST_RETURN: &str = "pre-resume";
/// No message of CRIU's is as long.
const LONGEST: usize = 64 * 1024;

/// Whose stdin, stdout and stderr the program has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// The caller's: what is restored may take them over.
    Callers,
    /// Nobody's. It is not in the caller's process group either: a key that ends the caller must
    /// not end it while it is in the middle of others' memory. It notices, and takes it back.
    None,
}

/// A step that CRIU has reached.
#[derive(Debug)]
pub struct Step {
    /// Its name (criu(8), action scripts).
    pub name: String,
    /// The process that it is about.
    pub pid: Option<i32>,
    /// What comes with it.
    pub descriptor: Option<OwnedFd>,
}

/// The program, waiting for a request or at work on it.
#[derive(Debug)]
pub struct Criu {
    child: Child,
    socket: OwnedFd,
}

impl Criu {
    /// Starts the program with these descriptors besides, from [`FIRST_DESCRIPTOR`] on.
    pub fn start(streams: Streams, descriptors: Vec<OwnedFd>) -> Result<Self> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .context("socketpair")?;
        let mut command = Command::new(PROGRAM);
        command.args(["swrk", SOCKET]);
        if streams == Streams::None {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.process_group(0);
        }
        let mut all = vec![theirs];
        all.extend(descriptors);
        match spawn_with(&mut command, all) {
            Ok(child) => Ok(Self { child, socket }),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                Err(ErrorKind::Unsupported.error("criu: is not in PATH: CRIU is not installed"))
            }
            Err(error) => Err(error).context("execute criu"),
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a message.
    pub fn send(&self, message: &[u8]) -> Result<()> {
        rustix::io::retry_on_intr(|| send(&self.socket, message, SendFlags::NOSIGNAL))
            .context("send a request to criu")?;
        Ok(())
    }

    /// Waits for the answer of a request. `reached` is told of each step before, and may end it
    /// there: then its error is what has failed.
    pub fn answer(&mut self, mut reached: impl FnMut(Step) -> Result<()>) -> Result<Answer> {
        let mut failed = None;
        loop {
            let Some((answer, descriptor)) = self.receive()? else {
                let how = self.child.wait().context("wait for criu")?;
                let ended = format!("criu ended by {how}, and has not answered");
                return Err(failed.unwrap_or_else(|| anyhow::Error::msg(ended)));
            };
            if answer.kind != Kind::Notify as u64 || !answer.success {
                return match failed {
                    Some(error) => Err(error),
                    None => Ok(answer),
                };
            }
            let name = answer.step.unwrap_or_default();
            crate::log::debug(|| format!("criu: {name}, process {:?}", answer.pid));
            let goes_on_anyway = name == PAST_RETURN;
            // The first failure is the cause of those after it.
            if failed.is_none() {
                failed = reached(Step { name, pid: answer.pid, descriptor }).err();
            }
            if failed.is_some() && goes_on_anyway {
                self.child.kill().context("kill criu")?;
                continue;
            }
            // Where it is gone by now, the next it says is its end.
            let _ = self.send(&message::reached(failed.is_none()));
        }
    }

    /// None: it has ended.
    fn receive(&self) -> Result<Option<(Answer, Option<OwnedFd>)>> {
        let mut buffer = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            let pieces = &mut [IoSliceMut::new(&mut buffer)];
            recvmsg(&self.socket, pieces, &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let received = match received {
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            received => received.context("the conversation with criu")?,
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            bail!("criu says more than {LONGEST} bytes at once");
        }
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let answer = message::answer(buffer.get(..received.bytes).unwrap_or_default());
        Ok(Some((answer.context("criu's answer is not understood")?, descriptor)))
    }

    /// Waits for the end of the program, which has answered. A dump in advance waits for more
    /// requests until it hears that none will come, and does not take that well.
    pub fn end(mut self, is_in_advance: bool) -> Result<()> {
        let _ = shutdown(&self.socket, Shutdown::Write);
        let how = self.child.wait().context("wait for criu")?;
        if !how.success() && !is_in_advance {
            bail!("criu ended by {how}");
        }
        Ok(())
    }
}

/// Nobody hears it any more, so it takes back what it has done and ends.
impl Drop for Criu {
    fn drop(&mut self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// The version of the program. Refuses one that is too old for all of it.
pub fn version() -> Result<u32> {
    let answer = ask(&message::version()).context("ask criu for its version")?;
    let version = answer.version;
    if version < OLDEST {
        let text = format!("CRIU {} is older than {}", name(version), name(OLDEST));
        return Err(ErrorKind::Unsupported.error(text));
    }
    crate::log::debug(|| format!("criu: version {}", name(version)));
    Ok(version)
}

/// What of these there is.
pub fn features(asked: Features) -> Result<Features> {
    Ok(ask(&message::features(asked)).context("ask criu for its features")?.features)
}

fn ask(question: &[u8]) -> Result<Answer> {
    let mut criu = Criu::start(Streams::None, Vec::new())?;
    criu.send(question)?;
    let answer = criu.answer(|_| Ok(()))?;
    if !answer.success {
        bail!("{}", reason(&answer));
    }
    criu.end(false)?;
    Ok(answer)
}

/// Why an answer is none, by CRIU's own words.
fn reason(answer: &Answer) -> String {
    let errno = (answer.errno != 0)
        .then(|| words(std::io::Error::from_raw_os_error(answer.errno.saturating_abs())));
    let told: Vec<_> = errno.into_iter().chain(answer.reason.clone()).collect();
    match told.is_empty() {
        true => "it has failed".to_owned(),
        false => told.join(": "),
    }
}

/// A request that CRIU has not fulfilled, with the lines of its log that matter. They are
/// repeated with those before them as warnings.
pub fn failure(
    what: &str,
    answer: &Answer,
    options: &Options,
    (directory, path): (BorrowedFd<'_>, &std::path::Path),
) -> anyhow::Error {
    let path = path.join(options.log_file);
    let quoted = log::quote(directory.as_fd(), options.log_file);
    if !quoted.lines.is_empty() {
        crate::log::warn(format!("{path:?} says:"));
        quoted.lines.iter().for_each(crate::log::warn);
    }
    let errors = match quoted.errors.is_empty() {
        true => reason(answer),
        false => quoted.errors.join("; "),
    };
    anyhow::Error::msg(format!("criu has failed to {what}: {errors} (see {path:?})"))
}
