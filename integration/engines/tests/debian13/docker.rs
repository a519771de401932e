//! Docker 26.1 and its compose.

use engines::Answer;
use engines::debian13::{Machine, on_debian_13};

/// The host's Docker.
struct Docker<'host>(&'host Machine<'host>);

fn with_docker(test: impl Fn(&Docker<'_>) + Sync) {
    on_debian_13(|debian| {
        let docker = Docker(debian);
        docker
            .sh("docker info --format '{{.CgroupDriver}} {{.CgroupVersion}} {{.DefaultRuntime}}'")
            .prints(&format!("systemd 2 {}", debian.by.name()));
        test(&docker);
        docker
            .sh("docker rm --force $(docker ps --all --quiet) >/dev/null 2>&1; docker ps -aq")
            .prints("");
    });
}

impl Docker<'_> {
    #[track_caller]
    fn sh(&self, line: &str) -> Answer<'_> {
        self.0.sh(line)
    }

    /// Runs a script of shell in a container.
    #[track_caller]
    fn run(&self, options: &str, script: &str) -> Answer<'_> {
        self.sh(&format!("docker run --rm {options} alpine sh -c '{script}'"))
    }

    #[track_caller]
    fn inspect(&self, container: &str, template: &str) -> String {
        self.0.inspect("docker", container, template)
    }

    #[track_caller]
    fn becomes(&self, container: &str, template: &str, value: &str) {
        self.0.becomes("docker", container, template, value);
    }

    /// The group of a container by the kernel's word.
    #[track_caller]
    fn group(&self, container: &str) -> String {
        let pid = self.inspect(container, ".State.Pid");
        self.sh(&format!("sed -n s/^0:://p /proc/{pid}/cgroup")).text().to_owned()
    }
}

#[test]
fn the_tutorial() {
    with_docker(|docker| {
        docker.sh("docker pull alpine").mentions("Downloaded newer image for alpine:latest");
        docker.sh("docker run hello-world").mentions("Hello from a container");
        docker.sh("docker run alpine ls -l").mentions("drwxr-xr-x").mentions("etc");
        docker.sh("docker run alpine /bin/sh").prints("");
        let shell = docker
            .0
            .on_terminal("docker run -it alpine /bin/sh")
            .shows("/ # ")
            .types("tty")
            .shows("/dev/pts/0")
            .gets_size(24, 80);
        let shell = shell.resizes(120, 40).gets_size(40, 120);
        shell.types("exit 3").ends(3);
        let shell = docker.0.on_terminal("docker run -it ubuntu bash").shows("# ");
        shell.types("echo ${BASH_VERSION%%.*}-$((40 + 2))").shows("5-42").types("exit").ends(0);
        docker.sh("docker ps -a").mentions("hello-world").mentions("Exited (3)");

        docker.sh("docker run -d --name web -p 80:8080 web").succeeds();
        docker.0.serves("127.0.0.1:80");
        docker.0.serves(&format!("{}:8080", docker.inspect("web", ".NetworkSettings.IPAddress")));
        docker.sh("docker port web").mentions("8080/tcp -> 0.0.0.0:80");
        docker.sh("docker stop -t 1 web").prints("web");
        docker.sh("docker start web").prints("web");
        docker.0.serves("127.0.0.1:80");
        docker.sh("docker rm web").fails(1, "running");
        docker.sh("docker rm -f web").prints("web");
    });
}

