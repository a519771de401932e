//! nerdctl 2.1, which has containerd do what Docker does.

use engines::debian13::on_debian_13_with;

#[test]
fn containers_by_nerdctl() {
    on_debian_13_with(&["nerdctl"], |debian| {
        debian.write("/etc/nerdctl/nerdctl.toml", "cni_path = '/usr/lib/cni'\n");
        debian.write(
            "/etc/containerd/certs.d/docker.io/hosts.toml",
            "[host.'http://127.0.0.1:5000']\ncapabilities = ['pull', 'resolve']\n",
        );
        let runtime = debian.by_runtime("--runtime $RUNTIME", "");
        let nerdctl = |line: &str| debian.sh(&format!("nerdctl {line}"));
        let run = |line: &str| nerdctl(&format!("run {runtime} {line}"));
        nerdctl("info --format '{{.CgroupDriver}} {{.CgroupVersion}}'").prints("systemd 2");
        nerdctl("pull -q alpine").succeeds();
        run("--rm alpine echo hello").prints("hello");
        run("--rm alpine sh -c 'echo oh >&2; exit 7'").fails(7, "oh");
        run("--rm alpine no-such-program").fails(1, "executable file not found in $PATH");
        run("--rm --cgroupns host alpine cat /proc/self/cgroup")
            .mentions("0::/system.slice/nerdctl-");
        run("--rm --user 1000 --read-only --tmpfs /scratch alpine sh -c 'touch /scratch/file && id -u'")
            .prints("1000");
        run("--rm --cap-drop ALL --security-opt no-new-privileges alpine grep CapEff /proc/1/status")
            .prints("CapEff:\t0000000000000000");
        run("--rm --network none alpine ls /sys/class/net").prints("lo");
        run("--rm -v kept:/kept alpine sh -c 'echo kept > /kept/file'").succeeds();
        run("--rm -v kept:/kept alpine cat /kept/file").prints("kept");
        let line = format!("nerdctl run {runtime} --rm -it alpine");
        let shell = debian.on_terminal(&line).shows("/ # ").types("tty");
        shell.shows("/dev/pts/0").gets_size(24, 80).types("exit 3").ends(3);

        let id = run("-d --name web -p 8090:8080 web").succeeds().text().to_owned();
        let unit = format!("nerdctl-{id}.scope");
        debian.sh(&format!("systemctl is-active {unit}")).prints("active");
        debian.serves("127.0.0.1:8090");
        // Who prints stays for a moment: runc's shim closes a pipe that nobody has opened yet.
        nerdctl("exec web sh -c 'echo inside; sleep 0.5'").prints("inside");
        nerdctl("pause web && nerdctl ps --all").mentions("Paused");
        nerdctl("unpause web && nerdctl exec web sh -c 'echo alive; sleep 0.5'").mentions("alive");
        nerdctl("stop -t 1 web && nerdctl start web").prints("web\nweb");
        debian.serves("127.0.0.1:8090");
        nerdctl("rm -f web && nerdctl ps -aq").prints("web");
        nerdctl("volume rm kept").prints("kept");
    });
}
