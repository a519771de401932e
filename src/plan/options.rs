//! The words of `mounts[].options` (config.md#linux-mount-options) as what the
//! mount calls take.
//!
//! One table says what each word means. A word that is not in it belongs to the
//! file system, which decides; a bind mount has none, so there an unknown bare
//! word is an error and `key=value` is passed over with a warning, because
//! callers put `mode=` and `size=` on binds.

use anyhow::{Result, bail};
use libc::{MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE};

use crate::abi::MountAttributes;

// The attributes of linux/mount.h.

/// Nothing can be written.
pub const MOUNT_ATTR_RDONLY: u64 = 0x01;
/// No program gets the rights of its file's owner.
pub const MOUNT_ATTR_NOSUID: u64 = 0x02;
/// No device can be used.
pub const MOUNT_ATTR_NODEV: u64 = 0x04;
/// No program can be run.
pub const MOUNT_ATTR_NOEXEC: u64 = 0x08;
/// The flags whose words come in pairs, one of which takes back.
pub const PAIRED: u64 =
    MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
/// The three bits that hold the access time policy.
const MOUNT_ATTR_ATIME: u64 = 0x70;
const MOUNT_ATTR_RELATIME: u64 = 0x00;
const MOUNT_ATTR_NOATIME: u64 = 0x10;
const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x20_0000;

/// What the option words of one mount say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `bind` is Some(false), `rbind` Some(true).
    pub bind: Option<bool>,
    /// Change an existing mount.
    pub remount: bool,
    /// Copy what lies at the destination into the new tmpfs.
    pub copy_up: bool,
    /// Attributes of the mount.
    pub attributes: MountAttributes,
    /// Attributes of the mount and of all below it.
    pub recursive: MountAttributes,
    /// Of ro, nosuid, nodev and noexec, those that a word has taken back; None where none has.
    pub taken_back: Option<u64>,
    /// Propagation types in their order, and whether for the mounts below too.
    pub propagation: Vec<(u64, bool)>,
    /// Switches of the super block, as fsconfig(2) takes them.
    pub superblock: Vec<&'static str>,
    /// `idmap` is Some(false), `ridmap` Some(true).
    pub id_mapped: Option<bool>,
    /// Words for the file system, in their order.
    pub data: Vec<String>,
    /// What is passed over.
    pub warnings: Vec<String>,
}

