//! What ARCHITECTURE.md says of the source as a whole, held to the source.

use std::collections::{BTreeMap, BTreeSet};
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

#[test]
fn the_environment_is_read_by_commands_alone() {
    let mut readers = 0;
    for (path, code) in files("").unwrap() {
        // What `std::env` has besides is the process's own: its id, its directory.
        let reads = ["env::var", "env::vars"].iter().any(|name| code.contains(name));
        assert!(!reads || path.starts_with("commands"), "{path:?}");
        readers += usize::from(reads);
    }
    assert!(readers > 0);
}

/// The name of the module in a file, as in `plan::cgroup::unit`.
fn module_of(path: &Path) -> Vec<String> {
    let path = path.with_extension("");
    let mut names: Vec<_> =
        path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    names.pop_if(|last| last == "mod");
    names
}

/// The paths that begin at `text`, with each name between braces for itself.
fn spread(text: &str, before: &[&str]) -> Vec<Vec<String>> {
    let end = text.find(|letter: char| !(letter.is_alphanumeric() || "_:".contains(letter)));
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    let names = name.split("::").filter(|name| !name.is_empty());
    let path: Vec<&str> = before.iter().copied().chain(names).collect();
    let Some(inside) = rest.strip_prefix('{').filter(|_| name.ends_with("::")) else {
        return vec![path.into_iter().map(str::to_owned).collect()];
    };
    let (mut paths, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (at, letter) in inside.char_indices() {
        if depth == 0 && matches!(letter, ',' | '}') {
            paths.extend(spread(inside[begin..at].trim_start(), &path));
            begin = at + 1;
        }
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            _ => {}
        }
    }
    paths
}

/// Which file names which other, by `crate::`, `super::` and `self::`.
fn uses(files: &[(PathBuf, String)]) -> BTreeMap<String, BTreeSet<String>> {
    let modules: BTreeSet<String> =
        files.iter().map(|(path, _)| module_of(path).join("::")).collect();
    let used = |path: &Path, code: &str| {
        let own = module_of(path);
        let mut used = BTreeSet::new();
        for begin in ["crate::", "super::", "self::"] {
            for names in paths(code, begin).flat_map(|text| spread(text, &[])) {
                let ups = names.iter().take_while(|name| *name == "super").count();
                let base = match begin {
                    "crate::" => &[][..],
                    _ => &own[..own.len().saturating_sub(ups)],
                };
                let skipped = ups.max(usize::from(begin != "super::"));
                let mut whole = [base, &names[skipped..]].concat();
                // The rest names what is in the file.
                while !whole.is_empty() && !modules.contains(&whole.join("::")) {
                    whole.pop();
                }
                used.insert(whole.join("::"));
            }
        }
        used.remove(&own.join("::"));
        used.remove("");
        used
    };
    files.iter().map(|(path, code)| (module_of(path).join("::"), used(path, code))).collect()
}

/// A circle, as the names on the way from one back to itself.
fn circle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk<'a>(
        graph: &'a BTreeMap<String, BTreeSet<String>>,
        at: &'a str,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> bool {
        if way.contains(&at) {
            way.push(at);
            return true;
        }
        way.push(at);
        let next = graph.get(at).into_iter().flatten();
        if !done.contains(at) && next.into_iter().any(|next| walk(graph, next, way, done)) {
            return true;
        }
        way.pop();
        done.insert(at);
        false
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    let is_there = graph.keys().any(|name| walk(graph, name, &mut way, &mut done));
    is_there.then(|| way.into_iter().map(str::to_owned).collect())
}

#[test]
fn neither_files_nor_rooms_know_each_other_in_circles() {
    let uses = uses(&files("").unwrap());
    assert!(uses["create::init"].contains("plan::exec"), "{:?}", uses["create::init"]);
    assert!(uses["plan::exec"].contains("plan::cgroup"), "{:?}", uses["plan::exec"]);
    assert_eq!(circle(&uses), None, "files");
    let room = |module: &str| module.split("::").next().unwrap().to_owned();
    let mut rooms: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, used) in &uses {
        let others = used.iter().map(|used| room(used)).filter(|other| *other != room(module));
        rooms.entry(room(module)).or_default().extend(others);
    }
    assert_eq!(circle(&rooms), None, "rooms");
    rooms.entry("abi".to_owned()).or_default().insert("commands".to_owned());
    assert!(circle(&rooms).is_some(), "one that is made is found");
}

/// What people search docs/troubleshooting.md for: the part of a line that does not change is in
/// the sources as it stands there.
#[test]
fn the_errors_that_troubleshooting_explains_are_those_of_the_sources() {
    // The kernel's own words, as the C library has them.
    const OF_THE_KERNEL: [&str; 3] =
        ["No such file or directory", "no such file or directory", "exec format error"];
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md");
    let page = fs::read_to_string(page).unwrap();
    let sources: String = files("").unwrap().into_iter().map(|(_, code)| code).collect();
    // A text that is broken over lines of the source is one.
    let sources = sources.replace("\\\n", " ");
    let sources = sources.split_whitespace().collect::<Vec<_>>().join(" ");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut count = 0;
    for error in rows {
        for part in error.split("...").map(|part| part.trim_matches([' ', ':'])) {
            let is_there = sources.contains(part) || OF_THE_KERNEL.contains(&part);
            // Names of fields are put together.
            let is_field = part.starts_with("mounts[") || part.starts_with(']') || part.len() < 6;
            assert!(is_there || is_field, "{error}: {part:?} is in no source");
        }
        count += 1;
    }
    assert!(count > 30, "the table was not found: {count} rows");
}
