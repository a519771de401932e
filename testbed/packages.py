#!/usr/bin/env python3
"""Installs the Debian packages in fresh roots of Debian 12 and 13 and uses them there.

    packages.py         what `make deb` has made

Needs root, mmdebstrap and lintian. Each root is that of mmdebstrap with a layer above, in
mount, pid, network and other namespaces of its own: with that they are gone, and so is what
was started there. Cgroups are made below /ferrun-packages of each hierarchy and removed.
"""

import fcntl
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import debian13

HERE = pathlib.Path(__file__).resolve().parent
DIST = HERE.parent / "dist"
ARCHITECTURE = subprocess.run(["dpkg", "--print-architecture"], stdout=subprocess.PIPE, text=True).stdout.strip()
# What a daemon and an image without a registry take.
ENGINES = ["docker.io", "podman", "crun", "runc", "iptables", "busybox-static", "uidmap", "procps", "ca-certificates"]
GROUPS = "ferrun-packages"

BOOT = """\
set -eu
root=$1 lower=$2 debs=$3
mount --make-rprivate /
mount -t tmpfs tmpfs "$root"
mkdir "$root/upper" "$root/work" "$root/new"
mount -t overlay -o "lowerdir=$lower,upperdir=$root/upper,workdir=$root/work" overlay "$root/new"
cd "$root/new"
mount -t proc proc proc
mount --rbind /dev dev
mount --rbind /sys sys
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p debs var/lib/docker var/lib/containers
mount --bind "$debs" debs
mount -t tmpfs tmpfs var/lib/docker
mount -t tmpfs tmpfs var/lib/containers
pivot_root . mnt
umount -l /mnt
ip link set lo up 2>/dev/null || true
exec sh -eu -c "$4"
"""

# Each line that fails ends it.
USE = """
PATH=/usr/sbin:/usr/bin:/sbin:/bin
# Pages and documents are looked at, whoever made this root.
rm -f /etc/dpkg/dpkg.cfg.d/*
say() { echo "packages: $*"; }

dpkg --install /debs/1/*.deb
ferrun --version | grep -q "ferrun version"
image-tool --version
containerd-shim-ferrun-v2 -v | grep -q "Version:"
ls /usr/share/man/man8/containerd-shim-ferrun-v2.8.gz /usr/share/doc/containerd-shim-ferrun/docs/shim.md
ls /usr/share/man/man8/ferrun.8.gz /usr/share/man/man1/image-tool.1.gz /usr/share/bash-completion/completions/ferrun
zcat /usr/share/doc/ferrun/third-party.gz | grep -q '^rustix '
dpkg --verify ferrun ferrun-image-tool containerd-shim-ferrun
say installed

mkdir -p /image/bin /etc/docker
cp /bin/busybox /image/bin/
for name in sh echo sleep cat; do ln -s busybox /image/bin/$name; done
echo '{"runtimes": {"ferrun": {"path": "/usr/bin/ferrun"}}, "default-runtime": "ferrun",
    "cgroup-parent": "/GROUPS", "storage-driver": "vfs", "bridge": "none", "iptables": false}' >/etc/docker/daemon.json
dockerd >/tmp/dockerd.log 2>&1 &
for i in $(seq 100); do docker version >/dev/null 2>&1 && break; sleep 0.2; done
docker version >/dev/null || { tail -n 20 /tmp/dockerd.log; exit 1; }
tar -C /image -c . | docker import - busybox
run="docker run --network none"
[ "$($run --rm busybox echo hello)" = hello ]
$run --detach --name stays busybox sleep 1000
$run --detach --name outlives busybox sleep 1000
docker exec stays echo entered
say used by Docker

# The containerd that dockerd has started.
run_shim="ctr --address /run/docker/containerd/containerd.sock run --rm --runtime io.containerd.ferrun.v2"
[ "$($run_shim --cgroup /GROUPS/shim --rootfs /image one echo hello)" = hello ]
say used by containerd

[ "$(podman --storage-driver vfs --cgroup-manager cgroupfs --runtime /usr/bin/ferrun run --rm --network none \
    --cgroup-parent /GROUPS --pids-limit 0 --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 \
    --rootfs /image echo hello)" = hello ]
say used by Podman

# As systemd would mount it.
eval "$(sed -n 's/^What=/what=/p; s/^Where=/where=/p; s/^Options=/options=/p' /usr/lib/systemd/system/run-ferrun_bin.mount)"
mkdir "$where"
mount --options "$options" "$what" "$where"
! touch "$where/ferrun" 2>/dev/null
before=$($where/ferrun --version; dpkg-query --show --showformat '${Version}' ferrun)
dpkg --install /debs/2/*.deb
[ "$before" != "$($where/ferrun --version; dpkg-query --show --showformat '${Version}' ferrun)" ]
cmp "$where/ferrun" /usr/bin/ferrun
umount "$where"
rmdir "$where"
[ "$(docker exec stays echo hello)" = hello ]
docker stop --time 1 stays
docker rm stays
[ "$($run --rm busybox echo hello)" = hello ]
say upgraded beside containers

dpkg --remove ferrun ferrun-image-tool containerd-shim-ferrun
[ "$(docker inspect --format '{{.State.Running}}' outlives)" = true ]
! $run --rm busybox true
dpkg --purge ferrun ferrun-image-tool containerd-shim-ferrun
left=$(find / -xdev \\( -path /proc -o -path /sys -o -path /debs \\) -prune -o \
    \\( -iname '*ferrun*' -o -iname '*image-tool*' \\) -print)
[ -z "$left" ] || { say "left: $left"; exit 1; }
say removed

dpkg --install /debs/2/*.deb
docker rm --force outlives
[ -z "$(ls -A /run/docker/runtime-runc/moby)" ]
say ended what outlived the package
""".replace("GROUPS", GROUPS)


