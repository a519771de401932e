#!/usr/bin/env python3
"""Runs integration tests as root of a virtual machine: cgroup version 2 with all its
controllers, AppArmor or SELinux, and resctrl, which many a machine of developers has not.

    guest.py RUNTIME [TEST ...]

A TEST is a file of integration/tests; without any all are run. A kernel enforces
AppArmor or SELinux: the tests of the latter have a second boot, with the policy that is
in selinux/. The machine is QEMU under software emulation, so it needs neither root nor
KVM. Its kernel is Debian's, which install.sh has unpacked; its disk holds busybox, the
test programs, RUNTIME and the few programs that tests call, with their libraries.
$KERNEL is another one, unpacked from its packages: boot/vmlinuz-* and lib/modules. No
processor that QEMU knows has anything for resctrl to control, so its resctrl is the
stand-in that is in resctrl/, but not with another kernel, whose headers it would need. It lives for this run alone.
What its console says goes to stdout. The exit status is 1 if a test has failed, or the
machine has not come to its end.
"""

import json
import lzma
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / "testbed" / "cache" / "guest"
KERNEL = pathlib.Path(os.environ.get("KERNEL", CACHE))
PATIENCE = 1800  # seconds
EMULATOR = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]
CONSOLE = "ttyS0"
MEMORY = 2048  # MiB
DISK = "1G"
# Programs of the integration package itself.
BUILT_BESIDE = ["poller"]
# One compares with a runtime that the machine has not, two read the sources.
LEFT_OUT = {"by_hand", "compare", "subjects"}
# What busybox does otherwise or not at all.
PROGRAMS = ["bash", "cp", "env", "install", "mount", "newgidmap", "newuidmap", "nsenter", "ps", "setpriv", "sh", "sleep",
            "true", "umount", "unshare"]
DISK_MODULES = ["virtio_pci", "virtio_blk"]
MODULES = ["overlay", "veth"]
STAND_IN = "resctrl"
# Run where SELinux is, and nothing else is.
SELINUX = {"selinux"}
POLICY = ROOT / "testbed" / "selinux" / "policy.cil"
END = "guest: all was run"

FIRST_INIT = """\
#!/bin/busybox sh
for module in {modules}; do /bin/busybox insmod /$module.ko || exit; done
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox mount -t ext4 /dev/vda /disk && exec /bin/busybox switch_root /disk /init
"""

# Files of an ordinary user belong to him on the disk that he has made.
SECOND_INIT = """\
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
chown -hR 0:0 / && chmod 4755 /bin/newuidmap /bin/newgidmap
mount -t proc none /proc
mount -t sysfs none /sys
mount -t securityfs none /sys/kernel/security
mount -t cgroup2 none /sys/fs/cgroup
mount -t devtmpfs none /dev
mkdir /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
for module in {modules}; do insmod /lib/modules/$module.ko; done
mount -t resctrl none /sys/fs/resctrl
ip link set lo up
uname -a; cat /sys/fs/cgroup/cgroup.controllers /sys/kernel/security/lsm; echo
export RUNTIME=/bin/{runtime} VIEWS=V2 RUST_BACKTRACE=0
tests="{tests}"
if [ -d /sys/fs/selinux ]; then
    mount -t selinuxfs none /sys/fs/selinux
    dd if=/etc/policy of=/sys/fs/selinux/load bs=1M && echo 1 > /sys/fs/selinux/enforce ||
        echo "guest: policy: exit status $?"
    tests="{selinux}"
fi
for test in $tests; do
    echo "=== $test"
    /tests/$test --test-threads=2 || echo "guest: $test: exit status $?"
done
echo "{end}"
poweroff -f
"""


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    tests = build(sys.argv[2:])
    with tempfile.TemporaryDirectory(prefix="guest-") as home:
        home = pathlib.Path(home)
        make_disk(home, pathlib.Path(sys.argv[1]), tests)
        make_initramfs(home, KERNEL, with_needed(KERNEL, DISK_MODULES), FIRST_INIT)
        boots = {"apparmor": tests.keys() - SELINUX, "selinux": tests.keys() & SELINUX}
        reasons = [failure(boot(home, security=security)) for security, names in boots.items() if names]
    if any(reasons):
        sys.exit("\n".join(f"guest: {reason}" for reason in reasons if reason))


def failure(console):
    """Why what the console said is not that of a machine whose tests have passed."""
    if "Kernel panic" in console:
        return "its kernel has panicked"
    if END not in console:
        return "it has not come to its end"
    failed = re.findall(r"(?m)^guest: (\S+): exit status", console)
    return f"these have failed: {' '.join(failed)}" if failed else None


def build(names, package="integration"):
    """Builds the tests of these names, or all. Returns the program of each."""
    command = [*shlex.split(os.environ.get("CARGO", "cargo")), "test", "--locked", "--no-run",
               "--message-format=json", "--package", package]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if built.returncode != 0:
        sys.exit(built.returncode)
    messages = map(json.loads, built.stdout.splitlines())
    programs = {message["target"]["name"]: pathlib.Path(message["executable"]) for message in messages
                if message.get("executable") and "test" in message["target"]["kind"]}
    unknown = set(names) - set(programs)
    if unknown:
        sys.exit(f"guest: there is no test {' '.join(sorted(unknown))}")
    return {name: programs[name] for name in names or sorted(set(programs) - LEFT_OUT)}


