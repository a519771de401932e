//! Results as Markdown tables and as pictures.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;

use crate::bed::View;
use crate::bounds::{Bound, bounds};
use crate::picture::{self, Group, short};
use crate::results::{Record, Results, Setting};

const BEGIN: &str = "<!-- begin: written by bench, do not edit -->\n";
const END: &str = "<!-- end -->\n";
const COMMANDS: [&str; 8] = ["run", "create", "start", "exec", "state", "kill", "delete", "list"];

/// Writes performance.json, the pictures, and the generated part of
/// performance.md in `directory`.
pub fn write(results: &Results, directory: &Path) -> Result<()> {
    let mut text = serde_json::to_string_pretty(results)?;
    text.push('\n');
    save(directory, "performance.json", &text)?;
    render(results, directory)
}

/// The same from a performance.json that is there already.
pub fn rewrite(directory: &Path) -> Result<()> {
    render(&read(&directory.join("performance.json"))?, directory)
}

/// The same with what `file` says of shims.
pub fn add_shims(file: &Path, directory: &Path) -> Result<()> {
    let mut results: Results = read(&directory.join("performance.json"))?;
    results.shims = read(file)?;
    write(&results, directory)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("{path:?}"))?;
    serde_json::from_slice(&text).with_context(|| format!("{path:?}"))
}

fn render(results: &Results, directory: &Path) -> Result<()> {
    for picture in pictures(results) {
        save(directory, &picture.file, &picture.svg())?;
    }
    let path = directory.join("performance.md");
    let page = fs::read_to_string(&path).unwrap_or_else(|_| format!("{BEGIN}{END}"));
    let page = replace_generated(&page, &markdown(results))
        .with_context(|| format!("{path:?}: the markers of the generated part are missing"))?;
    save(directory, "performance.md", &page)
}

fn save(directory: &Path, name: &str, text: &str) -> Result<()> {
    let path = directory.join(name);
    fs::write(&path, text).with_context(|| format!("{path:?}"))
}

/// The page with another generated part.
fn replace_generated(page: &str, generated: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{generated}{END}{after}"))
}

/// A picture, and where it belongs.
struct Picture {
    file: String,
    title: String,
    unit: &'static str,
    groups: Vec<Group>,
}

impl Picture {
    fn svg(&self) -> String {
        picture::bars(&self.title, self.unit, &self.groups)
    }
}

/// All pictures for which there are figures.
fn pictures(results: &Results) -> Vec<Picture> {
    let mut pictures = Vec::new();
    for view in [View::V1, View::V2] {
        let name = view.name();
        pictures.push(Picture {
            file: format!("performance-{name}.svg"),
            title: format!("CPU time of each command, cgroup {name}"),
            unit: "milliseconds, median; less is better",
            groups: command_groups(results, view),
        });
        pictures.push(Picture {
            file: format!("performance-{name}-growth.svg"),
            title: format!("CPU time where there is more of something, cgroup {name}"),
            unit: "milliseconds, median; less is better",
            groups: growth_groups(results, view),
        });
        pictures.push(Picture {
            file: format!("performance-{name}-many.svg"),
            title: format!("Many containers, cgroup {name}"),
            unit: "containers a second, median; more is better",
            groups: many_groups(results, view),
        });
    }
    pictures.push(Picture {
        file: "performance-images.svg".into(),
        title: "Pulling an image into a bundle".into(),
        unit: "milliseconds of wall time, median; less is better",
        groups: image_groups(results),
    });
    pictures.push(Picture {
        file: "performance-engines.svg".into(),
        title: "Where an engine calls the runtime".into(),
        unit: "milliseconds of wall time, median; less is better",
        groups: engine_groups(results),
    });
    pictures.push(Picture {
        file: "performance-shim.svg".into(),
        title: "containerd with one shim or another".into(),
        unit: "milliseconds of CPU time of shim and runtime, median; less is better",
        groups: shim_groups(results),
    });
    pictures.retain(|picture| !picture.groups.is_empty());
    pictures
}

