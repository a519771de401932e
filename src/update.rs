//! Other limits for a container that is there.
//!
//! What is asked for is laid over what the container has: a period alone says nothing without
//! the quota that it belongs to.

use anyhow::{Context as _, Result};
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use crate::cgroups::{self, Held, resctrl, systemd};
use crate::error::{InField as _, message};
use crate::log;
use crate::plan::cgroup::unit::{self, Property};
use crate::plan::cgroup::{DevicePlan, Setting};
use crate::plan::intel_rdt::Lines;
use crate::store::{Container, Store};

/// Gives a container of `store` the limits that `request` names (an object of the form of
/// linux.resources), and these lines of its class of service.
pub fn update(
    store: &Store,
    container: &Container,
    request: Value,
    class: Option<Lines>,
) -> Result<()> {
    let _lock = container.lock()?;
    if let Some(lines) = class {
        // Another update may have been here before.
        change_class(store.load(&container.record.id)?, lines)?;
    }
    match request.as_object().is_some_and(Map::is_empty) {
        true => Ok(()),
        false => change_limits(container, request),
    }
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
    let properties = properties(container, &mut settings)?;
    let held = cgroups::held(&settings);
    let changed = change(container, properties, &settings, devices.as_ref())
        .and_then(|warnings| container.keep_resources(&resources).map(|()| warnings));
    if changed.is_err() {
        put_back(container, &held);
    }
    changed.map(|warnings| warnings.iter().for_each(log::warn))
}

/// The settings in systemd's words, where the group is one of its units.
fn properties(container: &Container, settings: &mut [Setting]) -> Result<Vec<Property>> {
    match &container.record.unit {
        Some(_) => unit::limits(settings),
        None => Ok(Vec::new()),
    }
}

/// Sets all that. Returns warnings.
fn change(
    container: &Container,
    mut properties: Vec<Property>,
    settings: &[Setting],
    devices: Option<&DevicePlan>,
) -> Result<Vec<String>> {
    if let Some(unit) = &container.record.unit {
        if let Some(devices) = devices {
            properties.extend(unit::device_properties(&devices.list, &systemd::majors()?));
        }
        systemd::change(unit, &properties)?;
    }
    let warnings = cgroups::apply_settings(settings, None)?;
    devices.map_or(Ok(()), cgroups::apply_devices)?;
    Ok(warnings)
}

/// Has the limits as they were, where one of the new ones is refused. Whoever asked hears of
/// that one, and a warning of what could not be put back, unless the container was deleted meanwhile.
fn put_back(container: &Container, held: &[Held<'_>]) {
    let mut settings: Vec<_> = held.iter().flat_map(Held::back).collect();
    let restored = properties(container, &mut settings)
        .and_then(|properties| change(container, properties, &settings, None));
    if held.iter().any(Held::has_gone) {
        return;
    }
    match restored {
        Ok(warnings) => warnings.iter().for_each(log::warn),
        Err(error) => log::warn(format!("limits that were there before: {}", message(&error))),
    }
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

/// Sets a property of a section.
pub fn put(request: &mut Value, place: &[&str], value: Value) {
    let [section, property] = place else { return };
    request[*section][*property] = value;
}

/// Sets in `under` what `over` has, property by property.
pub fn lay_over(under: &mut Value, over: Value) {
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
}
