#!/usr/bin/env python3
"""Runs the tests of limits as root of a Debian 13 with systemd, in a virtual machine: cgroup
version 2 with all its controllers, whose files systemd writes as well as the runtime.

    guest_systemd.py RUNTIME [ARGUMENT ...]

An ARGUMENT is one of the tests' program, such as a part of a test's name. Where RUNTIME is
called runc or crun it is the one that Debian 13 has. The machine is that of guest.py with
another disk: the files of debian13.py and a few of ours. $KERNEL is another one, as there,
and $ROUNDS how often each container is dumped and restored. It lives for this run alone.
It needs root, for the owners of these files. The exit status is that of guest.py.
"""

import fcntl
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile

import debian13
import guest

PATIENCE = 5400  # seconds
DISK = "8G"
KERNEL = "linux-image-cloud-amd64"
BUILT = guest.CACHE.parent / "engines" / "bin"
# Debian has none.
PROGRAMS = [BUILT / "crictl", BUILT / "kubelet", BUILT / "crio", BUILT / "pinns",
            debian13.CACHE.parents[2] / "bin" / "containerd-shim-ferrun-v2"]
# The last one whose CRI makes containers of archives, beside Debian's.
RESTORING = BUILT.parent / "releases" / "2.3.7"
OF_DEBIAN = {"runc": "/usr/sbin/runc", "crun": "/usr/bin/crun"}

INIT = """\
#!/bin/busybox sh
for module in {modules}; do /bin/busybox insmod /$module.ko || exit; done
cd /bin && ./busybox mount -t devtmpfs none /dev
./busybox mount -t ext4 /dev/vda /disk && exec ./busybox switch_root /disk /sbin/init
"""

# Engines call the runtime, and so do tests, from a service whose groups are its own.
CALLERS = """\
[Service]
Delegate=yes
ExecStart=/tests/run
ExecStopPost=/usr/bin/systemctl poweroff --force --force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
OOMScoreAdjust=-500
"""

RUN = """\
#!/bin/sh
uname -a; systemctl --version | head -n 1; cat /sys/fs/cgroup/cgroup.controllers
export {environment}
if [ -e /tests/checkpoint ]; then
    /tests/checkpoint --color=never --test-threads=1 || echo "guest: checkpoint: exit status $?"
fi
/tests/guest --color=never --test-threads=1 {arguments} || echo "guest: tests: exit status $?"
echo "{end}"
"""


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    # Whoever stops it stops the machine, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("guest: stopped"))
    # Those of checkpoints take as long as all others together.
    runtime, arguments = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:] or ["--skip", "checkpoint::"]
    tests = guest.build(["guest"], "engines")
    # With all of the engines', not with one that is named.
    if "checkpoint::" in arguments:
        tests.update(guest.build(["checkpoint"]))
    files = pathlib.Path(os.environ["KERNEL"]) if "KERNEL" in os.environ else kernel()
    # Beside the files of Debian, to which it has hard links.
    with tempfile.TemporaryDirectory(dir=debian13.CACHE, prefix=".guest-") as home:
        home = pathlib.Path(home)
        make_disk(home, files, runtime, tests, arguments)
        guest.make_initramfs(home, files, guest.with_needed(files, guest.DISK_MODULES), INIT)
        # With two processors of software its kernel is not steady, and not much faster.
        console = guest.boot(home, files=files, processors=1, patience=PATIENCE)
    reason = guest.failure(console)
    if reason:
        sys.exit(f"guest: {reason}")


def kernel():
    """The directory of Debian 13's kernel with its modules, unpacked if need be."""
    files = debian13.CACHE / "kernel"
    debian13.CACHE.mkdir(parents=True, exist_ok=True)
    with (debian13.CACHE / ".kernel-lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not files.exists():
            with tempfile.TemporaryDirectory(dir=debian13.CACHE, prefix=".new-") as work:
                # With all that an installation would call besides.
                whole, new = pathlib.Path(work) / "whole", pathlib.Path(work) / "kernel"
                subprocess.run(["mmdebstrap", "--quiet", "--variant=extract", f"--include={KERNEL}", debian13.SUITE,
                                whole, *debian13.mirrors()], stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)
                (new / "usr" / "lib").mkdir(parents=True)
                (whole / "boot").rename(new / "boot")
                (whole / "usr" / "lib" / "modules").rename(new / "usr" / "lib" / "modules")
                new.rename(files)
    return files


def make_disk(home, files, runtime, tests, arguments):
    root = home / "root"
    subprocess.run(["cp", "--archive", "--link", debian13.build(), root], check=True)
    modules = guest.modules_of(files)
    subprocess.run(["cp", "--archive", modules.parent, root / "usr" / "lib" / "modules"], check=True)
    subprocess.run(["chroot", root, "depmod", modules.name], check=True)
    for name, program in tests.items():
        guest.copy(program, root / "tests" / name)
        subprocess.run(["strip", root / "tests" / name], check=True)
    for program in filter(pathlib.Path.exists, PROGRAMS):
        guest.copy(program, root / "usr" / "local" / "bin" / program.name)
    for program in RESTORING.glob("*"):
        guest.copy(program, root / "opt" / "containerd" / program.name)
    tested = OF_DEBIAN.get(runtime.name)
    if tested is None:
        tested = f"/usr/local/bin/{runtime.name}"
        guest.copy(runtime, root / tested.lstrip("/"))
    environment = [f"RUNTIME={tested}", "SPARE_MACHINE=yes", "RUST_BACKTRACE=0"]
    environment += [f"ROUNDS={rounds}" for rounds in [os.environ.get("ROUNDS")] if rounds]
    environment = shlex.join(environment)
    guest.write_script(root / "tests" / "run", RUN.format(environment=environment, arguments=shlex.join(arguments),
                                                          end=guest.END))
    units = root / "etc" / "systemd" / "system"
    (units / "callers.service").write_text(CALLERS)
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants" / "callers.service").symlink_to("../callers.service")
    # Its terminal is the tests'.
    (units / "serial-getty@ttyS0.service").symlink_to("/dev/null")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, home / "disk", DISK], stdout=subprocess.DEVNULL,
                   check=True)
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
