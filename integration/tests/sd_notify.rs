//! A service manager that started the runtime learns when the program is ready.

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use integration::{Bed, as_both};
use rustix::fs::{FlockOperation, flock};

/// busybox has nothing that speaks to a socket of datagrams but logger, which takes
/// /dev/log for one. It puts a header before the text, but not before its second line.
const READY: &str = "ln -s $NOTIFY_SOCKET /dev/log; logger \"$(printf 'x\\nREADY=1')\"";

/// The socket of a manager.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn listen(bed: &Bed) -> Self {
        let path = bed.make_directory("manager", 0o777).join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { socket, path: path.to_str().unwrap().to_owned() }
    }

    #[track_caller]
    fn hears(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("the manager is told something");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn hears_nothing(&self) {
        self.socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(self.socket.recv(&mut [0; 4096]).is_err());
        self.socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    }
}

#[test]
fn start_ends_when_the_program_is_ready_and_names_its_process() {
    as_both(|bed| {
        if bed.is_peer("crun 1.8 passes the manager's own socket on, runc wants another name") {
            return;
        }
        let manager = Manager::listen(bed);
        let bundle = bed.bundle().sh(&format!("sleep 0.5; {READY}; sleep 100"));
        let id = bed.id();
        let create = bed.create_call(&bundle, &id).env("NOTIFY_SOCKET", &manager.path);
        let container = integration::Container::create(bed, &id, create);
        let start = bed.call().args(["start", &id]).env("NOTIFY_SOCKET", &manager.path).spawn();
        manager.hears_nothing();
        assert_eq!(manager.hears(), "READY=1\n");
        assert_eq!(manager.hears(), format!("MAINPID={}\n", container.pid()));
        assert_eq!(manager.hears(), "BARRIER=1");
        start.wait().success();
    });
}

#[test]
fn a_foreground_run_passes_on_that_the_program_is_ready_and_nothing_else() {
    as_both(|bed| {
        if bed.is_peer("crun 1.8 passes the manager's own socket on, runc wants another name") {
            return;
        }
        let manager = Manager::listen(bed);
        let bundle = bed.bundle().sh(&format!("logger STATUS=mine; {READY}; echo told; sleep 0.5"));
        let running = bed.run_call(&bundle).env("NOTIFY_SOCKET", &manager.path).spawn();
        assert_eq!(manager.hears(), "READY=1\n");
        manager.hears_nothing();
        assert_eq!(running.wait().success(), "told");
        bed.assert_nothing_left();
    });
}

#[test]
fn a_program_that_ends_without_a_word_does_not_hold_start_up() {
    as_both(|bed| {
        if bed.is_peer("under runc 1.1 it may for ever") {
            return;
        }
        let manager = Manager::listen(bed);
        let bundle = bed.bundle().sh("exit 0");
        let call = bed.call().args(["run", "--detach", "--bundle"]).arg(&bundle.save().path);
        let id = bed.id();
        call.arg(&id).env("NOTIFY_SOCKET", &manager.path).output().success();
        bed.call().args(["delete", "--force", &id]).output().success();
        bed.assert_nothing_left();
    });
}

#[test]
fn a_second_start_does_not_take_the_socket_away() {
    as_both(|bed| {
        if bed.is_peer("crun 1.8 and runc make another socket") {
            return;
        }
        let manager = Manager::listen(bed);
        let id = bed.id();
        let create = bed.create_call(&bed.bundle().sh(READY), &id);
        let create = create.env("NOTIFY_SOCKET", &manager.path);
        let _container = integration::Container::create(bed, &id, create);
        let start = || bed.call().args(["start", &id]).env("NOTIFY_SOCKET", &manager.path);
        // What the first one holds while it listens.
        let listening = File::open(bed.root().join(&id).join("notify")).unwrap();
        flock(&listening, FlockOperation::LockExclusive).unwrap();
        assert!(start().output().failure(1).contains("already running"));
        flock(&listening, FlockOperation::Unlock).unwrap();
        let start = start().spawn();
        assert_eq!(manager.hears(), "READY=1\n");
        assert!(manager.hears().starts_with("MAINPID="));
        assert_eq!(manager.hears(), "BARRIER=1");
        start.wait().success();
    });
}

#[test]
fn a_manager_that_is_not_there_is_named_and_nothing_is_left() {
    as_both(|bed| {
        if bed.is_peer("runc 1.1 goes on, crun 1.8 fails in other words") {
            return;
        }
        let bundle = bed.bundle().sh("exit 0");
        let output = bed.run_call(&bundle).env("NOTIFY_SOCKET", "/nowhere/socket").output();
        assert!(output.failure(1).contains("NOTIFY_SOCKET"), "{output}");
        bed.assert_nothing_left();
    });
}

/// The mount of the socket's directory is no entry of config.json, and is not named as one.
#[test]
fn what_is_in_the_way_of_the_socket_is_not_blamed_on_the_configuration() {
    as_both(|bed| {
        if bed.is_peer("crun 1.8 has another place, runc 1.1 names neither") {
            return;
        }
        let manager = Manager::listen(bed);
        let bundle = bed.bundle().sh("exit 0");
        bundle.write("run/notify", "a file");
        let output = bed.run_call(&bundle).env("NOTIFY_SOCKET", &manager.path).output();
        let message = output.failure(1);
        assert!(message.contains("NOTIFY_SOCKET: ") && !message.contains("mounts["), "{output}");
        bed.assert_nothing_left();
    });
}
