//! A container's cgroup as a unit of systemd: a scope in a slice.
//!
//! systemd makes the group, and writes into its files what its unit says, whenever it likes:
//! on a reload, or when something beside it changes. So each limit that systemd has a word
//! for stands in the unit too. The words are made of the very writes that go to the files
//! (`settings`), and so mean the same.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use ferrun_dbus::Value;
use serde::{Deserialize, Serialize};

use super::devices::{DeviceList, Kind, Rule};
use super::{Setting, Write};
use crate::error::InField as _;
use crate::plan::numbers::bit_mask;

/// A property of a unit, as D-Bus has it.
pub type Property = (String, Value);

/// Which systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manager {
    /// The machine's.
    System,
    /// An ordinary user's.
    User,
}

/// What has to be known of the machine's systemd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Systemd {
    /// Which one.
    pub manager: Manager,
    /// Where it listens: addresses of a bus, as D-Bus writes them, and sockets of its own.
    pub places: Vec<Place>,
    /// The group below which all its units are, `/` or as `/user.slice/.../user@1000.service`.
    pub group: PathBuf,
    /// The majors of character devices and of block devices with the names of their drivers
    /// (/proc/devices).
    pub majors: Vec<(Kind, u32, String)>,
}

/// Where a systemd listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// A bus, by its address.
    Bus(String),
    /// Its own socket, where there is no bus in between.
    Own(PathBuf),
}

/// A unit that holds a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Its name, which ends in `.scope`.
    pub name: String,
    /// The slice that it is in.
    pub slice: String,
    /// Whose it is.
    pub manager: Manager,
    /// Where that one listens.
    pub places: Vec<Place>,
    /// What tells it from another unit of its name; None until it is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<String>,
}

impl Unit {
    /// The unit that `linux.cgroupsPath` names, `SLICE:PREFIX:NAME`, or that of the container
    /// `id` in the usual slice where it names none.
    ///
    /// Errors do not name the field.
    pub fn new(cgroups_path: Option<&Path>, id: &str, systemd: &Systemd) -> Result<Self> {
        let path = cgroups_path.map(Path::as_os_str).filter(|path| !path.is_empty());
        let usual = match systemd.manager {
            Manager::System => "system.slice",
            Manager::User => "user.slice",
        };
        let (slice, name) = match path {
            None => (usual, format!("ferrun-{id}.scope")),
            Some(path) => {
                let text = path.to_str().context("a path that is no UTF-8")?;
                let parts: Vec<&str> = text.split(':').collect();
                let [slice, prefix, name] = parts.as_slice() else {
                    bail!(
                        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {text:?} instead"
                    )
                };
                ensure!(!name.is_empty(), "{text:?} has no name behind the last colon");
                ensure!(!name.ends_with(".slice"), "{text:?}: a slice cannot hold a container");
                let slice = if slice.is_empty() { usual } else { slice };
                (slice, format!("{prefix}-{name}.scope"))
            }
        };
        check_name(&name)?;
        check_name(slice)?;
        let unit = Self {
            name,
            slice: slice.to_owned(),
            manager: systemd.manager,
            places: systemd.places.clone(),
            invocation: None,
        };
        slice_path(slice)?;
        Ok(unit)
    }

    /// The group of the unit, below that of all units: `/a.slice/a-b.slice/box.scope`.
    pub fn path(&self) -> Result<PathBuf> {
        Ok(slice_path(&self.slice)?.join(directory_of(&self.name)))
    }
}

/// What systemd takes for the name of a unit (systemd.unit(5)).
fn check_name(name: &str) -> Result<()> {
    /// In bytes.
    const LONGEST: usize = 255;
    ensure!(name.len() <= LONGEST, "{name:?}: the name of a unit has at most {LONGEST} bytes");
    match name.chars().find(|c| !c.is_ascii_alphanumeric() && !":-_.\\@".contains(*c)) {
        Some(odd) => bail!("{name:?}: the name of a unit cannot hold {odd:?}"),
        None => Ok(()),
    }
}

