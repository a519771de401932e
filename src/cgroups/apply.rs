//! Writing settings and device rules.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Error, Result, anyhow, ensure};
use rustix::fs::{Mode, OFlags, open};

use super::{bpf, open_to_write, read, try_read, try_write, write_to};
use crate::error::{InField, message};
use crate::log;
use crate::plan::cgroup::settings::Otherwise;
use crate::plan::cgroup::{DevicePlan, Setting, Stage, Version, Write, program};

/// Writes those of `settings` that belong to `stage`, or all. Returns warnings.
///
/// Some depend on one another in a way that changes with what the group has now:
/// a memory limit may not pass the limit of memory and swap, so a raise has to
/// begin with the one and a cut with the other. What the kernel refuses is
/// therefore tried once more after the rest.
pub fn apply_settings(settings: &[Setting], stage: Option<Stage>) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let chosen =
        || settings.iter().filter(|setting| stage.is_none_or(|stage| setting.stage == stage));
    for setting in chosen() {
        refuse_below_usage(setting).in_field(&setting.field)?;
    }
    let is_refused = |setting: &&Setting| match apply(setting) {
        Ok(()) => false,
        Err(error) => {
            log::debug(|| format!("{}: {}: tried again", setting.field, message(&error)));
            true
        }
    };
    let refused: Vec<_> = chosen().filter(is_refused).collect();
    for setting in refused {
        match (apply(setting), setting.otherwise) {
            (Ok(()), _) => {}
            (Err(error), Otherwise::Warn) => {
                warnings.push(format!("{}: {}", setting.field, message(&error)));
            }
            (Err(error), _) => return Err(error).in_field(&setting.field),
        }
    }
    Ok(warnings)
}

/// What a file of a group held.
#[derive(Debug)]
pub struct Held<'a> {
    setting: &'a Setting,
    write: &'a Write,
    text: String,
}

/// What the files of `settings` hold, as far as they can be read.
pub fn held(settings: &[Setting]) -> Vec<Held<'_>> {
    settings.iter().filter_map(Held::by).collect()
}

impl<'a> Held<'a> {
    fn by(setting: &'a Setting) -> Option<Self> {
        setting.writes.iter().find_map(|write| {
            let text = try_read(&setting.directory.join(&write.file)).ok()?;
            Some(Self { setting, write, text })
        })
    }

    /// Whether its file is not there any more, and so the group.
    pub fn has_gone(&self) -> bool {
        !self.setting.directory.join(&self.write.file).exists()
    }

    /// What makes its file hold that again, where it holds anything else by now.
    pub fn back(&self) -> Vec<Setting> {
        match try_read(&self.setting.directory.join(&self.write.file)) {
            Ok(now) if now == self.text => Vec::new(),
            _ => self.setting.back(self.write, &self.text),
        }
    }
}

fn apply(setting: &Setting) -> Result<()> {
    for choice in &setting.writes {
        let path = setting.directory.join(&choice.file);
        match try_write(&path, &choice.value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                log::debug(|| format!("{}: {path:?} is not there", setting.field));
            }
            result => {
                log::debug(|| format!("{}: write {:?} to {path:?}", setting.field, choice.value));
                return result.with_context(|| format!("write {:?} to {path:?}", choice.value));
            }
        }
    }
    match setting.otherwise {
        Otherwise::SkipAbsent => Ok(()),
        Otherwise::Fail | Otherwise::Warn => Err(absent(setting)),
    }
}

fn absent(setting: &Setting) -> Error {
    let names: Vec<_> = setting.writes.iter().map(|choice| choice.file.as_str()).collect();
    anyhow!("{:?} has no {}", setting.directory, names.join(" and no "))
}

fn refuse_below_usage(setting: &Setting) -> Result<()> {
    let Some(usage) = &setting.at_least else { return Ok(()) };
    let path = setting.directory.join(&usage.file);
    let text = read(&path)?;
    let used: i64 = text.trim().parse().with_context(|| format!("read {path:?}: {text:?}"))?;
    let limit: i64 = usage.value.parse().with_context(|| format!("limit {:?}", usage.value))?;
    ensure!(used <= limit, "{limit} is below what is in use now, {used}");
    Ok(())
}

/// Restricts the group to the devices of `plan`.
///
/// Under version 2 the restriction is exchanged without a moment in which there
/// is none. Under version 1 the list is rewritten, which the kernel refuses for
/// a group that has groups below it.
pub fn apply_devices(plan: &DevicePlan) -> Result<()> {
    exchange(plan).in_field("linux.resources.devices")
}

fn exchange(plan: &DevicePlan) -> Result<()> {
    log::debug(|| {
        format!("device rules of {:?}, version {:?}: given", plan.directory, plan.version)
    });
    match plan.version {
        Version::V1 => {
            // The file of the rule before, which is most often that of the next one too.
            let mut last: Option<(&str, OwnedFd)> = None;
            for (name, rule) in plan.list.v1_writes() {
                let path = plan.directory.join(name);
                let file = match last.take().filter(|(last, _)| *last == name) {
                    Some((_, file)) => file,
                    None => open_to_write(&path).with_context(|| format!("open {path:?}"))?,
                };
                write_to(&file, &rule).with_context(|| format!("write {rule:?} to {path:?}"))?;
                last = Some((name, file));
            }
            Ok(())
        }
        Version::V2 => {
            let path: &Path = &plan.directory;
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
            let group =
                open(path, flags, Mode::empty()).with_context(|| format!("open {path:?}"))?;
            bpf::replace_device_program(group.as_fd(), &program::compile(&plan.list)?)
                .with_context(|| format!("{path:?}"))
        }
    }
}
