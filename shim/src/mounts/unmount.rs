//! Taking the root of a container away.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ferrun::apply::mountinfo;
use ferrun::resolve;
use rustix::fs::{AtFlags, CWD, FileType, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

/// How many mounts may lie on each other at one place.
const MOST: usize = 64;

/// Unmounts all that is mounted on `rootfs` and below it. That nothing is there is no error.
/// What somebody still uses goes with its last user.
///
/// # Errors
/// What the kernel refuses.
pub fn unmount_all(rootfs: &Path) -> Result<()> {
    for _ in 0..MOST {
        match look(rootfs)? {
            Found::Nothing => return Ok(()),
            // The usual case, without a look at all mounts of the machine.
            Found::Mount => match unmount(rootfs, UnmountFlags::NOFOLLOW) {
                Ok(()) => {}
                Err(Errno::BUSY) => return unmount_below(rootfs),
                Err(errno) => return Err(errno).with_context(|| format!("umount {rootfs:?}")),
            },
            Found::Directory => return unmount_below(rootfs),
        }
    }
    bail!("umount {rootfs:?}: there is always one more")
}

/// What is at the place of a root.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Nothing that a mount could be on.
    Nothing,
    /// A directory that has something in it, which may be mounts.
    Directory,
    /// The root of a mount.
    Mount,
}

fn look(rootfs: &Path) -> Result<Found> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = match statx(CWD, rootfs, flags, StatxFlags::TYPE) {
        Err(Errno::NOENT) => return Ok(Found::Nothing),
        stat => stat.with_context(|| format!("{rootfs:?}"))?,
    };
    if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(Found::Mount);
    }
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Directory {
        return Ok(Found::Nothing);
    }
    match std::fs::read_dir(rootfs) {
        Ok(mut entries) => Ok(entries.next().map_or(Found::Nothing, |_| Found::Directory)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(error).with_context(|| format!("{rootfs:?}")),
    }
}

/// Goes by the kernel's table, from below.
fn unmount_below(rootfs: &Path) -> Result<()> {
    let top = real(rootfs)?;
    // What is covered by another mount shows once that one has gone.
    for _ in 0..MOST {
        let table = std::fs::read("/proc/thread-self/mountinfo").context("mountinfo")?;
        let points = points_below(&table, &top)?;
        if points.is_empty() {
            return Ok(());
        }
        let mut gone = 0;
        for point in &points {
            match unmount_one(point) {
                Ok(()) => gone += 1,
                // Covered, or gone with another one.
                Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(errno).with_context(|| format!("umount {point:?}")),
            }
        }
        if gone == 0 {
            bail!("umount {:?}: it cannot be reached", points[0]);
        }
    }
    bail!("umount {rootfs:?}: there is always one more")
}

/// The path as the table has it: without links above it.
fn real(rootfs: &Path) -> Result<PathBuf> {
    let (Some(above), Some(name)) = (rootfs.parent(), rootfs.file_name()) else {
        bail!("{rootfs:?}: is no directory for a root");
    };
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    let above = resolve::real_path(above).with_context(|| format!("{above:?}"))?;
    Ok(above.join(name))
}

/// The points of all mounts at `top` and below it, the lowest first.
fn points_below(table: &[u8], top: &Path) -> Result<Vec<PathBuf>> {
    let table = mountinfo::parse(table).context("mountinfo")?;
    let mut points: Vec<PathBuf> =
        table.into_iter().map(|mount| mount.point).filter(|point| point.starts_with(top)).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    Ok(points)
}

/// Unmounts what is at a path in which a container may have had its hands: no link on the way is
/// followed. A handle on the mount itself would keep it in use, so it is one on what is above.
fn unmount_one(point: &Path) -> rustix::io::Result<()> {
    let (Some(above), Some(name)) = (point.parent(), point.file_name()) else {
        return Err(Errno::INVAL);
    };
    let root = resolve::root(Path::new("/"))?;
    let above = resolve::handle_without_links(&root, above)?;
    let path = Path::new(&resolve::own_path(&above)).join(name);
    match unmount(&path, UnmountFlags::NOFOLLOW) {
        Err(Errno::BUSY) => unmount(&path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_goes_first_and_neighbours_stay() {
        let line = |id, point: &str| format!("{id} 1 0:1 / {point} rw - tmpfs t rw\n");
        let table = [
            line(2, "/b/rootfs"),
            line(3, "/b/rootfs-too"),
            line(4, "/b/rootfs/a/b"),
            line(5, "/b/rootfs/c"),
            line(6, "/b/rootfs"),
            line(7, "/"),
        ];
        let points = points_below(table.concat().as_bytes(), Path::new("/b/rootfs")).unwrap();
        let expected = ["/b/rootfs/a/b", "/b/rootfs/c", "/b/rootfs", "/b/rootfs"];
        assert_eq!(points, expected.map(PathBuf::from));
    }

    #[test]
    fn where_nothing_is_there_is_nothing_to_do() {
        unmount_all(Path::new("/no/such/bundle/rootfs")).unwrap();
        assert_eq!(look(Path::new("/proc")).unwrap(), Found::Mount);
    }
}
