//! containerd with the runtime as its runc binary: Debian's daemon and `ctr`, started
//! here, in directories of the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::{Bed, Call, Output, Running, as_root, eventually, runtime};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const DAEMON: &str = "/usr/bin/containerd";
const CLIENT: &str = "/usr/bin/ctr";
const IMAGE: &str = "docker.io/library/busybox:test";

/// A daemon at work, which has all its files in the bed's directory and its shims'
/// sockets on a /run that nobody else sees.
struct Containerd<'bed> {
    bed: &'bed Bed,
    running: Running,
    socket: PathBuf,
    log: PathBuf,
}

impl<'bed> Containerd<'bed> {
    fn start(bed: &'bed Bed) -> Self {
        // The shims' sockets and the runtime's own state are below /run/containerd,
        // whatever the configuration says.
        mount(None::<&str>, "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let directory = bed.make_directory("containerd", 0o755);
        let socket = directory.join("socket");
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n",
            directory.join("root"),
            directory.join("state"),
        );
        let file = bed.write("containerd/config.toml", &text);
        let log = directory.join("log");
        let script = format!("exec {DAEMON} --config \"$0\" > \"$1\" 2>&1");
        let call = bed.program(Path::new("/bin/sh")).args(["-c", &script]);
        let running = call.arg(file).arg(&log).spawn();
        let daemon = Self { bed, running, socket, log };
        eventually("containerd answers", || daemon.ctr(&["version"]).code == 0);
        daemon
    }

    /// A call of `ctr` in a namespace, and so in cgroups, of the bed's name.
    fn call(&self, args: &[&str]) -> Call {
        let call = self.bed.program(Path::new(CLIENT)).arg("--address").arg(&self.socket);
        call.args(["--namespace", &self.bed.name]).args(args)
    }

    #[track_caller]
    fn ctr(&self, args: &[&str]) -> Output {
        self.call(args).output()
    }

    /// `ctr run` with the runtime under test.
    #[track_caller]
    fn run(&self, options: &[&str], id: &str, program: &[&str]) -> Output {
        let call = self.call(&["run", "--snapshotter", "native", "--runc-binary"]);
        let call = call.arg(&runtime().program).args(options).args([IMAGE, id]);
        call.args(program).output()
    }

    /// What `task ls` says of a container.
    #[track_caller]
    fn status(&self, id: &str) -> String {
        let output = self.ctr(&["task", "ls"]);
        let mut lines = output.success().lines().map(|line| line.split_whitespace());
        let line = lines.find_map(|mut words| (words.next() == Some(id)).then_some(words));
        line.and_then(|words| words.last()).unwrap_or_default().to_owned()
    }

    fn stop(self) {
        self.running.signal(Signal::SIGTERM);
        self.running.wait().success();
    }
}

/// Runs the test with a daemon that has the image. Its log is shown if it fails.
fn with_containerd(test: impl Fn(&Containerd<'_>) + Sync) {
    as_root(|bed| {
        if let Some(missing) = [DAEMON, CLIENT].iter().find(|path| !Path::new(path).exists()) {
            return bed.skip(&format!("{missing} is missing (Debian's package containerd)"));
        }
        let daemon = Containerd::start(bed);
        let log = daemon.log.clone();
        let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let image = image(bed);
            let output = daemon.ctr(&["images", "import", "--snapshotter", "native", &image]);
            output.success();
            test(&daemon);
        }));
        if let Err(panic) = tested {
            eprintln!("containerd's log:\n{}", fs::read_to_string(log).unwrap_or_default());
            std::panic::resume_unwind(panic);
        }
        daemon.stop();
        bed.assert_nothing_left();
    });
}

/// Writes an image as an archive of an OCI layout (image-spec, image-layout.md): one
/// layer, which holds busybox.
fn image(bed: &Bed) -> String {
    let layout = bed.make_directory("layout", 0o755);
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let layer = bed.directory.join("layer.tar");
    archive(&bed.bundle().rootfs(), &layer);
    let layer = add_blob(&blobs, &fs::read(layer).unwrap());
    let image_config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": with_type(add_json(&blobs, &image_config), "config.v1+json"),
        "layers": [with_type(layer, "layer.v1.tar")],
    });
    let mut entry = with_type(add_json(&blobs, &manifest), "manifest.v1+json");
    entry["annotations"] = json!({"io.containerd.image.name": IMAGE});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    let file = bed.directory.join("image.tar");
    archive(&layout, &file);
    file.to_str().unwrap().to_owned()
}

fn archive(directory: &Path, file: &Path) {
    let status =
        Command::new("tar").arg("-C").arg(directory).arg("-cf").arg(file).arg(".").status();
    assert!(status.unwrap().success());
}

