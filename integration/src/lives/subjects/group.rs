//! `linux.resources` and `update`, as the files of the cgroup show them.

use serde_json::json;

use super::super::choice::{Asks, Choice, Need, Way};
use super::super::place::Place;
use super::super::random::Random;
use super::process::PROCESSORS;
use crate::View;

type Draw = fn(&mut Random, &Place) -> Choice;

/// Some of what the controllers of this place can limit.
pub(super) fn draw(random: &mut Random, place: &Place) -> Vec<Choice> {
    let all: [(&str, Draw); 6] = [
        ("pids", pids),
        ("memory", memory),
        ("cpu", shares),
        ("cpu", quota),
        ("cpuset", processors),
        ("devices", devices),
    ];
    let mut drawn = Vec::new();
    for (controller, choice) in all {
        if place.controllers.contains(&controller) && random.once_in(3) {
            drawn.push(choice(random, place));
        }
    }
    drawn
}

fn by_version(place: &Place, one: &str, two: &str) -> String {
    if place.view == View::V2 { two.to_owned() } else { one.to_owned() }
}

/// A file of the group and, where there is another value, an update to it.
fn limit(choice: Choice, file: &str, value: &str, update: Option<(&str, &str, &str)>) -> Choice {
    let choice = choice.check(Asks::Group(file.to_owned()), value);
    let Some((option, argument, value)) = update else { return choice };
    choice
        .way(Way::Update(vec![option.to_owned(), argument.to_owned()]))
        .check(Asks::UpdatedGroup(file.to_owned()), value)
}

fn pids(random: &mut Random, _: &Place) -> Choice {
    let (first, then) =
        (random.between(20, 5000).to_string(), random.between(20, 5000).to_string());
    let number: u64 = first.parse().unwrap_or_default();
    let update = random.once_in(2).then_some(("--pids-limit", &*then, &*then));
    let choice = Choice::new(format!("pids.limit {first}, {update:?}"));
    limit(choice.set("/linux/resources/pids/limit", number), "pids.max", &first, update)
}

fn memory(random: &mut Random, place: &Place) -> Choice {
    let bytes = random.between(64, 4096) << 20;
    let then = bytes + (random.between(0, 64) << 20);
    let file = by_version(place, "memory.limit_in_bytes", "memory.max");
    let text = then.to_string();
    let update = random.once_in(2).then_some(("--memory", &*text, &*text));
    let choice = Choice::new(format!("memory.limit {bytes}, {update:?}"))
        .set("/linux/resources/memory/limit", bytes);
    limit(choice, &file, &bytes.to_string(), update)
}

fn shares(random: &mut Random, place: &Place) -> Choice {
    // Version 2 has weights, by a formula of its own.
    let [first, then] = if place.view == View::V2 {
        [1024, 1024]
    } else {
        [random.between(2, 9999), random.between(2, 9999)]
    };
    let file = by_version(place, "cpu.shares", "cpu.weight");
    let shown =
        |shares: u64| if place.view == View::V2 { "100".to_owned() } else { shares.to_string() };
    let text = then.to_string();
    let after = shown(then);
    let update = random.once_in(2).then_some(("--cpu-share", &*text, &*after));
    let choice = Choice::new(format!("cpu.shares {first}, {update:?}"))
        .set("/linux/resources/cpu/shares", first);
    limit(choice, &file, &shown(first), update)
}

fn quota(random: &mut Random, place: &Place) -> Choice {
    let period = 1000 * random.between(50, 500);
    let quota = 1000 * random.between(50, 1000);
    let choice = Choice::new(format!("cpu.quota {quota} of {period}"))
        .set("/linux/resources/cpu/quota", quota)
        .set("/linux/resources/cpu/period", period);
    match place.view {
        View::V2 => limit(choice, "cpu.max", &format!("{quota} {period}"), None),
        _ => {
            let choice = limit(choice, "cpu.cfs_quota_us", &quota.to_string(), None);
            limit(choice, "cpu.cfs_period_us", &period.to_string(), None)
        }
    }
}

fn processors(random: &mut Random, place: &Place) -> Choice {
    let list = random.one(&place.processors);
    Choice::new(format!("cpus {list}"))
        // Who has a deadline may run anywhere, and exec's own processors are among the group's.
        .needs(&[
            Need::Unset("/process/scheduler/runtime"),
            Need::Unset("/process/execCPUAffinity"),
        ])
        .set("/linux/resources/cpu/cpus", list)
        .check(Asks::Group("cpuset.cpus".to_owned()), list)
        .inside(PROCESSORS, list)
}

/// A node that nothing stands behind: who may open it is told that, and others are refused.
fn devices(random: &mut Random, _: &Place) -> Choice {
    let minor = random.between(0, 255);
    let access = random.one(&["r", "w", "rw"]);
    let node =
        json!({"path": "/dev/ruled", "type": "c", "major": 241, "minor": minor, "fileMode": 0o666});
    let rules = json!([{"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 241, "minor": minor, "access": access}]);
    let answer = |wanted| {
        if access.contains(wanted) {
            "No such device or address"
        } else {
            "Operation not permitted"
        }
    };
    let said = |direction| format!("(: {direction} /dev/ruled) 2>&1 | sed 's/.*: //'");
    Choice::new(format!("a device that is {access}"))
        .needs(&[Need::Callers("user")])
        .set("/linux/devices/-", node)
        .set("/linux/resources/devices", rules)
        .inside(said("<"), answer("r"))
        .inside(said(">"), answer("w"))
}
