//! containerd's part in front of the shim: it starts it, calls it, hears its events, and reads
//! what processes print. The shim is the one beside the runtime under test.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::shim::frames::{self, Kind};
use ::shim::messages::{
    Any, BootstrapParams, BootstrapResult, ConnectRequest, ConnectResponse, CreateTaskRequest,
    DeleteRequest, DeleteResponse, Empty, Envelope, ExecProcessRequest, Extension, ForwardRequest,
    KillRequest, Options, Request, Response, ShutdownRequest, StartRequest, StartResponse,
    StateRequest, StateResponse, Status, WaitRequest, WaitResponse,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use prost::Message;

use crate::{Bed, Bundle, eventually, runtime};

/// Why other runtimes are not asked.
pub const OTHERS: &str = "a part of ferrun's";

/// Runs a test as root where the runtime has a shim.
#[track_caller]
pub fn as_root<F: Fn(&Bed) + Sync>(test: F) {
    crate::as_root(|bed| {
        if !bed.is_peer(OTHERS) {
            test(bed);
        }
    });
}

/// A bundle that runs a script, on disk.
pub fn bundle(bed: &Bed, script: &str) -> Bundle {
    let bundle = bed.bundle().sh(script);
    bundle.save();
    bundle
}

/// containerd's namespace in these tests.
pub const NAMESPACE: &str = "tests";
/// A directory that each machine has, and no test needs.
const SHORT: &str = "/mnt";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The program beside the runtime.
pub fn program() -> PathBuf {
    runtime().program.with_file_name("containerd-shim-ferrun-v2")
}

/// A stand-in for containerd, which takes events.
#[derive(Debug)]
pub struct Engine<'bed> {
    /// What the test has.
    pub bed: &'bed Bed,
    events: PathBuf,
    path: Option<String>,
    bundles: RefCell<BTreeSet<PathBuf>>,
    heard: Arc<Mutex<Vec<Envelope>>>,
}

impl<'bed> Engine<'bed> {
    /// One that does not listen yet.
    pub fn deaf(bed: &'bed Bed) -> Self {
        let events = bed.directory.join("events");
        // A socket has a short path, and the bed's directory may have a long one. These mounts are
        // the bed's own.
        let tmpfs = Some("tmpfs");
        mount(tmpfs, SHORT, tmpfs, MsFlags::empty(), None::<&str>).expect("a tmpfs");
        Self { bed, events, path: None, bundles: RefCell::default(), heard: Arc::default() }
    }

    /// One that listens.
    pub fn new(bed: &'bed Bed) -> Self {
        let engine = Self::deaf(bed);
        engine.listen();
        engine
    }

