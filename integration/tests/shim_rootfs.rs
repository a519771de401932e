//! The root of a container as containerd asks its shim to mount it.
//!
//! | what may go wrong with a root | test |
//! |---|---|
//! | layers in another order, or not all of them | `layers_lie_on_each_other_in_their_order` |
//! | a list that is too long for the kernel | `no_list_of_layers_is_too_long` |
//! | ids: of the files, of the bind, of what is written | `layers_show_other_ids_and_their_files_keep_theirs`, `a_bind_shows_other_ids_and_what_is_written_has_the_sources` |
//! | what a mount brings along is lost, or what it is to have is not there | `a_read_only_bind_is_read_only_and_keeps_what_its_source_has`, `propagation_is_what_was_asked_for` |
//! | a disk that is a file outlives its mount | `a_file_is_mounted_as_a_disk_which_goes_with_its_mount` |
//! | a type that only a program of the system mounts | `a_type_of_fuse_is_mounted_by_its_program` |
//! | a part of it stays where another one fails | `where_one_fails_nothing_stays` |
//! | a link in a layer leads a mount out of the root | `a_link_in_a_layer_leads_nowhere_else` |
//! | something stays mounted, or a neighbour goes too | `all_that_is_on_a_root_goes_and_nothing_else` |

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use integration::shared_too::as_root;
use integration::{Bed, within};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::statvfs::{FsFlags, statvfs};
use shim::messages::Mount;
use shim::mounts::{mount_all, unmount_all};

const IDS: [&str; 2] = ["uidmap=0:200000:65536", "gidmap=0:300000:65536"];

/// A mount as containerd asks for it.
fn ask(fstype: &str, source: &Path, options: &[&str]) -> Mount {
    Mount {
        r#type: fstype.into(),
        source: source.to_str().expect("UTF-8").into(),
        target: String::new(),
        options: options.iter().map(|word| (*word).to_owned()).collect(),
    }
}

/// A directory of this name, whether it is there or not.
fn directory(bed: &Bed, name: &str) -> PathBuf {
    let path = bed.directory.join(name);
    fs::create_dir_all(&path).expect("a directory");
    path
}

/// A bundle's place for a root.
fn place(bed: &Bed) -> PathBuf {
    directory(bed, "bundle").join("rootfs")
}

/// A directory with a file in it, which has the directory's name for text.
fn layer(bed: &Bed, name: &str, file: &str) -> PathBuf {
    let directory = bed.make_directory(name, 0o755);
    fs::write(directory.join(file), name).expect("a file");
    directory
}

/// An overlay of these layers, the uppermost first, with a directory for what is written.
fn overlay(bed: &Bed, layers: &[PathBuf], more: &[&str]) -> Mount {
    let own = bed.next();
    let [upper, work] = ["upper", "work"].map(|name| directory(bed, &format!("{own}/{name}")));
    let list: Vec<_> = layers.iter().map(|layer| layer.to_str().expect("UTF-8")).collect();
    let mut options = vec![
        format!("workdir={}", work.display()),
        format!("upperdir={}", upper.display()),
        format!("lowerdir={}", list.join(":")),
    ];
    options.extend(more.iter().map(|word| (*word).to_owned()));
    ask("overlay", Path::new("overlay"), &options.iter().map(String::as_str).collect::<Vec<_>>())
}

fn mounted() -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

