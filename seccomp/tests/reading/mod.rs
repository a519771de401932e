//! What a profile says of a call, read rule by rule.

use ferrun_seccomp::Arch;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator,
    LinuxSyscall,
};

const KILL_THREAD: u32 = 0;
const ENOSYS: u32 = 0x0005_0026;

/// Architectures whose arguments are 32 bits wide.
const NARROW: [Arch; 10] = [
    Arch::X86,
    Arch::X32,
    Arch::Arm,
    Arch::Mips,
    Arch::Mipsel,
    Arch::Mips64n32,
    Arch::Mipsel64n32,
    Arch::Parisc,
    Arch::Ppc,
    Arch::S390,
];

fn holds(arch: Arch, arg: &LinuxSeccompArg, arguments: &[u64; 6]) -> bool {
    let low = if NARROW.contains(&arch) { u64::from(u32::MAX) } else { u64::MAX };
    let (found, value) = (arguments[arg.index()] & low, arg.value() & low);
    match arg.op() {
        Operator::ScmpCmpNe => found != value,
        Operator::ScmpCmpLt => found < value,
        Operator::ScmpCmpLe => found <= value,
        Operator::ScmpCmpEq => found == value,
        Operator::ScmpCmpGe => found >= value,
        Operator::ScmpCmpGt => found > value,
        Operator::ScmpCmpMaskedEq => found & value == arg.value_two().unwrap_or(0) & value,
    }
}

/// Whether the rule asks for nothing: a mask without bits is no condition.
fn is_unconditional(arch: Arch, rule: &LinuxSyscall) -> bool {
    let low = if NARROW.contains(&arch) { u64::from(u32::MAX) } else { u64::MAX };
    combine(rule, |arg| arg.op() == Operator::ScmpCmpMaskedEq && arg.value() & low == 0)
}

fn fits(arch: Arch, rule: &LinuxSyscall, arguments: &[u64; 6]) -> bool {
    combine(rule, |arg| holds(arch, arg, arguments))
}

/// All conditions, or any where some are on one argument.
fn combine(rule: &LinuxSyscall, condition: impl Fn(&LinuxSeccompArg) -> bool) -> bool {
    let args = rule.args().as_deref().unwrap_or_default();
    let repeats =
        (1..args.len()).any(|i| args[..i].iter().any(|arg| arg.index() == args[i].index()));
    if repeats { args.iter().any(condition) } else { args.iter().all(condition) }
}

/// What the profile allows to happen: one outcome, or those of several rules
/// that fit.
pub fn outcomes(
    profile: &LinuxSeccomp,
    native: Arch,
    arch: Arch,
    number: u32,
    arguments: &[u64; 6],
) -> Vec<u32> {
    let default = profile.default_action().as_u32(profile.default_errno_ret());
    let mut named: Vec<Arch> = profile
        .architectures()
        .iter()
        .flatten()
        .filter_map(|arch| Arch::from_spec(*arch, native))
        .collect();
    named.push(native);
    if !named.contains(&arch) {
        return vec![KILL_THREAD];
    }
    let rules = || profile.syscalls().iter().flatten();
    let numbers = |rule: &LinuxSyscall| -> Vec<u32> {
        rule.names().iter().filter_map(|name| arch.syscall(name)).collect()
    };
    let newest = rules().flat_map(numbers).max();
    let permissive =
        [Action::ScmpActAllow, Action::ScmpActLog, Action::ScmpActTrace, Action::ScmpActNotify];
    let denies = !permissive.contains(&profile.default_action());
    if denies && newest.is_some_and(|newest| number > newest) {
        return vec![ENOSYS];
    }
    let action = |rule: &LinuxSyscall| rule.action().as_u32(rule.errno_ret());
    let about: Vec<&LinuxSyscall> =
        rules().filter(|rule| numbers(rule).contains(&number) && action(rule) != default).collect();
    let unconditional = about.iter().find(|rule| is_unconditional(arch, rule));
    let fitting: Vec<u32> = match unconditional {
        Some(rule) => vec![action(rule)],
        None => about
            .iter()
            .filter(|rule| fits(arch, rule, arguments))
            .map(|rule| action(rule))
            .collect(),
    };
    if fitting.is_empty() { vec![default] } else { fitting }
}

/// Arguments around which the rules of the profile change their answers.
pub fn values(profile: &LinuxSeccomp) -> Vec<u64> {
    let mut values = vec![0, 1, u64::MAX, 1 << 32];
    let args = profile.syscalls().iter().flatten().flat_map(|rule| rule.args().iter().flatten());
    for value in args.flat_map(|arg| [arg.value(), arg.value_two().unwrap_or(0)]) {
        let around = [value.wrapping_add(1), value.wrapping_sub(1), value ^ 1 << 32, value << 32];
        values.push(value);
        values.extend(around);
    }
    values
}

/// Whether the call is reached by its own number and name alone, so that `outcomes` knows it.
pub fn has_own_reading(arch: Arch, number: u32) -> bool {
    let is_multiplexer =
        ["socketcall", "ipc"].iter().any(|name| arch.syscall(name) == Some(number));
    // The other half of a shared token, and setup(2) of s390.
    let is_of_another = match arch {
        Arch::X86_64 => number >= 0x4000_0000,
        Arch::X32 => number < 0x4000_0000,
        Arch::S390 | Arch::S390x => number == 0,
        _ => false,
    };
    !is_multiplexer && !is_of_another
}
