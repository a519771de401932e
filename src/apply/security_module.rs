//! AppArmor profiles and SELinux labels: looked for before anything is made, and given
//! to the program just before it runs.
//!
//! A label that the kernel cannot apply is refused, never passed over. It is written to
//! /proc/self/attr of the procfs that the caller sees: the container's /proc may be
//! anything, and swallow it.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{CWD, FsWord, Mode, OFlags, ResolveFlags, fstatfs, openat, openat2, statfs};
use rustix::io::Errno;

use crate::error::{InField as _, Kind};
use crate::plan::process::ProcessPlan;

/// Whether the kernel enforces AppArmor profiles.
fn has_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.starts_with(b"Y"))
}

/// Whether the kernel has an SELinux policy.
fn has_selinux() -> bool {
    /// SELINUX_MAGIC of linux/magic.h.
    const MAGIC: FsWord = 0xf97c_ff8c;
    statfs("/sys/fs/selinux").is_ok_and(|stat| stat.f_type == MAGIC)
}

/// What confines this process itself, or the user namespaces that it makes: a seccomp filter, a
/// profile, or the setting by which only those with a profile gain anything by such a namespace.
pub fn around() -> Option<String> {
    const SETTING: &str = "kernel.apparmor_restrict_unprivileged_userns";
    let read = |file: &str| std::fs::read_to_string(file).ok();
    let status = read("/proc/self/status");
    let is_filtered = status.is_some_and(|status| status.lines().any(|line| line == "Seccomp:\t2"));
    let profile = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"]
        .into_iter()
        .find_map(read)
        .map(|text| text.trim_matches(['\0', '\n']).to_owned())
        .filter(|text| has_apparmor() && !text.is_empty());
    let is_restricted = profile.as_deref() == Some("unconfined")
        && !rustix::process::geteuid().is_root()
        && read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
            .is_some_and(|text| text.trim() == "1");
    // In that mode a profile is but a name: "NAME (unconfined)".
    let profile = profile.filter(|text| !text.trim_end_matches(')').ends_with("unconfined"));
    let all = [
        is_filtered.then(|| "a seccomp filter".to_owned()),
        profile.map(|profile| format!("the AppArmor profile {profile:?}")),
        is_restricted.then(|| format!("{SETTING} = 1")),
    ];
    let all: Vec<_> = all.into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join(" and "))
}

/// Refuses what this kernel cannot apply.
pub fn refuse_missing(process: Option<&ProcessPlan>, mount_label: Option<&str>) -> Result<()> {
    let missing = |module: &str, value: &str| -> Result<()> {
        let text = format!("{value:?}: this kernel has no {module}, or it is switched off");
        Err(Kind::Unsupported.error(text))
    };
    if let Some(process) = process {
        if let Some(profile) = process.apparmor_profile.as_ref().filter(|_| !has_apparmor()) {
            return missing("AppArmor", profile).in_field(process.field.of("apparmorProfile"));
        }
        if let Some(label) = process.selinux_label.as_ref().filter(|_| !has_selinux()) {
            return missing("SELinux", label).in_field(process.field.of("selinuxLabel"));
        }
    }
    match mount_label.filter(|_| !has_selinux()) {
        Some(label) => missing("SELinux", label).in_field("linux.mountLabel"),
        None => Ok(()),
    }
}

/// The caller's procfs, to be opened before the container's files are entered.
#[derive(Debug)]
pub struct LabelWriter {
    proc: OwnedFd,
}

impl LabelWriter {
    /// Opens it where the process has a label.
    pub fn open(process: Option<&ProcessPlan>) -> Result<Option<Self>> {
        /// PROC_SUPER_MAGIC of linux/magic.h.
        const MAGIC: FsWord = 0x9fa0;
        let is_labelled = |process: &ProcessPlan| {
            process.apparmor_profile.is_some() || process.selinux_label.is_some()
        };
        if !process.is_some_and(is_labelled) {
            return Ok(None);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = openat(CWD, "/proc", flags, Mode::empty()).context("/proc")?;
        if fstatfs(&proc).context("statfs /proc")?.f_type != MAGIC {
            bail!("/proc: is no procfs");
        }
        Ok(Some(Self { proc }))
    }

    /// Lets the next execve(2) of this process enter its profile or label.
    pub fn label_program(&self, plan: &ProcessPlan) -> Result<()> {
        if let Some(profile) = &plan.apparmor_profile {
            self.write(&["apparmor/exec", "exec"], &format!("exec {profile}"))
                .with_context(|| format!("{profile:?}"))
                .in_field(plan.field.of("apparmorProfile"))?;
        }
        if let Some(label) = &plan.selinux_label {
            self.write(&["exec"], label)
                .with_context(|| format!("{label:?}"))
                .in_field(plan.field.of("selinuxLabel"))?;
        }
        Ok(())
    }

    /// Labels what `make` makes of keys as the program itself (attr/keycreate).
    pub fn label_keys(&self, plan: &ProcessPlan, make: impl FnOnce()) -> Result<()> {
        let Some(label) = &plan.selinux_label else {
            make();
            return Ok(());
        };
        let write = |text: &str| {
            self.write(&["keycreate"], text)
                .with_context(|| format!("{label:?}"))
                .in_field(plan.field.of("selinuxLabel"))
        };
        write(label)?;
        make();
        write("")
    }

    /// Writes to the first of these files that there is; the kernel takes a label whole.
    fn write(&self, names: &[&str], text: &str) -> Result<()> {
        for name in names {
            let path = format!("self/attr/{name}");
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            // A mount over it would not be the kernel's file.
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
            match openat2(&self.proc, path.as_str(), flags, Mode::empty(), resolve) {
                Err(Errno::NOENT) => {}
                file => {
                    let file = file.with_context(|| format!("open `/proc/{path}`"))?;
                    return match rustix::io::write(file, text.as_bytes()) {
                        Err(Errno::NOENT) => {
                            bail!("write `/proc/{path}`: there is no such profile")
                        }
                        written => {
                            written.with_context(|| format!("write `/proc/{path}`")).map(drop)
                        }
                    };
                }
            }
        }
        bail!("/proc/self/attr: has no {}", names.join(" and no "))
    }
}
