//! A container whose program is about to run.

use std::os::fd::{AsFd, BorrowedFd};

use super::error::Error;
use super::listener::Listener;
use crate::start;

/// A container whose program is about to run. Its descriptor becomes readable when
/// [`Starting::step`] gets further. Where init shares the pid namespace of others that may take its
/// end of the socket, its own end is no event: a step now and then finds it. To drop this leaves
/// the container to start by itself; who asks for its state learns what became of it.
#[derive(Debug)]
pub struct Starting {
    begun: start::Starting,
    listener: Listener,
}

impl Starting {
    pub(super) fn new(begun: start::Starting, listener: Listener) -> Self {
        Self { begun, listener }
    }

    /// Takes in what init has said by now, without waiting for it. None: not yet.
    ///
    /// # Errors
    /// `Configuration` where the program cannot be executed, and `Hook`: then the container is gone.
    pub fn step(&mut self) -> Result<Option<()>, Error> {
        Ok(self.listener.during(|| self.begun.step())?)
    }
}

impl AsFd for Starting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.begun.as_fd()
    }
}
