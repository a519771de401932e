//! The device list as a BPF program, which is how cgroup v2 decides about
//! devices (`BPF_PROG_TYPE_CGROUP_DEVICE`). Only the making of the program is
//! here; loading and attaching it is not.

use anyhow::{Context as _, Result};

use super::devices::{DeviceAccess, DeviceList, Rule};

/// One instruction in the kernel's encoding (`struct bpf_insn`, linux/bpf.h),
/// which is part of its ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low, source register in the high half.
    pub registers: u8,
    /// Distance of a jump, or of a load from its base.
    pub offset: i16,
    /// Constant operand.
    pub immediate: i32,
}

// Operations: class, source and operation of linux/bpf_common.h and linux/bpf.h.
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const MOVE: u8 = 0xb4; // BPF_ALU | BPF_MOV | BPF_K
const MOVE_REGISTER: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
const JUMP: u8 = 0x05; // BPF_JMP | BPF_JA
const JUMP_IF_EQUAL: u8 = 0x16; // BPF_JMP32 | BPF_JEQ | BPF_K
const JUMP_IF_NOT_EQUAL: u8 = 0x56; // BPF_JMP32 | BPF_JNE | BPF_K
const JUMP_IF_ANY_BIT: u8 = 0x46; // BPF_JMP32 | BPF_JSET | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

/// Registers. On entry `CONTEXT` points to `struct bpf_cgroup_dev_ctx`: the
/// access in the high and the kind in the low half of a word, major, minor.
const VERDICT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
/// The kinds of access that were asked for and that no rule has allowed so far.
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Compiles `list`. The rules are looked at from the last to the first, so the
/// last one that matches decides, for each kind of access by itself: opening
/// for reading and writing passes where one rule allows the one and another the
/// other.
///
/// Neighbours that are about one kind, or one major number, share that
/// comparison, and all share the two verdicts at the end: what loading a program
/// costs is the branches that the kernel has to follow.
///
/// Fails where there are more rules than a jump can pass.
pub fn compile(list: &DeviceList) -> Result<Vec<Instruction>> {
    let mut program = Program::default();
    program.instructions.extend([
        load(KIND, 0),
        op_register(MOVE_REGISTER, WANTED, KIND),
        op(SHIFT_RIGHT, WANTED, 16),
        op(AND, KIND, 0xffff),
        load(MAJOR, 4),
        load(MINOR, 8),
    ]);
    let rules: Vec<&Rule> = list.rules.iter().rev().collect();
    for of_kind in rules.chunk_by(|a, b| a.kind == b.kind) {
        let Some(first) = of_kind.first() else { continue };
        program.group(Some((KIND, first.kind as u32)), |program| {
            for of_major in of_kind.chunk_by(|a, b| a.major == b.major) {
                let major = of_major.first().and_then(|rule| rule.major);
                program.group(major.map(|number| (MAJOR, number)), |program| {
                    program.decide_all(of_major)
                })?;
                if major.is_none() && of_major.iter().any(|rule| rule.is_final()) {
                    break;
                }
            }
            Ok(())
        })?;
    }
    program.finish(list.default_allow)
}

/// A program in the making.
#[derive(Default)]
struct Program {
    instructions: Vec<Instruction>,
    /// The jumps that go to a verdict, with it.
    decisions: Vec<(usize, bool)>,
}

impl Program {
    /// Adds what `inner` does where a register has that value, or always.
    fn group(
        &mut self,
        condition: Option<(u8, u32)>,
        inner: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let Some((register, number)) = condition else { return inner(self) };
        let start = self.instructions.len();
        self.instructions.push(jump(JUMP_IF_NOT_EQUAL, register, number.cast_signed(), 0));
        inner(self)?;
        let end = self.instructions.len();
        self.aim(start, end)
    }

    /// Rules of one kind and major number. What follows one that always decides could
    /// not be reached, and the kernel refuses such a program.
    fn decide_all(&mut self, rules: &[&Rule]) -> Result<()> {
        for rule in rules {
            let access = rule.access.0.cast_signed();
            match (rule.minor, rule.access == DeviceAccess::ALL) {
                (Some(minor), true) => {
                    self.decide(jump(JUMP_IF_EQUAL, MINOR, minor.cast_signed(), 0), rule.allow);
                }
                (None, true) => {
                    self.decide(jump(JUMP, 0, 0, 0), rule.allow);
                    break;
                }
                (minor, false) => self.group(minor.map(|number| (MINOR, number)), |program| {
                    if rule.allow {
                        program.instructions.push(op(AND, WANTED, !access));
                        program.decide(jump(JUMP_IF_EQUAL, WANTED, 0, 0), true);
                    } else {
                        program.decide(jump(JUMP_IF_ANY_BIT, WANTED, access, 0), false);
                    }
                    Ok(())
                })?,
            }
        }
        Ok(())
    }

