//! `kill`: a signal to the init process.

use std::str::FromStr as _;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::Global;
use crate::cli::Given;
use crate::signal;

/// Runs the verb.
pub fn run(given: &Given, global: &Global) -> Result<()> {
    let number = signal_number(given.text("signal").unwrap_or("SIGTERM"))?;
    let container = global.store.load(given.id())?;
    match given.has("all") {
        true => signal::send_to_all(&container, number),
        false => signal::send(&container, number),
    }
}

/// The number of a signal that is given as one, or by name with or without SIG.
fn signal_number(text: &str) -> Result<i32> {
    if let Ok(number) = text.parse::<i32>() {
        if (0..=libc::SIGRTMAX()).contains(&number) {
            return Ok(number);
        }
        bail!("unknown signal {text:?}");
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    if let Ok(signal) = Signal::from_str(&name) {
        return Ok(signal as i32);
    }
    real_time(&name).with_context(|| format!("unknown signal {text:?}"))
}

/// SIGRTMIN+n and SIGRTMAX-n, which stop signals of images may be.
fn real_time(name: &str) -> Option<i32> {
    let number = if let Some(rest) = name.strip_prefix("SIGRTMIN") {
        libc::SIGRTMIN() + if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse().ok()? }
    } else {
        let rest = name.strip_prefix("SIGRTMAX")?;
        libc::SIGRTMAX() - if rest.is_empty() { 0 } else { rest.strip_prefix('-')?.parse().ok()? }
    };
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers_and_names() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("term", 15),
            ("0", 0),
            ("37", 37),
            ("SIGRTMIN+3", 37),
        ] {
            assert_eq!(signal_number(text).unwrap(), number, "{text}");
        }
        for wrong in ["", "SIG", "BOGUS", "65", "-1", "SIGRTMIN+99", "9x"] {
            assert!(signal_number(wrong).is_err(), "{wrong}");
        }
    }
}