/// What systemd calls the group of a unit: not as the kernel calls a file of a group, which is
/// why some have a line before their name.
fn directory_of(unit: &str) -> String {
    let is_odd = unit.starts_with(['_', '.']) || unit.starts_with("cgroup.");
    format!("{}{unit}", if is_odd { "_" } else { "" })
}

/// The group of a slice: each that its name begins with is above it (systemd.slice(5)).
fn slice_path(slice: &str) -> Result<PathBuf> {
    let mut path = PathBuf::from("/");
    if slice == "-.slice" {
        return Ok(path);
    }
    let Some(name) = slice.strip_suffix(".slice") else {
        bail!("{slice:?}: the name of a slice ends in \".slice\"")
    };
    ensure!(
        name.split('-').all(|part| !part.is_empty()),
        "{slice:?}: the name of a slice has no part without a letter"
    );
    for (end, _) in name.match_indices('-').chain([(name.len(), "")]) {
        path.push(directory_of(&format!("{}.slice", name.get(..end).unwrap_or_default())));
    }
    Ok(path)
}

/// A unit, and how it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitPlan {
    /// Which.
    pub unit: Unit,
    /// What it has besides its process.
    pub properties: Vec<Property>,
}

/// A property whose value stands for "no limit".
const NONE: u64 = u64::MAX;

/// What every container's unit has.
pub fn own_properties(id: &str, unit: &Unit) -> Vec<Property> {
    let text = |name: &str, value: &str| (name.to_owned(), Value::text(value));
    let yes = |name: &str| (name.to_owned(), Value::Bool(true));
    vec![
        text("Description", &format!("ferrun container {id}")),
        text("Slice", &unit.slice),
        yes("Delegate"),
        yes("CPUAccounting"),
        yes("MemoryAccounting"),
        yes("IOAccounting"),
        yes("TasksAccounting"),
        ("DefaultDependencies".to_owned(), Value::Bool(false)),
        // A failed one would stay, and its name with it.
        text("CollectMode", "inactive-or-failed"),
    ]
}

/// Where one can read of the container, as a unit says it (`Documentation=` of
/// systemd.unit(5)): an URI. By that the unit is known as the container's before its invocation
/// is on record. The time of the creation tells it from one that is remembered in a directory
/// of the same name, as in another mount namespace.
pub fn documentation(directory: &Path, created: &str) -> Property {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
    let escaped: String = directory
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .map(|&byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02x}"),
        })
        .collect();
    let uri = format!("file:{escaped}#{created}");
    ("Documentation".to_owned(), Value::texts([uri]))
}

/// What the writes to the group's files are in systemd's words, as far as it has any. Later
/// ones hold. Also rounds what systemd can only say in whole percent.
pub fn limits(settings: &mut [Setting]) -> Result<Vec<Property>> {
    let mut properties: Vec<Property> = Vec::new();
    for setting in settings {
        for write in &mut setting.writes {
            for (name, value) in property(write).in_field(&setting.field)? {
                properties.retain(|(other, _)| *other != name);
                properties.push((name, value));
            }
        }
    }
    Ok(properties)
}

fn property(write: &mut Write) -> Result<Vec<Property>> {
    let one = |name: &str, value: Value| Ok(vec![(name.to_owned(), value)]);
    let text = write.value.trim();
    let number = || -> Result<Value> {
        match text {
            "max" => Ok(Value::U64(NONE)),
            text => Ok(Value::U64(text.parse().with_context(|| format!("{text:?}"))?)),
        }
    };
    match write.file.as_str() {
        "memory.min" => one("MemoryMin", number()?),
        "memory.low" => one("MemoryLow", number()?),
        "memory.high" => one("MemoryHigh", number()?),
        "memory.max" => one("MemoryMax", number()?),
        "memory.swap.max" => one("MemorySwapMax", number()?),
        "memory.oom.group" => {
            one("OOMPolicy", Value::text(if text == "1" { "kill" } else { "continue" }))
        }
        "pids.max" => one("TasksMax", number()?),
        "cpu.weight" => one("CPUWeight", number()?),
        // systemd's word for it, since version 252.
        "cpu.idle" if text == "1" => one("CPUWeight", Value::U64(0)),
        "io.weight" => match text.strip_prefix("default ").unwrap_or(text).parse() {
            Ok(weight) => one("IOWeight", Value::U64(weight)),
            // Of one device.
            Err(_) => Ok(Vec::new()),
        },
        // None is no limit, in the file and to systemd.
        "cpuset.cpus" if text.is_empty() => one("AllowedCPUs", Value::bytes(&[])),
        "cpuset.mems" if text.is_empty() => one("AllowedMemoryNodes", Value::bytes(&[])),
        "cpuset.cpus" => one("AllowedCPUs", Value::bytes(&mask(text)?)),
        "cpuset.mems" => one("AllowedMemoryNodes", Value::bytes(&mask(text)?)),
        "cpu.max" => {
            let (quota, period, rounded) = processor_time(text)?;
            write.value = rounded;
            Ok(vec![
                ("CPUQuotaPerSecUSec".to_owned(), Value::U64(quota)),
                ("CPUQuotaPeriodUSec".to_owned(), Value::U64(period)),
            ])
        }
        _ => Ok(Vec::new()),
    }
}

