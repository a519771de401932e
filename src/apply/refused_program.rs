//! Why the kernel refused to run a program that is there.
//!
//! execve(2) has one word for a program that is missing and for one whose interpreter is,
//! and init, under the program's filter, can tell no more than that word. So the caller's
//! side looks at the file: at what init found, in the container's root.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Error;
use nix::errno::Errno;
use rustix::fs::{OFlags, ResolveFlags};

use super::program::{DEFAULT_PATH, errno_text};
use crate::plan::process::ProcessPlan;
use crate::resolve;

/// How much of a file says what it is: the kernel's own look at a script is shorter
/// (BINPRM_BUF_SIZE), and the headers of a program come first.
const HEAD: usize = 4096;

/// The error of an execve(2) that failed, with the file's name and what can be found out.
/// `root` is the container's, None where it is gone.
pub fn explain(root: Option<&OwnedFd>, plan: &ProcessPlan, errno: Errno) -> Error {
    let found = root.and_then(|root| find(root, plan));
    let name = match (&found, plan.args.first()) {
        (Some((path, _)), _) => path.to_string_lossy(),
        (None, Some(name)) => name.to_string_lossy(),
        (None, None) => "".into(),
    };
    let reason = match (&found, root) {
        // A policy may refuse a program by the label that it was to run under.
        _ if matches!(errno, Errno::EACCES | Errno::EPERM) => {
            plan.named_label().map(|label| format!("under {label}"))
        }
        (Some((_, head)), Some(root)) => {
            Program::of(head).reason(errno, |path| resolve::handle(root, path).is_ok())
        }
        _ => None,
    };
    // The words that engines look for.
    let told = Error::msg(format!("exec {name}: {}", errno_text(errno)));
    let told =
        reason.into_iter().fold(told, |told, reason| Error::msg(format!("{told}: {reason}")));
    told.context(plan.field.of("args[0]"))
}

/// The program as init found it, and the beginning of it.
fn find(root: &OwnedFd, plan: &ProcessPlan) -> Option<(PathBuf, Vec<u8>)> {
    let name = Path::new(OsStr::from_bytes(plan.args.first()?.to_bytes()));
    let places: Vec<PathBuf> = if name.as_os_str().as_bytes().contains(&b'/') {
        vec![plan.cwd.join(name)]
    } else {
        let path = plan.variable("PATH").unwrap_or(DEFAULT_PATH);
        let directories =
            path.split(|byte| *byte == b':').map(|place| Path::new(OsStr::from_bytes(place)));
        directories.map(|directory| plan.cwd.join(directory).join(name)).collect()
    };
    places.into_iter().find_map(|place| {
        // It may be a FIFO by now.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = resolve::in_root(root, &place, flags, ResolveFlags::empty()).ok()?;
        let mut head = Vec::new();
        std::fs::File::from(file).take(HEAD as u64).read_to_end(&mut head).ok()?;
        Some((place, head))
    })
}

/// What a file is to execve(2).
#[derive(Debug, PartialEq, Eq)]
enum Program {
    /// A script, with its interpreter.
    Script(PathBuf),
    /// A binary for a machine (EM_* of elf.h), perhaps with an interpreter: the dynamic linker.
    Elf(u16, Option<PathBuf>),
    /// Nothing that Linux runs.
    Other,
}

impl Program {
    /// By the beginning of the file (execve(2), elf(5)).
    fn of(head: &[u8]) -> Self {
        if let Some(line) = head.strip_prefix(b"#!") {
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let mut words =
                line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
            return words.next().map_or(Self::Other, |word| Self::Script(path(word)));
        }
        Self::elf(head).unwrap_or(Self::Other)
    }

    fn elf(head: &[u8]) -> Option<Self> {
        const PT_INTERP: u64 = 3;
        let rest = head.strip_prefix(b"\x7fELF")?;
        let (wide, little) = (*rest.first()? == 2, *rest.get(1)? == 1);
        let number = |at: usize, length: usize| -> Option<u64> {
            let bytes = head.get(at..at.checked_add(length)?)?.iter();
            let join = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
            Some(if little { bytes.rev().fold(0, join) } else { bytes.fold(0, join) })
        };
        let machine = number(18, 2)? as u16;
        // Where the table of segments is, how long its entries are and how many; and in an
        // entry the place and the length of a segment.
        let (table, size, count, place, length, word) =
            if wide { (32, 54, 56, 8, 32, 8) } else { (28, 42, 44, 4, 16, 4) };
        let segments = || -> Option<PathBuf> {
            let (table, size, count) = (number(table, word)?, number(size, 2)?, number(count, 2)?);
            let entry = |index: u64| usize::try_from(table.checked_add(index * size)?).ok();
            let at = (0..count).filter_map(entry).find(|at| number(*at, 4) == Some(PT_INTERP))?;
            let start = usize::try_from(number(at.checked_add(place)?, word)?).ok()?;
            let length = usize::try_from(number(at.checked_add(length)?, word)?).ok()?;
            let name = head.get(start..start.checked_add(length)?)?;
            name.split(|byte| *byte == 0).next().filter(|name| !name.is_empty()).map(path)
        };
        Some(Self::Elf(machine, segments()))
    }

