//! libseccomp as the oracle: from the same profile its program and ours must
//! do the same to every call.
//!
//! What is left out on purpose, because we differ on purpose, has tests of its
//! own in `profile.rs`: names that libseccomp does not know, calls newer than
//! the profile, and the numbers that libseccomp makes up for multiplexed calls.

#![cfg(test)]

#[path = "interpreter/mod.rs"]
mod interpreter;
#[path = "random/mod.rs"]
mod random;

use std::io::Read;

use ferrun_seccomp::{Arch, Instruction, compile};
use interpreter::{Call, run};
use libseccomp::error::SeccompErrno;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator,
};
use random::{Kind, Random, random_profile};

const RET_ENOSYS: u32 = 0x0005_0026;

fn scmp_arch(arch: Arch) -> ScmpArch {
    arch.name().parse().unwrap()
}

fn scmp_action(action: Action, errno: Option<u32>) -> ScmpAction {
    let data = errno.unwrap_or(1);
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => ScmpAction::KillThread,
        Action::ScmpActKillProcess => ScmpAction::KillProcess,
        Action::ScmpActTrap => ScmpAction::Trap,
        Action::ScmpActErrno => ScmpAction::Errno(data as i32),
        Action::ScmpActTrace => ScmpAction::Trace(data as u16),
        Action::ScmpActLog => ScmpAction::Log,
        Action::ScmpActAllow => ScmpAction::Allow,
        Action::ScmpActNotify => ScmpAction::Notify,
    }
}

fn scmp_condition(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let (op, datum) = match arg.op() {
        Operator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        Operator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        Operator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        Operator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        Operator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        Operator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        Operator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0))
        }
    };
    ScmpArgCompare::new(arg.index() as u32, op, datum)
}

/// Whether two conditions are on one argument: runc then takes each for a rule.
fn repeats(args: &[LinuxSeccompArg]) -> bool {
    (1..args.len()).any(|i| args[..i].iter().any(|arg| arg.index() == args[i].index()))
}

