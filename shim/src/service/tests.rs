use prost::Message;

use super::answer::{Answer, Call, Code, Refusal, answer, done};
use super::task::{Exit, Names, Who};
use super::{Action, Service};
use crate::messages::{
    CheckpointTaskRequest, CreateTaskRequest, DeleteRequest, DeleteResponse, Empty,
    ExecProcessRequest, KillRequest, Options, PauseRequest, PidsRequest, Request, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, TaskExit, Timestamp,
    WaitRequest, WaitResponse,
};

const AT: Timestamp = Timestamp { seconds: 7, nanos: 8 };

fn exit(code: u32) -> Exit {
    Exit { code, at: AT }
}

/// A service, and the calls to it.
#[derive(Default)]
struct Shim {
    service: Service,
    calls: u32,
}

impl Shim {
    fn call(&mut self, method: &str, message: &impl Message) -> (Call, Vec<Action>) {
        self.calls += 2;
        let call = Call { connection: 1, stream: self.calls };
        let request = Request {
            service: "containerd.task.v3.Task".into(),
            method: method.into(),
            payload: message.encode_to_vec(),
            ..Default::default()
        };
        self.service.call(call, &request);
        (call, self.service.take_actions())
    }

    /// The answer to a call that is answered at once and does nothing else.
    fn ask<M: Message + Default>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<M, Code> {
        let (call, actions) = self.call(method, message);
        let [Action::Answer(to, answer)] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(*to, call);
        let payload = answer.as_ref().map_err(|refusal| refusal.code)?;
        Ok(M::decode(payload.as_slice()).unwrap())
    }

    fn happens(&mut self, what: impl FnOnce(&mut Service)) -> Vec<Action> {
        what(&mut self.service);
        self.service.take_actions()
    }

    /// A container with this pid that was created.
    fn created(&mut self, id: &str, pid: i32) {
        let (_, actions) = self.call("Create", &create(id));
        assert!(matches!(&actions[..], [Action::Create(request, _)] if request.id == id));
        let actions = self.happens(|service| service.created(id, Ok((pid, true))));
        assert_eq!(said(&actions), ["/tasks/create", "answer"]);
    }

    /// One that is to be restored.
    fn due(&mut self, id: &str) {
        let request = CreateTaskRequest { checkpoint: "/image".into(), ..create(id) };
        let (_, actions) = self.call("Create", &request);
        assert!(matches!(&actions[..], [Action::Create(request, _)] if request.id == id));
        let actions = self.happens(|service| service.created(id, Ok((0, true))));
        assert_eq!(said(&actions), ["/tasks/create", "answer"]);
    }

    /// One that runs.
    fn running(&mut self, id: &str, pid: i32) {
        self.created(id, pid);
        let (call, actions) = self.call("Start", &start(id, ""));
        assert_eq!(actions, [Action::Start(id.into())]);
        let actions = self.happens(|service| service.started(id, Ok(())));
        assert_eq!(said(&actions), ["/tasks/start", "answer"]);
        assert_eq!(actions[1], Action::Answer(call, answer(&StartResponse { pid: pid as u32 })));
    }

    /// A process that was added and runs.
    fn added(&mut self, id: &str, exec: &str, pid: i32) {
        let (_, actions) = self.call("Exec", &executed(id, exec));
        assert_eq!(said(&actions), ["/tasks/exec-added", "answer"]);
        let (_, actions) = self.call("Start", &start(id, exec));
        assert!(matches!(&actions[..], [Action::Execute { .. }]), "{actions:?}");
        let actions = self.happens(|service| service.executed(&who(id, exec), Ok(pid), AT));
        assert_eq!(said(&actions), ["/tasks/exec-started", "answer"]);
    }

    fn status(&mut self, id: &str, exec: &str) -> i32 {
        let asked = StateRequest { id: id.into(), exec_id: exec.into() };
        self.ask::<StateResponse>("State", &asked).unwrap().status
    }
}

fn create(id: &str) -> CreateTaskRequest {
    CreateTaskRequest { id: id.into(), bundle: format!("/b/{id}"), ..Default::default() }
}

fn start(id: &str, exec: &str) -> StartRequest {
    StartRequest { id: id.into(), exec_id: exec.into() }
}

