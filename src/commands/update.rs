//! `update`: other limits for a container that is there.
//!
//! What is asked for is laid over what the container has: a period alone says
//! nothing without the quota that it belongs to. Device rules are left alone,
//! because engines send the one that denies everything along.

use std::io::Read as _;

use anyhow::{Context as _, Result, bail};
use clap::ArgMatches;
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::Global;
use crate::bundle;
use crate::cgroups;
use crate::cli::{id_of, text_of};
use crate::error::InField as _;
use crate::log;
use crate::state::Operation;

/// The options that hold a number, and the property that each sets.
const NUMBERS: [(&str, &[&str]); 14] = [
    ("blkio-weight", &["blockIO", "weight"]),
    ("cpu-burst", &["cpu", "burst"]),
    ("cpu-idle", &["cpu", "idle"]),
    ("cpu-period", &["cpu", "period"]),
    ("cpu-quota", &["cpu", "quota"]),
    ("cpu-rt-period", &["cpu", "realtimePeriod"]),
    ("cpu-rt-runtime", &["cpu", "realtimeRuntime"]),
    ("cpu-share", &["cpu", "shares"]),
    ("kernel-memory", &["memory", "kernel"]),
    ("kernel-memory-tcp", &["memory", "kernelTCP"]),
    ("memory", &["memory", "limit"]),
    ("memory-reservation", &["memory", "reservation"]),
    ("memory-swap", &["memory", "swap"]),
    ("pids-limit", &["pids", "limit"]),
];
/// The options that hold a text.
const TEXTS: [(&str, &[&str]); 2] =
    [("cpuset-cpus", &["cpu", "cpus"]), ("cpuset-mems", &["cpu", "mems"])];

/// The options of Intel RDT, which is refused by name.
const REFUSED: [&str; 2] = ["l3-cache-schema", "mem-bw-schema"];

/// The names of the options, for the command line.
pub fn options() -> impl Iterator<Item = &'static str> {
    NUMBERS.iter().chain(&TEXTS).map(|(name, _)| *name).chain(REFUSED)
}

/// Runs the verb.
pub fn run(matches: &ArgMatches, global: &Global) -> Result<()> {
    let container = global.store.load(id_of(matches))?;
    container.check(Operation::Update)?;
    let request = match text_of(matches, "resources") {
        Some(path) => read_resources(&path)?,
        None => from_options(matches)?,
    };
    let _lock = container.lock()?;
    let before = match container.resources()? {
        Some(resources) => serde_json::to_value(resources)?,
        None => json!({}),
    };
    let mut merged = before;
    lay_over(&mut merged, request);
    let resources: LinuxResources =
        serde_path_to_error::deserialize(merged).in_field("linux.resources")?;
    let settings = container.record.group.settings(&resources)?;
    cgroups::apply_settings(&settings, None)?.iter().for_each(log::warn);
    container.keep_resources(&resources)
}

/// Reads the object that `--resources` names, `-` for stdin.
fn read_resources(path: &str) -> Result<Value> {
    let read = || -> Result<Value> {
        let text = if path == "-" {
            let mut text = Vec::new();
            std::io::stdin().lock().read_to_end(&mut text)?;
            text
        } else {
            bundle::read(path.as_ref())?
        };
        let mut value: Value = serde_json::from_slice(&text)?;
        match value.as_object_mut() {
            Some(object) => object.remove("devices"),
            None => bail!("not an object"),
        };
        drop_unset(&mut value);
        Ok(value)
    };
    read().with_context(|| format!("--resources: {path:?}"))
}

/// In what engines send, null and 0 stand for what is to stay as it is.
fn drop_unset(value: &mut Value) {
    if let Value::Object(object) = value {
        object.retain(|_, value| {
            drop_unset(value);
            !value.is_null() && *value != 0 && *value != ""
        });
    }
}

fn from_options(matches: &ArgMatches) -> Result<Value> {
    let mut request = json!({});
    if let Some(name) = REFUSED.iter().find(|name| matches.contains_id(name)) {
        bail!("--{name}: is not supported yet");
    }
    for (name, place) in NUMBERS {
        if let Some(text) = text_of(matches, name) {
            let number =
                bytes(&text).with_context(|| format!("--{name}: {text:?}: not a number"))?;
            put(&mut request, place, number.into());
        }
    }
    for (name, place) in TEXTS {
        if let Some(text) = text_of(matches, name) {
            put(&mut request, place, text.into());
        }
    }
    if request.as_object().is_some_and(Map::is_empty) {
        bail!("update: no resource is given");
    }
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
        let mut request =
            json!({"cpu": {"period": 20, "shares": 0}, "memory": {"limit": 7, "swap": null}});
        drop_unset(&mut request);
        lay_over(&mut merged, request);
        let expected = json!({
            "cpu": {"quota": 5, "period": 20}, "pids": {"limit": 3}, "memory": {"limit": 7}
        });
        assert_eq!(merged, expected);
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