/// `QUOTA [PERIOD]` of cpu.max as microseconds of each second, the period, and the line that
/// means just that: systemd keeps whole percent, and would write less at its next occasion.
fn processor_time(text: &str) -> Result<(u64, u64, String)> {
    /// What the kernel takes where none is given, in microseconds.
    const USUAL_PERIOD: u64 = 100_000;
    const SECOND: u64 = 1_000_000;
    const PERCENT: u64 = SECOND / 100;
    let (quota, given) = text.split_once(' ').unwrap_or((text, ""));
    let period = match given.trim() {
        "" => USUAL_PERIOD,
        period => period.parse().with_context(|| format!("{period:?}"))?,
    };
    ensure!(period > 0, "a period of no time");
    if quota == "max" {
        return Ok((NONE, period, text.to_owned()));
    }
    let quota: u64 = quota.parse().with_context(|| format!("{quota:?}"))?;
    let wide = u128::from(quota) * u128::from(SECOND);
    let exact = wide.div_ceil(u128::from(period));
    let each_second = exact.div_ceil(u128::from(PERCENT)) * u128::from(PERCENT);
    let rounded = each_second * u128::from(period) / u128::from(SECOND);
    let each_second = u64::try_from(each_second).context("more than can be said")?;
    let line = match given {
        "" => rounded.to_string(),
        _ => format!("{rounded} {period}"),
    };
    Ok((each_second, period, line))
}

/// A list of processors or nodes, `0-2,5`, as a mask with the lowest byte first.
fn mask(list: &str) -> Result<Vec<u8>> {
    /// More than any machine has.
    const MOST: usize = 8192;
    let words = bit_mask(list, MOST - 1).with_context(|| format!("{list:?}"))?;
    let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    while bytes.pop_if(|last| *last == 0).is_some() {}
    ensure!(!bytes.is_empty(), "{list:?} names none");
    Ok(bytes)
}

/// What restricts devices to those of the list, or to more: our own program holds the group to
/// the list, and systemd's beside it may not take away what that allows. What systemd has no
/// words for it does not restrict at all.
pub fn device_properties(list: &DeviceList, majors: &[(Kind, u32, String)]) -> Vec<Property> {
    let entries = list.rules.iter().map(|rule| entry(rule, majors)).collect::<Option<Vec<_>>>();
    let entries = entries.filter(|_| !list.default_allow);
    let policy = if entries.is_some() { "strict" } else { "auto" };
    vec![
        ("DevicePolicy".to_owned(), Value::text(policy)),
        ("DeviceAllow".to_owned(), Value::Array("(ss)".into(), entries.unwrap_or_default())),
    ]
}

/// A rule as an entry of DeviceAllow (systemd.resource-control(5)).
fn entry(rule: &Rule, majors: &[(Kind, u32, String)]) -> Option<Value> {
    let name = if rule.kind == Kind::Char { "char" } else { "block" };
    let nodes = match (rule.allow, rule.major, rule.minor) {
        (true, None, None) => format!("{name}-*"),
        (true, Some(major), Some(minor)) => format!("/dev/{name}/{major}:{minor}"),
        (true, Some(major), None) => {
            let known =
                majors.iter().find(|(kind, number, _)| (*kind, *number) == (rule.kind, major));
            format!("{name}-{}", known?.2)
        }
        (true, None, Some(_)) | (false, ..) => return None,
    };
    let access = rule.access.to_string();
    Some(Value::Struct(vec![Value::text(nodes), Value::text(access)]))
}

