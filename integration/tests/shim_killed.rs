//! containerd's shim, or what it executes, is killed at each system call: `delete`, which containerd
//! calls then, finds and ends all that is left, and how a container had ended is kept. Of a command
//! that was killed the shim tells, and goes on.
//!
//! By default every 23rd stop is tried, before a system call and after one by turns. All of them take some minutes:
//! `cargo test -p integration --test shim_killed -- --ignored`.

use std::fs;

use integration::blow::{Blow, Victim, strike};
use integration::shim::{Client, Engine, Io, NAMESPACE, OTHERS, is_gone};
use integration::{Bed, Bundle, View, eventually, in_views};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shim::messages::{
    CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, KillRequest,
    Mount, ShutdownRequest, StartRequest, StartResponse, TaskExit, WaitRequest, WaitResponse,
};

/// The exit code of a container that nobody knows to have ended otherwise.
const KILLED: u32 = 137;

/// A container whose root is mounted by the shim.
struct Subject<'bed> {
    engine: &'bed Engine<'bed>,
    bundle: Bundle,
    root: Mount,
}

impl<'bed> Subject<'bed> {
    fn new(engine: &'bed Engine<'bed>, script: &str) -> Self {
        let bundle = engine.bed.bundle().sh(script);
        bundle.save();
        let layer = engine.bed.directory.join(format!("layer-{}", engine.bed.next()));
        fs::rename(bundle.rootfs(), &layer).unwrap();
        fs::create_dir(bundle.rootfs()).unwrap();
        let root = Mount {
            r#type: "bind".into(),
            source: layer.display().to_string(),
            options: vec!["rbind".into(), "rw".into()],
            ..Default::default()
        };
        Self { engine, bundle, root }
    }

    fn request(&self, id: &str) -> CreateTaskRequest {
        let rootfs = vec![self.root.clone()];
        CreateTaskRequest { rootfs, ..self.engine.create(&self.bundle, id, &Io::default()) }
    }

    /// Waits until its program heeds SIGTERM.
    fn heeds_signals(&self) {
        let pid = fs::read_to_string(self.bundle.path.join("init.pid")).unwrap();
        eventually("it catches SIGTERM", || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t"));
            let caught = caught.and_then(|mask| u64::from_str_radix(mask, 16).ok());
            caught.is_some_and(|mask| mask & 1 << 14 != 0)
        });
    }

    /// Starts the program, and does what comes before the call that is looked at.
    fn begin(&self, id: &str, before: &[Step]) -> Client {
        let mut client = self.engine.start(&self.bundle, id);
        for step in before {
            step.take(&mut client, self, id).expect("an answer").expect("well done");
        }
        client
    }
}

/// A call, and which code it tells that the container has ended with.
#[derive(Debug, Clone, Copy)]
enum Step {
    Create,
    Start,
    Terminate,
    Wait,
    Exec,
    Delete,
    Shutdown,
}

/// None: the program has hung up.
type Told = Option<Result<Option<u32>, String>>;

