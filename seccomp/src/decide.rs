//! What happens to each call number of one architecture, as sorted ranges.

use std::cmp::{Ordering, Reverse};

use anyhow::{Result, bail};
use oci_spec::runtime::LinuxSeccompOperator as Operator;

use crate::arch::{Arch, Call};

/// One entry of `linux.seccomp.syscalls`, ready for any architecture.
#[derive(Debug)]
pub struct Rule {
    /// The calls it names.
    pub calls: Vec<Call>,
    /// The value for the kernel (`SECCOMP_RET_*`).
    pub action: u32,
    /// What the arguments must meet: one of these lists, in full. An empty
    /// list is met by all.
    pub alternatives: Vec<Vec<Condition>>,
}

/// A comparison of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// The argument's position, 0 to 5.
    pub index: u8,
    /// How the argument is compared with `value`, both without a sign.
    pub operator: Operator,
    /// The bits of the argument that count.
    pub mask: u64,
    /// What it is compared with.
    pub value: u64,
}

impl Condition {
    /// The condition where arguments are 32 bits wide: like libseccomp, we cut
    /// the values too.
    fn narrow(self) -> Self {
        let low = u64::from(u32::MAX);
        Self { mask: self.mask & low, value: self.value & low, ..self }
    }

    /// Where two rules fit the same arguments, the more specific one is asked
    /// first: equality before a range, a narrow range before a wide one, and a
    /// later argument before an earlier one. libseccomp promises no order, and
    /// mostly has this one.
    fn precedence(&self) -> Reverse<(u8, u8, u64)> {
        let (class, value) = match self.operator {
            Operator::ScmpCmpEq | Operator::ScmpCmpNe | Operator::ScmpCmpMaskedEq => {
                (3, self.value)
            }
            Operator::ScmpCmpLt | Operator::ScmpCmpLe => (2, !self.value),
            Operator::ScmpCmpGt | Operator::ScmpCmpGe => (1, self.value),
        };
        Reverse((self.index, class, value))
    }
}

/// A way to match a call by its arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Branch {
    /// All must hold; sorted by argument.
    pub conditions: Vec<Condition>,
    /// What then happens.
    pub action: u32,
}

impl Branch {
    fn precedence(&self, other: &Self) -> Ordering {
        self.conditions
            .iter()
            .map(Condition::precedence)
            .cmp(other.conditions.iter().map(Condition::precedence))
    }
}

/// What happens to a call that depends on its arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    /// Whether arguments are 64 bits wide; else their low 32 bits count.
    pub wide: bool,
    /// In the order of evaluation.
    pub branches: Vec<Branch>,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// This, always.
    Return(u32),
    /// The first branch that holds, else the default; the position among
    /// [`Decisions::choices`].
    Choose(usize),
}

/// Numbers from `start` to the next range's start share a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first number.
    pub start: u32,
    /// What happens to it.
    pub decision: Decision,
}

/// What happens to every number of an architecture token.
#[derive(Debug, Default)]
pub struct Decisions {
    /// Sorted, the first from 0, neighbours with different decisions.
    pub ranges: Vec<Range>,
    /// For the calls that depend on their arguments.
    pub choices: Vec<Choice>,
}

/// What holds where no rule speaks.
#[derive(Debug, Clone, Copy)]
pub struct Fallback {
    /// The profile's default action.
    pub default: u32,
    /// What happens to calls newer than all that the profile names.
    pub newer: u32,
}

/// An occurrence of a call in a rule. A profile has hundreds of them for each
/// architecture, so they are small.
#[derive(Debug)]
struct Mention {
    number: u32,
    rule: u32,
    /// What the first argument must be where the number is a multiplexer's.
    selector: Option<u8>,
    call: Call,
}

impl Decisions {
    /// Lets `decision` hold from `start` on. Starts must not decrease.
    pub fn begin(&mut self, start: u32, decision: Decision) {
        if self.ranges.last().is_some_and(|last| last.start == start) {
            self.ranges.pop();
        }
        if self.ranges.last().is_none_or(|last| last.decision != decision) {
            self.ranges.push(Range { start, decision });
        }
    }

    /// Adds what `rules` say of `arch`, whose numbers begin with `first`.
    ///
    /// # Errors
    /// Where two rules contradict each other.
    pub fn add(
        &mut self,
        arch: Arch,
        first: u32,
        rules: &[Rule],
        fallback: Fallback,
    ) -> Result<()> {
        let (mentions, newest) = mentions(arch, rules, fallback.default);
        self.begin(first, Decision::Return(fallback.default));
        if matches!(arch, Arch::S390 | Arch::S390x) && newest.is_some() {
            // Large numbers are passed through setup(2), number 0, and the
            // kernel leaves those it does not know there. Nobody calls setup.
            self.begin(0, Decision::Return(fallback.newer));
            self.begin(1, Decision::Return(fallback.default));
        }
        for same_call in mentions.chunk_by(|a, b| a.number == b.number) {
            let Some(&Mention { number, .. }) = same_call.first() else { continue };
            let decision = self.decide(arch, same_call, rules)?;
            self.begin(number, decision);
            if let Some(next) = number.checked_add(1) {
                self.begin(next, Decision::Return(fallback.default));
            }
        }
        if let Some(next) = newest.and_then(|newest| newest.checked_add(1)) {
            self.begin(next, Decision::Return(fallback.newer));
        }
        Ok(())
    }

