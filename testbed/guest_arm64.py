#!/usr/bin/env python3
"""Runs integration tests as root of an arm64 machine with cgroup version 2, by QEMU.

    guest_arm64.py [TEST ...]

Without a TEST those of USUAL below are run. Everything is built for aarch64 with musl,
the runtime too, and runs on the files and the kernel of Debian's arm64 packages, which are
unpacked and not installed. A processor of another kind is emulated, some twenty times slower
than this machine's: the usual tests take a quarter of an hour. Random lives, costs, kills at
every call and what counts seconds are not for it. What its console says
goes to stdout. The exit status is 1 if a test has failed, or the machine has not come to its
end.
"""

import hashlib
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile

import debian13
import guest

ROOT = guest.ROOT
TARGET = "aarch64-unknown-linux-musl"
COMPILER = "aarch64-linux-gnu-gcc"
CACHE = ROOT / "testbed" / "cache" / "arm64"
PACKAGES = """bash coreutils mount util-linux uidmap procps busybox-static iproute2 linux-image-cloud-arm64""".split()
USUAL = ["lifecycle", "exec", "process", "seccomp", "notify", "devices", "resources", "update", "namespaces", "mounts",
         "hooks", "terminal"]
MODULES = ["virtio_pci", "virtio_blk", "ext4"]
# The compiler of filters has tests of its own. Those that ask libseccomp need that, and the
# tables of arm64 have been compared with it elsewhere.
SECCOMP = ["ferrun_seccomp", "profile"]
PATIENCE = 2400  # seconds
# Not `max`: authenticating pointers takes an emulator most of its time.
EMULATOR = ["qemu-system-aarch64", "-machine", "virt", "-accel", "tcg,thread=multi", "-cpu", "cortex-a72"]

INIT = """\
#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t cgroup2 none /sys/fs/cgroup
mount -t devtmpfs none /dev
mkdir /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
for module in {modules}; do /bin/busybox insmod /lib/modules/$module.ko; done
for name in $(/bin/busybox --list); do
    [ -e /bin/$name ] || [ -e /sbin/$name ] || [ -e /usr/bin/$name ] || [ -e /usr/sbin/$name ] ||
        /bin/busybox ln -s /bin/busybox /usr/bin/$name
done
ip link set lo up
uname -a; cat /sys/fs/cgroup/cgroup.controllers
export RUNTIME=/usr/bin/ferrun VIEWS=V2 RUST_BACKTRACE=0
for test in {tests}; do
    echo "=== $test"
    /tests/$test --test-threads=2 || echo "guest: $test: exit status $?"
done
echo "{end}"
/bin/busybox poweroff -f
"""


def main():
    names = sys.argv[1:] or USUAL
    tests = build(names)
    with tempfile.TemporaryDirectory(prefix="guest-") as home:
        home = pathlib.Path(home)
        files = unpacked()
        make_disk(home, files, tests)
        guest.make_initramfs(home, files, guest.with_needed(files, MODULES), guest.FIRST_INIT, files / "bin/busybox")
        reason = guest.failure(guest.boot(home, files=files, patience=PATIENCE, emulator=EMULATOR, console="ttyAMA0"))
        if reason:
            sys.exit(f"guest: {reason}")


def unpacked():
    """The files of the packages. None of their scripts is run."""
    files = CACHE / hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()[:16]
    if not files.exists():
        print(f"guest: Debian's arm64 packages, in {CACHE}", file=sys.stderr)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=".new-") as work:
            subprocess.run(["mmdebstrap", "--quiet", "--variant=extract", "--arch=arm64", f"--include={','.join(PACKAGES)}",
                            "bookworm", f"{work}/root", *debian13.mirrors()], stdin=subprocess.DEVNULL, check=True)
            pathlib.Path(work, "root").rename(files)
    return files


def build(names):
    """Builds the runtime and the tests. Returns the program of each test."""
    cargo = shlex.split(os.environ.get("CARGO", "cargo"))
    name = TARGET.upper().replace("-", "_")
    environment = os.environ | {f"CARGO_TARGET_{name}_LINKER": COMPILER, f"CC_{TARGET.replace('-', '_')}": COMPILER,
                                "CARGO_PROFILE_DEV_DEBUG": "0"}
    def run(*arguments):
        return subprocess.run([*cargo, *arguments, "--locked", "--target", TARGET], cwd=ROOT, env=environment,
                              stdout=subprocess.PIPE, text=True, check=True).stdout
    run("build", "--quiet", "--package", "ferrun")
    said = run("test", "--no-run", "--message-format=json", "--package", "integration",
               *(word for name in names for word in ("--test", name)))
    said += run("test", "--no-run", "--message-format=json", "--package", "ferrun-seccomp", "--lib", "--test",
                "profile")
    messages = [json.loads(line) for line in said.splitlines()]
    found = {message["target"]["name"]: pathlib.Path(message["executable"]) for message in messages
             if message.get("executable") and message["profile"]["test"]}
    return {name: found[name] for name in [*SECCOMP, *names]}


def make_disk(home, files, tests):
    root = home / "root"
    # Nothing of dev: to copy a node is to read what it gives, without end.
    shutil.copytree(files, root, symlinks=True,
                    ignore=shutil.ignore_patterns("dev", "modules", "doc", "locale", "man", "boot"))
    for name in "dev", "tests":
        (root / name).mkdir()
    if not (root / "bin/sh").exists():
        (root / "bin/sh").symlink_to("bash")  # which a script would have made
    strip = COMPILER.replace("gcc", "strip")
    built = ROOT / "target" / TARGET / "debug"
    programs = {name: root / "tests" / name for name in tests}
    for name, program in tests.items():
        subprocess.run([strip, "-o", root / "tests" / name, program], check=True)
    subprocess.run([strip, "-o", root / "usr/bin/ferrun", built / "ferrun"], check=True)
    for name in guest.BUILT_BESIDE:
        place = root / str(built / name).lstrip("/")
        place.parent.mkdir(parents=True)
        subprocess.run([strip, "-o", place, built / name], check=True)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "tmp").chmod(0o1777)
    for name in "newuidmap", "newgidmap":
        (root / "usr/bin" / name).chmod(0o4755)
    modules = guest.with_needed(files, guest.MODULES)
    (root / "lib/modules").mkdir()
    for name in modules:
        (root / f"lib/modules/{name}.ko").write_bytes(guest.plain_module(files, name))
    guest.write_script(root / "init", INIT.format(modules=" ".join(modules), tests=" ".join(programs), end=guest.END))
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, home / "disk", "2G"], stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
