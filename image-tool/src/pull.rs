//! `image-tool pull`: the steps, in their order.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::Mode;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::cli::Pull;
use crate::convert::{Facts, convert};
use crate::digest::Digest;
use crate::manifest::{Descriptor, ImageConfig, Manifest};
use crate::pipe;
use crate::platform::Platform;
use crate::progress::{Outcome, Progress};
use crate::reference::Reference;
use crate::registry::auth::Credentials;
use crate::registry::login;
use crate::rootfs::Rootfs;
use crate::seccomp::{Choice, Kernel, Machine, Profile};
use crate::source::Source;
use crate::target::Target;
use crate::users::{self, Database, User};
use crate::{layer, limits};

/// Layers on their way at once: the one that is unpacked, and those after it.
const LAYERS_AT_ONCE: usize = 4;
/// statfs(2): the type of a cgroup v2 mount.
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// Pulls an image into a bundle. On error there is no trace of it.
pub fn pull(arguments: &Pull, progress: &Arc<Progress>) -> Result<()> {
    // Modes are set by the image alone.
    rustix::process::umask(Mode::empty());
    let reference = &arguments.reference;
    let platform = arguments.platform.clone().unwrap_or_else(Platform::host);
    let profile = profile(&arguments.seccomp)?;
    let credentials = credentials(arguments)?;
    let target = Target::new(&arguments.bundle)?;

    let source = Source::open(reference, arguments.plain_http, credentials)?;
    let resolved = source.resolve(reference, &platform)?;
    let Manifest { config, layers } = resolved.manifest;
    let size = layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size));
    progress.found(&reference.to_string(), &resolved.digest.to_string(), layers.len(), size);
    let image = source
        .small_blob(&config, limits::CONFIG_BYTES)
        .and_then(|bytes| ImageConfig::parse(&bytes, layers.len(), &platform))
        .with_context(|| format!("image configuration {}", config.digest))?;

    let allowance = arguments.max_unpacked.saturating_mul(1 << 20);
    let mut rootfs = Rootfs::new(target.rootfs()?, allowance)?;
    unpack(&Arc::new(source), &layers, &image.rootfs.diff_ids, &mut rootfs, progress)?;
    let unpacked = allowance - rootfs.allowance();

    let host = Platform::host();
    let facts = facts(arguments, profile.as_ref(), &host)?;
    let converted = convert(&image, &user(&image.config.user, &rootfs)?, facts);
    target.write_config(&converted.config)?;
    let omitted = rootfs.finish()?;
    let bundle = target.keep()?;

    omitted.warnings().chain(converted.warnings).for_each(|warning| progress.warning(&warning));
    let digest = resolved.digest.to_string();
    progress.done(&Outcome { digest, size, unpacked, bundle: bundle.display().to_string() });
    Ok(())
}

/// Applies the layers in their order, while those to come are under way.
fn unpack(
    source: &Arc<Source>,
    layers: &[Descriptor],
    diff_ids: &[Digest],
    rootfs: &mut Rootfs,
    progress: &Arc<Progress>,
) -> Result<()> {
    let mut waiting = layers.iter().zip(diff_ids);
    let mut under_way: VecDeque<pipe::Reader> = VecDeque::new();
    for (index, described) in layers.iter().enumerate() {
        for (layer, diff_id) in waiting.by_ref().take(LAYERS_AT_ONCE - under_way.len()) {
            under_way.push_back(layer::start(source, layer, diff_id, progress)?);
        }
        let digest = described.digest.to_string();
        let archive = under_way.pop_front().context("fewer layers than described")?;
        progress.unpacking(index, layers.len());
        let applied = rootfs.apply(archive).and_then(|mut rest| {
            let drained = layer::drain(&mut rest, rootfs.allowance())?;
            rootfs.spend(drained);
            Ok(())
        });
        applied.with_context(|| format!("layer {} of {} ({digest})", index + 1, layers.len()))?;
        progress.unpacked(index, layers.len(), &digest);
    }
    Ok(())
}

fn credentials(arguments: &Pull) -> Result<Option<Credentials>> {
    let Reference::Registry(image) = &arguments.reference else { return Ok(None) };
    let Some(given) = &arguments.creds else { return login::stored(&image.domain) };
    if let Some((user, password)) = given.split_once(':') {
        return Credentials::new(user, password).map(Some);
    }
    let line = read_secret().context("--creds: standard input")?;
    let (user, password) = match given.as_str() {
        "-" => line.split_once(':').context("--creds -: standard input is not USER:PASS")?,
        user => (user, line.as_str()),
    };
    ensure!(!password.is_empty(), "--creds: no password on standard input");
    Credentials::new(user, password).map(Some)
}

/// A line of standard input; a terminal does not show it.
fn read_secret() -> Result<String> {
    let terminal = tcgetattr(io::stdin()).ok();
    if let Some(shown) = &terminal {
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        let _ = write!(io::stderr(), "Password: ");
    }
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    if let Some(shown) = &terminal {
        tcsetattr(io::stdin(), OptionalActions::Flush, shown)?;
        let _ = writeln!(io::stderr());
    }
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn user(user: &str, rootfs: &Rootfs) -> Result<User> {
    if user.is_empty() {
        return Ok(User::default());
    }
    let read = |path: &str| -> Result<Vec<u8>> {
        Ok(rootfs.read(Path::new(path), limits::USER_DATABASE_BYTES)?.unwrap_or_default())
    };
    users::find(user, Database { passwd: &read("etc/passwd")?, group: &read("etc/group")? })
}

/// What the seccomp filter is made from.
fn profile(choice: &Choice) -> Result<Option<Profile>> {
    let file = match choice {
        Choice::None => return Ok(None),
        Choice::Docker => return Profile::docker().map(Some),
        Choice::File(file) => file,
    };
    let read = || -> Result<Profile> {
        let mut text = String::new();
        File::open(file)?.take(limits::PROFILE_BYTES + 1).read_to_string(&mut text)?;
        let longest = limits::PROFILE_BYTES;
        ensure!(text.len() as u64 <= longest, "longer than {longest} bytes");
        Profile::parse(&text)
    };
    read().with_context(|| format!("--seccomp: {file:?}")).map(Some)
}

fn facts<'a>(
    arguments: &'a Pull,
    seccomp: Option<&'a Profile>,
    host: &'a Platform,
) -> Result<Facts<'a>> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let cgroup_v2 =
        rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|stat| stat.f_type == CGROUP2_SUPER_MAGIC);
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let kernel = Kernel::of_release(&release);
    let kernel = kernel.with_context(|| format!("the kernel's release {release:?}"))?;
    Ok(Facts {
        rootless: (!uid.is_root()).then_some((uid.as_raw(), gid.as_raw())),
        cgroup_v2,
        terminal: arguments.tty,
        capabilities: arguments.caps,
        command: &arguments.command,
        seccomp,
        machine: Machine { architecture: &host.architecture, kernel },
    })
}
