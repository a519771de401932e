//! What can be said of files, to see that they are as they were.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// All that can be said of what is below `directory`: a line for each file.
///
/// # Panics
/// If it cannot be read.
#[track_caller]
pub fn described(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = vec![directory.to_owned()];
    while let Some(path) = rest.pop() {
        let found = fs::symlink_metadata(&path).expect("a file");
        let text = match found.file_type() {
            kind if kind.is_file() => fs::read_to_string(&path).expect("a text"),
            kind if kind.is_symlink() => format!("{:?}", fs::read_link(&path).expect("a link")),
            _ => String::new(),
        };
        let (mode, device) = (found.mode(), found.rdev());
        let name = path.strip_prefix(directory).expect("a file below it");
        lines.push(format!("{name:?} {mode:o} {device} {}:{} {text}", found.uid(), found.gid()));
        if found.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory");
            rest.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
    }
    lines.sort();
    lines
}
