//! Terminals: one in the foreground, one sent to a socket, and none.

use integration::terminal::{ConsoleSocket, Terminal};
use integration::{Container, as_both, as_root};
use nix::sys::signal::Signal;

#[test]
fn run_in_the_foreground_passes_keys_size_and_exit_code() {
    as_both(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 set the first size late") {
            return;
        }
        let script = "tty; stty size; trap 'stty size' WINCH; read line; echo got $line; \
                      while ! read line; do :; done; echo got $line; exit 6";
        let bundle = bed.bundle().with("/process/terminal", true).sh(script);
        let (mut terminal, other) = Terminal::open();
        terminal.resize(101, 23);
        assert!(!terminal.is_raw());
        let running = bed.run_call(&bundle).on_terminal(&other).spawn();
        terminal.expect("/dev/pts/0");
        let said = terminal.expect("23 101");
        assert!(!said.contains("stty:"), "the size was set too late: {said:?}");
        assert!(terminal.is_raw(), "keys are the container's");
        terminal.send("first\n");
        terminal.expect("got first");
        terminal.resize(77, 11);
        terminal.expect("11 77");
        terminal.send("second\n");
        terminal.expect("got second");
        assert_eq!(running.wait().code, 6);
        assert!(!terminal.is_raw(), "as it was before");
        drop(other);
    });
}

#[test]
fn an_interrupt_key_is_the_containers() {
    as_root(|bed| {
        let script = "trap 'echo caught; exit 4' INT; echo up; while :; do sleep 0.02; done";
        let bundle = bed.bundle().with("/process/terminal", true).sh(script);
        let (mut terminal, other) = Terminal::open();
        let running = bed.run_call(&bundle).on_terminal(&other).spawn();
        terminal.expect("up");
        terminal.send("\u{3}");
        terminal.expect("caught");
        assert_eq!(running.wait().code, 4);
    });
}

#[test]
fn a_terminal_is_restored_when_the_runtime_is_told_to_end() {
    as_root(|bed| {
        let bundle = bed.bundle().with("/process/terminal", true).sh("echo up; sleep 100");
        let (mut terminal, other) = Terminal::open();
        let running = bed.run_call(&bundle).on_terminal(&other).spawn();
        terminal.expect("up");
        assert!(terminal.is_raw());
        // Passed on to a program that is deaf to it, being pid 1; KILL it is then.
        running.signal(Signal::SIGTERM);
        let id = bed.runtime(["list", "--quiet"]).success().to_owned();
        bed.runtime(["kill", &id, "KILL"]).success();
        assert_eq!(running.wait().code, 137);
        assert!(!terminal.is_raw());
        drop(other);
    });
}

#[test]
fn all_that_a_short_program_prints_arrives() {
    as_root(|bed| {
        for _ in 0..5 {
            let bundle =
                bed.bundle().with("/process/terminal", true).sh("seq 1 2000; echo the end");
            let (mut terminal, other) = Terminal::open();
            let running = bed.run_call(&bundle).on_terminal(&other).spawn();
            let said = terminal.expect("the end");
            let end = &said[said.len().saturating_sub(30)..];
            assert!(said.contains("1\r\n2\r\n") && end.contains("2000\r\nthe end"), "{end:?}");
            assert_eq!(running.wait().code, 0);
            drop(other);
        }
    });
}

#[test]
fn a_console_socket_gets_the_terminal_of_a_created_container() {
    as_both(|bed| {
        let script = "tty; stat -c %t:%T /dev/console; test -t 0 && test -t 1 && test -t 2 && echo all; \
                      echo to the console > /dev/console; read line; echo got $line";
        let bundle = bed.bundle().with("/process/terminal", true).sh(script);
        let socket = ConsoleSocket::listen(bed);
        let id = bed.id();
        let call = bed.create_call(&bundle, &id).option("--console-socket", &socket.path);
        let container = Container::create(bed, &id, call);
        let (mut terminal, name) = socket.terminal();
        assert!(!name.is_empty(), "the message holds a name");
        container.start();
        terminal.expect("/dev/pts/0");
        // The pty has major number 136.
        terminal.expect("88:0");
        terminal.expect("all");
        terminal.expect("to the console");
        terminal.send("typed\n");
        terminal.expect("got typed");
        container.ended();
    });
}