fn executed(id: &str, exec: &str) -> ExecProcessRequest {
    let spec = crate::messages::Any { type_url: "p".into(), value: b"{\"cwd\":\"/\"}".into() };
    let (id, exec_id) = (id.into(), exec.into());
    ExecProcessRequest { id, exec_id, spec: Some(spec), ..Default::default() }
}

fn delete(id: &str, exec: &str) -> DeleteRequest {
    DeleteRequest { id: id.into(), exec_id: exec.into() }
}

fn image_of(id: &str, path: &str) -> CheckpointTaskRequest {
    CheckpointTaskRequest { id: id.into(), path: path.into(), options: None }
}

fn wait(id: &str, exec: &str) -> WaitRequest {
    WaitRequest { id: id.into(), exec_id: exec.into() }
}

fn who(id: &str, exec: &str) -> Who {
    Who { container: id.into(), exec: exec.into() }
}

/// What is said to the outside, in its order.
fn said(actions: &[Action]) -> Vec<&str> {
    let said = actions.iter().filter_map(|action| match action {
        Action::Publish(topic, _) => Some(*topic),
        Action::Answer(..) => Some("answer"),
        Action::Keep { .. } => Some("keep"),
        _ => None,
    });
    said.collect()
}

fn waited(code: u32) -> Answer {
    answer(&WaitResponse { exit_status: code, exited_at: Some(AT) })
}

#[test]
fn a_life_is_told_in_its_order() {
    let mut shim = Shim::default();
    shim.running("c", 10);
    let (call, actions) = shim.call("Wait", &wait("c", ""));
    assert_eq!(actions, []);
    let actions = shim.happens(|service| service.exited(10, exit(3)));
    assert_eq!(said(&actions), ["keep", "/tasks/exit", "answer"]);
    assert_eq!(actions[2], Action::Answer(call, waited(3)));
    // Who asks later hears it at once.
    let (later, actions) = shim.call("Wait", &wait("c", ""));
    assert_eq!(actions, [Action::Answer(later, waited(3))]);
    let (call, actions) = shim.call("Delete", &delete("c", ""));
    assert_eq!(actions, [Action::Delete("c".into())]);
    let actions = shim.happens(|service| service.deleted("c", Ok(())));
    assert_eq!(actions, [Action::Drain(Who::init("c"))]);
    let actions = shim.happens(|service| service.drained(&Who::init("c")));
    assert_eq!(said(&actions), ["/tasks/delete", "answer"]);
    let deleted = DeleteResponse { pid: 10, exit_status: 3, exited_at: Some(AT) };
    assert_eq!(actions[1], Action::Answer(call, answer(&deleted)));
    let (call, actions) = shim.call("Shutdown", &ShutdownRequest::default());
    assert_eq!(actions, [Action::Answer(call, done()), Action::End]);
}

#[test]
fn the_exit_of_init_comes_after_those_of_all_that_was_added() {
    let mut shim = Shim::default();
    shim.running("c", 10);
    shim.added("c", "e", 11);
    // Init is reaped first.
    assert_eq!(shim.happens(|service| service.exited(10, exit(0))), []);
    assert_eq!(shim.status("c", ""), 2, "nobody was told");
    let actions = shim.happens(|service| service.exited(11, exit(137)));
    assert_eq!(said(&actions), ["/tasks/exit", "keep", "/tasks/exit"]);
    let names = actions.iter().filter_map(|action| match action {
        Action::Publish(_, event) => Some(TaskExit::decode(event.value.as_slice()).unwrap().id),
        _ => None,
    });
    assert_eq!(names.collect::<Vec<_>>(), ["e", "c"]);
}

#[test]
fn a_process_that_is_being_added_is_waited_for_too() {
    let mut shim = Shim::default();
    shim.running("c", 10);
    shim.call("Exec", &executed("c", "e"));
    shim.call("Start", &start("c", "e"));
    assert_eq!(shim.happens(|service| service.exited(10, exit(0))), []);
    let refused = Refusal::new(Code::Unknown, "no");
    let actions = shim.happens(|service| service.executed(&who("c", "e"), Err(refused), AT));
    assert_eq!(said(&actions), ["answer", "keep", "/tasks/exit"]);
    // And none is added any more.
    assert_eq!(shim.ask::<Empty>("Exec", &executed("c", "f")), Err(Code::FailedPrecondition));
}