/// Adds a blob. Returns its descriptor but for the type.
fn add_blob(blobs: &Path, bytes: &[u8]) -> Value {
    let file = blobs.join("new");
    fs::write(&file, bytes).unwrap();
    let output = Command::new("sha256sum").arg(&file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let sum = text.split(' ').next().unwrap();
    fs::rename(&file, blobs.join(sum)).unwrap();
    json!({"digest": format!("sha256:{sum}"), "size": bytes.len()})
}

fn add_json(blobs: &Path, value: &Value) -> Value {
    add_blob(blobs, value.to_string().as_bytes())
}

fn with_type(mut descriptor: Value, name: &str) -> Value {
    descriptor["mediaType"] = format!("application/vnd.oci.image.{name}").into();
    descriptor
}

#[test]
fn a_container_runs_in_the_foreground() {
    with_containerd(|daemon| {
        let output = daemon.run(&["--rm"], "one", &["echo", "hello"]);
        assert_eq!(output.success(), "hello");
        let output = daemon.run(&["--rm"], "one", &["sh", "-c", "echo to stderr >&2; exit 7"]);
        assert_eq!(output.failure(7), "to stderr");
        let output = daemon.run(
            &["--rm", "--env", "WORD=given", "--cwd", "/tmp"],
            "one",
            &["sh", "-c", "echo $WORD $PWD"],
        );
        assert_eq!(output.success(), "given /tmp");
    });
}

#[test]
fn a_program_that_is_not_there_is_told_as_containerd_tells_it() {
    with_containerd(|daemon| {
        let output = daemon.run(&["--rm"], "one", &["no-such-program"]);
        let text = r#"exec: "no-such-program": executable file not found in $PATH"#;
        assert!(output.failure(1).contains(text), "{output}");
        assert_eq!(daemon.ctr(&["task", "ls", "-q"]).success(), "");
        // It is all undone: the ID is free.
        assert_eq!(daemon.run(&["--rm"], "one", &["echo", "again"]).success(), "again");
    });
}

#[test]
fn a_detached_container_is_watched_stopped_and_removed() {
    with_containerd(|daemon| {
        daemon.run(&["-d"], "two", &["sleep", "100"]).success();
        assert_eq!(daemon.status("two"), "RUNNING");

        let exec = |id: &str, script: &str| {
            daemon.ctr(&["task", "exec", "--exec-id", id, "two", "sh", "-c", script])
        };
        assert_eq!(exec("e1", "echo inside; exit 3").code, 3);
        assert_eq!(exec("e2", "echo inside").success(), "inside");
        let output = daemon.ctr(&["task", "exec", "--exec-id", "e3", "two", "no-such-program"]);
        assert!(output.failure(1).contains("executable file not found in $PATH"), "{output}");

        daemon.ctr(&["task", "pause", "two"]).success();
        assert_eq!(daemon.status("two"), "PAUSED");
        daemon.ctr(&["task", "resume", "two"]).success();
        assert_eq!(daemon.status("two"), "RUNNING");

        let output = daemon.ctr(&["task", "metrics", "two"]);
        assert!(output.success().contains("memory.usage_in_bytes"), "{output}");
        assert!(output.stdout.contains("pids.current"), "{output}");
        let output = daemon.ctr(&["task", "ps", "two"]);
        let pids: Vec<i32> = output
            .success()
            .lines()
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect();
        assert_eq!(pids.len(), 1, "{output}");
        let line = fs::read_to_string(format!("/proc/{}/cmdline", pids[0])).unwrap();
        assert_eq!(line, "sleep\x00100\x00");

        daemon.ctr(&["task", "kill", "--signal", "KILL", "two"]).success();
        eventually("the task has stopped", || daemon.status("two") == "STOPPED");
        daemon.ctr(&["task", "rm", "two"]).success();
        assert_eq!(daemon.status("two"), "");
        daemon.ctr(&["container", "rm", "two"]).success();
        assert_eq!(daemon.ctr(&["container", "ls", "-q"]).success(), "");
        assert!(!Path::new("/run/containerd/runc").join(&daemon.bed.name).join("two").exists());
    });
}

#[test]
fn limits_are_changed_and_kept_under_containerd() {
    with_containerd(|daemon| {
        let options = ["-d", "--memory-limit", "67108864", "--seccomp", "--pid-file"];
        let file = daemon.bed.directory.join("pid");
        let options = [&options[..], &[file.to_str().unwrap()]].concat();
        daemon.run(&options, "three", &["sleep", "100"]).success();
        let pid = fs::read_to_string(&file).unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
        assert!(status.contains("Seccomp:\t2"), "{status}");
        let group = Path::new("/sys/fs/cgroup/memory").join(&daemon.bed.name).join("three");
        let limit = fs::read_to_string(group.join("memory.limit_in_bytes")).unwrap();
        assert_eq!(limit.trim(), "67108864");
        daemon.ctr(&["task", "rm", "--force", "three"]);
        daemon.ctr(&["container", "rm", "three"]).success();
        assert!(!group.exists());
    });
}

#[test]
fn a_container_has_the_terminal_that_containerd_wants() {
    with_containerd(|daemon| {
        let (mut terminal, other) = integration::terminal::Terminal::open();
        let call = daemon.call(&["run", "--snapshotter", "native", "--runc-binary"]);
        let call = call.arg(&runtime().program).args(["--rm", "--tty", IMAGE, "four", "sh"]);
        let running = call.on_terminal(&other).env("TERM", "xterm").spawn();
        terminal.expect("# ");
        terminal.send("tty; echo $((40 + 2))\n");
        assert!(terminal.expect("42").contains("/dev/pts/0"));
        terminal.send("exit 5\n");
        assert_eq!(running.wait().code, 5);
    });
}
