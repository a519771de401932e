//! Where is measured: a private mount namespace with one view of the cgroup
//! hierarchies, a tmpfs for bundles and state, and a cgroup that all containers
//! are below. Nothing of it outlives the program, however a measurement ends.

use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::runtime::Runtime;
use crate::sample::Sample;

const CGROUPS: &str = "/sys/fs/cgroup";
/// Directories of the root of every bundle.
const DIRECTORIES: &[&str] = &["bin", "binds", "dev", "etc", "proc", "sys", "tmp"];
/// What binds bind, beside the root: the kernel walks all that is mounted on a source's mount
/// already, so a source within the root would make each bind dearer than the one before.
pub const VOLUME: &str = "volume";
/// How many bind mounts the root has places for.
pub const MOST_BINDS: usize = 1000;

/// Which cgroup hierarchies there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum View {
    /// Version 1 alone.
    V1,
    /// Version 2 alone.
    V2,
}

impl View {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// Where is measured. Dropping it removes its cgroups, and kills what is in them.
#[derive(Debug)]
pub struct Bed {
    /// The hierarchies that are mounted.
    pub view: View,
    /// A tmpfs.
    pub directory: PathBuf,
    /// The cgroup above all containers, from the root of each hierarchy.
    cgroup: String,
    /// The directories of the v1 hierarchies, by their names.
    trees: Vec<String>,
    launcher: PathBuf,
    floor: PathBuf,
    entrance: PathBuf,
    containers: std::cell::Cell<usize>,
}

/// One container to be: a bundle and an id.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// The directory of its config.json.
    pub bundle: PathBuf,
    /// Its cgroupsPath.
    pub cgroup: String,
    /// How many bind mounts it has.
    pub binds: usize,
}

/// What is asked of the launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launch {
    /// What wait4(2) says.
    Time,
    /// Instructions besides, where the machine counts them; the rest is dearer by that.
    Count,
}

/// Where the bed, the programs and the images lie.
#[derive(Debug)]
pub struct Place {
    /// A tmpfs that only this process and its children see.
    pub directory: PathBuf,
    /// Beside other programs' files: what a page fault costs depends on the file system.
    pub programs: PathBuf,
}

impl Place {
    /// Makes the process's mounts private and the directory in them. To be called
    /// once and before anything else. Orphans of the runtimes become our children.
    ///
    /// # Errors
    /// Where the caller is not root.
    pub fn new() -> Result<Self> {
        let name = format!("ferrun-bench-{}", std::process::id());
        let place = Self {
            directory: Path::new("/tmp").join(&name),
            programs: Path::new("/var/tmp").join(&name),
        };
        unshare(CloneFlags::CLONE_NEWNS).context("unshare: needs root")?;
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("private mounts")?;
        for directory in [&place.directory, &place.programs] {
            fs::create_dir(directory).with_context(|| format!("{directory:?}"))?;
        }
        mount(Some("bench"), &place.directory, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .context("mount tmpfs")?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .context("become a subreaper")?;
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = umount2(&self.directory, MntFlags::MNT_DETACH);
        for program in fs::read_dir(&self.programs).into_iter().flatten().flatten() {
            // One of them may lie on a mount of its own.
            let _ = umount2(&program.path(), MntFlags::MNT_DETACH);
        }
        for directory in [&self.directory, &self.programs] {
            if let Err(error) = fs::remove_dir_all(directory) {
                eprintln!("bench: {directory:?}: {error}");
            }
        }
    }
}

/// Compiles a program of `floor/`, which needs no library.
pub fn compile(name: &str, directory: &Path) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("floor").join(name).with_extension("c");
    let program = directory.join(name);
    let status = Command::new("cc")
        .args(["-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-ffreestanding"])
        .args(["-fno-stack-protector", "-fno-pic", "-no-pie", "-fno-asynchronous-unwind-tables"])
        .args(["-mgeneral-regs-only", "-static", "-nostdlib", "-Wl,--build-id=none"])
        .args(["-Wl,-z,norelro", "-Wl,-z,noseparate-code", "-s", "-o"])
        .args([&program, &source])
        .status()
        .context("cc (package gcc)")?;
    if !status.success() {
        bail!("cc {source:?}: {status}");
    }
    Ok(program)
}