    /// A rule without conditions outdoes those with, and the first of them the
    /// later ones.
    fn decide(&mut self, arch: Arch, mentions: &[Mention], rules: &[Rule]) -> Result<Decision> {
        let mut found = Vec::new();
        for mention in mentions {
            let Some(rule) = rules.get(mention.rule as usize) else { continue };
            for conditions in &rule.alternatives {
                // What nearly all rules of a profile are needs no more.
                if conditions.is_empty() && mention.selector.is_none() {
                    return Ok(Decision::Return(rule.action));
                }
                let branch = branch(arch, mention.selector, conditions, rule.action);
                if branch.conditions.is_empty() {
                    return Ok(Decision::Return(rule.action));
                }
                found.push((branch, mention));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.precedence(b));
        let mut kept: Vec<(Branch, &Mention)> = Vec::with_capacity(found.len());
        for (branch, mention) in found {
            match kept.last() {
                // What fits this one has fit the shorter list before.
                Some(shorter) if branch.conditions.starts_with(&shorter.0.conditions) => {
                    contradiction(shorter, &(branch, mention))?;
                }
                _ => kept.push((branch, mention)),
            }
        }
        let branches = kept.into_iter().map(|(branch, _)| branch).collect();
        let choice = Choice { wide: arch.is_wide(), branches };
        if self.choices.last() != Some(&choice) {
            self.choices.push(choice);
        }
        Ok(Decision::Choose(self.choices.len() - 1))
    }
}

/// Refuses a rule that covers an earlier one of the same or narrower conditions
/// and wants something else, as libseccomp does. The other way round the
/// narrower one is idle.
fn contradiction(
    (shorter, covering): &(Branch, &Mention),
    (longer, covered): &(Branch, &Mention),
) -> Result<()> {
    // Of multiplexed calls the arguments are not the true ones.
    let direct = covering.selector.is_none() && covered.selector.is_none();
    let same = shorter.conditions == longer.conditions;
    let (first, second) = if same { (covering, covered) } else { (covered, covering) };
    if direct && shorter.action != longer.action && first.rule < second.rule {
        bail!(
            "syscalls[{}]: contradicts syscalls[{}]: fits the same arguments of {:?}, with another action",
            second.rule,
            first.rule,
            first.call.name()
        );
    }
    Ok(())
}

/// The mentions of calls in `rules` that change anything, by number and then in the
/// order of the rules, and the newest call that is named.
fn mentions(arch: Arch, rules: &[Rule], default: u32) -> (Vec<Mention>, Option<u32>) {
    let mut mentions = Vec::with_capacity(rules.iter().map(|rule| rule.calls.len()).sum());
    let mut newest = None;
    for (position, rule) in (0..).zip(rules) {
        for &call in &rule.calls {
            let number = arch.number(call);
            newest = newest.max(number);
            // As in libseccomp, a rule that repeats the default is no rule, so
            // it takes nothing from another one for the same call.
            if rule.action == default {
                continue;
            }
            if let Some(number) = number {
                mentions.push(Mention { number, rule: position, selector: None, call });
            }
            if let Some((by, selector)) = call.multiplexer()
                && let Some(number) = arch.number(by)
            {
                mentions.push(Mention { number, rule: position, selector: Some(selector), call });
            }
        }
    }
    mentions.sort_by_key(|mention| mention.number);
    (mentions, newest)
}

fn branch(arch: Arch, selector: Option<u8>, conditions: &[Condition], action: u32) -> Branch {
    // socketcall and ipc pass the true arguments in memory, where a filter
    // cannot look, or one place further. libseccomp lets the selector take the
    // place of the first and asks for the others as they stand.
    let selected = selector.map(|selector| Condition {
        index: 0,
        operator: Operator::ScmpCmpEq,
        mask: u64::MAX,
        value: u64::from(selector),
    });
    let rest = conditions.iter().filter(|condition| selected.is_none() || condition.index != 0);
    let all = selected.iter().chain(rest);
    let as_seen = all.map(|&condition| if arch.is_wide() { condition } else { condition.narrow() });
    // A mask without bits asks for nothing.
    let mut conditions: Vec<Condition> = as_seen.filter(|condition| condition.mask != 0).collect();
    conditions.sort_by_key(|condition| condition.index);
    Branch { conditions, action }
}
