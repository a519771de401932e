//! Writing the decisions as a program.
//!
//! Up to an argument check only loads of the number and the architecture,
//! jumps and returns are used: the kernel runs each number through such a
//! program once, when the filter is loaded, and then lets calls pass that are
//! always allowed without running it again (seccomp_is_const_allow in
//! kernel/seccomp.c).

use oci_spec::runtime::LinuxSeccompOperator as Operator;

use crate::arch::Arch;
use crate::decide::{Branch, Choice, Condition, Decision, Decisions, Range};
use crate::program::{If, Label, Program};

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// How many numbers inside a range may be tested one by one. Each costs one
/// instruction where a range of its own would cost two.
const EXCEPTIONS: usize = 3;

/// The start of the program: tells the architectures apart.
pub fn dispatch(program: &mut Program, parts: &[(u32, Label)], otherwise: u32) {
    let mut next = program.ret(otherwise);
    for &(token, label) in parts.iter().rev() {
        next = program.branch(If::Equal, token, label, next);
    }
    program.load(ARCH, next);
}

/// The part for one architecture: loads the number and searches it.
pub fn part(program: &mut Program, arch: Arch, decisions: &Decisions, default: u32) -> Label {
    let leaves = leaves(&decisions.ranges);
    let mut part =
        Part { program, arch, decisions, default, choices: vec![None; decisions.choices.len()] };
    let search = part.search(&leaves);
    program.load(NUMBER, search)
}

/// A range with the few single numbers in it that are decided otherwise.
#[derive(Debug, PartialEq, Eq)]
struct Leaf<'a> {
    range: Range,
    /// Every other one is such a number; between them the range goes on.
    inside: &'a [Range],
}

fn leaves(mut ranges: &[Range]) -> Vec<Leaf<'_>> {
    let mut leaves = Vec::new();
    while let [range, rest @ ..] = ranges {
        let is_exception = |pair: &&[Range]| match pair {
            [single, after] => {
                Some(after.start) == single.start.checked_add(1) && after.decision == range.decision
            }
            _ => false,
        };
        let exceptions = rest.chunks_exact(2).take(EXCEPTIONS).take_while(is_exception).count();
        let (inside, rest) = rest.split_at(2 * exceptions);
        leaves.push(Leaf { range: *range, inside });
        ranges = rest;
    }
    leaves
}

struct Part<'a> {
    program: &'a mut Program,
    arch: Arch,
    decisions: &'a Decisions,
    default: u32,
    /// Where the choices stand that are written already.
    choices: Vec<Option<Label>>,
}

impl Part<'_> {
    /// A balanced search of the number in the accumulator.
    fn search(&mut self, leaves: &[Leaf<'_>]) -> Label {
        match leaves {
            [] => self.program.ret(self.default),
            [leaf] => {
                let mut next = self.decision(leaf.range.decision);
                for single in leaf.inside.iter().step_by(2).rev() {
                    let found = self.decision(single.decision);
                    next = self.program.branch(If::Equal, single.start, found, next);
                }
                next
            }
            _ => {
                let (low, high) = leaves.split_at(leaves.len() / 2);
                let start = high.first().map_or(0, |leaf| leaf.range.start);
                let high = self.search(high);
                let low = self.search(low);
                self.program.branch(If::GreaterOrEqual, start, high, low)
            }
        }
    }

    fn decision(&mut self, decision: Decision) -> Label {
        match decision {
            Decision::Return(action) => self.program.ret(action),
            Decision::Choose(choice) => {
                if let Some(&Some(label)) = self.choices.get(choice) {
                    return label;
                }
                let label = match self.decisions.choices.get(choice) {
                    Some(found) => self.choose(found),
                    None => self.program.ret(self.default),
                };
                if let Some(known) = self.choices.get_mut(choice) {
                    *known = Some(label);
                }
                label
            }
        }
    }

    /// The first branch that holds, else the default.
    fn choose(&mut self, Choice { wide, branches }: &Choice) -> Label {
        let default = self.program.ret(self.default);
        let mut arguments =
            Arguments { program: self.program, wide: *wide, big_endian: self.arch.is_big_endian() };
        branches.chunk_by(share_loads).rev().fold(default, |next, alike| match alike {
            [branch] => arguments.all_of(branch, next),
            _ => arguments.one_of(alike, next),
        })
    }
}