impl Bed {
    /// Gives the mount namespace the view.
    ///
    /// # Errors
    /// Where the machine does not have these hierarchies.
    pub fn new(view: View, place: &Place) -> Result<Self> {
        enter(view)?;
        let directory = place.directory.join(view.name());
        fs::create_dir_all(&directory).with_context(|| format!("{directory:?}"))?;
        let mut bed = Self {
            view,
            launcher: compile("launcher", &place.programs)?,
            floor: compile("floor", &place.programs)?,
            entrance: compile("entrance", &place.programs)?,
            cgroup: format!("/ferrun-bench-{}", std::process::id()),
            trees: Vec::new(),
            containers: 0.into(),
            directory,
        };
        bed.make_root()?;
        bed.make_cgroups()?;
        Ok(bed)
    }

    fn make_root(&self) -> Result<()> {
        let root = self.rootfs();
        let make = || -> std::io::Result<()> {
            for name in DIRECTORIES {
                fs::create_dir_all(root.join(name))?;
            }
            fs::create_dir_all(self.directory.join(VOLUME))?;
            for number in 0..MOST_BINDS {
                fs::create_dir(root.join(format!("binds/{number:04}")))?;
            }
            fs::copy("/bin/busybox", root.join("bin/busybox"))?;
            for program in ["true", "sleep"] {
                symlink("busybox", root.join("bin").join(program))?;
            }
            Ok(())
        };
        make().with_context(|| format!("{root:?} (needs the package busybox-static)"))
    }

