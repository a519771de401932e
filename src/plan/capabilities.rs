//! `process.capabilities`: what is wanted, and what of it a process can be given.

use std::fmt;

use oci_spec::runtime::{Capabilities, Process};

/// Capabilities as bit masks, bit n for capability n (capabilities(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// Effective.
    pub effective: u64,
    /// Permitted.
    pub permitted: u64,
    /// Inheritable.
    pub inheritable: u64,
    /// Bounding.
    pub bounding: u64,
    /// Ambient.
    pub ambient: u64,
}

/// What of the wanted sets can be had by whoever holds some of them only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// What can be had.
    pub sets: CapabilitySets,
    /// What is left out, for the log (config.md#linux-process).
    pub warnings: Vec<String>,
}

impl CapabilitySets {
    /// Without `capabilities` a process has none, as with an empty object.
    pub fn plan(process: &Process) -> Self {
        let Some(sets) = process.capabilities() else { return Self::default() };
        Self {
            effective: mask(sets.effective()),
            permitted: mask(sets.permitted()),
            inheritable: mask(sets.inheritable()),
            bounding: mask(sets.bounding()),
            ambient: mask(sets.ambient()),
        }
    }

    /// What a process that holds the capabilities `held` can be given. `field` names the sets.
    pub fn of_what_is(&self, held: u64, field: impl fmt::Display) -> Granted {
        let mut warnings = Vec::new();
        let all = self.effective | self.permitted | self.inheritable | self.bounding;
        let unheld = names(all & !held);
        if !unheld.is_empty() {
            let unheld = unheld.join(", ");
            warnings.push(format!("{field}.bounding: {unheld} cannot be granted and left out"));
        }
        let permitted = self.permitted & held;
        let inheritable = self.inheritable & held;
        // The words that callers look for, with one name each.
        for name in names(self.ambient & !(permitted & inheritable)) {
            let refused = format!("can't raise ambient capability {name}: not both permitted and");
            warnings.push(format!("{field}.ambient: {refused} inheritable"));
        }
        let sets = Self {
            permitted,
            effective: self.effective & permitted,
            inheritable,
            bounding: self.bounding & held,
            ambient: self.ambient & permitted & inheritable,
        };
        Granted { sets, warnings }
    }
}

fn names(mask: u64) -> Vec<String> {
    if mask == 0 {
        return Vec::new();
    }
    let mut names: Vec<String> = caps::all()
        .into_iter()
        .filter(|capability| capability.bitmask() & mask != 0)
        .map(|capability| capability.to_string())
        .collect();
    names.sort();
    names
}

/// The bit mask of a set of capabilities.
fn mask(set: &Option<Capabilities>) -> u64 {
    set.iter()
        .flatten()
        .filter_map(|capability| format!("CAP_{capability}").parse::<caps::Capability>().ok())
        .fold(0, |mask, capability| mask | capability.bitmask())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHOWN: u64 = 1;
    const KILL: u64 = 1 << 5;

    #[test]
    fn what_is_not_held_is_left_out_of_each_set_with_a_warning() {
        let wanted = CapabilitySets {
            effective: CHOWN | KILL,
            permitted: CHOWN | KILL,
            inheritable: CHOWN | KILL,
            bounding: CHOWN | KILL,
            ambient: CHOWN | KILL,
        };
        assert_eq!(wanted.of_what_is(u64::MAX, "c"), Granted { sets: wanted, warnings: vec![] });
        let all = CapabilitySets {
            effective: CHOWN,
            permitted: CHOWN,
            inheritable: CHOWN,
            bounding: CHOWN,
            ambient: CHOWN,
        };
        let granted = wanted.of_what_is(CHOWN, "c");
        assert_eq!(granted.sets, all);
        assert_eq!(
            granted.warnings,
            [
                "c.bounding: CAP_KILL cannot be granted and left out",
                "c.ambient: can't raise ambient capability CAP_KILL: not both permitted and \
                 inheritable",
            ]
        );
    }

    #[test]
    fn what_cannot_be_granted_is_told_whichever_set_asks_for_it() {
        // Each set alone, and each with each other.
        for asking in 1..16_u64 {
            let of = |set: u32| if asking >> set & 1 == 1 { KILL } else { 0 };
            let wanted = CapabilitySets {
                effective: of(0),
                permitted: of(1),
                inheritable: of(2),
                bounding: of(3),
                ambient: 0,
            };
            let granted = wanted.of_what_is(CHOWN, "c");
            let warning = "c.bounding: CAP_KILL cannot be granted and left out";
            assert_eq!(granted.warnings, [warning], "{asking:b}");
            assert_eq!(granted.sets, CapabilitySets::default());
        }
    }

    #[test]
    fn what_is_effective_is_permitted_and_what_is_ambient_is_inheritable_too() {
        let wanted = CapabilitySets {
            effective: CHOWN | KILL,
            permitted: CHOWN,
            ambient: CHOWN,
            ..CapabilitySets::default()
        };
        let granted = wanted.of_what_is(u64::MAX, "c");
        assert_eq!((granted.sets.effective, granted.sets.ambient), (CHOWN, 0));
        assert_eq!(granted.warnings.len(), 1, "{:?}", granted.warnings);
    }
}
