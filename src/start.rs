//! From a created container to a running one.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::Poll;

use anyhow::{Context as _, Error, Result, bail};
use nix::errno::Errno;

use crate::apply::hooks;
use crate::apply::refused_program;
use crate::cgroups;
use crate::channel::gate::{self, Verdict};
use crate::channel::{CreatorEnd, FromInit, Heard, ToInit};
use crate::create::CreatedContainer;
use crate::destroy;
use crate::error::message;
use crate::handover::sd_notify::Relay;
use crate::handover::seccomp_agent;
use crate::log;
use crate::plan::hooks::Hooks;
use crate::plan::process::{Field, ProcessPlan};
use crate::plan::request::Streams;
use crate::resolve;
use crate::store::{Container, Operation, ProcessFacts, Status};

/// Runs the program of a container that another process created.
/// `manager` is the socket of a service manager that wants to know when it is ready.
pub fn start(container: &Container, manager: Option<&OsStr>) -> Result<()> {
    check(container)?;
    let relay = Relay::listen(container, manager)?;
    // Before the program runs: it may have ended when it is looked for afterwards.
    let init = relay.as_ref().map(|_| container.open_init()).transpose()?.flatten();
    let opened = Opened::gate(container)?;
    opened.conclude(container, await_program(container, &opened.channel, &opened.verdict))?;
    if let (Some(relay), Some(init)) = (relay, init) {
        relay.serve(init, container.record.init.map(|init| init.pid))?;
    }
    Ok(())
}

/// A container whose program is about to run, for a caller that waits elsewhere: its descriptor
/// becomes readable when [`Starting::step`] gets further.
#[derive(Debug)]
pub struct Starting {
    container: Container,
    opened: Opened,
}

impl Starting {
    /// Opens the gate.
    pub fn begin(container: Container) -> Result<Self> {
        check(&container)?;
        let opened = Opened::gate(&container)?;
        Ok(Self { container, opened })
    }

    /// Takes in what init has said by now, without waiting for it. Some: the program runs.
    ///
    /// # Errors
    /// As those of `start`.
    pub fn step(&mut self) -> Result<Option<()>> {
        let Opened { channel, verdict } = &self.opened;
        let hear = || -> Result<Poll<()>> {
            loop {
                let heard = channel.receive_now(|| goes_on(&self.container, verdict))?;
                let Poll::Ready(heard) = heard else { return Ok(Poll::Pending) };
                if take(&self.container, channel, verdict, heard)? {
                    return Ok(Poll::Ready(()));
                }
            }
        };
        let heard = match hear() {
            Ok(Poll::Pending) => return Ok(None),
            Ok(Poll::Ready(())) => Ok(()),
            Err(error) => Err(error),
        };
        self.opened.conclude(&self.container, heard).map(Some)
    }
}

impl AsFd for Starting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.opened.channel.as_fd()
    }
}

/// Whether the container is there to be started.
fn check(container: &Container) -> Result<()> {
    container.check(Operation::Start)?;
    if !container.record.has_process {
        bail!("process: missing: there is no program to start");
    }
    Ok(())
}

/// What there is once the gate is open: the way to init, and the page for the result.
#[derive(Debug)]
struct Opened {
    channel: CreatorEnd,
    verdict: Verdict,
}

impl Opened {
    fn gate(container: &Container) -> Result<Self> {
        let (channel, verdict) = gate::open(container.open_directory()?)?;
        log::debug(|| format!("container {:?}: the gate is open", container.record.id));
        announce_hooks(container);
        Ok(Self { channel, verdict })
    }

    /// After what was heard of the program.
    fn conclude(&self, container: &Container, heard: Result<()>) -> Result<()> {
        let started = heard
            .map_err(|error| explain(container, &self.verdict, error))
            .and_then(|()| refuse_unexecuted(container));
        // Two may start at once: then init ran the program for the other one.
        let is_running = || -> Result<bool> {
            Ok(container.running_init()?.is_some_and(|init| init.has_executed))
        };
        if started.is_err() && self.verdict.is_open() && is_running()? {
            return Err(gate::already_open());
        }
        conclude(container, started)
    }
}

/// Runs the program of a container that this process created.
pub fn start_created(created: &CreatedContainer) -> Result<()> {
    let Some(verdict) = &created.verdict else { bail!("the container waits for start") };
    announce_hooks(&created.container);
    let started = created
        .channel
        .send(&ToInit::Start)
        .and_then(|()| await_program(&created.container, &created.channel, verdict))
        .map_err(|error| explain(&created.container, verdict, error))
        .and_then(|()| match created.is_filtered {
            true => refuse_unexecuted(&created.container),
            false => Ok(()),
        });
    conclude(&created.container, started)
}