#[test]
fn an_exit_that_is_seen_before_the_start_is_told_after_it() {
    let mut shim = Shim::default();
    shim.created("c", 10);
    shim.call("Start", &start("c", ""));
    assert_eq!(shim.happens(|service| service.exited(10, exit(0))), []);
    let actions = shim.happens(|service| service.started("c", Ok(())));
    assert_eq!(said(&actions), ["/tasks/start", "answer", "keep", "/tasks/exit"]);
}

#[test]
fn what_does_not_end_with_init_is_ended() {
    let mut shim = Shim::default();
    shim.call("Create", &create("c"));
    shim.happens(|service| service.created("c", Ok((10, false))));
    shim.call("Start", &start("c", ""));
    shim.happens(|service| service.started("c", Ok(())));
    let actions = shim.happens(|service| service.exited(10, exit(0)));
    assert_eq!(actions[0], Action::KillLeft("c".into()));
}

#[test]
fn a_container_that_was_never_started_is_ended_by_delete() {
    let mut shim = Shim::default();
    shim.created("c", 10);
    let (_, actions) = shim.call("Delete", &delete("c", ""));
    assert_eq!(actions, [Action::KillCreated("c".into())]);
    // A second caller waits as well.
    assert_eq!(shim.call("Delete", &delete("c", "")).1, []);
    let actions = shim.happens(|service| service.exited(10, exit(137)));
    assert_eq!(said(&actions), ["keep", "/tasks/exit"]);
    assert_eq!(actions.last(), Some(&Action::Delete("c".into())));
    shim.happens(|service| service.deleted("c", Ok(())));
    let actions = shim.happens(|service| service.drained(&Who::init("c")));
    assert_eq!(said(&actions), ["/tasks/delete", "answer", "answer"]);
}

#[test]
fn a_delete_that_fails_can_be_tried_again() {
    let mut shim = Shim::default();
    shim.running("c", 10);
    shim.happens(|service| service.exited(10, exit(0)));
    shim.call("Delete", &delete("c", ""));
    let refused = Refusal::new(Code::Unknown, "busy");
    let actions = shim.happens(|service| service.deleted("c", Err(refused)));
    assert_eq!(said(&actions), ["answer"]);
    assert_eq!(shim.call("Delete", &delete("c", "")).1, [Action::Delete("c".into())]);
    shim.happens(|service| service.deleted("c", Ok(())));
    shim.happens(|service| service.drained(&Who::init("c")));
    assert_eq!(shim.ask::<Empty>("Delete", &delete("c", "")), Err(Code::NotFound));
}

#[test]
fn states_forbid_and_say_so_by_code() {
    let mut shim = Shim::default();
    let missing = StateRequest { id: "c".into(), ..Default::default() };
    assert_eq!(shim.ask::<StateResponse>("State", &missing), Err(Code::NotFound));
    shim.call("Create", &create("c"));
    // It is in the making, so it cannot be made, and there is nothing to look at.
    assert_eq!(shim.ask::<Empty>("Create", &create("c")), Err(Code::AlreadyExists));
    assert_eq!(shim.ask::<StateResponse>("State", &missing), Err(Code::NotFound));
    shim.happens(|service| service.created("c", Ok((10, true))));
    assert_eq!(shim.status("c", ""), 1);
    shim.call("Start", &start("c", ""));
    shim.happens(|service| service.started("c", Ok(())));
    assert_eq!(shim.ask::<Empty>("Start", &start("c", "")), Err(Code::FailedPrecondition));
    assert_eq!(shim.ask::<Empty>("Delete", &delete("c", "")), Err(Code::FailedPrecondition));
    shim.added("c", "e", 11);
    assert_eq!(shim.ask::<Empty>("Exec", &executed("c", "e")), Err(Code::AlreadyExists));
    assert_eq!(shim.ask::<Empty>("Delete", &delete("c", "e")), Err(Code::FailedPrecondition));
    shim.happens(|service| service.exited(11, exit(0)));
    let kill =
        |exec: &str| KillRequest { id: "c".into(), exec_id: exec.into(), signal: 9, all: false };
    assert_eq!(shim.ask::<Empty>("Kill", &kill("e")), Err(Code::NotFound));
    let (call, actions) = shim.call("Kill", &kill(""));
    assert_eq!(actions, [Action::Kill(call, "c".into(), 9, false)]);
    shim.happens(|service| service.exited(10, exit(0)));
    assert_eq!(shim.ask::<Empty>("Kill", &kill("")), Err(Code::NotFound));
    assert_eq!((shim.status("c", ""), shim.status("c", "e")), (3, 3));
    // Nobody in it is no reason to forget it.
    let pids = PidsRequest { id: "c".into() };
    assert_eq!(shim.ask::<Empty>("Pids", &pids), Err(Code::FailedPrecondition));
    assert_eq!(
        shim.ask::<Empty>("Checkpoint", &image_of("c", "/i")),
        Err(Code::FailedPrecondition)
    );
    assert_eq!(shim.ask::<Empty>("Nosuch", &missing), Err(Code::Unimplemented));
    // Something is left: nothing happens.
    assert_eq!(shim.ask::<Empty>("Shutdown", &ShutdownRequest::default()), Ok(Empty {}));
}

