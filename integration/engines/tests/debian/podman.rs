//! Podman, as root and as an ordinary user.

use engines::podman::{PROGRAMS, configure, user};
use engines::{Answer, Place, in_place, runtime_name};
use integration::View;

/// Podman in its place, as one who calls it.
struct Podman<'place> {
    place: &'place Place<'place>,
    /// Options of `run`, `create` and `pod create`.
    group: String,
}

impl Podman<'_> {
    fn sh(&self, line: &str) -> Answer<'_> {
        self.place.sh(line)
    }

    fn run(&self, line: &str) -> Answer<'_> {
        self.sh(&format!("podman run {} {line}", self.group))
    }

    fn inspect(&self, container: &str, template: &str) -> String {
        let line = format!("podman inspect --format '{{{{{template}}}}}' {container}");
        self.sh(&line).output.success().to_owned()
    }

    fn becomes(&self, container: &str, template: &str, value: &str) {
        let what = format!("{template} of {container} is {value}");
        self.place.eventually(&what, || self.inspect(container, template) == value);
    }
}

/// Runs a test as root, and leaves nothing of its containers.
fn as_root(test: impl Fn(&Podman<'_>) + Sync) {
    in_place(&PROGRAMS, |place| {
        configure(place);
        let podman = Podman { place, group: format!("--cgroup-parent /{}", place.bed.name) };
        // The first one leaves files and mounts that all later ones share.
        podman.run("--rm alpine true").output.success();
        let before = place.inventory();
        test(&podman);
        podman.sh("podman pod rm --all --force && podman rm --all --force -t 1").succeeds();
        place.claim_nothing_since(&before);
        // Podman keeps its monitors in a group of their own.
        place.remove_group("conmon");
    });
}

/// Runs a test as an ordinary user.
fn as_user(test: impl Fn(&Podman<'_>) + Sync) {
    in_place(&[&PROGRAMS[..], &["newuidmap", "slirp4netns"]].concat(), |place| {
        configure(place);
        let place = user(place);
        let podman = Podman { place: &place, group: String::new() };
        // The first one leaves files that all later ones share.
        podman.run("-d --name first -p 8086:8080 web").output.success();
        podman.sh("podman rm -f -t 0 first").output.success();
        let before = place.inventory();
        test(&podman);
        podman.sh("podman pod rm --all --force && podman rm --all --force -t 1").succeeds();
        place.claim_nothing_since(&before);
        // The process that keeps the user's namespaces.
        podman.sh("kill $(cat $XDG_RUNTIME_DIR/libpod/tmp/pause.pid)").succeeds();
    });
}

#[test]
fn root_runs_containers() {
    as_root(|podman| {
        podman.sh("podman pull -q alpine").succeeds();
        podman.sh("podman images").mentions("docker.io/library/alpine");
        podman.sh("podman info --format '{{.Host.OCIRuntime.Name}}'").prints(runtime_name());
        podman.run("--rm hello-world").mentions("Hello from a container");
        podman.run("--rm alpine ls -l").mentions("etc");
        podman.run("--rm alpine sh -c 'echo out; echo error >&2; exit 7'").fails(7, "error");
        podman.run("--rm alpine sh -c 'kill -9 $$'").exits(0);
        let line = format!("podman run {} -it --rm alpine", podman.group);
        let shell = podman.place.on_terminal(&line).shows("/ # ");
        let shell = shell.types("tty").shows("/dev/pts/0").gets_size(24, 80);
        let shell = shell.resizes(120, 40).gets_size(40, 120);
        shell.types("exit 3").ends(3);

        podman
            .run("-d --name one -e WORD=given alpine sh -c 'echo began; exec sleep 1000'")
            .succeeds();
        podman.sh("podman ps").mentions("one").mentions("Up ");
        podman.sh("podman logs one").prints("began");
        podman.sh("podman top one").mentions("sleep 1000");
        podman.sh("podman stats --no-stream --format '{{.Name}} {{.PIDs}}' one").prints("one 1");
        podman.sh("podman exec one sh -c 'echo $WORD; exit 5'").exits(5);
        podman.sh("podman exec -e MORE=too -w /tmp -u 1000 one sh -c 'echo $WORD $MORE $(pwd) $(id -u)'")
            .prints("given too /tmp 1000");
        let shell = podman.place.on_terminal("podman exec -it one sh").shows("/ # ");
        shell.types("tty").shows("/dev/pts/0").gets_size(24, 80).types("exit 4").ends(4);
        podman.sh("echo typed | podman exec -i one cat").prints("typed");
        podman.sh("podman exec one no-such-program").fails(127, "no-such-program");
        podman.sh("podman exec one /etc/passwd").fails(126, "ermission denied");

        podman.sh("podman pause one").succeeds();
        podman.becomes("one", ".State.Status", "paused");
        podman.sh("podman unpause one && podman exec one echo alive").mentions("alive");
        podman.sh("podman update --memory 96m --cpus 0.5 one").succeeds();
        let group = format!("libpod-{}", podman.inspect("one", ".Id"));
        for (file, value) in podman.place.bed.by_version(
            [("memory.limit_in_bytes", "100663296"), ("cpu.cfs_quota_us", "50000")],
            [("memory.max", "100663296"), ("cpu.max", "50000 100000")],
        ) {
            let found = podman.place.cgroup_file(&group, file);
            podman.place.claim(&format!("{file} is {value}, not {found}"), found == value);
        }
        podman.sh("podman cp one:/etc/alpine-release - | tar -xO").mentions("3.");
        podman.sh("podman diff one").succeeds();

        podman.sh("podman kill one").prints("one");
        podman.becomes("one", ".State.ExitCode", "137");
        podman.sh("podman start one").prints("one");
        podman.sh("podman restart -t 1 one").succeeds();
        podman.sh("podman stop -t 1 one").prints("one");
        podman.becomes("one", ".State.Status", "exited");
        podman.sh("podman rm one").succeeds();
    });
}

#[test]
fn root_asks_for_this_and_that() {
    as_root(|podman| {
        podman.run("--rm alpine no-such-program").fails(127, "executable file not found in $PATH");
        podman.run("--rm alpine /etc/passwd").fails(126, "ermission denied");
        podman.run("--rm --no-such-flag alpine").exits(125);
        podman
            .run("--rm alpine grep -E '^(Seccomp|NoNewPrivs):' /proc/1/status")
            .prints("NoNewPrivs:\t0\nSeccomp:\t2");
        podman
            .run(
                "--rm --read-only --cap-drop all --security-opt no-new-privileges alpine \
                    sh -c 'touch /file; grep -E \"^(CapEff|NoNewPrivs)\" /proc/1/status'",
            )
            .prints("CapEff:\t0000000000000000\nNoNewPrivs:\t1");
        podman
            .run("--rm --privileged alpine sh -c 'mount -t tmpfs none /mnt && echo mounted'")
            .prints("mounted");
        podman.run("--rm --init alpine ps -o args").mentions("podman-init");
        podman
            .run("--rm --uidmap 0:100000:1000 alpine cat /proc/self/uid_map")
            .mentions("100000       1000");
        podman
            .run("--rm --sysctl net.ipv4.ip_forward=1 --hostname box alpine hostname")
            .prints("box");
        podman.run("--rm --network host alpine ls /sys/class/net").mentions("lo");
        podman.run("--rm -v /etc/hostname:/data:ro alpine sh -c 'touch /data'").exits(1);
        podman
            .run("--rm --tmpfs /scratch alpine sh -c 'touch /scratch/file && echo written'")
            .prints("written");
        // Where it looks for its own group. Version 1 shows it the whole tree, and nothing is to
        // be made there; on version 2 it may make groups below its own.
        let (script, answer) = podman.place.bed.by_version(
            ("ls -d /sys/fs/cgroup/systemd", "/sys/fs/cgroup/systemd"),
            ("mkdir /sys/fs/cgroup/made && echo made", "made"),
        );
        podman.run(&format!("--rm --systemd always alpine sh -c '{script}'")).prints(answer);
        podman.run("--name hungry -m 16m --memory-swap 16m alpine sh -c 'x=x; while :; do x=$x$x; done'").exits(137);
        // Why it ended Podman does not know: its monitor finds no cgroup without systemd.

        podman.run("-d --name web -p 83:8080 web").succeeds();
        podman.place.eventually("the published port answers", || {
            podman
                .place
                .get("127.0.0.1:83", "/")
                .is_some_and(|page| page.contains("from a container"))
        });
        podman.sh("podman port web").mentions("8080/tcp -> 0.0.0.0:83");

        podman.run("-d --name healthy --health-cmd 'test -e /ok' --health-interval disable alpine sleep 1000").succeeds();
        podman.sh("podman healthcheck run healthy").exits(1);
        podman.sh("podman exec healthy touch /ok && podman healthcheck run healthy").succeeds();
        podman
            .run("-d --name thrice --restart on-failure:2 alpine sh -c 'echo try; exit 3'")
            .succeeds();
        podman.becomes("thrice", ".RestartCount", "2");
        podman.place.eventually("it was tried thrice", || {
            podman.sh("podman logs thrice").output.stdout == "try\ntry\ntry\n"
        });
    });
}

#[test]
fn root_has_pods() {
    as_root(|podman| {
        podman.sh("podman pod create --help").mentions("--infra-command");
        // On version 2 Podman 4.3 forbids a pod's cgroup all devices, and /dev/null is one.
        let bed = podman.place.bed;
        let (share, group) =
            bed.by_version(("", ""), ("--share-parent=false", podman.group.as_str()));
        podman
            .sh(&format!("podman pod create --name pod -p 84:8080 {share} {}", podman.group))
            .succeeds();
        let run = format!("podman run {group} -d --pod pod");
        podman.sh(&format!("{run} --name web web")).succeeds();
        podman.sh(&format!("{run} --name client alpine sleep 1000")).succeeds();
        podman
            .sh("podman exec client wget -qO- http://127.0.0.1:8080/")
            .prints("served from a container");
        podman.place.eventually("the pod's port answers", || {
            podman.place.get("127.0.0.1:84", "/").is_some()
        });
        podman.sh("podman pod ps").mentions("Running");
        podman.sh("podman pod inspect pod --format '{{.NumContainers}}'").prints("3");
        podman.sh("podman pod pause pod && podman pod unpause pod").succeeds();
        podman.sh("podman pod stop -t 1 pod").succeeds();
        podman.sh("podman pod start pod && podman exec client true").succeeds();
        let id = podman.sh("podman pod inspect pod --format '{{.ID}}'").text().to_owned();
        podman.sh("podman pod rm -f -t 1 pod").succeeds();
        podman.sh("podman ps -aq").prints("");
        // Podman does not know the hierarchies without a controller, in which runtimes make the
        // pod's group as well.
        podman.place.remove_group(&id);
    });
}

#[test]
fn a_user_runs_containers() {
    as_user(|podman| {
        podman
            .sh("podman info --format '{{.Host.Security.Rootless}} {{.Host.OCIRuntime.Name}}'")
            .prints(&format!("true {}", runtime_name()));
        podman
            .run("--rm --network none alpine sh -c 'id -u; cat /proc/self/uid_map'")
            .mentions("300000");
        podman.run("--rm --network none alpine sh -c 'echo out; exit 7'").exits(7);
        podman.run("--rm --network none alpine sh -c 'touch /file; chown 1000:1000 /file; stat -c %u /file'").prints("1000");
        podman.run("--rm --network none --user 1000 alpine id -u").prints("1000");
        podman.run("--rm --network none --userns keep-id alpine id -u").prints("23456");
        podman.run("--rm --network none alpine no-such-program").fails(127, "no-such-program");
        podman.run("--rm --network none alpine /etc/passwd").exits(126);
        let line = "podman run -it --rm --network none alpine";
        let shell = podman.place.on_terminal(line).shows("/ # ");
        shell.types("tty").shows("/dev/pts/0").gets_size(24, 80).types("exit 3").ends(3);

        podman.run("-d --name one --network none alpine sleep 1000").succeeds();
        podman.sh("podman exec one sh -c 'id -u; exit 5'").exits(5);
        let shell = podman.place.on_terminal("podman exec -it one sh").shows("/ # ");
        shell.types("tty").shows("/dev/pts/0").types("exit 4").ends(4);
        podman.sh("podman top one").mentions("sleep 1000");
        podman.sh("podman kill one").prints("one");
        podman.becomes("one", ".State.ExitCode", "137");
        podman.sh("podman start one && podman stop -t 1 one").mentions("one");
        podman.sh("podman rm one").succeeds();
    });
}

#[test]
fn a_user_has_a_cgroup_of_his_own() {
    as_user(|podman| {
        let place = podman.place;
        if place.bed.view != View::V2 {
            return place.bed.skip("version 1 can be delegated to nobody");
        }
        if place.bed.is_peer("they want systemd for it") {
            return;
        }
        place.with_a_cgroup(|| {
            podman.run("-d --name one --network none alpine sleep 1000").succeeds();
            let pid = podman.inspect("one", ".State.Pid");
            let own = format!("0::/{}/", place.bed.name);
            let groups = podman.sh(&format!("cat /proc/{pid}/cgroup"));
            let group = groups.mentions(&own).text().rsplit_once(&own).unwrap().1;
            place.claim("it is below the user's", group.starts_with("user/"));
            podman.sh("podman exec one cat /proc/self/cgroup").mentions("0::/\n");
            podman.sh("podman pause one").succeeds();
            place.claim("it is frozen", place.cgroup_file(group, "cgroup.freeze") == "1");
            podman.sh("podman unpause one && podman exec one echo alive").mentions("alive");
            podman.sh("podman stop -t 1 one && podman rm one").succeeds();
            place.claim("its cgroup has gone", !place.cgroup("", group).exists());
        });
    });
}

#[test]
fn a_user_has_a_network() {
    as_user(|podman| {
        podman.run("--rm alpine ls /sys/class/net").mentions("tap0");
        podman.run("-d --name web -p 8085:8080 web").succeeds();
        podman.place.eventually("the published port answers", || {
            podman
                .place
                .get("127.0.0.1:8085", "/")
                .is_some_and(|page| page.contains("from a container"))
        });
        podman.sh("podman pod create --name pod && podman run -d --pod pod --name client alpine sleep 1000").succeeds();
        podman.sh("podman exec client id -u").prints("0");
        podman.sh("podman pod rm -f -t 1 pod").succeeds();
    });
}

#[test]
fn root_asks_for_what_few_know() {
    as_root(|podman| {
        let bed = podman.place.bed;
        let root = bed.bundle().rootfs();
        podman
            .run(&format!("--rm --rootfs {} /bin/busybox echo from a directory", root.display()))
            .prints("from a directory");
        podman
            .run("--rm --userns auto alpine cat /proc/self/uid_map")
            .fails(125, "not find enough available IDs");
        podman.place.write("/etc/subuid", "containers:1000000:1000000\n");
        podman.place.write("/etc/subgid", "containers:1000000:1000000\n");
        podman
            .run("--rm --userns auto alpine sh -c 'id -u; cat /proc/self/uid_map'")
            .mentions("10000");
        podman.run("--rm --pid host alpine ps -o args").mentions("docker-registry");
        podman.run("--rm --ipc host --uts host --network host alpine hostname").succeeds();
        podman.run("--rm --cgroupns host alpine grep -c libpod /proc/self/cgroup").succeeds();
        podman.run("--rm --preserve-fds 1 alpine sh -c 'cat <&3' 3< /etc/hostname").succeeds();
        podman
            .run("--rm --mount type=tmpfs,destination=/scratch,tmpfs-size=1m alpine df -k /scratch")
            .mentions("1024");
        podman.run("--rm -v volume:/data alpine sh -c 'echo kept > /data/file'").succeeds();
        podman.run("--rm -v volume:/data:ro alpine cat /data/file").prints("kept");
        podman
            .run("--rm --security-opt seccomp=unconfined alpine grep Seccomp: /proc/1/status")
            .prints("Seccomp:\t0");
        podman
            .run("--rm --ulimit nofile=100:200 --ulimit nproc=500:500 --cpus 0.5 --pids-limit 50 alpine sh -c 'ulimit -n'")
            .prints("100");
        podman.run("-d --name one alpine sleep 1000").succeeds();
        podman
            .sh("podman exec --privileged one grep CapEff /proc/self/status")
            .lacks("00000000a80425fb");
        podman.sh("podman exec -d one touch /later").succeeds();
        podman.place.eventually("the detached program has run", || {
            podman.sh("podman exec one ls /later").output.code == 0
        });
        podman.run("--rm --pid container:one alpine ps -o pid,args").mentions("1 sleep 1000");
        podman.sh("podman container checkpoint one").exits(125);
        // CRIU, which runc calls for it, leaves what it has found out about the kernel.
        podman.sh("rm -f /run/criu.kdat").succeeds();
        podman.sh("podman exec one echo alive").prints("alive");
    });
}

#[test]
fn a_user_asks_for_this_and_that() {
    as_user(|podman| {
        let run = |line: &str| podman.run(&format!("--rm --network none {line}"));
        run("--read-only --cap-drop all --security-opt no-new-privileges alpine \
             sh -c 'touch /file; grep -E \"^(CapEff|NoNewPrivs)\" /proc/1/status'")
        .prints("CapEff:\t0000000000000000\nNoNewPrivs:\t1");
        run("alpine grep -E '^Seccomp:' /proc/1/status").prints("Seccomp:\t2");
        run("--privileged alpine sh -c 'mount -t tmpfs none /mnt && echo mounted'")
            .prints("mounted");
        run("--init alpine ps -o args").mentions("podman-init");
        run("--tmpfs /scratch alpine sh -c 'touch /scratch/file && echo written'")
            .prints("written");
        run("-v volume:/data alpine sh -c 'echo kept > /data/file'").succeeds();
        run("-v volume:/data:ro alpine cat /data/file").prints("kept");
        podman.sh("mkdir ~/data && echo mine > ~/data/file").succeeds();
        run("-v ~/data:/data alpine sh -c 'cat /data/file; stat -c %u /data/file'")
            .prints("mine\n0");
        run(
            "-v ~/data:/data --userns keep-id alpine sh -c 'touch /data/new; stat -c %u /data/new'",
        )
        .prints("23456");
        podman.sh("stat -c %u ~/data/new").prints("23456");
        run("--hostname box alpine hostname").prints("box");
        run("--pid host alpine ps -o args").mentions("docker-registry");
        run("--ulimit nofile=100:200 alpine sh -c 'ulimit -n'").prints("100");
        run("--group-add keep-groups alpine id -u").prints("0");
        run("-e WORD=given --workdir /tmp alpine sh -c 'echo $WORD $PWD'").prints("given /tmp");
        run("--uidmap 0:1:1000 alpine cat /proc/self/uid_map").mentions("1       1000");
        run("--sysctl net.ipv4.ip_forward=1 alpine cat /proc/sys/net/ipv4/ip_forward").prints("1");
        podman.sh("podman run --rm --network host alpine ls /sys/class/net").mentions("lo");

        // To keep layers Buildah wants the image's history, which ours have not.
        let context = "~/context";
        podman.sh(&format!("mkdir {context} && printf 'FROM alpine\\nRUN id -u > /built\\nRUN echo two >> /built\\n' \
                            > {context}/Dockerfile && podman build -q --layers=false --network none -t built {context}")).succeeds();
        run("built cat /built").prints("0\ntwo");
        podman
            .sh("podman create --name one --network none alpine sleep 1000 && podman start one")
            .succeeds();
        podman.sh("podman exec -u 1000 one id -u").prints("1000");
        podman.sh("podman exec one no-such-program").fails(127, "no-such-program");
        podman.sh("podman cp one:/etc/alpine-release - | tar -xO").mentions("3.");
        podman.sh("podman logs one").prints("");
        podman
            .sh("podman inspect --format '{{.State.Running}} {{.OCIRuntime}}' one")
            .prints(&format!("true {}", runtime_name()));
    });
}