    /// The same, where programs are looked for in these directories.
    pub fn with_path(mut self, path: &str) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// Takes events from now on, one connection after the other.
    pub fn listen(&self) {
        let listener = UnixListener::bind(&self.events).expect("a socket for events");
        let heard = self.heard.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                take_events(connection, &heard);
            }
        });
    }

    /// The topics of the events so far, without what all begin with, and whom they are about.
    pub fn topics(&self) -> Vec<String> {
        let heard = self.heard.lock().expect("events");
        let topics = heard.iter().map(|event| {
            assert_eq!(event.namespace, NAMESPACE);
            event.topic.trim_start_matches("/tasks/").to_owned()
        });
        topics.collect()
    }

    /// The events so far with this topic.
    pub fn events<M: Message + Default>(&self, topic: &str) -> Vec<M> {
        let heard = self.heard.lock().expect("events");
        let of_topic = heard.iter().filter(|event| event.topic == format!("/tasks/{topic}"));
        let events = of_topic.filter_map(|event| event.event.clone());
        events.map(|event| M::decode(event.value.as_slice()).expect("an event")).collect()
    }

    /// Waits until these were the topics of all events.
    #[track_caller]
    pub fn hears(&self, topics: &[&str]) {
        eventually(&format!("{topics:?}"), || self.topics() == topics);
    }

    /// Calls the program as containerd does, with the bundle as its working directory.
    pub fn command(&self, bundle: &Path, id: &str, action: &str, given: &[u8]) -> Vec<u8> {
        let mut command = self.command_line(&[], bundle, id, action, given);
        // It is at its end when nobody holds these pipes.
        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        let output = output.expect("the shim");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{action}: {said}");
        output.stdout
    }

    /// The words that containerd calls it with, behind those of a program that calls it.
    fn command_line(
        &self,
        wrapper: &[&str],
        bundle: &Path,
        id: &str,
        action: &str,
        given: &[u8],
    ) -> Command {
        self.bundles.borrow_mut().insert(bundle.to_owned());
        let address = self.bed.directory.join("containerd");
        let stdin = self.bed.directory.join(format!("stdin-{}", self.bed.next()));
        fs::write(&stdin, given).expect("stdin");
        let program = program();
        let mut words = wrapper.iter().map(OsStr::new).chain([program.as_os_str()]);
        let mut command = Command::new(words.next().expect("a program"));
        command
            .args(words)
            .args(["-namespace", NAMESPACE, "-publish-binary", "/bin/false", "-id", id])
            .arg("-address")
            .arg(&address)
            .arg("-bundle")
            .arg(bundle)
            .arg(action)
            .envs(self.path.iter().map(|path| ("PATH", path)))
            .env("TTRPC_ADDRESS", &self.events)
            .env("NOTIFY_SOCKET", "/nowhere")
            .env("OF_THE_ENGINE", "nobody else's")
            .process_group(0)
            .current_dir(bundle)
            .stdin(File::open(&stdin).expect("stdin"));
        command
    }

    /// Starts the program for a container, as containerd 2.3 and later do, and connects to it.
    pub fn start(&self, bundle: &Bundle, id: &str) -> Client {
        let answer = self.command(&bundle.path, id, "start", &self.asked(id));
        Self::connect(&answer)
    }

    /// `start` or `delete` by another program, which may stay as long as what it starts, and the
    /// file that gets the answer.
    pub fn begin(
        &self,
        wrapper: &[&str],
        bundle: &Bundle,
        id: &str,
        action: &str,
    ) -> (Command, PathBuf) {
        let answer = self.bed.directory.join(format!("answer-{}", self.bed.next()));
        let given = if action == "start" { self.asked(id) } else { Vec::new() };
        let mut command = self.command_line(wrapper, &bundle.path, id, action, &given);
        command.stdout(File::create(&answer).expect("a file")).stderr(Stdio::null());
        (command, answer)
    }

    /// Connects to the program that `start` has answered with.
    pub fn connect(answer: &[u8]) -> Client {
        let result = BootstrapResult::decode(answer).expect("an answer");
        assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
        Client::connect(&result.address)
    }

    /// What `start` is asked for with.
    fn asked(&self, id: &str) -> Vec<u8> {
        let params = BootstrapParams {
            instance_id: id.to_owned(),
            namespace: NAMESPACE.to_owned(),
            ttrpc_address: self.events.display().to_string(),
            extensions: vec![Extension { value: Some(self.options()) }],
            socket_dir: self.directory_of_sockets().display().to_string(),
            ..Default::default()
        };
        params.encode_to_vec()
    }

    /// Where the program has its socket.
    pub fn directory_of_sockets(&self) -> PathBuf {
        Path::new(SHORT).join("s")
    }

    /// The options of containers: what they are remembered by is the bed's.
    pub fn options(&self) -> Any {
        let root = self.bed.root().display().to_string();
        Any::of("containerd.runc.v1.Options", &Options { root, ..Default::default() })
    }

    /// What a container is created with.
    pub fn create(&self, bundle: &Bundle, id: &str, io: &Io) -> CreateTaskRequest {
        self.bundles.borrow_mut().insert(bundle.path.clone());
        CreateTaskRequest {
            id: id.to_owned(),
            bundle: bundle.path.display().to_string(),
            stdin: io.stdin.clone(),
            stdout: io.stdout.clone(),
            stderr: io.stderr.clone(),
            terminal: io.terminal,
            options: Some(self.options()),
            ..Default::default()
        }
    }

    /// Runs `delete` for a container.
    pub fn delete(&self, bundle: &Bundle, id: &str) -> DeleteResponse {
        let answer = self.command(&bundle.path, id, "delete", &[]);
        DeleteResponse::decode(answer.as_slice()).expect("an answer")
    }

    /// Removes what the program has put into bundles, which containerd removes whole.
    pub fn forget(&self) {
        for bundle in self.bundles.borrow().iter() {
            for name in ["address", "exit.json", "init.pid", "log.json", "options.json"] {
                let _ = fs::remove_file(bundle.join(name));
            }
            let _ = fs::remove_dir_all(bundle.join("criu-work"));
        }
        // With a container in it, it is not removed, and the bed finds it.
        let _ = fs::remove_dir(self.bed.root().join(NAMESPACE));
    }

    /// The path of a new named pipe.
    pub fn pipe(&self) -> PathBuf {
        let path = self.bed.directory.join(format!("pipe-{}", self.bed.next()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        path
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        self.forget();
        let _ = umount2(SHORT, MntFlags::MNT_DETACH);
    }
}

fn take_events(mut connection: UnixStream, heard: &Mutex<Vec<Envelope>>) {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = connection.read(&mut chunk) {
        bytes.extend(&chunk[..length]);
        while let Some(frame) = frames::decode(&mut bytes).expect("a frame") {
            let request = Request::decode(frame.data.as_slice()).expect("a request");
            assert_eq!(request.service, "containerd.services.events.ttrpc.v1.Events");
            let forwarded = ForwardRequest::decode(request.payload.as_slice()).expect("an event");
            heard.lock().expect("events").extend(forwarded.envelope);
            let answer = Response::default().encode_to_vec();
            let answer = frames::encode(frame.stream, Kind::Response, &answer).expect("a frame");
            if connection.write_all(&answer).is_err() {
                return;
            }
        }
    }
}

/// The names of the streams of a process.
#[derive(Debug, Clone, Default)]
pub struct Io {
    /// Stdin.
    pub stdin: String,
    /// Stdout.
    pub stdout: String,
    /// Stderr.
    pub stderr: String,
    /// Whether it has a terminal.
    pub terminal: bool,
}

impl Io {
    /// The stdout in this pipe, and nothing else.
    pub fn stdout(pipe: &Path) -> Self {
        Self { stdout: pipe.display().to_string(), ..Self::default() }
    }
}

/// A reader of a pipe, whether somebody writes or not.
pub fn reader(pipe: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK).open(pipe).expect("a pipe")
}

