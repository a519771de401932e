//! Assembling BPF: blocks with jumps forward, written from the end.
//!
//! A classic BPF jump only leads forward and, if conditional, at most 255
//! instructions far. So the last block is written first: every target is then
//! known when a jump to it is made, and no second pass is needed.

use std::collections::BTreeMap;

/// One instruction, laid out as `struct sock_filter` of linux/filter.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation, operand size and addressing mode.
    pub code: u16,
    /// How many instructions to skip if the condition holds.
    pub jt: u8,
    /// How many instructions to skip if it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// `BPF_LD | BPF_W | BPF_ABS`
pub const LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`
pub const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JA`
pub const JUMP: u16 = 0x05;
/// `BPF_RET | BPF_K`
pub const RETURN: u16 = 0x06;

/// A condition on the accumulator.
#[derive(Debug, Clone, Copy)]
pub enum If {
    /// `BPF_JMP | BPF_JEQ | BPF_K`
    Equal = 0x15,
    /// `BPF_JMP | BPF_JGT | BPF_K`
    Greater = 0x25,
    /// `BPF_JMP | BPF_JGE | BPF_K`
    GreaterOrEqual = 0x35,
}

impl If {
    /// The condition of an instruction, if it is one.
    pub fn of(code: u16) -> Option<Self> {
        [Self::Equal, Self::Greater, Self::GreaterOrEqual]
            .into_iter()
            .find(|&known| known as u16 == code)
    }

    /// Whether it holds for the accumulator's value.
    pub const fn holds(self, value: u32, k: u32) -> bool {
        match self {
            Self::Equal => value == k,
            Self::Greater => value > k,
            Self::GreaterOrEqual => value >= k,
        }
    }
}

/// A place in the program to jump to, counted from the program's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// A program that grows towards its beginning.
#[derive(Debug, Default)]
pub struct Program {
    reversed: Vec<Instruction>,
    /// The latest `return` of each value.
    returns: BTreeMap<u32, Label>,
}

impl Program {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(Instruction { code, jt, jf, k });
        Label(self.reversed.len() - 1)
    }

    /// How many instructions an instruction put in front of all would skip to
    /// reach `label`.
    fn distance(&self, Label(label): Label) -> usize {
        self.reversed.len() - 1 - label
    }

    /// Loads the 32-bit word at `offset` of `struct seccomp_data` and goes on
    /// at `then`.
    pub fn load(&mut self, offset: u32, then: Label) -> Label {
        self.fall_through(then);
        self.push(LOAD, 0, 0, offset)
    }

    /// Keeps the accumulator's bits in `mask` and goes on at `then`.
    pub fn and(&mut self, mask: u32, then: Label) -> Label {
        self.fall_through(then);
        self.push(AND, 0, 0, mask)
    }

    /// Ends with `action`.
    pub fn ret(&mut self, action: u32) -> Label {
        match self.returns.get(&action) {
            Some(&label) if self.distance(label) < usize::from(u8::MAX) => label,
            // A further `return` costs no more than the jump to a distant one.
            _ => {
                let label = self.push(RETURN, 0, 0, action);
                self.returns.insert(action, label);
                label
            }
        }
    }

    /// Goes to `yes` if the accumulator meets `condition` against `k`, else to
    /// `no`.
    pub fn branch(&mut self, condition: If, k: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        // Bringing one target near can move the other one away by one step.
        let yes = self.near(yes, 1);
        let no = self.near(no, 0);
        // Nothing is lost: `near` keeps both distances within 255.
        let (jt, jf) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push(condition as u16, jt, jf, k)
    }

    /// A place that leads to `label` and is within a conditional jump's reach,
    /// also after `spare` more instructions.
    fn near(&mut self, label: Label, spare: usize) -> Label {
        if self.distance(label) + spare <= usize::from(u8::MAX) { label } else { self.jump(label) }
    }

    /// Puts `label` right behind the instruction to come.
    fn fall_through(&mut self, label: Label) {
        if self.distance(label) > 0 {
            self.jump(label);
        }
    }

    fn jump(&mut self, label: Label) -> Label {
        match self.reversed.get(label.0) {
            Some(&Instruction { code: RETURN, k, .. }) => self.push(RETURN, 0, 0, k),
            _ => {
                // Too far for `k` only in a program far beyond the kernel's limit.
                let distance = u32::try_from(self.distance(label)).unwrap_or(u32::MAX);
                self.push(JUMP, 0, 0, distance)
            }
        }
    }

    /// The instructions in the order of execution.
    pub fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }
}