/// The annotations that are properties of the unit.
const PREFIX: &str = "org.systemd.property.";

/// What an annotation may say: how the unit is killed and stopped, what it may use, and how it
/// is called. The rest is refused: it would decide who is in the unit, where it is, which
/// devices it has, or what happens to other units, and engines let users write annotations.
const ACCEPTED: [&str; 42] = [
    "AllowedCPUs",
    "AllowedMemoryNodes",
    "BlockIOAccounting",
    "BlockIOWeight",
    "CPUAccounting",
    "CPUQuotaPerSecUSec",
    "CPUQuotaPeriodUSec",
    "CPUShares",
    "CPUWeight",
    "CollectMode",
    "Description",
    "FinalKillSignal",
    "IOAccounting",
    "IOWeight",
    "IPAccounting",
    "KillMode",
    "KillSignal",
    "ManagedOOMMemoryPressure",
    "ManagedOOMMemoryPressureLimit",
    "ManagedOOMPreference",
    "ManagedOOMSwap",
    "MemoryAccounting",
    "MemoryHigh",
    "MemoryLimit",
    "MemoryLow",
    "MemoryMax",
    "MemoryMin",
    "MemorySwapMax",
    "MemoryZSwapMax",
    "OOMPolicy",
    "RestartKillSignal",
    "RuntimeMaxUSec",
    "RuntimeRandomizedExtraUSec",
    "SendSIGHUP",
    "SendSIGKILL",
    "StartupCPUWeight",
    "StartupIOWeight",
    "TasksAccounting",
    "TasksMax",
    "TimeoutStopUSec",
    "TimeoutStopFailureMode",
    "WatchdogSignal",
];

/// CRI-O sets these for each container, and they are accepted with these words alone: when the
/// machine ends, the container ends before CRI-O. Any other order of units could have systemd
/// drop a job of somebody else's.
fn is_of_crio(property: &Property) -> bool {
    match property.0.as_str() {
        "After" => property.1 == Value::texts(["crio.service"]),
        "DefaultDependencies" => property.1 == Value::Bool(true),
        _ => false,
    }
}

/// The properties that annotations ask for, by their order.
pub fn of_annotations<'a>(
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<Vec<Property>> {
    let mut found: Vec<_> = annotations
        .into_iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, key, value)))
        .collect();
    found.sort_unstable();
    found
        .into_iter()
        .map(|(name, key, value)| {
            annotation(name, value).in_field(format_args!("annotations[{key:?}]"))
        })
        .collect()
}

fn annotation(name: &str, text: &str) -> Result<Property> {
    let value = variant(text).with_context(|| format!("{text:?}"))?;
    // Seconds are for people; on the wire there are microseconds alone.
    let stem = name.strip_suffix("Sec");
    let of_seconds = stem.filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()));
    let property = if let Some(stem) = of_seconds {
        let micros = match value {
            Value::U64(number) => number.checked_mul(1_000_000),
            Value::U32(number) => Some(u64::from(number) * 1_000_000),
            Value::I32(number) => u64::try_from(number).ok().and_then(|n| n.checked_mul(1_000_000)),
            Value::I64(number) => u64::try_from(number).ok().and_then(|n| n.checked_mul(1_000_000)),
            _ => None,
        };
        (format!("{stem}USec"), Value::U64(micros.with_context(|| format!("{text:?}: no time"))?))
    } else {
        (name.to_owned(), value)
    };
    let name = property.0.as_str();
    ensure!(
        ACCEPTED.contains(&name) || is_of_crio(&property),
        "{name}: not a property that an annotation may set"
    );
    Ok(property)
}

