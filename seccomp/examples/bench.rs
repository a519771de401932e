//! Times the compilation of a profile: `cargo run --release --example bench [FILE]`.

use std::time::{Duration, Instant};

use ferrun_seccomp::{Arch, compile};

const DOCKER: &str = include_str!("../tests/data/docker-29.json");
const RUNS: usize = 1000;

fn main() -> anyhow::Result<()> {
    let text = std::env::args().nth(1).map_or(Ok(DOCKER.to_owned()), std::fs::read_to_string)?;
    let profile = serde_json::from_str(&text)?;
    let mut times = Vec::with_capacity(RUNS);
    let mut instructions = 0;
    for _ in 0..RUNS {
        let start = Instant::now();
        let filter = compile(&profile, Arch::native())?;
        times.push(start.elapsed());
        instructions = filter.instructions.len();
    }
    let first = times.first().copied().unwrap_or_default();
    times.sort_unstable();
    let median: Duration = times.get(RUNS / 2).copied().unwrap_or_default();
    println!("{instructions} instructions; first {first:?}, median {median:?} of {RUNS}");
    Ok(())
}
