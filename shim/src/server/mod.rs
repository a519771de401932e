//! The program that stays: one thread that waits at one place, and does what the service decides.

mod actions;
mod callers;
mod children;
mod making;
mod memory;
mod streaming;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use ferrun::cgroups::OomWatch;
use ferrun::{Buses, Runtime};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::epoll::EventFlags;

pub use self::actions::EXIT;
pub use self::making::{OPTIONS, PID_FILE, memory_file, root_of};

use self::callers::Caller;
use self::making::{Making, Working};
use self::streaming::{Copying, Open};
use crate::events::Events;
use crate::log;
use crate::messages::Timestamp;
use crate::metrics::Meter;
use crate::poller::{Poller, Source};
use crate::service::Service;
use crate::service::task::Who;

/// How long events may take at the end.
const LAST_EVENTS: Duration = Duration::from_secs(5);
/// How long to leave callers alone where there are no descriptors for them.
const PAUSE: Duration = Duration::from_millis(100);

/// What the program was started with.
#[derive(Debug)]
pub struct Settings {
    /// containerd's namespace.
    pub namespace: String,
    /// Where containerd takes events.
    pub events: String,
    /// The socket that callers connect to.
    pub socket: PathBuf,
    /// Where systemd is found.
    pub buses: Buses,
}

/// What is done at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Timer {
    /// The streams of a process have had time enough to end.
    Drained(Who),
    /// It is looked whether somebody reads what a process has said before its end, after this
    /// time.
    Unread(Who, Duration),
    /// A program that reads an output has had time enough to end.
    Logger(i32),
    /// Callers may connect again.
    Listen,
    /// Children are looked at again.
    Children,
}

/// A container, as far as the service does not know it.
#[derive(Debug, Clone)]
struct Held {
    runtime: Rc<Runtime>,
    bundle: PathBuf,
    /// Where its root was mounted, if it was, and whether to unmount it may take long.
    mounted: Option<(PathBuf, bool)>,
    /// Whether others decide how long it takes to start it.
    starts_slowly: bool,
    /// The same, of removing it.
    ends_slowly: bool,
    /// Who owns the pipes of its processes.
    owner: (u32, u32),
    /// The directory of CRIU's logs, where it is not in the bundle.
    logs: Option<PathBuf>,
}

/// All that the program is.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    poller: Poller,
    listener: OwnedFd,
    signals: SignalFd,
    service: Service,
    events: Events,
    /// By a number that no other one ever had, as in what follows.
    callers: BTreeMap<u64, Caller>,
    works: BTreeMap<u64, Working>,
    making: BTreeMap<u64, Making>,
    copies: BTreeMap<u64, Copying>,
    next: u64,
    containers: BTreeMap<String, Held>,
    streams: BTreeMap<Who, Open>,
    /// What tells of kills for want of memory, and in which container.
    watches: BTreeMap<u64, (String, OomWatch)>,
    /// What reads what each container uses that somebody has asked about.
    meters: BTreeMap<String, Meter>,
    runtimes: Vec<(PathBuf, bool, Rc<Runtime>)>,
    timers: Vec<(Instant, Timer)>,
    /// The programs that read outputs, and the process that is forgotten when one has ended.
    loggers: BTreeMap<i32, Option<Who>>,
    end_by: Option<Instant>,
}

impl Server {
    /// Serves those who connect to `listener`.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn new(settings: Settings, listener: OwnedFd) -> Result<Self> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            mask.add(signal);
        }
        mask.thread_block().context("sigprocmask")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags).context("signalfd")?;
        ferrun::sys::process::ignore(Signal::SIGPIPE).context("sigaction SIGPIPE")?;
        // The processes of containers become children of this one.
        nix::sys::prctl::set_child_subreaper(true).context("prctl")?;
        let poller = Poller::new()?;
        poller.add(&listener, Source::Listener, EventFlags::IN).context("epoll_ctl")?;
        poller.add(&signals, Source::Signals, EventFlags::IN).context("epoll_ctl")?;
        Ok(Self {
            events: Events::to(&settings.events, &settings.namespace),
            settings,
            poller,
            listener,
            signals,
            service: Service::default(),
            callers: BTreeMap::new(),
            works: BTreeMap::new(),
            making: BTreeMap::new(),
            copies: BTreeMap::new(),
            next: 0,
            containers: BTreeMap::new(),
            streams: BTreeMap::new(),
            watches: BTreeMap::new(),
            meters: BTreeMap::new(),
            runtimes: Vec::new(),
            timers: Vec::new(),
            loggers: BTreeMap::new(),
            end_by: None,
        })
    }

    /// Serves until it is told to end.
    ///
    /// # Errors
    /// Where waiting fails.
    pub fn serve(mut self) -> Result<()> {
        let mut events_are_ready = false;
        loop {
            self.act();
            let now = Instant::now();
            self.events.go_on(&self.poller, now, events_are_ready);
            events_are_ready = false;
            if self.end_by.is_some_and(|end| self.events.is_empty() || end <= now) {
                return Ok(());
            }
            let mut has_signal = false;
            for (source, flags) in self.poller.wait(self.patience(now))? {
                match source {
                    Source::Listener => self.accept(),
                    Source::Signals => has_signal = true,
                    Source::Caller(number) => self.hear(number, flags),
                    Source::Events => events_are_ready = true,
                    Source::Work(number) => self.step(number),
                    Source::Copy(number) => self.copy(number),
                    Source::Logger(number) => self.hear_logger(number),
                    Source::Memory(number) => self.hear_memory(number),
                }
            }
            // What has been told of children comes before their ends.
            if has_signal {
                self.take_signals();
            }
            self.be_on_time();
        }
    }

    fn patience(&self, now: Instant) -> Option<Duration> {
        let timers = self.timers.iter().map(|(due, _)| *due);
        let first = timers.chain(self.events.due()).chain(self.end_by).min()?;
        // Rounded up: to wake too early is to wait once more.
        Some(first.saturating_duration_since(now) + Duration::from_millis(1))
    }

    fn be_on_time(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        let due = self.timers.extract_if(.., |(due, _)| *due <= now).collect::<Vec<_>>();
        for (_, timer) in due {
            match timer {
                Timer::Drained(who) => self.drained(&who),
                Timer::Unread(who, waited) => self.look_for_readers(&who, waited),
                Timer::Logger(pid) => {
                    self.end_logger(pid, Signal::SIGKILL);
                }
                Timer::Listen => {
                    self.poller.change(&self.listener, Source::Listener, EventFlags::IN);
                }
                Timer::Children => self.reap(),
            }
        }
    }

    fn set_timer(&mut self, after: Duration, timer: Timer) {
        self.timers.push((Instant::now() + after, timer));
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(signal.ssi_signo.cast_signed()) {
                Ok(Signal::SIGCHLD) => {}
                Ok(Signal::SIGHUP) => {}
                _ => {
                    log::warn(format!("signal {}: it ends", signal.ssi_signo));
                    self.end();
                }
            }
        }
        self.reap();
    }

    /// Ends once containerd has all events.
    fn end(&mut self) {
        if self.end_by.is_none() {
            // Whoever starts a container from now on starts a program too, and has this name.
            let _ = fs::remove_file(&self.settings.socket);
            self.end_by = Some(Instant::now() + LAST_EVENTS);
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// The time of the day.
pub fn today() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: now.as_secs().cast_signed(), nanos: now.subsec_nanos().cast_signed() }
}
