//! The README's table of subjects names tests that exist.

use std::fs;
use std::path::Path;

#[test]
fn each_test_that_the_readme_names_is_there() {
    let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(crate_directory.join("README.md")).unwrap();
    let rows = readme.lines().filter(|line| line.starts_with("| ") && line.contains("::"));
    let names = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let mut count = 0;
    for name in names {
        let (file, test) = name.split_once("::").unwrap();
        let path = match file.ends_with(".rs") {
            true => crate_directory.join("..").join(file),
            false => crate_directory.join("tests").join(file).with_extension("rs"),
        };
        let source = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let place = source.find(&format!("fn {test}() {{"));
        let place = place.unwrap_or_else(|| panic!("{name} is not there"));
        let is_test = source[..place].trim_end().ends_with("#[test]");
        assert!(is_test, "{name} is no test, or an ignored one");
        count += 1;
    }
    assert!(count > 50, "the table was not found: {count} names");
}