/// Checks of arguments.
struct Arguments<'a> {
    program: &'a mut Program,
    wide: bool,
    big_endian: bool,
}

impl Arguments<'_> {
    fn all_of(&mut self, branch: &Branch, otherwise: Label) -> Label {
        let found = self.program.ret(branch.action);
        branch
            .conditions
            .iter()
            .rev()
            .fold(found, |next, condition| self.condition(condition, next, otherwise))
    }

    /// Branches that each ask for one value of the same argument: it is loaded
    /// once.
    fn one_of(&mut self, branches: &[Branch], otherwise: Label) -> Label {
        let mut next = otherwise;
        for branch in branches.iter().rev() {
            let found = self.program.ret(branch.action);
            for condition in &branch.conditions {
                next = self.program.branch(If::Equal, low(condition), found, next);
            }
        }
        let Some(condition) = branches.first().and_then(|branch| branch.conditions.first()) else {
            return otherwise;
        };
        next = self.load_low(condition, next);
        self.high_equal(condition, next, otherwise)
    }

    fn condition(&mut self, condition: &Condition, yes: Label, no: Label) -> Label {
        match condition.operator {
            Operator::ScmpCmpEq | Operator::ScmpCmpMaskedEq => self.equal(condition, yes, no),
            Operator::ScmpCmpGt => self.order(condition, If::Greater, yes, no),
            Operator::ScmpCmpGe => self.order(condition, If::GreaterOrEqual, yes, no),
            // The opposites of the above.
            Operator::ScmpCmpNe => self.equal(condition, no, yes),
            Operator::ScmpCmpLe => self.order(condition, If::Greater, no, yes),
            Operator::ScmpCmpLt => self.order(condition, If::GreaterOrEqual, no, yes),
        }
    }

    fn equal(&mut self, condition: &Condition, yes: Label, no: Label) -> Label {
        let test = self.program.branch(If::Equal, low(condition), yes, no);
        let low = self.load_low(condition, test);
        self.high_equal(condition, low, no)
    }

    /// Goes on at `yes` if the upper half, where there is one, is equal.
    fn high_equal(&mut self, condition: &Condition, yes: Label, no: Label) -> Label {
        if !self.wide || condition.mask >> 32 == 0 {
            return yes;
        }
        let test = self.program.branch(If::Equal, high(condition), yes, no);
        self.load_high(condition, test)
    }

    /// The lower halves decide only between equal upper ones.
    fn order(&mut self, condition: &Condition, test: If, yes: Label, no: Label) -> Label {
        let lower = self.program.branch(test, low(condition), yes, no);
        let lower = self.load_low(condition, lower);
        if !self.wide {
            return lower;
        }
        let equal = self.program.branch(If::Equal, high(condition), lower, no);
        let upper = self.program.branch(If::Greater, high(condition), yes, equal);
        self.load_high(condition, upper)
    }

    fn load_low(&mut self, condition: &Condition, then: Label) -> Label {
        let offset = if self.big_endian { 4 } else { 0 };
        self.load(condition, offset, condition.mask as u32, then)
    }

    fn load_high(&mut self, condition: &Condition, then: Label) -> Label {
        let offset = if self.big_endian { 0 } else { 4 };
        self.load(condition, offset, (condition.mask >> 32) as u32, then)
    }

    fn load(&mut self, condition: &Condition, offset: u32, mask: u32, then: Label) -> Label {
        let then = if mask == u32::MAX { then } else { self.program.and(mask, then) };
        self.program.load(ARGUMENTS + 8 * u32::from(condition.index) + offset, then)
    }
}

fn low(condition: &Condition) -> u32 {
    condition.value as u32
}

fn high(condition: &Condition) -> u32 {
    (condition.value >> 32) as u32
}

/// Whether one load of the argument serves both branches.
fn share_loads(a: &Branch, b: &Branch) -> bool {
    match (a.conditions.as_slice(), b.conditions.as_slice()) {
        ([a], [b]) => {
            a.operator == Operator::ScmpCmpEq
                && b.operator == Operator::ScmpCmpEq
                && a.index == b.index
                && high(a) == high(b)
        }
        _ => false,
    }
}