/// A value in GVariant's text form, as far as properties need it: `true`, `'text'`,
/// `['a', 'b']`, `5`, `uint64 5`.
fn variant(text: &str) -> Result<Value> {
    let text = text.trim();
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let mut values = Vec::new();
        let mut rest = inner.trim();
        while !rest.is_empty() {
            let (value, after) = quoted(rest)?;
            values.push(value);
            rest = match after.strip_prefix(',') {
                Some(more) if !more.trim().is_empty() => more.trim(),
                None if after.is_empty() => "",
                _ => bail!("not a list of texts"),
            };
        }
        return Ok(Value::texts(values));
    }
    if text.starts_with(['\'', '"']) {
        let (value, rest) = quoted(text)?;
        ensure!(rest.is_empty(), "more than one text");
        return Ok(Value::text(value));
    }
    let (kind, number) = text.split_once(' ').unwrap_or(("int32", text));
    let number = number.trim();
    const NOT: &str = "not a value as true, 'text', ['a', 'b'] or uint64 5";
    Ok(match (kind, text) {
        (_, "true") => Value::Bool(true),
        (_, "false") => Value::Bool(false),
        ("byte", _) => Value::Byte(number.parse().context(NOT)?),
        ("int16", _) => Value::I16(number.parse().context(NOT)?),
        ("uint16", _) => Value::U16(number.parse().context(NOT)?),
        ("int32", _) => Value::I32(number.parse().context(NOT)?),
        ("uint32", _) => Value::U32(number.parse().context(NOT)?),
        ("int64", _) => Value::I64(number.parse().context(NOT)?),
        ("uint64", _) => Value::U64(number.parse().context(NOT)?),
        _ => bail!(NOT),
    })
}

