//! What containerd asks for as steps of the runtime: the words of fstab, and what only
//! containerd's mounts have.

use anyhow::{Result, bail};
use ferrun::error::InField as _;
use ferrun::plan::mounts::{Bind, FileSystem, MountKind, MountStep, Opener, Origin};
use ferrun::plan::namespaces::{IdMaps, IdRange};
use ferrun::plan::options::MountOptions;

use crate::messages::Mount;

/// As much as mount(2) takes of parameters: a page, with its last byte.
const PAGE: usize = 4095;
/// As much as fsconfig(2) takes of one.
const PARAMETER: usize = 255;

/// What the plan depends on besides what is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// Whether an overlay takes its layers one by one (`lowerdir+`), since Linux 6.7: then no list
    /// of them is too long.
    pub adds_layers: bool,
}

/// One mount.
#[derive(Debug, PartialEq, Eq)]
pub struct Planned {
    /// What the runtime does with it.
    pub step: MountStep,
    /// Where the tree comes from.
    pub tree: Tree,
    /// The source is a file that is mounted as if it were a disk.
    pub disk: Option<Disk>,
}

/// Where the tree of a step comes from.
#[derive(Debug, PartialEq, Eq)]
pub enum Tree {
    /// The step makes it.
    Own,
    /// The bind of the step shows other ids.
    Mapped(IdMaps),
    /// It is made in another mount namespace.
    Apart(Apart),
    /// A program of the system mounts it, whose name this is.
    Helper {
        /// The program.
        program: &'static str,
        /// The type that it is told.
        fstype: String,
        /// Its words.
        options: Vec<String>,
    },
}

/// A file system that takes more than the calls of the runtime: layers or a whole with other ids,
/// or more layers than the kernel takes by their names. Where it is made its layers have short ones.
#[derive(Debug, PartialEq, Eq)]
pub struct Apart {
    /// Its type, source, switches and parameters, those of its layers left out.
    pub file_system: FileSystem,
    /// The layers of an overlay, from the uppermost.
    pub layers: Vec<Layer>,
    /// The ids: of the layers, else of the whole.
    pub ids: Option<IdMaps>,
}

/// A layer that is only read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The directory.
    pub path: String,
    /// It has contents that the layers above it name, and no names of its own.
    pub data_only: bool,
}

/// How a file becomes a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Nothing can be written.
    pub read_only: bool,
    /// It is read past the page cache.
    pub direct: bool,
}

/// Plans all mounts in their order.
pub fn plan(mounts: &[Mount], kernel: Kernel) -> Result<Vec<Planned>> {
    mounts.iter().enumerate().map(|(at, mount)| plan_one(at, mount, kernel)).collect()
}