/// One group of bars: a figure of every runtime that has it. One bar alone shows nothing.
fn group(
    results: &Results,
    view: View,
    setting: Setting,
    command: &str,
    title: String,
    figure: impl Fn(&Record) -> Option<f64>,
) -> Option<Group> {
    let bar = |name: &&str| {
        let value = figure(results.find(view, setting, command, name)?)?;
        Some(((*name).to_owned(), value))
    };
    let bars: Vec<_> = results.runtimes(view).iter().filter_map(bar).collect();
    (bars.len() > 1).then_some(Group { title, bars })
}

fn cpu(record: &Record) -> Option<f64> {
    Some(record.summary.cpu)
}

fn command_groups(results: &Results, view: View) -> Vec<Group> {
    let of =
        |setting, command: &str, title: String| group(results, view, setting, command, title, cpu);
    let plain = COMMANDS.map(|command| of(Setting::Default, command, command.to_owned()));
    let filtered = of(Setting::Seccomp, "run", "run, Docker's seccomp profile".to_owned());
    let [run, rest @ ..] = plain;
    [run, filtered].into_iter().chain(rest).flatten().collect()
}

fn growth_groups(results: &Results, view: View) -> Vec<Group> {
    let grown = |setting: &Setting| matches!(setting, Setting::Binds(_) | Setting::Existing(_));
    let of = |setting: Setting| {
        COMMANDS.into_iter().filter_map(move |command| {
            let title = format!("{command}: {}", title(setting).to_lowercase());
            group(results, view, setting, command, title, cpu)
        })
    };
    results.settings(view).into_iter().filter(grown).flat_map(of).collect()
}

fn many_groups(results: &Results, view: View) -> Vec<Group> {
    let of = |setting| group(results, view, setting, "run", title(setting), |record| record.rate);
    results.settings(view).into_iter().filter_map(of).collect()
}

fn image_groups(results: &Results) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for record in &results.images {
        let title = format!("{}: {} MiB, {} files", record.image, record.size, record.files);
        let bar = (record.tool.clone(), record.summary.wall);
        match groups.iter_mut().find(|group| group.title == title) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group { title, bars: vec![bar] }),
        }
    }
    groups
}

fn engine_groups(results: &Results) -> Vec<Group> {
    let group = |command: &str| {
        let same = results.engines.iter().filter(|record| record.command == command);
        let bars = same.map(|record| (record.runtime.clone(), record.wall)).collect();
        Group { title: command.to_owned(), bars }
    };
    distinct(&results.engines, |record| &record.command).into_iter().map(group).collect()
}

fn shim_groups(results: &Results) -> Vec<Group> {
    let group = |command: &str| {
        let same = results.shims.records.iter().filter(|record| record.command == command);
        let bars = same.map(|record| (record.shim.clone(), record.cpu)).collect();
        Group { title: command.to_owned(), bars }
    };
    let commands = distinct(&results.shims.records, |record| &record.command);
    commands.into_iter().map(group).collect()
}

fn markdown(results: &Results) -> String {
    let mut page = Page(String::new());
    let pictures = pictures(results);
    page.bounds(&bounds(results));
    page.conditions(results);
    for view in [View::V1, View::V2] {
        page.view(results, view, &pictures);
    }
    page.engines(results, &pictures);
    page.shims(results, &pictures);
    page.images(results, &pictures);
    page.0
}

/// Markdown in the making. Writing to a String does not fail.
struct Page(String);

impl Page {
    fn line(&mut self, text: impl AsRef<str>) {
        self.0.push_str(text.as_ref());
        self.0.push('\n');
    }

    fn heading(&mut self, text: &str) {
        self.line(format!("\n{text}\n"));
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        self.line(format!("| {} |", cells.join(" | ")));
    }

    fn table_head(&mut self, first: &str, names: &[&str]) {
        let cells = std::iter::once(first).chain(names.iter().copied());
        self.row(cells.clone().map(str::to_owned));
        self.row(
            cells
                .enumerate()
                .map(|(column, _)| if column == 0 { "---" } else { "---:" }.to_owned()),
        );
    }