    /// Adds a jump that goes to a verdict.
    fn decide(&mut self, jump: Instruction, allow: bool) {
        self.decisions.push((self.instructions.len(), allow));
        self.instructions.push(jump);
    }

    /// Adds the verdicts, that of the default first, which is also what no jump leads to.
    fn finish(mut self, default_allow: bool) -> Result<Vec<Instruction>> {
        for allow in [default_allow, !default_allow] {
            let here = self.instructions.len();
            let jumps: Vec<usize> = self
                .decisions
                .iter()
                .filter_map(|(at, verdict)| (*verdict == allow).then_some(*at))
                .collect();
            if allow != default_allow && jumps.is_empty() {
                continue;
            }
            jumps.into_iter().try_for_each(|at| self.aim(at, here))?;
            self.instructions.extend(verdict(allow));
        }
        Ok(self.instructions)
    }

    /// Lets the jump at `from` go to `to`.
    fn aim(&mut self, from: usize, to: usize) -> Result<()> {
        let distance = i16::try_from(to - from - 1).context("too many device rules")?;
        if let Some(jump) = self.instructions.get_mut(from) {
            jump.offset = distance;
        }
        Ok(())
    }
}

impl Rule {
    /// Whether no rule before it is of any account to its kind.
    fn is_final(&self) -> bool {
        self.major.is_none() && self.minor.is_none() && self.access == DeviceAccess::ALL
    }
}

fn verdict(allow: bool) -> [Instruction; 2] {
    [op(MOVE, VERDICT, i32::from(allow)), op(EXIT, 0, 0)]
}

fn load(register: u8, offset: i16) -> Instruction {
    Instruction { code: LOAD_WORD, registers: register | CONTEXT << 4, offset, immediate: 0 }
}

fn op(code: u8, register: u8, immediate: i32) -> Instruction {
    Instruction { code, registers: register, offset: 0, immediate }
}

/// A jump over the next `offset` instructions.
fn jump(code: u8, register: u8, immediate: i32, offset: i16) -> Instruction {
    Instruction { code, registers: register, offset, immediate }
}

