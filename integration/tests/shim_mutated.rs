//! What a caller of containerd's shim may send, changed at random places: it is answered, or its
//! connection is lost, and nothing else. The same seeds in each run.

use std::fs;

use integration::as_root;
use integration::lives::random::Random;
use integration::shim::{Client, Engine, Io, NAMESPACE};
use prost::Message;
use shim::bootstrap::Asked;
use shim::frames::{self, HEADER, Kind};
use shim::messages::{
    Any, BootstrapParams, CloseIoRequest, ConnectRequest, CreateTaskRequest, DeleteRequest,
    Extension, KillRequest, Mount, Options, PauseRequest, PidsRequest, Request, ResizePtyRequest,
    ResumeRequest, RuntimeOptions, ShutdownRequest, StartRequest, StateRequest, StatsRequest,
    UpdateTaskRequest, WaitRequest,
};
use shim::service::Service;
use shim::service::answer::Call;

/// How many changed calls a service is asked, and a program that lives.
const OF_A_SERVICE: u64 = 40_000;
const OF_A_PROGRAM: u64 = 3000;
/// Numbers that stand at the edges of others.
const EDGES: [u8; 8] = [0, 1, 2, 127, 128, 254, 255, b'/'];

/// A call of each method about the container `id`.
fn calls(id: &str, bundle: &str) -> Vec<(&'static str, Vec<u8>)> {
    let (id, exec_id) = (id.to_owned(), "one".to_owned());
    let of = |id: &String| id.clone();
    let table = RuntimeOptions {
        config_body: b"SystemdCgroup = false\nRoot = '/r'".into(),
        ..Default::default()
    };
    let create = CreateTaskRequest {
        id: of(&id),
        bundle: bundle.into(),
        options: Some(Any::of("runtimeoptions.v1.Options", &table)),
        ..Default::default()
    };
    let limits = Any { type_url: "r".into(), value: br#"{"pids": {"limit": 77}}"#.to_vec() };
    let (kill, update) = (
        KillRequest { id: of(&id), exec_id: exec_id.clone(), signal: 9, all: true },
        UpdateTaskRequest { id: of(&id), resources: Some(limits), ..Default::default() },
    );
    let resize = ResizePtyRequest { id: of(&id), exec_id: exec_id.clone(), width: 80, height: 25 };
    let close = CloseIoRequest { id: of(&id), exec_id: exec_id.clone(), stdin: true };
    vec![
        ("Create", create.encode_to_vec()),
        ("Exec", Client::exec_request(&id, &exec_id, "true", &Io::default()).encode_to_vec()),
        ("Start", StartRequest { id: of(&id), exec_id: exec_id.clone() }.encode_to_vec()),
        ("State", StateRequest { id: of(&id), exec_id: exec_id.clone() }.encode_to_vec()),
        ("Wait", WaitRequest { id: of(&id), exec_id: exec_id.clone() }.encode_to_vec()),
        ("Kill", kill.encode_to_vec()),
        ("Delete", DeleteRequest { id: of(&id), exec_id }.encode_to_vec()),
        ("Pids", PidsRequest { id: of(&id) }.encode_to_vec()),
        ("Stats", StatsRequest { id: of(&id) }.encode_to_vec()),
        ("Pause", PauseRequest { id: of(&id) }.encode_to_vec()),
        ("Resume", ResumeRequest { id: of(&id) }.encode_to_vec()),
        ("Update", update.encode_to_vec()),
        ("ResizePty", resize.encode_to_vec()),
        ("CloseIO", close.encode_to_vec()),
        ("Connect", ConnectRequest { id: of(&id) }.encode_to_vec()),
        ("Shutdown", ShutdownRequest { id, ..Default::default() }.encode_to_vec()),
    ]
}

/// Bytes with some changes.
fn changed(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..random.between(1, 4) {
        let length = bytes.len() as u64;
        if length == 0 {
            bytes.push(random.one(&EDGES));
            continue;
        }
        let at = random.between(0, length - 1) as usize;
        match random.between(0, 5) {
            0 => bytes[at] ^= 1 << random.between(0, 7),
            1 => bytes[at] = random.one(&EDGES),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.between(0, 255) as u8),
            4 => {
                let piece = bytes[at..].to_vec();
                bytes.extend(piece);
            }
            _ => {
                bytes.remove(at);
            }
        }
    }
    bytes
}

