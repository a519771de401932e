//! `checkpoint`: an image of a container's processes.

use std::path::Path;

use anyhow::Result;
use clap::ArgMatches;

use super::Global;
use crate::checkpoint::{CheckpointOptions, checkpoint};
use crate::cli::{id_of, path_of, text_of, texts_of};
use crate::plan::checkpoint::dump::{Typed, page_server};
use crate::plan::checkpoint::image::parent_path;
use crate::plan::checkpoint::{CgroupsMode, Flags, check_empty_namespace};

/// Where an image is that nobody has named.
pub const IMAGE: &str = "checkpoint";

/// Runs the verb.
pub fn run(matches: &ArgMatches, global: &Global) -> Result<()> {
    let options = CheckpointOptions {
        image: path_of(matches, "image-path").unwrap_or_else(|| IMAGE.into()),
        work: path_of(matches, "work-path").filter(|path| is_named(path)),
        typed: Typed {
            flags: flags(matches)?,
            leave_running: matches.get_flag("leave-running"),
            pre_dump: matches.get_flag("pre-dump"),
            parent: path_of(matches, "parent-path")
                .filter(|path| is_named(path))
                .map(parent_path)
                .transpose()?,
            tcp_skip_in_flight: matches.get_flag("tcp-skip-in-flight"),
            link_remap: matches.get_flag("link-remap"),
            page_server: text_of(matches, "page-server")
                .map(|text| page_server(&text))
                .transpose()?,
            status: matches.get_one("status-fd").copied().filter(|number| *number != -1),
        },
    };
    let container = global.store.load(id_of(matches))?;
    checkpoint(&container, &options)
}

/// What an empty text says is nothing.
pub fn is_named(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

/// The options that `restore` takes too.
pub fn flags(matches: &ArgMatches) -> Result<Flags> {
    texts_of(matches, "empty-ns").iter().try_for_each(|name| check_empty_namespace(name))?;
    Ok(Flags {
        tcp_established: matches.get_flag("tcp-established"),
        ext_unix_sk: matches.get_flag("ext-unix-sk"),
        shell_job: matches.get_flag("shell-job"),
        file_locks: matches.get_flag("file-locks"),
        auto_dedup: matches.get_flag("auto-dedup"),
        lazy_pages: matches.get_flag("lazy-pages"),
        cgroups_mode: text_of(matches, "manage-cgroups-mode")
            .map(|mode| CgroupsMode::parse(&mode))
            .transpose()?,
    })
}
