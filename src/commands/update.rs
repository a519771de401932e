//! `update`: other limits for a container that is there.
//!
//! Device rules replace those before, but for the one that denies everything when it stands
//! alone: engines send it along and mean nothing by it.

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

use super::{Global, while_allowed};
use crate::bundle;
use crate::cli::Given;
use crate::cli::update::{CLASS, NUMBERS, OPTIONS, TEXTS};
use crate::plan::intel_rdt::Lines;
use crate::store::Operation;
use crate::update;

/// The properties in which 0 is a value; elsewhere it stands for what is to stay.
const ZEROS: [&[&str]; 2] = [&["cpu", "burst"], &["cpu", "idle"]];

/// Runs the verb.
pub fn run(given: &Given, global: &Global) -> Result<()> {
    let container = global.store.load(given.id())?;
    let [cache, bandwidth] = CLASS.map(|name| given.text(name).filter(|text| !text.is_empty()));
    let class = Lines::of_update(cache, bandwidth)?;
    let request = match given.text("resources") {
        Some(path) => read_resources(path)?,
        None => from_options(given)?,
    };
    if !given.has("resources") && !OPTIONS.iter().any(|limit| given.has(limit.name)) {
        bail!("update: no resource is given");
    }
    while_allowed(global, &container, Operation::Update, || {
        update::update(&global.store, &container, request, class)
    })
}

/// Reads the object that `--resources` names, `-` for stdin.
fn read_resources(path: &str) -> Result<Value> {
    let read = || {
        let text = if path == "-" {
            std::io::read_to_string(std::io::stdin().lock())?
        } else {
            bundle::read(path.as_ref())?
        };
        parse_resources(&text)
    };
    read().with_context(|| format!("--resources: {path:?}"))
}

/// What such a text asks for.
pub fn parse_resources(text: &str) -> Result<Value> {
    let mut value = bundle::parse_resources(text)?;
    let Some(object) = value.as_object_mut() else { bail!("not an object") };
    // Among them 0 is a number like any other.
    let devices = object.remove("devices").filter(|rules| !says_nothing(rules));
    drop_unset(&mut value);
    if let Some(devices) = devices {
        value["devices"] = devices;
    }
    Ok(value)
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
        update::put(value, place, json!(0));
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

fn from_options(given: &Given) -> Result<Value> {
    let mut request = json!({});
    let given = |name| given.text(name).filter(|text| !text.is_empty());
    for (name, place, _) in NUMBERS {
        if let Some(text) = given(name) {
            let number =
                bytes(text).with_context(|| format!("--{name}: {text:?}: not a number"))?;
            update::put(&mut request, place, number.into());
        }
    }
    for (name, place, _) in TEXTS {
        if let Some(text) = given(name) {
            update::put(&mut request, place, text.into());
        }
    }
    drop_unset(&mut request);
    Ok(request)
}

/// A number, with the suffix of a size if need be: `32m`, `1.5g`.
fn bytes(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match lower.get(digits.len()..)? {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        "p" | "pb" | "pib" => 1 << 50,
        _ => return None,
    };
    // Nine places are a byte of a gigabyte.
    let (whole, fraction) = match digits.split_once('.') {
        Some((whole, fraction)) if factor > 1 && (1..=9).contains(&fraction.len()) => {
            (whole, fraction)
        }
        _ => (digits, "0"),
    };
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if fraction != "0" && !(is_plain(whole) && is_plain(fraction)) {
        return None;
    }
    let places = fraction.bytes().fold(1, |places, _| places * 10);
    let part = fraction.parse::<i128>().ok()? * i128::from(factor) / places;
    whole.parse::<i64>().ok()?.checked_mul(factor)?.checked_add(i64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_over_what_is_there() {
        let mut merged = json!({"cpu": {"quota": 5, "period": 10}, "pids": {"limit": 3}});
        let mut request = json!({"cpu": {"period": 20, "shares": 0}, "memory": {"limit": 7, "swap": null}, "network": {}});
        drop_unset(&mut request);
        update::lay_over(&mut merged, request);
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
    fn what_is_no_object_of_limits_is_refused_by_its_place() {
        for (text, reason) in [
            ("5", "not an object"),
            ("[]", "a list, and an object is expected at line 1 column 2"),
            (r#"{"memory":[5]}"#, "memory: a list, and an object is expected at line 1 column 11"),
            (
                r#"{"blockIO":{"weightDevice":[{"major":8}]}}"#,
                "blockIO.weightDevice[0].minor: missing at line 1 column 39",
            ),
        ] {
            assert_eq!(parse_resources(text).unwrap_err().to_string(), reason, "{text}");
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
        for (text, number) in [
            ("-1", -1),
            ("5", 5),
            ("2k", 2048),
            ("32M", 32 << 20),
            ("1GiB", 1 << 30),
            ("1.5g", 3 << 29),
            ("0.25k", 256),
            ("1.0m", 1 << 20),
            ("2p", 2 << 50),
        ] {
            assert_eq!(bytes(text), Some(number), "{text}");
        }
        for wrong in [
            "",
            "m",
            "1x",
            "1.5",
            "1.g",
            ".5g",
            "-1.5g",
            "1.-5g",
            "1.2.3g",
            "1.0000000001g",
            "9999999999g",
            "8192p",
        ] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
