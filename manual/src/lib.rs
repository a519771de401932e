//! The man pages and shell completions, as texts.
//!
//! Apart from the runtime, so that it links neither generator. What can be typed
//! comes from the definitions that parse it; the rest of a page is written by
//! hand in `text/`. The results are committed, and a test holds them against the
//! definitions: nobody needs this crate to install them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{Arg, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

// image-tool is a program without a library: the files that its definitions
// need are compiled once more.
#[path = "../../image-tool/src/cli.rs"]
mod cli;
#[allow(dead_code)]
#[path = "../../image-tool/src/convert.rs"]
mod convert;
#[allow(dead_code)]
#[path = "../../image-tool/src/digest.rs"]
mod digest;
#[path = "../../image-tool/src/json.rs"]
mod json;
#[allow(dead_code)]
#[path = "../../image-tool/src/limits.rs"]
mod limits;
#[allow(dead_code)]
#[path = "../../image-tool/src/manifest.rs"]
mod manifest;
#[allow(dead_code)]
#[path = "../../image-tool/src/platform.rs"]
mod platform;
#[allow(dead_code)]
#[path = "../../image-tool/src/reference.rs"]
mod reference;
#[allow(dead_code)]
#[path = "../../image-tool/src/seccomp.rs"]
mod seccomp;
#[allow(dead_code)]
#[path = "../../image-tool/src/users.rs"]
mod users;

/// The directories that hold generated files and nothing else.
pub const DIRECTORIES: [&str; 2] = ["man", "packaging/completions"];

/// The shells, and how each wants the completions of a program to be called.
const SHELLS: [(Shell, &str, &str); 3] =
    [(Shell::Bash, "", ".bash"), (Shell::Zsh, "_", ""), (Shell::Fish, "", ".fish")];

/// How an apostrophe is written so that it stays one, as each section has it.
const PREAMBLE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

/// A generated file.
#[derive(Debug, PartialEq, Eq)]
pub struct Generated {
    /// Where it belongs, from the root of the repository.
    pub path: PathBuf,
    /// What it holds.
    pub text: String,
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file, as it should be now. Fails where a page has no text in `text/`.
pub fn generate() -> Result<Vec<Generated>> {
    let mut ferrun = ferrun::cli::command();
    ferrun.build();
    let mut image_tool = cli::Cli::command();
    image_tool.build();

    let mut files = vec![page(&ferrun, "8")?];
    for verb in ferrun.get_subcommands() {
        files.push(page(verb, "8")?);
    }
    // Its one verb has its options on the page of the program.
    for verb in image_tool.get_subcommands().filter(|verb| verb.get_name() != "help") {
        let about = image_tool.get_about().cloned().unwrap_or_default();
        files.push(page(&verb.clone().display_name(image_tool.get_name()).about(about), "1")?);
    }
    files.push(whole_page("containerd-shim-ferrun-v2", "8")?);
    for program in [&ferrun, &image_tool] {
        for (shell, before, after) in SHELLS {
            let name = format!("{before}{}{after}", program.get_name());
            files.push(completions(program, shell, &name)?);
        }
    }
    Ok(files)
}

/// The man page of a command. The options stand behind the first of the sections
/// that are written by hand.
fn page(command: &Command, section: &str) -> Result<Generated> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let file = repository().join("manual/text").join(format!("{name}.roff"));
    let by_hand = fs::read_to_string(&file).with_context(|| format!("{file:?}"))?;
    let (description, rest) = match by_hand.match_indices("\n.SH ").next() {
        Some((at, _)) => by_hand.split_at(at + 1),
        None => (by_hand.as_str(), ""),
    };

    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
    let command = command.clone().override_usage(usage).mut_args(without_obvious_values);
    let man = Man::new(command.clone()).section(section);
    let mut text = head(&name, section, "the command line's definitions and ");
    text += &rendered(|out| man.render_name_section(out))?;
    text += &rendered(|out| man.render_synopsis_section(out))?;
    text += description;
    // The generator has both under one heading, the arguments behind the last option.
    if command.get_positionals().next().is_some() {
        let alone = command.clone().mut_args(|arg| match arg.is_positional() {
            true => arg,
            false => arg.hide(true),
        });
        let section = rendered(|out| Man::new(alone.clone()).render_options_section(out))?;
        text += &section.replacen(".SH OPTIONS", ".SH ARGUMENTS", 1);
    }
    let options = command.clone().mut_args(|arg| match arg.is_positional() {
        true => arg.hide(true),
        false => arg,
    });
    text += &rendered(|out| Man::new(options.clone()).render_options_section(out))?;
    if command.has_subcommands() {
        text += &rendered(|out| man.render_subcommands_section(out))?;
    }
    text += rest;

