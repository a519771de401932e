//! The tasks that CRIU has restored, looked at before they run.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use oci_spec::runtime::LinuxNamespaceType as Kind;
use rustix::fs::stat;

use crate::cgroups;
use crate::error::InField as _;
use crate::plan::Plan;
use crate::plan::cgroup::Group;
use crate::plan::checkpoint::tasks::{Limits, Task};
use crate::plan::namespaces::{name, proc_name};
use crate::sys::process::send_signal;

/// The process and all that come from it, each before its children.
pub fn all_of(init: i32) -> Result<Vec<i32>> {
    let mut found = vec![init];
    let mut known = BTreeSet::from([init]);
    let mut at = 0;
    while let Some(process) = found.get(at).copied() {
        for thread in threads(process)? {
            let path = format!("/proc/{process}/task/{thread}/children");
            let children = fs::read_to_string(&path).with_context(|| path.clone())?;
            let children = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
            found.extend(children.filter(|child| known.insert(*child)));
        }
        at += 1;
    }
    Ok(found)
}

fn threads(process: i32) -> Result<Vec<i32>> {
    let path = format!("/proc/{process}/task");
    let entries = fs::read_dir(&path).with_context(|| path.clone())?;
    let number =
        |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    Ok(entries.filter_map(number).collect())
}

/// Kills the process and all that come from it: they stand still, so none of them is missed and
/// no pid becomes another one's.
pub fn kill(init: i32) {
    for process in all_of(init).unwrap_or_else(|_| vec![init]) {
        let _ = send_signal(process, libc::SIGKILL);
    }
}

/// Refuses tasks that have more than the plan allows, or are elsewhere.
pub fn check(init: i32, plan: &Plan, group: &Group, asked: Option<&str>) -> Result<()> {
    let process = plan.process.as_ref().context("process: missing")?;
    let limits = Limits { process, id_maps: plan.namespaces.id_maps.as_ref(), label: asked };
    let labelled =
        asked.is_some() || process.apparmor_profile.is_some() || process.selinux_label.is_some();
    for process in all_of(init)? {
        let check = || -> Result<()> {
            let looked_at = threads(process)?.into_iter();
            let looked_at = looked_at.map(|thread| look_at(process, thread, labelled));
            let tasks: Vec<_> = looked_at.filter_map(Result::transpose).collect::<Result<_>>()?;
            // One that has ended is in no namespace any more.
            if tasks.is_empty() {
                return Ok(());
            }
            check_namespaces(process, plan)?;
            cgroups::group_of(group, process as u32).in_field("linux.cgroupsPath")?;
            tasks.iter().try_for_each(|task| limits.check(task))
        };
        check().with_context(|| {
            format!("the image is refused: its process {process} is not within the configuration")
        })?;
    }
    Ok(())
}

/// None: it has ended, and has nothing any more.
fn look_at(process: i32, thread: i32, labelled: bool) -> Result<Option<Task>> {
    let place = format!("/proc/{process}/task/{thread}");
    let text = fs::read(format!("{place}/status")).with_context(|| place.clone())?;
    let text = String::from_utf8_lossy(&text);
    let state = text.lines().find_map(|line| line.strip_prefix("State:\t"));
    if state.is_some_and(|state| state.starts_with(['Z', 'X'])) {
        return Ok(None);
    }
    let label = labelled.then(|| label(&place)).transpose()?;
    match Task::parse(&text, label) {
        Some(task) => Ok(Some(task)),
        None => bail!("{place}/status: not understood"),
    }
}

/// AppArmor has a place of its own where there is more than one module.
fn label(place: &str) -> Result<String> {
    let read = |name: &str| fs::read_to_string(format!("{place}/attr/{name}"));
    let label = read("apparmor/current").or_else(|_| read("current"));
    let label = label.with_context(|| format!("{place}/attr/current"))?;
    Ok(label.trim_end_matches(['\0', '\n']).to_owned())
}

fn check_namespaces(process: i32, plan: &Plan) -> Result<()> {
    let own = |kind| inode(Path::new(&format!("/proc/self/ns/{}", proc_name(kind))));
    let its = |kind| inode(Path::new(&format!("/proc/{process}/ns/{}", proc_name(kind))));
    for kind in &plan.namespaces.new {
        // The runtime's own is nobody's else.
        ensure!(its(*kind)? != own(*kind)?, "linux.namespaces: {}: is the host's", name(*kind));
    }
    for join in plan.namespaces.joined.iter().filter(|join| join.kind != Kind::Mount) {
        let its = its(join.kind)?;
        let is_wanted = its == inode(&join.path)?;
        ensure!(is_wanted || its != own(join.kind)?, "{}: is the host's", join.field);
    }
    Ok(())
}

fn inode(path: &Path) -> Result<(u64, u64)> {
    let found = stat(path).with_context(|| format!("{path:?}"))?;
    Ok((found.st_dev, found.st_ino))
}
