//! `update`: other limits for a container that is there.
//!
//! What is asked for is laid over what the container has: a period alone says
//! nothing without the quota that it belongs to. Device rules replace those before,
//! but for the one that denies everything when it stands alone: engines send it
//! along and mean nothing by it.

use anyhow::{Context as _, Result, bail};
use clap::ArgMatches;
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::{Global, while_allowed};
use crate::bundle;
use crate::cgroups::resctrl;
use crate::cgroups::{self, systemd};
use crate::cli::update::{CLASS, NUMBERS, TEXTS, options};
use crate::cli::{id_of, text_of};
use crate::error::InField as _;
use crate::log;
use crate::plan::cgroup::unit;
use crate::plan::intel_rdt::Lines;
use crate::store::{Container, Operation};

/// The properties in which 0 is a value; elsewhere it stands for what is to stay.
const ZEROS: [&[&str]; 2] = [&["cpu", "burst"], &["cpu", "idle"]];

/// Runs the verb.
pub fn run(matches: &ArgMatches, global: &Global) -> Result<()> {
    let container = global.store.load(id_of(matches))?;
    let [cache, bandwidth] =
        CLASS.map(|name| text_of(matches, name).filter(|text| !text.is_empty()));
    let class = Lines::of_update(cache.as_deref(), bandwidth.as_deref())?;
    let request = match text_of(matches, "resources") {
        Some(path) => read_resources(&path)?,
        None => from_options(matches)?,
    };
    let is_empty = request.as_object().is_some_and(Map::is_empty);
    let is_given = |(name, _): (&str, _)| matches.contains_id(name);
    if !matches.contains_id("resources") && !options().any(is_given) {
        bail!("update: no resource is given");
    }
    while_allowed(global, &container, Operation::Update, || {
        let _lock = container.lock()?;
        if let Some(lines) = class {
            // Another update may have been here before.
            change_class(global.store.load(&container.record.id)?, lines)?;
        }
        match is_empty {
            true => Ok(()),
            false => change_limits(&container, request),
        }
    })
}

/// Writes to the class of a container, or puts it into one of its own.
fn change_class(mut container: Container, lines: Lines) -> Result<()> {
    let Container { record, .. } = &mut container;
    let settled = resctrl::settle_update(record.intel_rdt.as_ref(), &record.id, lines)?;
    let mut group = settled.group.clone();
    if record.intel_rdt.is_some() {
        return settled.make(&mut group);
    }
    record.intel_rdt = Some(group.clone());
    container.save()?;
    let record = &container.record;
    let init = record.init.context("container not running")?.pid as u32;
    let processes = || {
        let in_group = cgroups::processes(&record.group)?;
        // Whoever has no cgroup has this one at least.
        Ok(in_group.into_iter().chain([init]).collect())
    };
    let made = settled.make(&mut group);
    let moved = made.and_then(|()| resctrl::move_all(&group, processes));
    if moved.is_err() {
        resctrl::remove(&group, &record.id)?;
        container.record.intel_rdt = None;
        container.save()?;
    }
    moved
}

fn change_limits(container: &Container, request: Value) -> Result<()> {
    let before = match container.resources()? {
        Some(resources) => serde_json::to_value(resources)?,
        None => json!({}),
    };
    let mut merged = before;
    let changes_devices = request.get("devices").is_some();
    let request = with_swap_lifted(request, &merged);
    lay_over(&mut merged, request);
    let resources: LinuxResources =
        serde_path_to_error::deserialize(merged).in_field("linux.resources")?;
    let group = &container.record.group;
    let mut settings = group.settings(&resources)?;
    let devices = match resources.devices().as_deref().filter(|_| changes_devices) {
        Some(rules) => group.devices(rules)?,
        None => None,
    };
    if let Some(unit) = &container.record.unit {
        let mut properties = unit::limits(&mut settings)?;
        if let Some(devices) = &devices {
            properties.extend(unit::device_properties(&devices.list, &systemd::majors()?));
        }
        systemd::change(unit, &properties)?;
    }
    cgroups::apply_settings(&settings, None)?.iter().for_each(log::warn);
    if let Some(devices) = &devices {
        cgroups::apply_devices(devices)?;
    }
    container.keep_resources(&resources)
}

/// Who lifts the limit of memory and says nothing of the one of memory and swap together
/// means both.
fn with_swap_lifted(mut request: Value, before: &Value) -> Value {
    let swap = "/memory/swap";
    let has_limit = before.pointer(swap).and_then(Value::as_i64).is_some_and(|limit| limit > 0);
    if request.pointer("/memory/limit") == Some(&json!(-1))
        && request.pointer(swap).is_none()
        && has_limit
    {
        put(&mut request, &["memory", "swap"], json!(-1));
    }
    request
}

/// Reads the object that `--resources` names, `-` for stdin.
fn read_resources(path: &str) -> Result<Value> {
    let read = || -> Result<Value> {
        let text = if path == "-" {
            std::io::read_to_string(std::io::stdin().lock())?
        } else {
            bundle::read(path.as_ref())?
        };
        let mut value: Value = serde_json::from_str(&text)?;
        let Some(object) = value.as_object_mut() else { bail!("not an object") };
        // Among them 0 is a number like any other.
        let devices = object.remove("devices").filter(|rules| !says_nothing(rules));
        drop_unset(&mut value);
        if let Some(devices) = devices {
            value["devices"] = devices;
        }
        Ok(value)
    };
    read().with_context(|| format!("--resources: {path:?}"))
}

