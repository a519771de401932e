//! What was typed. Touches nothing.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::convert::Capabilities;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::seccomp::Choice;

/// Pulls an image from an OCI registry into a bundle.
#[derive(Debug, Parser)]
#[command(name = "image-tool", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Download, verify and unpack an image into BUNDLE
    Pull(Pull),
}

/// The arguments of `pull`.
#[derive(Debug, Args)]
pub struct Pull {
    /// The image as Docker names it (alpine:3.23, host:port/name@sha256:...), or oci:DIR[:TAG]
    #[arg(value_name = "REF")]
    pub reference: Reference,
    /// The directory for config.json and rootfs; it must be empty or absent
    pub bundle: PathBuf,
    /// Take the image for this platform instead of the machine's own
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<Platform>,
    /// Log in to the registry; without :PASS, or with -, read from standard input
    #[arg(long, value_name = "USER[:PASS]")]
    pub creds: Option<String>,
    /// Speak HTTP without TLS; by default with this machine only
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub plain_http: Option<bool>,
    /// The capabilities of the process
    #[arg(long, value_enum, default_value_t = Capabilities::Docker)]
    pub caps: Capabilities,
    /// The seccomp filter of the process: docker (the default profile of Docker), none, or a
    /// file with a profile as Docker and Podman take them
    #[arg(long, value_name = "docker|none|FILE", default_value = "docker")]
    pub seccomp: Choice,
    /// Give the process a terminal (process.terminal, TERM)
    #[arg(long)]
    pub tty: bool,
    /// Refuse images that unpack to more than this
    #[arg(long, value_name = "MIB", default_value_t = 64 << 10)]
    pub max_unpacked: u64,
    /// Print events as JSON, one a line; the last is the result
    #[arg(long)]
    pub json: bool,
    /// Print errors and warnings only
    #[arg(long, short, conflicts_with = "json")]
    pub quiet: bool,
    /// The program and its arguments, in place of the image's entry point and command
    #[arg(last = true)]
    pub command: Vec<String>,
}
