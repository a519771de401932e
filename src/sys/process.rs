//! Kernel calls on processes that nix and rustix do not wrap safely.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::abi::{SIBLING, SchedulerAttributes};

/// Says that this process has one thread. A copy of its memory that a clone makes has no other
/// thread that would ever let go of a lock, and what changes a process changes it for all of its
/// threads. The command has it from C's `main`, and a process that it clones from the clone; no
/// thread is started before what asks for it is done. A program that embeds the runtime has none,
/// and so cannot call what asks for it.
#[derive(Debug, Clone, Copy)]
pub struct OneThread(PhantomData<*const ()>);

impl OneThread {
    /// For the beginning of `main`.
    ///
    /// # Safety
    /// There is one thread, and none will be started as long as a copy of this is used.
    pub const unsafe fn promise() -> Self {
        Self(PhantomData)
    }
}

/// How clone3(2) is to make the child.
#[derive(Debug, Default)]
pub struct Clone3<'fd> {
    /// CLONE_NEW* flags, CLONE_PARENT.
    pub flags: u64,
    /// The cgroup v2 directory that the child starts in (CLONE_INTO_CGROUP).
    pub cgroup: Option<std::os::fd::BorrowedFd<'fd>>,
}

/// Which side of a clone this is.
#[derive(Debug)]
pub enum Cloned {
    /// The parent: the child's pid and a pidfd for it.
    Parent(Pid, OwnedFd),
    /// The child, which must never return into the parent's code.
    Child(OneThread),
}

/// Makes a child process with a copy of this one's memory (clone3(2)). The
/// child gets the exit signal SIGCHLD, or the parent's with CLONE_PARENT.
pub fn clone3(alone: OneThread, args: &Clone3<'_>) -> nix::Result<Cloned> {
    // SAFETY: there is one thread, so that the copy is whole.
    match unsafe { copy(args) }? {
        Some((pid, pidfd)) => Ok(Cloned::Parent(pid, pidfd)),
        None => Ok(Cloned::Child(alone)),
    }
}

/// Makes a child process in new namespaces (CLONE_NEW* flags) that does nothing but wait to be
/// killed. It ends with the thread that calls this.
pub fn clone_that_waits(flags: u64) -> nix::Result<(Pid, OwnedFd)> {
    // SAFETY: the child makes two system calls, which need nothing of its memory.
    match unsafe { copy(&Clone3 { flags, cgroup: None }) }? {
        Some(child) => Ok(child),
        None => {
            let _ = set_parent_death_signal(libc::SIGKILL);
            loop {
                nix::unistd::pause();
            }
        }
    }
}

/// The call. None: this is the child.
///
/// # Safety
/// Where there are other threads, the child makes system calls only: what others were changing
/// stays as it was in its memory, and locks of theirs stay locked.
unsafe fn copy(args: &Clone3<'_>) -> nix::Result<Option<(Pid, OwnedFd)>> {
    #[repr(C, align(8))]
    #[derive(Default)]
    struct Arguments {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: libc::c_int = -1;
    let mut arguments = Arguments {
        flags: args.flags | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        ..Default::default()
    };
    if args.flags & libc::CLONE_PARENT as u64 == 0 {
        arguments.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = args.cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no stack is given and CLONE_VM is never among the flags, so the child runs on
    // a copy of this memory as after fork(2); the kernel writes the pidfd to a variable that
    // lives until the call returns.
    let ret =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<Arguments>()) };
    match Errno::result(ret)? {
        0 => Ok(None),
        pid => {
            // SAFETY: the kernel has just made this descriptor for us (CLONE_PIDFD).
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Some((Pid::from_raw(pid as libc::pid_t), pidfd)))
        }
    }
}

/// Makes a sibling of this process, a child of its parent, with a copy of its memory.
/// By clone(2), which filters for containers let through where they refuse clone3(2),
/// whose flags they cannot read.
pub fn clone_sibling(alone: OneThread) -> nix::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: no stack is given and CLONE_VM is not among the flags, so the child runs on a
    // copy of this memory as after fork(2). Third comes, on all architectures that this is
    // built for, the address that the kernel writes the pidfd to: a variable that lives until
    // the call returns. The last two are not used without their flags.
    let ret = unsafe { libc::syscall(libc::SYS_clone, SIBLING, 0, &raw mut pidfd, 0, 0) };
    match Errno::result(ret)? {
        0 => Ok(Cloned::Child(alone)),
        pid => {
            // SAFETY: the kernel has just made this descriptor for us (CLONE_PIDFD).
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent(Pid::from_raw(pid as libc::pid_t), pidfd))
        }
    }
}

