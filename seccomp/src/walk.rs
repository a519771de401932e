//! What a filter says of a call of which not everything is known.

use std::collections::BTreeSet;

use crate::program::{AND, If, Instruction, JUMP, LOAD, RETURN};
use crate::{Arch, Filter};

/// `SECCOMP_RET_ALLOW` of linux/seccomp.h.
const RET_ALLOW: u32 = 0x7fff_0000;

/// Offsets in `struct seccomp_data` of linux/seccomp.h.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;
const FIRST_ARGUMENT_HIGH: u32 = 20;

/// A call by its number, and by its first argument where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownCall {
    /// The number, on the architecture that is asked for.
    pub number: u32,
    /// The first argument.
    pub first: Option<u64>,
}

impl Filter {
    /// Whether the filter lets `call` through without a word, whatever the arguments are
    /// that are not known. `arch` must be a little-endian one.
    #[must_use]
    pub fn allows(&self, arch: Arch, call: KnownCall) -> bool {
        let word = |offset: u32| match offset {
            NUMBER => Some(call.number),
            ARCH => Some(arch.token()),
            FIRST_ARGUMENT => call.first.map(|first| first as u32),
            FIRST_ARGUMENT_HIGH => call.first.map(|first| (first >> 32) as u32),
            _ => None,
        };
        // Jumps lead forward, so every way ends. Where a condition is about what is not known two
        // ways part, and go on alike for all that get there: so they are gone once.
        let mut parted = BTreeSet::new();
        let mut ways = vec![0_usize];
        while let Some(start) = ways.pop() {
            let (mut at, mut accumulator) = (start, None::<u32>);
            loop {
                let Some(&Instruction { code, jt, jf, k }) = self.instructions.get(at) else {
                    return false;
                };
                at += 1;
                match code {
                    LOAD => accumulator = word(k),
                    AND => accumulator = accumulator.map(|value| value & k),
                    JUMP => at += k as usize,
                    RETURN if k == RET_ALLOW => break,
                    RETURN => return false,
                    _ => {
                        let Some(condition) = If::of(code) else { return false };
                        match accumulator.map(|value| condition.holds(value, k)) {
                            Some(true) => at += usize::from(jt),
                            Some(false) => at += usize::from(jf),
                            None if parted.insert(at) => {
                                ways.push(at + usize::from(jf));
                                at += usize::from(jt);
                            }
                            None => break,
                        }
                    }
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u32 = 0;
    const CLONE: u32 = 56;
    const PERSONALITY: u32 = 135;

    fn filter(syscalls: &str) -> Filter {
        let profile = format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],
                "syscalls":[{syscalls}]}}"#
        );
        crate::compile(&serde_json::from_str(&profile).unwrap(), Arch::X86_64).unwrap()
    }

    fn allows(filter: &Filter, number: u32, first: Option<u64>) -> bool {
        filter.allows(Arch::X86_64, KnownCall { number, first })
    }

    #[test]
    fn a_call_is_allowed_where_no_argument_can_change_that() {
        let filter = filter(
            r#"{"names":["read"],"action":"SCMP_ACT_ALLOW"},
               {"names":["write"],"action":"SCMP_ACT_LOG"},
               {"names":["personality"],"action":"SCMP_ACT_ALLOW",
                "args":[{"index":0,"value":4294967296,"op":"SCMP_CMP_EQ"}]},
               {"names":["clone"],"action":"SCMP_ACT_ALLOW",
                "args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}"#,
        );
        assert!(allows(&filter, READ, None));
        for (number, first, expected) in [
            // Written to the log, refused by default.
            (1, None, false),
            (2, None, false),
            (PERSONALITY, None, false),
            (PERSONALITY, Some(1 << 32), true),
            (PERSONALITY, Some(0), false),
            (CLONE, None, false),
            (CLONE, Some(17), true),
            (CLONE, Some(0x2000_0011), false),
        ] {
            assert_eq!(allows(&filter, number, first), expected, "{number} {first:?}");
        }
        // 3 is read there, and close here.
        assert!(filter.allows(Arch::X86, KnownCall { number: 3, first: None }));
        assert!(!allows(&filter, 3, None));
        assert!(!filter.allows(Arch::Aarch64, KnownCall { number: 63, first: None }));
    }

    #[test]
    fn ways_that_part_and_meet_again_are_gone_once() {
        // Sixty conditions on an argument: 2^60 ways.
        let part = |jf| Instruction { code: If::Equal as u16, jt: 0, jf, k: 1 };
        let mut filter = filter(r#"{"names":["read"],"action":"SCMP_ACT_ALLOW"}"#);
        let load = Instruction { code: LOAD, jt: 0, jf: 0, k: FIRST_ARGUMENT };
        let end = |k| Instruction { code: RETURN, jt: 0, jf: 0, k };
        let diamonds = [load].into_iter().chain([part(0); 60]);
        filter.instructions = diamonds.clone().chain([end(RET_ALLOW)]).collect();
        assert!(allows(&filter, READ, None));
        // The last one has a way of its own.
        let last = [part(1), end(RET_ALLOW), end(0)];
        filter.instructions = diamonds.chain(last).collect();
        assert!(!allows(&filter, READ, None));
        assert!(allows(&filter, READ, Some(1)));
    }

    #[test]
    fn a_program_that_ends_nowhere_allows_nothing() {
        let mut filter = filter(r#"{"names":["read"],"action":"SCMP_ACT_ALLOW"}"#);
        filter.instructions.truncate(1);
        assert!(!allows(&filter, READ, None));
    }

    #[test]
    fn jumps_lead_where_the_kernel_goes() {
        const GREATER: u16 = If::Greater as u16;
        const RET_KILL: u32 = 0;
        let made = |instructions: &[(u16, u8, u8, u32)]| Filter {
            instructions: instructions
                .iter()
                .map(|&(code, jt, jf, k)| Instruction { code, jt, jf, k })
                .collect(),
            ..filter(r#"{"names":["read"],"action":"SCMP_ACT_ALLOW"}"#)
        };
        let load = (LOAD, 0, 0, NUMBER);
        let (allow, kill) = ((RETURN, 0, 0, RET_ALLOW), (RETURN, 0, 0, RET_KILL));
        let jump = (JUMP, 0, 0, 1);
        assert!(allows(&made(&[load, jump, kill, allow]), READ, None));
        assert!(!allows(&made(&[load, jump, allow, kill]), READ, None));
        let above_5 = made(&[load, (GREATER, 0, 1, 5), allow, kill]);
        let answers = [4, 5, 6].map(|number| allows(&above_5, number, None));
        assert_eq!(answers, [false, false, true]);
    }
}