    fn bounds(&mut self, bounds: &[Bound]) {
        self.heading("## Bounds");
        self.table_head("bound", &["measured", "at most", ""]);
        for bound in bounds {
            let figure = |value: f64| format!("{} {}", short(value), bound.unit).trim().to_owned();
            let verdict = match bound.met() {
                Some(true) => "met",
                Some(false) => "**NOT met**",
                None => "not measured",
            };
            let measured = bound.measured.map_or("-".to_owned(), figure);
            self.row([bound.what.clone(), measured, figure(bound.limit), verdict.to_owned()]);
        }
    }

    fn conditions(&mut self, results: &Results) {
        self.heading("## Conditions");
        self.line("| | |\n|---|---|");
        for (name, value) in &results.conditions {
            self.row([name.clone(), value.clone()]);
        }
        if !results.skipped.is_empty() {
            self.line("\nLeft out:\n");
        }
        for reason in &results.skipped {
            self.line(format!("- {reason}"));
        }
    }

    fn view(&mut self, results: &Results, view: View, pictures: &[Picture]) {
        let runtimes = results.runtimes(view);
        if runtimes.is_empty() {
            return;
        }
        let name = view.name();
        self.heading(&format!("## cgroup {name}"));
        self.pictures(pictures, name);
        for setting in results.settings(view) {
            let records: Vec<&Record> = results
                .records
                .iter()
                .filter(|record| (record.view, record.setting) == (view, setting))
                .collect();
            self.heading(&format!("### {}, {name}", title(setting)));
            self.times(&runtimes, &records);
            if records.iter().any(|record| record.calls.is_some()) {
                self.work(&runtimes, &records);
            }
        }
    }

    /// Those that belong to a part of the page.
    fn pictures(&mut self, pictures: &[Picture], part: &str) {
        let begin = format!("performance-{part}");
        for picture in pictures.iter().filter(|picture| picture.file.starts_with(&begin)) {
            self.line(format!("![{}]({})", picture.title, picture.file));
        }
    }

    fn times(&mut self, runtimes: &[&str], records: &[&Record]) {
        self.line("CPU median, and wall median / p99 in brackets, in ms:\n");
        self.cells(runtimes, records, |record| {
            let summary = &record.summary;
            let rate = record.rate.map(|rate| format!(", {} a second", short(rate)));
            format!(
                "{} ({} / {}){}",
                short(summary.cpu),
                short(summary.wall),
                short(summary.wall_p99),
                rate.unwrap_or_default()
            )
        });
    }

    fn work(&mut self, runtimes: &[&str], records: &[&Record]) {
        // Not every machine counts them.
        let counted = records.iter().any(|record| record.summary.instructions.is_some());
        let more = if counted { " / thousands of instructions outside of the kernel" } else { "" };
        self.line(format!(
            "\nSystem calls / page faults / context switches / peak memory in MiB{more}:\n"
        ));
        self.cells(runtimes, records, |record| {
            let summary = &record.summary;
            let calls = record.calls.map_or("-".to_owned(), |calls| calls.to_string());
            let (faults, switches) = (summary.faults, summary.switches);
            let peak = summary.peak / 1024.0;
            let more = match summary.instructions {
                Some(instructions) => format!(" / {:.0}", instructions / 1e3),
                None => String::new(),
            };
            format!("{calls} / {faults:.0} / {switches:.0} / {peak:.1}{more}")
        });
    }

    fn cells(&mut self, runtimes: &[&str], records: &[&Record], cell: impl Fn(&Record) -> String) {
        self.table_head("", runtimes);
        for command in COMMANDS {
            let of = |runtime: &&str| {
                let record = records
                    .iter()
                    .find(|record| record.command == command && record.runtime == **runtime);
                record.map_or("-".to_owned(), |record| cell(record))
            };
            let cells: Vec<String> = runtimes.iter().map(of).collect();
            if cells.iter().any(|cell| cell != "-") {
                self.row(std::iter::once(command.to_owned()).chain(cells));
            }
        }
    }