/// No device rules at all, or the one that denies everything.
fn says_nothing(rules: &Value) -> bool {
    let denies_all = |rule: &Value| {
        let number = |name: &str| rule.get(name).and_then(Value::as_i64).unwrap_or(-1);
        rule.get("allow") == Some(&json!(false)) && number("major") < 0 && number("minor") < 0
    };
    match rules.as_array().map(Vec::as_slice) {
        Some([rule]) => denies_all(rule),
        Some([]) | None => rules.is_null() || rules.is_array(),
        Some(_) => false,
    }
}

/// In what engines and users send, null, 0 and nothing stand for what is to stay as it is.
fn drop_unset(value: &mut Value) {
    let zeros: Vec<_> = ZEROS
        .into_iter()
        .filter(|place| value.pointer(&format!("/{}", place.join("/"))) == Some(&json!(0)))
        .collect();
    drop_empty(value);
    for place in zeros {
        put(value, place, json!(0));
    }
}

fn drop_empty(value: &mut Value) {
    if let Value::Object(object) = value {
        object.retain(|_, value| {
            drop_empty(value);
            let is_empty = value.as_object().is_some_and(Map::is_empty);
            !value.is_null() && *value != 0 && *value != "" && !is_empty
        });
    }
}

fn from_options(matches: &ArgMatches) -> Result<Value> {
    let mut request = json!({});
    let given = |name| text_of(matches, name).filter(|text| !text.is_empty());
    for (name, place) in NUMBERS {
        if let Some(text) = given(name) {
            let number =
                bytes(&text).with_context(|| format!("--{name}: {text:?}: not a number"))?;
            put(&mut request, place, number.into());
        }
    }
    for (name, place) in TEXTS {
        if let Some(text) = given(name) {
            put(&mut request, place, text.into());
        }
    }
    drop_unset(&mut request);
    Ok(request)
}

fn put(request: &mut Value, place: &[&str], value: Value) {
    let [section, property] = place else { return };
    request[*section][*property] = value;
}

/// A number, with the suffix of a size if need be: `32m`.
fn bytes(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match lower.get(digits.len()..)? {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(factor)
}

/// Sets in `under` what `over` has, property by property.
fn lay_over(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                lay_over(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_over_what_is_there() {
        let mut merged = json!({"cpu": {"quota": 5, "period": 10}, "pids": {"limit": 3}});
        let mut request = json!({"cpu": {"period": 20, "shares": 0}, "memory": {"limit": 7, "swap": null}, "network": {}});
        drop_unset(&mut request);
        lay_over(&mut merged, request);
        let expected = json!({
            "cpu": {"quota": 5, "period": 20}, "pids": {"limit": 3}, "memory": {"limit": 7}
        });
        assert_eq!(merged, expected);
    }

    #[test]
    fn zero_is_a_value_where_it_means_something() {
        let mut request = json!({"cpu": {"idle": 0, "burst": 0, "quota": 0}, "pids": {"limit": 0}});
        drop_unset(&mut request);
        assert_eq!(request, json!({"cpu": {"idle": 0, "burst": 0}}));
        let mut request = json!({"memory": {"limit": 0}, "cpu": {"cpus": ""}});
        drop_unset(&mut request);
        assert_eq!(request, json!({}));
    }

    #[test]
    fn a_lifted_limit_of_memory_lifts_that_of_swap() {
        let limited = json!({"memory": {"limit": 5, "swap": 9}});
        for (request, before, expected) in [
            (
                json!({"memory": {"limit": -1}}),
                &limited,
                json!({"memory": {"limit": -1, "swap": -1}}),
            ),
            (
                json!({"memory": {"limit": -1, "swap": 7}}),
                &limited,
                json!({"memory": {"limit": -1, "swap": 7}}),
            ),
            (json!({"memory": {"limit": 6}}), &limited, json!({"memory": {"limit": 6}})),
            (json!({"memory": {"limit": -1}}), &json!({}), json!({"memory": {"limit": -1}})),
            (json!({"cpu": {"shares": 5}}), &limited, json!({"cpu": {"shares": 5}})),
        ] {
            assert_eq!(with_swap_lifted(request.clone(), before), expected, "{request}");
        }
    }

    #[test]
    fn device_rules_that_engines_send_along_say_nothing() {
        for (rules, expected) in [
            (json!(null), true),
            (json!([]), true),
            (json!([{"allow": false, "access": "rwm"}]), true),
            (json!([{"allow": false, "type": "a", "major": -1, "minor": -1}]), true),
            (json!([{"allow": true, "access": "rwm"}]), false),
            (json!([{"allow": false, "type": "c", "major": 1, "minor": 3}]), false),
            (json!([{"allow": false}, {"allow": true, "type": "c", "major": 0}]), false),
            (json!("x"), false),
        ] {
            assert_eq!(says_nothing(&rules), expected, "{rules}");
        }
    }

    #[test]
    fn sizes_may_have_a_suffix() {
        for (text, number) in
            [("-1", -1), ("5", 5), ("2k", 2048), ("32M", 32 << 20), ("1GiB", 1 << 30)]
        {
            assert_eq!(bytes(text), Some(number), "{text}");
        }
        for wrong in ["", "m", "1x", "1.5g", "9999999999g"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
