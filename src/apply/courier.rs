//! The way of a listener to whoever waits for it, past the filter that it listens to.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::channel::{FromInit, InitEnd, ToInit};
use crate::sys;

/// A thread beside the one that loads a notifying filter. The listener exists only once
/// the filter is loaded, and then any call of the filtered thread, the one that would
/// send it too, may have to wait for an answer that nobody can give yet. execve(2) ends
/// the thread without a trace.
#[derive(Debug)]
pub struct Courier {
    /// 0; the listener's number and 1; how it ended.
    word: Arc<AtomicU32>,
}

impl Courier {
    const TAKEN: u32 = u32::MAX;
    const LOST: u32 = u32::MAX - 1;
    /// How long the way may take.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// Sends it out to wait for the listener, which it will send to `other`.
    pub fn send_out(other: &InitEnd) -> Result<Self> {
        let word = Arc::new(AtomicU32::new(0));
        let (other, shared) = (other.try_clone()?, Arc::clone(&word));
        std::thread::Builder::new()
            .stack_size(128 * 1024)
            .spawn(move || {
                let end = Instant::now() + Self::PATIENCE;
                while shared.load(Acquire) == 0 && Instant::now() < end {
                    std::thread::sleep(Duration::from_micros(50));
                }
                let taken = shared.load(Acquire).checked_sub(1).is_some_and(|number| {
                    let listener = sys::borrow_descriptor(number as i32);
                    other.send_with(&FromInit::Listener, listener).is_ok()
                        && other.expect(&ToInit::ListenerTaken).is_ok()
                });
                shared.store(if taken { Self::TAKEN } else { Self::LOST }, Release);
            })
            .context("clone: a thread to hand the listener over")?;
        Ok(Self { word })
    }

    /// Says which descriptor the listener is, and waits without a system call until the
    /// agent has it.
    pub fn deliver(&self, listener: i32) -> bool {
        self.word.store(listener as u32 + 1, Release);
        let end = Instant::now() + Self::PATIENCE;
        loop {
            match self.word.load(Acquire) {
                Self::TAKEN => return true,
                Self::LOST => return false,
                _ if Instant::now() > end => return false,
                _ => std::hint::spin_loop(),
            }
        }
    }
}