def newer(directory):
    """The same packages once more, with a later version."""
    directory.mkdir()
    for file in DIST.glob("*-third-party.txt"):
        shutil.copy(file, directory)
    subprocess.run([HERE.parent / "packaging/release.py", "deb", ARCHITECTURE], stdout=subprocess.DEVNULL, check=True,
                   env=os.environ | {"DIST": str(directory), "REVISION": "2"})


def debian12():
    root = debian13.CACHE.parent / "debian12"
    with (debian13.CACHE.parent / ".debian12.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not root.exists():
            with tempfile.TemporaryDirectory(dir=root.parent, prefix=".new-") as work:
                made = pathlib.Path(work) / "root"
                print("packages: Debian 12 with its engines, in", root, file=sys.stderr)
                left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in debian13.LEFT_OUT]
                subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(ENGINES)}", *left_out,
                                "bookworm", made, *debian13.mirrors()], stdin=subprocess.DEVNULL, check=True)
                made.rename(root)
    return root


class Packages(unittest.TestCase):
    def test_debian_12_installs_uses_upgrades_and_removes_them(self):
        self.live(debian12())

    def test_debian_13_installs_uses_upgrades_and_removes_them(self):
        self.live(debian13.build())

    def live(self, lower):
        with tempfile.TemporaryDirectory(prefix="packages-") as work:
            debs = pathlib.Path(work) / "debs"
            (debs / "1").mkdir(parents=True)
            for file in DIST.glob(f"*_{ARCHITECTURE}.deb"):
                shutil.copy(file, debs / "1")
            newer(debs / "2")
            root = pathlib.Path(work) / "root"
            root.mkdir()
            command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--uts", "--ipc",
                       "sh", "-c", BOOT, "sh", root, lower, debs, USE]
            try:
                done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                      text=True, timeout=600, env={"PATH": os.environ["PATH"], "HOME": "/root"})
            finally:
                remove_groups()
        self.assertEqual(done.returncode, 0, done.stdout)
        said = [line for line in done.stdout.splitlines() if line.startswith("packages: ")]
        self.assertEqual(len(said), 7, done.stdout)

    def test_lintian_is_content_on_each_architecture(self):
        files = sorted(DIST.glob("*.deb"))
        self.assertGreater(len(files), 1)
        for file in files:
            with self.subTest(file.name):
                done = subprocess.run(["lintian", "--fail-on", "error,warning", file], stdout=subprocess.PIPE,
                                      stderr=subprocess.DEVNULL, text=True)
                self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_the_bills_of_materials_are_valid(self):
        sys.path.insert(0, str(HERE / "cache" / "cyclonedx"))
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator
        files = sorted(DIST.glob("*.cdx.json"))
        self.assertGreater(len(files), 1)
        for file in files:
            self.assertIsNone(JsonStrictValidator(SchemaVersion.V1_5).validate_str(file.read_text()), file)


def remove_groups():
    for hierarchy in pathlib.Path("/sys/fs/cgroup").glob(f"**/{GROUPS}"):
        for group in sorted([hierarchy, *(path for path in hierarchy.rglob("*") if path.is_dir())], reverse=True):
            group.rmdir()


if __name__ == "__main__":
    unittest.main(verbosity=2)