    let path = Path::new("man").join(format!("{name}.{section}"));
    Ok(Generated { path, text })
}

/// The man page of a program that people do not type, which is written by hand.
fn whole_page(name: &str, section: &str) -> Result<Generated> {
    let file = repository().join("manual/text").join(format!("{name}.roff"));
    let by_hand = fs::read_to_string(&file).with_context(|| format!("{file:?}"))?;
    let path = Path::new("man").join(format!("{name}.{section}"));
    Ok(Generated { path, text: head(name, section, "") + &by_hand })
}

/// What a page begins with, and what it is generated from.
fn head(name: &str, section: &str, more: &str) -> String {
    format!(
        ".\\\" Generated from {more}manual/text/{name}.roff\n\
         {PREAMBLE}.TH {} {section} \"\" \"ferrun {}\" Containers\n",
        name.to_uppercase(),
        env!("CARGO_PKG_VERSION")
    )
}

/// A section without the preamble, which stands at the top of the page.
fn rendered(render: impl Fn(&mut dyn Write) -> io::Result<()>) -> Result<String> {
    let mut section = Vec::new();
    render(&mut section)?;
    let section = String::from_utf8(section)?;
    Ok(section.strip_prefix(PREAMBLE).unwrap_or(&section).to_owned())
}

/// A list of values that only repeats what the help says is left out.
fn without_obvious_values(argument: Arg) -> Arg {
    let explained = argument.get_possible_values().iter().any(|value| value.get_help().is_some());
    argument.hide_possible_values(!explained)
}

fn completions(program: &Command, shell: Shell, file: &str) -> Result<Generated> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut program.clone(), program.get_name(), &mut text);
    let mut text = String::from_utf8(text)?;
    // The generator takes a hyphen of the name for the beginning of a verb, in one place of two.
    let split = program.get_name().replace('-', "__subcmd__");
    text = text
        .replace(&format!("{split}__"), &format!("{}__", program.get_name().replace('-', "__")));
    for verb in program.get_subcommands().filter(|verb| names_a_container(verb)) {
        text = with_ids(&text, shell, verb.get_name())?;
    }
    if shell == Shell::Zsh && text.contains(OFFERED) {
        text = text.replacen(
            "\n\n",
            &format!("\n\n{OFFERED}() {{ compadd -- ${{(f)\"$({LIST})\"}} }}\n\n"),
            1,
        );
    }
    let path = Path::new("packaging/completions").join(file);
    Ok(Generated { path, text })
}

/// What prints the IDs of all containers, and zsh's function that offers them.
const LIST: &str = "ferrun list --quiet 2>/dev/null";
const OFFERED: &str = "_ferrun_ids";

/// Whether a verb takes the ID of a container that is there.
fn names_a_container(verb: &Command) -> bool {
    let makes_one = ["create", "restore", "run"].contains(&verb.get_name());
    !makes_one && verb.get_positionals().any(|argument| argument.get_id() == "id")
}

/// Completions that offer the IDs of containers as the first argument of a verb, about which the
/// generator knows nothing.
fn with_ids(text: &str, shell: Shell, verb: &str) -> Result<String> {
    let replaced = |start: &str, old: &str, new: &str| {
        let at = text.find(start).with_context(|| format!("{start:?}: not in the completions"))?;
        let (before, after) = text.split_at(at);
        ensure!(after.contains(old), "{old:?}: not behind {start:?}");
        Ok(format!("{before}{}", after.replacen(old, new, 1)))
    };
    match shell {
        Shell::Bash => {
            let start = format!("        ferrun__subcmd__{verb})\n            opts=");
            replaced(&start, "\"\n", &format!(" $({LIST})\"\n"))
        }
        Shell::Zsh => replaced(
            &format!("({verb})\n_arguments"),
            "s ID:_default'",
            &format!("s ID:{OFFERED}'"),
        ),
        _ => Ok(format!(
            "{text}complete -c ferrun -n \"__fish_ferrun_using_subcommand {verb}\" -f -a '({LIST})'\n"
        )),
    }
}