fn plan_one(at: usize, mount: &Mount, kernel: Kernel) -> Result<Planned> {
    let field = Origin::Rootfs(at);
    for (property, text) in [("type", &mount.r#type), ("source", &mount.source)] {
        if text.contains('\0') {
            bail!("{}: {text:?}: has a NUL", field.of(property));
        }
    }
    let helper = [("fuse3.", "mount.fuse3"), ("fuse.", "mount.fuse")]
        .into_iter()
        .find_map(|(prefix, program)| Some((mount.r#type.strip_prefix(prefix)?, program)));
    let mut planned = match helper {
        Some((fstype, program)) => {
            let (fstype, options) = (fstype.to_owned(), mount.options.clone());
            let tree = Tree::Helper { program, fstype, options };
            Planned { step: step(field, bind_of(mount, false)), tree, disk: None }
        }
        None => mounted(field, mount, kernel).in_field(field.of("options"))?,
    };
    planned.step.target = format!("/{}", mount.target.trim_start_matches('/')).into();
    Ok(planned)
}

fn mounted(field: Origin, mount: &Mount, kernel: Kernel) -> Result<Planned> {
    let Words { plain, ids, disk } = Words::read(&mount.options)?;
    let options = MountOptions::parse(&plain)?;
    if let Some(warning) = options.warnings.first() {
        bail!("{warning}");
    }
    if options.remount {
        bail!("\"remount\": nothing is mounted yet");
    }
    if options.copy_up || options.id_mapped.is_some() {
        bail!("a word of a container's mounts, not of its root's");
    }
    let (kind, tree) = match options.bind {
        Some(recursive) if disk.is_none() => bind(mount, recursive, ids),
        Some(_) => bail!("\"loop\": has no meaning on a bind mount"),
        None => new(mount, &options, ids, kernel)?,
    };
    let mut step = step(field, kind);
    step.attributes = options.attributes;
    step.recursive = options.recursive;
    step.propagation = options.propagation;
    Ok(Planned { step, tree, disk })
}

/// The words that the runtime's mounts have, and the others.
#[derive(Default)]
struct Words {
    plain: Vec<String>,
    ids: Option<IdMaps>,
    disk: Option<Disk>,
}

impl Words {
    fn read(options: &[String]) -> Result<Self> {
        let (mut words, mut uids, mut gids) = (Self::default(), None, None);
        let is_loop = options.iter().any(|word| word == "loop");
        let mut disk = Disk { read_only: false, direct: false };
        for word in options {
            match word.split_once('=').unwrap_or((word, "")) {
                _ if word.contains('\0') => bail!("{word:?}: has a NUL"),
                _ if word.starts_with("X-containerd.") => bail!("{word:?}: containerd's own"),
                ("loop", "") => {}
                ("direct-io", "") if is_loop => disk.direct = true,
                ("uidmap", ranges) => uids = Some(ranges_of(word, ranges)?),
                ("gidmap", ranges) => gids = Some(ranges_of(word, ranges)?),
                _ => {
                    match word.as_str() {
                        "ro" => disk.read_only = true,
                        "rw" => disk.read_only = false,
                        _ => {}
                    }
                    words.plain.push(word.clone());
                }
            }
        }
        words.disk = is_loop.then_some(disk);
        words.ids = match (uids, gids) {
            (None, None) => None,
            (Some(uids), Some(gids)) => Some(IdMaps { uids, gids }),
            _ => bail!("\"uidmap\" and \"gidmap\": neither is without the other"),
        };
        Ok(words)
    }
}

/// Ranges such as `0:100000:65536`, separated by commas: inside, outside, how many.
fn ranges_of(word: &str, ranges: &str) -> Result<Vec<IdRange>> {
    let range = |text: &str| {
        let mut numbers = text.split(':').map(str::parse);
        let range = IdRange {
            inside: numbers.next()?.ok()?,
            outside: numbers.next()?.ok()?,
            size: numbers.next()?.ok()?,
        };
        numbers.next().is_none().then_some(range)
    };
    match ranges.split(',').map(range).collect() {
        Some(ranges) => Ok(ranges),
        None => bail!("{word:?}: a range is INSIDE:OUTSIDE:SIZE"),
    }
}

fn bind(mount: &Mount, recursive: bool, ids: Option<IdMaps>) -> (MountKind, Tree) {
    match ids {
        None => (bind_of(mount, recursive), Tree::Own),
        Some(ids) => (handed_over(mount, recursive), Tree::Mapped(ids)),
    }
}

fn bind_of(mount: &Mount, recursive: bool) -> MountKind {
    let source = mount.source.as_str().into();
    MountKind::Bind(Bind { source, recursive, opener: Opener::Init, ids: None })
}

/// A bind whose tree is handed to the runtime.
fn handed_over(mount: &Mount, recursive: bool) -> MountKind {
    let source = mount.source.as_str().into();
    MountKind::Bind(Bind { source, recursive, opener: Opener::Creator, ids: None })
}

fn new(
    mount: &Mount,
    options: &MountOptions,
    ids: Option<IdMaps>,
    kernel: Kernel,
) -> Result<(MountKind, Tree)> {
    let mut file_system = FileSystem {
        fstype: mount.r#type.clone(),
        source: mount.source.clone(),
        switches: options.superblock.clone(),
        data: options.data.iter().map(|word| parameter(word)).collect(),
        ..FileSystem::default()
    };
    let mut layers = Vec::new();
    if file_system.fstype == "overlay" {
        let at = file_system.data.iter().position(|(key, _)| key == "lowerdir");
        if let Some((_, Some(list))) = at.map(|at| file_system.data.remove(at)) {
            layers = layers_of(&list)?;
            let place = at.unwrap_or_default();
            match listed(&file_system.data, &list, &layers, kernel) {
                Some(listed) if ids.is_none() => {
                    file_system.data.splice(place..place, listed);
                    return Ok((MountKind::New(file_system), Tree::Own));
                }
                _ => {}
            }
        }
    }
    if ids.is_none() && layers.is_empty() {
        return Ok((MountKind::New(file_system), Tree::Own));
    }
    Ok((handed_over(mount, false), Tree::Apart(Apart { file_system, layers, ids })))
}

/// The layers as parameters; None where they are too long for every call. `others` are the
/// overlay's other parameters: of those that fsconfig(2) takes none is long.
fn listed(
    others: &[(String, Option<String>)],
    list: &str,
    layers: &[Layer],
    kernel: Kernel,
) -> Option<Vec<(String, Option<String>)>> {
    let length = |(key, value): &(String, Option<String>)| {
        key.len() + 1 + value.as_ref().map_or(0, |value| value.len() + 1)
    };
    let short = |text: &str| text.len() <= PARAMETER;
    let others_are_short = others.iter().all(|(_, value)| value.as_deref().is_none_or(short));
    if kernel.adds_layers && others_are_short && layers.iter().all(|layer| short(&layer.path)) {
        let key = |layer: &Layer| if layer.data_only { "datadir+" } else { "lowerdir+" };
        let one = |layer: &Layer| (key(layer).to_owned(), Some(layer.path.clone()));
        return Some(layers.iter().map(one).collect());
    }
    let whole = others.iter().map(length).sum::<usize>() + "lowerdir=".len() + list.len();
    (whole <= PAGE).then(|| vec![("lowerdir".to_owned(), Some(list.to_owned()))])
}

fn parameter(word: &str) -> (String, Option<String>) {
    match word.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (word.to_owned(), None),
    }
}

/// The list of `lowerdir`: separated by colons, and by two before one of contents alone. A
/// backslash takes the meaning from what follows it.
fn layers_of(list: &str) -> Result<Vec<Layer>> {
    let mut layers = vec![Layer { path: String::new(), data_only: false }];
    let mut signs = list.chars().peekable();
    while let Some(sign) = signs.next() {
        let sign = match sign {
            ':' => {
                let data_only = signs.next_if_eq(&':').is_some();
                layers.push(Layer { path: String::new(), data_only });
                continue;
            }
            '\\' => signs.next().unwrap_or('\\'),
            sign => sign,
        };
        if let Some(layer) = layers.last_mut() {
            layer.path.push(sign);
        }
    }
    if layers.iter().any(|layer| layer.path.is_empty()) {
        bail!("\"lowerdir={list}\": a layer without a name");
    }
    Ok(layers)
}

fn step(field: Origin, kind: MountKind) -> MountStep {
    MountStep {
        field,
        target: "/".into(),
        kind,
        attributes: Default::default(),
        recursive: Default::default(),
        unnamed: 0,
        is_locked: false,
        propagation: Vec::new(),
        ends_read_only: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Kernel = Kernel { adds_layers: true };
    const OLD: Kernel = Kernel { adds_layers: false };
    const READ_ONLY: u64 = 1;

    fn mount(fstype: &str, source: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|word| (*word).to_owned()).collect();
        Mount { r#type: fstype.into(), source: source.into(), target: String::new(), options }
    }

    fn one(kernel: Kernel, mount: Mount) -> Planned {
        plan(&[mount], kernel).unwrap().remove(0)
    }

    fn refused(mount: Mount) -> String {
        format!("{:#}", plan(&[mount], NEW).unwrap_err())
    }

    fn data(planned: &Planned) -> Vec<String> {
        let file_system = match (&planned.step.kind, &planned.tree) {
            (MountKind::New(file_system), Tree::Own) => file_system,
            (_, Tree::Apart(apart)) => &apart.file_system,
            other => panic!("{other:?}"),
        };
        let word = |(key, value): &(String, Option<String>)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        };
        file_system.data.iter().map(word).collect()
    }

    #[test]
    fn layers_go_one_by_one_where_the_kernel_takes_them_so() {
        let options = ["index=off", "workdir=/w", "upperdir=/u", r"lowerdir=/a:/b\:c::/d"];
        let ask = || mount("overlay", "overlay", &options);
        let rest = ["index=off", "workdir=/w", "upperdir=/u"];
        let layers = ["lowerdir+=/a", "lowerdir+=/b:c", "datadir+=/d"];
        assert_eq!(data(&one(NEW, ask())), [&rest[..], &layers].concat());
        assert_eq!(data(&one(OLD, ask())), options);
    }

    #[test]
    fn a_list_of_more_than_a_page_is_made_apart_by_older_kernels() {
        let list: Vec<String> = (0..100).map(|at| format!("/var/lib/layers/{at:040}/fs")).collect();
        let options = ["upperdir=/u", "workdir=/w", &format!("lowerdir={}", list.join(":"))];
        assert_eq!(data(&one(NEW, mount("overlay", "overlay", &options))).len(), 102);
        let planned = one(OLD, mount("overlay", "overlay", &options));
        assert_eq!(data(&planned), ["upperdir=/u", "workdir=/w"]);
        let Tree::Apart(Apart { layers, ids: None, .. }) = planned.tree else { panic!() };
        assert_eq!(layers.len(), 100);
        assert_eq!(layers[99], Layer { path: list[99].clone(), data_only: false });
        // Just a page is none too many.
        let long = |length| {
            let list = format!("lowerdir=/{}", "x".repeat(length - "lowerdir=/".len()));
            matches!(one(OLD, mount("overlay", "overlay", &[&list])).tree, Tree::Own)
        };
        assert_eq!((long(4095), long(4096)), (true, false));
    }

    #[test]
    fn mapped_layers_are_made_apart_and_a_mapped_bind_is_handed_over() {
        let ids = ["uidmap=0:200000:10,10:5:1", "gidmap=0:300000:10"];
        let planned = one(NEW, mount("overlay", "overlay", &["lowerdir=/a", ids[0], ids[1], "ro"]));
        assert_eq!(planned.step.attributes.set, READ_ONLY);
        let Tree::Apart(apart) = planned.tree else { panic!() };
        let range = |inside, outside, size| IdRange { inside, outside, size };
        let maps = IdMaps {
            uids: vec![range(0, 200_000, 10), range(10, 5, 1)],
            gids: vec![range(0, 300_000, 10)],
        };
        assert_eq!((apart.ids, apart.layers.len()), (Some(maps.clone()), 1));
        let planned = one(NEW, mount("bind", "/a", &["rbind", ids[0], ids[1]]));
        assert_eq!(planned.tree, Tree::Mapped(maps));
        let MountKind::Bind(bind) = planned.step.kind else { panic!() };
        assert_eq!((bind.recursive, bind.opener), (true, Opener::Creator));
        let planned = one(NEW, mount("erofs", "/dev/x", &ids));
        assert!(matches!(planned.tree, Tree::Apart(Apart { layers, .. }) if layers.is_empty()));
    }

    #[test]
    fn a_bind_keeps_what_its_source_brings_along() {
        let attributes = |words: &[&str]| {
            let step = one(NEW, mount("bind", "/a", words)).step;
            (step.attributes.set, step.attributes.clear)
        };
        assert_eq!(attributes(&["rbind", "ro"]), (READ_ONLY, 0));
        // The source may be locked, or on a file system that is mounted so.
        assert_eq!(attributes(&["rbind", "rw"]), (0, 0));
        let step = one(NEW, mount("bind", "/a", &["bind", "rshared"])).step;
        assert_eq!(step.propagation, [(libc::MS_SHARED, true)]);
    }

    #[test]
    fn a_file_is_a_disk_and_its_words_are_not_the_file_systems() {
        let disk = |words: &[&str]| one(NEW, mount("erofs", "/layer", words)).disk;
        assert_eq!(disk(&["ro"]), None);
        assert_eq!(disk(&["ro", "loop"]), Some(Disk { read_only: true, direct: false }));
        assert_eq!(disk(&["loop", "direct-io"]), Some(Disk { read_only: false, direct: true }));
        let planned = one(NEW, mount("erofs", "/layer", &["loop", "direct-io", "user_xattr"]));
        assert_eq!(data(&planned), ["user_xattr"]);
        // Without a disk it may be a word of the file system.
        assert_eq!(data(&one(NEW, mount("x", "/layer", &["direct-io"]))), ["direct-io"]);
    }

    #[test]
    fn a_type_of_fuse_goes_to_its_helper_and_a_target_is_below_the_root() {
        let mut ask = mount("fuse3.fuse-overlayfs", "overlay", &["lowerdir=/a"]);
        ask.target = "below/here".into();
        let planned = one(NEW, ask);
        assert_eq!(planned.step.target.as_os_str(), "/below/here");
        let Tree::Helper { program, fstype, options } = planned.tree else { panic!() };
        assert_eq!((program, fstype.as_str()), ("mount.fuse3", "fuse-overlayfs"));
        assert_eq!(options, ["lowerdir=/a"]);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_its_field() {
        for (words, why) in [
            (&["X-containerd.mkdir=x"][..], r#""X-containerd.mkdir=x": containerd's own"#),
            (&["remount"], r#""remount": nothing is mounted yet"#),
            (&["bind", "bogus"], r#""bogus": unknown on a bind mount"#),
            (&["bind", "size=1"], r#""size=1" has no meaning on a bind mount"#),
            (&["bind", "loop"], r#""loop": has no meaning on a bind mount"#),
            (&["uidmap=0:1:1"], r#""uidmap" and "gidmap": neither is without the other"#),
            (&["uidmap=0:1"], r#""uidmap=0:1": a range is INSIDE:OUTSIDE:SIZE"#),
            (&["gidmap=0:1:1:1"], r#""gidmap=0:1:1:1": a range is INSIDE:OUTSIDE:SIZE"#),
            (&["uidmap=-1:1:1"], r#""uidmap=-1:1:1": a range is INSIDE:OUTSIDE:SIZE"#),
            (&["lowerdir=/a:"], r#""lowerdir=/a:": a layer without a name"#),
            (&["x=\0"], r#""x=\0": has a NUL"#),
            (&["tmpcopyup"], "a word of a container's mounts, not of its root's"),
        ] {
            let error = refused(mount("overlay", "x", words));
            assert_eq!(error, format!("rootfs[0].options: {why}"));
        }
        assert_eq!(refused(mount("ext4", "\0", &[])), r#"rootfs[0].source: "\0": has a NUL"#);
    }
}