    /// Runtimes differ in whether they take away a parent that they made, so it is ours.
    fn make_cgroups(&mut self) -> Result<()> {
        if self.view == View::V2 {
            let path = self.cgroup_in(None);
            return fs::create_dir(&path).with_context(|| format!("{path:?}"));
        }
        for entry in fs::read_dir(CGROUPS)?.flatten() {
            // Beside the hierarchies there are links to those that stand for two controllers.
            let is_tree = entry.path().join("cgroup.procs").exists();
            if let (true, false, Ok(name)) =
                (is_tree, entry.file_type()?.is_symlink(), entry.file_name().into_string())
            {
                self.trees.push(name);
            }
        }
        self.trees.sort();
        for tree in &self.trees {
            let path = self.cgroup_in(Some(tree));
            fs::create_dir(&path).with_context(|| format!("{path:?}"))?;
        }
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let tree = Path::new(CGROUPS).join("cpuset");
            let text = fs::read(tree.join(file)).context("cpuset")?;
            fs::write(self.cgroup_in(Some("cpuset")).join(file), text).context("cpuset")?;
        }
        Ok(())
    }

    fn cgroup_in(&self, tree: Option<&str>) -> PathBuf {
        PathBuf::from(format!("{CGROUPS}/{}{}", tree.unwrap_or_default(), self.cgroup))
    }

    /// The cgroup above all containers, in each hierarchy.
    fn groups(&self) -> Vec<PathBuf> {
        match self.view {
            View::V1 => self.trees.iter().map(|tree| self.cgroup_in(Some(tree))).collect(),
            View::V2 => vec![self.cgroup_in(None)],
        }
    }

    /// The root that all bundles share.
    pub fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    /// What `ferrun spec` writes in this view, with one program and no terminal.
    pub fn default_config(&self, ferrun: &Path) -> Result<Value> {
        let directory = self.directory.join("spec");
        fs::create_dir_all(&directory)?;
        let status = Command::new(ferrun).arg("spec").current_dir(&directory).status();
        if !status.with_context(|| format!("{ferrun:?}"))?.success() {
            bail!("{ferrun:?} spec failed");
        }
        let mut config: Value = serde_json::from_slice(&fs::read(directory.join("config.json"))?)?;
        fs::remove_dir_all(&directory)?;
        // The newest version that all peers accept.
        config["ociVersion"] = json!("1.0.2");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["true"]);
        config["root"]["path"] = json!(self.rootfs());
        Ok(config)
    }

    /// A bundle with an id and a cgroup that no other has.
    pub fn container(&self, config: &Value) -> Result<Container> {
        let number = self.containers.replace(self.containers.get() + 1);
        let bundle = self.directory.join(format!("bundle-{number}"));
        let cgroup = format!("{}/{number}", self.cgroup);
        let mut config = config.clone();
        config["linux"]["cgroupsPath"] = json!(cgroup);
        fs::create_dir(&bundle).with_context(|| format!("{bundle:?}"))?;
        fs::write(bundle.join("config.json"), config.to_string())?;
        let binds = config["mounts"].as_array().map_or(0, |mounts| {
            mounts.iter().filter(|mount| mount["options"][0] == "bind").count()
        });
        Ok(Container { id: format!("bench-{number}"), bundle, cgroup, binds })
    }

    /// The program and its arguments for one verb of a runtime's command line.
    pub fn command(&self, runtime: &Runtime, verb: &[&str], container: &Container) -> Vec<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut words = vec![text(&runtime.path)];
        if runtime.is_floor() {
            words = vec![text(&self.floor), text(&self.rootfs()), container.cgroup.clone()];
            words.push(container.binds.to_string());
            words.extend(self.trees.iter().cloned());
            return words;
        }
        words.extend(["--root".to_owned(), text(&self.state_root(runtime))]);
        let (verb, after) = verb.split_first().map_or(("", verb), |(first, rest)| (*first, rest));
        words.push(verb.to_owned());
        if matches!(verb, "run" | "create") {
            words.extend(["--bundle".to_owned(), text(&container.bundle)]);
        }
        if verb == "create" {
            words.extend(["--pid-file".to_owned(), text(&container.pid_file())]);
        }
        let options = after.iter().take_while(|word| word.starts_with('-')).count();
        words.extend(after.iter().take(options).map(|word| (*word).to_owned()));
        if verb != "list" {
            words.push(container.id.clone());
        }
        words.extend(after.iter().skip(options).map(|word| (*word).to_owned()));
        words
    }

    /// The floor of `exec`, in a container that somebody else has made.
    pub fn entrance(&self, container: &Container) -> Result<Vec<String>> {
        let program = self.entrance.to_string_lossy().into_owned();
        let mut words = vec![program, container.pid()?.to_string(), container.cgroup.clone()];
        words.extend(self.trees.iter().cloned());
        Ok(words)
    }

    /// The directory where a runtime keeps its containers.
    fn state_root(&self, runtime: &Runtime) -> PathBuf {
        self.directory.join("state").join(&runtime.name)
    }

    /// Runs one command and measures it.
    ///
    /// # Errors
    /// Where it fails, with what it wrote to stderr.
    pub fn measure(&self, command: &[String]) -> Result<Sample> {
        self.start(Launch::Time, command, 0)?.finish()
    }

    /// Starts a command to be measured. `slot` tells those apart that run at once.
    pub fn start(&self, how: Launch, command: &[String], slot: usize) -> Result<Running> {
        let result = self.directory.join(format!("result-{slot}"));
        let complaint = self.directory.join(format!("stderr-{slot}"));
        let child = Command::new(&self.launcher)
            .arg(&result)
            .arg(how.word())
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&complaint)?)
            .spawn()
            .context("launcher")?;
        Ok(Running { child, result, complaint, command: command.to_vec() })
    }

    /// Waits for the init of a container that has been killed.
    pub fn reap(&self, container: &Container) -> Result<()> {
        let pid = Pid::from_raw(container.pid()?);
        waitpid(pid, None).with_context(|| format!("wait for init {pid} of {}", container.id))?;
        Ok(())
    }

    /// Ends all containers, whoever has them.
    pub fn clear(&self) {
        for group in self.groups() {
            for entry in fs::read_dir(group).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove_group(&entry.path());
                }
            }
        }
    }

    /// Removes what is left of a container's bundle.
    pub fn discard(&self, container: &Container) -> Result<()> {
        fs::remove_dir_all(&container.bundle).with_context(|| format!("{:?}", container.bundle))
    }
}

impl Launch {
    /// As the launcher reads it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Count => "count",
        }
    }
}

impl Container {
    /// Where `create` writes the pid of init.
    pub fn pid_file(&self) -> PathBuf {
        self.bundle.join("pid")
    }

    /// The pid of init.
    pub fn pid(&self) -> Result<i32> {
        let path = self.pid_file();
        let text = fs::read_to_string(&path).with_context(|| format!("{path:?}"))?;
        text.trim().parse().with_context(|| format!("{path:?}: {text:?}"))
    }
}