impl Step {
    fn take(self, client: &mut Client, subject: &Subject<'_>, id: &str) -> Told {
        let id = id.to_owned();
        let nothing = |answer: Option<Result<(), shim::messages::Status>>| {
            answer.map(|answer| answer.map(|()| None).map_err(|status| status.message))
        };
        match self {
            Self::Create => {
                let answer = client.attempt::<CreateTaskResponse>("Create", &subject.request(&id));
                nothing(answer.map(|answer| answer.map(drop)))
            }
            Self::Start => {
                let request = StartRequest { id, ..Default::default() };
                let answer = client.attempt::<StartResponse>("Start", &request);
                nothing(answer.map(|answer| answer.map(drop)))
            }
            Self::Terminate => {
                subject.heeds_signals();
                let request = KillRequest { id, signal: 15, ..Default::default() };
                nothing(client.attempt::<Empty>("Kill", &request).map(|answer| answer.map(drop)))
            }
            Self::Wait => {
                let request = WaitRequest { id, ..Default::default() };
                let answer = client.attempt::<WaitResponse>("Wait", &request)?;
                let code = answer.map(|response| Some(response.exit_status));
                Some(code.map_err(|status| status.message))
            }
            Self::Exec => {
                let exec_id = "added".to_owned();
                let asked = Client::exec_request(&id, &exec_id, "true", &Io::default());
                let answer = client.attempt::<Empty>("Exec", &asked)?;
                if let Err(status) = answer {
                    return Some(Err(status.message));
                }
                let request = StartRequest { id: id.clone(), exec_id: exec_id.clone() };
                let started = client.attempt::<StartResponse>("Start", &request)?;
                let request = WaitRequest { id: id.clone(), exec_id: exec_id.clone() };
                client.attempt::<WaitResponse>("Wait", &request)?.expect("the end of an exec");
                let request = DeleteRequest { id, exec_id };
                client.attempt::<DeleteResponse>("Delete", &request)?.expect("it is forgotten");
                nothing(Some(started.map(drop)))
            }
            Self::Delete => {
                let request = DeleteRequest { id, ..Default::default() };
                let answer = client.attempt::<DeleteResponse>("Delete", &request)?;
                let code = answer.map(|response| Some(response.exit_status));
                Some(code.map_err(|status| status.message))
            }
            Self::Shutdown => {
                let request = ShutdownRequest::default();
                nothing(
                    client.attempt::<Empty>("Shutdown", &request).map(|answer| answer.map(drop)),
                )
            }
        }
    }
}

