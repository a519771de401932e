//! Measures ferrun beside other runtimes and beside a floor: a program that does
//! only what the bundle needs. See docs/performance.md for what comes out.

mod bed;
mod bounds;
mod cases;
mod engines;
mod images;
mod picture;
mod report;
mod results;
mod runtime;
mod sample;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Error, Result, bail};

use bed::{Bed, Failed, Place, View};
use cases::Extent;
use results::{Record, Results, Setting};
use runtime::{FERRUN, Runtime};

const USAGE: &str = "\
usage: bench --ferrun PATH [--image-tool PATH] [--runtime NAME=PATH]... [--rounds N]
             [--existing N,...] --output DIRECTORY
       bench --render DIRECTORY
       bench --shims FILE DIRECTORY

Measures ferrun, the installed crun and runc, every --runtime, and a floor. Needs
root, strace, cc and busybox-static; for images skopeo, umoci and docker-registry;
for engines containerd and docker.io; for pods what make engines-current builds.
DIRECTORY gets performance.json, performance.md and pictures; --render writes the
latter two again from the first, and --shims does so with what the tests of engines
have measured of shims.
";

/// What the command line asks for.
#[derive(Debug)]
struct Request {
    ferrun: PathBuf,
    image_tool: Option<PathBuf>,
    others: Vec<Runtime>,
    extent: Extent,
    output: PathBuf,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        [] | ["--help"] => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
        ["--render", directory] => report::rewrite(Path::new(directory)),
        ["--shims", file, directory] => report::add_shims(Path::new(file), Path::new(directory)),
        ["--engines", rounds, group] => engines::print(rounds, group),
        words => parse(words).and_then(|request| measure(&request)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[&str]) -> Result<Request> {
    let mut extent = Extent { rounds: 40, existing: vec![100, 1000] };
    let (mut ferrun, mut image_tool, mut output, mut others) = (None, None, None, Vec::new());
    let path = |text: &str| Path::new(text).canonicalize().with_context(|| text.to_owned());
    for pair in words.chunks(2) {
        let [option, value] = *pair else { bail!("{pair:?}: needs a value\n{USAGE}") };
        match option {
            "--ferrun" => ferrun = Some(path(value).context(option.to_owned())?),
            "--image-tool" => image_tool = Some(path(value).context(option.to_owned())?),
            "--output" => output = Some(path(value).context(option.to_owned())?),
            "--runtime" => {
                others.push(Runtime::parse(value).with_context(|| format!("{option} {value}"))?);
            }
            "--rounds" => {
                extent.rounds = value.parse().with_context(|| format!("{option} {value}"))?
            }
            "--existing" => {
                let counts = value.split(',').filter(|count| !count.is_empty()).map(str::parse);
                extent.existing = counts
                    .collect::<Result<_, _>>()
                    .with_context(|| format!("{option} {value}"))?;
            }
            _ => bail!("{option}: unknown\n{USAGE}"),
        }
    }
    Ok(Request {
        ferrun: ferrun.context("--ferrun is needed")?,
        output: output.context("--output is needed")?,
        image_tool,
        others,
        extent,
    })
}

/// Measures all, and writes what there is after each part: it takes minutes.
fn measure(request: &Request) -> Result<()> {
    let mut runtimes = vec![Runtime { name: FERRUN.into(), path: request.ferrun.clone() }];
    runtimes.extend(["crun", "runc"].into_iter().filter_map(Runtime::installed));
    runtimes.extend(request.others.iter().cloned());
    runtimes.push(Runtime::floor());

    let mut conditions = machine()?;
    conditions.extend(runtimes.iter().map(|r| (r.name.clone(), r.version())));
    conditions.push(("load at the beginning".into(), load()));
    let mut results = Results { conditions, ..Results::default() };

    match engines::measure(&request.ferrun, request.extent.rounds) {
        Ok(measured) => {
            results.engines = measured.records;
            results.skipped.extend(measured.skipped);
        }
        Err(error) => results.skipped.push(format!("engines: {error:#}")),
    }
    report::write(&results, &request.output)?;
    let place = Place::new()?;
    let copies = runtimes.iter().map(|runtime| runtime.copied(&place.programs));
    let mut copies = copies.collect::<Result<Vec<_>>>()?;
    copies.insert(1, runtimes[0].on_read_only_mount(&place.programs)?);
    let runtimes = copies;
    for view in [View::V1, View::V2] {
        match Bed::new(view, &place) {
            Ok(bed) => measure_view(&bed, request, &runtimes, &mut results)?,
            Err(error) => results.skipped.push(format!("{}: {error:#}", view.name())),
        }
        report::write(&results, &request.output)?;
    }
    match &request.image_tool {
        Some(tool) => match images::measure(tool, &place.directory, 5) {
            Ok(images) => results.images = images,
            Err(error) => results.skipped.push(format!("images: {error:#}")),
        },
        None => results.skipped.push("images: no --image-tool".into()),
    }
    results.conditions.push(("load at the end".into(), load()));
    report::write(&results, &request.output)
}

fn measure_view(
    bed: &Bed,
    request: &Request,
    runtimes: &[Runtime],
    results: &mut Results,
) -> Result<()> {
    let config = bed.default_config(&request.ferrun)?;
    let mut able = Vec::new();
    for runtime in runtimes {
        match cases::probe(bed, runtime, &config) {
            Ok(()) => able.push(runtime.clone()),
            Err(error) => {
                let reason = format!("{}, {}: {error:#}", runtime.name, bed.view.name());
                results.skipped.push(reason);
            }
        }
    }
    let rounds = request.extent.rounds;
    let few = rounds.div_ceil(4);
    let mut take = |setting, case: &dyn Fn(&[Runtime]) -> Result<Vec<Record>>| {
        say(bed, setting);
        results.records.extend(measured(&mut able, case, |error| {
            bed.clear();
            results.skipped.push(format!("{setting:?}, {}: {error:#}", bed.view.name()));
        }));
    };
    take(Setting::Default, &|able| cases::lives(bed, able, &config, rounds));
    for count in [100, bed::MOST_BINDS] {
        take(Setting::Binds(count), &|able| cases::binds(bed, able, &config, count, few));
    }
    for setting in cases::many_settings() {
        take(setting, &|able| cases::many(bed, able, &config, setting, few.div_ceil(3)));
    }
    for &count in &request.extent.existing {
        take(Setting::Existing(count), &|able| cases::existing(bed, able, &config, count, few));
    }
    Ok(())
}

/// What a case finds with all that are able. Who fails is told of and left out from then on, and
/// the others are measured anew: a peer that breaks down takes nobody's figures along.
fn measured(
    able: &mut Vec<Runtime>,
    case: &dyn Fn(&[Runtime]) -> Result<Vec<Record>>,
    mut tell: impl FnMut(&Error),
) -> Vec<Record> {
    loop {
        let error = match case(able) {
            Ok(records) => return records,
            Err(error) => error,
        };
        tell(&error);
        let failed = error.downcast_ref::<Failed>();
        let before = able.len();
        able.retain(|runtime| failed.is_none_or(|failed| failed.program != runtime.path));
        if able.len() == before {
            return Vec::new();
        }
    }
}

fn say(bed: &Bed, setting: Setting) {
    eprintln!("bench: {}: {setting:?}, load {}", bed.view.name(), load());
}

/// The machine, its kernel, the day.
fn machine() -> Result<Vec<(String, String)>> {
    let cpu = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let named = |line: &&str| line.starts_with("model name");
    let model = cpu.lines().find(named).and_then(|line| line.split_once(": "));
    let processors = std::thread::available_parallelism()?;
    let kernel = rustix::system::uname();
    let date = Command::new("date").args(["-u", "+%F %H:%M UTC"]).output().context("date")?;
    Ok(vec![
        ("date".into(), String::from_utf8_lossy(&date.stdout).trim().to_owned()),
        (
            "machine".into(),
            format!("{processors} processors, {}", model.map_or("unknown", |(_, model)| model)),
        ),
        (
            "kernel".into(),
            format!(
                "{} {}",
                kernel.sysname().to_string_lossy(),
                kernel.release().to_string_lossy()
            ),
        ),
    ])
}

/// The load averages of 1, 5 and 15 minutes.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_is_left_out_and_the_others_are_measured_anew() {
        let runtime = |name: &str| Runtime { name: name.into(), path: format!("/{name}").into() };
        let failed = || Failed { program: "/b".into(), text: "b fails".into() };
        let mut able = vec![runtime("a"), runtime("b")];
        let (mut told, tried) = (Vec::new(), std::cell::Cell::new(0));
        let case = |able: &[Runtime]| {
            tried.set(tried.get() + 1);
            if able.contains(&runtime("b")) { Err(failed().into()) } else { Ok(Vec::new()) }
        };
        measured(&mut able, &case, |error| told.push(error.to_string()));
        assert_eq!((able.as_slice(), tried.get()), (&[runtime("a")][..], 2));
        measured(&mut able, &|_| bail!("no strace"), |error| told.push(error.to_string()));
        assert_eq!((able.len(), told), (1, vec!["b fails".to_owned(), "no strace".to_owned()]));
    }
}