    fn engines(&mut self, results: &Results, pictures: &[Picture]) {
        if results.engines.is_empty() {
            return;
        }
        self.heading("## With engines");
        self.pictures(pictures, "engines");
        self.line("");
        self.line("CPU median, and wall median / p99 in brackets, in ms:\n");
        let runtimes = distinct(&results.engines, |record| &record.runtime);
        let columns: Vec<&str> = ["engine", "runs"].into_iter().chain(runtimes.clone()).collect();
        self.table_head("", &columns);
        for command in distinct(&results.engines, |record| &record.command) {
            let same = || results.engines.iter().filter(|record| record.command == command);
            let Some(first) = same().next() else { continue };
            let cells = runtimes.iter().map(|runtime| {
                let record = same().find(|record| record.runtime == *runtime);
                record.map_or("-".to_owned(), |record| {
                    let (wall, p99) = (short(record.wall), short(record.wall_p99));
                    format!("{} ({wall} / {p99})", short(record.cpu))
                })
            });
            let named = [command.to_owned(), first.engine.clone(), first.runs.to_string()];
            self.row(named.into_iter().chain(cells));
        }
    }

    fn shims(&mut self, results: &Results, pictures: &[Picture]) {
        let shims = &results.shims;
        if shims.records.is_empty() {
            return;
        }
        self.heading("## With a shim");
        self.pictures(pictures, "shim");
        self.line("");
        self.line(format!(
            "CPU median of shim and runtime, of what runs in the container's group, and wall \
             median / p99 in brackets, in ms, at a load of {}:\n",
            shims.load
        ));
        let names = distinct(&shims.records, |record| &record.shim);
        let columns: Vec<&str> = ["runs"].into_iter().chain(names.clone()).collect();
        self.table_head("", &columns);
        for command in distinct(&shims.records, |record| &record.command) {
            let same = || shims.records.iter().filter(|record| record.command == command);
            let Some(first) = same().next() else { continue };
            let cells = names.iter().map(|name| {
                let record = same().find(|record| record.shim == *name);
                record.map_or("-".to_owned(), |record| {
                    let [cpu, inside, wall, p99] =
                        [record.cpu, record.inside, record.wall, record.wall_p99].map(short);
                    format!("{cpu} + {inside} ({wall} / {p99})")
                })
            });
            self.row([command.to_owned(), first.runs.to_string()].into_iter().chain(cells));
        }
        self.line("\nFifty that have nothing to do, each with a container:\n");
        self.table_head("", &["private KiB of each", "threads", "woken in 10 s, all"]);
        for idle in &shims.idle {
            let numbers = [idle.memory, idle.threads, idle.woken].map(|number| number.to_string());
            self.row([idle.shim.clone()].into_iter().chain(numbers));
        }
    }

    fn images(&mut self, results: &Results, pictures: &[Picture]) {
        if results.images.is_empty() {
            return;
        }
        self.heading("## Pulling an image");
        self.pictures(pictures, "images");
        self.line("");
        self.table_head("", &["CPU ms", "wall ms (p99)", "peak MiB"]);
        for record in &results.images {
            let summary = &record.summary;
            let what = format!(
                "{} ({} MiB, {} files), {}",
                record.image, record.size, record.files, record.tool
            );
            let mut wall = short(summary.wall);
            let _ = write!(wall, " ({})", short(summary.wall_p99));
            self.row([what, short(summary.cpu), wall, short(summary.peak / 1024.0)]);
        }
    }
}

/// The values of a field, in the order of their first coming.
fn distinct<T>(records: &[T], field: fn(&T) -> &String) -> Vec<&str> {
    let mut values: Vec<&str> = Vec::new();
    for record in records {
        if !values.contains(&field(record).as_str()) {
            values.push(field(record));
        }
    }
    values
}

