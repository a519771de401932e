//! What the runtime spec allows and oci-spec 0.10 refuses, mended in the JSON
//! value. Runs only after a first reading has failed.

use oci_spec::runtime::Capability;
use serde_json::{Value, json};

/// Mends `value`, a whole configuration or a process alone, in place. Says what
/// it left out.
pub fn repair(value: &mut Value) -> Vec<String> {
    drop_nulls(value);
    let mut warnings = Vec::new();
    let (process, field) = match value.get_mut("process") {
        Some(process) => (process, "process."),
        None => (&mut *value, ""),
    };
    // Only of a process alone may it be missing; `scan` sees to that.
    if let Value::Object(process) = process {
        process.entry("user").or_insert_with(|| json!({}));
    }
    for set in ["bounding", "effective", "inheritable", "permitted", "ambient"] {
        if let Some(Value::Array(names)) = process.pointer_mut(&format!("/capabilities/{set}")) {
            names.retain(|name| {
                let known = name.as_str().is_none_or(is_capability);
                if !known {
                    warnings
                        .push(format!("{field}capabilities.{set}: {name} is unknown and left out"));
                }
                known
            });
        }
    }
    if let Some(Value::Array(flags)) = process.pointer_mut("/scheduler/flags") {
        for flag in flags.iter_mut() {
            if *flag == "SCHED_FLAG_RESET_ON_FORK" {
                *flag = "SCHED_RESET_ON_FORK".into();
            } else if *flag == "SCHED_FLAG_DL_OVERRUN" {
                *flag = "SCHED_FLAG_D_L_OVERRUN".into();
            }
        }
    }
    if let Some(Value::Object(affinity)) = process.get_mut("execCPUAffinity") {
        affinity.retain(|_, cpus| *cpus != "");
    }
    if let Some(Value::Array(limits)) = value.pointer_mut("/linux/resources/hugepageLimits") {
        for limit in limits.iter_mut().filter_map(|entry| entry.get_mut("limit")) {
            if limit.as_u64().is_some_and(|bytes| i64::try_from(bytes).is_err()) {
                // No machine has so much: the two limits do not differ.
                *limit = i64::MAX.into();
            }
        }
    }
    if let Some(Value::Array(rules)) = value.pointer_mut("/linux/resources/devices") {
        for rule in rules.iter_mut().filter_map(Value::as_object_mut) {
            rule.retain(|key, kind| key != "type" || *kind != "");
        }
    }
    warnings
}

fn is_capability(name: &str) -> bool {
    serde_json::from_value::<Capability>(name.into()).is_ok()
}

/// JSON's null stands for a property that is not given. An object that held
/// nothing else is not given either: `"pids": {"limit": null}` sets no limit. Only a
/// network device is given by its name alone.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| {
                let was_null = |value: &Value| {
                    value
                        .as_object()
                        .is_some_and(|map| !map.is_empty() && map.values().all(Value::is_null))
                };
                if key == "netDevices"
                    && let Value::Object(devices) = value
                {
                    devices.retain(|_, device| !device.is_null());
                    devices.values_mut().for_each(drop_nulls);
                    return true;
                }
                if was_null(value) {
                    return false;
                }
                drop_nulls(value);
                !value.is_null()
            });
        }
        Value::Array(values) => values.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_not_given_nor_is_what_holds_nothing_else() {
        let mut value = json!({
            "a": null,
            "b": {"c": null},
            "d": {},
            "e": [{"f": null, "g": 1}, null],
            "netDevices": {"h": {"name": null}, "i": null},
        });
        drop_nulls(&mut value);
        let expected = json!({"d": {}, "e": [{"g": 1}, null], "netDevices": {"h": {}}});
        assert_eq!(value, expected);
    }
}
