//! Pulls an image from an OCI registry into a bundle.

mod archive;
mod cli;
mod convert;
mod digest;
mod json;
mod layer;
mod layout;
mod limits;
mod manifest;
mod pipe;
mod platform;
mod progress;
mod pull;
mod reference;
mod registry;
mod rootfs;
mod seccomp;
mod source;
mod target;
mod text;
mod tree;
mod users;

use std::io::{Write as _, stderr};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::progress::Progress;

fn main() -> ExitCode {
    let Command::Pull(arguments) = Cli::parse().command;
    let progress = Arc::new(Progress::new(arguments.json, arguments.quiet));
    match pull::pull(&arguments, &progress) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever a library or a server has to say.
            let message = text::printable(&format!("{error:#}").replace('\n', " "));
            progress.failed(&message);
            // Not eprintln, which panics where standard error is closed.
            let _ = writeln!(stderr().lock(), "image-tool: {message}");
            ExitCode::FAILURE
        }
    }
}
