//! `ps`: the processes of a container, as pids or as ps(1) shows them.

use std::io::ErrorKind;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use procfs::process::Process;

use super::{Global, print, user_name, while_allowed};
use crate::cli::Given;
use crate::store::Operation;
use crate::text::printable;

/// Runs the verb.
pub fn run(given: &Given, global: &Global) -> Result<()> {
    let container = global.store.load(given.id())?;
    let pids = while_allowed(global, &container, Operation::Ps, || container.processes())?;
    if given.text("format") == Some("json") {
        let mut text = serde_json::to_vec(&pids)?;
        text.push(b'\n');
        return print(&text);
    }
    let options = given.texts("args");
    let mut command = Command::new("ps");
    if options.is_empty() {
        command.arg("-ef");
    }
    let output = match command.args(&options).output() {
        // A machine that only runs containers may have none.
        Err(error) if error.kind() == ErrorKind::NotFound && options.is_empty() => {
            return print(own_table(&pids).as_bytes());
        }
        output => output.context("ps")?,
    };
    if !output.status.success() {
        bail!("ps: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    print(rows_of(&String::from_utf8_lossy(&output.stdout), &pids)?.as_bytes())
}

/// The columns of `ps -ef` that matter most, by what procfs says. Who has ended
/// meanwhile is left out.
fn own_table(pids: &[u32]) -> String {
    let row = |pid: &u32| -> Option<String> {
        let process = Process::new(i32::try_from(*pid).ok()?).ok()?;
        let (stat, user) = (process.stat().ok()?, user_name(process.uid().ok()?));
        let seconds = (stat.utime + stat.stime) / procfs::ticks_per_second();
        let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        let command = process.cmdline().ok().filter(|words| !words.is_empty());
        let command = command.map_or_else(|| format!("[{}]", stat.comm), |words| words.join(" "));
        let row = format!("{user:<12} {pid:>7} {:>7} {time} {command}", stat.ppid);
        Some(printable(&row) + "\n")
    };
    let header = format!("{:<12} {:>7} {:>7} {:<8} CMD\n", "UID", "PID", "PPID", "TIME");
    std::iter::once(header).chain(pids.iter().filter_map(row)).collect()
}

/// The header and the rows whose PID is among `pids`.
fn rows_of(table: &str, pids: &[u32]) -> Result<String> {
    let header = table.lines().next().unwrap_or_default();
    let Some(column) = header.split_ascii_whitespace().position(|name| name == "PID") else {
        bail!("ps: its output has no column PID");
    };
    let is_of_container = |line: &&str| {
        let pid = line.split_ascii_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    let rows = table.lines().skip(1).filter(is_of_container);
    Ok(std::iter::once(header).chain(rows).map(|line| printable(line) + "\n").collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_ps_the_processes_are_shown_all_the_same() {
        let table = own_table(&[std::process::id(), u32::MAX]);
        let rows: Vec<&str> = table.lines().collect();
        assert_eq!(rows.len(), 2, "{table}");
        assert!(rows[1].contains(&std::process::id().to_string()), "{table}");
    }

    #[test]
    fn only_rows_of_the_container_are_shown() {
        let table =
            "UID  PID PPID CMD\nroot   1    0 init\nroot  21    1 sleep 1\nroot 210    1 x\n";
        assert_eq!(rows_of(table, &[21]).unwrap(), "UID  PID PPID CMD\nroot  21    1 sleep 1\n");
        assert!(rows_of("A B\n", &[1]).is_err());
    }
}
