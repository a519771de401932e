//! `list`: a table, or JSON.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{Global, print, user_name};
use crate::cli::Given;
use crate::error::{errno, message};
use crate::log;
use crate::store::StateJson;
use crate::text::printable;

/// Runs the verb.
pub fn run(given: &Given, global: &Global) -> Result<()> {
    let containers = match global.store.list() {
        // The default place comes into being with the first container.
        Err(error)
            if !global.root_given
                && errno(&error) == Some(libc::ENOENT)
                && !global.has_no_place() =>
        {
            Vec::new()
        }
        containers => containers?,
    };
    if given.has("quiet") {
        let ids: String = containers.iter().map(|c| format!("{}\n", c.record.id)).collect();
        return print(ids.as_bytes());
    }
    // Most containers are one user's.
    let mut names: BTreeMap<u32, String> = BTreeMap::new();
    let states = containers
        .iter()
        .filter_map(|container| {
            let owner = container.record.owner;
            let name = names.entry(owner).or_insert_with(|| user_name(owner)).clone();
            let id = &container.record.id;
            // One that cannot be looked at hides none of the others.
            container
                .state(name)
                .map_err(|error| log::warn(format!("container {id:?}: {}", message(&error))))
                .ok()
        })
        .collect::<Vec<_>>();
    if given.text("format") == Some("json") {
        // runc prints null for an empty list, and callers know it.
        let mut text = match states.is_empty() {
            true => b"null".to_vec(),
            false => serde_json::to_vec(&states)?,
        };
        text.push(b'\n');
        return print(&text);
    }
    print(table(&states).as_bytes())
}

/// The columns of runc, each at least 12 wide and 3 apart.
fn table(states: &[StateJson<'_>]) -> String {
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let row = |state: &StateJson<'_>| {
        let bundle = printable(&state.bundle.to_string_lossy());
        let pid = state.pid.unwrap_or_default().to_string();
        let (created, owner) = match &state.more {
            Some(more) => (more.created.to_owned(), more.owner.clone()),
            None => Default::default(),
        };
        [state.id.to_owned(), pid, state.status.to_owned(), bundle, created, owner]
    };
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(states.iter().map(row)).collect();
    let width = |column: usize| {
        let longest =
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        (longest.max().unwrap_or(0) + 3).max(12)
    };
    let widths: Vec<usize> = (0..5).map(width).chain([0]).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<String>() + "\n"
        })
        .collect()
}