/// Runs the test with version 1 alone and with version 2 alone.
#[track_caller]
fn in_both_versions(test: impl Fn(&Engine<'_>) + Sync) {
    in_views(|bed: &Bed| {
        if bed.view != View::Hybrid && !bed.is_peer(OTHERS) {
            test(&Engine::new(bed));
        }
    });
}

/// Kills the program at each `step`th stop of these calls, and has `delete` clear up.
#[track_caller]
fn go_through(what: &str, step: usize, script: &str, before: &[Step], calls: &[Step]) {
    in_both_versions(|engine| {
        let bed = engine.bed;
        let subject = Subject::new(engine, script);
        let (mut hits, mut kept) = (0, 0);
        for number in (1..).step_by(step) {
            let id = bed.id();
            let mut client = subject.begin(&id, before);
            let shim = client.pid();
            let blow = Blow { signal: Signal::SIGKILL, number };
            let (ended, told) = strike(Pid::from_raw(shim), Victim::Caller, blow, || {
                let mut told = None;
                for call in calls {
                    match call.take(&mut client, &subject, &id) {
                        None => break,
                        Some(answer) => told = answer.expect("well done").or(told),
                    }
                }
                // It is a call like any other that the program waits in for the next one.
                let _ = kill(Pid::from_raw(shim), Signal::SIGKILL);
                told
            });
            is_gone(shim);
            let heard = engine.events::<TaskExit>("exit").into_iter().find(|exit| exit.id == id);
            let told = told.or(heard.map(|exit| exit.exit_status));
            let when =
                format!("{what}, {:?}, killed at stop {number}: {ended:?}, {told:?}", bed.view);
            let deleted = engine.delete(&subject.bundle, &id);
            assert!(!client.address.exists(), "{when}: its socket is left");
            engine.forget();
            bed.assert_settles(&when);
            match told {
                Some(told) => assert_eq!(deleted.exit_status, told, "{when}"),
                // Written down, and not told any more.
                None => assert!([KILLED, 7].contains(&deleted.exit_status), "{when}: {deleted:?}"),
            }
            kept += usize::from(deleted.exit_status == 7);
            if !ended.reached {
                break;
            }
            hits += 1;
        }
        eprintln!("{what}, {:?}: killed at {hits} stops, one in {step}; {kept} kept", bed.view);
        assert!(hits * step > 20, "hardly traced: {hits} stops");
        let keeps = before.iter().chain(calls).any(|call| matches!(call, Step::Wait));
        assert_eq!(kept > 0, keeps, "{kept} kept");
        fs::remove_dir_all(&subject.root.source).unwrap();
    });
}

/// Kills what the program executes at each `step`th of all their stops: it says so, and goes on.
#[track_caller]
fn go_through_children(what: &str, step: usize, before: &[Step], call: Step) {
    in_both_versions(|engine| {
        let bed = engine.bed;
        let subject = Subject::new(engine, "sleep 100");
        let (mut hits, mut failures) = (0, 0);
        for number in (1..).step_by(step) {
            let id = bed.id();
            let mut client = subject.begin(&id, before);
            let shim = Pid::from_raw(client.pid());
            let blow = Blow { signal: Signal::SIGKILL, number };
            let (ended, failed) = strike(shim, Victim::Child, blow, || {
                let failed = call.take(&mut client, &subject, &id).expect("it lives").err();
                if failed.is_some() && before.is_empty() {
                    // containerd hangs up then, and calls it whether or not the shim lives.
                    engine.delete(&subject.bundle, &id);
                    let record = bed.root().join(NAMESPACE).join(&id);
                    assert!(!record.exists(), "{what}: {number}: it is left");
                    call.take(&mut client, &subject, &id).expect("it lives").expect("again");
                }
                client.end(&id);
                client.shut_down();
                failed
            });
            let when = format!("{what}, {:?}, stop {number}: {ended:?}, {failed:?}", bed.view);
            engine.delete(&subject.bundle, &id);
            engine.forget();
            bed.assert_settles(&when);
            if !ended.reached {
                assert_eq!(failed, None, "{when}");
                break;
            }
            failures += usize::from(failed.is_some());
            hits += 1;
        }
        eprintln!("{what}, {:?}: {failures} of {hits} failed, one in {step}", bed.view);
        assert!(hits * step > 20 && failures > 0, "{failures} failures of {hits}");
        fs::remove_dir_all(&subject.root.source).unwrap();
    });
}

const SLEEPS: &str = "sleep 100";
/// The first process of a pid namespace has to ask for a signal to be ended by it.
const HEEDS: &str = "trap 'exit 7' TERM; while :; do sleep 0.01; done";

fn create(step: usize) {
    go_through("Create", step, SLEEPS, &[], &[Step::Create]);
    go_through_children("what Create executes", step, &[], Step::Create);
}

fn start(step: usize) {
    go_through("Start", step, "exit 7", &[Step::Create], &[Step::Start, Step::Wait]);
}

fn exec(step: usize) {
    let before = [Step::Create, Step::Start];
    go_through("Exec", step, SLEEPS, &before, &[Step::Exec]);
    go_through_children("what Exec executes", step, &before, Step::Exec);
}

fn delete(step: usize) {
    let before = [Step::Create, Step::Start, Step::Wait];
    go_through("Delete", step, "exit 7", &before, &[Step::Delete, Step::Shutdown]);
}

fn kill_and_wait(step: usize) {
    let before = [Step::Create, Step::Start];
    go_through("Kill", step, HEEDS, &before, &[Step::Terminate, Step::Wait]);
}

const SOME: usize = 23;
/// Of few: between telling and writing there are hardly ten.
const MANY: usize = 5;
const ALL: usize = 1;

#[test]
fn create_can_be_killed_at_some_stops() {
    create(SOME);
}

#[test]
fn start_can_be_killed_at_some_stops() {
    start(SOME);
}

#[test]
fn exec_can_be_killed_at_some_stops() {
    exec(SOME);
}

#[test]
fn delete_can_be_killed_at_some_stops() {
    delete(SOME);
}

#[test]
fn kill_can_be_killed_at_some_stops() {
    kill_and_wait(MANY);
}

#[test]
#[ignore = "takes minutes"]
fn create_can_be_killed_at_every_stop() {
    create(ALL);
}

#[test]
#[ignore = "takes minutes"]
fn start_can_be_killed_at_every_stop() {
    start(ALL);
}

#[test]
#[ignore = "takes minutes"]
fn exec_can_be_killed_at_every_stop() {
    exec(ALL);
}

#[test]
#[ignore = "takes minutes"]
fn delete_can_be_killed_at_every_stop() {
    delete(ALL);
}

#[test]
#[ignore = "takes minutes"]
fn kill_can_be_killed_at_every_stop() {
    kill_and_wait(ALL);
}
