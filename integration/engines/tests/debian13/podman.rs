//! Podman 5.4 and Buildah 1.39, of root and of an ordinary user.

use engines::Answer;
use engines::debian13::{Machine, on_debian_13};
use integration::systemd_host::USER;

/// Podman, for one who calls it.
struct Podman<'host> {
    machine: Machine<'host>,
    /// Where the units are of the one whose Podman it is.
    slice: String,
}

fn as_root(test: impl Fn(&Podman<'_>) + Sync) {
    on_debian_13(|debian| test_with(debian.clone(), "/machine.slice".to_owned(), &test));
}

fn as_user(test: impl Fn(&Podman<'_>) + Sync) {
    on_debian_13(|debian| {
        let user = debian.host.user();
        let slice = format!("/user.slice/user-{USER}.slice/user@{USER}.service/user.slice");
        test_with(debian.as_user(&user), slice, &test);
    });
}

fn test_with(machine: Machine<'_>, slice: String, test: &dyn Fn(&Podman<'_>)) {
    let podman = Podman { machine, slice };
    let (runtime, template) = (
        podman.machine.by_runtime("ferrun", "crun"),
        "{{.Host.CgroupManager}} {{.Host.OCIRuntime.Name}}",
    );
    podman.sh(&format!("podman info --format '{template}'")).prints(&format!("systemd {runtime}"));
    podman.sh("podman pull -q alpine").succeeds();
    test(&podman);
    podman.sh("podman pod rm --all --force && podman rm --all --force -t 1").succeeds();
}

impl Podman<'_> {
    #[track_caller]
    fn sh(&self, line: &str) -> Answer<'_> {
        self.machine.sh(line)
    }

    #[track_caller]
    fn run(&self, line: &str) -> Answer<'_> {
        self.sh(&format!("podman run --rm {line}"))
    }

    #[track_caller]
    fn inspect(&self, container: &str, template: &str) -> String {
        self.machine.inspect("podman", container, template)
    }

    #[track_caller]
    fn becomes(&self, container: &str, template: &str, value: &str) {
        self.machine.becomes("podman", container, template, value);
    }

    /// A container's group is its unit's, in this slice below the usual one.
    #[track_caller]
    fn claim_group(&self, container: &str, slice: &str) {
        let [id, pid] = [".Id", ".State.Pid"].map(|template| self.inspect(container, template));
        // crun puts it into a group of its own below.
        let below = self.machine.by_runtime("", "/container");
        let group = format!("{}{slice}/libpod-{id}.scope{below}", self.slice);
        self.sh(&format!("sed -n s/^0:://p /proc/{pid}/cgroup")).prints(&group);
    }
}

/// What root and an ordinary user do alike.
fn the_life_of_a_container(podman: &Podman<'_>) {
    podman.run("docker.io/library/hello-world").mentions("Hello from a container");
    podman.run("alpine ls -l").mentions("etc");
    podman.run("alpine sh -c 'echo out; echo error >&2; exit 7'").fails(7, "error");
    let shell = podman.machine.on_terminal("podman run -it --rm alpine").shows("/ # ");
    let shell = shell.types("tty").shows("/dev/pts/0").gets_size(24, 80);
    let shell = shell.resizes(120, 40).gets_size(40, 120);
    shell.types("exit 3").ends(3);

    podman
        .sh("podman run -d --name one -e WORD=given alpine sh -c 'echo began; exec sleep 1000'")
        .succeeds();
    podman.claim_group("one", "");
    podman.sh("podman exec one cat /proc/self/cgroup").mentions("0::/");
    podman.sh("podman ps").mentions("one").mentions("Up ");
    podman.sh("podman logs one").prints("began");
    podman.sh("podman top one").mentions("sleep 1000");
    podman.sh("podman exec one sh -c 'echo $WORD; exit 5'").exits(5);
    podman
        .sh("podman exec -e MORE=too -w /tmp -u 1000 one sh -c 'echo $WORD $MORE $(pwd) $(id -u)'")
        .prints("given too /tmp 1000");
    let shell = podman.machine.on_terminal("podman exec -it one sh").shows("/ # ");
    shell.types("tty").shows("/dev/pts/0").gets_size(24, 80).types("exit 4").ends(4);
    podman.sh("echo typed | podman exec -i one cat").prints("typed");
    podman.sh("podman exec one no-such-program").fails(127, "no-such-program");
    podman.sh("podman exec one /etc/passwd").fails(126, "ermission denied");
    podman.sh("podman pause one").succeeds();
    podman.becomes("one", ".State.Status", "paused");
    podman.sh("podman unpause one && podman exec one echo alive").mentions("alive");
    podman.sh("podman kill one").prints("one");
    podman.becomes("one", ".State.ExitCode", "137");
    podman.sh("podman start one").prints("one");
    podman.sh("podman restart -t 1 one && podman exec one echo again").mentions("again");
    podman.claim_group("one", "");
    podman.sh("podman stop -t 1 one").prints("one");
    podman.becomes("one", ".State.Status", "exited");
    podman.sh("podman rm one").succeeds();
}

