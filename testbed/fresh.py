#!/usr/bin/env python3
"""Types README's two commands on fresh machines: roots of Debian 12 and 13 with git, make and
certificates in them, and nothing else.

    fresh.py [--keep] [12 | 13] [STEP ...]

Without a STEP all of STEPS below are made, in their order: what an earlier one has installed
is there for the next. With --keep a machine on which a step failed stays until it is killed as
is said then, and a command can be typed there again. Each root is that of mmdebstrap with a layer above, in mount, pid, uts
and cgroup namespaces of its own, as a container has it: the group of the root has no other
group below it that it could share its controllers with. The clone lies below /root, which is
closed to others. Of this machine it has the kernel, the network, devices, the way to its mirrors and
certificates, and on Debian 12, whose apt has no rustup, the rustup in PATH.

Needs root and mmdebstrap, and with all steps two hours of two processors. Output goes to
target/fresh. The exit status is 1 if a step did not do what it must.
"""

import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import debian13

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOGS = ROOT / "target" / "fresh"
CACHE = debian13.CACHE.parent
SUITES = {"12": "bookworm", "13": "trixie"}
# What README asks for, and what the mirror of a machine like ours may be asked by.
PACKAGES = ["git", "make", "ca-certificates"]
HANDED_IN = ["/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt",
             "/usr/local/share/ca-certificates"]
# Several machines may be up at once.
GROUP = f"ferrun-fresh-{os.getpid()}"
USER = "newcomer"

# name: user, command, exit status, what its output must hold
STEPS = {
    # Before anything is installed.
    "told": (USER, "make", 2, r"neither root nor sudo to install them: gcc"),
    # Packages can be had, and nothing else: neither the rustup that is handed in is in PATH,
    # nor does anybody answer who has one.
    "unreachable": ("root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin https_proxy=http://127.0.0.1:9 make", 2,
                    r"rustup's installer cannot be fetched|could not download file"),
    "demo": ("root", "make demo", 0, r"This was Alpine from "),
    "test": ("root", "nice -n 5 make test", 0, r"(?m)^\d+ passed, 0 failed, \d+ skipped$"),
    "user-demo": (USER, "make demo", 0, r"This was Alpine from "),
    "user-test": (USER, "make test", 0, r"(?m)^\d+ passed, 0 failed, \d+ skipped$"),
}

BOOT = """\
set -eu
root=$1 lower=$2 groups=$3 source=$4 rust=$5
mount --make-rprivate /
mkdir "$root/new" "$root/upper" "$root/work"
mount -t overlay -o "lowerdir=$lower,upperdir=$root/upper,workdir=$root/work" overlay "$root/new"
cd "$root/new"
mount -t proc proc proc
# Nodes of its own: the owner and mode of this machine's may be another's while tests run there.
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm
for node in /dev/* /dev/net/*; do
    case $node in /dev/loop[0-9]*) kind=b ;; *) kind=c ;; esac
    test -$kind "$node" || continue
    mknod -m "$(stat -c %a "$node")" ".$node" $kind "$(stat -c %Hr "$node")" "$(stat -c %Lr "$node")"
done
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
for link in fd stdin stdout stderr; do cp -P "/dev/$link" dev; done
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p source
mount --bind "$source" source
if [ -n "$rust" ]; then
    mkdir -p opt/rustup
    mount --bind "$rust" opt/rustup
fi
mount -t tmpfs tmpfs sys/fs/cgroup
while read -r type place options; do
    mkdir -p "sys/fs/cgroup/$place"
    mount -t "$type" -o "$options" cgroup "sys/fs/cgroup/$place"
done <"$groups"
pivot_root . mnt
umount -l /mnt
hostname fresh
# Not in its place: who is the first of a pid namespace waits for all that have lost their parent.
sleep infinity &
while :; do wait; done
"""


def main():
    keep = "--keep" in sys.argv[1:]
    arguments = [word for word in sys.argv[1:] if word != "--keep"]
    debians = [word for word in arguments if word in SUITES] or list(SUITES)
    steps = [word for word in arguments if word not in SUITES] or list(STEPS)
    if unknown := set(steps) - set(STEPS):
        sys.exit(f"fresh: no such step: {', '.join(sorted(unknown))}\n{__doc__}")
    LOGS.mkdir(parents=True, exist_ok=True)
    failed = [f"{debian} {step}" for debian in debians for step in live(debian, steps, keep)]
    sys.exit(f"fresh: failed: {', '.join(failed)}" if failed else None)


def live(debian, steps, keep):
    """Makes the steps; those that failed."""
    with tempfile.TemporaryDirectory(prefix="fresh-", dir="/var/tmp") as work:
        machine = Machine(debian)
        try:
            machine.boot(pathlib.Path(work))
            failed = [step for step in steps if not machine.step(step)]
            if failed and keep:
                machine.stay()
            return failed
        finally:
            machine.end()