#[test]
fn a_container_has_a_unit() {
    with_docker(|docker| {
        let id = docker
            .sh("docker run -d --init --name one alpine sleep 1000")
            .succeeds()
            .text()
            .to_owned();
        let unit = format!("docker-{id}.scope");
        docker.0.claim("its group", docker.group("one") == format!("/system.slice/{unit}"));
        let show = |property: &str| docker.0.host.show(&unit, property);
        docker.0.claim("it is active", show("ActiveState") == "active");
        docker.0.claim("it is delegated", show("Delegate") == "yes");
        docker.0.claim("devices are held", show("DevicePolicy") == "strict");
        docker.sh("docker exec one cat /proc/self/cgroup | tail -n 1").prints("0::/");
        docker.sh("systemctl daemon-reload && docker exec one sh -c 'echo x > /dev/null && echo works'").prints("works");
        docker
            .sh("systemctl daemon-reexec && docker exec one echo still there")
            .prints("still there");
        docker.sh("docker run --rm alpine echo after").prints("after");
        docker
            .run("--device /dev/zero:/dev/own", "ls /dev/own; echo x > /dev/own && echo works")
            .prints("/dev/own\nworks");

        docker.sh(&format!("systemctl kill --signal KILL {unit} && docker wait one")).prints("137");
        docker.sh("docker start one").prints("one");
        docker.sh(&format!("systemctl stop {unit}")).succeeds();
        docker.becomes("one", ".State.Status", "exited");
        docker.sh("docker start one && docker exec one echo again").prints("one\nagain");

        docker
            .sh("docker run -d --name nested --cgroup-parent a-b.slice alpine sleep 1000")
            .succeeds();
        let nested = docker.inspect("nested", ".Id");
        docker.0.claim(
            "it is in the slice",
            docker.group("nested") == format!("/a.slice/a-b.slice/docker-{nested}.scope"),
        );
        docker.run("--cgroupns host", "cat /proc/self/cgroup").mentions("0::/system.slice/docker-");
        docker
            .run("--cgroup-parent /no/slice", "true")
            .fails(125, "should be a valid slice named as \"xxx.slice\"");
    });
}

#[test]
fn what_is_run_in_a_running_container() {
    with_docker(|docker| {
        docker
            .sh("docker run -d --name one -e WORD=given alpine sh -c 'echo began; exec sleep 1000'")
            .succeeds();
        docker.sh("docker logs one").prints("began");
        docker.sh("docker exec one sh -c 'echo error >&2; exit 5'").fails(5, "error");
        docker.sh("docker exec -e MORE=too -w /tmp -u 1000:50 one sh -c 'echo $WORD $MORE $(pwd) $(id -u)'").prints("given too /tmp 1000");
        docker.sh("echo typed | docker exec -i one cat").prints("typed");
        docker.sh("docker exec -d one sh -c 'echo later > /later'").succeeds();
        docker.0.eventually("the detached program has run", || {
            docker.sh("docker exec one cat /later").output.stdout == "later\n"
        });
        let shell = docker.0.on_terminal("docker exec -it one sh").shows("/ # ");
        shell.types("tty").shows("/dev/pts/0").gets_size(24, 80).types("exit 4").ends(4);
        let exec = |line: &str| docker.sh(&format!("docker exec {line} >&2"));
        exec("one no-such-program").fails(126, "executable file not found in $PATH");
        exec("one /etc/passwd").fails(126, "permission denied");
        exec("-w /nowhere one pwd").fails(126, "/nowhere");

        docker.sh("docker top one").mentions("sleep 1000");
        docker.sh("docker stats --no-stream --format '{{.Name}}' one").prints("one");
        docker.sh("docker inspect one").mentions("\"Status\": \"running\"");
        docker.sh("docker pause one").prints("one");
        docker.sh(&format!("cat /sys/fs/cgroup{}/cgroup.freeze", docker.group("one"))).prints("1");
        docker.sh("docker exec one true").fails(1, "is paused");
        docker.sh("docker unpause one && docker exec one echo alive").prints("one\nalive");
        docker.sh("docker cp one:/etc/alpine-release - | tar -xO").mentions("3.");
        docker.sh("docker restart -t 1 one && docker exec one echo again").prints("one\nagain");
        docker.sh("docker kill one && docker wait one").prints("one\n137");
    });
}