/// Options that root and an ordinary user have alike.
fn options(podman: &Podman<'_>) {
    podman.run("alpine no-such-program").fails(127, "executable file");
    podman.run("alpine /etc/passwd").fails(126, "ermission denied");
    podman
        .run("alpine grep -E '^(Seccomp|NoNewPrivs):' /proc/1/status")
        .prints("NoNewPrivs:\t0\nSeccomp:\t2");
    podman
        .run(
            "--read-only --cap-drop all --security-opt no-new-privileges alpine \
                sh -c 'touch /file; grep -E \"^(CapEff|NoNewPrivs)\" /proc/1/status'",
        )
        .prints("CapEff:\t0000000000000000\nNoNewPrivs:\t1");
    podman.run("--init alpine ps -o args").mentions("podman-init");
    podman.run("--hostname box alpine hostname").prints("box");
    podman.run("--network none alpine grep -c : /proc/net/dev").prints("1");
    podman.run("-v /etc/hostname:/data:ro alpine touch /data").exits(1);
    podman.run("-v volume:/data alpine sh -c 'echo kept > /data/file'").succeeds();
    podman.run("-v volume:/data:ro alpine cat /data/file").prints("kept");
    podman
        .run("--tmpfs /scratch alpine sh -c 'touch /scratch/file && echo written'")
        .prints("written");
    podman.run("--user 1000 alpine id -u").prints("1000");
    podman.run("--cgroupns host alpine cat /proc/self/cgroup").mentions(&podman.slice);
    podman
        .run("--systemd always alpine sh -c 'mkdir /sys/fs/cgroup/made && echo made'")
        .prints("made");

    podman.sh("podman run -d --name web -p 8083:8080 web").succeeds();
    podman.machine.serves("127.0.0.1:8083");
    podman.sh("podman port web").mentions("8080/tcp -> 0.0.0.0:8083");
    podman
        .sh("podman run -d --name healthy --health-cmd 'test -e /ok' --health-interval disable \
            alpine sleep 1000")
        .succeeds();
    podman.sh("podman healthcheck run healthy").exits(1);
    podman.sh("podman exec healthy touch /ok && podman healthcheck run healthy").succeeds();
    // By a timer of systemd's, whose words are a program's.
    podman
        .sh("podman run -d --name timed --health-cmd 'test -e /ok' --health-interval 1s \
            alpine sh -c 'touch /ok; exec sleep 1000'")
        .succeeds();
    podman.becomes("timed", ".State.Health.Status", "healthy");
    podman
        .sh("podman run -d --name thrice --restart on-failure:2 alpine sh -c 'echo try; exit 3'")
        .succeeds();
    podman.becomes("thrice", ".RestartCount", "2");
    podman.machine.eventually("it was tried thrice", || {
        podman.sh("podman logs thrice").output.stdout == "try\ntry\ntry\n"
    });
    podman
        .sh("for i in 1 2 3 4 5 6 7 8; do podman run --rm --network none alpine true || echo failed & done; wait")
        .prints("");
}

/// A pod, whose containers are in a slice of its own.
fn pods(podman: &Podman<'_>) {
    podman.sh("podman pod create --name pod -p 8084:8080").succeeds();
    podman.sh("podman run -d --pod pod --name web web").succeeds();
    podman.sh("podman run -d --pod pod --name client alpine sleep 1000").succeeds();
    let id = podman.sh("podman pod inspect pod --format '{{.ID}}'").text().to_owned();
    let above = podman.slice.rsplit('/').next().unwrap().trim_end_matches(".slice");
    podman.claim_group("client", &format!("/{above}-libpod_pod_{id}.slice"));
    podman
        .sh("podman exec client wget -qO- http://127.0.0.1:8080/")
        .prints("served from a container");
    podman.machine.serves("127.0.0.1:8084");
    podman.sh("podman pod ps").mentions("Running");
    podman.sh("podman pod inspect pod --format '{{.NumContainers}}'").prints("3");
    podman.sh("podman pod pause pod && podman pod unpause pod").succeeds();
    podman.sh("podman pod stop -t 1 pod").succeeds();
    podman.sh("podman pod start pod && podman exec client true").succeeds();
    podman.sh("podman pod rm -f -t 1 pod").succeeds();
    podman.sh("podman ps -aq").prints("");
}

