//! OCI seccomp profiles compiled to BPF.
//!
//! [`compile`] turns `linux.seccomp` of the runtime specification into a
//! program for seccomp(2). It is a function of its input alone: it makes no
//! kernel call, and loading the program is the caller's business.
//!
//! # Why not libseccomp
//!
//! Its filters are slow to make and slow to load: of Docker's profile it makes
//! a chain of a thousand comparisons in 8 ms, and the kernel, which runs every
//! call number through a new filter, needs another 0.7 ms. Here each
//! architecture's calls become sorted ranges of equal outcome under a balanced
//! search. What a profile means is the same, call for call: the tests compare
//! both programs. The few deliberate differences stand in the README.
//!
//! # Calls newer than the profile
//!
//! A profile that denies by default denies also the calls that its author
//! could not know. A C library that sees `EPERM` takes the new call for
//! forbidden and fails, where `ENOSYS` would make it use the older one. So if
//! the default action denies (`SCMP_ACT_ERRNO`, `SCMP_ACT_KILL*`,
//! `SCMP_ACT_TRAP`), numbers above the highest one that the profile names for
//! an architecture fail with `ENOSYS`, as they do under runc. A default of
//! `SCMP_ACT_TRACE` or `SCMP_ACT_NOTIFY` is left alone: who answers those calls
//! can answer new ones too.

mod arch;
mod decide;
mod emit;
mod program;
mod table;
mod walk;

use anyhow::{Context, Result, bail, ensure};
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};

pub use arch::Arch;
pub use program::Instruction;
pub use walk::KnownCall;

use arch::Call;
use decide::{Condition, Decision, Decisions, Fallback, Rule};
use program::Program;

/// The most instructions the kernel takes (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// How many arguments a call has.
const ARGUMENTS: usize = 6;

// linux/seccomp.h
const RET_KILL_THREAD: u32 = 0;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
// asm-generic/errno.h; the filter's errno is translated nowhere, so a foreign
// architecture would need its own number, but all that can run here share it.
const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

/// The actions a profile may name.
pub const ACTIONS: [&str; 9] = [
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_LOG",
    "SCMP_ACT_ALLOW",
];

/// The operators a profile may name.
pub const OPERATORS: [&str; 7] = [
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
];

/// The flags a profile may name.
pub const FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// The architectures a profile may name, apart from `SCMP_ARCH_NATIVE`.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    Arch::ALL.into_iter().map(Arch::name)
}

/// A compiled filter, ready for seccomp(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The program, at most [`MAX_INSTRUCTIONS`].
    pub instructions: Vec<Instruction>,
    /// How to load it.
    pub flags: FilterFlags,
    /// Whether some action is `SCMP_ACT_NOTIFY`, so that loading needs
    /// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
    pub notifies: bool,
    /// What was passed over, with its field: worth a line in a debug log.
    pub warnings: Vec<String>,
}

/// The flags of seccomp(2) that a profile asks for (linux/seccomp.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilterFlags(u64);

impl FilterFlags {
    /// Apply the filter to all threads of the process.
    pub const TSYNC: Self = Self(1);
    /// Log all actions but allow.
    pub const LOG: Self = Self(1 << 1);
    /// Leave the speculative store bypass mitigation off.
    pub const SPEC_ALLOW: Self = Self(1 << 2);
    /// Report a thread that cannot be synchronised by `ESRCH`. Without it TSYNC
    /// and a listener exclude each other, because both would be the result.
    pub const TSYNC_ESRCH: Self = Self(1 << 4);
    /// Let only fatal signals interrupt a call whose notification was received.
    pub const WAIT_KILLABLE_RECV: Self = Self(1 << 5);