#[test]
fn a_pause_holds_for_all_processes_until_it_is_taken_back() {
    let mut shim = Shim::default();
    shim.running("c", 10);
    shim.added("c", "e", 11);
    let pause = PauseRequest { id: "c".into() };
    let (call, actions) = shim.call("Pause", &pause);
    assert_eq!(actions, [Action::Move(call, "c".into(), false)]);
    assert_eq!((shim.status("c", ""), shim.status("c", "e")), (5, 5));
    let actions = shim.happens(|service| service.moved(call, "c", false, Ok(())));
    assert_eq!(said(&actions), ["/tasks/paused", "answer"]);
    assert_eq!((shim.status("c", ""), shim.status("c", "e")), (4, 4));
    assert_eq!(shim.ask::<Empty>("Pause", &pause), Err(Code::FailedPrecondition));
    let resume = ResumeRequest { id: "c".into() };
    let (call, _) = shim.call("Resume", &resume);
    let refused = Refusal::new(Code::Unknown, "no");
    shim.happens(|service| service.moved(call, "c", true, Err(refused)));
    assert_eq!(shim.status("c", ""), 4);
    let (call, _) = shim.call("Resume", &resume);
    let actions = shim.happens(|service| service.moved(call, "c", true, Ok(())));
    assert_eq!(said(&actions), ["/tasks/resumed", "answer"]);
    assert_eq!(shim.status("c", ""), 2);
    assert_eq!(shim.ask::<Empty>("Resume", &resume), Err(Code::FailedPrecondition));
}

#[test]
fn a_caller_who_has_gone_is_not_answered() {
    let mut shim = Shim::default();
    shim.running("c", 10);
    shim.call("Wait", &wait("c", ""));
    shim.service.gone(1);
    let actions = shim.happens(|service| service.exited(10, exit(0)));
    assert_eq!(said(&actions), ["keep", "/tasks/exit"]);
}

#[test]
fn a_create_that_fails_leaves_its_name_free() {
    let mut shim = Shim::default();
    let (call, _) = shim.call("Create", &create("c"));
    let refused = Refusal::new(Code::InvalidArgument, "no");
    let actions = shim.happens(|service| service.created("c", Err(refused.clone())));
    assert_eq!(actions, [Action::Answer(call, Err(refused))]);
    shim.created("c", 10);
    let restored = CreateTaskRequest { parent_checkpoint: "/x".into(), ..create("d") };
    assert_eq!(shim.ask::<Empty>("Create", &restored), Err(Code::FailedPrecondition));
    let options = Options { binary_name: "crun".into(), ..Default::default() };
    let options = Some(crate::messages::Any::of(crate::options::RUNC, &options));
    let wrapped = CreateTaskRequest { options, ..create("d") };
    assert_eq!(shim.ask::<Empty>("Create", &wrapped), Err(Code::InvalidArgument));
}

