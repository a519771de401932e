//! The table from `linux.resources` to files: for each field its controller,
//! what is written under version 1 and what under version 2.
//!
//! Engines write zero for "not set" in the fields marked so below; such a field
//! makes no row. A row without a form for the version that holds its controller
//! is an error, as is a row whose controller does not exist: a limit is kept or
//! refused, never passed over.

use std::fmt::Display;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxRdma,
    LinuxResources, LinuxThrottleDevice,
};
use serde::{Deserialize, Serialize};

use super::{Group, Version};
use crate::error::InField as _;
use crate::plan::numbers;

/// When a setting is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// At any time.
    Early,
    /// Once the container is complete: memory and pids, which a small limit
    /// would keep from being built at all, and the processors of version 2. Before Linux 6.3 a
    /// process that is cloned into a group has those of who cloned it, until the group is given
    /// other ones.
    Last,
}

/// A value and the file it goes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The file's name in the group's directory.
    pub file: String,
    /// The text to write.
    pub value: String,
}

/// What happens where no file of a setting exists, or the kernel refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Otherwise {
    /// The operation fails.
    Fail,
    /// It goes on with a warning.
    Warn,
    /// It goes on: where the file does not exist, what it limits does not exist
    /// either. A refusal still fails.
    SkipAbsent,
}

/// One setting of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The field of the configuration it comes from.
    pub field: String,
    /// The directory of the group in the tree that holds the controller.
    pub directory: PathBuf,
    /// The version of that tree.
    pub version: Version,
    /// The controller that has to be there.
    pub controller: String,
    /// When to apply it.
    pub stage: Stage,
    /// The first whose file exists is written.
    pub writes: Vec<Write>,
    /// Refused beforehand where the number in `file` is above the one in `value`
    /// (`memory.checkBeforeUpdate`).
    pub at_least: Option<Write>,
    /// What if it is not possible.
    pub otherwise: Otherwise,
}

impl Setting {
    /// What takes back that `written` was written to a file which held `text`.
    pub fn back(&self, written: &Write, text: &str) -> Vec<Self> {
        let mut values: Vec<_> = text.lines().map(str::to_owned).collect();
        match written.file.as_str() {
            // It tells more than it takes.
            "memory.oom_control" => {
                values.truncate(1);
                values.iter_mut().for_each(|value| value.retain(|char| char.is_ascii_digit()));
            }
            // None is a value too, but a write of nothing is none.
            "cpuset.cpus" | "cpuset.mems" if text.trim().is_empty() => {
                values = vec!["\n".to_owned()];
            }
            // Lines of devices are taken one by one, and a new one stays where it is not lifted.
            _ => values.extend(lifted(written, text)),
        }
        let back = |value| Self {
            writes: vec![write(&written.file, value)],
            at_least: None,
            otherwise: Otherwise::Warn,
            ..self.clone()
        };
        values.into_iter().map(back).collect()
    }
}

/// What lifts the limit of a device, where a file had none of it.
fn lifted(written: &Write, text: &str) -> Option<String> {
    let (device, limit) =
        written.value.split_once(' ').filter(|(device, _)| device.contains(':'))?;
    let of_device = |line: &str| line.split(' ').next() == Some(device);
    let none = match limit.split_once('=') {
        Some((kind, _)) => format!("{kind}=max"),
        None if written.file.starts_with("io.") => "default".to_owned(),
        None => "0".to_owned(),
    };
    (!text.lines().any(of_device)).then(|| format!("{device} {none}"))
}

/// A field before it is known which version holds its controller.
struct Row {
    field: String,
    controller: String,
    v1: Vec<Write>,
    v2: Vec<Write>,
    usage: Option<(Write, Write)>,
    /// For each version.
    otherwise: (Otherwise, Otherwise),
}

fn row(field: impl Into<String>, controller: &str) -> Row {
    Row {
        field: format!("linux.resources.{}", field.into()),
        controller: controller.into(),
        v1: Vec::new(),
        v2: Vec::new(),
        usage: None,
        otherwise: (Otherwise::Fail, Otherwise::Fail),
    }
}

fn write(file: impl Into<String>, value: impl Display) -> Write {
    Write { file: file.into(), value: value.to_string() }
}

impl Row {
    /// What version 1 takes. Given again: what it takes where the first does not exist.
    fn v1(mut self, file: impl Into<String>, value: impl Display) -> Self {
        self.v1.push(write(file, value));
        self
    }

    /// What version 2 takes.
    fn v2(mut self, file: impl Into<String>, value: impl Display) -> Self {
        self.v2.push(write(file, value));
        self
    }

    fn otherwise(self, v1: Otherwise, v2: Otherwise) -> Self {
        Self { otherwise: (v1, v2), ..self }
    }

    /// Whether it asks for no limit, which holds where nothing could limit.
    fn is_of_no_effect(&self, group: &Group) -> bool {
        let unlimited = |write: &Write| write.value == "max" || write.value.starts_with("max ");
        group.directory_of(&self.controller).is_none()
            && !self.v2.is_empty()
            && self.v2.iter().all(unlimited)
    }

