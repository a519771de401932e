//! What ARCHITECTURE.md says of the source as a whole, held to the source.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// Every file of `src/DIRECTORY`, by its path below that, with its code up to its tests.
fn files(directory: &str) -> io::Result<Vec<(PathBuf, String)>> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(directory);
    let (mut files, mut directories) = (Vec::new(), vec![top.clone()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path)?;
                let code = text.lines().take_while(|line| *line != "mod tests {");
                let code = code.flat_map(|line| line.split("//").next());
                let below = path.strip_prefix(&top).map_err(io::Error::other)?.to_owned();
                files.push((below, code.collect::<Vec<_>>().join("\n")));
            }
        }
    }
    Ok(files)
}

/// Where a path that begins with `name` stands in `code`, as what follows.
fn paths<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let is_inside = |at: usize| {
        code[..at].ends_with(|before: char| before.is_alphanumeric() || "_:".contains(before))
    };
    code.match_indices(name).filter(move |(at, _)| !is_inside(*at)).map(|(at, _)| &code[at..])
}

#[test]
fn plan_makes_no_call_and_knows_no_clock_environment_or_file_system() {
    // Of the house nothing but data and words.
    const HOUSE: [&str; 6] =
        ["abi::", "error::", "plan::", "text::", "bundle::OCI_VERSION", "error;"];
    // `std::os` is for the bytes of names, `std::time` for lengths, `libc` for numbers.
    const FOREIGN: [&str; 16] = [
        "rustix",
        "nix",
        "procfs",
        "std::{",
        "std::fs",
        "std::env",
        "std::process",
        "std::net",
        "std::io",
        "std::thread",
        "std::os::fd",
        "std::os::unix::fs",
        "std::os::unix::net",
        "libc::syscall",
        "SystemTime",
        "Instant",
    ];
    let files = files("plan").unwrap();
    assert!(files.len() > 20, "{}", files.len());
    for (path, code) in files {
        for name in FOREIGN {
            assert!(paths(&code, name).next().is_none(), "plan/{path:?}: {name}");
        }
        for name in paths(&code, "crate::").map(|path| &path["crate::".len()..]) {
            let is_allowed = HOUSE.iter().any(|allowed| name.starts_with(allowed));
            assert!(is_allowed, "plan/{path:?}: crate::{:.30}", name);
        }
        let depth = path.components().count() - usize::from(path.ends_with("mod.rs"));
        let outside = "super::".repeat(depth + 1);
        assert!(paths(&code, &outside).next().is_none(), "plan/{path:?}: {outside}");
    }
}
