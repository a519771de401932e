//! Times the making and the loading of a profile's filter, beside libseccomp's:
//! `cargo run --release --example bench [PROFILE.json]`.

use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ferrun_seccomp::{Arch, Instruction, compile};
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use load::load;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompOperator as Operator,
};

#[path = "../tests/load/mod.rs"]
mod load;

const DOCKER: &str = include_str!("../tests/data/docker-29.json");
const COMPILATIONS: usize = 1000;
const LOADS: usize = 200;

fn main() -> Result<()> {
    let text = std::env::args().nth(1).map_or(Ok(DOCKER.to_owned()), std::fs::read_to_string)?;
    let profile: LinuxSeccomp = serde_json::from_str(&text)?;
    let ours = || Ok(compile(&profile, Arch::native())?.instructions);
    let theirs = || libseccomp_compile(&profile);
    report("ferrun", COMPILATIONS, ours)?;
    report("libseccomp", COMPILATIONS / 50, theirs)
}

fn report(
    who: &str,
    compilations: usize,
    make: impl Fn() -> Result<Vec<Instruction>>,
) -> Result<()> {
    let (first, compile) = times(compilations, || make().map(drop))?;
    let program = make()?;
    // Filters add up on a thread, so each is loaded by a new one.
    let time_of_load = || {
        let start = Instant::now();
        load(&program).map(|()| start.elapsed())
    };
    let mut loads = Vec::with_capacity(LOADS);
    for _ in 0..LOADS {
        let time = std::thread::scope(|scope| scope.spawn(time_of_load).join());
        loads.push(time.map_err(|_| anyhow!("the loading thread died"))??);
    }
    println!(
        "{who}: {} instructions; compiled in {compile:?} (at first {first:?}); loaded in {:?}",
        program.len(),
        median(loads)
    );
    Ok(())
}

/// The first and the median time of `count` runs.
fn times(count: usize, mut run: impl FnMut() -> Result<()>) -> Result<(Duration, Duration)> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed());
    }
    let first = times.first().copied().unwrap_or_default();
    Ok((first, median(times)))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The same filter by libseccomp, for profiles that only allow calls or fail
/// them, as those of the engines do.
fn libseccomp_compile(profile: &LinuxSeccomp) -> Result<Vec<Instruction>> {
    let action = |action, errno: Option<u32>| match action {
        Action::ScmpActAllow => Ok(ScmpAction::Allow),
        Action::ScmpActErrno => Ok(ScmpAction::Errno(errno.unwrap_or(1) as i32)),
        other => Err(anyhow!("{other}: not measured here")),
    };
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut filter = ScmpFilterContext::new(default)?;
    for arch in profile.architectures().iter().flatten() {
        filter.add_arch(arch.to_string().parse::<ScmpArch>()?)?;
    }
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        if action == default {
            continue;
        }
        let conditions = rule.args().iter().flatten().map(|arg| {
            let (op, datum) = match arg.op() {
                Operator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
                Operator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
                Operator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
                Operator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
                Operator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
                Operator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
                Operator::ScmpCmpMaskedEq => {
                    (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0))
                }
            };
            ScmpArgCompare::new(arg.index() as u32, op, datum)
        });
        let conditions: Vec<_> = conditions.collect();
        for name in rule.names() {
            if let Ok(call) = ScmpSyscall::from_name(name) {
                filter.add_rule_conditional(action, call, &conditions).context(name.clone())?;
            }
        }
    }
    let (mut reader, writer) = std::io::pipe()?;
    filter.export_bpf(&writer)?;
    drop(writer);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    let (instructions, _) = bytes.as_chunks::<8>();
    Ok(instructions
        .iter()
        .map(|&[c0, c1, jt, jf, k0, k1, k2, k3]| Instruction {
            code: u16::from_ne_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_ne_bytes([k0, k1, k2, k3]),
        })
        .collect())
}