fn op_register(code: u8, register: u8, source: u8) -> Instruction {
    Instruction { code, registers: register | source << 4, offset: 0, immediate: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::cgroup::devices::Kind;

    /// Runs `program` as the kernel would, by the meaning of each operation in
    /// the kernel's instruction set document.
    fn run(program: &[Instruction], kind: Kind, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind as u32, major, minor];
        let mut registers = [0u32; 16];
        let mut at = 0usize;
        loop {
            let step = program[at];
            let (to, from) = (usize::from(step.registers & 15), usize::from(step.registers >> 4));
            let immediate = step.immediate.cast_unsigned();
            let mut take = false;
            match step.code {
                LOAD_WORD => {
                    assert_eq!(from, 1);
                    registers[to] = context[usize::try_from(step.offset).unwrap() / 4];
                }
                AND => registers[to] &= immediate,
                SHIFT_RIGHT => registers[to] >>= immediate,
                MOVE => registers[to] = immediate,
                MOVE_REGISTER => registers[to] = registers[from],
                JUMP => take = true,
                JUMP_IF_EQUAL => take = registers[to] == immediate,
                JUMP_IF_NOT_EQUAL => take = registers[to] != immediate,
                JUMP_IF_ANY_BIT => take = registers[to] & immediate != 0,
                EXIT => return registers[0] != 0,
                other => panic!("operation {other:#x}"),
            }
            at += 1 + if take { usize::try_from(step.offset).unwrap() } else { 0 };
        }
    }

    /// What the list means, said without a program.
    fn meaning(list: &DeviceList, kind: Kind, access: u32, major: u32, minor: u32) -> bool {
        [1, 2, 4].into_iter().filter(|bit| access & bit != 0).all(|bit| {
            let matches = |rule: &&Rule| {
                rule.kind == kind
                    && rule.access.0 & bit != 0
                    && rule.major.is_none_or(|number| number == major)
                    && rule.minor.is_none_or(|number| number == minor)
            };
            list.rules.iter().rev().find(matches).map_or(list.default_allow, |rule| rule.allow)
        })
    }

    fn list(json: &str) -> DeviceList {
        DeviceList::new(&serde_json::from_str::<Vec<_>>(json).unwrap(), false).unwrap()
    }

    #[test]
    fn the_program_decides_every_case_as_the_list_says() {
        for json in [
            "[]",
            r#"[{"allow":true}]"#,
            r#"[{"allow":true},{"allow":false,"type":"b"},{"allow":true,"type":"b","minor":3,"access":"rm"}]"#,
            r#"[{"allow":true,"type":"c","major":10,"access":"rw"},
                {"allow":false,"type":"c","major":10,"minor":229,"access":"w"},
                {"allow":true,"type":"a","major":8,"access":"r"},
                {"allow":true,"type":"c","minor":3,"access":"w"}]"#,
            r#"[{"allow":true,"type":"c","major":4095,"minor":1048575}]"#,
            r#"[{"allow":true},{"allow":false,"type":"c"},{"allow":false,"major":8}]"#,
            r#"[{"allow":true,"type":"c","minor":5},{"allow":true,"type":"c","major":1},
                {"allow":true,"type":"b","access":"w"},{"allow":false,"type":"b","access":"w","major":8}]"#,
        ] {
            let list = list(json);
            let program = compile(&list).unwrap();
            for kind in [Kind::Block, Kind::Char] {
                for access in 1..=7 {
                    for major in [0, 1, 5, 8, 10, 136, 4095, u32::MAX] {
                        for minor in [0, 3, 5, 229, 1_048_575, u32::MAX] {
                            assert_eq!(
                                run(&program, kind, access, major, minor),
                                meaning(&list, kind, access, major, minor),
                                "{json} {kind:?} access {access} {major}:{minor}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_container_may_write_null_and_make_any_node_but_not_read_a_disk() {
        let program = compile(&list("[]")).unwrap();
        let write = DeviceAccess::READ.0 | DeviceAccess::WRITE.0;
        assert!(run(&program, Kind::Char, write, 1, 3));
        assert!(run(&program, Kind::Block, DeviceAccess::MKNOD.0, 8, 0));
        assert!(!run(&program, Kind::Block, DeviceAccess::READ.0, 8, 0));
        assert!(!run(&program, Kind::Block, DeviceAccess::READ.0 | DeviceAccess::MKNOD.0, 8, 0));
    }

    /// The kernel refuses a program with an instruction that is never reached, or that
    /// runs past its end.
    #[test]
    fn every_instruction_is_reached_and_the_end_is_not_passed() {
        for json in [
            "[]",
            r#"[{"allow":true}]"#,
            r#"[{"allow":false}]"#,
            r#"[{"allow":true,"type":"c","major":10},{"allow":true,"type":"c"}]"#,
            r#"[{"allow":true,"type":"b","major":8,"minor":1},{"allow":true,"type":"b","major":8}]"#,
            r#"[{"allow":true},{"allow":false,"type":"c"},{"allow":false,"type":"b"}]"#,
        ] {
            let program = compile(&list(json)).unwrap();
            let mut reached = vec![false; program.len()];
            let mut open = vec![0];
            while let Some(at) = open.pop() {
                if std::mem::replace(&mut reached[at], true) {
                    continue;
                }
                let target = at + 1 + usize::try_from(program[at].offset).unwrap();
                match program[at].code {
                    EXIT => {}
                    JUMP => open.push(target),
                    JUMP_IF_EQUAL | JUMP_IF_NOT_EQUAL | JUMP_IF_ANY_BIT => {
                        open.extend([at + 1, target]);
                    }
                    _ => open.push(at + 1),
                }
            }
            assert!(reached.iter().all(|reached| *reached), "{json}: {reached:?}");
        }
    }

    #[test]
    fn two_rules_together_allow_what_neither_does_alone() {
        let json = r#"[{"allow":true,"type":"c","major":10,"access":"r"},
            {"allow":true,"type":"c","minor":7,"access":"w"}]"#;
        assert!(run(&compile(&list(json)).unwrap(), Kind::Char, 6, 10, 7));
        assert!(!run(&compile(&list(json)).unwrap(), Kind::Char, 6, 10, 8));
    }
}
