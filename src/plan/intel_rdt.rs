//! `linux.intelRdt`: the class of service that a container's processes belong to, and
//! the group that counts them (config-linux.md#intelrdt; the kernel's resctrl.rst).
//!
//! A class is shared: it is a directory just below the root of resctrl, which is itself
//! the class of all other processes. So one that the configuration names is taken as it
//! is found, or refused, and stays when the container goes. Only one that is made for a
//! container, under its ID, goes with it.

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::Linux;
use serde::{Deserialize, Serialize};

use crate::error::InField as _;

/// What resctrl has in its root besides classes.
const NO_CLASSES: [&str; 3] = ["info", "mon_data", "mon_groups"];

/// What the configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntelRdt {
    /// The name of the class; empty for the root.
    pub class: String,
    /// Whether the configuration names it, and it is not the container's own.
    is_named: bool,
    /// What a class has to have, or gets when it is made.
    allotment: Vec<Lines>,
    /// What it gets in any case, after that.
    schemata: Option<Lines>,
    /// The name of a MON group in it.
    pub monitoring: Option<String>,
}

/// Lines for a file `schemata`, written at once: the kernel takes all of them or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lines {
    /// Who asks for them.
    pub field: String,
    /// The lines, without the last line feed.
    pub text: String,
}

/// What resctrl has of a class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundClass {
    /// Whether there is such a class.
    pub exists: bool,
    /// Its schemata.
    pub schemata: String,
    /// The steps to which the kernel rounds memory bandwidth up.
    pub bandwidth_step: Option<u64>,
    /// Whether it has a MON group of the name that the container's would have.
    pub has_monitoring: bool,
}

/// The groups of a container, as they are recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassGroup {
    /// The name of its class; empty for the root.
    pub class: String,
    /// Whether the class was made for it and goes with it.
    pub owned: bool,
    /// The name of its MON group in the class.
    pub monitoring: Option<String>,
}

impl IntelRdt {
    /// Plans the groups of the container `id`. Returns warnings beside them.
    pub fn plan(linux: Option<&Linux>, id: &str) -> Result<(Option<Self>, Vec<String>)> {
        let Some(given) = linux.and_then(|linux| linux.intel_rdt().as_ref()) else {
            return Ok((None, Vec::new()));
        };
        let mut warnings = Vec::new();
        let named = given.clos_id().as_deref().filter(|name| !name.is_empty());
        let class = match named {
            Some("/") => "",
            Some(name) => name,
            None => id,
        };
        if !class.is_empty() {
            check_class(class).in_field("linux.intelRdt.closID")?;
        }
        let mut allotment = Vec::new();
        if let Some(schema) = not_empty(given.l3_cache_schema()) {
            if !schema.starts_with("L3:") || schema.contains('\n') {
                // The spec has no more than SHOULD here, and the kernel decides.
                warnings.push(format!(
                    "linux.intelRdt.l3CacheSchema: {schema:?}: not one line that starts with L3:"
                ));
            }
            allotment.push(Lines::new("linux.intelRdt.l3CacheSchema", schema));
        }
        if let Some(schema) = not_empty(given.mem_bw_schema()) {
            const FIELD: &str = "linux.intelRdt.memBwSchema";
            check_bandwidth(schema).in_field(FIELD)?;
            allotment.push(Lines::new(FIELD, schema));
        }
        let schemata = given.schemata().as_deref().filter(|lines| !lines.is_empty());
        for (at, line) in schemata.into_iter().flatten().enumerate() {
            if line.contains('\n') {
                bail!("linux.intelRdt.schemata[{at}]: {line:?}: holds a line feed");
            }
        }
        let plan = Self {
            class: class.to_owned(),
            is_named: named.is_some(),
            allotment,
            schemata: schemata.map(|lines| Lines::new("linux.intelRdt.schemata", lines.join("\n"))),
            monitoring: (*given.enable_monitoring() == Some(true)).then(|| id.to_owned()),
        };
        Ok((Some(plan), warnings))
    }