#[test]
fn a_container_of_an_image_is_there_once_it_is_started() {
    let mut shim = Shim::default();
    shim.due("c");
    assert_eq!(shim.status("c", ""), 1);
    // There is nothing in it, and who starts anew does not take it for a leak.
    let pids = PidsRequest { id: "c".into() };
    assert_eq!(shim.ask::<Empty>("Pids", &pids), Err(Code::FailedPrecondition));
    assert_eq!(shim.ask::<Empty>("Exec", &executed("c", "e")), Err(Code::FailedPrecondition));
    let image = image_of("c", "/other");
    assert_eq!(shim.ask::<Empty>("Checkpoint", &image), Err(Code::FailedPrecondition));
    let (call, actions) = shim.call("Start", &start("c", ""));
    let names = Names::default();
    let restore = Action::Restore { id: "c".into(), image: "/image".into(), names };
    assert_eq!(actions, [restore]);
    // It may be tried again.
    let refused = Refusal::new(Code::Unknown, "no");
    let actions = shim.happens(|service| service.restored("c", Err(refused.clone())));
    assert_eq!(actions, [Action::Answer(call, Err(refused))]);
    let (call, _) = shim.call("Start", &start("c", ""));
    let actions = shim.happens(|service| service.restored("c", Ok(10)));
    assert_eq!(said(&actions), ["/tasks/start", "answer"]);
    assert_eq!(actions[1], Action::Answer(call, answer(&StartResponse { pid: 10 })));
    let actions = shim.happens(|service| service.exited(10, exit(3)));
    assert_eq!(said(&actions), ["keep", "/tasks/exit"]);
}

#[test]
fn one_that_was_never_restored_is_deleted_without_an_end() {
    let mut shim = Shim::default();
    shim.due("c");
    assert_eq!(shim.call("Delete", &delete("c", "")).1, [Action::Delete("c".into())]);
    assert_eq!(shim.ask::<Empty>("Start", &start("c", "")), Err(Code::FailedPrecondition));
    shim.happens(|service| service.deleted("c", Ok(())));
    let actions = shim.happens(|service| service.drained(&Who::init("c")));
    assert_eq!(said(&actions), ["/tasks/delete", "answer"]);
}

#[test]
fn an_image_is_made_of_what_runs() {
    let mut shim = Shim::default();
    shim.created("c", 10);
    let image = image_of("c", "/image");
    assert_eq!(shim.ask::<Empty>("Checkpoint", &image), Err(Code::FailedPrecondition));
    shim.call("Start", &start("c", ""));
    shim.happens(|service| service.started("c", Ok(())));
    let (call, actions) = shim.call("Checkpoint", &image);
    let options = Box::default();
    let image = "/image".into();
    assert_eq!(actions, [Action::Checkpoint { call, id: "c".into(), image, options }]);
    let nowhere = image_of("c", "");
    assert_eq!(shim.ask::<Empty>("Checkpoint", &nowhere), Err(Code::InvalidArgument));
}

#[test]
fn the_terminal_of_a_process_is_the_requests_word() {
    let mut shim = Shim::default();
    shim.running("c", 10);
    let request = ExecProcessRequest { terminal: true, ..executed("c", "e") };
    shim.call("Exec", &request);
    let (_, actions) = shim.call("Start", &start("c", "e"));
    let [Action::Execute { process, names, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert!(names.terminal);
    let process: serde_json::Value = serde_json::from_slice(process).unwrap();
    assert_eq!(process, serde_json::json!({"cwd": "/", "terminal": true}));
}

#[test]
fn who_waits_for_what_was_added_is_answered_at_the_latest_with_its_container() {
    let mut shim = Shim::default();
    shim.running("one", 7);
    shim.added("one", "ended", 8);
    shim.happens(|service| service.exited(8, exit(4)));
    let (deleted, actions) = shim.call("Delete", &delete("one", "ended"));
    assert_eq!(actions, [Action::Drain(who("one", "ended"))]);
    // One that never ran, and who waits for it.
    shim.call("Exec", &executed("one", "never"));
    let wait = WaitRequest { id: "one".into(), exec_id: "never".into() };
    let (waits, _) = shim.call("Wait", &wait);
    shim.happens(|service| service.exited(7, exit(0)));
    shim.call("Delete", &delete("one", ""));
    shim.happens(|service| service.deleted("one", Ok(())));
    let actions = shim.happens(|service| service.drained(&who("one", "")));
    let answered = |to: Call| {
        let mut answers = actions.iter().filter_map(|action| match action {
            Action::Answer(call, answer) if *call == to => Some(answer.clone()),
            _ => None,
        });
        answers.next()
    };
    let response = DeleteResponse { pid: 8, exit_status: 4, exited_at: Some(AT) };
    assert_eq!(answered(deleted), Some(answer(&response)));
    assert_eq!(answered(waits).unwrap().unwrap_err().code, Code::NotFound);
}
