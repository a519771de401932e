#!/usr/bin/env python3
"""Makes the files of a Debian 13 with systemd and with its container engines, and prints
where they are. What is there already is not made again.

    debian13.py [PACKAGE ...]

Needs root and mmdebstrap. The packages come from the mirror that this machine's apt uses.
Nothing may write to the files: who boots them puts a layer of its own above.
"""

import fcntl
import hashlib
import inspect
import pathlib
import re
import subprocess
import sys
import tempfile

CACHE = pathlib.Path(__file__).resolve().parent / "cache" / "debian13"
SUITE = "trixie"
PACKAGES = """
    systemd systemd-sysv dbus dbus-user-session libpam-systemd udev login passwd uidmap
    containerd docker.io docker-cli docker-compose podman buildah runc crun conmon catatonit
    netavark aardvark-dns containernetworking-plugins iptables nftables iproute2 kmod
    passt slirp4netns fuse-overlayfs criu libcriu2 apparmor
    busybox-static ca-certificates jq procps""".split()
# Started by themselves, they cost time and nobody asks them anything.
MASKED = """
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer
    e2scrub_reap.service fstrim.timer podman-auto-update.timer podman-auto-update.service
    podman-restart.service systemd-networkd-wait-online.service""".split()
# An ordinary user whose systemd runs from the start, with ranges for user namespaces.
USER, UID = "tester", 12345
SETTLE = f"""\
#!/bin/sh
set -eu
root=$1
chroot "$root" useradd --uid {UID} --user-group --create-home --shell /bin/bash {USER}
for file in subuid subgid; do echo {USER}:100000:65536 > "$root/etc/$file"; done
mkdir -p "$root/var/lib/systemd/linger"
: > "$root/var/lib/systemd/linger/{USER}"
for unit in {" ".join(MASKED)}; do ln -sf /dev/null "$root/etc/systemd/system/$unit"; done
echo debian13 > "$root/etc/hostname"
: > "$root/etc/fstab"
# Without one all units would be set up anew at each boot.
echo 0123456789abcdef0123456789abcdef > "$root/etc/machine-id"
"""
# Nobody reads in there.
LEFT_OUT = ["doc", "info", "locale", "man"]


def build(*more):
    """The directory of the files, with these packages besides. Made if need be."""
    packages = sorted({*PACKAGES, *more})
    made_of = "\n".join([*packages, SETTLE, inspect.getsource(bootstrap)])
    root = CACHE / hashlib.sha256(made_of.encode()).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not root.exists():
            # Beside its place, and renamed: it is whole or not there.
            with tempfile.TemporaryDirectory(dir=CACHE, prefix=".new-") as work:
                bootstrap(pathlib.Path(work), packages)
                (pathlib.Path(work) / "root").rename(root)
    return root


def bootstrap(work, packages):
    settle = work / "settle"
    settle.write_text(SETTLE)
    settle.chmod(0o755)
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}",
               *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT),
               f"--customize-hook={settle}", SUITE, str(work / "root"), *mirrors()]
    print(f"debian13: {len(packages)} packages of {SUITE} and what they need, in {CACHE}", file=sys.stderr)
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)


def mirrors():
    """Debian's, as this machine's apt is configured; none on another distribution, where
    mmdebstrap's own is taken."""
    listed = subprocess.run(["apt-get", "indextargets", "--format", "$(ORIGIN) $(SUITE) $(COMPONENT) $(REPO_URI)",
                             "Created-By: Packages"], stdout=subprocess.PIPE, text=True, check=True)
    found = re.findall(r"(?m)^Debian (?:old)*(?:stable|testing) main (\S+)$", listed.stdout)
    return found[:1]


if __name__ == "__main__":
    print(build(*sys.argv[1:]))