    /// The bits for the kernel.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether all of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Compiles `profile` for a machine whose own architecture is `native`.
///
/// The native architecture is always part of the filter; one that is neither
/// native nor named is killed. Without `flags` the filter is loaded with
/// `SPEC_ALLOW`, as runc does: the mitigation that the kernel would turn on
/// instead costs much and container engines do not ask for it.
///
/// # Errors
/// Where the profile breaks a rule of the specification, or is too large for
/// the kernel; the error begins with the field below `linux.seccomp`.
pub fn compile(profile: &LinuxSeccomp, native: Arch) -> Result<Filter> {
    let mut warnings = Vec::new();
    let default =
        action(profile.default_action(), profile.default_errno_ret()).context("defaultErrnoRet")?;
    let rules = rules(profile.syscalls().as_deref().unwrap_or_default(), &mut warnings)?;
    let architectures = named_architectures(profile, native, &mut warnings);
    let notifies = notifies(profile);
    let flags = flags(profile, notifies)?;
    ensure!(
        profile.listener_metadata().as_ref().is_none_or(String::is_empty)
            || profile.listener_path().is_some(),
        "listenerMetadata: needs listenerPath"
    );

    let fallback = Fallback { default, newer: newer(profile.default_action(), default) };
    let instructions = program(&architectures, &rules, fallback)?.finish();
    ensure!(
        instructions.len() <= MAX_INSTRUCTIONS,
        "syscalls: the filter takes {} instructions, the kernel allows {MAX_INSTRUCTIONS} (BPF_MAXINSNS)",
        instructions.len()
    );
    Ok(Filter { instructions, flags, notifies, warnings })
}

fn program(architectures: &[Arch], rules: &[Rule], fallback: Fallback) -> Result<Program> {
    let mut program = Program::default();
    let mut parts = Vec::new();
    for &arch in architectures {
        let mut decisions = Decisions::default();
        match arch {
            // x32 shares the token of x86_64, and is part of that.
            Arch::X32 if architectures.contains(&Arch::X86_64) => continue,
            Arch::X32 => {
                decisions.begin(0, Decision::Return(RET_KILL_THREAD));
                decisions.add(arch, arch::X32_BIT, rules, fallback)?;
            }
            Arch::X86_64 => {
                decisions.add(arch, 0, rules, fallback)?;
                if architectures.contains(&Arch::X32) {
                    decisions.add(Arch::X32, arch::X32_BIT, rules, fallback)?;
                } else {
                    decisions.begin(arch::X32_BIT, Decision::Return(RET_KILL_THREAD));
                    // Not x32, but how a tracer skips a call.
                    decisions.begin(u32::MAX, Decision::Return(fallback.default));
                }
            }
            _ => decisions.add(arch, 0, rules, fallback)?,
        }
        parts.push((arch.token(), emit::part(&mut program, arch, &decisions, fallback.default)));
    }
    emit::dispatch(&mut program, &parts, RET_KILL_THREAD);
    Ok(program)
}

/// The architectures of the profile, native first, each once.
fn named_architectures(
    profile: &LinuxSeccomp,
    native: Arch,
    warnings: &mut Vec<String>,
) -> Vec<Arch> {
    let mut architectures = vec![native];
    for (i, &named) in profile.architectures().iter().flatten().enumerate() {
        match Arch::from_spec(named, native) {
            Some(arch) if architectures.contains(&arch) => {}
            Some(arch) => architectures.push(arch),
            // Nothing that this program runs on can make calls of it.
            None => warnings
                .push(format!("architectures[{i}]: {named} is not known here and stays killed")),
        }
    }
    architectures
}

fn rules(syscalls: &[LinuxSyscall], warnings: &mut Vec<String>) -> Result<Vec<Rule>> {
    let mut rules = Vec::with_capacity(syscalls.len());
    for (i, syscall) in syscalls.iter().enumerate() {
        ensure!(!syscall.names().is_empty(), "syscalls[{i}].names: must name at least one call");
        let action = action(syscall.action(), syscall.errno_ret())
            .with_context(|| format!("syscalls[{i}].errnoRet"))?;
        let mut conditions = Vec::new();
        for (j, arg) in syscall.args().iter().flatten().enumerate() {
            conditions
                .push(condition(arg).with_context(|| format!("syscalls[{i}].args[{j}].index"))?);
        }
        let mut calls = Vec::with_capacity(syscall.names().len());
        for (j, name) in syscall.names().iter().enumerate() {
            match Call::named(name) {
                Some(call) => calls.push(call),
                None => warnings
                    .push(format!("syscalls[{i}].names[{j}]: {name:?}: no such call, ignored")),
            }
        }
        rules.push(Rule { calls, action, alternatives: alternatives(conditions) });
    }
    Ok(rules)
}

/// All conditions hold together, but for runc's exception: where one argument
/// has several, each is a rule of its own.
fn alternatives(conditions: Vec<Condition>) -> Vec<Vec<Condition>> {
    let mut arguments = [false; ARGUMENTS];
    let mut repeats = |condition: &Condition| {
        let seen = arguments.get_mut(usize::from(condition.index));
        seen.is_some_and(|seen| std::mem::replace(seen, true))
    };
    match conditions.iter().any(&mut repeats) {
        true => conditions.into_iter().map(|condition| vec![condition]).collect(),
        false => vec![conditions],
    }
}

fn condition(arg: &LinuxSeccompArg) -> Result<Condition> {
    ensure!(arg.index() < ARGUMENTS, "{}: a call has {ARGUMENTS} arguments", arg.index());
    let (mask, value) = match arg.op() {
        Operator::ScmpCmpMaskedEq => (arg.value(), arg.value_two().unwrap_or(0) & arg.value()),
        _ => (u64::MAX, arg.value()),
    };
    Ok(Condition { index: arg.index() as u8, operator: arg.op(), mask, value })
}

/// The value for the kernel. The error is about `errno`.
fn action(action: Action, errno: Option<u32>) -> Result<u32> {
    let most = match action {
        // The kernel would return this one for every larger one (MAX_ERRNO).
        Action::ScmpActErrno => 4095,
        Action::ScmpActTrace => u32::from(u16::MAX),
        _ => 0,
    };
    match errno {
        Some(errno) if most == 0 => bail!("{errno}: {action} takes none"),
        Some(errno) if errno > most => bail!("{errno}: more than {most}"),
        _ => {}
    }
    let with_errno = match action {
        Action::ScmpActErrno => RET_ERRNO,
        Action::ScmpActTrace => RET_TRACE,
        other => return Ok(other.into()),
    };
    Ok(with_errno | errno.unwrap_or(EPERM))
}

/// What calls newer than the profile get; see the head of this file.
fn newer(action: Action, default: u32) -> u32 {
    match action {
        Action::ScmpActAllow
        | Action::ScmpActLog
        | Action::ScmpActTrace
        | Action::ScmpActNotify => default,
        Action::ScmpActKill
        | Action::ScmpActKillThread
        | Action::ScmpActKillProcess
        | Action::ScmpActTrap
        | Action::ScmpActErrno => RET_ERRNO | ENOSYS,
    }
}

fn notifies(profile: &LinuxSeccomp) -> bool {
    let mut actions = profile.syscalls().iter().flatten().map(LinuxSyscall::action);
    profile.default_action() == Action::ScmpActNotify
        || actions.any(|action| action == Action::ScmpActNotify)
}

fn flags(profile: &LinuxSeccomp, notifies: bool) -> Result<FilterFlags> {
    let Some(named) = profile.flags() else { return Ok(FilterFlags::SPEC_ALLOW) };
    let mut flags = FilterFlags::default();
    for (i, flag) in named.iter().enumerate() {
        flags = flags.with(match flag {
            Flag::SeccompFilterFlagTsync if notifies => {
                FilterFlags::TSYNC.with(FilterFlags::TSYNC_ESRCH)
            }
            Flag::SeccompFilterFlagTsync => FilterFlags::TSYNC,
            Flag::SeccompFilterFlagLog => FilterFlags::LOG,
            Flag::SeccompFilterFlagSpecAllow => FilterFlags::SPEC_ALLOW,
            Flag::SeccompFilterFlagWaitKillableRecv => {
                ensure!(notifies, "flags[{i}]: {flag} needs an action SCMP_ACT_NOTIFY");
                FilterFlags::WAIT_KILLABLE_RECV
            }
        });
    }
    Ok(flags)
}