/// Somebody who writes to a pipe that is read.
pub fn writer(pipe: &Path) -> File {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK).open(pipe).expect("a pipe with a reader")
}

/// Waits until a pipe has held this text.
#[track_caller]
pub fn reads(pipe: &mut File, text: &str) {
    let mut said = String::new();
    eventually(&format!("{text:?}"), || {
        let mut chunk = [0; 4096];
        if let Ok(length) = pipe.read(&mut chunk) {
            said.push_str(&String::from_utf8_lossy(&chunk[..length]));
        }
        said.contains(text)
    });
}

/// A connection to the program.
#[derive(Debug)]
pub struct Client {
    /// Where it listens.
    pub address: PathBuf,
    socket: UnixStream,
    bytes: Vec<u8>,
    answers: BTreeMap<u32, Response>,
    last: u32,
}

impl Client {
    /// Connects to a program that is there.
    pub fn connect(address: &str) -> Self {
        let address = PathBuf::from(address.strip_prefix("unix://").expect("an address"));
        let socket = UnixStream::connect(&address).expect("the shim");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { address, socket, bytes: Vec::new(), answers: BTreeMap::new(), last: 0 }
    }

    /// Another one to the same.
    pub fn another(&self) -> Self {
        Self::connect(&format!("unix://{}", self.address.display()))
    }

