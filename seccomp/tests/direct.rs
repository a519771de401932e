//! The program against a direct reading of the profile, rule by rule, for all
//! that libseccomp cannot be asked: architectures it does not know or does not
//! mix, and rules that it compiles wrongly.

#![cfg(test)]

#[path = "interpreter/mod.rs"]
mod interpreter;
#[path = "random/mod.rs"]
mod random;

use ferrun_seccomp::{Arch, compile};
use interpreter::{Call, run};
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator,
    LinuxSyscall,
};
use random::{Kind, Random, random_profile};

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
fn outcomes(
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

#[test]
fn any_profile_means_what_its_rules_say() {
    let mut random = Random::new(4);
    let (mut compiled, mut contradictory) = (0, 0);
    for _ in 0..1500 {
        let (profile, native, architectures) = random_profile(&mut random, Kind::Any);
        let instructions = match compile(&profile, native) {
            Ok(filter) => filter.instructions,
            Err(error) => {
                assert!(error.to_string().contains("contradicts"), "{error:#}");
                contradictory += 1;
                continue;
            }
        };
        compiled += 1;
        let args =
            || profile.syscalls().iter().flatten().flat_map(|rule| rule.args().iter().flatten());
        let mut values = vec![0, 1, u64::MAX, 1 << 32];
        for value in args().flat_map(|arg| [arg.value(), arg.value_two().unwrap_or(0)]) {
            values.extend([
                value,
                value.wrapping_add(1),
                value.wrapping_sub(1),
                value ^ 1 << 32,
                value << 32,
            ]);
        }
        for arch in architectures {
            let names = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
            let mut numbers: Vec<u32> = names.filter_map(|name| arch.syscall(name)).collect();
            numbers.extend(numbers.clone().into_iter().flat_map(|n| [n.wrapping_sub(1), n + 1]));
            // Reached also through other names, so no matter of this reading.
            numbers.retain(|n| {
                ["socketcall", "ipc"].iter().all(|name| arch.syscall(name) != Some(*n))
            });
            // The other half of a shared token, and setup(2) of s390.
            numbers.retain(|n| !matches!(arch, Arch::X86_64) || *n < 0x4000_0000);
            numbers.retain(|n| !matches!(arch, Arch::X32) || *n >= 0x4000_0000);
            numbers.retain(|n| !matches!(arch, Arch::S390 | Arch::S390x) || *n > 0);
            for number in numbers {
                for _ in 0..24 {
                    let arguments = std::array::from_fn(|_| *random.pick(&values));
                    let found = run(&instructions, &Call::new(arch, number, arguments));
                    let expected = outcomes(&profile, native, arch, number, &arguments);
                    assert!(
                        expected.contains(&found),
                        "{} {number} {arguments:x?}: {found:#x}, not one of {expected:x?}\n{}",
                        arch.name(),
                        serde_json::to_string(&profile).unwrap()
                    );
                }
            }
        }
    }
    println!("{compiled} profiles compared, {contradictory} refused as contradictory");
    assert!(compiled > 1000);
}