fn text(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// Mounts, looks, and takes it away again: then all is as before.
fn with_root(bed: &Bed, mounts: &[Mount], look: impl FnOnce(&Path)) {
    let root = place(bed);
    let before = mounted();
    mount_all(&root, mounts).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(mounted().len(), before.len() + mounts.len(), "one more for each of them");
    look(&root);
    unmount_all(&root).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(mounted(), before);
}

#[test]
fn layers_lie_on_each_other_in_their_order() {
    as_root(|bed| {
        let layers = ["top", "middle", "bottom"].map(|name| layer(bed, name, "same"));
        fs::write(layers[2].join("deep"), "found").unwrap();
        let asked = overlay(bed, &layers, &[]);
        let upper = PathBuf::from(&asked.options[1]["upperdir=".len()..]);
        with_root(bed, &[asked], |root| {
            assert_eq!(text(root.join("same")), "top");
            assert_eq!(text(root.join("deep")), "found");
            fs::write(root.join("deep"), "written").unwrap();
            assert_eq!(text(upper.join("deep")), "written");
            assert_eq!(text(layers[2].join("deep")), "found");
        });
        // A name that has the list's own sign in it, and one that has a comma.
        let odd = [layer(bed, "a:b", "one"), layer(bed, "c", "two")];
        let mut ask = overlay(bed, &odd, &["ro"]);
        let list = format!("lowerdir={}:{}", odd[0].display(), odd[1].display());
        let escaped = list.replace("a:b", r"a\:b");
        ask.options
            .iter_mut()
            .filter(|word| **word == list)
            .for_each(|word| word.clone_from(&escaped));
        with_root(bed, &[ask], |root| {
            assert_eq!(
                (text(root.join("one")), text(root.join("two"))),
                ("a:b".into(), "c".into())
            );
            let refused = fs::write(root.join("three"), "").unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        });
    });
}

#[test]
fn no_list_of_layers_is_too_long() {
    as_root(|bed| {
        let names = (0..128).map(|at| format!("layer-{at:060}"));
        let layers: Vec<_> = names.map(|name| layer(bed, &name, &name[60..])).collect();
        for words in [&[][..], &IDS] {
            with_root(bed, &[overlay(bed, &layers, words)], |root| {
                for at in [0, 64, 127] {
                    let found = text(root.join(format!("{at:06}")));
                    assert_eq!(found, format!("layer-{at:060}"));
                }
            });
        }
    });
}

#[test]
fn layers_show_other_ids_and_their_files_keep_theirs() {
    as_root(|bed| {
        let layers = ["top", "bottom"].map(|name| layer(bed, name, name));
        with_root(bed, &[overlay(bed, &layers, &IDS)], |root| {
            for name in ["top", "bottom"] {
                let shown = fs::metadata(root.join(name)).unwrap();
                assert_eq!((shown.uid(), shown.gid()), (200_000, 300_000), "{name}");
                assert_eq!(fs::metadata(bed.directory.join(name).join(name)).unwrap().uid(), 0);
            }
        });
    });
}

#[test]
fn a_bind_shows_other_ids_and_what_is_written_has_the_sources() {
    as_root(|bed| {
        let source = layer(bed, "source", "file");
        let words = ["rbind", IDS[0], IDS[1]];
        with_root(bed, &[ask("bind", &source, &words)], |root| {
            assert_eq!(fs::metadata(root.join("file")).unwrap().uid(), 200_000);
            fs::write(root.join("file"), "written").unwrap();
            assert_eq!(fs::metadata(source.join("file")).unwrap().uid(), 0);
        });
        // One without the other is nothing that anybody can have meant.
        let error = mount_all(&place(bed), &[ask("bind", &source, &["bind", IDS[0]])]).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            r#"rootfs[0].options: "uidmap" and "gidmap": neither is without the other"#
        );
    });
}

#[test]
fn a_read_only_bind_is_read_only_and_keeps_what_its_source_has() {
    as_root(|bed| {
        let source = bed.make_directory("source", 0o755);
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), &source, Some("tmpfs"), flags, None::<&str>).unwrap();
        for (word, is_read_only) in [("ro", true), ("rw", false)] {
            with_root(bed, &[ask("bind", &source, &["rbind", word])], |root| {
                assert_eq!(fs::write(root.join("file"), "").is_err(), is_read_only, "{word}");
                let flags = statvfs(root).unwrap().flags();
                let kept = FsFlags::ST_NOSUID | FsFlags::ST_NODEV;
                assert!(flags.contains(kept), "{word}: {flags:?}");
                fs::write(source.join("file"), "").unwrap();
            });
        }
        umount(&source).unwrap();
    });
}

#[test]
fn propagation_is_what_was_asked_for() {
    as_root(|bed| {
        let source = bed.make_directory("source", 0o755);
        // Even where what is attached is made shared.
        for (word, sign) in
            [("rshared", "shared:"), ("rprivate", " - "), ("unbindable", "unbindable")]
        {
            with_root(bed, &[ask("bind", &source, &["rbind", word])], |root| {
                let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
                let line =
                    table.lines().find(|line| line.contains(root.to_str().unwrap())).unwrap();
                assert!(line.contains(sign), "{word}: {line}");
                assert_eq!(line.contains("shared:"), word == "rshared", "{line}");
            });
        }
    });
}