    /// Writes bytes as they are. Says whether they were taken.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// Calls State again and again, and never reads, until so many bytes of calls are taken or
    /// none is for a second. Returns how many were.
    pub fn call_without_reading(&mut self, asked: &StateRequest, most: usize) -> usize {
        self.socket.set_nonblocking(true).expect("O_NONBLOCK");
        let (mut taken, mut calls) = (0, Vec::new());
        let mut last = Instant::now();
        while taken < most && last.elapsed() < Duration::from_secs(1) {
            while calls.len() < 64 * 1024 {
                let (_, bytes) = self.bytes_of("State", asked);
                calls.extend(bytes);
            }
            match self.socket.write(&calls) {
                Ok(length) => {
                    taken += length;
                    calls.drain(..length);
                    last = Instant::now();
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        taken
    }

    /// Writes these bytes and nothing more. Returns whether anything came back before the end.
    pub fn is_answered(mut self, bytes: &[u8]) -> bool {
        // Its end may come before all is written.
        let _ = self.socket.write_all(bytes);
        std::thread::yield_now();
        let _ = self.socket.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        if let Err(error) = self.socket.read_to_end(&mut answer) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{bytes:?}");
        }
        !answer.is_empty()
    }

    /// Whether the other side has closed it.
    pub fn is_closed(&mut self) -> bool {
        match self.socket.read(&mut [0; 1]) {
            Ok(length) => length == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    /// The bytes of a call.
    pub fn bytes_of(&mut self, method: &str, message: &impl Message) -> (u32, Vec<u8>) {
        let stream = self.last + 1;
        self.last += 2;
        let request = Request {
            service: "containerd.task.v3.Task".to_owned(),
            method: method.to_owned(),
            payload: message.encode_to_vec(),
            ..Default::default()
        };
        let request = request.encode_to_vec();
        (stream, frames::encode(stream, Kind::Request, &request).expect("a frame"))
    }

    /// Calls, and does not wait for the answer.
    pub fn send(&mut self, method: &str, message: &impl Message) -> u32 {
        let (stream, bytes) = self.bytes_of(method, message);
        self.socket.write_all(&bytes).expect("a call");
        stream
    }

    /// Waits for an answer.
    #[track_caller]
    pub fn answer<M: Message + Default>(&mut self, stream: u32) -> Result<M, Status> {
        self.hear(stream).expect("the shim has hung up")
    }

    /// Waits for an answer. None: there is nobody who would give it any more.
    #[track_caller]
    pub fn hear<M: Message + Default>(&mut self, stream: u32) -> Option<Result<M, Status>> {
        loop {
            if let Some(Response { status, payload }) = self.answers.remove(&stream) {
                return Some(match status {
                    Some(status) if status.code != 0 => Err(status),
                    _ => Ok(M::decode(payload.as_slice()).expect("an answer")),
                });
            }
            let mut chunk = [0; 4096];
            let length = match self.socket.read(&mut chunk) {
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                read => read.expect("an answer in time"),
            };
            if length == 0 {
                return None;
            }
            self.bytes.extend(&chunk[..length]);
            while let Some(frame) = frames::decode(&mut self.bytes).expect("a frame") {
                let response = Response::decode(frame.data.as_slice()).expect("a response");
                self.answers.insert(frame.stream, response);
            }
        }
    }

    /// Calls, and waits for the answer. None: there is nobody who would give it any more.
    #[track_caller]
    pub fn attempt<M: Message + Default>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Option<Result<M, Status>> {
        let (stream, bytes) = self.bytes_of(method, message);
        self.socket.write_all(&bytes).ok()?;
        self.hear(stream)
    }

    /// Calls, and waits for the answer.
    #[track_caller]
    pub fn call<M: Message + Default>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<M, Status> {
        let stream = self.send(method, message);
        self.answer(stream)
    }

    /// Creates a container and starts it. Returns its pid.
    #[track_caller]
    pub fn run(&mut self, create: &CreateTaskRequest) -> u32 {
        self.call::<::shim::messages::CreateTaskResponse>("Create", create).expect("Create");
        self.start(&create.id, "").expect("Start")
    }

    /// Start.
    #[track_caller]
    pub fn start(&mut self, id: &str, exec: &str) -> Result<u32, Status> {
        let request = StartRequest { id: id.to_owned(), exec_id: exec.to_owned() };
        self.call::<StartResponse>("Start", &request).map(|started| started.pid)
    }

    /// Exec, with a shell in the container.
    #[track_caller]
    pub fn exec(&mut self, id: &str, exec: &str, script: &str, io: &Io) -> Result<Empty, Status> {
        self.call("Exec", &Self::exec_request(id, exec, script, io))
    }

    /// What an exec is asked for with.
    pub fn exec_request(id: &str, exec: &str, script: &str, io: &Io) -> ExecProcessRequest {
        let process = serde_json::json!({
            "args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        });
        let type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned();
        ExecProcessRequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            terminal: io.terminal,
            stdin: io.stdin.clone(),
            stdout: io.stdout.clone(),
            stderr: io.stderr.clone(),
            spec: Some(Any { type_url, value: process.to_string().into_bytes() }),
        }
    }

    /// Wait, until it is answered.
    #[track_caller]
    pub fn wait(&mut self, id: &str, exec: &str) -> u32 {
        let request = WaitRequest { id: id.to_owned(), exec_id: exec.to_owned() };
        self.call::<WaitResponse>("Wait", &request).expect("Wait").exit_status
    }

    /// Kill.
    #[track_caller]
    pub fn kill(&mut self, id: &str, exec: &str, signal: u32) -> Result<Empty, Status> {
        let (id, exec_id) = (id.to_owned(), exec.to_owned());
        self.call("Kill", &KillRequest { id, exec_id, signal, all: false })
    }

    /// Delete.
    #[track_caller]
    pub fn delete(&mut self, id: &str, exec: &str) -> Result<DeleteResponse, Status> {
        let request = DeleteRequest { id: id.to_owned(), exec_id: exec.to_owned() };
        self.call("Delete", &request)
    }

    /// The status that State answers.
    #[track_caller]
    pub fn status(&mut self, id: &str, exec: &str) -> Result<i32, Status> {
        let request = StateRequest { id: id.to_owned(), exec_id: exec.to_owned() };
        self.call::<StateResponse>("State", &request).map(|state| state.status)
    }

    /// The pid of the program.
    #[track_caller]
    pub fn pid(&mut self) -> i32 {
        let answer = self.call::<ConnectResponse>("Connect", &ConnectRequest::default());
        answer.expect("Connect").shim_pid.cast_signed()
    }

    /// Kills the init process of a container, waits for its end and deletes it.
    #[track_caller]
    pub fn end(&mut self, id: &str) {
        // It may have ended.
        let _ = self.kill(id, "", 9);
        self.wait(id, "");
        self.delete(id, "").expect("Delete");
    }

    /// Ends the program, and sees that it goes.
    #[track_caller]
    pub fn shut_down(mut self) {
        let pid = self.pid();
        self.call::<Empty>("Shutdown", &ShutdownRequest::default()).expect("Shutdown");
        is_gone(pid);
        assert!(!self.address.exists(), "its socket is left");
    }
}

/// Waits until a process has ended.
#[track_caller]
pub fn is_gone(pid: i32) {
    eventually("the end of the shim", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    });
}