#[test]
fn options_of_run() {
    with_docker(|docker| {
        let run = |options: &str, script: &str| docker.run(options, script);
        run("", "exit 7").exits(7);
        run("", "grep -E \"^(Seccomp|NoNewPrivs|CapEff):\" /proc/1/status")
            .prints("CapEff:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2");
        run("--init", "ps -o pid,args | grep -c [d]ocker-init").prints("1");
        run("--init", "exit 9").exits(9);
        run("--user 1000:1000 --group-add 50", "id; touch /file").fails(1, "Permission denied");
        run(
            "--read-only --tmpfs /scratch --cap-drop ALL --security-opt no-new-privileges",
            "touch /file; touch /scratch/file && grep -E \"^(CapEff|NoNewPrivs)\" /proc/1/status",
        )
        .prints("CapEff:\t0000000000000000\nNoNewPrivs:\t1");
        run("--cap-drop ALL --cap-add CHOWN", "chown 1:1 /tmp && stat -c %u:%g /tmp").prints("1:1");
        run("--security-opt seccomp=unconfined", "grep Seccomp: /proc/1/status")
            .prints("Seccomp:\t0");
        run("--ulimit nofile=100:200", "ulimit -n; ulimit -Hn").prints("100\n200");
        run(
            "--sysctl net.ipv4.ip_forward=0 --hostname box",
            "cat /proc/sys/net/ipv4/ip_forward; hostname",
        )
        .prints("0\nbox");
        run("--shm-size 1m", "df -k /dev/shm | tail -1").mentions("1024");
        run("-v /etc/hostname:/data:ro", "cat /data > /dev/null && touch /data")
            .fails(1, "Read-only");
        run("--mount type=volume,source=kept,target=/kept", "echo kept > /kept/file").succeeds();
        run("--mount type=volume,source=kept,target=/kept", "cat /kept/file").prints("kept");
        docker.sh("docker volume rm kept").prints("kept");
        run("--network none", "ls /sys/class/net").prints("lo");
        run("--network host", "ls /sys/class/net").mentions("docker0");
        run("--uts host", "hostname").prints("debian13");
        run("--pid host", "ps -o args | grep -c [d]ockerd").succeeds();
        run("--privileged", "mount -t tmpfs none /mnt && echo mounted").prints("mounted");
        docker.sh("docker run -d --name one --ipc shareable alpine sleep 1000").succeeds();
        run("--pid container:one", "ps -o pid,args | grep [s]leep").prints("1 sleep 1000");
        run("--network container:one --ipc container:one", "hostname")
            .prints(&docker.inspect("one", ".Config.Hostname"));

        docker
            .sh("docker run --rm alpine no-such-program")
            .fails(127, "exec: \"no-such-program\": executable file not found in $PATH");
        docker
            .sh("docker run --rm alpine /no/such/program")
            .fails(127, "no such file or directory");
        docker.sh("docker run --rm alpine /etc/passwd").fails(126, "permission denied");
        docker.sh("docker run --rm -v /etc/passwd:/bin alpine true").fails(125, "not a directory");
        run("--memory 16m", "true").mentions("");
        run("--cpus 0.5", "true").fails(125, "CPU CFS scheduler");
    });
}

#[test]
fn policies_and_checks() {
    with_docker(|docker| {
        docker.sh("docker run -d --name thrice --restart on-failure:2 alpine sh -c 'echo try; exit 3'").succeeds();
        docker
            .sh("docker run -d --name always --stop-timeout 1 --restart always alpine sleep 1000")
            .succeeds();
        docker.sh("docker run -d --name healthy --stop-timeout 1 --health-cmd 'test -e /ok' --health-interval 500ms --health-retries 1 alpine sleep 1000").succeeds();
        docker.becomes("healthy", ".State.Health.Status", "unhealthy");
        docker.sh("docker exec healthy touch /ok").succeeds();
        docker.becomes("healthy", ".State.Health.Status", "healthy");
        let first = docker.inspect("always", ".State.Pid");
        docker.sh(&format!("kill -9 {first}")).succeeds();
        docker.becomes("always", ".RestartCount", "1");
        docker.becomes("always", ".State.Running", "true");
        docker.becomes("thrice", ".RestartCount", "2");
        docker.becomes("thrice", ".State.Status", "exited");
        docker.sh("docker logs thrice").prints("try\ntry\ntry");
        // A daemon that is started again has systemd take the old containers' units away first.
        docker.sh("systemctl restart docker && docker ps --format '{{.Names}}'").prints("always");
        docker.sh("for i in 1 2 3 4 5 6 7 8 9 10; do docker run --rm --name same alpine true || echo failed; done").prints("");
        docker.sh("for i in 1 2 3 4 5 6 7 8; do docker run --rm alpine true || echo failed & done; wait").prints("");
    });
}

