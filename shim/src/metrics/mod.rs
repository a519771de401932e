//! What a container uses, as containerd's Stats answers it: the CRI asks once a second for each.
//!
//! The files of the container's group are opened once. To open one takes ten times as long as to
//! read it, and there are thirty; the kernel keeps a page for each that is open, so of many
//! containers only the first ones' stay so. A group that has gone counts nothing.

pub mod messages;
mod v1;
mod v2;

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use ferrun::plan::cgroup::{Group, Version};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::pread;

use crate::messages::Any;

/// How many files the whole process holds open at most, of all containers.
const MOST_HELD: usize = 2048;
/// As much as all but the longest files have.
const USUAL: usize = 8192;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// What reads what a container uses.
#[derive(Debug)]
pub struct Meter(Kind);

#[derive(Debug)]
enum Kind {
    V1(v1::Meter),
    V2(v2::Meter),
    /// No group: nothing is counted.
    None,
}

impl Meter {
    /// For a container with this group. Of a machine with both versions it reads version 1, as
    /// containerd does.
    pub fn new(group: &Group) -> Self {
        let is_v1 = group.directories.iter().any(|found| {
            found.version == Version::V1 && !found.controllers.iter().all(|name| name.contains('='))
        });
        Self(match group.unified() {
            _ if is_v1 => Kind::V1(v1::Meter::new(group)),
            Some(directory) => Kind::V2(v2::Meter::new(&directory.path)),
            None => Kind::None,
        })
    }

    /// Reads them now. None: there is no group.
    pub fn read(&mut self) -> Option<Any> {
        match &mut self.0 {
            Kind::V1(meter) => Some(Any::of("io.containerd.cgroups.v1.Metrics", &meter.read())),
            Kind::V2(meter) => Some(Any::of("io.containerd.cgroups.v2.Metrics", &meter.read())),
            Kind::None => None,
        }
    }
}

/// What a file adds to the metrics `M`, by its text.
type Fill<M> = fn(&mut M, &str);

/// A file that is read each time.
#[derive(Debug)]
struct File {
    directory: PathBuf,
    name: Cow<'static, str>,
    held: Option<Held>,
}

/// A descriptor that counts as one of the process.
#[derive(Debug)]
struct Held(OwnedFd);

impl Held {
    fn new(file: OwnedFd) -> Option<Self> {
        let held = Self(file);
        (HELD.fetch_add(1, Ordering::Relaxed) < MOST_HELD).then_some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.fetch_sub(1, Ordering::Relaxed);
    }
}

impl File {
    /// None: the kernel has no such file.
    fn find(directory: &Path, name: impl Into<Cow<'static, str>>) -> Option<Self> {
        let mut file = Self { directory: directory.to_owned(), name: name.into(), held: None };
        let opened = file.open()?;
        file.held = Held::new(opened);
        Some(file)
    }

    fn open(&self) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        openat(CWD, self.directory.join(&*self.name), flags, Mode::empty()).ok()
    }

    /// Its text, in `buffer`. None: the group has gone.
    fn read<'a>(&self, buffer: &'a mut Vec<u8>) -> Option<&'a str> {
        let opened = if self.held.is_none() { self.open() } else { None };
        let file = self.held.as_ref().map(|held| &held.0).or(opened.as_ref())?;
        loop {
            let length = pread(file, &mut buffer[..], 0).ok()?;
            if length < buffer.len() {
                return std::str::from_utf8(&buffer[..length]).ok();
            }
            buffer.resize(length * 2, 0);
        }
    }
}

/// A number as the kernel writes it; what is none, as a limit of `-1`, is 0.
fn number(text: &str) -> u64 {
    text.trim_end().parse().unwrap_or(0)
}

/// Lines of a word and a number.
fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| line.split_once(' ')).map(|(key, value)| (key, number(value)))
}

/// The sizes of huge pages that the kernel has, as names of files have them: `2MB`.
fn page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| page_size(&name)).collect()
}

/// `hugepages-2048kB` is `2MB`.
fn page_size(name: &str) -> Option<String> {
    let mut size: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    let mut units = ["KB", "MB", "GB"].into_iter();
    let mut unit = units.next()?;
    while size >= 1024 && size.is_multiple_of(1024) {
        let Some(next) = units.next() else { break };
        (size, unit) = (size / 1024, next);
    }
    Some(format!("{size}{unit}"))
}

/// Lines such as `mlx4_0 hca_handle=2 hca_object=max`: device, handles, objects.
fn rdma(text: &str) -> impl Iterator<Item = (String, u32, u32)> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let device = words.next()?.to_owned();
        let mut counts = [0, 0];
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let value = if value == "max" { u32::MAX } else { value.parse().unwrap_or(0) };
            match key {
                "hca_handle" => counts[0] = value,
                "hca_object" => counts[1] = value,
                _ => {}
            }
        }
        Some((device, counts[0], counts[1]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_kernel_are_numbers() {
        assert_eq!([number("12\n"), number("max\n"), number("-1\n")], [12, 0, 0]);
        assert_eq!(pairs("a 1\nb 2\nodd\n").collect::<Vec<_>>(), [("a", 1), ("b", 2)]);
        let sizes = ["hugepages-64kB", "hugepages-2048kB", "hugepages-1048576kB", "other"];
        let sizes: Vec<_> = sizes.into_iter().filter_map(page_size).collect();
        assert_eq!(sizes, ["64KB", "2MB", "1GB"]);
        let found: Vec<_> = rdma("mlx4_0 hca_handle=2 hca_object=max\n").collect();
        assert_eq!(found, [("mlx4_0".to_owned(), 2, u32::MAX)]);
    }

    #[test]
    fn a_container_without_a_group_counts_nothing() {
        assert_eq!(Meter::new(&Group::default()).read(), None);
    }

    #[test]
    fn a_file_that_is_longer_than_usual_is_read_whole() {
        let path = std::env::temp_dir().join(format!("shim-metrics-{}", std::process::id()));
        std::fs::write(&path, "x".repeat(3 * USUAL)).unwrap();
        let file = File::find(Path::new("/"), path.to_str().unwrap()[1..].to_owned()).unwrap();
        let mut buffer = vec![0; USUAL];
        assert_eq!(file.read(&mut buffer).unwrap().len(), 3 * USUAL);
        std::fs::remove_file(&path).unwrap();
        let before = HELD.load(Ordering::Relaxed);
        drop(file);
        assert_eq!(HELD.load(Ordering::Relaxed), before - 1);
    }
}
