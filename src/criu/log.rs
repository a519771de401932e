//! What CRIU's log says of a failure.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, openat};

/// How many lines with an error are repeated, and how many before each are, for the log.
const ERRORS: usize = 4;
const BEFORE: usize = 5;
/// More than CRIU writes of a container with thousands of files; the end is what matters.
const LONGEST: u64 = 64 << 20;

/// What a log says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Quoted {
    /// The lines that name an error, without time and place.
    pub errors: Vec<String>,
    /// The same lines as they stand there, with those before, and with their numbers.
    pub lines: Vec<String>,
}

/// Reads a log in a directory. Where there is none, it says nothing.
pub fn quote(directory: BorrowedFd<'_>, name: &str) -> Quoted {
    let read = || -> std::io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(directory, name, flags, Mode::empty())?);
        let mut text = Vec::new();
        file.take(LONGEST).read_to_end(&mut text)?;
        Ok(text)
    };
    find(&String::from_utf8_lossy(&read().unwrap_or_default()))
}

/// As `grep -n -B5 Error` shows it, which is what runc quotes.
fn find(log: &str) -> Quoted {
    let mut quoted = Quoted::default();
    let lines: Vec<_> = log.lines().collect();
    let mut shown = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some(error) = error_of(line) else { continue };
        if quoted.errors.len() == ERRORS {
            break;
        }
        quoted.errors.push(error.to_owned());
        let from = at.saturating_sub(BEFORE).max(shown);
        let more = lines.iter().enumerate().take(at + 1).skip(from);
        quoted.lines.extend(more.map(|(at, line)| format!("{}: {line}", at + 1)));
        shown = at + 1;
    }
    quoted
}

/// `(00.004) Error (criu/files.c:77): words`, or with a pid behind the time: the words.
fn error_of(line: &str) -> Option<&str> {
    let (_, error) = line.split_once("Error (")?;
    Some(error.split_once("): ").map_or(error, |(_, words)| words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_quoted_with_the_lines_before_them_each_line_once() {
        let log: String = (1..=8).map(|at| format!("(00.0{at}) step {at}\n")).collect();
        let log = format!(
            "{log}(00.09)  7: Error (criu/x.c:1): Can't do (this): No\nbetween\n\
             (00.10) Error (criu/y.c:22): Dumping FAILED.\nend\n"
        );
        let quoted = find(&log);
        assert_eq!(quoted.errors, ["Can't do (this): No", "Dumping FAILED."]);
        assert_eq!(quoted.lines.len(), 8);
        assert_eq!(quoted.lines[0], "4: (00.04) step 4");
        assert_eq!(quoted.lines[6], "10: between");
    }

    #[test]
    fn a_log_without_errors_says_nothing_and_one_with_thousands_little() {
        assert_eq!(find("(00.01) fine\nError\n"), Quoted::default());
        let quoted = find(&"Error (a:1): x\n".repeat(1000));
        assert_eq!((quoted.errors.len(), quoted.lines.len()), (4, 4));
    }
}