/// Ends the process at once, without running destructors or exit handlers of
/// memory that it shares in copy with its parent. Traps where a filter refuses exit.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: exit_group takes a number and touches no memory.
    unsafe { libc::syscall(libc::SYS_exit_group, code) };
    trap()
}

/// Ends the process by an illegal instruction, which no filter can refuse.
fn trap() -> ! {
    loop {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: ud2 raises SIGILL and has no other effect.
        unsafe {
            std::arch::asm!("ud2")
        }
        #[cfg(not(target_arch = "x86_64"))]
        std::process::abort()
    }
}

/// A word of memory that two processes see: a child and its parent, or two
/// processes that map one memfd. It carries the result of execve(2), which under
/// a container's filter nothing else can.
#[derive(Debug)]
pub struct SharedWord {
    word: *mut u32,
}

impl SharedWord {
    const LENGTH: usize = 4096;

    /// Shared with children that are cloned after this call.
    pub fn new() -> nix::Result<Self> {
        Self::map(-1, libc::MAP_SHARED | libc::MAP_ANONYMOUS)
    }

    /// Shared with everybody who maps this memfd, which must be a page long.
    pub fn in_memfd(memfd: impl AsFd) -> nix::Result<Self> {
        Self::map(memfd.as_fd().as_raw_fd(), libc::MAP_SHARED)
    }

    fn map(descriptor: libc::c_int, flags: libc::c_int) -> nix::Result<Self> {
        // SAFETY: the kernel picks an unused address, and the mapping stays until the value
        // that owns it is dropped.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::LENGTH,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                descriptor,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Self { word: address.cast() })
    }

    fn atomic(&self) -> &AtomicU32 {
        // SAFETY: `word` is page aligned, mapped as long as this value lives (see `map`), and
        // only ever used as an atomic.
        unsafe { AtomicU32::from_ptr(self.word) }
    }

    /// Writes the word.
    pub fn set(&self, value: u32) {
        self.atomic().store(value, Ordering::Release);
    }

    /// Reads the word.
    pub fn get(&self) -> u32 {
        self.atomic().load(Ordering::Acquire)
    }
}

impl Drop for SharedWord {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nobody refers to it any more.
        let _ = unsafe { libc::munmap(self.word.cast(), Self::LENGTH) };
    }
}

/// Removes one capability from the bounding set (prctl(2), PR_CAPBSET_DROP).
/// EINVAL: the kernel does not know this number.
pub fn drop_bounding(capability: u32) -> nix::Result<()> {
    // SAFETY: the call takes numbers only.
    let ret = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) };
    Errno::result(ret).map(drop)
}

/// Sets real, effective and saved user and group ids and the supplementary
/// groups of the process. `groups` None leaves those alone.
pub fn set_ids(uid: u32, gid: u32, groups: Option<&[u32]>) -> Result<(), (&'static str, Errno)> {
    if let Some(groups) = groups {
        // SAFETY: pointer and length come from one slice of gid_t.
        let ret = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
        Errno::result(ret).map_err(|errno| ("setgroups", errno))?;
    }
    // SAFETY: the call takes numbers only. There is one thread, so the raw call is enough.
    let ret = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
    Errno::result(ret).map_err(|errno| ("setresgid", errno))?;
    // SAFETY: as above.
    let ret = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    Errno::result(ret).map_err(|errno| ("setresuid", errno)).map(drop)
}

/// Sets the I/O class and priority of the calling process (ioprio_set(2)).
pub fn set_io_priority(class: u32, priority: u32) -> nix::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: the call takes numbers only.
    let ret = unsafe {
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, class << 13 | priority)
    };
    Errno::result(ret).map(drop)
}

/// Sets the scheduling policy of a process with one thread, the calling one for 0
/// (sched_setattr(2)).
pub fn set_scheduler(pid: i32, attributes: &SchedulerAttributes) -> nix::Result<()> {
    let attributes =
        SchedulerAttributes { size: size_of::<SchedulerAttributes>() as u32, ..*attributes };
    // SAFETY: the kernel reads as many bytes as `size` says.
    let ret = unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const attributes, 0) };
    Errno::result(ret).map(drop)
}

