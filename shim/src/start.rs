//! `start`: the program of a container or a pod, where there is none yet, and where it listens.

use std::fs;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use rustix::process::{getpid, getppid, umask};
use rustix::thread::{CoreSchedulingScope, create_core_scheduling_cookie};

use crate::bootstrap::{Asked, Typed};
use crate::config::Config;
use crate::options::{self, Given};

/// The file in a bundle that has the address, which containerd before 2.0 reads when it restarts.
pub const ADDRESS: &str = "address";
/// As much as is read of stdin.
const MOST: u64 = 10 << 20;
/// How many may wait to be let in.
const BACKLOG: i32 = 1024;
/// The score of who is killed first where memory is short.
const WORST_SCORE: i32 = 1000;

/// Starts it, or finds it. Returns what containerd is to read.
///
/// # Errors
/// What stands in the way, after which nothing is left.
pub fn start(typed: &Typed) -> Result<Vec<u8>> {
    let needed = |name| typed.needed(name).map_err(Error::msg);
    let (id, namespace, address) = (needed("id")?, needed("namespace")?, typed.value("address"));
    let mut given = Vec::new();
    std::io::stdin().lock().take(MOST).read_to_end(&mut given).context("stdin")?;
    let asked = Asked::read(&given, id, namespace).map_err(Error::msg)?;
    let config = Config::of(Path::new("."))?;
    let group = config.group().unwrap_or(id);
    let socket = asked.socket(address, namespace, group).map_err(Error::msg)?;
    if let Some(listener) = claim(Path::new(&socket))? {
        let started = prepare(&asked).and_then(|()| execute(typed, &asked, &socket, listener));
        if started.is_err() {
            let _ = fs::remove_file(&socket);
        }
        started?;
    }
    fs::write(ADDRESS, format!("unix://{socket}")).context(ADDRESS)?;
    Ok(asked.answer(&socket))
}

/// Listens at `socket`. None: somebody else does.
fn claim(socket: &Path) -> Result<Option<OwnedFd>> {
    let directory = socket.parent().context("a socket in no directory")?;
    let _lock = lock(directory, true)?;
    let address = SocketAddrUnix::new(socket).with_context(|| format!("{socket:?}"))?;
    if is_alive(&address, Duration::ZERO) {
        return Ok(None);
    }
    let _ = fs::remove_file(socket);
    let kind = SocketType::STREAM;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = socket_with(AddressFamily::UNIX, kind, flags, None).context("socket")?;
    let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let bound = bind(&listener, &address);
    umask(before);
    bound.and_then(|()| listen(&listener, BACKLOG)).with_context(|| format!("{socket:?}"))?;
    Ok(Some(listener))
}

/// Holds the directory of sockets until it is dropped, so that of two programs that begin at once
/// one listens and the other one finds it. It is made where it is not there and `is_needed`.
fn lock(directory: &Path, is_needed: bool) -> Result<OwnedFd> {
    if is_needed {
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(directory);
        made.with_context(|| format!("{directory:?}"))?;
    }
    let about = fs::metadata(directory).with_context(|| format!("{directory:?}"))?;
    if about.uid() != rustix::process::geteuid().as_raw() || about.mode() & 0o077 != 0 {
        bail!("{directory:?}: others than its owner have access, or it is another user's");
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let held = open(directory, flags, Mode::empty()).with_context(|| format!("{directory:?}"))?;
    flock(&held, FlockOperation::LockExclusive).with_context(|| format!("{directory:?}: flock"))?;
    Ok(held)
}

/// Whether somebody listens, and does so after some time.
fn is_alive(address: &SocketAddrUnix, patience: Duration) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok(socket) = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None) else {
        return false;
    };
    match connect(&socket, address) {
        Ok(()) => {}
        // No room in his queue is an answer too.
        Err(errno) => return errno == Errno::AGAIN,
    }
    let Ok(patience) = Timespec::try_from(patience) else { return true };
    // He says nothing unasked; the end of who had no time to let it in ends the connection.
    let hears = poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&patience));
    !hears.is_ok_and(|ready| ready > 0)
}

/// Removes a socket at which nobody listens any more, after a time in which one may end who has
/// hung up already.
pub fn remove_dead(socket: &Path, patience: Duration) {
    let Ok(address) = SocketAddrUnix::new(socket) else { return };
    if !socket.exists() {
        return;
    }
    let Some(directory) = socket.parent() else { return };
    if let Ok(_lock) = lock(directory, false)
        && !is_alive(&address, patience)
    {
        let _ = fs::remove_file(socket);
    }
}

/// Takes on what the program is to inherit: its class of scheduling, its group and its score.
fn prepare(asked: &Asked) -> Result<()> {
    if std::env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty()) {
        create_core_scheduling_cookie(getpid(), CoreSchedulingScope::ProcessGroup)
            .context("SCHED_CORE: prctl")?;
    }
    let options = options::read(asked.options.as_ref()).and_then(Given::load);
    let options = options.map_err(|refused| Error::msg(refused.message))?;
    if !options.shim_cgroup.is_empty() {
        join(&options.shim_cgroup)
            .with_context(|| format!("ShimCgroup: {:?}", options.shim_cgroup))?;
    }
    take_score()
}

/// Joins a group that is there, in each tree that has it.
fn join(group: &str) -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let group = group.trim_start_matches('/');
    let mut trees = vec![root.to_owned()];
    if !root.join("cgroup.controllers").exists() {
        let entries = fs::read_dir(root).with_context(|| format!("{root:?}"))?;
        trees = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    }
    let files = trees.iter().map(|tree| tree.join(group).join("cgroup.procs"));
    let there: Vec<PathBuf> = files.filter(|file| file.exists()).collect();
    if there.is_empty() {
        bail!("there is no such cgroup");
    }
    there.iter().try_for_each(|file| fs::write(file, "0").with_context(|| format!("{file:?}")))
}

/// Ends before containerd does where memory is short, and after the containers.
fn take_score() -> Result<()> {
    let parent = getppid().context("it has no parent")?.as_raw_nonzero();
    let path = format!("/proc/{parent}/oom_score_adj");
    let score = fs::read_to_string(&path).with_context(|| format!("{path:?}"))?;
    let score: i32 = score.trim().parse().with_context(|| format!("{path:?}"))?;
    let own = "/proc/self/oom_score_adj";
    fs::write(own, (score + 1).min(WORST_SCORE).to_string()).context(own)
}

/// Executes the program that stays, which listens by its stdin.
fn execute(typed: &Typed, asked: &Asked, socket: &str, listener: OwnedFd) -> Result<()> {
    let itself = fs::read_link("/proc/self/exe").ok().filter(|path| path.exists());
    let itself = itself.unwrap_or_else(|| "/proc/self/exe".into());
    let events = match asked.events.is_empty() {
        true => std::env::var("TTRPC_ADDRESS").unwrap_or_default(),
        false => asked.events.clone(),
    };
    let mut command = Command::new(&itself);
    for name in ["namespace", "id", "address"] {
        command.arg(format!("-{name}")).arg(typed.value(name));
    }
    command.args(["-events", &events, "-socket", socket]);
    if typed.debug || asked.debug {
        command.arg("-debug");
    }
    // Those of who started containerd.
    for name in ["NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "TTRPC_ADDRESS"] {
        command.env_remove(name);
    }
    command.stdin(listener).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().with_context(|| format!("execute {itself:?}")).map(drop)
}