/// The text between the quotes that `text` begins with, and what comes after.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut characters = text.char_indices();
    let Some((_, quote @ ('\'' | '"'))) = characters.next() else { bail!("a text needs quotes") };
    let mut value = String::new();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some((_, escaped @ ('\\' | '\'' | '"'))) => value.push(escaped),
                Some((_, 'n')) => value.push('\n'),
                Some((_, 't')) => value.push('\t'),
                _ => bail!("a backslash before something that needs none"),
            },
            end if end == quote => {
                return Ok((value, text.get(at + 1..).unwrap_or_default().trim()));
            }
            other => value.push(other),
        }
    }
    bail!("a text without its end")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn systemd(manager: Manager) -> Systemd {
        Systemd {
            manager,
            places: vec![Place::Bus("unix:path=/run/dbus/system_bus_socket".into())],
            group: "/".into(),
            majors: vec![(Kind::Char, 136, "pts".into()), (Kind::Block, 8, "sd".into())],
        }
    }

    fn path_of(cgroups_path: &str, manager: Manager) -> Result<String> {
        let given = Some(Path::new(cgroups_path));
        Ok(Unit::new(given, "box", &systemd(manager))?.path()?.display().to_string())
    }

    #[test]
    fn a_unit_lies_below_each_slice_that_its_slice_names() {
        for (cgroups_path, expected) in [
            ("system.slice:docker:c1", "/system.slice/docker-c1.scope"),
            ("a-b-c.slice:x:y", "/a.slice/a-b.slice/a-b-c.slice/x-y.scope"),
            ("-.slice:x:y", "/x-y.scope"),
            (":x:y", "/system.slice/x-y.scope"),
            ("user.slice::y", "/user.slice/-y.scope"),
            ("_a-b.slice:.x:y", "/__a.slice/__a-b.slice/_.x-y.scope"),
            ("cgroup.a.slice:cgroup.b:y", "/_cgroup.a.slice/_cgroup.b-y.scope"),
            (r"a\x2db.slice:x@1:y", r"/a\x2db.slice/x@1-y.scope"),
            ("", "/system.slice/ferrun-box.scope"),
        ] {
            assert_eq!(path_of(cgroups_path, Manager::System).unwrap(), expected, "{cgroups_path}");
        }
        assert_eq!(path_of(":x:y", Manager::User).unwrap(), "/user.slice/x-y.scope");
    }

    #[test]
    fn a_unit_says_whose_it_is_and_since_when() {
        let mark = |created: &str| documentation(Path::new("/run/a b/c1"), created);
        let uri = Value::texts(["file:/run/a%20b/c1#2026-01-02T03:04:05.000000006Z"]);
        assert_eq!(mark("2026-01-02T03:04:05.000000006Z"), ("Documentation".into(), uri));
        assert_ne!(mark("1"), mark("2"));
    }

    #[test]
    fn a_unit_leaves_its_group_to_the_container_and_nothing_of_itself_behind() {
        let unit = Unit::new(Some(Path::new("a.slice:x:y")), "box", &systemd(Manager::System));
        let properties = own_properties("box", &unit.unwrap());
        for (name, value) in [
            ("Slice", Value::text("a.slice")),
            ("Delegate", Value::Bool(true)),
            ("DefaultDependencies", Value::Bool(false)),
            ("CollectMode", Value::text("inactive-or-failed")),
        ] {
            assert!(properties.contains(&(name.to_owned(), value)), "{name}: {properties:?}");
        }
    }

    #[test]
    fn what_is_no_unit_is_refused() {
        let long = format!(":x:{}", "y".repeat(250));
        for (cgroups_path, part) in [
            ("/a/b", "expected cgroupsPath to be of format \"slice:prefix:name\""),
            ("a:b", "expected cgroupsPath"),
            ("a.slice:b:c:d", "expected cgroupsPath"),
            ("a.slice:b:", "no name"),
            ("a.slice:b:c.slice", "a slice cannot hold a container"),
            ("a:b:c", "ends in \".slice\""),
            ("a--b.slice:b:c", "no part without a letter"),
            ("-a.slice:b:c", "no part without a letter"),
            ("a/b.slice:b:c", "cannot hold '/'"),
            (":b:c d", "cannot hold ' '"),
            (":b:grün", "cannot hold 'ü'"),
            (&long, "at most 255 bytes"),
        ] {
            let error = path_of(cgroups_path, Manager::System).unwrap_err().to_string();
            assert!(error.contains(part), "{cgroups_path}: {error}");
        }
    }

    fn limits_of(writes: &[(&str, &str)]) -> (Vec<Property>, Vec<String>) {
        let mut settings: Vec<_> = writes
            .iter()
            .map(|(file, value)| Setting {
                field: "field".into(),
                directory: "/c/box".into(),
                version: super::super::Version::V2,
                controller: "x".into(),
                stage: super::super::Stage::Early,
                writes: vec![Write { file: (*file).into(), value: (*value).into() }],
                at_least: None,
                otherwise: super::super::settings::Otherwise::Fail,
            })
            .collect();
        let properties = limits(&mut settings).unwrap();
        let written = settings.iter().map(|setting| setting.writes[0].value.clone()).collect();
        (properties, written)
    }

    #[test]
    fn limits_have_words_of_systemd() {
        let number = |name: &str, number: u64| (name.to_owned(), Value::U64(number));
        for (file, value, expected) in [
            ("memory.max", "1000", vec![number("MemoryMax", 1000)]),
            ("memory.max", "max", vec![number("MemoryMax", NONE)]),
            ("memory.min", "4", vec![number("MemoryMin", 4)]),
            ("memory.low", "5", vec![number("MemoryLow", 5)]),
            ("memory.high", "6", vec![number("MemoryHigh", 6)]),
            ("memory.swap.max", "7", vec![number("MemorySwapMax", 7)]),
            ("pids.max", "max", vec![number("TasksMax", NONE)]),
            ("cpu.weight", "20", vec![number("CPUWeight", 20)]),
            ("cpu.idle", "1", vec![number("CPUWeight", 0)]),
            ("cpu.idle", "0", vec![]),
            ("io.weight", "50", vec![number("IOWeight", 50)]),
            ("io.weight", "default 60", vec![number("IOWeight", 60)]),
            ("io.weight", "8:0 50", vec![]),
            ("cpuset.cpus", "8191", {
                let mut last = [0; 1024];
                last[1023] = 0x80;
                vec![("AllowedCPUs".to_owned(), Value::bytes(&last))]
            }),
            ("cpuset.cpus", "0-2,9", vec![("AllowedCPUs".to_owned(), Value::bytes(&[7, 2]))]),
            ("cpuset.cpus", "\n", vec![("AllowedCPUs".to_owned(), Value::bytes(&[]))]),
            ("cpuset.mems", "\n", vec![("AllowedMemoryNodes".to_owned(), Value::bytes(&[]))]),
            ("cpuset.mems", "0", vec![("AllowedMemoryNodes".to_owned(), Value::bytes(&[1]))]),
            ("memory.oom.group", "1", vec![("OOMPolicy".to_owned(), Value::text("kill"))]),
            ("memory.oom.group", "0", vec![("OOMPolicy".to_owned(), Value::text("continue"))]),
            ("hugetlb.2MB.max", "5", vec![]),
            ("cpu.max.burst", "5", vec![]),
        ] {
            let (properties, written) = limits_of(&[(file, value)]);
            assert_eq!((properties, written), (expected, vec![value.to_owned()]), "{file}");
        }
        let (properties, _) = limits_of(&[("pids.max", "5"), ("pids.max", "6")]);
        assert_eq!(properties, [number("TasksMax", 6)]);
    }

    #[test]
    fn processor_time_is_rounded_up_to_what_systemd_keeps() {
        for (line, each_second, period, written) in [
            ("50000 100000", 500_000, 100_000, "50000 100000"),
            ("50000", 500_000, 100_000, "50000"),
            ("12345 100000", 130_000, 100_000, "13000 100000"),
            ("1000 1000000", 10_000, 1_000_000, "10000 1000000"),
            ("200000 100000", 2_000_000, 100_000, "200000 100000"),
            ("max 50000", NONE, 50_000, "max 50000"),
            ("max", NONE, 100_000, "max"),
        ] {
            let (properties, lines) = limits_of(&[("cpu.max", line)]);
            let expected = [
                ("CPUQuotaPerSecUSec".to_owned(), Value::U64(each_second)),
                ("CPUQuotaPeriodUSec".to_owned(), Value::U64(period)),
            ];
            assert_eq!((properties.as_slice(), lines[0].as_str()), (&expected[..], written));
        }
        for wrong in ["x", "5 x", "5 0", "-1", ""] {
            assert!(processor_time(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "x", "3-1", "1-", "8192"] {
            assert!(mask(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn systemd_restricts_devices_to_no_less_than_the_program_allows() {
        let rule = |allow, kind, major, minor, access| Rule {
            allow,
            kind,
            major,
            minor,
            access: super::super::devices::DeviceAccess(access),
        };
        let list =
            |default_allow, rules: &[Rule]| DeviceList { default_allow, rules: rules.to_vec() };
        let shown = |list: &DeviceList| {
            let properties = device_properties(list, &systemd(Manager::System).majors);
            let [(_, Value::Text(policy)), (_, Value::Array(_, entries))] = properties.as_slice()
            else {
                panic!("{properties:?}")
            };
            let entry = |entry: &Value| match entry {
                Value::Struct(pair) => {
                    pair.iter().filter_map(Value::as_text).collect::<Vec<_>>().join(" ")
                }
                other => panic!("{other:?}"),
            };
            (policy.clone(), entries.iter().map(entry).collect::<Vec<_>>())
        };
        let allowed = list(
            false,
            &[
                rule(true, Kind::Char, None, None, 1),
                rule(true, Kind::Char, Some(1), Some(3), 7),
                rule(true, Kind::Char, Some(136), None, 7),
                rule(true, Kind::Block, Some(8), None, 2),
            ],
        );
        let entries = ["char-* m", "/dev/char/1:3 rwm", "char-pts rwm", "block-sd r"];
        assert_eq!(shown(&allowed), ("strict".into(), entries.map(str::to_owned).to_vec()));
        let free = ("auto".to_owned(), Vec::new());
        for unsaid in [
            list(true, &[]),
            list(
                false,
                &[
                    rule(true, Kind::Char, Some(1), Some(3), 7),
                    rule(false, Kind::Char, Some(1), Some(3), 4),
                ],
            ),
            list(false, &[rule(true, Kind::Char, None, Some(3), 7)]),
            list(false, &[rule(true, Kind::Char, Some(77), None, 7)]),
        ] {
            assert_eq!(shown(&unsaid), free, "{unsaid:?}");
        }
    }

    fn properties_of(annotations: &[(&str, &str)]) -> Result<Vec<Property>> {
        let owned: Vec<_> = annotations
            .iter()
            .map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned()))
            .collect();
        of_annotations(owned.iter().map(|(key, value)| (key, value)))
    }

    #[test]
    fn annotations_are_properties() {
        for (name, text, expected) in [
            ("TimeoutStopUSec", "uint64 10000000", ("TimeoutStopUSec", Value::U64(10_000_000))),
            ("KillSignal", "15", ("KillSignal", Value::I32(15))),
            ("KillMode", "'mixed'", ("KillMode", Value::text("mixed"))),
            ("Description", r"'a\nb\tc'", ("Description", Value::text("a\nb\tc"))),
            ("Description", r#""it's \"here\"""#, ("Description", Value::text("it's \"here\""))),
            ("SendSIGHUP", "true", ("SendSIGHUP", Value::Bool(true))),
            ("RuntimeMaxSec", "300", ("RuntimeMaxUSec", Value::U64(300_000_000))),
            ("TimeoutStopSec", "uint64 3", ("TimeoutStopUSec", Value::U64(3_000_000))),
            ("TimeoutStopSec", "uint32 4", ("TimeoutStopUSec", Value::U64(4_000_000))),
            ("TimeoutStopSec", "int64 5", ("TimeoutStopUSec", Value::U64(5_000_000))),
            ("After", "['crio.service']", ("After", Value::texts(["crio.service"]))),
            ("DefaultDependencies", "true", ("DefaultDependencies", Value::Bool(true))),
        ] {
            let expected = (expected.0.to_owned(), expected.1);
            assert_eq!(properties_of(&[(name, text)]).unwrap(), [expected], "{name}");
        }
        assert_eq!(variant("['a', 'b']").unwrap(), Value::texts(["a", "b"]));
        assert_eq!(variant("[]").unwrap(), Value::texts::<&str>([]));
        assert_eq!(variant(r"'\\\''").unwrap(), Value::text(r"\'"));
        for (text, expected) in [
            ("false", Value::Bool(false)),
            ("byte 5", Value::Byte(5)),
            ("int16 -5", Value::I16(-5)),
            ("uint16 5", Value::U16(5)),
            ("int32 -5", Value::I32(-5)),
            ("uint32 5", Value::U32(5)),
            ("int64 -5", Value::I64(-5)),
        ] {
            assert_eq!(variant(text).unwrap(), expected);
        }
    }

    #[test]
    fn annotations_that_reach_beyond_the_unit_are_refused() {
        for name in [
            "PIDs",
            "PIDFDs",
            "Slice",
            "Delegate",
            "DelegateControllers",
            "DeviceAllow",
            "DevicePolicy",
            "BPFProgram",
            "Conflicts",
            "Wants",
            "Before",
            "OnFailure",
            "OnSuccess",
            "SuccessAction",
            "FailureAction",
            "JobTimeoutAction",
            "Controller",
            "x",
            "",
        ] {
            let error = format!("{:#}", properties_of(&[(name, "true")]).unwrap_err());
            assert!(error.contains(&format!("annotations[\"{PREFIX}{name}\"]")), "{error}");
        }
        for (name, text) in [
            ("After", "['dbus.service']"),
            ("After", "['crio.service', 'dbus.service']"),
            ("After", "'crio.service'"),
            ("DefaultDependencies", "false"),
            ("TimeoutStopSec", "true"),
            ("TimeoutStopSec", "-1"),
            ("TimeoutStopSec", "int64 -1"),
            ("TimeoutStopSec", "uint64 18446744073709551615"),
        ] {
            assert!(properties_of(&[(name, text)]).is_err(), "{name}: {text}");
        }
        for text in [
            "",
            "x",
            "'a",
            "a'",
            "['a'",
            "['a' 'b']",
            "['a',]",
            "uint64 -1",
            "5 5",
            "'a' 'b'",
            r"'\x'",
        ] {
            assert!(properties_of(&[("KillSignal", text)]).is_err(), "{text}");
        }
    }
}
