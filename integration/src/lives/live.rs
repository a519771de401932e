//! One life, from create to delete.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Life;
use super::choice::{Asks, Finds, Need, Way};
use super::host::{Host, Seen};
use super::place::Place;
use crate::bundle::give;
use crate::sys::deadline_of;
use crate::terminal::{ConsoleSocket, Terminal};
use crate::{Bed, Bundle, Call, Output};

/// What went wrong.
#[derive(Debug)]
pub(super) struct Fault {
    /// Where, as far as it is the same in another life.
    pub(super) at: String,
    what: String,
}

impl Fault {
    fn new(at: impl Into<String>, what: impl fmt::Display) -> Self {
        Self { at: at.into(), what: what.to_string() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.at, self.what)
    }
}

type Result<T = ()> = std::result::Result<T, Fault>;

/// What a shell needs to know to answer. Its own `read` takes a byte at a time; it is used
/// where a child would not be the same.
const WORDS: &str = r#"
status() { awk -v key="$1:" '$1 == key { $1 = ""; print substr($0, 2) }' /proc/self/status; }
policy() { read -r line < /proc/self/stat; set -- $line; echo ${19} ${40} ${41}; }
limit() { sed -n "s/^$1  *\([^ ]*\)  *\([^ ]*\) .*/\1 \2/p" /proc/self/limits; }
mounted() { awk -v path="$1" '$5 == path { found = $6 } END { print found }' /proc/self/mountinfo; }
ties() { awk -v path="$1" '$5 == path { found = ""; for (i = 7; $i != "-"; i++) { sub(":.*", "", $i);
    found = found " " $i } } END { print substr(found, 2) }' /proc/self/mountinfo; }
"#;
/// What stands before each answer, and behind the last.
const MARK: &str = "=life=";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One life under way.
pub(super) struct Course<'life> {
    bed: &'life Bed,
    host: &'life Host,
    place: &'life Place,
    life: &'life Life,
    id: String,
    pid_file: PathBuf,
}

impl<'life> Course<'life> {
    pub(super) fn new(
        bed: &'life Bed,
        host: &'life Host,
        place: &'life Place,
        life: &'life Life,
    ) -> Self {
        let id = bed.id();
        let pid_file = bed.directory.join("output").join(format!("{id}.pid"));
        Self { bed, host, place, life, id, pid_file }
    }

    /// Lives it, and looks at the host before and after.
    pub(super) fn run(&self) -> Result {
        fs::write(&self.host.log, "").expect("the log");
        let before = Seen::now(self.bed, self.host);
        let bundle = self.bundle();
        // A call that hangs panics.
        let lived = catch_unwind(AssertUnwindSafe(|| self.live(&bundle)))
            .unwrap_or_else(|_| Err(Fault::new("panic", "see above")));
        if lived.is_err() {
            let _ = catch_unwind(AssertUnwindSafe(|| self.call("delete", &["--force"])));
        }
        let after = Seen::now(self.bed, self.host);
        if !after.has_mounts_of(&bundle.path) {
            let _ = fs::remove_dir_all(&bundle.path);
        }
        lived?;
        let changes = after.changes(&before);
        if changes.is_empty() { Ok(()) } else { Err(Fault::new("the host", changes.join("\n"))) }
    }

    /// The bundle, with what the life puts into the image.
    fn bundle(&self) -> Bundle {
        let mut bundle = self.bed.bundle();
        let group = bundle.config["linux"]["cgroupsPath"].clone();
        bundle.config = self.life.config.clone();
        bundle.config["linux"]["cgroupsPath"] = group;
        for file in self.life.choices.iter().flat_map(|choice| &choice.files) {
            match &file.text {
                Some(text) => drop(bundle.write(&file.path, text)),
                None => {
                    fs::create_dir_all(bundle.rootfs().join(&file.path[1..])).expect("a directory")
                }
            }
            let path = bundle.rootfs().join(&file.path[1..]);
            fs::set_permissions(path, fs::Permissions::from_mode(file.mode)).expect("a mode");
        }
        if let Some(owner) = self.owner() {
            give(&bundle.path, owner);
        }
        // A second process, where nothing but the runtime ends it, and the runtime can.
        let second = if self.place.has_group { "sleep 100000 &\n" } else { "" };
        let asks = self.script(&self.program_asks());
        bundle.sh(&format!("{asks}{second}exec sleep 100000"))
    }