    fn place(self, group: &Group) -> Result<Setting> {
        let Self { field, controller, v1, v2, usage, otherwise } = self;
        let Some(directory) = group.directory_of(&controller) else {
            if group.directories.is_empty() {
                bail!("{field}: the container has no cgroup to set it in");
            }
            bail!("{field}: no cgroup tree of this machine has the {controller} controller");
        };
        let (name, writes, at_least, otherwise) = match directory.version {
            Version::V1 => ("v1", v1, usage.map(|(v1, _)| v1), otherwise.0),
            Version::V2 => ("v2", v2, usage.map(|(_, v2)| v2), otherwise.1),
        };
        ensure!(!writes.is_empty(), "{field}: cgroup {name} has no such setting");
        for Write { file, value } in &writes {
            ensure!(!value.contains(['\n', '\0']), "{field}: {value:?} is not one line");
            ensure!(!file.contains(['/', '\0']), "{field}: {file:?} is not the name of a file");
        }
        let stage = match controller.as_str() {
            "memory" | "pids" => Stage::Last,
            // A policy of memory is to fit the nodes, and comes before that.
            "cpuset"
                if directory.version == Version::V2
                    && writes.iter().all(|write| write.file != "cpuset.mems") =>
            {
                Stage::Last
            }
            _ => Stage::Early,
        };
        Ok(Setting {
            field,
            directory: directory.path.clone(),
            version: directory.version,
            controller,
            stage,
            writes,
            at_least,
            otherwise,
        })
    }
}

/// The settings for `resources` in `group`. Devices are not among them.
pub(super) fn plan(resources: &LinuxResources, group: &Group) -> Result<Vec<Setting>> {
    let mut rows = Vec::new();
    if let Some(value) = resources.cpu() {
        rows.extend(cpu(value)?);
    }
    if let Some(value) = resources.block_io() {
        rows.extend(block_io(value)?);
    }
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        rows.extend(hugepages(index, limit)?);
    }
    if let Some(value) = resources.network() {
        rows.extend(network(value));
    }
    // Maps keep no order of their own; a plan should.
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| *name);
    rows.extend(devices.into_iter().filter_map(|(name, limits)| rdma(name, limits)));
    if let Some(value) = resources.memory() {
        rows.extend(memory(value)?);
    }
    if let Some(value) = resources.pids() {
        rows.push(pids(value.limit())?);
    }
    rows.retain(|row| !row.is_of_no_effect(group));
    let mut settings: Vec<_> =
        rows.into_iter().map(|row| row.place(group)).collect::<Result<_>>()?;
    // Under version 2 the period is part of the quota's line; the last one stays.
    settings.reverse();
    settings.dedup_by(|a, b| a.directory == b.directory && a.writes == b.writes);
    settings.reverse();

    let mut keys: Vec<_> = resources.unified().iter().flatten().collect();
    keys.sort();
    for (key, value) in keys {
        settings.extend(unified(key, value, group)?);
    }
    Ok(settings)
}

/// Zero in limit, reservation, swap, kernel and kernelTCP means not set.
fn memory(memory: &LinuxMemory) -> Result<Vec<Row>> {
    let limit = amount(memory.limit(), "memory.limit")?;
    let reservation = amount(memory.reservation(), "memory.reservation")?;
    let swap = amount(memory.swap(), "memory.swap")?;
    #[allow(deprecated, reason = "version 1 still has the file")]
    let kernel = amount(memory.kernel(), "memory.kernel")?;
    let kernel_tcp = amount(memory.kernel_tcp(), "memory.kernelTCP")?;
    let mut rows = Vec::new();

    if let Some(limit) = limit {
        let mut row = row("memory.limit", "memory")
            .v1("memory.limit_in_bytes", limit)
            .v2("memory.max", or_max(limit));
        if memory.check_before_update() == Some(true) && limit > 0 {
            row.usage =
                Some((write("memory.usage_in_bytes", limit), write("memory.current", limit)));
        }
        rows.push(row);
    }
    // Version 1 refuses to leave memory and swap together below memory alone.
    let swap = if limit == Some(-1) { swap.or(Some(-1)) } else { swap };
    if let Some(swap) = swap {
        // The configuration counts memory and swap together, as version 1 does;
        // version 2 counts swap alone.
        let alone = match (swap, limit) {
            (-1, _) => -1,
            (swap, Some(limit)) if limit > 0 => {
                ensure!(
                    swap >= limit,
                    "linux.resources.memory.swap: {swap}, which includes memory, is below memory.limit {limit}"
                );
                swap - limit
            }
            _ => bail!("linux.resources.memory.swap: {swap} needs a memory.limit"),
        };
        // A kernel that does not count swap has no file: no loss to whom it is
        // unlimited, nor under version 2, where such a kernel has no swap.
        let skip = |harmless| if harmless { Otherwise::SkipAbsent } else { Otherwise::Fail };
        rows.push(
            row("memory.swap", "memory")
                .v1("memory.memsw.limit_in_bytes", swap)
                .v2("memory.swap.max", or_max(alone))
                .otherwise(skip(swap == -1), skip(alone <= 0)),
        );
    }
    if let Some(reservation) = reservation {
        rows.push(
            row("memory.reservation", "memory")
                .v1("memory.soft_limit_in_bytes", reservation)
                .v2("memory.low", or_max(reservation)),
        );
    }
    // Linux 5.16 removed the first; the second goes with version 1.
    if let Some(kernel) = kernel {
        rows.push(
            row("memory.kernel", "memory")
                .v1("memory.kmem.limit_in_bytes", kernel)
                .otherwise(Otherwise::Warn, Otherwise::Fail),
        );
    }
    if let Some(kernel_tcp) = kernel_tcp {
        rows.push(
            row("memory.kernelTCP", "memory")
                .v1("memory.kmem.tcp.limit_in_bytes", kernel_tcp)
                .otherwise(Otherwise::Warn, Otherwise::Fail),
        );
    }
    if let Some(swappiness) = memory.swappiness() {
        ensure!(
            swappiness <= 100,
            "linux.resources.memory.swappiness: {swappiness} is not between 0 and 100"
        );
        rows.push(row("memory.swappiness", "memory").v1("memory.swappiness", swappiness));
    }
    if memory.disable_oom_killer() == Some(true) {
        rows.push(row("memory.disableOOMKiller", "memory").v1("memory.oom_control", 1));
    }
    Ok(rows)
}

