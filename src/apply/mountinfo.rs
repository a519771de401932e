//! The kernel's table of mounts (proc_pid_mountinfo(5)), in bytes: a path on the host is
//! whatever whoever mounted there has made of it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Its identity.
    pub id: u64,
    /// The mount that it is attached to.
    pub parent: u64,
    /// Where, from the root of the process.
    pub point: PathBuf,
    /// The type of its file system.
    pub fstype: &'a [u8],
}

/// Reads a table.
pub fn parse(table: &[u8]) -> Result<Vec<Mount<'_>>> {
    let lines = table.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| parse_line(line).context("a line that is none")).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount<'_>> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
    let mut fields = line.split(|byte| *byte == b' ');
    let (id, parent) = (number(fields.next()?)?, number(fields.next()?)?);
    let point = OsString::from_vec(unescape(fields.nth(2)?)).into();
    // Behind the options comes any number of fields, then a dash.
    fields.find(|field| *field == b"-")?;
    Some(Mount { id, parent, point, fstype: fields.next()? })
}

/// Blanks, tabs, newlines and backslashes are `\040` and the like.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, others @ ..] = rest {
        match (first, others) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                plain.push(*first);
                rest = others;
            }
        }
    }
    plain
}

/// Whether `mount` is the mount `top` or anywhere below it.
pub fn is_below(table: &[Mount<'_>], mount: &Mount<'_>, top: u64) -> bool {
    let mut at = mount;
    // No way up is longer than the table.
    for _ in table {
        if at.id == top {
            return true;
        }
        match table.iter().find(|other| other.id == at.parent) {
            Some(above) => at = above,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_any_number_of_optional_fields_and_a_path_of_any_bytes() {
        let table =
            b"36 35 98:0 / /mnt\\040a\\134b\xff rw,noatime shared:1 master:2 - ext3 /dev/root rw\n\
            37 36 0:5 / /mnt/p rw - proc - rw\n";
        let table = parse(table).unwrap();
        assert_eq!((table[0].id, table[0].parent, table[0].fstype), (36, 35, &b"ext3"[..]));
        assert_eq!(table[0].point.as_os_str().as_encoded_bytes(), b"/mnt a\\b\xff");
        assert_eq!(table[1].fstype, b"proc");
        assert!(is_below(&table, &table[1], 36) && is_below(&table, &table[0], 36));
        assert!(!is_below(&table, &table[0], 37));
    }

    #[test]
    fn what_is_no_table_is_an_error() {
        assert!(parse(b"36 x 98:0 / / rw - ext3 a b").is_err());
        assert!(parse(b"36 35 98:0 / /").is_err());
    }
}
