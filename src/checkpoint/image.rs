//! The directory of an image, and the one of CRIU's logs.
//!
//! CRIU reads an image as root and believes it. So nobody but root or the caller may be able to
//! change what is in it, and the image before, of which it holds only the changes, has to lie
//! beside it. What is checked is held by a descriptor.

use std::fs::{DirBuilder, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, readlinkat,
    statat,
};
use rustix::io::Errno;

use crate::plan::checkpoint::image::{
    DESCRIPTORS, INVENTORY, LONGEST, MOST_PARENTS, PARENT, check_parent, descriptors,
};
use crate::resolve::real_path;

/// A directory that nobody else can write to.
#[derive(Debug)]
pub struct Directory {
    /// By its path, without links.
    pub path: PathBuf,
    opened: OwnedFd,
}

impl Directory {
    /// Makes it for its owner alone, with what is missing above, where it is not there.
    pub fn make(path: &Path) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.with_context(|| format!("mkdir {path:?}"))?;
        Self::open(path)
    }

    /// One that is there.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || -> Result<Self> {
            let path = real_path(path)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&path, flags, Mode::empty())?;
            refuse_writable(&fstat(&opened)?)?;
            Ok(Self { path, opened })
        };
        open().with_context(|| format!("{path:?}"))
    }

    /// The same directory as it is in another mount namespace, that of the calling thread.
    pub fn again(&self) -> Result<Self> {
        let again = Self::open(&self.path)?;
        let is_same = |a: Stat, b: Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
        ensure!(
            is_same(fstat(&self.opened)?, fstat(&again.opened)?),
            "{:?}: is another",
            self.path
        );
        Ok(again)
    }

    /// Its number, by which CRIU finds it.
    pub fn number(&self) -> i32 {
        self.opened.as_raw_fd()
    }

    /// The directory.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.opened.as_fd()
    }

    /// Writes what the first three descriptors were.
    pub fn write_descriptors(&self, descriptors: &[String]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(0o600);
        let write = || -> Result<()> {
            let file = openat(&self.opened, DESCRIPTORS, flags | OFlags::CLOEXEC, mode)?;
            Ok(File::from(file).write_all(&serde_json::to_vec(descriptors)?)?)
        };
        write().with_context(|| format!("write {:?}", self.path.join(DESCRIPTORS)))
    }

    /// Refuses what is no image, or one that somebody else can change.
    pub fn check(&self) -> Result<()> {
        let missing = |_| format!("{:?}: is no image: it has no {INVENTORY}", self.path);
        statat(&self.opened, INVENTORY, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| anyhow::Error::new(errno).context(missing(errno)))?;
        let mut next = check_files(self.as_fd()).with_context(|| format!("{:?}", self.path))?;
        for _ in 0..MOST_PARENTS {
            let Some(parent) = next else { return Ok(()) };
            next = check_files(parent.as_fd())
                .with_context(|| format!("{:?}: {PARENT}", self.path))?;
        }
        bail!("{:?}: {PARENT}: more than {MOST_PARENTS} images", self.path)
    }

    /// What the first three descriptors were, as whoever made the image has written it.
    pub fn descriptors(&self) -> Result<Vec<String>> {
        let read = || -> Result<Vec<String>> {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = File::from(openat(&self.opened, DESCRIPTORS, flags, Mode::empty())?);
            let mut text = Vec::new();
            file.take(LONGEST + 1).read_to_end(&mut text)?;
            ensure!(text.len() as u64 <= LONGEST, "{DESCRIPTORS}: longer than {LONGEST} bytes");
            descriptors(&text)
        };
        read().with_context(|| format!("{:?}", self.path.join(DESCRIPTORS)))
    }
}

/// Looks at all that CRIU may read. Returns the image before, if there is one.
fn check_files(image: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let mut parent = None;
    for entry in Dir::read_from(image).context("list it")? {
        let name = entry.context("list it")?.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let found = statat(image, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(found.st_mode) {
            // A server of pages listens beside it.
            FileType::RegularFile | FileType::Directory | FileType::Socket => {
                refuse_writable(&found).with_context(|| format!("{name:?}"))?;
            }
            FileType::Symlink if name.to_bytes() == PARENT.as_bytes() => {
                refuse_foreign(&found).context(PARENT)?;
                parent = Some(open_parent(image).context(PARENT)?);
            }
            _ => bail!("{name:?}: is no file"),
        }
    }
    Ok(parent)
}

fn open_parent(image: BorrowedFd<'_>) -> Result<OwnedFd> {
    let link = readlinkat(image, PARENT, Vec::new())?.into_bytes();
    let path = PathBuf::from(std::ffi::OsString::from_vec(link));
    check_parent(&path)?;
    // No link on the way leads elsewhere.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = openat2(image, &path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).map_err(
        |errno| match errno {
            Errno::LOOP => anyhow::anyhow!("{path:?}: leads over another link"),
            errno => anyhow::Error::new(errno).context(format!("{path:?}")),
        },
    )?;
    refuse_writable(&fstat(&parent)?).with_context(|| format!("{path:?}"))?;
    Ok(parent)
}

