//! Plans a container for each line of stdin, which is a config.json, and answers with a line:
//! why there can be none, or nothing. `conformance/` asks it.

use std::io::{BufRead as _, Write as _};
use std::path::Path;

use anyhow::Result;
use ferrun::bundle::parse_spec;
use ferrun::error::message;
use ferrun::plan::Plan;
use ferrun::plan::cgroup::{Hierarchy, Layout, Unified};
use ferrun::plan::host::Host;
use ferrun::plan::request::Request;

/// A machine that has every controller, in version 1.
fn host() -> Host {
    let root = Path::new("/sys/fs/cgroup");
    let names = [
        "blkio", "cpu", "cpuset", "devices", "freezer", "hugetlb", "memory", "net_cls", "net_prio",
        "pids", "rdma",
    ];
    let hierarchies = names
        .iter()
        .map(|name| Hierarchy { mount: root.join(name), controllers: vec![(*name).to_owned()] });
    let unified = Unified { mount: root.join("unified"), controllers: vec!["misc".to_owned()] };
    let cgroups = Layout::V1 { hierarchies: hierarchies.collect(), unified: Some(unified) };
    Host { cgroups, ..Host::default() }
}

fn plan(text: &str, host: &Host) -> Result<Plan> {
    let (spec, _) = parse_spec(text)?;
    Plan::new(&Request::new(&spec, Path::new("/bundle"), "c"), host)
}

fn main() -> Result<()> {
    let (host, mut answers) = (host(), std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        let answer = plan(&line?, &host).err().map(|error| message(&error));
        writeln!(answers, "{}", answer.unwrap_or_default())?;
    }
    Ok(())
}