/// Lets the calling process run on every processor that its cgroup has (sched_setaffinity(2)).
pub fn take_all_processors() -> nix::Result<()> {
    // As many as Linux can be built for (NR_CPUS of arch/x86/Kconfig). Those that there are not
    // are passed over.
    let all = [u8::MAX; 8192 / 8];
    // SAFETY: the kernel reads as many bytes as it is told, which `all` has.
    let ret = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, all.len(), all.as_ptr()) };
    Errno::result(ret).map(drop)
}

/// Sets the execution domain (personality(2)).
pub fn set_personality(domain: u64) -> nix::Result<()> {
    // SAFETY: the call takes a number only.
    let ret = unsafe { libc::syscall(libc::SYS_personality, domain) };
    Errno::result(ret).map(drop)
}

/// Sets the NUMA memory policy of the calling thread (set_mempolicy(2)). `nodes`
/// is a bit mask, lowest node first.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> nix::Result<()> {
    let bits = nodes.len() * 64;
    let (mask, bits) =
        if nodes.is_empty() { (std::ptr::null(), 0) } else { (nodes.as_ptr(), bits + 1) };
    // SAFETY: the kernel reads `bits - 1` bits from the mask, which is that long.
    let ret = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) };
    Errno::result(ret).map(drop)
}

/// Sets which signal this process gets when its parent's thread ends, 0 for
/// none (prctl(2), PR_SET_PDEATHSIG). Changes of ids clear it.
pub fn set_parent_death_signal(signal: libc::c_int) -> nix::Result<()> {
    // SAFETY: the call takes numbers only.
    let ret = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong, 0, 0, 0) };
    Errno::result(ret).map(drop)
}

/// Makes this process, and what it clones, opaque to whoever may trace others: memory,
/// descriptors and /proc/PID of a non-dumpable process are root's alone (PR_SET_DUMPABLE).
pub fn hide() -> rustix::io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Gives a signal its default action (sigaction(2)).
pub fn set_default_action(signal: Signal) -> nix::Result<()> {
    set_action(signal, SigHandler::SigDfl)
}

/// Ignores a signal (sigaction(2)).
pub fn ignore(signal: Signal) -> nix::Result<()> {
    set_action(signal, SigHandler::SigIgn)
}

fn set_action(signal: Signal, handler: SigHandler) -> nix::Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: neither the default action nor that of ignoring runs code of ours.
    unsafe { sigaction(signal, &action) }.map(drop)
}

/// The signals that this process ignores, bit n for signal n + 1, as they were when it was
/// first asked: its own SIGPIPE, and those of a caller such as nohup(1), or a shell for what it
/// runs in the background. To be asked before a child is made that is to reset them.
pub fn ignored_signals() -> u64 {
    static IGNORED: OnceLock<u64> = OnceLock::new();
    *IGNORED.get_or_init(|| {
        let mask = || -> Option<u64> {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let file = open("/proc/self/status", flags, Mode::empty()).ok()?;
            let mut buffer = [0; 4096];
            let length = rustix::io::read(file, &mut buffer).ok()?;
            let mut lines = buffer.get(..length)?.split(|byte| *byte == b'\n');
            let mask = lines.find_map(|line| line.strip_prefix(b"SigIgn:"))?;
            u64::from_str_radix(std::str::from_utf8(mask).ok()?.trim(), 16).ok()
        };
        mask().unwrap_or_default()
    })
}

/// Gives all signals their default actions and unblocks them, as a program expects at its
/// start: what is ignored stays so over execve(2).
pub fn reset_signals() -> nix::Result<()> {
    set_default_action(Signal::SIGPIPE)?;
    let others = ignored_signals() & !(1 << (Signal::SIGPIPE as i32 - 1));
    for number in (1..=64).filter(|number| others & 1 << (number - 1) != 0) {
        // The kernel's struct sigaction: all zero stands for the default action, without flags
        // and with an empty mask. The C library keeps some numbers for itself.
        let action = [0_u64; 4];
        // SAFETY: the default action runs no code of ours, the structure outlives the call, and
        // nothing is written back.
        let ret = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                action.as_ptr(),
                std::ptr::null::<u64>(),
                8,
            )
        };
        Errno::result(ret)?;
    }
    SigSet::empty().thread_set_mask()
}