fn refuse_foreign(found: &Stat) -> Result<()> {
    let own = rustix::process::geteuid().as_raw();
    ensure!(found.st_uid == 0 || found.st_uid == own, "belongs to user {}", found.st_uid);
    Ok(())
}

fn refuse_writable(found: &Stat) -> Result<()> {
    refuse_foreign(found)?;
    ensure!(
        found.st_mode & 0o022 == 0,
        "can be written by others (mode {:o})",
        found.st_mode & 0o7777
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::error::message;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let place = std::env::temp_dir().join(format!("ferrun-{name}-{}", std::process::id()));
            fs::create_dir(&place).unwrap();
            Self(real_path(&place).unwrap())
        }

        fn image(&self, name: &str) -> Directory {
            let image = Directory::make(&self.0.join(name)).unwrap();
            fs::write(image.path.join(INVENTORY), "x").unwrap();
            image
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn an_image_is_its_owners_alone_and_whole() {
        let place = Place::new("image");
        let image = place.image("a");
        assert_eq!(fs::metadata(&image.path).unwrap().permissions().mode() & 0o777, 0o700);
        image.check().unwrap();
        image.write_descriptors(&["pipe:[1]".into()]).unwrap();
        assert_eq!(image.descriptors().unwrap(), ["pipe:[1]"]);
        let file = image.path.join("pages-1.img");
        fs::write(&file, "x").unwrap();
        for wrong in [0o620, 0o602] {
            mode(&file, wrong);
            let error = message(&image.check().unwrap_err());
            assert!(error.contains("pages-1.img") && error.contains("by others"), "{error}");
        }
        mode(&file, 0o644);
        image.check().unwrap();
        for wrong in [0o770, 0o707] {
            mode(&image.path, wrong);
            assert!(Directory::open(&image.path).is_err(), "{wrong:o}");
        }
        mode(&image.path, 0o700);
        symlink("/etc/passwd", image.path.join("core-1.img")).unwrap();
        assert!(image.check().is_err());
        fs::remove_file(image.path.join("core-1.img")).unwrap();
        fs::remove_file(image.path.join(INVENTORY)).unwrap();
        let error = message(&image.check().unwrap_err());
        assert!(error.contains("is no image"), "{error}");
    }

    #[test]
    fn descriptors_are_a_small_file_of_the_image() {
        let place = Place::new("descriptors");
        let image = place.image("a");
        let file = image.path.join(DESCRIPTORS);
        assert!(image.descriptors().is_err());
        fs::write(&file, format!("[\"{}\"]", "x".repeat(LONGEST as usize))).unwrap();
        assert!(message(&image.descriptors().unwrap_err()).contains("longer than"));
        fs::remove_file(&file).unwrap();
        symlink("/etc/hostname", &file).unwrap();
        assert!(image.descriptors().is_err() && image.write_descriptors(&[]).is_err());
    }

    #[test]
    fn the_image_before_lies_beside_it_and_is_checked_too() {
        let place = Place::new("parent");
        let (first, second) = (place.image("first"), place.image("second"));
        let link = second.path.join(PARENT);
        symlink("../first", &link).unwrap();
        second.check().unwrap();
        mode(&first.path, 0o777);
        assert!(message(&second.check().unwrap_err()).contains("by others"));
        mode(&first.path, 0o700);
        // In a circle.
        symlink("../second", first.path.join(PARENT)).unwrap();
        assert!(message(&second.check().unwrap_err()).contains("more than"));
        fs::remove_file(first.path.join(PARENT)).unwrap();
        symlink("first", place.0.join("alias")).unwrap();
        for wrong in ["../..", "/", "../alias", "../missing", "../first/inventory.img"] {
            fs::remove_file(&link).unwrap();
            symlink(wrong, &link).unwrap();
            assert!(second.check().is_err(), "{wrong}");
        }
    }
}