/// Logs which hooks init will call: it cannot say so itself any more.
fn announce_hooks(container: &Container) {
    log::debug(|| {
        let hooks = container.config().and_then(|spec| Hooks::plan(spec.hooks().as_ref()));
        match hooks.map(|hooks| hooks.start_container) {
            Ok(hooks) if hooks.is_empty() => "init calls no startContainer hooks".to_owned(),
            Ok(hooks) => {
                let hooks = hooks.iter().map(|hook| format!("{} {:?}", hook.field, hook.path));
                format!("init calls {}", hooks.collect::<Vec<_>>().join(", "))
            }
            Err(error) => message(&error),
        }
    });
}

/// Waits for the end of the channel, which comes with the program.
fn await_program(container: &Container, channel: &CreatorEnd, verdict: &Verdict) -> Result<()> {
    loop {
        // Others may see an init that has no pid namespace of its own, and keep its end open.
        let heard = match container.record.own_pids {
            true => channel.receive()?,
            false => channel.receive_while(|| goes_on(container, verdict))?,
        };
        if take(container, channel, verdict, heard)? {
            return Ok(());
        }
    }
}

/// Whether init may still have something to say.
fn goes_on(container: &Container, verdict: &Verdict) -> Result<bool> {
    let init = container.running_init()?;
    Ok(init.is_some_and(|init| !(verdict.is_executing() && init.has_executed)))
}

/// Does what init asks for. Returns whether the program runs. None: the channel has ended.
fn take(
    container: &Container,
    channel: &CreatorEnd,
    verdict: &Verdict,
    heard: Heard,
) -> Result<bool> {
    match heard {
        None => verdict.read(|errno| explain_refusal(container, errno)).map(|()| true),
        Some((FromInit::Listener, Some(listener))) => {
            let init = container.record.init.context("the container has no init process")?;
            seccomp_agent::hand_over(container, init.pid, Status::Created, &listener)?;
            channel.send(&ToInit::ListenerTaken).map(|()| false)
        }
        Some((FromInit::Failed(failure), _)) => Err(failure.into_error()),
        Some((other, _)) => bail!("{other:?} where the program was due"),
    }
}

/// Why execve(2) failed. The program may lie in a volume, which is gone with init.
fn explain_refusal(container: &Container, errno: Errno) -> Error {
    let plan = || -> Result<ProcessPlan> {
        let spec = container.config()?;
        let process = spec.process().as_ref().context("process: missing")?;
        ProcessPlan::plan(process, None, Field::CONFIG, &Streams::default())
    };
    let root = resolve::root(&container.record.rootfs).ok();
    match plan() {
        Ok(plan) => refused_program::explain(root.as_ref(), &plan, errno),
        Err(_) => Error::new(errno).context("process.args[0]: exec"),
    }
}

/// An init that ended before it came as far as the program may have been killed.
fn explain(container: &Container, verdict: &Verdict, error: Error) -> Error {
    match verdict.is_open() {
        true => cgroups::want_of_memory(&container.record.group).unwrap_or(error),
        false => error,
    }
}

/// A filter may kill init at execve(2) itself, which init announces and cannot take
/// back. The kernel takes the flag off before it closes the channel, and remembers it
/// as long as nobody has reaped init.
fn refuse_unexecuted(container: &Container) -> Result<()> {
    let init = container.record.init.context("the container has no init process")?;
    if let Some(now) = ProcessFacts::read(init.pid)?
        && now.is(init)?
        && !now.has_executed
    {
        let died = Error::msg("the init process died before it could run the program");
        // By its filter, or because somebody has killed it.
        return Err(if has_filter(container) { died.context("linux.seccomp") } else { died });
    }
    Ok(())
}

fn has_filter(container: &Container) -> bool {
    let spec = container.config().ok();
    let linux = spec.as_ref().and_then(|spec| spec.linux().as_ref());
    linux.is_some_and(|linux| linux.seccomp().is_some())
}

/// After the program runs, or does not: hooks, or the end of the container
/// (runtime.md#lifecycle, 7 to 9).
fn conclude(container: &Container, started: Result<()>) -> Result<()> {
    let result = started.and_then(|()| {
        log::debug(|| format!("container {:?}: the program was executed", container.record.id));
        let pid = container.record.init.context("the container has no init process")?.pid;
        // The program may have ended by now; for its hooks it runs.
        let state = container.record.identity().for_hooks(Status::Running, pid);
        hooks::run(&container.record.poststart, &state, &container.record.bundle)
    });
    // The container of this ID may be another one by now.
    if result.is_err() && container.is_current() {
        destroy::after_failure(container);
    }
    result
}
