//! `checkpoint`: an image of a container's processes.

use std::path::Path;

use anyhow::Result;

use super::Global;
use crate::checkpoint::{CheckpointOptions, checkpoint};
use crate::cli::Given;
use crate::plan::checkpoint::dump::{Typed, page_server};
use crate::plan::checkpoint::image::parent_path;
use crate::plan::checkpoint::{CgroupsMode, Flags, check_empty_namespace};

/// Where an image is that nobody has named.
pub const IMAGE: &str = "checkpoint";

/// Runs the verb.
pub fn run(given: &Given, global: &Global) -> Result<()> {
    let options = CheckpointOptions {
        image: given.path("image-path").unwrap_or_else(|| IMAGE.into()),
        work: given.path("work-path").filter(|path| is_named(path)),
        typed: Typed {
            flags: flags(given)?,
            leave_running: given.has("leave-running"),
            pre_dump: given.has("pre-dump"),
            parent: given
                .path("parent-path")
                .filter(|path| is_named(path))
                .map(parent_path)
                .transpose()?,
            tcp_skip_in_flight: given.has("tcp-skip-in-flight"),
            link_remap: given.has("link-remap"),
            page_server: given.text("page-server").map(page_server).transpose()?,
            status: given.number("status-fd").filter(|number| *number != -1),
        },
    };
    let container = global.store.load(given.id())?;
    checkpoint(&container, &options)
}

/// What an empty text says is nothing.
pub fn is_named(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

/// The options that `restore` takes too.
pub fn flags(given: &Given) -> Result<Flags> {
    given.texts("empty-ns").iter().try_for_each(|name| check_empty_namespace(name))?;
    Ok(Flags {
        tcp_established: given.has("tcp-established"),
        ext_unix_sk: given.has("ext-unix-sk"),
        shell_job: given.has("shell-job"),
        file_locks: given.has("file-locks"),
        auto_dedup: given.has("auto-dedup"),
        lazy_pages: given.has("lazy-pages"),
        cgroups_mode: given.text("manage-cgroups-mode").map(CgroupsMode::parse).transpose()?,
    })
}
