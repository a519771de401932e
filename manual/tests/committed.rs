//! The committed pages and completions are those of the definitions.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// As bash calls them; what is typed ends with a blank.
fn offered_by_bash(program: &str, typed: &str) -> String {
    let file = repository().join(format!("packaging/completions/{program}.bash"));
    let function = program.replace('-', "__");
    let script = format!(
        "ferrun() {{ [ \"$*\" = 'list --quiet' ] && echo one two; }}\n\
         source {}; COMP_WORDS=({typed} ''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
         _{function} {program} '' \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; echo \"${{COMPREPLY[*]}}\"",
        file.display()
    );
    let output = Command::new("bash").args(["-c", &script]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

#[test]
fn the_shell_offers_containers_where_one_is_named() {
    for verb in ["delete", "exec", "kill", "ps", "start", "state", "update"] {
        let offered = offered_by_bash("ferrun", &format!("ferrun {verb}"));
        assert!(offered.trim_end().ends_with(" one two"), "{verb}: {offered}");
    }
    for verb in ["create", "list", "run", "spec"] {
        let offered = offered_by_bash("ferrun", &format!("ferrun {verb}"));
        assert!(offered.contains("--help") && !offered.contains("one"), "{verb}: {offered}");
    }
    assert!(offered_by_bash("image-tool", "image-tool pull").contains("--platform"));
}