/// The frame of one of these calls that was changed in its message, in the request around it, or in
/// the frame around that.
fn changed_frame(random: &mut Random, calls: &[(&'static str, Vec<u8>)]) -> Vec<u8> {
    let (method, mut payload) = random.one(calls);
    let place = random.between(0, 2);
    if place == 0 {
        payload = changed(random, payload);
    }
    let version = random.one(&["containerd.task.v2.Task", "containerd.task.v3.Task"]);
    let (service, method) = (version.to_owned(), method.to_owned());
    let request = Request { service, method, payload, ..Default::default() };
    let mut request = request.encode_to_vec();
    if place == 1 {
        request = changed(random, request);
    }
    let frame = frames::encode(1, Kind::Request, &request).expect("not too long");
    if place == 2 { changed(random, frame) } else { frame }
}

#[test]
fn no_call_is_taken_for_what_it_is_not() {
    let mut random = Random::new(7);
    let mut create = calls("one", "/nowhere");
    // These are only decided upon here, not done.
    let rootfs = Mount {
        r#type: "overlay".into(),
        options: vec!["lowerdir=/a:/b".into()],
        ..Default::default()
    };
    let options = Some(Any::of(
        "containerd.runc.v1.Options",
        &Options { root: "/r".into(), io_uid: 7, ..Default::default() },
    ));
    let one =
        CreateTaskRequest { id: "one".into(), rootfs: vec![rootfs], options, ..Default::default() };
    create.push(("Create", one.encode_to_vec()));
    let mut service = Service::default();
    let (mut asked, mut done) = (0, 0);
    for stream in 1..OF_A_SERVICE {
        let mut bytes = changed_frame(&mut random, &create);
        let length = bytes.len();
        while let Ok(Some(frame)) = frames::decode(&mut bytes) {
            assert!(frame.data.len() + HEADER <= length);
            let Ok(request) = Request::decode(frame.data.as_slice()) else { continue };
            service.call(Call { connection: 1, stream: stream as u32 }, &request);
            asked += 1;
            done += service.take_actions().len();
        }
        // What is begun fails, so that the next call about it is another one.
        if stream % 16 == 0 {
            service = Service::default();
        }
    }
    assert!(asked > OF_A_SERVICE / 4 && done > 0, "{asked} calls, {done} actions");
}

#[test]
fn no_beginning_is_taken_for_what_it_is_not() {
    let mut random = Random::new(8);
    let options = Any::of("containerd.runc.v1.Options", &Options::default());
    let params = BootstrapParams {
        instance_id: "one".into(),
        namespace: NAMESPACE.into(),
        socket_dir: "/run/s".into(),
        extensions: vec![Extension { value: Some(options.clone()) }],
        ..Default::default()
    };
    let known = [params.encode_to_vec(), options.encode_to_vec()];
    let mut read = 0;
    for _ in 0..OF_A_SERVICE {
        let given = random.one(&known);
        let Ok(asked) = Asked::read(&changed(&mut random, given), "one", NAMESPACE) else {
            continue;
        };
        read += 1;
        let _ = asked.socket("/run/containerd.sock", NAMESPACE, "one");
        let _ = shim::options::read(asked.options.as_ref());
        assert!(!asked.answer("/run/s/1").is_empty());
    }
    assert!(read > 1000, "{read}");
}

#[test]
fn a_living_program_loses_a_connection_and_nothing_else() {
    as_root(|bed| {
        if bed.is_peer("a part of ferrun's") {
            return;
        }
        let bundle = bed.bundle().sh("sleep 100");
        bundle.save();
        let (engine, guard, id) = (Engine::new(bed), bed.id(), bed.id());
        let mut client = engine.start(&bundle, &guard);
        client.run(&engine.create(&bundle, &guard, &Io::default()));
        let other = bed.bundle().sh("sleep 100");
        other.save();
        client.run(&engine.create(&other, &id, &Io::default()));
        let pid = client.pid();
        let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let before = descriptors();
        let mut random = Random::new(9);
        let calls = calls(&id, "/no/such/bundle");
        let mut answered = 0;
        for number in 0..OF_A_PROGRAM {
            let frame = changed_frame(&mut random, &calls);
            answered += u64::from(client.another().is_answered(&frame));
            if number % 100 == 0 {
                assert_eq!(client.status(&guard, ""), Ok(2), "after {number}");
            }
        }
        assert!(answered > OF_A_PROGRAM / 10 && answered < OF_A_PROGRAM, "{answered}");
        assert_eq!(client.pid(), pid);
        // Some were whole, and did what they are there for.
        if client.status(&id, "").is_ok() {
            let _ =
                client.call::<shim::messages::Empty>("Resume", &ResumeRequest { id: id.clone() });
            let _ = client.kill(&id, "", 9);
            client.wait(&id, "");
            let _ = client.delete(&id, "one");
            client.delete(&id, "").unwrap();
        }
        integration::eventually("no descriptor is left", || descriptors() <= before);
        assert_eq!(client.status(&guard, ""), Ok(2));
        client.end(&guard);
        client.shut_down();
    });
}
