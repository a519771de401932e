#!/usr/bin/env python3
"""Runs the tests of engines as root of a virtual machine: cgroup version 2 with all its
controllers, which a machine whose own hierarchies are of version 1 cannot show.

    guest_engines.py RUNTIME [ARGUMENT ...]

An ARGUMENT is one of the tests' programs, such as a part of a test's name. $ENGINES is
where engines newer than this machine's are, as for the tests themselves. The machine
is that of guest.py, but sees the files of this one, by virtiofsd: all engines that are
installed here are there. What it writes goes to a disk that lives for this run alone.
So it needs root, as engines do. The exit status is that of guest.py.
"""

import contextlib
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import tempfile
import time

import guest

PATIENCE = 7200  # seconds
DISK = "8G"
# The one of QEMU itself up to 7, and the one that came after it.
SERVERS = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"]
# What daemons would take for granted; the kernel asks modprobe for the rest.
MODULES = ["br_netfilter", "tun", "veth"]
# Two runs of critest and 700 containers are too many for a processor made of software.
LEFT_OUT = ["--skip", "critest::", "--skip", "leaks::"]

# Below /mnt, which is the disk itself: Docker's layers need one that is no overlay.
FIRST_INIT = """\
#!/bin/busybox sh
for module in {modules}; do /bin/busybox insmod /$module.ko || exit; done
cd /bin && ./busybox mkdir host root
./busybox mount -t devtmpfs none /dev
./busybox mount -t virtiofs -o ro host host
./busybox mount -t ext4 /dev/vda /disk
./busybox mount -t overlay -o lowerdir=host,upperdir=/disk/upper,workdir=/disk/work none root
./busybox mount -o move /disk root/mnt && exec ./busybox switch_root root /mnt/init
"""

SECOND_INIT = """\
#!/bin/sh
export PATH={cache}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc none /proc
mount -t sysfs none /sys
mount -t cgroup2 none /sys/fs/cgroup
mount -t devtmpfs none /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
mkdir -p /lib/modules
mount --bind {cache}/guest/lib/modules /lib/modules
ln -sf {busybox} /sbin/modprobe
for module in {modules}; do modprobe $module; done
ip link set lo up
uname -a; cat /sys/fs/cgroup/cgroup.controllers; echo
export {environment}
for test in {tests}; do
    echo "=== $test"
    $test --color=never --test-threads=2 {arguments} || echo "guest: $(basename ${{test%-*}}): exit status $?"
done
echo "{end}"
{busybox} poweroff -f
"""

# The checkout may lie on another file system than the root is.
SERVE = """\
mount --rbind / "$1"
findmnt --submounts --list --noheadings --output target "$1" | while read -r point; do
    mount -o remount,bind,ro "$point"
done
exec "$2" --socket-path="$3" -o source="$1" -o cache=always -o xattr -o log_level=err
"""


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    # Whoever stops it stops the machine, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("guest: stopped"))
    runtime, arguments = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:] or LEFT_OUT
    names = ["debian", "buildkit", "moby"] if "ENGINES" in os.environ else ["debian", "containerd"]
    tests = guest.build(names, "engines").values()
    with tempfile.TemporaryDirectory(prefix="guest-") as home, contextlib.ExitStack() as stack:
        home = pathlib.Path(home)
        make_disk(home, runtime, tests, arguments)
        index_modules()
        modules = guest.with_needed(guest.CACHE, [*guest.DISK_MODULES, "virtiofs", "overlay"])
        guest.make_initramfs(home, guest.CACHE, modules, FIRST_INIT)
        socket = stack.enter_context(files_of_this_machine(home))
        memory = f"memory-backend-memfd,id=memory,size={guest.MEMORY}M,share=on"
        console = guest.boot(home, "-object", memory, "-numa", "node,memdev=memory",
                             "-chardev", f"socket,id=files,path={socket}",
                             "-device", "vhost-user-fs-pci,chardev=files,tag=host", files=guest.CACHE, patience=PATIENCE)
    reason = guest.failure(console)
    if reason:
        sys.exit(f"guest: {reason}")


def make_disk(home, runtime, tests, arguments):
    root = home / "root"
    for directory in ["tmp", "upper", "work"]:
        (root / directory).mkdir(parents=True)
    root.chmod(0o755)
    (root / "tmp").chmod(0o1777)
    environment = {"RUNTIME": runtime, "TMPDIR": "/mnt/tmp", "RUST_BACKTRACE": 0}
    if "ENGINES" in os.environ:
        environment["ENGINES"] = os.environ["ENGINES"]
    guest.write_script(root / "init", SECOND_INIT.format(
        cache=guest.CACHE.parent, busybox=guest.busybox(), modules=" ".join(MODULES), end=guest.END,
        environment=shlex.join(f"{name}={value}" for name, value in environment.items()),
        tests=shlex.join(map(str, tests)), arguments=shlex.join(arguments)))
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, home / "disk", DISK], stdout=subprocess.DEVNULL,
                   check=True)


def index_modules():
    """Writes what modprobe reads. The kernel's package leaves that to its installation."""
    version, = (guest.CACHE / "lib" / "modules").iterdir()
    subprocess.run([guest.busybox(), "depmod", "-b", guest.CACHE, version.name], check=True)


@contextlib.contextmanager
def files_of_this_machine(home):
    """Serves them on a socket, not to be written."""
    shared, socket = home / "shared", home / "files.sock"
    shared.mkdir()
    program = next(filter(lambda path: pathlib.Path(path).exists(), SERVERS), None)
    if program is None:
        sys.exit(f"guest: there is no {' or '.join(SERVERS)}")
    server = subprocess.Popen(["unshare", "--mount", "sh", "-ec", SERVE, "sh", shared, program, socket],
                              stdin=subprocess.DEVNULL)
    try:
        while not socket.exists():
            if server.poll() is not None:
                sys.exit("guest: virtiofsd has ended")
            time.sleep(0.01)
        yield socket
    finally:
        # It ends by itself with the one connection that it serves.
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