    /// The groups, given what is there, and what is to be written to the class.
    pub fn settle(&self, found: &FoundClass) -> Result<(ClassGroup, Vec<Lines>)> {
        let class = &self.class;
        if self.is_named && !found.exists && self.allotment.is_empty() && self.schemata.is_none() {
            bail!(
                "linux.intelRdt.closID: {class:?}: there is no such class, and no schema to make it with"
            );
        }
        if let Some(name) = self.monitoring.as_ref().filter(|_| found.has_monitoring) {
            bail!("linux.intelRdt.enableMonitoring: the class has a MON group {name:?} already");
        }
        // Others may be in a class that has a name, so it is not changed by these.
        let is_shared = self.is_named && found.exists;
        if is_shared {
            for lines in &self.allotment {
                found.check(&lines.text).in_field(&lines.field)?;
            }
        }
        let allotment = self.allotment.iter().filter(|_| !is_shared);
        let group = ClassGroup {
            class: class.clone(),
            owned: !found.exists,
            monitoring: self.monitoring.clone(),
        };
        Ok((group, allotment.chain(&self.schemata).cloned().collect()))
    }

    /// Whether the class stays when the container goes, even if it was made for it.
    pub fn outlives_container(&self) -> bool {
        self.is_named
    }
}

impl Lines {
    fn new(field: &str, text: impl Into<String>) -> Self {
        Self { field: field.to_owned(), text: text.into() }
    }

    /// What `update` writes, of its two options.
    pub fn of_update(cache: Option<&str>, bandwidth: Option<&str>) -> Result<Option<Self>> {
        const CACHE: &str = "--l3-cache-schema";
        const BANDWIDTH: &str = "--mem-bw-schema";
        if let Some(schema) = bandwidth {
            check_bandwidth(schema).with_context(|| BANDWIDTH)?;
        }
        Ok(match (cache, bandwidth) {
            (None, None) => None,
            (Some(cache), None) => Some(Self::new(CACHE, cache)),
            (None, Some(bandwidth)) => Some(Self::new(BANDWIDTH, bandwidth)),
            (Some(cache), Some(bandwidth)) => Some(Self::new(
                &format!("{CACHE} and {BANDWIDTH}"),
                format!("{cache}\n{bandwidth}"),
            )),
        })
    }

    /// The names of the resources, which are directories of `info`.
    pub fn resources(&self) -> Result<Vec<&str>> {
        let name = |line| {
            Schema::parse(line).map(|schema| schema.resource).with_context(|| format!("{line:?}"))
        };
        self.text.lines().map(name).collect::<Result<_>>().in_field(&self.field)
    }
}

fn not_empty(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// Whether `name` can be that of a class, which is one directory below the root.
pub fn check_class(name: &str) -> Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0', '\n']) {
        bail!("{name:?}: not the name of a class");
    }
    if NO_CLASSES.contains(&name) {
        bail!("{name:?}: what resctrl has there is no class");
    }
    Ok(())
}

fn check_bandwidth(schema: &str) -> Result<()> {
    if !schema.starts_with("MB:") || schema.contains('\n') {
        bail!("{schema:?}: not one line that starts with MB:");
    }
    Ok(())
}

/// A line of schemata: `L3:0=7ff;1=1f`.
struct Schema<'a> {
    resource: &'a str,
    /// What each domain has, by its number.
    domains: Vec<(u64, &'a str)>,
}

impl<'a> Schema<'a> {
    fn parse(line: &'a str) -> Result<Self> {
        let domain = |text: &'a str| {
            let (number, value) = text.split_once('=')?;
            Some((number.trim().parse().ok()?, value.trim()))
        };
        let parsed = line.split_once(':').and_then(|(resource, domains)| {
            let domains = domains.split(';').filter(|domain| !domain.trim().is_empty());
            Some(Self {
                resource: resource.trim(),
                domains: domains.map(domain).collect::<Option<_>>()?,
            })
        });
        // A name goes into a path.
        match parsed.filter(|schema| schema.resource.chars().all(char::is_alphanumeric)) {
            Some(schema) if !schema.resource.is_empty() => Ok(schema),
            _ => bail!("not of the form RESOURCE:DOMAIN=VALUE;..."),
        }
    }
}

