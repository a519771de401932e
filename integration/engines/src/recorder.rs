//! A program in a runtime's place that calls it and writes down each call: what an engine
//! has asked for, and what the runtime has answered.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use integration::Bed;

/// Writes down the calls of one runtime.
#[derive(Debug)]
pub struct Recorder {
    /// The program that engines are to call.
    pub program: PathBuf,
    calls: PathBuf,
    title: PathBuf,
}

/// One call.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// What was typed that led to it.
    pub title: String,
    /// Its arguments.
    pub argv: Vec<String>,
    /// What it read, if it was told to (`--resources -`).
    pub stdin: String,
    /// What it printed. Empty for verbs whose outputs are the container's.
    pub stdout: String,
    /// What it wrote to its log since the bundle was made, or else complained of.
    pub log: String,
    /// Its exit code.
    pub code: i32,
}

impl Recorder {
    /// Records what `runtime` is asked for.
    pub fn new(bed: &Bed, runtime: &Path) -> Self {
        let calls = bed.make_directory("calls", 0o755);
        let title = bed.write("title", "");
        // A detached container keeps its outputs open, and its engine reads them itself.
        let script = format!(
            "call={calls}/$(date +%s%N)-$$\n\
             mkdir $call && cp {title} $call/title\n\
             previous= log=\n\
             for word; do\n\
             \techo \"$word\" >> $call/argv\n\
             \t[ \"$previous\" = --log ] && log=$word\n\
             \tprevious=$word\n\
             done\n\
             case \" $* \" in\n\
             *\" create \"* | *\" exec \"* | *\" run \"*) {runtime} \"$@\" ;;\n\
             *\" - \"*) tee $call/stdin | {runtime} \"$@\" > $call/stdout 2> $call/stderr ;;\n\
             *) {runtime} \"$@\" > $call/stdout 2> $call/stderr ;;\n\
             esac\n\
             echo $? > $call/code\n\
             [ -e \"$log\" ] && cp \"$log\" $call/log\n\
             cat $call/stdout 2> /dev/null\n\
             cat $call/stderr >&2 2> /dev/null\n\
             exit $(cat $call/code)",
            calls = calls.display(),
            title = title.display(),
            runtime = runtime.display(),
        );
        Self { program: bed.script("recorder", &script), calls, title }
    }

    /// What is typed next.
    pub fn title(&self, title: &str) {
        fs::write(&self.title, title).expect("a title");
    }

    /// Waits until no call has come for a while: some engines go on after they have answered.
    pub fn settle(&self) {
        let mut before = usize::MAX;
        loop {
            let entries = fs::read_dir(&self.calls).into_iter().flatten().flatten();
            let (ended, begun) = (self.calls().len(), entries.count());
            if ended == begun && begun == before {
                return;
            }
            before = begun;
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// All calls so far, the earliest first.
    pub fn calls(&self) -> Vec<Recorded> {
        let entries = fs::read_dir(&self.calls).into_iter().flatten().flatten();
        let mut directories: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        directories.sort();
        directories.iter().filter_map(|directory| Recorded::read(directory)).collect()
    }
}

impl Recorded {
    /// None: the call has not ended.
    fn read(directory: &Path) -> Option<Self> {
        let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_default();
        let log = read("log");
        Some(Self {
            title: read("title"),
            argv: read("argv").lines().map(str::to_owned).collect(),
            stdin: read("stdin"),
            stdout: read("stdout"),
            log: if log.is_empty() { read("stderr") } else { log },
            code: read("code").trim().parse().ok()?,
        })
    }

    /// The command among its arguments.
    pub fn verb(&self) -> &str {
        const VERBS: [&str; 13] = [
            "create", "delete", "events", "exec", "features", "kill", "list", "pause", "ps",
            "resume", "start", "state", "update",
        ];
        let found = self.argv.iter().find(|word| VERBS.contains(&word.as_str()));
        found.map_or("", String::as_str)
    }

    /// Its arguments, with what differs from one container to another replaced.
    pub fn form(&self) -> String {
        form(&self.argv.join(" "))
    }
}

/// The words of a text, with what differs from one container to another replaced.
pub fn form(text: &str) -> String {
    let words = text.split_whitespace().map(|word| {
        let is_id = word.len() >= 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        match word.split_once('=') {
            _ if is_id => "ID".to_owned(),
            _ if word.starts_with('/') => "PATH".to_owned(),
            Some((name, value)) if value.starts_with('/') => format!("{name}=PATH"),
            _ => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}