#[test]
fn lines_end_at_a_console_socket_as_on_any_terminal() {
    as_both(|bed| {
        let bundle =
            bed.bundle().with("/process/terminal", true).sh("printf 'a\\nb\\n'; sleep 100");
        let socket = ConsoleSocket::listen(bed);
        let id = bed.id();
        let call = bed.create_call(&bundle, &id).option("--console-socket", &socket.path);
        let container = Container::create(bed, &id, call);
        let (mut terminal, _) = socket.terminal();
        container.start();
        terminal.expect("a\r\nb\r\n");
    });
}

#[test]
fn a_console_socket_may_have_a_very_long_path() {
    as_root(|bed| {
        if bed.is_peer("they are bound by the length of a socket's address") {
            return;
        }
        let long = bed.make_directory(&"d".repeat(120), 0o755);
        let socket = ConsoleSocket::listen(bed);
        let path = long.join("socket");
        std::os::unix::fs::symlink(&socket.path, &path).unwrap();
        let bundle = bed.bundle().with("/process/terminal", true).sh("echo up; sleep 100");
        let id = bed.id();
        let call = bed.create_call(&bundle, &id).option("--console-socket", &path);
        let container = Container::create(bed, &id, call);
        let (mut terminal, _) = socket.terminal();
        container.start();
        terminal.expect("up");
    });
}

#[test]
fn the_programs_user_owns_the_terminal() {
    as_root(|bed| {
        let bundle = bed
            .bundle()
            .with("/process/terminal", true)
            .with("/process/user", serde_json::json!({"uid": 21, "gid": 21}))
            .sh("stat -c 'owner %u' $(tty); echo x > /dev/stdout && echo again");
        let (mut terminal, other) = Terminal::open();
        let running = bed.run_call(&bundle).on_terminal(&other).spawn();
        terminal.expect("owner 21");
        terminal.expect("again");
        assert_eq!(running.wait().code, 0);
        drop(other);
    });
}

#[test]
fn without_a_terminal_there_is_none() {
    as_both(|bed| {
        let output = bed.run(&bed.bundle().sh("test -t 0; echo $?; test -e /dev/console; echo $?"));
        assert_eq!(output.success(), "1\n1");
    });
}

#[test]
fn a_detached_container_with_a_terminal_needs_a_socket() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 goes on without") {
            return;
        }
        let bundle = bed.bundle().with("/process/terminal", true).save().clone();
        let create = bed.create_call(&bundle, &bed.id()).output();
        let run = bed.run_call(&bundle).flag("--detach").output();
        for output in [create, run] {
            assert!(output.failure(1).contains("console socket"), "{output}");
        }
        bed.assert_nothing_left();
    });
}

#[test]
fn a_console_that_is_swapped_for_a_link_binds_nothing_else() {
    as_root(|bed| {
        let outside = bed.write("outside", "untouched\n");
        let bundle = bed.bundle().with("/process/terminal", true);
        // The image's own /dev: its console leads away.
        let bundle = bundle.without("/mounts/1").sh("echo written > /dev/console; sleep 100");
        let console = bundle.rootfs().join("dev/console");
        std::os::unix::fs::symlink(&outside, &console).unwrap();
        let socket = ConsoleSocket::listen(bed);
        let id = bed.id();
        let output =
            bed.create_call(&bundle, &id).option("--console-socket", &socket.path).output();
        if output.code == 0 {
            bed.runtime(["start", &id]).success();
            let (mut terminal, _) = socket.terminal();
            terminal.expect("written");
            bed.runtime(["delete", "--force", &id]).success();
        }
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "untouched\n");
    });
}