impl FoundClass {
    /// Whether the class has what `wanted` says, however it is written there.
    fn check(&self, wanted: &str) -> Result<()> {
        for line in wanted.lines() {
            let schema = Schema::parse(line).with_context(|| format!("{line:?}"))?;
            let has = self
                .schemata
                .lines()
                .find(|has| has.split(':').next().map(str::trim) == Some(schema.resource));
            let Some(has) = has else {
                bail!("{line:?}: the class has no {} to be like it", schema.resource);
            };
            let domains = Schema::parse(has).with_context(|| format!("{has:?}"))?.domains;
            let matches = |(number, value): &(u64, &str)| {
                let found = domains.iter().find(|(other, _)| other == number);
                found.is_some_and(|(_, found)| self.is_same(schema.resource, value, found))
            };
            if !schema.domains.iter().all(matches) {
                bail!("{line:?}: the class has {:?}", has.trim());
            }
        }
        Ok(())
    }

    /// Whether the kernel shows `written` as `shown`.
    fn is_same(&self, resource: &str, written: &str, shown: &str) -> bool {
        if !matches!(resource, "MB" | "SMBA") {
            let mask = |text: &str| {
                let digits = text.strip_prefix("0x").unwrap_or(text);
                u64::from_str_radix(digits, 16).ok()
            };
            return mask(written).is_some_and(|written| mask(shown) == Some(written));
        }
        let (Ok(written), Ok(shown)) = (written.parse::<u64>(), shown.parse::<u64>()) else {
            return false;
        };
        let step = self.bandwidth_step.unwrap_or(1);
        written == shown || written.checked_next_multiple_of(step) == Some(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: &str = "    MB:0= 30;1=100\n    L3:0=0ff;1=f\n";

    fn plan(json: &str) -> Result<(IntelRdt, Vec<String>)> {
        let linux: Linux = serde_json::from_str(&format!(r#"{{"intelRdt":{json}}}"#)).unwrap();
        let (plan, warnings) = IntelRdt::plan(Some(&linux), "box")?;
        Ok((plan.unwrap(), warnings))
    }

    fn class(exists: bool) -> FoundClass {
        let schemata = if exists { FOUND } else { "" };
        let schemata = schemata.into();
        FoundClass { exists, schemata, bandwidth_step: Some(10), has_monitoring: false }
    }

    /// The class, whether it goes with the container, and what is written to it.
    fn settle(json: &str, exists: bool) -> Result<(String, bool, Vec<String>)> {
        let (plan, _) = plan(json)?;
        let (group, lines) = plan.settle(&class(exists))?;
        let goes = group.owned && !plan.outlives_container();
        Ok((group.class, goes, lines.into_iter().map(|lines| lines.text).collect()))
    }

    #[test]
    fn without_the_field_nothing_is_planned() {
        assert_eq!(IntelRdt::plan(None, "box").unwrap(), (None, vec![]));
        let linux = serde_json::from_str("{}").unwrap();
        assert_eq!(IntelRdt::plan(Some(&linux), "box").unwrap(), (None, vec![]));
    }

    #[test]
    fn a_class_that_is_made_for_the_container_goes_with_it_and_no_other() {
        for (json, exists, name, goes) in [
            ("{}", false, "box", true),
            (r#"{"closID":""}"#, false, "box", true),
            ("{}", true, "box", false),
            (r#"{"closID":"gold","schemata":["L3:0=f"]}"#, false, "gold", false),
            (r#"{"closID":"gold"}"#, true, "gold", false),
            (r#"{"closID":"box"}"#, true, "box", false),
            (r#"{"closID":"/"}"#, true, "", false),
        ] {
            let (class, owned, _) = settle(json, exists).unwrap();
            assert_eq!((class.as_str(), owned), (name, goes), "{json}");
        }
    }

    #[test]
    fn schemas_are_written_in_the_order_of_the_spec() {
        let all =
            r#""memBwSchema":"MB:0=20","schemata":["L2:0=f","L3:0=3"],"l3CacheSchema":"L3:0=1""#;
        let in_order = ["L3:0=1", "MB:0=20", "L2:0=f\nL3:0=3"];
        for (json, exists, expected) in [
            (format!("{{{all}}}"), false, &in_order[..]),
            (format!("{{{all}}}"), true, &in_order),
            (format!(r#"{{"closID":"gold",{all}}}"#), false, &in_order),
            (r#"{"l3CacheSchema":"L3:0=1"}"#.into(), false, &in_order[..1]),
            (r#"{"memBwSchema":"MB:0=20"}"#.into(), false, &in_order[1..2]),
            (r#"{"schemata":["L2:0=f","L3:0=3"]}"#.into(), false, &in_order[2..]),
            (r#"{"schemata":[],"l3CacheSchema":"","memBwSchema":""}"#.into(), false, &[]),
            ("{}".into(), false, &[]),
            (r#"{"closID":"gold","schemata":["L3:0=3"]}"#.into(), true, &["L3:0=3"]),
            (r#"{"closID":"gold","l3CacheSchema":"L3:0=ff"}"#.into(), true, &[]),
            (r#"{"closID":"/"}"#.into(), true, &[]),
        ] {
            assert_eq!(settle(&json, exists).unwrap().2, expected, "{json} {exists}");
        }
    }

    #[test]
    fn a_class_that_is_there_has_to_have_what_is_asked_for_however_it_is_written() {
        for (schema, fits) in [
            (r#""l3CacheSchema":"L3:0=ff;1=f""#, true),
            (r#""l3CacheSchema":"L3:1=00f;0=FF;""#, true),
            (r#""l3CacheSchema":"L3: 0 = 0xff""#, true),
            (r#""l3CacheSchema":"L3:1=f""#, true),
            (r#""l3CacheSchema":"L3:0=fe""#, false),
            (r#""l3CacheSchema":"L3:2=f""#, false),
            (r#""l3CacheSchema":"L3CODE:0=ff""#, false),
            (r#""memBwSchema":"MB:0=30;1=100""#, true),
            // As it was when the class was made of it.
            (r#""memBwSchema":"MB:0=21""#, true),
            (r#""memBwSchema":"MB:0=20""#, false),
            (r#""memBwSchema":"MB:0=31""#, false),
            (r#""memBwSchema":"MB:0=x""#, false),
            (r#""l3CacheSchema":"L3:0=ff","memBwSchema":"MB:0=100""#, false),
        ] {
            for name in ["gold", "/"] {
                let json = format!(r#"{{"closID":"{name}",{schema}}}"#);
                assert_eq!(settle(&json, true).is_ok(), fits, "{json}");
            }
            // One that has the container's ID by chance is not compared.
            assert!(settle(&format!("{{{schema}}}"), true).is_ok(), "{schema}");
        }
    }

    #[test]
    fn a_mon_group_has_the_name_of_the_container() {
        for (json, expected) in [
            (r#"{"enableMonitoring":true}"#, Some("box")),
            (r#"{"closID":"gold","enableMonitoring":true}"#, Some("box")),
            (r#"{"enableMonitoring":false}"#, None),
            ("{}", None),
        ] {
            let (group, _) = plan(json).unwrap().0.settle(&class(true)).unwrap();
            assert_eq!(group.monitoring.as_deref(), expected, "{json}");
            let taken = FoundClass { has_monitoring: true, ..class(true) };
            assert_eq!(plan(json).unwrap().0.settle(&taken).is_err(), expected.is_some());
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        for (json, exists, reason) in [
            (
                r#"{"closID":"gold"}"#,
                false,
                r#"closID: "gold": there is no such class, and no schema to make it with"#,
            ),
            (r#"{"closID":".."}"#, true, r#"closID: "..": not the name of a class"#),
            (r#"{"closID":"."}"#, true, r#"closID: ".": not the name of a class"#),
            (r#"{"closID":"a/b"}"#, true, r#"closID: "a/b": not the name of a class"#),
            (r#"{"closID":"/gold"}"#, true, r#"closID: "/gold": not the name of a class"#),
            (r#"{"closID":"a\nb"}"#, true, r#"closID: "a\nb": not the name of a class"#),
            (r#"{"closID":"a\u0000"}"#, true, r#"closID: "a\0": not the name of a class"#),
            (
                r#"{"closID":"mon_groups"}"#,
                true,
                r#"closID: "mon_groups": what resctrl has there is no class"#,
            ),
            (
                r#"{"memBwSchema":"L3:0=f"}"#,
                false,
                r#"memBwSchema: "L3:0=f": not one line that starts with MB:"#,
            ),
            (
                r#"{"memBwSchema":"MB:0=10\nL3:0=f"}"#,
                false,
                r#"memBwSchema: "MB:0=10\nL3:0=f": not one line that starts with MB:"#,
            ),
            (
                r#"{"schemata":["L3:0=f","L2:0=f\n"]}"#,
                false,
                r#"schemata[1]: "L2:0=f\n": holds a line feed"#,
            ),
            (
                r#"{"closID":"gold","l3CacheSchema":"L3:0=1"}"#,
                true,
                r#"l3CacheSchema: "L3:0=1": the class has "L3:0=0ff;1=f""#,
            ),
            (
                r#"{"closID":"gold","l3CacheSchema":"L3DATA:0=1"}"#,
                true,
                r#"l3CacheSchema: "L3DATA:0=1": the class has no L3DATA to be like it"#,
            ),
            (
                r#"{"closID":"gold","l3CacheSchema":"L3"}"#,
                true,
                r#"l3CacheSchema: "L3": not of the form RESOURCE:DOMAIN=VALUE;..."#,
            ),
        ] {
            let error = settle(json, exists).unwrap_err();
            assert_eq!(format!("{error:#}"), format!("linux.intelRdt.{reason}"));
        }
        let linux = serde_json::from_str(r#"{"intelRdt":{}}"#).unwrap();
        let error = IntelRdt::plan(Some(&linux), "info").unwrap_err();
        let expected = r#"linux.intelRdt.closID: "info": what resctrl has there is no class"#;
        assert_eq!(format!("{error:#}"), expected);
    }

    #[test]
    fn what_the_spec_advises_against_is_warned_of() {
        let warnings = |json: &str| plan(json).unwrap().1;
        assert!(warnings(r#"{"l3CacheSchema":"L3:0=f;1=f","memBwSchema":"MB:0=20"}"#).is_empty());
        for schema in ["L3CODE:0=f", "L3:0=f\\nL3:1=f"] {
            let json = format!(r#"{{"l3CacheSchema":"{schema}"}}"#);
            let expected = format!(
                r#"linux.intelRdt.l3CacheSchema: "{schema}": not one line that starts with L3:"#
            );
            assert_eq!(warnings(&json), [expected]);
        }
    }

    #[test]
    fn update_writes_both_options_at_once_and_names_their_resources() {
        let of = |cache, bandwidth| Lines::of_update(cache, bandwidth).unwrap();
        assert_eq!(of(None, None), None);
        let both = of(Some("L3:0=f"), Some("MB:0=20")).unwrap();
        assert_eq!(both, Lines::new("--l3-cache-schema and --mem-bw-schema", "L3:0=f\nMB:0=20"));
        assert_eq!(both.resources().unwrap(), ["L3", "MB"]);
        for (cache, bandwidth, reason) in [
            (
                None,
                Some("L3:0=f"),
                r#"--mem-bw-schema: "L3:0=f": not one line that starts with MB:"#,
            ),
            (
                Some("../x:0=f"),
                None,
                r#"--l3-cache-schema: "../x:0=f": not of the form RESOURCE:DOMAIN=VALUE;..."#,
            ),
            (
                Some(":0=f"),
                None,
                r#"--l3-cache-schema: ":0=f": not of the form RESOURCE:DOMAIN=VALUE;..."#,
            ),
        ] {
            let refused = Lines::of_update(cache, bandwidth)
                .and_then(|lines| lines.unwrap().resources().map(drop));
            assert_eq!(format!("{:#}", refused.unwrap_err()), reason);
        }
    }
}