class Machine:
    def __init__(self, debian):
        self.debian = debian
        self.first = None
        self.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM": "dumb"}

    def boot(self, work):
        subprocess.run(["git", "clone", "--quiet", ROOT, work / "source"], check=True)
        rust = ""
        if self.debian == "12":
            rust = str(pathlib.Path(shutil.which("rustup") or sys.exit("fresh: no rustup in PATH")).resolve().parent)
            self.environment["PATH"] += ":/opt/rustup"
        groups = work / "groups"
        groups.write_text("".join(f"{kind} {place} {options}\n" for kind, place, options in hierarchies()))
        mount = work / "mount"
        mount.mkdir()
        self.first = subprocess.Popen(
            ["sh", "-euc", self.entering() + 'exec unshare --cgroup --mount --pid --fork --kill-child --uts sh -euc "$@"', "sh", BOOT,
             "sh", mount, made(self.debian), groups, work / "source", rust], stdin=subprocess.DEVNULL)
        self.init = self.wait_for_init()
        for path in map(pathlib.Path, HANDED_IN):
            if path.exists():
                place = pathlib.Path(f"/proc/{self.init}/root") / path.relative_to("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(path, place, symlinks=True, dirs_exist_ok=True) if path.is_dir() else shutil.copy(path, place)
        self.run("root", f"useradd --create-home --shell /bin/bash {USER}; cp -a /source /root/ferrun; chmod 700 /root; "
                         f"cp -a /source /home/{USER}/ferrun; chown -R {USER}: /home/{USER}/ferrun", check=True)

    def wait_for_init(self):
        """The first process inside, once it has the root and waits."""
        while self.first.poll() is None:
            for pid in self.children(self.first.pid):
                for child in self.children(pid):
                    if pathlib.Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"sleep\0infinity"):
                        return pid
            time.sleep(0.1)
        sys.exit("fresh: the machine does not come up")

    @staticmethod
    def entering():
        """For a shell: whom this machine starts enters the groups of the other."""
        return "".join(f"echo $$ >{directory}/cgroup.procs; " for directory in own_groups())

    @staticmethod
    def children(pid):
        return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def run(self, user, script, **options):
        home = "/root" if user == "root" else f"/home/{user}"
        become = [] if user == "root" else ["setpriv", "--reuid", user, "--regid", user, "--init-groups"]
        command = ["nsenter", f"--target={self.init}", "--mount", "--pid", "--uts", "--cgroup", "--root", "--wdns=/",
                   *become, "sh", "-c", script]
        return subprocess.run(["sh", "-euc", self.entering() + 'exec "$@"', "sh", *command], stdin=subprocess.DEVNULL,
                              env=self.environment | {"HOME": home, "USER": user, "LOGNAME": user}, **options)

    def step(self, name):
        user, command, status, must_say = STEPS[name]
        home = "/root" if user == "root" else f"/home/{user}"
        if name == "user-demo":
            # What root has fetched and built is handed over, for time and for ten gigabytes.
            self.run("root", f"for part in ferrun .cargo .rustup; do rm -rf {home}/$part; mv /root/$part {home}; done; "
                             f"chown -R {user}: {home}", check=True)
        log = LOGS / f"debian{self.debian}-{name}.log"
        started = time.monotonic()
        with log.open("wb") as output:
            done = self.run(user, f"cd {home}/ferrun && {command}", stdout=output, stderr=subprocess.STDOUT)
        found = re.search(must_say, log.read_text(errors="replace"))
        is_well = done.returncode == status and found is not None
        print(f"fresh: Debian {self.debian}: {user}: {command}: {'as it must be' if is_well else 'NOT as it must be'}, "
              f"{time.monotonic() - started:.0f} s: {found[0] if found else log}", flush=True)
        return is_well

    def stay(self):
        print(f"fresh: Debian {self.debian} stays until `kill -KILL {self.init}`. To type there:\n"
              f"fresh: {self.entering()}nsenter --target={self.init} --mount --pid --uts --cgroup --root --wdns=/root/ferrun "
              f"env -i HOME=/root PATH={self.environment['PATH']} sh", flush=True)
        self.first.wait()

    def end(self):
        if self.first:
            self.first.kill()
            self.first.wait()
        # Its processes end with their first one; their groups can be removed when they have.
        for directory in own_groups():
            for group in sorted([directory, *(path for path in directory.rglob("*") if path.is_dir())], reverse=True):
                for _ in range(100):
                    try:
                        group.rmdir()
                        break
                    except OSError:
                        time.sleep(0.1)


def made(debian):
    """The root of a suite, without what its packages say to readers."""
    root = CACHE / f"fresh{debian}"
    with (CACHE / f".fresh{debian}.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not root.exists():
            with tempfile.TemporaryDirectory(dir=CACHE, prefix=".new-") as work:
                print(f"fresh: Debian {debian} with {', '.join(PACKAGES)}, in {root}", file=sys.stderr)
                subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}",
                                SUITES[debian], f"{work}/root", *debian13.mirrors()], stdin=subprocess.DEVNULL, check=True)
                pathlib.Path(f"{work}/root").rename(root)
    return root


def hierarchies():
    """The trees of cgroups of this machine: type, place below /sys/fs/cgroup, options."""
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind in ("cgroup", "cgroup2") and place.startswith("/sys/fs/cgroup"):
            own = [word for word in options.split(",") if word not in ("rw", "ro", "nosuid", "nodev", "noexec", "relatime")]
            named = ["none"] if any(word.startswith("name=") for word in own) else []
            yield kind, place.removeprefix("/sys/fs/cgroup").strip("/") or ".", ",".join([*named, *own]) or "rw"


def own_groups():
    """A group in each tree, which is the root of the machine's."""
    for _, place, _ in hierarchies():
        tree = pathlib.Path("/sys/fs/cgroup") / place
        group = tree / GROUP
        if not group.exists():
            group.mkdir()
            for name in "cpuset.cpus", "cpuset.mems":
                if (tree / "tasks").exists() and (group / name).exists():
                    (group / name).write_text((tree / name).read_text())
        yield group


if __name__ == "__main__":
    main()
