//! What was promised, and whether it is kept.

use crate::bed::View;
use crate::results::{Results, Setting};
use crate::runtime::{FERRUN, READ_ONLY};
use crate::sample::Summary;

/// A promise: a figure that must not be more than a limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// What is measured.
    pub what: String,
    /// The figure, where there is one.
    pub measured: Option<f64>,
    /// The most that it may be.
    pub limit: f64,
    /// Its unit; empty for a ratio.
    pub unit: &'static str,
}

impl Bound {
    /// Whether it is kept; nothing where it was not measured.
    pub fn met(&self) -> Option<bool> {
        self.measured.map(|measured| measured <= self.limit)
    }
}

/// All bounds, with what was measured for them.
pub fn bounds(results: &Results) -> Vec<Bound> {
    use View::{V1, V2};
    let of = |view, setting, command, runtime, field: fn(&Summary) -> f64| {
        results.find(view, setting, command, runtime).map(|record| field(&record.summary))
    };
    let cpu = |view, command, runtime| {
        of(view, Setting::Default, command, runtime, |summary| summary.cpu)
    };
    let ratio = |view: View, command: &'static str, peer: &'static str, limit| Bound {
        what: format!("CPU of `{command}` by that of {peer}, {}", view.name()),
        measured: quotient(cpu(view, command, FERRUN), cpu(view, command, peer)),
        limit,
        unit: "",
    };
    let protected = |command: &'static str, limit| Bound {
        what: format!("CPU of `{command}` on a read-only mount by that of the floor, v2"),
        measured: quotient(cpu(V2, command, READ_ONLY), cpu(V2, command, "floor")),
        limit,
        unit: "",
    };
    let mut bounds = vec![
        ratio(V1, "run", "crun", 0.65),
        ratio(V2, "run", "floor", 1.4),
        protected("run", 1.3),
        ratio(V1, "exec", "crun", 0.5),
        protected("exec", 1.75),
        ratio(V1, "start", "crun", 0.1),
        ratio(V1, "state", "crun", 0.1),
        ratio(V1, "kill", "crun", 0.1),
        ratio(V1, "delete", "crun", 0.1),
    ];
    for (view, count) in [(V1, 100), (V1, 1000)] {
        // What it costs without containers is no part of what one costs.
        let list = |runtime| {
            let of = |setting| of(view, setting, "list", runtime, |summary| summary.cpu);
            of(Setting::Existing(count)).zip(of(Setting::Default)).map(|(all, one)| all - one)
        };
        bounds.push(Bound {
            what: format!(
                "CPU of `list` for each of {count} containers by crun's, {}",
                view.name()
            ),
            measured: quotient(list(FERRUN), list("crun")),
            limit: 0.9,
            unit: "",
        });
    }
    for view in [V1, V2] {
        let with = of(view, Setting::Seccomp, "run", FERRUN, |summary| summary.cpu);
        bounds.push(Bound {
            what: format!("CPU that Docker's seccomp profile adds to `run`, {}", view.name()),
            measured: with.zip(cpu(view, "run", FERRUN)).map(|(with, without)| with - without),
            limit: 0.4,
            unit: "ms",
        });
    }
    for view in [V1, V2] {
        bounds.push(Bound {
            what: format!("Peak memory of `run`, {}", view.name()),
            measured: of(view, Setting::Default, "run", FERRUN, |summary| summary.peak / 1024.0),
            limit: 2.5,
            unit: "MiB",
        });
    }
    for (image, most) in [("small", 24.0), ("large", 64.0)] {
        let find = |tool: &str| {
            results.images.iter().find(|record| record.image == image && record.tool == tool)
        };
        let (ours, theirs) = (find("image-tool"), find("skopeo + umoci"));
        bounds.push(Bound {
            what: format!("Wall time of pulling the {image} image by that of skopeo with umoci"),
            measured: quotient(ours.map(|o| o.summary.wall), theirs.map(|t| t.summary.wall)),
            limit: 0.5,
            unit: "",
        });
        bounds.push(Bound {
            what: format!("Peak memory of pulling the {image} image"),
            measured: ours.map(|record| record.summary.peak * 1024.0 / 1e6),
            limit: most,
            unit: "MB",
        });
    }
    bounds
}

fn quotient(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    ours.zip(theirs).map(|(ours, theirs)| ours / theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_met_up_to_its_limit_and_unknown_without_a_figure() {
        let bound = |measured| Bound { what: String::new(), measured, limit: 0.5, unit: "" };
        for (measured, met) in [(Some(0.5), Some(true)), (Some(0.51), Some(false)), (None, None)] {
            assert_eq!(bound(measured).met(), met);
        }
    }

    #[test]
    fn without_results_nothing_is_claimed() {
        assert!(bounds(&Results::default()).iter().all(|bound| bound.met().is_none()));
    }
}