fn images(podman: &Podman<'_>) {
    podman.sh("mkdir ~/context && echo from the context > ~/context/file").succeeds();
    let write = |text: &str| {
        podman.sh(&format!("cat > ~/context/Dockerfile <<'END'\n{text}\nEND")).succeeds();
    };
    write(
        "FROM alpine AS first\nCOPY file /file\nRUN cat /file > /copied\n\
         FROM alpine\nARG WORD=none\nENV WORD=$WORD\nCOPY --from=first /copied /copied\n\
         RUN echo built as $(id -un) with $WORD > /built\nUSER nobody\nRUN id -un > /tmp/user\n\
         CMD cat /copied /built /tmp/user",
    );
    let (engines, built) =
        (["podman", "buildah"], "from the context\nbuilt as root with given\nnobody");
    for engine in engines {
        let line = format!(
            "{engine} build -q --isolation oci --no-cache --build-arg WORD=given -t {engine} ~/context"
        );
        podman.sh(&line).succeeds();
        podman.run(engine).prints(built);
    }
    write("FROM alpine\nRUN exit 3");
    for engine in engines {
        podman.sh(&format!("{engine} build --isolation oci ~/context")).fails(3, "exit status 3");
    }

    // It knows by containers.conf which runtime to take.
    podman.sh("buildah from --name made alpine").prints("made");
    let run = |line: &str| podman.sh(&format!("buildah run --isolation oci {line}"));
    run("made -- echo hello").prints("hello");
    run("made -- sh -c 'echo error >&2; exit 7'").fails(7, "error");
    run(
        "--env WORD=given --workingdir /tmp --user 1000 made -- sh -c 'echo $WORD $(pwd) $(id -u)'",
    )
    .prints("given /tmp 1000");
    run("--network none made -- grep -c : /proc/net/dev").prints("1");
    run("made -- no-such-program").fails(1, "no-such-program");
    let line = "buildah run --terminal --isolation oci made -- sh";
    let shell = podman.machine.on_terminal(line).shows("# ").types("tty");
    shell.shows("/dev/pts/0").gets_size(24, 80).types("exit 3").ends(3);
    run("made -- sh -c 'echo built > /built'").succeeds();
    podman.sh("buildah commit -q made image && buildah rm made").succeeds();
    podman.run("image cat /built").prints("built");
}

#[test]
fn root_runs_containers() {
    as_root(|podman| {
        podman.sh("id -u").prints("0");
        the_life_of_a_container(podman);
    });
}

#[test]
fn root_asks_for_this_and_that() {
    as_root(|podman| {
        options(podman);
        podman
            .run("--privileged alpine sh -c 'mount -t tmpfs none /mnt && echo mounted'")
            .prints("mounted");
        podman.run("--network host --pid host alpine ps -o args").mentions("dockerd");
        podman
            .run("--uidmap 0:100000:1000 alpine cat /proc/self/uid_map")
            .mentions("100000       1000");
        podman
            .run("--sysctl net.ipv4.ip_forward=1 alpine cat /proc/sys/net/ipv4/ip_forward")
            .prints("1");
        podman
            .run("--cgroup-parent a-b.slice --cgroupns host alpine cat /proc/self/cgroup")
            .mentions("0::/a.slice/a-b.slice/libpod-");
    });
}

#[test]
fn root_has_pods() {
    as_root(|podman| {
        podman.sh("id -u").prints("0");
        pods(podman);
    });
}

#[test]
fn root_builds_images() {
    as_root(|podman| {
        podman.sh("id -u").prints("0");
        images(podman);
    });
}

#[test]
fn a_user_runs_containers() {
    as_user(|podman| {
        podman.sh("id -u").prints("12345");
        the_life_of_a_container(podman);
    });
}

#[test]
fn a_user_asks_for_this_and_that() {
    as_user(|podman| {
        options(podman);
        podman.run("alpine cat /proc/self/uid_map").mentions("100000      65536");
        podman.run("--userns keep-id alpine id -u").prints(&USER.to_string());
        podman.run("--network pasta alpine cat /proc/net/dev").mentions("eth0");
        podman.run("--network slirp4netns alpine cat /proc/net/dev").mentions("tap0");
    });
}

#[test]
fn a_user_has_pods() {
    as_user(|podman| {
        podman.sh("id -u").prints("12345");
        pods(podman);
    });
}

#[test]
fn a_user_builds_images() {
    as_user(|podman| {
        podman.sh("id -u").prints("12345");
        images(podman);
    });
}