    /// Why it did not run, if that can be seen.
    fn reason(&self, errno: Errno, exists: impl Fn(&Path) -> bool) -> Option<String> {
        match (self, errno) {
            (Self::Script(interpreter) | Self::Elf(_, Some(interpreter)), Errno::ENOENT)
                if !exists(interpreter) =>
            {
                Some(format!("its interpreter {interpreter:?} is not there"))
            }
            (Self::Elf(machine, _), Errno::ENOEXEC) if *machine != OWN_MACHINE => {
                Some(format!("a program for {}", machine_name(*machine)))
            }
            (Self::Other, Errno::ENOEXEC) => {
                Some("neither a program nor a script whose first line begins with #!".to_owned())
            }
            _ => None,
        }
    }
}

fn path(bytes: &[u8]) -> PathBuf {
    OsStr::from_bytes(bytes).into()
}

/// EM_* of elf.h.
const OWN_MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

fn machine_name(machine: u16) -> String {
    const NAMES: [(u16, &str); 8] = [
        (3, "i386"),
        (8, "mips"),
        (21, "ppc64"),
        (22, "s390x"),
        (40, "arm"),
        (62, "x86_64"),
        (183, "arm64"),
        (243, "riscv"),
    ];
    let name = NAMES.iter().find(|(number, _)| *number == machine);
    name.map_or_else(|| format!("another machine ({machine})"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(head: &[u8], errno: Errno, there: &[&str]) -> Option<String> {
        Program::of(head).reason(errno, |path| there.iter().any(|known| Path::new(known) == path))
    }

    /// The head of a 64-bit program whose only segment names its interpreter.
    fn elf(machine: u8, interpreter: &str) -> Vec<u8> {
        let mut head = vec![0; 64 + 56];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[18] = machine;
        head[32] = 64;
        head[54] = 56;
        head[56] = 1;
        head[64] = 3;
        head[64 + 8] = 64 + 56;
        head[64 + 32] = interpreter.len() as u8 + 1;
        head.extend(interpreter.as_bytes());
        head.push(0);
        head
    }

    #[test]
    fn an_interpreter_that_is_missing_is_named() {
        let missing = |name: &str| Some(format!("its interpreter {name:?} is not there"));
        let script = b"#!/bin/sh\r\necho\r\n";
        assert_eq!(reason(script, Errno::ENOENT, &["/bin/sh"]), missing("/bin/sh\r"));
        assert_eq!(reason(b"#! /usr/bin/env  x", Errno::ENOENT, &[]), missing("/usr/bin/env"));
        assert_eq!(reason(b"#!/bin/sh -e\n", Errno::ENOENT, &["/bin/sh"]), None);
        let own = OWN_MACHINE as u8;
        assert_eq!(reason(&elf(own, "/lib/ld.so"), Errno::ENOENT, &[]), missing("/lib/ld.so"));
        assert_eq!(reason(&elf(own, "/lib/ld.so"), Errno::ENOENT, &["/lib/ld.so"]), None);
    }

    #[test]
    fn what_is_no_program_of_this_machine_is_told() {
        let other = if OWN_MACHINE == 62 { (183, "arm64") } else { (62, "x86_64") };
        let told = Some(format!("a program for {}", other.1));
        assert_eq!(reason(&elf(other.0, "/l"), Errno::ENOEXEC, &[]), told);
        assert!(reason(b"echo hi\n", Errno::ENOEXEC, &[]).unwrap().contains("first line"));
        assert!(reason(b"", Errno::ENOEXEC, &[]).unwrap().starts_with("neither"));
        assert_eq!(reason(&elf(OWN_MACHINE as u8, "/l"), Errno::ENOEXEC, &[]), None);
    }

    #[test]
    fn a_file_may_say_anything_of_itself() {
        let whole = elf(62, "/l");
        for length in 0..whole.len() {
            let mut head = whole[..length].to_vec();
            let _ = Program::of(&head);
            // An offset or a count that leads nowhere.
            head.iter_mut().skip(28).for_each(|byte| *byte = 0xff);
            let _ = Program::of(&head);
        }
        assert_eq!(Program::of(b"#!\n"), Program::Other);
    }
}