#[test]
fn a_file_is_mounted_as_a_disk_which_goes_with_its_mount() {
    as_root(|bed| {
        let file = bed.directory.join("disk");
        fs::File::create(&file).unwrap().set_len(4 << 20).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(&file).status();
        if !made.is_ok_and(|status| status.success()) {
            return bed.skip("there is no mkfs.ext4");
        }
        let devices = || {
            let all = fs::read_dir("/sys/block").unwrap().flatten();
            let files = all.map(|entry| entry.path().join("loop/backing_file"));
            files.filter_map(|path| fs::read_to_string(path).ok()).collect::<Vec<_>>()
        };
        let ours = || devices().iter().any(|behind| behind.trim() == file.to_str().unwrap());
        for (words, is_read_only) in [(&["loop"][..], false), (&["ro", "loop"], true)] {
            with_root(bed, &[ask("ext4", &file, words)], |root| {
                assert!(root.join("lost+found").is_dir() && ours());
                assert_eq!(fs::write(root.join("file"), "").is_err(), is_read_only);
            });
            within(Duration::from_secs(10), "it is let go", || !ours());
        }
    });
}

#[test]
fn a_type_of_fuse_is_mounted_by_its_program() {
    as_root(|bed| {
        if !Path::new("/usr/bin/fuse-overlayfs").exists() || !Path::new("/dev/fuse").exists() {
            return bed.skip("there is no fuse-overlayfs, or no /dev/fuse");
        }
        let layers = ["top", "bottom"].map(|name| layer(bed, name, name));
        let mut asked = overlay(bed, &layers, &[]);
        asked.r#type = "fuse3.fuse-overlayfs".into();
        with_root(bed, &[asked], |root| {
            assert_eq!(
                (text(root.join("top")), text(root.join("bottom"))),
                ("top".into(), "bottom".into())
            );
        });
    });
}

#[test]
fn where_one_fails_nothing_stays() {
    as_root(|bed| {
        let source = layer(bed, "source", "file");
        let before = mounted();
        for (bad, why) in [
            (ask("bogus", &source, &[]), r#"rootfs[1].type: "bogus": unknown to this kernel"#),
            (
                ask("bind", Path::new("/no/such"), &["bind"]),
                r#"rootfs[1].source: "/no/such": No such"#,
            ),
            (
                ask("overlay", &source, &["lowerdir=/no/such"]),
                r#"rootfs[1].options: "lowerdir+=/no/such""#,
            ),
            (ask("ext4", &source, &["loop"]), "rootfs[1].source: "),
            (ask("fuse3.no-such", &source, &[]), "rootfs[1].type: mount.fuse3: "),
            (overlay(bed, &["/no/such".into()], &IDS), r#"rootfs[1]: "/no/such": No such file"#),
        ] {
            let error =
                mount_all(&place(bed), &[ask("bind", &source, &["bind"]), bad]).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.starts_with(why), "{error}");
            assert_eq!(mounted(), before, "{error}");
        }
    });
}

#[test]
fn a_link_in_a_layer_leads_nowhere_else() {
    // Where mounts are shared the source has what is mounted on a bind of it.
    integration::as_root(|bed| {
        let [source, outside] = ["source", "outside"].map(|name| layer(bed, name, name));
        symlink(&outside, source.join("link")).unwrap();
        let mut below = ask("tmpfs", Path::new("tmpfs"), &[]);
        below.target = "link/../link".into();
        let mounts = [ask("bind", &source, &["bind"]), below];
        with_root(bed, &mounts, |_| {
            assert!(outside.join("outside").exists(), "nothing covers it");
        });
        assert!(source.join(outside.strip_prefix("/").unwrap()).is_dir(), "it is below the root");
    });
}

#[test]
fn all_that_is_on_a_root_goes_and_nothing_else() {
    as_root(|bed| {
        let source = layer(bed, "source", "file");
        let root = place(bed);
        let neighbour = directory(bed, "bundle/rootfs-too");
        let tmpfs = |at: &Path| {
            fs::create_dir_all(at).unwrap();
            mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        };
        tmpfs(&neighbour);
        let before = mounted();
        let bind = || ask("bind", &source, &["bind"]);
        mount_all(&root, &[bind(), bind()]).unwrap();
        tmpfs(&root.join("a"));
        tmpfs(&root.join("a/b c"));
        // Covers those.
        tmpfs(&root);
        tmpfs(&root.join("d"));
        let used = fs::File::open(root.join("d")).unwrap();
        unmount_all(&root).unwrap();
        assert_eq!(mounted(), before);
        drop(used);
        unmount_all(&root).unwrap();
        // One that is only below.
        tmpfs(&root.join("alone"));
        unmount_all(&root).unwrap();
        assert_eq!(mounted(), before);
        umount(&neighbour).unwrap();
    });
}