fn title(setting: Setting) -> String {
    match setting {
        Setting::Default => "The default bundle".to_owned(),
        Setting::Seccomp => "With Docker's seccomp profile".to_owned(),
        Setting::Binds(count) => format!("{count} bind mounts"),
        Setting::Existing(count) => format!("Beside {count} containers"),
        Setting::InSequence(count) => format!("{count} containers one after another"),
        Setting::AtOnce(count) => format!("{count} containers at once"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engines::EngineRecord;
    use crate::results::{Idle, ShimRecord, Shims};

    #[test]
    fn shims_have_a_column_each_and_a_row_of_their_idleness() {
        let record = |shim: &str, cpu| ShimRecord {
            command: "run".into(),
            shim: shim.into(),
            runs: 60,
            cpu,
            inside: 1.0,
            wall: 30.0,
            wall_p99: 50.0,
        };
        let idle = vec![Idle { shim: "ours".into(), memory: 87, threads: 1, woken: 0 }];
        let records = vec![record("ours", 6.0), record("theirs", 60.0)];
        let results =
            Results { shims: Shims { load: "1.5".into(), records, idle }, ..Results::default() };
        let text = markdown(&results);
        assert!(text.contains("in ms, at a load of 1.5:"));
        assert!(text.contains("|  | runs | ours | theirs |"));
        let row = "| run | 60 | 6.00 + 1.00 (30.0 / 50.0) | 60.0 + 1.00 (30.0 / 50.0) |";
        assert!(text.contains(row));
        assert!(text.contains("| ours | 87 | 1 | 0 |"));
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let page = format!("before\n{BEGIN}old\n{END}after\n");
        let expected = format!("before\n{BEGIN}new\n{END}after\n");
        assert_eq!(replace_generated(&page, "new\n"), Some(expected));
        assert_eq!(replace_generated("no markers", "new\n"), None);
    }

    #[test]
    fn what_was_not_measured_has_no_row_and_no_picture() {
        let record = |runtime: &str, command: &str| Record {
            view: View::V2,
            setting: Setting::Default,
            command: command.into(),
            runtime: runtime.into(),
            summary: crate::sample::Summary {
                runs: 1,
                cpu: 2.0,
                cpu_least: 2.0,
                wall: 3.0,
                wall_p99: 4.0,
                peak: 1024.0,
                faults: 5.0,
                switches: 6.0,
                instructions: (runtime == "floor").then_some(8400.0),
            },
            rate: None,
            calls: Some(7),
        };
        let results = Results {
            records: vec![
                record("ferrun", "run"),
                record("floor", "run"),
                record("ferrun", "exec"),
            ],
            ..Results::default()
        };
        let text = markdown(&results);
        assert!(text.contains("| run | 2.00 (3.00 / 4.00) | 2.00 (3.00 / 4.00) |"));
        assert!(text.contains("| exec | 2.00 (3.00 / 4.00) | - |"));
        assert!(text.contains("| run | 7 / 5 / 6 / 1.0 | 7 / 5 / 6 / 1.0 / 8 |"));
        assert!(!text.contains("| delete |"));
        let titles: Vec<String> =
            command_groups(&results, View::V2).into_iter().map(|group| group.title).collect();
        assert_eq!(titles, ["run"]);
    }

    #[test]
    fn commands_of_engines_have_a_row_and_runtimes_a_column() {
        let record = |command: &str, runtime: &str, cpu| EngineRecord {
            engine: "Docker 1".into(),
            command: command.into(),
            runtime: runtime.into(),
            runs: 9,
            wall: 30.0,
            wall_p99: 50.0,
            cpu,
        };
        let results = Results {
            engines: vec![
                record("run", "ferrun", 10.0),
                record("run", "runc", 20.0),
                record("exec", "runc", 40.0),
            ],
            ..Results::default()
        };
        let text = markdown(&results);
        assert!(text.contains("|  | engine | runs | ferrun | runc |"));
        assert!(text.contains("| run | Docker 1 | 9 | 10.0 (30.0 / 50.0) | 20.0 (30.0 / 50.0) |"));
        assert!(text.contains("| exec | Docker 1 | 9 | - | 40.0 (30.0 / 50.0) |"));
    }
}