/// Zero in shares, quota, period, realtimeRuntime and realtimePeriod means not set.
fn cpu(cpu: &LinuxCpu) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    // The kernel takes no shares for an idle group.
    let is_idle = cpu.idle() == Some(1);
    if let Some(shares) = cpu.shares().filter(|&shares| shares != 0 && !is_idle) {
        rows.push(
            row("cpu.shares", "cpu").v1("cpu.shares", shares).v2("cpu.weight", cpu_weight(shares)),
        );
    }
    let period = cpu.period().filter(|&period| period != 0);
    if let Some(period) = period {
        // The kernel's bounds. Of version 2's one line it would not say which part is wrong.
        ensure!(
            (1_000..=1_000_000).contains(&period),
            "linux.resources.cpu.period: {period} is not between 1000 and 1000000 microseconds"
        );
    }
    let quota = cpu.quota().filter(|&quota| quota != 0);
    if let Some(quota) = quota {
        ensure!(quota >= -1, "linux.resources.cpu.quota: {quota} is neither a time nor -1");
    }
    // Version 2 has one file for both: "quota period", of which the period may
    // be left out.
    let quota_text = or_max(quota.unwrap_or(-1));
    if let Some(period) = period {
        let both = format!("{quota_text} {period}");
        rows.push(row("cpu.period", "cpu").v1("cpu.cfs_period_us", period).v2("cpu.max", both));
    }
    if let Some(quota) = quota {
        let text = period.map_or(quota_text.clone(), |period| format!("{quota_text} {period}"));
        rows.push(row("cpu.quota", "cpu").v1("cpu.cfs_quota_us", quota).v2("cpu.max", text));
    }
    if let Some(burst) = cpu.burst() {
        rows.push(row("cpu.burst", "cpu").v1("cpu.cfs_burst_us", burst).v2("cpu.max.burst", burst));
    }
    if let Some(period) = cpu.realtime_period().filter(|&period| period != 0) {
        rows.push(row("cpu.realtimePeriod", "cpu").v1("cpu.rt_period_us", period));
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|&runtime| runtime != 0) {
        rows.push(row("cpu.realtimeRuntime", "cpu").v1("cpu.rt_runtime_us", runtime));
    }
    if let Some(idle) = cpu.idle() {
        ensure!(idle == 0 || idle == 1, "linux.resources.cpu.idle: {idle} is neither 0 nor 1");
        rows.push(row("cpu.idle", "cpu").v1("cpu.idle", idle).v2("cpu.idle", idle));
    }
    for (field, file, list) in
        [("cpu.cpus", "cpuset.cpus", cpu.cpus()), ("cpu.mems", "cpuset.mems", cpu.mems())]
    {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
            rows.push(row(field, "cpuset").v1(file, list).v2(file, list));
        }
    }
    Ok(rows)
}

/// Zero would forbid the program's own threads and children and each `exec`: as under runc
/// it is the least that a container can live with. -1 is no limit.
fn pids(limit: i64) -> Result<Row> {
    ensure!(limit >= -1, "linux.resources.pids.limit: {limit} is neither a number of tasks nor -1");
    let limit = or_max(if limit == 0 { 1 } else { limit });
    Ok(row("pids.limit", "pids").v1("pids.max", &limit).v2("pids.max", limit))
}

/// Zero in a weight means not set; a rate of zero is no limit.
fn block_io(io: &LinuxBlockIo) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    if let Some(weight) = io_weight(io.weight(), "blockIO.weight")? {
        rows.push(
            row("blockIO.weight", "io")
                .v1("blkio.weight", weight)
                .v1("blkio.bfq.weight", weight)
                .v2("io.bfq.weight", weight)
                .v2("io.weight", scaled_io_weight(weight)),
        );
    }
    if let Some(weight) = io_weight(io.leaf_weight(), "blockIO.leafWeight")? {
        rows.push(row("blockIO.leafWeight", "io").v1("blkio.leaf_weight", weight));
    }
    for (index, device) in io.weight_device().iter().flatten().enumerate() {
        let field = format!("blockIO.weightDevice[{index}]");
        let number = device_number(device.major(), device.minor(), &field)?;
        if let Some(weight) = io_weight(device.weight(), &format!("{field}.weight"))? {
            let value = format!("{number} {weight}");
            rows.push(
                row(format!("{field}.weight"), "io")
                    .v1("blkio.weight_device", &value)
                    .v1("blkio.bfq.weight_device", &value)
                    .v2("io.bfq.weight", &value)
                    .v2("io.weight", format!("{number} {}", scaled_io_weight(weight))),
            );
        }
        if let Some(weight) = io_weight(device.leaf_weight(), &format!("{field}.leafWeight"))? {
            rows.push(
                row(format!("{field}.leafWeight"), "io")
                    .v1("blkio.leaf_weight_device", format!("{number} {weight}")),
            );
        }
    }
    let throttles: [(&str, &str, &str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("ReadBps", "read_bps", "rbps", io.throttle_read_bps_device()),
        ("WriteBps", "write_bps", "wbps", io.throttle_write_bps_device()),
        ("ReadIOPS", "read_iops", "riops", io.throttle_read_iops_device()),
        ("WriteIOPS", "write_iops", "wiops", io.throttle_write_iops_device()),
    ];
    for (name, file, key, devices) in throttles {
        for (index, device) in devices.iter().flatten().enumerate() {
            let field = format!("blockIO.throttle{name}Device[{index}]");
            let number = device_number(device.major(), device.minor(), &field)?;
            let rate = device.rate();
            let rate_or_max = if rate == 0 { "max".to_owned() } else { rate.to_string() };
            rows.push(
                row(field, "io")
                    .v1(format!("blkio.throttle.{file}_device"), format!("{number} {rate}"))
                    .v2("io.max", format!("{number} {key}={rate_or_max}")),
            );
        }
    }
    Ok(rows)
}

