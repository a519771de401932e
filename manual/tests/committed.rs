//! The committed pages and completions are those of the definitions.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use manual::{DIRECTORIES, generate, repository};

#[test]
fn the_committed_files_are_what_the_definitions_give() {
    for file in generate().unwrap() {
        let path = repository().join(&file.path);
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == file.text, "{}: run `make man`", file.path.display());
    }
}

#[test]
fn no_page_is_left_of_a_command_that_is_gone() {
    let generated: BTreeSet<PathBuf> =
        generate().unwrap().into_iter().map(|file| file.path).collect();
    let committed: BTreeSet<PathBuf> = DIRECTORIES
        .iter()
        .flat_map(|directory| {
            fs::read_dir(repository().join(directory))
                .unwrap()
                .map(move |entry| Path::new(directory).join(entry.unwrap().file_name()))
        })
        .collect();
    assert_eq!(committed, generated);
}

#[test]
fn every_option_of_every_verb_is_on_its_page() {
    let mut command = ferrun::cli::command();
    command.build();
    for verb in command.get_subcommands() {
        let path = repository().join(format!("man/ferrun-{}.8", verb.get_name()));
        let page = fs::read_to_string(path).unwrap().replace('\\', "");
        for argument in verb.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let Some(long) = argument.get_long() else { continue };
            assert!(page.contains(&format!("--{long}")), "{}: --{long}", verb.get_name());
        }
    }
}
