//! Random profiles, the same in each run.

use ferrun_seccomp::Arch;
use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

/// Architectures that one filter of libseccomp can hold: it wants one byte
/// order.
const FAMILIES: [&[Arch]; 5] = [
    &[Arch::X86],
    &[Arch::X86_64, Arch::X86, Arch::X32],
    &[Arch::Aarch64, Arch::Arm],
    &[Arch::Mipsel64, Arch::Mipsel, Arch::Mipsel64n32, Arch::Ppc64le, Arch::Riscv64],
    &[
        Arch::S390x,
        Arch::S390,
        Arch::Ppc64,
        Arch::Ppc,
        Arch::Mips64,
        Arch::Mips,
        Arch::Mips64n32,
        Arch::Parisc,
        Arch::Parisc64,
    ],
];

const OPERATORS: [&str; 7] = ferrun_seccomp::OPERATORS;

fn random_value(random: &mut Random) -> u64 {
    const EDGES: [u64; 8] = [0, 1, 2, 5, 0x7fff_ffff, 0xffff_ffff, 0x1_0000_0000, u64::MAX];
    match random.below(4) {
        0 => *random.pick(&EDGES),
        1 => random.below(8) as u64,
        2 => (random.below(3) as u64) << 32 | random.below(4) as u64,
        _ => random.next() >> random.below(64),
    }
}

fn random_action(random: &mut Random) -> Value {
    let action = *random.pick(&ferrun_seccomp::ACTIONS);
    let takes_data = ["SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"].contains(&action);
    if takes_data && random.chance(2) {
        json!({"action": action, "errnoRet": random.below(200)})
    } else {
        json!({"action": action})
    }
}

/// Which profiles to make. The first two keep clear of faults of libseccomp
/// 2.5.4, whose programs sometimes test what an earlier test left in the
/// accumulator: the architecture's token instead of the number where the first
/// rule is for a call that the architecture lacks, and the wrong half or the
/// wrong argument where several rules with several conditions, or with different
/// upper halves, meet on one call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One rule on each call, with any values; one multiplexed call at most.
    OneRulePerCall,
    /// Several rules on a call, and values below 2^32.
    SmallValues,
    /// Anything.
    Any,
}

/// A profile, the native architecture, and the architectures to look at.
pub fn random_profile(random: &mut Random, kind: Kind) -> (LinuxSeccomp, Arch, Vec<Arch>) {
    let family = match kind {
        Kind::Any => random_family(random),
        _ => random.pick(&FAMILIES).to_vec(),
    };
    let native = family[0];
    let named: Vec<Arch> = family.iter().copied().filter(|_| random.chance(2)).collect();
    let mut names = random_names(random, |name| {
        kind == Kind::Any || named.iter().chain([&native]).all(|arch| arch.syscall(name).is_some())
    });
    let one_action = random.chance(2).then(|| random_action(random));
    let mut rules = Vec::new();
    for _ in 0..random.below(12) {
        let mut rule = one_action.clone().unwrap_or_else(|| random_action(random));
        if kind == Kind::OneRulePerCall {
            let Some(name) = names.pop() else { break };
            if is_multiplexed(&name) {
                names.retain(|name| !is_multiplexed(name));
            }
            rule["names"] = json!([name]);
        } else {
            rule["names"] = (0..1 + random.below(4)).map(|_| json!(random.pick(&names))).collect();
        }
        if !random.chance(3) {
            let args = random_args(random, kind);
            if kind == Kind::SmallValues {
                rule["action"] = json!("SCMP_ACT_ERRNO");
                rule["errnoRet"] = json!(rank(&args[0]));
            }
            rule["args"] = args;
        }
        rules.push(rule);
    }
    let mut profile = json!({
        "architectures": named.iter().map(|arch| arch.name()).collect::<Vec<_>>(),
        "syscalls": rules,
    });
    let default = random_action(random);
    profile["defaultAction"] = default["action"].clone();
    if let Some(errno) = default.get("errnoRet") {
        profile["defaultErrnoRet"] = errno.clone();
    }
    (serde_json::from_value(profile).unwrap(), native, family)
}

/// A number for each argument and class of operators: libseccomp has an order
/// between these, but none within them that could be relied on.
fn rank(arg: &Value) -> u64 {
    let class = match arg["op"].as_str() {
        Some("SCMP_CMP_LT" | "SCMP_CMP_LE") => 1,
        Some("SCMP_CMP_GT" | "SCMP_CMP_GE") => 2,
        _ => 0,
    };
    100 + 10 * arg["index"].as_u64().unwrap() + class
}

/// A native architecture and two more of any kind.
fn random_family(random: &mut Random) -> Vec<Arch> {
    let mut family = vec![*random.pick(&Arch::ALL)];
    if family == [Arch::X32] {
        family = vec![Arch::X86_64];
    }
    while family.len() < 3 {
        let arch = *random.pick(&Arch::ALL);
        if !family.contains(&arch) {
            family.push(arch);
        }
    }
    family
}

fn random_args(random: &mut Random, kind: Kind) -> Value {
    let limit = if kind == Kind::SmallValues { u64::from(u32::MAX) } else { u64::MAX };
    let mut args: Vec<Value> = Vec::new();
    for _ in 0..if kind == Kind::SmallValues { 1 } else { 1 + random.below(3) } {
        let index = random.below(6);
        if kind == Kind::OneRulePerCall && args.iter().any(|arg| arg["index"] == index) {
            continue;
        }
        let op = *random.pick(&OPERATORS);
        let mut arg = json!({"index": index, "op": op, "value": random_value(random) & limit});
        if random.chance(2) {
            arg["valueTwo"] = json!(random_value(random) & limit);
        }
        args.push(arg);
    }
    Value::Array(args)
}

/// Whether rules for the call share a number with other calls' on some architectures.
fn is_multiplexed(name: &str) -> bool {
    let on_x86 = ScmpSyscall::from_name_by_arch(name, ScmpArch::X86).map_or(0, i32::from);
    (-300..=-100).contains(&on_x86) || ["socketcall", "ipc"].contains(&name)
}

/// A few calls, so that rules meet on them.
fn random_names(random: &mut Random, fits: impl Fn(&str) -> bool) -> Vec<String> {
    const SPECIAL: [&str; 8] =
        ["socket", "accept", "semop", "shmctl", "socketcall", "ipc", "read", "clone3"];
    let mut names = Vec::new();
    let count = 2 + random.below(8);
    while names.len() < count {
        let name = match random.chance(3) {
            true => Some((*random.pick(&SPECIAL)).to_owned()),
            false => ScmpSyscall::from(random.below(450) as i32).get_name().ok(),
        };
        names.extend(name.filter(|name| fits(name) && !names.contains(name)));
    }
    names
}