/// The limit holds when pages are taken and, where the kernel can, when they
/// are reserved. A page size of which this kernel has no file is an error.
fn hugepages(index: usize, limit: &LinuxHugepageLimit) -> Result<[Row; 2]> {
    let field = format!("hugepageLimits[{index}]");
    let size = limit.page_size();
    let digits = size.trim_end_matches(|c: char| c.is_ascii_uppercase());
    ensure!(
        matches!(size.strip_prefix(digits), Some("KB" | "MB" | "GB"))
            && !digits.is_empty()
            && digits.bytes().all(|digit| digit.is_ascii_digit()),
        "linux.resources.{field}.pageSize: {size:?} is not a size such as 2MB"
    );
    let bytes = limit.limit();
    ensure!(bytes >= 0, "linux.resources.{field}.limit: {bytes} is negative");
    let taken = row(&field, "hugetlb")
        .v1(format!("hugetlb.{size}.limit_in_bytes"), bytes)
        .v2(format!("hugetlb.{size}.max"), bytes);
    let reserved = row(&field, "hugetlb")
        .v1(format!("hugetlb.{size}.rsvd.limit_in_bytes"), bytes)
        .v2(format!("hugetlb.{size}.rsvd.max"), bytes)
        .otherwise(Otherwise::SkipAbsent, Otherwise::SkipAbsent);
    Ok([taken, reserved])
}

/// Zero in classID means not set. Version 2 leaves both to BPF and netfilter.
fn network(network: &LinuxNetwork) -> Vec<Row> {
    let class = network.class_id().filter(|&class| class != 0);
    let class = class.map(|class| row("network.classID", "net_cls").v1("net_cls.classid", class));
    let priorities = network.priorities().iter().flatten().enumerate().map(|(index, entry)| {
        row(format!("network.priorities[{index}]"), "net_prio")
            .v1("net_prio.ifpriomap", format!("{} {}", entry.name(), entry.priority()))
    });
    class.into_iter().chain(priorities).collect()
}

/// A device without limits makes no row.
fn rdma(device: &str, limits: &LinuxRdma) -> Option<Row> {
    let handles = limits.hca_handles().map(|number| format!(" hca_handle={number}"));
    let objects = limits.hca_objects().map(|number| format!(" hca_object={number}"));
    if handles.is_none() && objects.is_none() {
        return None;
    }
    let line =
        [Some(device.to_owned()), handles, objects].into_iter().flatten().collect::<String>();
    Some(row(format!("rdma[{device:?}]"), "rdma").v1("rdma.max", &line).v2("rdma.max", line))
}

/// Passed through to version 2 as it is, line by line: the kernel takes one for each write,
/// as `io.max` one device. The controller is what stands before the first dot; `cgroup` is
/// the core, which is always there.
fn unified(key: &str, value: &str, group: &Group) -> Result<Vec<Setting>> {
    let field = format!("unified[{key:?}]");
    let Some(directory) = group.unified() else {
        bail!("linux.resources.{field}: this container has no group of cgroup v2");
    };
    let (controller, _) = key.split_once('.').unwrap_or_default();
    if controller.is_empty() || key.contains('/') {
        bail!("linux.resources.{field}: not the name of a file of cgroup v2");
    }
    let lifecycle =
        ["cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.freeze", "cgroup.type"];
    ensure!(
        !lifecycle.contains(&key),
        "linux.resources.{field}: the runtime alone writes this file"
    );
    let home = Group {
        directories: vec![super::Directory {
            controllers: directory.controllers.iter().cloned().chain(["cgroup".into()]).collect(),
            ..directory.clone()
        }],
    };
    let mut lines: Vec<&str> = value.lines().filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        lines.push("");
    }
    lines.into_iter().map(|line| row(&field, controller).v2(key, line).place(&home)).collect()
}

/// Bytes, or -1 for no limit. Zero means not set.
fn amount(value: Option<i64>, field: &str) -> Result<Option<i64>> {
    match value {
        Some(value) if value < -1 => {
            bail!("linux.resources.{field}: {value} is neither a number of bytes nor -1")
        }
        value => Ok(value.filter(|&value| value != 0)),
    }
}

fn or_max(limit: i64) -> String {
    if limit == -1 { "max".to_owned() } else { limit.to_string() }
}

/// 10 to 1000, or zero for not set.
fn io_weight(weight: Option<u16>, field: &str) -> Result<Option<u16>> {
    let weight = weight.filter(|&weight| weight != 0);
    if let Some(weight) = weight {
        ensure!(
            (10..=1000).contains(&weight),
            "linux.resources.{field}: {weight} is not between 10 and 1000"
        );
    }
    Ok(weight)
}

fn device_number(major: i64, minor: i64, field: &str) -> Result<String> {
    numbers::major(major).in_field(format_args!("linux.resources.{field}.major"))?;
    numbers::minor(minor).in_field(format_args!("linux.resources.{field}.minor"))?;
    Ok(format!("{major}:{minor}"))
}

/// 10 to 1000 stretched over io.weight's 1 to 10000.
fn scaled_io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990
}