/// What a known word does.
#[derive(Clone, Copy)]
enum Word {
    /// Accepted, nothing to do: the default, or without effect since Linux 5.14.
    Nothing,
    Bind(bool),
    Remount,
    CopyUp,
    /// Switch a mount attribute on.
    On(u64),
    /// Switch a mount attribute off.
    Off(u64),
    /// Set the access time policy.
    Atime(u64),
    /// The recursive forms of these.
    AllOn(u64),
    AllOff(u64),
    AllAtime(u64),
    Propagation(u64, bool),
    /// A switch of the super block, and one that takes it back.
    Superblock(&'static str),
    NotSuperblock(&'static str),
    /// `ro` and `rw` are both: an attribute of the mount and a switch of the super block.
    ReadOnly(bool),
    /// An id-mapped mount, with the mounts below it or without.
    IdMapped(bool),
}

/// Every word that the runtime itself knows, for parsing and for `features`.
const WORDS: &[(&str, Word)] = {
    use Word::*;
    &[
        ("async", NotSuperblock("sync")),
        ("atime", Off(MOUNT_ATTR_NOATIME)),
        ("bind", Bind(false)),
        ("defaults", Nothing),
        ("dev", Off(MOUNT_ATTR_NODEV)),
        ("diratime", Off(MOUNT_ATTR_NODIRATIME)),
        ("dirsync", Superblock("dirsync")),
        ("exec", Off(MOUNT_ATTR_NOEXEC)),
        ("idmap", IdMapped(false)),
        // Every file system that counts changes does so always, since Linux 6.6 by
        // itself and on ext4 since 5.15; the switch is gone from the mount calls.
        ("iversion", Nothing),
        ("lazytime", Superblock("lazytime")),
        // How loud the kernel's own messages are.
        ("loud", Nothing),
        ("mand", Superblock("mand")),
        ("noatime", Atime(MOUNT_ATTR_NOATIME)),
        ("nodev", On(MOUNT_ATTR_NODEV)),
        ("nodiratime", On(MOUNT_ATTR_NODIRATIME)),
        ("noexec", On(MOUNT_ATTR_NOEXEC)),
        ("noiversion", Nothing),
        ("nolazytime", NotSuperblock("lazytime")),
        ("nomand", NotSuperblock("mand")),
        ("norelatime", Off(MOUNT_ATTR_RELATIME)),
        ("nostrictatime", Off(MOUNT_ATTR_STRICTATIME)),
        ("nosuid", On(MOUNT_ATTR_NOSUID)),
        ("nosymfollow", On(MOUNT_ATTR_NOSYMFOLLOW)),
        ("private", Propagation(MS_PRIVATE, false)),
        ("ratime", AllAtime(MOUNT_ATTR_RELATIME)),
        ("rbind", Bind(true)),
        ("rdev", AllOff(MOUNT_ATTR_NODEV)),
        ("rdiratime", AllOff(MOUNT_ATTR_NODIRATIME)),
        ("relatime", Atime(MOUNT_ATTR_RELATIME)),
        ("remount", Remount),
        ("rexec", AllOff(MOUNT_ATTR_NOEXEC)),
        ("ridmap", IdMapped(true)),
        ("rnoatime", AllAtime(MOUNT_ATTR_NOATIME)),
        ("rnodev", AllOn(MOUNT_ATTR_NODEV)),
        ("rnodiratime", AllOn(MOUNT_ATTR_NODIRATIME)),
        ("rnoexec", AllOn(MOUNT_ATTR_NOEXEC)),
        // As runc has it: it clears a policy that is 0.
        ("rnorelatime", AllAtime(MOUNT_ATTR_RELATIME)),
        ("rnostrictatime", AllAtime(MOUNT_ATTR_RELATIME)),
        ("rnosuid", AllOn(MOUNT_ATTR_NOSUID)),
        ("rnosymfollow", AllOn(MOUNT_ATTR_NOSYMFOLLOW)),
        ("ro", ReadOnly(true)),
        ("rprivate", Propagation(MS_PRIVATE, true)),
        ("rrelatime", AllAtime(MOUNT_ATTR_RELATIME)),
        ("rro", AllOn(MOUNT_ATTR_RDONLY)),
        ("rrw", AllOff(MOUNT_ATTR_RDONLY)),
        ("rshared", Propagation(MS_SHARED, true)),
        ("rslave", Propagation(MS_SLAVE, true)),
        ("rstrictatime", AllAtime(MOUNT_ATTR_STRICTATIME)),
        ("rsuid", AllOff(MOUNT_ATTR_NOSUID)),
        ("rsymfollow", AllOff(MOUNT_ATTR_NOSYMFOLLOW)),
        ("runbindable", Propagation(MS_UNBINDABLE, true)),
        ("rw", ReadOnly(false)),
        ("shared", Propagation(MS_SHARED, false)),
        ("silent", Nothing),
        ("slave", Propagation(MS_SLAVE, false)),
        ("strictatime", Atime(MOUNT_ATTR_STRICTATIME)),
        ("suid", Off(MOUNT_ATTR_NOSUID)),
        ("symfollow", Off(MOUNT_ATTR_NOSYMFOLLOW)),
        ("sync", Superblock("sync")),
        ("tmpcopyup", CopyUp),
        ("unbindable", Propagation(MS_UNBINDABLE, false)),
    ]
};

/// The words that `features` lists.
pub fn known_words() -> impl Iterator<Item = &'static str> {
    WORDS.iter().map(|(name, _)| *name)
}

impl MountOptions {
    /// Reads the words in their order; of two that contradict, the later wins.
    pub fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for word in words {
            match WORDS.binary_search_by_key(&word.as_str(), |(name, _)| *name) {
                Ok(at) => options.apply(WORDS[at].1),
                Err(_) => options.data.push(word.clone()),
            }
        }
        if options.bind.is_some() {
            options.without_data()?;
        }
        Ok(options)
    }