    /// Who is root inside, outside, where it is not the machine's.
    fn owner(&self) -> Option<u32> {
        let first = &self.life.config["linux"]["uidMappings"][0]["hostID"];
        self.bed.user().or_else(|| Some(first.as_u64()? as u32))
    }

    fn program_asks(&self) -> Vec<(&'life str, &'life Finds)> {
        self.life.asked(|asks| match asks {
            Asks::Inside(text) | Asks::Program(text) => Some(text),
            _ => None,
        })
    }

    /// A script that answers each question behind a mark.
    fn script(&self, asks: &[(&str, &Finds)]) -> String {
        let mut script = WORDS.to_owned();
        for (question, _) in asks {
            script += &format!("echo {MARK}\n{{ {question}\n}} 2>&1\necho\n");
        }
        script + "echo " + MARK + "end\n"
    }

    fn live(&self, bundle: &Bundle) -> Result {
        let mut program = self.create(bundle)?;
        self.has_status("created")?;
        self.is_recorded()?;
        if self.life.goes(&Way::NeverStarted) {
            return self.end("created");
        }
        if !self.life.goes(&Way::Run) {
            self.succeeds("start", &[])?;
        }
        self.has_status("running")?;
        let said = program.said()?;
        self.compare("inside", &self.program_asks(), &said)?;
        self.look_from_outside()?;
        self.exec()?;
        self.update(bundle)?;
        if self.place.has_group {
            self.pause()?;
        }
        self.end("running")
    }

    /// Creates it, or runs it where the life goes that way.
    fn create(&self, bundle: &Bundle) -> Result<Program> {
        let run = self.life.goes(&Way::Run);
        let verb = if run { "run" } else { "create" };
        let mut call = self.bed.call().arg(verb).options_here();
        call = call.option("--bundle", &bundle.save().path).option("--pid-file", &self.pid_file);
        if run {
            call = call.flag("--detach");
        }
        for way in self.life.ways() {
            if let Way::Option(name) = way {
                call = call.flag(name);
            }
        }
        let socket = (self.life.config["process"]["terminal"] == true)
            .then(|| ConsoleSocket::listen(self.bed));
        if let Some(socket) = &socket {
            call = call.option("--console-socket", &socket.path);
        }
        let running = call.arg(&self.id).spawn();
        let stdout = running.stdout.clone();
        let output = running.wait();
        if output.code != 0 {
            return Err(Fault::new(verb, output));
        }
        let unexpected = |line: &&str| !self.warnings().iter().any(|known| line.contains(known));
        if output.stderr.lines().any(|line| unexpected(&line)) {
            return Err(Fault::new(format!("{verb} warns"), output));
        }
        Ok(match socket {
            Some(socket) => Program::Terminal(socket.terminal().0),
            None => Program::File(stdout),
        })
    }

