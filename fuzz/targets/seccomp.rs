//! The filter that a profile becomes, against what the profile says, call by call.

#![no_main]

#[path = "../../seccomp/tests/interpreter/mod.rs"]
mod interpreter;
#[path = "../../seccomp/tests/reading/mod.rs"]
mod reading;

use ferrun_seccomp::{ACTIONS, Arch, OPERATORS, compile};
use interpreter::{Call, run};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::LinuxSeccomp;
use reading::{has_own_reading, outcomes, values};
use serde_json::{Value, json};

/// Some that are one call, many, or none, depending on the architecture.
const NAMES: [&str; 16] = [
    "read",
    "write",
    "socket",
    "accept",
    "socketcall",
    "ipc",
    "semop",
    "shmctl",
    "clone3",
    "clone",
    "openat2",
    "mmap",
    "mmap2",
    "kill",
    "futex_waitv",
    "none_of_these",
];

#[derive(Arbitrary, Debug)]
struct Profile {
    native: u8,
    architectures: Vec<u8>,
    default: (u8, Option<u16>),
    rules: Vec<Rule>,
    calls: Vec<(u8, u8, [u8; 6])>,
}

#[derive(Arbitrary, Debug)]
struct Rule {
    names: Vec<u8>,
    action: (u8, Option<u16>),
    conditions: Vec<(u8, u8, u64, Option<u64>)>,
}

fn pick<T>(from: &[T], number: u8) -> &T {
    &from[usize::from(number) % from.len()]
}

fn action((action, errno): (u8, Option<u16>)) -> (Value, Option<u16>) {
    let action = *pick(&ACTIONS, action);
    let takes_one = ["SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"].contains(&action);
    (json!(action), errno.filter(|_| takes_one).map(|errno| errno % 4096))
}

impl Rule {
    fn json(&self) -> Value {
        let names: Vec<_> = self.names.iter().take(6).map(|name| pick(&NAMES, *name)).collect();
        let args = self.conditions.iter().take(6).map(|(index, operator, value, second)| {
            json!({"index": index % 6, "op": pick(&OPERATORS, *operator), "value": value,
                   "valueTwo": second.unwrap_or(0)})
        });
        let (action, errno) = action(self.action);
        json!({"names": names, "action": action, "errnoRet": errno,
               "args": args.collect::<Vec<_>>()})
    }
}

impl Profile {
    fn native(&self) -> Arch {
        match pick(&Arch::ALL, self.native) {
            Arch::X32 => Arch::X86_64,
            arch => *arch,
        }
    }

    fn spec(&self) -> LinuxSeccomp {
        let named = self.architectures.iter().take(4).map(|arch| pick(&Arch::ALL, *arch).name());
        let (default, errno) = action(self.default);
        let profile = json!({
            "defaultAction": default,
            "defaultErrnoRet": errno,
            "architectures": named.collect::<Vec<_>>(),
            "syscalls": self.rules.iter().take(12).map(Rule::json).collect::<Vec<_>>(),
        });
        serde_json::from_value(profile).expect("a profile")
    }
}

fuzz_target!(|profile: Profile| {
    let (spec, native) = (profile.spec(), profile.native());
    let Ok(filter) = compile(&spec, native) else { return };
    let values = values(&spec);
    for (arch, number, arguments) in profile.calls.iter().take(64) {
        let arch = *pick(&Arch::ALL, *arch);
        let near = (u32::from(*number) >> 4) % 3;
        let name = *pick(&NAMES, *number);
        let Some(number) = arch.syscall(name) else { continue };
        let number = (number + near).wrapping_sub(1);
        if !has_own_reading(arch, number) {
            continue;
        }
        let arguments = arguments.map(|argument| *pick(&values, argument));
        let found = run(&filter.instructions, &Call::new(arch, number, arguments));
        let expected = outcomes(&spec, native, arch, number, &arguments);
        assert!(
            expected.contains(&found),
            "native {}, {} {number} {arguments:x?}: {found:#x}, not one of {expected:x?}\n{}",
            native.name(),
            arch.name(),
            serde_json::to_string(&spec).unwrap_or_default()
        );
    }
});
