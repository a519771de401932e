//! What stands between containerd and the runtime: our shim in both ways in which containerd can
//! be told of it, or containerd's own, to compare with (`SHIM=go`).

use std::path::PathBuf;

use integration::runtime;

use crate::containerd::{Containerd, Release};
use crate::own_file;

/// A shim, as containerd is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shim {
    /// Ours by a type of its own, `io.containerd.ferrun.v2`.
    Own,
    /// Ours by its path, in the place of the one of `io.containerd.runc.v2`.
    ByPath,
    /// containerd's, which calls the runtime as a program.
    Go,
}

impl Shim {
    /// Those that are tested: ours in both ways, unless `$SHIM` has the word of one.
    pub fn tested() -> Vec<Self> {
        match std::env::var("SHIM").as_deref() {
            Ok("go") => vec![Self::Go],
            Ok("own") => vec![Self::Own],
            Ok("path") => vec![Self::ByPath],
            Ok(other) => panic!("SHIM={other}: go, own or path"),
            Err(_) => vec![Self::Own, Self::ByPath],
        }
    }

    /// Whether it is ours. `reason` is why it matters.
    pub fn is_ours(self) -> bool {
        self != Self::Go
    }

    /// Our program: `$SHIM_PROGRAM`, or the one that `make` has built.
    pub fn program() -> PathBuf {
        let built = || own_file("../../bin/containerd-shim-ferrun-v2");
        let path = std::env::var_os("SHIM_PROGRAM").map_or_else(built, PathBuf::from);
        path.canonicalize().unwrap_or_else(|error| panic!("{path:?}: {error}: make it first"))
    }

    /// What `ctr run` and `ctr container create` are told.
    pub fn words(self) -> String {
        match self {
            Self::Own => "--runtime io.containerd.ferrun.v2".to_owned(),
            Self::ByPath => format!("--runtime {}", Self::program().display()),
            Self::Go => format!("--runc-binary {}", runtime().program.display()),
        }
    }

    /// The name of its runtime class in the daemon's configuration.
    pub fn handler(self) -> &'static str {
        match self {
            Self::Own => "shim",
            Self::ByPath => "shim-by-path",
            Self::Go => crate::runtime_name(),
        }
    }

    /// Both of ours for the configuration of a daemon.
    pub fn handlers(release: Release) -> String {
        let plugin = match release {
            Release::Debian => "io.containerd.grpc.v1.cri",
            _ => "io.containerd.cri.v1.runtime",
        };
        let class = |shim: Self, lines: &str| {
            let handler = shim.handler();
            format!("[plugins.'{plugin}'.containerd.runtimes.{handler}]\n{lines}\n")
        };
        let program = Self::program();
        class(Self::Own, "runtime_type = 'io.containerd.ferrun.v2'")
            + &class(
                Self::ByPath,
                &format!(
                    "runtime_type = 'io.containerd.runc.v2'\nruntime_path = {:?}",
                    program.display().to_string()
                ),
            )
    }
}

impl<'place> Containerd<'place> {
    /// The words of `ctr run` with a shim: options, an ID, and a program.
    pub fn run_line_by(&self, shim: Shim, options: &str, id_and_program: &str) -> String {
        let image = "127.0.0.1:5000/library/alpine:latest";
        format!("run {} {options} {image} {id_and_program}", shim.words())
    }
}