    /// What may be said in `create` of what cannot be otherwise.
    fn warnings(&self) -> Vec<&'static str> {
        let mut known = Vec::new();
        if !self.place.has_group {
            known.push("the container gets no cgroup: none was delegated to the calling user");
            known.push("the container gets no cgroup: ");
        }
        let is = |need: Need| need.is_met_by(&self.life.config);
        // A procfs of processes that the user namespace does not own.
        if !is(Need::Callers("user")) && !is(Need::New("pid")) {
            known.push("the container sees the caller's /proc");
        }
        known
    }

    fn call(&self, verb: &str, arguments: &[&str]) -> Output {
        let call = self.bed.call().arg(verb).args(arguments);
        call.arg(&self.id).output()
    }

    /// Calls a verb that has to succeed and to say nothing of it.
    fn succeeds(&self, verb: &str, arguments: &[&str]) -> Result<Output> {
        let output = self.call(verb, arguments);
        if output.code == 0 && output.stderr.is_empty() {
            Ok(output)
        } else {
            Err(Fault::new(verb, output))
        }
    }

    fn state(&self) -> Result<Value> {
        let output = self.succeeds("state", &[])?;
        serde_json::from_str(&output.stdout).map_err(|error| Fault::new("state", error))
    }

    fn has_status(&self, expected: &str) -> Result {
        // `run` has started it.
        let expected =
            if self.life.goes(&Way::Run) && expected == "created" { "running" } else { expected };
        let state = self.state()?;
        let found = state["status"].as_str().unwrap_or_default();
        if found == expected { Ok(()) } else { Err(Fault::new(format!("not {expected}"), found)) }
    }

    fn pid(&self) -> Result<String> {
        Ok(self.state()?["pid"].to_string())
    }

    /// Its pid is in the file, and its state has what the life asks for.
    fn is_recorded(&self) -> Result {
        let written = fs::read_to_string(&self.pid_file).unwrap_or_default();
        let state = self.state()?;
        if state["pid"] != serde_json::from_str::<Value>(&written).unwrap_or_default() {
            return Err(Fault::new("pid file", format!("{written:?} of {state}")));
        }
        for (pointer, finds) in self.life.asked(|asks| match asks {
            Asks::State(pointer) => Some(pointer),
            _ => None,
        }) {
            let found = state.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            expect("state", pointer, finds, found)?;
        }
        Ok(())
    }

    /// Each answer is what it has to be.
    fn compare(&self, who: &str, asks: &[(&str, &Finds)], said: &str) -> Result {
        let said = said.replace("\r\n", "\n");
        let parts = said.split(MARK).skip(1);
        let answers: Vec<_> = parts.map(|part| part.trim_matches('\n')).collect();
        if answers.len() != asks.len() + 1 {
            return Err(Fault::new(format!("{who}: answers"), said));
        }
        for ((question, finds), answer) in asks.iter().zip(answers) {
            expect(who, question, finds, answer)?;
        }
        Ok(())
    }

    fn look_from_outside(&self) -> Result {
        let pid = self.pid()?;
        for (script, finds) in self.life.asked(|asks| match asks {
            Asks::Outside(script) => Some(script),
            _ => None,
        }) {
            let output = Command::new("/bin/sh").args(["-c", script, "sh", &pid]).output();
            let output = output.expect("a shell");
            expect("outside", script, finds, String::from_utf8_lossy(&output.stdout).trim_end())?;
        }
        for (question, finds) in self.life.asked(|asks| match asks {
            Asks::Deadline => Some("sched_getattr"),
            _ => None,
        }) {
            let times = deadline_of(pid.parse().expect("a pid")).expect("sched_getattr");
            expect("outside", question, finds, &times.map(|time| time.to_string()).join(" "))?;
        }
        Ok(())
    }

    /// What exec adds answers as the program does, but for what is asked of it alone.
    fn exec(&self) -> Result {
        let own = self.life.asked(|asks| match asks {
            Asks::Exec(text) => Some(text),
            _ => None,
        });
        let mut asks = self.life.asked(|asks| match asks {
            Asks::Inside(text) => Some(text),
            _ => None,
        });
        asks.retain(|(question, _)| own.iter().all(|(other, _)| other != question));
        asks.extend(own);
        let output = self.exec_call(&self.script(&asks)).output();
        if output.code != 0 || !output.stderr.is_empty() {
            return Err(Fault::new("exec", output));
        }
        self.compare("exec", &asks, &output.stdout)
    }

    fn exec_call(&self, script: &str) -> Call {
        let options = self.life.ways().filter_map(|way| match way {
            Way::Exec(options) => Some(options),
            _ => None,
        });
        let call = self.bed.call().arg("exec").args(options.flatten());
        call.arg(&self.id).args(["/bin/sh", "-c", script])
    }

    fn update(&self, bundle: &Bundle) -> Result {
        let compare = |asked: Vec<(&str, &Finds)>| {
            asked.into_iter().try_for_each(|(file, finds)| {
                let found =
                    fs::read_to_string(self.bed.cgroup_file(bundle, file)).unwrap_or_default();
                expect("group", file, finds, found.trim_end())
            })
        };
        compare(self.life.asked(|asks| match asks {
            Asks::Group(file) => Some(file),
            _ => None,
        }))?;
        let options = self.life.ways().filter_map(|way| match way {
            Way::Update(options) => Some(options),
            _ => None,
        });
        let options: Vec<_> = options.flatten().map(String::as_str).collect();
        if !options.is_empty() {
            self.succeeds("update", &options)?;
        }
        compare(self.life.asked(|asks| match asks {
            Asks::UpdatedGroup(file) => Some(file),
            _ => None,
        }))
    }

    fn pause(&self) -> Result {
        self.succeeds("pause", &[])?;
        self.has_status("paused")?;
        let refused = self.exec_call("true").output();
        if refused.code == 0 {
            return Err(Fault::new("exec while paused", refused));
        }
        if self.life.goes(&Way::KilledPaused) {
            return Ok(());
        }
        self.succeeds("resume", &[])?;
        self.has_status("running")
    }

    /// Kills and deletes it. Nothing is left on record.
    fn end(&self, status: &str) -> Result {
        if self.life.goes(&Way::DeletedByForce) {
            self.succeeds("delete", &["--force"])?;
        } else {
            if status == "running" {
                let refused = self.call("delete", &[]);
                if refused.code == 0 {
                    return Err(Fault::new("delete while it runs", refused));
                }
            }
            let killed = self.bed.runtime(["kill", &self.id, "KILL"]);
            if killed.code != 0 || !killed.stderr.is_empty() {
                return Err(Fault::new("kill", killed));
            }
            let deadline = Instant::now() + PATIENCE;
            while self.has_status("stopped").is_err() {
                if Instant::now() > deadline {
                    return self.has_status("stopped");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            self.succeeds("delete", &[])?;
        }
        let gone = self.call("state", &[]);
        if gone.code == 0 {
            return Err(Fault::new("state after delete", gone));
        }
        if status == "created" {
            return Ok(());
        }
        for (file, finds) in self.life.asked(|asks| match asks {
            Asks::Afterwards(file) => Some(file),
            _ => None,
        }) {
            let found = fs::read_to_string(file).unwrap_or_default();
            expect("afterwards", file, finds, found.trim_end())?;
        }
        Ok(())
    }
}

fn expect(who: &str, question: &str, finds: &Finds, answer: &str) -> Result {
    if finds.agree_with(answer) {
        return Ok(());
    }
    Err(Fault::new(format!("{who}: {question}"), format!("{answer:?}, expected {finds:?}")))
}

/// Where the program prints.
enum Program {
    File(PathBuf),
    Terminal(Terminal),
}

impl Program {
    /// All that it says, when it has.
    fn said(&mut self) -> Result<String> {
        let end = format!("{MARK}end");
        match self {
            Self::Terminal(terminal) => Ok(terminal.expect(&end).to_owned()),
            Self::File(path) => {
                let deadline = Instant::now() + PATIENCE;
                loop {
                    let said =
                        String::from_utf8_lossy(&fs::read(&*path).unwrap_or_default()).into_owned();
                    if said.contains(&end) {
                        return Ok(said);
                    }
                    if Instant::now() > deadline {
                        return Err(Fault::new("inside: answers", said));
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }
}