    fn apply(&mut self, word: Word) {
        match word {
            Word::Nothing => {}
            Word::Bind(recursive) => self.bind = Some(recursive),
            Word::Remount => self.remount = true,
            Word::CopyUp => self.copy_up = true,
            Word::On(bit) => self.switch_on(bit),
            Word::Off(bit) => self.take_back(bit),
            Word::Atime(policy) => self.attributes.set_atime(policy),
            Word::AllOn(bit) => self.recursive.switch_on(bit),
            Word::AllOff(bit) => self.recursive.switch_off(bit),
            Word::AllAtime(policy) => self.recursive.set_atime(policy),
            Word::Propagation(kind, recursive) => self.propagation.push((kind, recursive)),
            Word::Superblock(switch) => self.superblock.push(switch),
            Word::NotSuperblock(switch) => self.superblock.retain(|given| *given != switch),
            Word::ReadOnly(true) => {
                self.switch_on(MOUNT_ATTR_RDONLY);
                self.superblock.push("ro");
            }
            Word::ReadOnly(false) => {
                self.take_back(MOUNT_ATTR_RDONLY);
                self.superblock.retain(|given| *given != "ro");
            }
            Word::IdMapped(recursive) => self.id_mapped = Some(recursive),
        }
    }

    fn switch_on(&mut self, bit: u64) {
        self.attributes.switch_on(bit);
        self.taken_back = self.taken_back.map(|bits| bits & !bit);
    }

    fn take_back(&mut self, bit: u64) {
        self.attributes.take_back(bit);
        if bit & PAIRED != 0 {
            self.taken_back = Some(self.taken_back.unwrap_or_default() | bit);
        }
    }

    /// The attributes of a bind. It keeps what its source brings along; but a list with a
    /// word that takes back, such as the `rw` that engines write on every volume, names all
    /// that the bind has of these flags, as with runc since 1.2.
    pub fn of_bind(&self) -> MountAttributes {
        let mut attributes = self.attributes;
        if self.taken_back.is_some() {
            attributes.clear |= PAIRED & !attributes.set;
        }
        attributes
    }

    /// A bind has no file system of its own to hand words to.
    fn without_data(&mut self) -> Result<()> {
        for word in std::mem::take(&mut self.data) {
            if !word.contains('=') {
                bail!("{word:?}: unknown on a bind mount");
            }
            self.warnings.push(format!("{word:?} has no meaning on a bind mount"));
        }
        self.superblock.clear();
        Ok(())
    }
}

impl MountAttributes {
    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn switch_on(&mut self, bit: u64) {
        self.set |= bit;
        self.clear &= !bit;
    }

    fn switch_off(&mut self, bit: u64) {
        self.set &= !bit;
        self.clear |= bit;
    }

    /// Undoes an earlier word.
    fn take_back(&mut self, bit: u64) {
        if bit & MOUNT_ATTR_ATIME != 0 || bit == MOUNT_ATTR_RELATIME {
            if self.set & MOUNT_ATTR_ATIME == bit {
                self.set &= !MOUNT_ATTR_ATIME;
                self.clear &= !MOUNT_ATTR_ATIME;
            }
        } else {
            self.set &= !bit;
        }
    }