def make_disk(home, runtime, tests):
    root = home / "root"
    for directory in ["dev", "etc", "proc", "root", "run", "sys", "tests", "tmp", "var"]:
        (root / directory).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for name in ["bin", "lib", "lib64", "sbin"]:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    copy(busybox(), root / "bin" / "busybox")
    for program in [*map(found, PROGRAMS), CACHE / "sbin" / "apparmor_parser", runtime]:
        copy_with_libraries(program, root / "bin" / program.name, root)
    for name, program in tests.items():
        copy_with_libraries(program, root / "tests" / name, root)
        subprocess.run(["strip", root / "tests" / name], check=True)
    # Tests know the programs that they call by where they were built.
    for program in [ROOT / "target" / "debug" / name for name in BUILT_BESIDE]:
        copy_with_libraries(program, root / str(program).lstrip("/"), root)
    (root / "lib" / "modules").mkdir()
    modules = with_needed(KERNEL, MODULES)
    for name in modules:
        (root / "lib" / "modules" / f"{name}.ko").write_bytes(plain_module(KERNEL, name))
    if KERNEL == CACHE:
        copy(stand_in(home), root / "lib" / "modules" / f"{STAND_IN}.ko")
        modules.append(STAND_IN)
    # Empty: profiles may use whatever the kernel has.
    (root / "etc" / "apparmor").mkdir()
    (root / "etc" / "apparmor" / "parser.conf").touch()
    subprocess.run(["secilc", "--output", root / "etc" / "policy", "--filecontext", os.devnull, POLICY], check=True)
    (root / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\n")
    write_script(root / "init", SECOND_INIT.format(modules=" ".join(modules), runtime=runtime.name,
                                                   tests=" ".join(name for name in tests if name not in SELINUX),
                                                   selinux=" ".join(name for name in tests if name in SELINUX),
                                                   end=END))
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, home / "disk", DISK], stdout=subprocess.DEVNULL,
                   check=True)


def make_initramfs(home, files, modules, init, program=None):
    """What finds the disk: the kernel, which is among these files, has the drivers as modules.
    `program` is a busybox for another machine than this one."""
    root = home / "initramfs"
    for directory in ["bin", "dev", "disk"]:
        (root / directory).mkdir(parents=True)
    copy(program or busybox(), root / "bin" / "busybox")
    for name in modules:
        (root / f"{name}.ko").write_bytes(plain_module(files, name))
    write_script(root / "init", init.format(modules=" ".join(modules)))
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    with (home / "initramfs.cpio").open("wb") as archive:
        subprocess.run([busybox(), "cpio", "-o", "-H", "newc"], cwd=root, input=names.encode(), stdout=archive,
                       stderr=subprocess.DEVNULL, check=True)


def boot(home, *more, files=KERNEL, processors=2, security="apparmor", patience=PATIENCE,
         emulator=EMULATOR, console=CONSOLE):
    """Runs the machine, with the kernel among these files, `more` arguments and this security
    module, to its end. Returns what its console has said, which it shows."""
    kernel, = (files / "boot").glob("vmlinuz-*")
    machine = subprocess.Popen(
        [*emulator, "-smp", str(processors),
         "-m", str(MEMORY), "-display", "none", "-nic", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot",
         "-kernel", kernel, "-initrd", home / "initramfs.cpio", "-append",
         f"console={console} quiet panic=-1 security={security}",
         "-drive", f"file={home / 'disk'},format=raw,if=virtio,cache=unsafe", *more],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    bound = threading.Timer(patience, machine.kill)
    bound.start()
    said = []
    try:
        for line in machine.stdout:
            said.append(line.decode(errors="replace").rstrip("\r\n"))
            print(said[-1], flush=True)
    finally:
        bound.cancel()
        machine.kill()
        machine.wait()
    return "\n".join(said)


def busybox():
    return pathlib.Path("/bin/busybox")  # of package busybox-static


def modules_of(files):
    directories = (files / "lib" / "modules", files / "usr" / "lib" / "modules")
    version, = next(directory for directory in directories if directory.exists()).iterdir()
    return version


def module(files, name):
    path, = (path for kind in ("ko", "ko.xz") for path in modules_of(files).rglob(f"{name}.{kind}"))
    return path


def plain_module(files, name):
    path = module(files, name)
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def with_needed(files, names):
    """These modules, each after those that it needs, but for those that the kernel has anyway."""
    built_in = {pathlib.Path(line).stem for line in (modules_of(files) / "modules.builtin").read_text().split()}
    ordered = []

    def add(name):
        if name in built_in:
            return
        needed, = re.findall(rb"\0depends=([^\0]*)\0", plain_module(files, name))
        for other in filter(None, needed.decode().split(",")):
            add(other)
        if name not in ordered:
            ordered.append(name)

    for name in names:
        add(name)
    return ordered


def stand_in(home):
    """Builds the module of ours, for the kernel whose headers are there."""
    sources = shutil.copytree(ROOT / "testbed" / STAND_IN, home / STAND_IN)
    headers, = (CACHE / "usr" / "src").glob("linux-headers-*-cloud-amd64")
    # Its own Makefile says where the other headers are once they are installed.
    makefile, = (CACHE / "usr" / "src").glob("linux-headers-*-common/Makefile")
    built = subprocess.run(["make", "--silent", "-C", headers, "-f", makefile, f"M={sources}", "modules"],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if built.returncode != 0:
        sys.exit(built.stdout)
    return sources / f"{STAND_IN}.ko"


def found(name):
    path = shutil.which(name)
    if path is None:
        sys.exit(f"guest: {name} is missing")
    return pathlib.Path(path)


def copy_with_libraries(source, target, root):
    """Copies a program, and its libraries to where they are here."""
    copy(source, target)
    # It fails for what is linked statically.
    listed = subprocess.run(["ldd", source], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for library in re.findall(r"(?:=> |^\s+)(/\S+) \(", listed.stdout, re.MULTILINE):
        copy(library, root / library.lstrip("/"))


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)


def write_script(path, text):
    path.write_text(text)
    path.chmod(0o755)


if __name__ == "__main__":
    main()
