//! The device list as a BPF program, which is how cgroup v2 decides about
//! devices (`BPF_PROG_TYPE_CGROUP_DEVICE`). Only the making of the program is
//! here; loading and attaching it is not.

use super::devices::{DeviceList, Rule};

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
pub fn compile(list: &DeviceList) -> Vec<Instruction> {
    let mut program = Vec::with_capacity(8 + 7 * list.rules.len());
    program.extend([
        load(KIND, 0),
        op_register(MOVE_REGISTER, WANTED, KIND),
        op(SHIFT_RIGHT, WANTED, 16),
        op(AND, KIND, 0xffff),
        load(MAJOR, 4),
        load(MINOR, 8),
    ]);
    for rule in list.rules.iter().rev() {
        compile_rule(rule, &mut program);
    }
    program.extend(verdict(list.default_allow));
    program
}

/// The numbers are compared first; whichever differs jumps to the next rule.
fn compile_rule(rule: &Rule, program: &mut Vec<Instruction>) {
    let access = rule.access.0.cast_signed();
    let decide = if rule.allow {
        [op(AND, WANTED, !access), jump(JUMP_IF_NOT_EQUAL, WANTED, 0, 2)]
    } else {
        [jump(JUMP_IF_ANY_BIT, WANTED, access, 1), jump(JUMP, 0, 0, 2)]
    };
    let kind = Some((KIND, rule.kind as u32));
    let major = rule.major.map(|number| (MAJOR, number));
    let minor = rule.minor.map(|number| (MINOR, number));
    // Over the comparisons still to come, the decision and the verdict.
    let mut distance = 4 + i16::from(major.is_some()) + i16::from(minor.is_some());
    for (register, number) in [kind, major, minor].into_iter().flatten() {
        program.push(jump(JUMP_IF_NOT_EQUAL, register, number.cast_signed(), distance));
        distance -= 1;
    }
    program.extend(decide);
    program.extend(verdict(rule.allow));
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
    use crate::plan::cgroup::devices::{Access, Kind};

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
            r#"[{"allow":true,"type":"c","major":4294967295,"minor":4294967295}]"#,
        ] {
            let list = list(json);
            let program = compile(&list);
            for kind in [Kind::Block, Kind::Char] {
                for access in 1..=7 {
                    for major in [0, 1, 5, 8, 10, 136, u32::MAX] {
                        for minor in [0, 3, 5, 229, u32::MAX] {
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
        let program = compile(&list("[]"));
        let write = Access::READ.0 | Access::WRITE.0;
        assert!(run(&program, Kind::Char, write, 1, 3));
        assert!(run(&program, Kind::Block, Access::MKNOD.0, 8, 0));
        assert!(!run(&program, Kind::Block, Access::READ.0, 8, 0));
        assert!(!run(&program, Kind::Block, Access::READ.0 | Access::MKNOD.0, 8, 0));
    }

    #[test]
    fn two_rules_together_allow_what_neither_does_alone() {
        let json = r#"[{"allow":true,"type":"c","major":10,"access":"r"},
            {"allow":true,"type":"c","minor":7,"access":"w"}]"#;
        assert!(run(&compile(&list(json)), Kind::Char, 6, 10, 7));
        assert!(!run(&compile(&list(json)), Kind::Char, 6, 10, 8));
    }
}
