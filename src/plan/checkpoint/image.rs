//! What stands in an image beside what CRIU reads: the first three descriptors, and the image
//! before. Whoever has made the image has written it, so it is held to its form.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

/// The file of the first three descriptors, which runc and crun write too.
pub const DESCRIPTORS: &str = "descriptors.json";
/// The link to the image before.
pub const PARENT: &str = "parent";
/// A file that every image has.
pub const INVENTORY: &str = "inventory.img";
/// More than three names of files take.
pub const LONGEST: u64 = 16 * 1024;
/// More images than anybody makes one after another.
pub const MOST_PARENTS: usize = 256;

/// What the links of stdin, stdout and stderr were at the start.
pub fn descriptors(text: &[u8]) -> Result<Vec<String>> {
    let descriptors: Vec<String> =
        serde_json::from_slice(text).with_context(|| format!("{DESCRIPTORS}: no list of texts"))?;
    ensure!(descriptors.len() <= 3, "{DESCRIPTORS}: more than three descriptors");
    for (at, link) in descriptors.iter().enumerate() {
        ensure!(is_link(link), "{DESCRIPTORS}: [{at}]: {link:?}: is no link of a descriptor");
    }
    Ok(descriptors)
}

/// Whether a runtime can have written it: a path, what the kernel calls a thing without one, as in
/// `socket:[7]`, or nothing, where runc could not read it.
fn is_link(text: &str) -> bool {
    let Some((kind, rest)) = text.split_once(':').filter(|_| !text.starts_with('/')) else {
        return text.is_empty() || text.starts_with('/');
    };
    match kind {
        "anon_inode" => !rest.is_empty(),
        _ => {
            !kind.is_empty()
                && kind.bytes().all(|byte| byte.is_ascii_lowercase())
                && is_number(rest)
        }
    }
}

/// The pipes among them, by their numbers: those alone are taken from the caller.
pub fn pipes(descriptors: &[String]) -> impl Iterator<Item = (String, i32)> {
    (0..3).zip(descriptors).filter(|(_, link)| is_pipe(link)).map(|(at, link)| (link.clone(), at))
}

fn is_pipe(link: &str) -> bool {
    link.strip_prefix("pipe:").is_some_and(is_number)
}

/// A number of an inode, as links have it.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    digits.is_some_and(|digits| {
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Refuses the way to the image before that leads further than to a neighbour: what is read there
/// is not what was handed over as an image.
pub fn check_parent(parent: &Path) -> Result<()> {
    let mut depth = 1_u32;
    for component in parent.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => bail!("{parent:?}: leads out of the directory that the image lies in"),
        }
    }
    Ok(())
}

/// `--parent-path`, which is relative to the image and stays beside it.
pub fn parent_path(parent: PathBuf) -> Result<PathBuf> {
    if parent.is_absolute() {
        bail!("--parent-path: {parent:?}: must be relative to the image");
    }
    check_parent(&parent).context("--parent-path")?;
    Ok(parent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::message;

    #[test]
    fn descriptors_are_three_texts_at_most() {
        let read = |text: &str| descriptors(text.as_bytes());
        let own = read(r#"["/dev/null","pipe:[1]","/dev/pts/0"]"#).unwrap();
        assert_eq!(own, ["/dev/null", "pipe:[1]", "/dev/pts/0"]);
        const { assert!(LONGEST > 3 * libc::PATH_MAX as u64) };
        for wrong in ["", "null", "{}", "[1]", r#"["a","b","c","d"]"#, "[\"a\"", "\u{0}"] {
            assert!(message(&read(wrong).unwrap_err()).starts_with(DESCRIPTORS), "{wrong}");
        }
    }

    #[test]
    fn descriptors_are_as_the_kernel_calls_them() {
        let read = |link: &str| descriptors(&serde_json::to_vec(&["/dev/null", link]).unwrap());
        for good in [
            "",
            "/",
            "/dev/pts/0",
            "/x/pipe:[1]",
            "/memfd:a (deleted)",
            "pipe:[1]",
            "socket:[18446744073709551615]",
            "net:[4026531840]",
            "anon_inode:[eventfd]",
            "anon_inode:kvm-vcpu:0",
        ] {
            assert!(read(good).is_ok(), "{good}");
        }
        for wrong in [
            "pipe:[x]",
            "pipe:[]",
            "pipe:[-1]",
            "pipe:1",
            "pipe:[1]x",
            "pipe:[1][2]",
            "x pipe:[1]",
            "anon_inode:",
            ":[1]",
            "extRootNetNS",
            "dev/null",
        ] {
            let error = message(&read(wrong).unwrap_err());
            let expected = format!("{DESCRIPTORS}: [1]: {wrong:?}: is no link of a descriptor");
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn nothing_but_a_pipe_is_taken_from_the_caller() {
        let links = ["pipe:[12]", "pipe:[]", "pipe:[1]"].map(str::to_owned);
        let expected = [("pipe:[12]".to_owned(), 0), ("pipe:[1]".to_owned(), 2)];
        assert_eq!(pipes(&links).collect::<Vec<_>>(), expected);
        for wrong in [
            "/x/pipe:[1]",
            "pipe:[1]x",
            "pipe:[-1]",
            "pipe:1",
            "pipe:[1] ",
            "pipe:[1][2]",
            "socket:[1]",
            "extRootNetNS",
            "",
        ] {
            assert_eq!(pipes(&[wrong.to_owned()]).count(), 0, "{wrong}");
        }
    }

    #[test]
    fn the_image_before_is_a_neighbour() {
        for good in ["../pre-checkpoint", "below", "./../a/b", "a/../../b"] {
            assert!(check_parent(Path::new(good)).is_ok(), "{good}");
        }
        for wrong in ["/etc", "../..", "../../x", "../a/../../b", "a/../../../b"] {
            assert!(check_parent(Path::new(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(parent_path("../a".into()).unwrap(), Path::new("../a"));
        let error = parent_path("/x".into()).unwrap_err();
        assert_eq!(message(&error), r#"--parent-path: "/x": must be relative to the image"#);
    }
}