    /// The policy is a number in three bits, so the whole field must be cleared.
    fn set_atime(&mut self, policy: u64) {
        self.set = self.set & !MOUNT_ATTR_ATIME | policy;
        self.clear |= MOUNT_ATTR_ATIME;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> MountOptions {
        MountOptions::parse(&words.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .unwrap()
    }

    #[test]
    fn the_table_is_sorted_for_the_search() {
        assert!(known_words().is_sorted());
        assert!(["bind", "ro", "tmpcopyup"].iter().all(|word| known_words().any(|w| w == *word)));
    }

    #[test]
    fn words_become_attributes_and_the_later_wins() {
        for (words, set, clear) in [
            ("ro nosuid nodev noexec", 0x0f, 0),
            ("ro rw", 0, 0),
            ("rw ro", 1, 0),
            ("nosymfollow", 0x20_0000, 0),
            ("relatime", 0, 0x70),
            ("noatime", 0x10, 0x70),
            ("noatime atime", 0, 0),
            ("strictatime", 0x20, 0x70),
            ("strictatime nostrictatime", 0, 0),
            ("noatime relatime", 0, 0x70),
            ("nodiratime", 0x80, 0),
            ("defaults loud silent iversion noiversion async", 0, 0),
        ] {
            let MountAttributes { set: got_set, clear: got_clear, .. } = parse(words).attributes;
            assert_eq!((got_set, got_clear), (set, clear), "{words}");
        }
    }

    #[test]
    fn recursive_words_change_the_mounts_below_too() {
        let options = parse("rbind rro rsuid rnoatime");
        assert_eq!(options.bind, Some(true));
        assert_eq!(
            options.recursive,
            MountAttributes { set: 0x11, clear: 0x72, ..Default::default() }
        );
        assert!(options.attributes.is_empty() && !options.recursive.is_empty());
        // The last word on each of them holds.
        for (words, set, clear) in [("rro rrw", 0, 1), ("rrw rro", 1, 0), ("rrw rnosuid", 2, 1)] {
            let recursive = parse(words).recursive;
            assert_eq!((recursive.set, recursive.clear), (set, clear), "{words}");
        }
    }

    #[test]
    fn words_of_the_file_system_keep_their_order() {
        let options = parse("nosuid mode=755 newinstance size=64k sync ro");
        assert_eq!(options.data, ["mode=755", "newinstance", "size=64k"]);
        assert_eq!(options.superblock, ["sync", "ro"]);
        assert_eq!(parse("sync ro dirsync rw").superblock, ["sync", "dirsync"]);
        assert_eq!(parse("sync ro async").superblock, ["ro"]);
    }

    #[test]
    fn a_bind_refuses_unknown_words_and_passes_over_values() {
        let options = parse("bind mode=755");
        assert!(options.data.is_empty());
        assert_eq!(options.warnings, [r#""mode=755" has no meaning on a bind mount"#]);
        let error = MountOptions::parse(&["rbind".into(), "bogus".into()]).unwrap_err();
        assert_eq!(error.to_string(), r#""bogus": unknown on a bind mount"#);
    }

    #[test]
    fn a_word_that_takes_back_makes_the_list_name_all_flags_of_a_bind() {
        for (words, set, clear) in [
            ("rbind", 0, 0),
            ("rbind ro", 1, 0),
            ("rbind ro nodev", 5, 0),
            ("rbind rw", 0, 0xf),
            ("rbind ro rw", 0, 0xf),
            ("rbind rw ro", 1, 0xe),
            ("rbind nosuid exec", 2, 0xd),
            ("rbind rw noatime", 0x10, 0x7f),
            // They say nothing of these flags.
            ("rbind diratime symfollow", 0, 0),
        ] {
            let found = parse(words).of_bind();
            assert_eq!((found.set, found.clear), (set, clear), "{words}");
        }
        assert_eq!(parse("rbind exec rw noexec").taken_back, Some(MOUNT_ATTR_RDONLY));
        assert_eq!(parse("rbind rw rw").taken_back, Some(MOUNT_ATTR_RDONLY));
    }

    #[test]
    fn propagation_is_kept_in_order() {
        assert_eq!(
            parse("rslave shared").propagation,
            [(libc::MS_SLAVE, true), (libc::MS_SHARED, false)]
        );
    }
}
