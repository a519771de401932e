//! What a command tells the program that executed it (`--report`), when that is more than an
//! exit code: which process it made, what was passed over, and why it failed.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context as _, Error, Result};
use serde::{Deserialize, Serialize};

use crate::channel::{self, Channel};
use crate::error::Failure;
use crate::sys;

/// What is told.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The process that was made; carries a pidfd of it.
    Made {
        /// Its pid, as the command sees it.
        pid: i32,
    },
    /// The terminal of that process; carries the master side.
    Console,
    /// Something was passed over.
    Warning(String),
    /// Why the command failed.
    Failed(Failure),
}

/// What the other side says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nothing {}

/// The command's end.
#[derive(Debug)]
pub struct Reporter(Channel<Report, Nothing>);

/// The end of who has executed it.
pub type Reports = Channel<Nothing, Report>;

impl Reporter {
    /// Over the descriptor that the command line names. To be called once, before anything
    /// that could take its number.
    pub fn over(number: i32) -> Result<Self> {
        let socket = sys::take_descriptor(number).with_context(|| format!("--report {number}"))?;
        Ok(Self(Channel::over(socket)))
    }

    /// Tells of the process that was made.
    pub fn made(&self, pid: i32, pidfd: impl AsFd) -> Result<()> {
        self.0.send_with(&Report::Made { pid }, pidfd).context("--report")
    }

    /// Hands over the master side of the terminal of that process.
    pub fn console(&self, master: impl AsFd) -> Result<()> {
        self.0.send_with(&Report::Console, master).context("--report")
    }

    /// Tells of what was passed over, in one datagram: the new process may do so too, and what
    /// two say must not mix.
    pub fn warn(&self, message: &str) {
        /// Escaped, no character takes more than twice its bytes.
        const LONGEST: usize = channel::DATAGRAM / 2 - 64;
        let message = message.chars().scan(0, |length, next| {
            *length += next.len_utf8();
            (*length <= LONGEST).then_some(next)
        });
        let message = message.collect();
        let _ = self.0.send(&Report::Warning(message));
    }

    /// Tells why the command fails. Whoever is gone need not know.
    pub fn failed(&self, error: &Error) {
        let _ = self.0.send(&Report::Failed(Failure::new(error)));
    }
}

/// The end of the executing program, over its socket.
pub fn reports(socket: OwnedFd) -> Reports {
    Channel::over(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn a_warning_is_one_datagram_whatever_it_says() {
        for text in ["short".to_owned(), "\"".repeat(5000), "\u{fe}\\".repeat(3000)] {
            let (own, other) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                    .unwrap();
            Reporter(Channel::over(own)).warn(&text);
            let mut buffer = vec![0; 8 * channel::DATAGRAM];
            let length = rustix::io::read(&other, &mut buffer).unwrap();
            let told: Report = serde_json::from_slice(&buffer[..length]).unwrap();
            let Report::Warning(told) = told else { panic!("{told:?}") };
            assert!(!told.is_empty() && text.starts_with(&told), "{told}");
        }
    }
}
