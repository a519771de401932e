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

/// The rows of a table whose first column holds a number, and whose last one says which tests
/// would notice, or why there are none.
fn rows(file: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(crate_directory().join(file)).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = rows.map(|row| row.split(" | ").map(str::to_owned).collect::<Vec<_>>());
    rows.filter(|row| row[0].chars().any(|letter| letter.is_ascii_digit())).collect()
}

/// Asserts that each test is there. Returns those that are named.
#[track_caller]
fn tests_of(row: &[String]) -> Vec<&str> {
    let (number, here) = (&row[0], row.last().expect("a column"));
    let is_test = |name: &&str| name.contains("::") || name.ends_with("_test.go");
    let names: Vec<&str> = in_backticks(here).filter(is_test).collect();
    assert!(!names.is_empty() || here.starts_with("none: "), "{number}: {here}");
    for name in &names {
        match name.split_once("::") {
            Some((file, test)) => assert_there(name, &source_of(file), test),
            None => assert!(crate_directory().join("..").join(name).exists(), "{name}"),
        }
    }
    names
}

/// A test of a source file, with its comment.
fn with_what_stands_above<'a>(source: &'a str, test: &str) -> &'a str {
    let place = source.find(&format!("fn {test}(")).expect("the test");
    let begin = source[..place].rfind("\n}\n").unwrap_or(0);
    let end = source[place..].find("\n}\n").expect("its end");
    &source[begin..place + end]
}

/// What other runtimes had to mend.
#[test]
fn each_row_of_the_changelogs_has_a_test_or_a_reason() {
    let rows = rows("changelogs.md");
    let peers = fs::read_to_string(source_of("peers")).unwrap();
    for row in &rows {
        let number = &row[0];
        for test in tests_of(row).iter().filter_map(|name| name.strip_prefix("peers::")) {
            let text = with_what_stands_above(&peers, test);
            let mut places = text.match_indices(number.as_str());
            let ends = |(place, _): (usize, &str)| {
                text[place + number.len()..].starts_with(['"', ',', ':', '\n'])
            };
            assert!(places.any(ends), "{number} is not tried in peers::{test}");
        }
    }
    assert!(rows.len() > 250, "the table was not found: {} rows", rows.len());
}

/// What the specification says.
#[test]
fn each_statement_of_the_specification_has_a_test_or_a_reason() {
    let rows = rows("specification.md");
    rows.iter().for_each(|row| _ = tests_of(row));
    let numbers: Vec<usize> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
    assert!(numbers.iter().copied().eq(1..=275), "a row is missing: {numbers:?}");
}
