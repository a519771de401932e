//! The README's table of subjects, and the tables at the heads of tests, name tests that
//! exist.

use std::fs;
use std::path::{Path, PathBuf};

fn crate_directory() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn in_backticks(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The source of a test file by its name, or by its path from the top.
fn source_of(file: &str) -> PathBuf {
    match file.ends_with(".rs") {
        true => crate_directory().join("..").join(file),
        false => crate_directory().join("tests").join(file).with_extension("rs"),
    }
}

/// Asserts that a file has a test. `*` at the end stands for any rest of the name.
#[track_caller]
fn assert_there(name: &str, path: &Path, test: &str) {
    let source = fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"));
    let start = match test.strip_suffix('*') {
        Some(prefix) => format!("fn {prefix}"),
        None => format!("fn {test}() {{"),
    };
    let is_test = |(place, _): (usize, &str)| source[..place].trim_end().ends_with("#[test]");
    let is_there = source.match_indices(&start).any(is_test);
    assert!(is_there, "{name} is not there, no test, or an ignored one");
}

#[test]
fn each_test_that_the_readme_names_is_there() {
    let readme = fs::read_to_string(crate_directory().join("README.md")).unwrap();
    let rows = readme.lines().filter(|line| line.starts_with("| ") && line.contains("::"));
    let mut count = 0;
    for name in rows.flat_map(in_backticks) {
        let (file, test) = name.split_once("::").unwrap();
        assert_there(name, &source_of(file), test);
        count += 1;
    }
    assert!(count > 50, "the table was not found: {count} names");
}

/// Those in the last column: a test of the file itself has many words, and no `::`.
#[test]
fn each_test_that_the_head_of_a_test_names_is_there() {
    let mut count = 0;
    for entry in fs::read_dir(crate_directory().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("//! |")?.strip_suffix('|'));
        for name in rows.filter_map(|row| row.rsplit('|').next()).flat_map(in_backticks) {
            let is_own = |name: &str| name.matches('_').count() > 1 && !name.contains('/');
            match name.split_once("::") {
                Some((file, test)) => assert_there(name, &source_of(file), test),
                None if name.ends_with(".rs") => assert!(source_of(name).exists(), "{name}"),
                None if is_own(name) => assert_there(name, &path, name),
                None => continue,
            }
            count += 1;
        }
    }
    assert!(count > 50, "the tables were not found: {count} names");
}

/// What other runtimes had to mend: each row names a test that is there, or says why there is
/// none.
#[test]
fn each_row_of_the_changelogs_has_a_test_or_a_reason() {
    let text = fs::read_to_string(crate_directory().join("changelogs.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows: Vec<Vec<&str>> = rows.map(|row| row.split(" | ").collect()).collect();
    let mut count = 0;
    for row in rows.iter().filter(|row| row[0].chars().any(|letter| letter.is_ascii_digit())) {
        let [number, .., here] = row[..] else { panic!("{row:?}") };
        let mut names = in_backticks(here).filter(|name| name.contains("::")).peekable();
        assert!(names.peek().is_some() || here.starts_with("none: "), "{number}: {here}");
        for name in names {
            let (file, test) = name.split_once("::").unwrap();
            assert_there(name, &source_of(file), test);
            if file == "peers" {
                let source = fs::read_to_string(source_of(file)).unwrap();
                let places = source.match_indices(number);
                let is_there = places.into_iter().any(|(place, _)| {
                    source[place + number.len()..].starts_with(['"', ',', ':', '\n'])
                });
                assert!(is_there, "{number} is not tried in tests/peers.rs");
            }
        }
        count += 1;
    }
    assert!(count > 250, "the table was not found: {count} rows");
}