/// A command that is being measured.
#[derive(Debug)]
pub struct Running {
    child: Child,
    result: PathBuf,
    complaint: PathBuf,
    command: Vec<String>,
}

/// A command has failed.
#[derive(Debug)]
pub struct Failed {
    /// Its program.
    pub program: PathBuf,
    /// What it said.
    pub text: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failed {}

impl Running {
    /// Waits for its end.
    ///
    /// # Errors
    /// [`Failed`] where it fails, with what it wrote to stderr.
    pub fn finish(mut self) -> Result<Sample> {
        let launched = self.child.wait()?;
        if !launched.success() {
            bail!("launcher: {launched}");
        }
        let (status, sample) = Sample::parse(&fs::read(&self.result)?)?;
        if status != 0 {
            let text = fs::read_to_string(&self.complaint).unwrap_or_default();
            let line = self.command.join(" ");
            let text = format!("{line}: wait status {status:#x}: {}", text.trim());
            let program = self.command.first().map(PathBuf::from).unwrap_or_default();
            return Err(Failed { program, text }.into());
        }
        Ok(sample)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for group in self.groups() {
            remove_group(&group);
        }
    }
}

/// Removes a cgroup and all below it; kills what is in them.
fn remove_group(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while fs::remove_dir(group).is_err() && group.exists() {
        let pids = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|line| line.parse().ok()) {
            // It may be gone already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if Instant::now() > deadline {
            eprintln!("bench: {group:?} could not be removed");
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Makes the mount namespace show this view.
fn enter(view: View) -> Result<()> {
    let detach = |path: &str| umount2(path, MntFlags::MNT_DETACH).with_context(|| path.to_owned());
    let unified = Path::new(CGROUPS).join("cgroup.controllers").exists();
    match view {
        View::V1 if unified => bail!("the machine has cgroup v2 alone"),
        View::V1 if Path::new(CGROUPS).join("unified").is_dir() => detach("/sys/fs/cgroup/unified"),
        View::V1 => Ok(()),
        View::V2 if unified => Ok(()),
        View::V2 => {
            detach(CGROUPS)?;
            mount(None::<&str>, CGROUPS, Some("cgroup2"), MsFlags::empty(), None::<&str>)
                .context("mount cgroup2")
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::getuid;

    use super::*;

    #[test]
    fn the_launcher_tells_how_its_program_ended_and_what_it_cost() {
        let directory = std::env::temp_dir().join(format!("bench-test-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let launcher = compile("launcher", &directory).unwrap();
        let result = directory.join("result");
        let launch_as = |how: Launch, script: &str| {
            let status = Command::new(&launcher)
                .arg(&result)
                .args([how.word(), "/bin/sh", "-c", script])
                .status();
            assert!(status.unwrap().success());
            Sample::parse(&fs::read(&result).unwrap()).unwrap()
        };
        let launch = |script: &str| launch_as(Launch::Time, script);
        let (status, short) = launch("exit 3");
        assert_eq!(status, 3 << 8);
        let (_, long) = launch("sleep 0.2; sleep 0.1");
        assert!(long.wall >= 300.0 && long.cpu < long.wall, "{long:?}");
        // Two children, each with an execve of its own.
        assert!(long.faults > short.faults && long.switches >= 2.0, "{long:?} {short:?}");
        // This process is larger than a shell, and must not show.
        assert!(short.peak > 100.0 && short.peak < 8192.0, "{short:?}");
        assert_eq!(short.instructions, None);
        let count = |script| launch_as(Launch::Count, script).1.instructions;
        let counted = count("exit 3").zip(count("/bin/true; /bin/true"));
        let (pmu, is_root) = (Path::new("/sys/bus/event_source/devices/cpu"), getuid().is_root());
        match counted {
            Some((few, many)) => assert!(1e4 < few && 1.5 * few < many, "{few} {many}"),
            None => assert!(!pmu.exists() || !is_root, "a machine that counts and does not"),
        }
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_floors_compile_without_a_warning() {
        let directory = std::env::temp_dir().join(format!("bench-floor-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        for name in ["floor", "entrance"] {
            let floor = compile(name, &directory).unwrap();
            // Without arguments it does nothing and says so by its status.
            assert_eq!(Command::new(floor).status().unwrap().code(), Some(125));
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