#[test]
fn users_are_mapped() {
    with_docker(|docker| {
        docker.sh("cd /etc/docker && jq '.[\"userns-remap\"] = \"tester\"' daemon.json > new && mv new daemon.json && systemctl restart docker").succeeds();
        docker.run("", "cat /proc/self/uid_map").mentions("100000");
        docker.run("", "touch /file; stat -c %u /file; id -u").prints("0\n0");
        docker.sh("docker run -d --name one -p 81:8080 web").succeeds();
        docker.0.serves("127.0.0.1:81");
        docker.sh("docker exec one sh -c 'echo >/file && echo written'").prints("written");
        let pid = docker.inspect("one", ".State.Pid");
        docker.sh(&format!("grep ^Uid: /proc/{pid}/status")).mentions("100000\t100000");
        docker.run("--userns host", "cat /proc/self/uid_map").mentions("4294967295");
    });
}

#[test]
fn images_are_built() {
    with_docker(|docker| {
        docker.0.write("/context/file", "from the context\n");
        docker.0.write(
            "/context/Dockerfile",
            "FROM alpine\nARG WORD=none\nENV WORD=$WORD\nCOPY file /file\n\
             RUN echo built as $(id -un) > /built && cat /file >> /built\n\
             USER nobody\nRUN id -un > /tmp/user\nCMD cat /built /tmp/user; echo $WORD\n",
        );
        docker
            .sh("docker build -t built --build-arg WORD=given /context")
            .mentions("Successfully tagged built:latest");
        docker.sh("docker run --rm built").prints("built as root\nfrom the context\nnobody\ngiven");
        docker.0.write("/context/Dockerfile", "FROM alpine\nRUN exit 3\n");
        docker.sh("docker build /context").fails(3, "returned a non-zero code: 3");
        docker.sh("docker run --name changed alpine touch /changed && docker commit changed committed").mentions("sha256:");
        docker.sh("docker run --rm committed ls /changed").prints("/changed");
    });
}

#[test]
fn services_come_up_and_go_down() {
    with_docker(|docker| {
        docker.0.write(
            "/project/compose.yaml",
            "services:\n  \
             web: {image: web, ports: ['82:8080'], stop_grace_period: 1s}\n  \
             client:\n    image: alpine\n    command: sleep 1000\n    depends_on: [web]\n    \
             stop_grace_period: 1s\n    environment: {WORD: given}\n    \
             volumes: ['kept:/kept']\nvolumes: {kept: {}}\n",
        );
        let compose = |line: &str| docker.sh(&format!("cd /project && docker compose {line}"));
        compose("up -d").succeeds();
        compose("ps").mentions("client").mentions("0.0.0.0:82->8080/tcp").mentions("Up");
        docker.0.serves("127.0.0.1:82");
        compose("exec -T client wget -qO- http://web:8080/").prints("served from a container");
        compose("exec -T client sh -c 'echo $WORD > /kept/word; exit 5'").exits(5);
        compose("restart -t 1 client").succeeds();
        compose("exec -T client cat /kept/word").prints("given");
        compose("up -d --scale client=2").succeeds();
        compose("ps -q client | wc -l").prints("2");
        compose("stop -t 1 web").succeeds();
        compose("ps --all web").mentions("Exited");
        compose("down -v").succeeds();
        docker.sh("docker ps -aq; docker volume ls -q").prints("");
    });
}