/// The program that runc has libseccomp make of `profile`; `None` where
/// libseccomp refuses two rules as contradictory.
fn oracle(profile: &LinuxSeccomp, native: Arch) -> Option<Vec<Instruction>> {
    let default = scmp_action(profile.default_action(), profile.default_errno_ret());
    let mut filter = ScmpFilterContext::new(default).unwrap();
    if native != Arch::X86_64 {
        filter.remove_arch(ScmpArch::X8664).unwrap();
        filter.add_arch(scmp_arch(native)).unwrap();
    }
    for &arch in profile.architectures().iter().flatten() {
        filter.add_arch(scmp_arch(Arch::from_spec(arch, native).unwrap())).unwrap();
    }
    for rule in profile.syscalls().iter().flatten() {
        let action = scmp_action(rule.action(), rule.errno_ret());
        if action == default {
            continue;
        }
        let args = rule.args().as_deref().unwrap_or_default();
        let conditions: Vec<_> = args.iter().map(scmp_condition).collect();
        let rules: Vec<_> =
            if repeats(args) { conditions.chunks(1).collect() } else { vec![&conditions] };
        for name in rule.names() {
            let call = ScmpSyscall::from_name(name).unwrap();
            for &conditions in &rules {
                match filter.add_rule_conditional(action, call, conditions) {
                    Ok(_) => {}
                    Err(error) if error.errno() == Some(SeccompErrno::EEXIST) => return None,
                    Err(error) => panic!("{name}: {error}"),
                }
            }
        }
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    filter.export_bpf(&writer).unwrap();
    drop(writer);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    // The program is written in the byte order of the machine it is for.
    let little_endian = native.token() & 0x4000_0000 != 0;
    let instruction = |raw: &[u8]| {
        let (code, k) = ([raw[0], raw[1]], [raw[4], raw[5], raw[6], raw[7]]);
        let (code, k) = match little_endian {
            true => (u16::from_le_bytes(code), u32::from_le_bytes(k)),
            false => (u16::from_be_bytes(code), u32::from_be_bytes(k)),
        };
        Instruction { code, jt: raw[2], jf: raw[3], k }
    };
    Some(bytes.chunks_exact(8).map(instruction).collect())
}

/// The newest call of `arch` that the profile names.
fn newest(profile: &LinuxSeccomp, arch: Arch) -> Option<u32> {
    let names = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
    names.filter_map(|name| arch.syscall(name)).max()
}

fn denies(profile: &LinuxSeccomp) -> bool {
    !matches!(
        profile.default_action(),
        Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace | Action::ScmpActNotify
    )
}

/// Numbers of calls worth a look: all that could be known, and the edges.
fn numbers(arch: Arch) -> Vec<u32> {
    let first = match arch {
        Arch::Mips | Arch::Mipsel => 4000,
        Arch::Mips64 | Arch::Mipsel64 => 5000,
        Arch::Mips64n32 | Arch::Mipsel64n32 => 6000,
        Arch::X32 => 0x4000_0000,
        _ => 0,
    };
    let mut numbers: Vec<u32> = (first..first + 600).collect();
    numbers.extend([
        0x0f_0001,
        0x0f_0005,
        0x3fff_ffff,
        0x4000_0000,
        0x4000_0258,
        0x7fff_ffff,
        0x8000_0000,
    ]);
    numbers.extend([0xc000_0000, 0xffff_fffe, 0xffff_ffff]);
    numbers
}

/// The values around everything that an argument is compared with.
fn values(profile: &LinuxSeccomp) -> Vec<u64> {
    let mut values = vec![0, 1, u64::MAX, 1 << 32];
    for arg in profile.syscalls().iter().flatten().flat_map(|rule| rule.args().iter().flatten()) {
        for value in
            [arg.value(), arg.value_two().unwrap_or(0), arg.value() & arg.value_two().unwrap_or(0)]
        {
            let high = 1_u64 << 32;
            values.extend([value, value.wrapping_sub(1), value.wrapping_add(1)]);
            values.extend([
                value.wrapping_sub(high),
                value.wrapping_add(high),
                value & 0xffff_ffff,
            ]);
        }
    }
    // The selectors of socketcall and ipc.
    values.extend(2..25);
    values.sort_unstable();
    values.dedup();
    values
}

/// Compares both programs on `architectures`; says how many calls were tried.
fn compare(
    profile: &LinuxSeccomp,
    native: Arch,
    architectures: &[Arch],
    random: &mut Random,
) -> Option<usize> {
    let theirs = oracle(profile, native)?;
    let ours = compile(profile, native).unwrap().instructions;
    let values = values(profile);
    let newest = |arch, number: u32| {
        // x86_64 and x32 share a token.
        let arch = match (arch, number >= 0x4000_0000) {
            (Arch::X86_64 | Arch::X32, true) => Arch::X32,
            (Arch::X86_64 | Arch::X32, false) => Arch::X86_64,
            _ => arch,
        };
        let listed = profile
            .architectures()
            .iter()
            .flatten()
            .any(|a| Arch::from_spec(*a, native) == Some(arch));
        if denies(profile) && (listed || arch == native) { newest(profile, arch) } else { None }
    };
    let mut tried = 0;
    for &arch in architectures {
        let conditional = |number: u32| {
            let mut rules =
                profile.syscalls().iter().flatten().filter(|rule| rule.args().is_some());
            rules.any(|rule| rule.names().iter().any(|name| arch.syscall(name) == Some(number)))
                || ["socketcall", "ipc"].iter().any(|name| arch.syscall(name) == Some(number))
        };
        for number in numbers(arch) {
            for round in 0..if conditional(number) { 48 } else { 2 } {
                let arguments = std::array::from_fn(|_| *random.pick(&values));
                // No register of these holds more than 32 bits.
                let narrow = matches!(arch, Arch::X86 | Arch::Arm | Arch::S390) && round % 2 == 0;
                let arguments: [u64; 6] = if narrow {
                    arguments.map(|value: u64| value & 0xffff_ffff)
                } else {
                    arguments
                };
                let call = Call::new(arch, number, arguments);
                let expected = match newest(arch, number) {
                    Some(newest) if number > newest => RET_ENOSYS,
                    Some(_) if number == 0 && matches!(arch, Arch::S390 | Arch::S390x) => continue,
                    _ => run(&theirs, &call),
                };
                let found = run(&ours, &call);
                assert_eq!(
                    found,
                    expected,
                    "{}, number {number:#x}, {arguments:#x?}: {found:#x} instead of {expected:#x}\n{}",
                    arch.name(),
                    serde_json::to_string(profile).unwrap(),
                );
                tried += 1;
            }
        }
    }
    Some(tried)
}

/// Those that the engines' profiles are compared on.
const COMPARED: [Arch; 4] = [Arch::X86_64, Arch::X86, Arch::X32, Arch::Arm];

/// `profile` without the names that libseccomp does not know, on some architecture or on all.
fn known_to_libseccomp(json: &str) -> LinuxSeccomp {
    let mut profile: serde_json::Value = serde_json::from_str(json).unwrap();
    for rule in profile["syscalls"].as_array_mut().unwrap() {
        let names = rule["names"].as_array_mut().unwrap();
        names.retain(|name| {
            let name = name.as_str().unwrap();
            let lacks = |arch: &Arch| {
                let number = ScmpSyscall::from_name_by_arch(name, scmp_arch(*arch));
                // What it makes up for a call that is not there; those of -101 to -224 are there,
                // behind socketcall and ipc.
                arch.syscall(name).is_some() && number.is_ok_and(|number| i32::from(number) < -1000)
            };
            ScmpSyscall::from_name(name).is_ok() && !COMPARED.iter().any(lacks)
        });
    }
    serde_json::from_value(profile).unwrap()
}

#[test]
fn call_numbers_are_those_of_libseccomp() {
    let mut compared = 0;
    for arch in Arch::ALL.into_iter().filter(|arch| *arch != Arch::Loongarch64) {
        for number in numbers(arch) {
            if let Ok(name) = ScmpSyscall::from(number as i32).get_name_by_arch(scmp_arch(arch)) {
                assert_eq!(arch.syscall(&name), Some(number), "{name} on {}", arch.name());
                compared += 1;
            }
        }
    }
    assert!(compared > 6000, "{compared}");
}

#[test]
fn the_profiles_of_the_engines_mean_what_they_mean_to_libseccomp() {
    let mut random = Random::new(1);
    for json in [
        include_str!("data/docker-29.json"),
        include_str!("data/containerd-2.4.json"),
        include_str!("data/podman-4.3.json"),
    ] {
        let profile = known_to_libseccomp(json);
        let tried = compare(&profile, Arch::X86_64, &COMPARED, &mut random);
        assert!(tried.expect("libseccomp takes it") > 2000);
    }
}

/// Compares random profiles; says how many, and how many libseccomp refuses.
fn compare_random(seed: u64, kind: Kind, count: usize) -> (usize, usize) {
    let mut random = Random::new(seed);
    let mut compared = 0;
    for _ in 0..count {
        let (profile, native, architectures) = random_profile(&mut random, kind);
        if compare(&profile, native, &architectures, &mut random).is_some() {
            compared += 1;
        }
    }
    (compared, count - compared)
}

#[test]
fn any_rule_means_what_it_means_to_libseccomp() {
    assert_eq!(compare_random(2, Kind::OneRulePerCall, 2000), (2000, 0));
}

#[test]
fn several_rules_on_a_call_mean_what_they_mean_to_libseccomp() {
    let (compared, refused) = compare_random(3, Kind::SmallValues, 2000);
    println!("{compared} profiles compared, {refused} that libseccomp finds contradictory");
    assert!(compared > 1000);
}
