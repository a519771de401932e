//! `events`: what a container uses, once or again and again, and when the kernel
//! kills in it for want of memory.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use super::{Global, print, while_allowed};
use crate::cgroups::OomWatch;
use crate::cli::Given;
use crate::error::Kind;
use crate::store::{Container, Operation};

#[derive(Serialize)]
struct Event<'a, T: Serialize> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<T>,
}

/// Runs the verb.
pub fn run(given: &Given, global: &Global) -> Result<()> {
    let interval = given.text("interval").unwrap_or("5s");
    let interval =
        duration(interval).with_context(|| format!("--interval: {interval:?}: not a duration"))?;
    let container = global.store.load(given.id())?;
    while_allowed(global, &container, Operation::Events, || match given.has("stats") {
        true => print_stats(&container),
        false => watch(&container, interval),
    })
}

/// Prints events until the init process ends.
fn watch(container: &Container, interval: Duration) -> Result<()> {
    let Some(init) = container.open_init()? else {
        return Err(Kind::WrongState.error("container not running"));
    };
    let mut oom = OomWatch::new(&container.record.group).ok();
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let (ended, killed) = {
            let mut fds = vec![PollFd::new(&init, PollFlags::IN)];
            fds.extend(oom.as_ref().map(|oom| PollFd::new(oom, oom.interest())));
            match poll(&mut fds, Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context("poll"),
            }
            let happened = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
            (happened(0), happened(1))
        };
        if killed || ended {
            for _ in 0..oom.as_mut().map_or(0, OomWatch::take) {
                print_event::<()>("oom", container, None)?;
            }
        }
        if ended {
            return Ok(());
        }
        if next <= Instant::now() {
            print_stats(container)?;
            next += interval;
        }
    }
}

fn print_stats(container: &Container) -> Result<()> {
    print_event("stats", container, Some(container.stats()?))
}

fn print_event<T: Serialize>(kind: &str, container: &Container, data: Option<T>) -> Result<()> {
    let mut text = serde_json::to_vec(&Event { kind, id: &container.record.id, data })?;
    text.push(b'\n');
    print(&text)
}

/// A duration as Go writes it, `1m30s` or `500ms`; above zero, and no longer than its 63
/// bits of nanoseconds: no clock counts further.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match rest.get(..unit)? {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum = sum.checked_add(Duration::try_from_secs_f64(value * seconds).ok()?)?;
        rest = rest.get(unit..)?;
    }
    (!sum.is_zero() && sum <= Duration::from_nanos(i64::MAX as u64)).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, milliseconds) in [
            ("5s", 5000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("9223372036s", 9_223_372_036_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for wrong in
            ["", "5", "s", "0s", "5x", "-1s", "1e999s", "9223372037s", "9223372036854775807s"]
        {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }
}