/// cpu.shares (2 to 262144, 1024 by default) as cpu.weight (1 to 10000, 100 by
/// default): the parabola over log2 through these three points, which is what
/// other runtimes have agreed on, so that a container weighs the same under each.
fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "shares have 18 bits here, and the result lies between 1 and 10000"
        )]
        shares => {
            let log = (shares as f64).log2();
            10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::cgroup::Directory;

    const V1: [&str; 9] =
        ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "net_cls", "net_prio", "rdma"];
    const V2: [&str; 7] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb", "rdma"];

    fn group(version: Version, controllers: &[&str]) -> Group {
        Group {
            directories: vec![Directory {
                version,
                controllers: controllers.iter().map(ToString::to_string).collect(),
                mount: "/c".into(),
                path: "/c/box".into(),
            }],
        }
    }

    fn planned(json: &str, group: &Group) -> Result<Vec<Setting>> {
        plan(&serde_json::from_str(json).unwrap(), group)
    }

    /// `file=value`, with ` | ` before what is tried where the first does not exist.
    fn lines(json: &str, version: Version) -> Vec<String> {
        let group = match version {
            Version::V1 => group(version, &V1),
            Version::V2 => group(version, &V2),
        };
        let write = |write: &Write| format!("{}={}", write.file, write.value);
        let line =
            |setting: &Setting| setting.writes.iter().map(write).collect::<Vec<_>>().join(" | ");
        planned(json, &group).unwrap().iter().map(line).collect()
    }

    fn refusal(json: &str, version: Version) -> String {
        let group = match version {
            Version::V1 => group(version, &V1),
            Version::V2 => group(version, &V2),
        };
        format!("{:#}", planned(json, &group).unwrap_err())
    }

    #[test]
    fn each_field_has_its_file_in_each_version() {
        let rows: &[(&str, &[&str], &[&str])] = &[
            (r#"{"memory":{"limit":64}}"#, &["memory.limit_in_bytes=64"], &["memory.max=64"]),
            (
                r#"{"memory":{"limit":64,"swap":64}}"#,
                &["memory.limit_in_bytes=64", "memory.memsw.limit_in_bytes=64"],
                &["memory.max=64", "memory.swap.max=0"],
            ),
            (
                r#"{"memory":{"limit":64,"swap":-1}}"#,
                &["memory.limit_in_bytes=64", "memory.memsw.limit_in_bytes=-1"],
                &["memory.max=64", "memory.swap.max=max"],
            ),
            (
                r#"{"memory":{"limit":-1}}"#,
                &["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"],
                &["memory.max=max", "memory.swap.max=max"],
            ),
            (
                r#"{"memory":{"reservation":32}}"#,
                &["memory.soft_limit_in_bytes=32"],
                &["memory.low=32"],
            ),
            (r#"{"cpu":{"shares":512}}"#, &["cpu.shares=512"], &["cpu.weight=59"]),
            (
                r#"{"cpu":{"quota":25000,"period":50000,"burst":1000}}"#,
                &["cpu.cfs_period_us=50000", "cpu.cfs_quota_us=25000", "cpu.cfs_burst_us=1000"],
                &["cpu.max=25000 50000", "cpu.max.burst=1000"],
            ),
            (r#"{"cpu":{"quota":-1}}"#, &["cpu.cfs_quota_us=-1"], &["cpu.max=max"]),
            (r#"{"cpu":{"quota":9000}}"#, &["cpu.cfs_quota_us=9000"], &["cpu.max=9000"]),
            (r#"{"cpu":{"period":9000}}"#, &["cpu.cfs_period_us=9000"], &["cpu.max=max 9000"]),
            (r#"{"cpu":{"idle":1,"shares":1024}}"#, &["cpu.idle=1"], &["cpu.idle=1"]),
            (
                r#"{"cpu":{"cpus":"0-1,3","mems":"0"}}"#,
                &["cpuset.cpus=0-1,3", "cpuset.mems=0"],
                &["cpuset.cpus=0-1,3", "cpuset.mems=0"],
            ),
            (r#"{"pids":{"limit":0}}"#, &["pids.max=1"], &["pids.max=1"]),
            (r#"{"pids":{"limit":-1}}"#, &["pids.max=max"], &["pids.max=max"]),
            (
                r#"{"blockIO":{"weight":1000}}"#,
                &["blkio.weight=1000 | blkio.bfq.weight=1000"],
                &["io.bfq.weight=1000 | io.weight=10000"],
            ),
            (
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":10}]}}"#,
                &["blkio.weight_device=8:0 10 | blkio.bfq.weight_device=8:0 10"],
                &["io.bfq.weight=8:0 10 | io.weight=8:0 1"],
            ),
            (
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":7}],
                    "throttleWriteBpsDevice":[{"major":8,"minor":1,"rate":0}],
                    "throttleReadIOPSDevice":[{"major":8,"minor":2,"rate":7}],
                    "throttleWriteIOPSDevice":[{"major":8,"minor":3,"rate":7}]}}"#,
                &[
                    "blkio.throttle.read_bps_device=8:0 7",
                    "blkio.throttle.write_bps_device=8:1 0",
                    "blkio.throttle.read_iops_device=8:2 7",
                    "blkio.throttle.write_iops_device=8:3 7",
                ],
                &[
                    "io.max=8:0 rbps=7",
                    "io.max=8:1 wbps=max",
                    "io.max=8:2 riops=7",
                    "io.max=8:3 wiops=7",
                ],
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":9223372036854775807}]}"#,
                &[
                    "hugetlb.2MB.limit_in_bytes=9223372036854775807",
                    "hugetlb.2MB.rsvd.limit_in_bytes=9223372036854775807",
                ],
                &[
                    "hugetlb.2MB.max=9223372036854775807",
                    "hugetlb.2MB.rsvd.max=9223372036854775807",
                ],
            ),
            (
                r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10},"hfi1":{"hcaObjects":1},"none":{}}}"#,
                &["rdma.max=hfi1 hca_object=1", "rdma.max=mlx5_1 hca_handle=3 hca_object=10"],
                &["rdma.max=hfi1 hca_object=1", "rdma.max=mlx5_1 hca_handle=3 hca_object=10"],
            ),
        ];
        for (json, v1, v2) in rows {
            assert_eq!(lines(json, Version::V1), *v1, "{json}");
            assert_eq!(lines(json, Version::V2), *v2, "{json}");
        }
    }

    #[test]
    fn what_only_v1_has_is_written_there_and_refused_on_v2() {
        for (json, v1, field) in [
            (r#"{"memory":{"kernel":9}}"#, "memory.kmem.limit_in_bytes=9", "memory.kernel"),
            (
                r#"{"memory":{"kernelTCP":9}}"#,
                "memory.kmem.tcp.limit_in_bytes=9",
                "memory.kernelTCP",
            ),
            (r#"{"memory":{"swappiness":0}}"#, "memory.swappiness=0", "memory.swappiness"),
            (
                r#"{"memory":{"disableOOMKiller":true}}"#,
                "memory.oom_control=1",
                "memory.disableOOMKiller",
            ),
            (r#"{"cpu":{"realtimePeriod":9}}"#, "cpu.rt_period_us=9", "cpu.realtimePeriod"),
            (r#"{"cpu":{"realtimeRuntime":9}}"#, "cpu.rt_runtime_us=9", "cpu.realtimeRuntime"),
            (r#"{"blockIO":{"leafWeight":10}}"#, "blkio.leaf_weight=10", "blockIO.leafWeight"),
            (
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"leafWeight":10}]}}"#,
                "blkio.leaf_weight_device=8:0 10",
                "blockIO.weightDevice[0].leafWeight",
            ),
        ] {
            assert_eq!(lines(json, Version::V1), [v1]);
            assert_eq!(
                refusal(json, Version::V2),
                format!("linux.resources.{field}: cgroup v2 has no such setting")
            );
        }
        let json = r#"{"network":{"classID":1048577,"priorities":[{"name":"lo","priority":5}]}}"#;
        assert_eq!(
            lines(json, Version::V1),
            ["net_cls.classid=1048577", "net_prio.ifpriomap=lo 5"]
        );
        assert_eq!(
            refusal(json, Version::V2),
            "linux.resources.network.classID: no cgroup tree of this machine has the net_cls controller"
        );
    }

    #[test]
    fn what_a_file_held_is_written_back_as_the_file_takes_it() {
        let setting = Setting {
            field: "linux.resources.memory.limit".to_owned(),
            directory: "/group".into(),
            version: Version::V1,
            controller: "memory".to_owned(),
            stage: Stage::Last,
            writes: vec![],
            at_least: Some(write("usage", 7)),
            otherwise: Otherwise::Fail,
        };
        let throttle = "blkio.throttle.read_bps_device";
        for (file, written, text, values) in [
            ("pids.max", "9", "max\n", &["max"][..]),
            ("cpu.max", "5 100000", "max 100000\n", &["max 100000"]),
            ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 1\noom_kill 2\n", &["0"]),
            ("cpuset.cpus", "1", "\n", &["\n"]),
            ("cpuset.mems", "1", "", &["\n"]),
            ("cpuset.cpus", "1", "0-1\n", &["0-1"]),
            ("io.weight", "8:0 9", "default 100\n8:0 50\n", &["default 100", "8:0 50"]),
            ("io.weight", "8:1 9", "default 100\n", &["default 100", "8:1 default"]),
            ("io.max", "8:0 rbps=9", "", &["8:0 rbps=max"]),
            ("io.max", "8:0 rbps=9", "8:0 rbps=5 wbps=max\n", &["8:0 rbps=5 wbps=max"]),
            (throttle, "8:0 9", "8:1 5\n", &["8:1 5", "8:0 0"]),
            ("net_prio.ifpriomap", "eth0 5", "lo 0\neth0 0\n", &["lo 0", "eth0 0"]),
        ] {
            let back = setting.back(&write(file, written), text);
            let found: Vec<_> = back
                .iter()
                .flat_map(|back| &back.writes)
                .map(|write| (write.file.as_str(), write.value.as_str()))
                .collect();
            let expected: Vec<_> = values.iter().map(|value| (file, *value)).collect();
            assert_eq!(found, expected);
            for back in back {
                assert_eq!((back.at_least, back.otherwise), (None, Otherwise::Warn));
                assert_eq!((&back.field, &back.directory), (&setting.field, &setting.directory));
            }
        }
    }

    #[test]
    fn what_engines_write_for_not_set_needs_no_controller() {
        for json in [
            "{}",
            r#"{"devices":[{"allow":false}],"memory":{"disableOOMKiller":false},"cpu":{"shares":0},"blockIO":{"weight":0}}"#,
            r#"{"memory":{"limit":0,"reservation":0,"swap":0,"kernel":0,"kernelTCP":0,"useHierarchy":true},
                "cpu":{"quota":0,"period":0,"realtimeRuntime":0,"realtimePeriod":0,"cpus":"","mems":""},
                "blockIO":{"leafWeight":0,"weightDevice":[]},"network":{"classID":0,"priorities":[]},
                "hugepageLimits":[],"rdma":{},"unified":{}}"#,
        ] {
            assert_eq!(planned(json, &group(Version::V2, &[])).unwrap(), [], "{json}");
            assert_eq!(planned(json, &Group::default()).unwrap(), [], "{json}");
        }
    }

    #[test]
    fn what_docker_containerd_and_podman_ask_for_is_planned() {
        for (engine, json, v1, v2) in [
            (
                "docker 29 with limits",
                r#"{"memory":{"limit":67108864,"swap":134217728,"disableOOMKiller":false},
                    "cpu":{"quota":50000,"period":100000},"pids":{"limit":50},"blockIO":{}}"#,
                "cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 memory.limit_in_bytes=67108864 \
                 memory.memsw.limit_in_bytes=134217728 pids.max=50",
                "cpu.max=50000 100000 memory.max=67108864 memory.swap.max=67108864 pids.max=50",
            ),
            (
                "docker 20.10 update",
                r#"{"memory":{"limit":33554432,"reservation":0,"swap":67108864,"kernel":0},
                    "cpu":{"shares":0,"quota":30000,"period":100000},"pids":{"limit":20},"blockIO":{"weight":0}}"#,
                "cpu.cfs_period_us=100000 cpu.cfs_quota_us=30000 memory.limit_in_bytes=33554432 \
                 memory.memsw.limit_in_bytes=67108864 pids.max=20",
                "cpu.max=30000 100000 memory.max=33554432 memory.swap.max=33554432 pids.max=20",
            ),
            (
                "containerd 2.4 for Kubernetes",
                r#"{"devices":[{"allow":false,"access":"rwm"}],"memory":{"limit":67108864,"swap":67108864},
                    "cpu":{"shares":256,"quota":50000,"period":100000}}"#,
                "cpu.shares=256 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 \
                 memory.limit_in_bytes=67108864 memory.memsw.limit_in_bytes=67108864",
                "cpu.weight=35 cpu.max=50000 100000 memory.max=67108864 memory.swap.max=0",
            ),
            (
                "podman 4.3 with limits",
                r#"{"devices":[{"allow":false,"access":"rwm"}],
                    "memory":{"limit":67108864,"reservation":33554432,"swap":134217728},
                    "cpu":{"shares":512,"quota":50000,"period":100000},"pids":{"limit":50},"blockIO":{"weight":300}}"#,
                "cpu.shares=512 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 \
                 blkio.weight=300 | blkio.bfq.weight=300 memory.limit_in_bytes=67108864 \
                 memory.memsw.limit_in_bytes=134217728 memory.soft_limit_in_bytes=33554432 pids.max=50",
                "cpu.weight=59 cpu.max=50000 100000 io.bfq.weight=300 | io.weight=2930 \
                 memory.max=67108864 memory.swap.max=67108864 memory.low=33554432 pids.max=50",
            ),
        ] {
            assert_eq!(lines(json, Version::V1).join(" "), v1, "{engine}");
            assert_eq!(lines(json, Version::V2).join(" "), v2, "{engine}");
        }
    }

    #[test]
    fn wrong_values_are_refused_by_field_and_value() {
        for (json, error) in [
            (r#"{"memory":{"limit":-2}}"#, "memory.limit: -2 is neither a number of bytes nor -1"),
            (
                r#"{"memory":{"limit":64,"swap":63}}"#,
                "memory.swap: 63, which includes memory, is below memory.limit 64",
            ),
            (r#"{"memory":{"swap":64}}"#, "memory.swap: 64 needs a memory.limit"),
            (r#"{"memory":{"limit":-1,"swap":64}}"#, "memory.swap: 64 needs a memory.limit"),
            (r#"{"memory":{"swappiness":101}}"#, "memory.swappiness: 101 is not between 0 and 100"),
            (r#"{"cpu":{"quota":-2}}"#, "cpu.quota: -2 is neither a time nor -1"),
            (
                r#"{"cpu":{"quota":50000,"period":999}}"#,
                "cpu.period: 999 is not between 1000 and 1000000 microseconds",
            ),
            (r#"{"cpu":{"idle":2}}"#, "cpu.idle: 2 is neither 0 nor 1"),
            (r#"{"cpu":{"cpus":"0\n1"}}"#, r#"cpu.cpus: "0\n1" is not one line"#),
            (r#"{"pids":{"limit":-2}}"#, "pids.limit: -2 is neither a number of tasks nor -1"),
            (r#"{"blockIO":{"weight":9}}"#, "blockIO.weight: 9 is not between 10 and 1000"),
            (
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":1001}]}}"#,
                "blockIO.weightDevice[0].weight: 1001 is not between 10 and 1000",
            ),
            (
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":-1,"minor":0,"rate":1}]}}"#,
                "blockIO.throttleReadBpsDevice[0].major: -1: not a device number",
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MiB","limit":1}]}"#,
                r#"hugepageLimits[0].pageSize: "2MiB" is not a size such as 2MB"#,
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":1}]}"#,
                r#"hugepageLimits[0].pageSize: "../2MB" is not a size such as 2MB"#,
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":-1}]}"#,
                "hugepageLimits[0].limit: -1 is negative",
            ),
        ] {
            for version in [Version::V1, Version::V2] {
                assert_eq!(refusal(json, version), format!("linux.resources.{error}"));
            }
        }
    }

    #[test]
    fn a_limit_whose_controller_is_missing_is_refused() {
        for (version, present, json, field, missing) in [
            (Version::V2, &["cpu"][..], r#"{"pids":{"limit":5}}"#, "pids.limit", "pids"),
            (Version::V1, &["cpu"][..], r#"{"cpu":{"cpus":"0"}}"#, "cpu.cpus", "cpuset"),
            (Version::V1, &["io"][..], r#"{"blockIO":{"weight":10}}"#, "blockIO.weight", "io"),
        ] {
            let error = planned(json, &group(version, present)).unwrap_err();
            assert_eq!(
                format!("{error:#}"),
                format!(
                    "linux.resources.{field}: no cgroup tree of this machine has the {missing} controller"
                )
            );
        }
    }

    #[test]
    fn no_limit_is_what_there_is_without_a_controller() {
        let none =
            r#"{"pids":{"limit":-1},"memory":{"limit":-1},"cpu":{"quota":-1,"period":1000}}"#;
        for group in [group(Version::V2, &["io"]), group(Version::V1, &["io"]), Group::default()] {
            assert_eq!(planned(none, &group).unwrap(), []);
        }
        assert_eq!(planned(none, &group(Version::V2, &["pids"])).unwrap().len(), 1);
    }

    #[test]
    fn unified_passes_through_to_v2_in_a_fixed_order_and_after_the_rest() {
        let json = r#"{"pids":{"limit":5},"unified":
            {"memory.high":"900","cpu.weight":"7","cgroup.max.depth":"3","cpu.new.file":"x"}}"#;
        assert_eq!(
            lines(json, Version::V2),
            [
                "pids.max=5",
                "cgroup.max.depth=3",
                "cpu.new.file=x",
                "cpu.weight=7",
                "memory.high=900"
            ]
        );
    }

    #[test]
    fn unified_is_written_line_by_line() {
        for (value, expected) in [
            (r"8:0 rbps=1\n8:16 rbps=2", &["io.max=8:0 rbps=1", "io.max=8:16 rbps=2"][..]),
            (r"\n8:0 rbps=1\n\n", &["io.max=8:0 rbps=1"]),
            (r"", &["io.max="]),
            (r"\n", &["io.max="]),
        ] {
            let json = format!(r#"{{"unified":{{"io.max":"{value}"}}}}"#);
            assert_eq!(lines(&json, Version::V2), expected, "{value}");
        }
    }

    #[test]
    fn unified_does_not_reach_what_is_not_the_configurations() {
        for (entry, reason) in [
            (r#""memory.max":"1\u00002""#, r#"unified["memory.max"]: "1\02" is not one line"#),
            (r#""../x.max":"1""#, r#"unified["../x.max"]: not the name of a file of cgroup v2"#),
            (r#""cpu./../x":"1""#, r#"unified["cpu./../x"]: not the name of a file of cgroup v2"#),
            (r#""max":"1""#, r#"unified["max"]: not the name of a file of cgroup v2"#),
            (
                r#""misc.max":"1""#,
                r#"unified["misc.max"]: no cgroup tree of this machine has the misc controller"#,
            ),
            (
                r#""cgroup.procs":"0""#,
                r#"unified["cgroup.procs"]: the runtime alone writes this file"#,
            ),
        ] {
            assert_eq!(
                refusal(&format!(r#"{{"unified":{{{entry}}}}}"#), Version::V2),
                format!("linux.resources.{reason}")
            );
        }
        assert_eq!(
            refusal(r#"{"unified":{"memory.max":"1"}}"#, Version::V1),
            r#"linux.resources.unified["memory.max"]: this container has no group of cgroup v2"#
        );
    }

    #[test]
    fn what_could_stop_the_container_from_being_built_comes_last() {
        let json = r#"{"memory":{"limit":64},"pids":{"limit":0},"cpu":{"shares":5},"unified":{"memory.high":"1"}}"#;
        let settings = planned(json, &group(Version::V2, &V2)).unwrap();
        let early: Vec<_> = settings.iter().filter(|s| s.stage == Stage::Early).collect();
        assert_eq!(early.len(), 1);
        assert_eq!(early[0].field, "linux.resources.cpu.shares");
    }

    #[test]
    fn processors_of_v2_are_given_to_a_group_with_a_process_in_it() {
        let json = r#"{"cpu":{"cpus":"0","mems":"0"}}"#;
        for (version, stages) in [
            (Version::V1, [Stage::Early, Stage::Early]),
            (Version::V2, [Stage::Last, Stage::Early]),
        ] {
            let settings = planned(json, &group(version, &["cpuset"])).unwrap();
            assert_eq!(settings.iter().map(|s| s.stage).collect::<Vec<_>>(), stages, "{version:?}");
        }
    }

    #[test]
    fn a_missing_swap_file_matters_only_to_who_wants_swap_counted() {
        for (version, swap, otherwise) in [
            (Version::V1, -1, Otherwise::SkipAbsent),
            (Version::V1, 64, Otherwise::Fail),
            (Version::V2, -1, Otherwise::SkipAbsent),
            (Version::V2, 64, Otherwise::SkipAbsent),
            (Version::V2, 65, Otherwise::Fail),
        ] {
            let json = format!(r#"{{"memory":{{"limit":64,"swap":{swap}}}}}"#);
            let settings = planned(&json, &group(version, &["memory"])).unwrap();
            assert_eq!(settings[1].otherwise, otherwise, "{version:?} {swap}");
        }
    }

    #[test]
    fn a_limit_is_checked_against_what_is_in_use_only_on_request() {
        for (version, file) in
            [(Version::V1, "memory.usage_in_bytes"), (Version::V2, "memory.current")]
        {
            let json = r#"{"memory":{"limit":64,"checkBeforeUpdate":true}}"#;
            let settings = planned(json, &group(version, &["memory"])).unwrap();
            assert_eq!(settings[0].at_least, Some(write(file, 64)));
            let settings = planned(r#"{"memory":{"limit":64}}"#, &group(version, &["memory"]));
            assert_eq!(settings.unwrap()[0].at_least, None);
        }
    }

    #[test]
    fn weights_follow_the_curve_that_runtimes_share() {
        for (shares, weight) in
            [(1, 1), (2, 1), (3, 2), (256, 35), (1024, 100), (262_143, 10_000), (u64::MAX, 10_000)]
        {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
        for (weight, scaled) in [(10, 1), (100, 910), (500, 4950), (1000, 10_000)] {
            assert_eq!(scaled_io_weight(weight), scaled);
        }
    }
}