/// Lets the signals that people and engines end a program with end this process. The first one
/// of a pid namespace has to catch them: the kernel gives it none whose action is the default
/// (pid_namespaces(7)). execve(2) takes this back.
pub fn end_by_signals() -> nix::Result<()> {
    extern "C" fn end(signal: libc::c_int) {
        exit_now(128 + signal)
    }
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
        // SAFETY: the handler makes one system call and never returns, which is safe at any point.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Starts a program with signals as it expects them ([`reset_signals`]): one that is
/// started while this process holds signals back would inherit that.
pub fn spawn_with_signals(command: &mut Command) -> io::Result<Child> {
    ignored_signals();
    // SAFETY: the closure runs in the child between fork(2) and execve(2), where only
    // async-signal-safe calls are allowed: sigaction(2) and sigprocmask(2) are, and it
    // neither allocates nor takes a lock.
    unsafe { command.pre_exec(|| reset_signals().map_err(io::Error::from)) };
    command.spawn()
}

/// The first descriptor that [`spawn_alone`] does not put into the place of another one.
pub const FIRST_FREE: libc::c_int = 4;

/// Starts a program that has of this process its standard descriptors, those of `command`, and
/// `socket` by the number 3, and that is killed when the thread that calls this ends
/// (PR_SET_PDEATHSIG in prctl(2)).
pub fn spawn_alone(command: &mut Command, socket: OwnedFd) -> io::Result<Child> {
    const NUMBER: libc::c_int = FIRST_FREE - 1;
    let parent = std::process::id() as libc::pid_t;
    // By another number: dup2(2) would leave the flag of one that is right already.
    let socket = rustix::io::fcntl_dupfd_cloexec(&socket, FIRST_FREE)?;
    ignored_signals();
    let own = socket.as_raw_fd();
    // SAFETY: the closure runs in the child between fork(2) and execve(2), where only
    // async-signal-safe calls are allowed: all of these are bare system calls, and it neither
    // allocates nor takes a lock. What close_range(2) marks stays open until execve(2).
    unsafe {
        command.pre_exec(move || {
            let is_done = |ret: libc::c_long| match ret {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            };
            reset_signals().map_err(io::Error::from)?;
            is_done(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL).into())?;
            if libc::getppid() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            let rest = libc::CLOSE_RANGE_CLOEXEC;
            is_done(libc::syscall(libc::SYS_close_range, NUMBER, u32::MAX, rest))?;
            is_done(libc::dup2(own, NUMBER).into())
        });
    }
    command.spawn()
}

/// Starts a program that has of this process its standard descriptors, those of `command`, and
/// `descriptors` by the numbers from 3 on.
pub fn spawn_with(command: &mut Command, descriptors: Vec<OwnedFd>) -> io::Result<Child> {
    const FIRST: libc::c_int = 3;
    let free = FIRST + descriptors.len() as libc::c_int;
    // By numbers that none of them is to have (see `spawn_alone`).
    let out_of_the_way = descriptors.iter().map(|own| rustix::io::fcntl_dupfd_cloexec(own, free));
    let descriptors = out_of_the_way.collect::<Result<Vec<_>, _>>()?;
    ignored_signals();
    // SAFETY: the closure runs in the child between fork(2) and execve(2), where only
    // async-signal-safe calls are allowed: all of these are bare system calls, and it neither
    // allocates nor takes a lock. What it owns is open until it is dropped with `command`.
    unsafe {
        command.pre_exec(move || {
            reset_signals().map_err(io::Error::from)?;
            for (number, own) in (FIRST..).zip(&descriptors) {
                if libc::dup2(own.as_raw_fd(), number) == -1 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command.spawn()
}

/// The pid of a child that has ended and is not reaped, if there is one (waitid(2)).
pub fn ended_child() -> nix::Result<Option<i32>> {
    // SAFETY: siginfo_t is plain data, all zero is a valid value of it.
    let mut about: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the kernel writes to a structure that lives until the call returns.
    let ret = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut about, options) };
    match Errno::result(ret) {
        Err(Errno::ECHILD) => Ok(None),
        Err(errno) => Err(errno),
        // SAFETY: it is all zero, or the kernel has filled in what belongs to SIGCHLD.
        Ok(_) => Ok(Some(unsafe { about.si_pid() }).filter(|pid| *pid != 0)),
    }
}

/// Sends a signal by its number to a process that is known not to be reaped (kill(2)).
pub fn send_signal(pid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: the call takes numbers only.
    let ret = unsafe { libc::kill(pid, signal) };
    Errno::result(ret).map(drop)
}

/// Sends a signal by its number, also a real-time one (pidfd_send_signal(2)).
pub fn pidfd_send_signal(process: impl AsFd, signal: i32) -> nix::Result<()> {
    // SAFETY: the null pointer stands for an argument that is not given; the others are numbers.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(ret).map(drop)
}
