#!/usr/bin/env python3
"""Fills a registry with stand-ins for the images that critest asks for, under the names
that it asks for, and prints where its storage is. What is there already is not made
again. Each is Alpine (testbed/alpine.py) with a layer of ours, most with the program
stand-in/ under the name of the original.

    images.py STAND-IN

With a program and a directory instead it makes an OCI layout there of what
packaging/kubernetes/Containerfile describes.

    images.py FERRUN LAYOUT

Needs docker-registry.
"""

import fcntl
import hashlib
import io
import json
import pathlib
import re
import shutil
import sys
import tarfile
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from images import CACHE, OCI, TESTBED, registry, run

END_TO_END = "e2e-test-images"
STAGING = "k8s-staging-cri-tools"
# Of the image whose user is in a group by /etc/group alone.
USER = b"default-user:x:1000:1000::/:/bin/sh\n"
GROUPS = b"default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"


def main():
    program = pathlib.Path(sys.argv[1]).read_bytes()
    if len(sys.argv) == 3:
        manifest = (TESTBED.parent / "packaging" / "kubernetes" / "daemonset.yaml").read_text()
        tag = re.search(r"ferrun-installer:(\S+)", manifest)[1]
        alpine().derive(pathlib.Path(sys.argv[2]), [tag], archive({"ferrun": (0o755, program)}), {})
    else:
        print(storage_with(program))


def storage_with(stand_in):
    sources = [pathlib.Path(__file__), HERE.parent / "images.py", TESTBED / "alpine.py"]
    made_of = hashlib.sha256(stand_in + b"".join(path.read_bytes() for path in sources)).hexdigest()
    storage = CACHE / f"kubernetes-{made_of[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    turn = open(CACHE / ".kubernetes-lock", "w")
    fcntl.flock(turn, fcntl.LOCK_EX)
    if not storage.exists():
        for old in CACHE.glob("kubernetes-*"):
            shutil.rmtree(old)
        # Beside its place, and renamed: a storage is whole or not there.
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=".kubernetes-") as work:
            fill(pathlib.Path(work), stand_in)
            (pathlib.Path(work) / "storage").rename(storage)
    return storage


def alpine():
    return Image(pathlib.Path(run(TESTBED / "alpine.py").decode().strip()))


def fill(work, stand_in):
    base = alpine()
    server, address = registry.start(work)
    try:
        for number, (name, tags, files, config) in enumerate(catalogue(base, stand_in)):
            layout = work / str(number)
            base.derive(layout, tags, archive(files), config)
            registry.push(layout, address, name)
    finally:
        server.terminate()
        server.wait()


def catalogue(base, stand_in):
    """Each image: its name and tags, what is added to Alpine, and how it is configured."""
    program = (0o755, stand_in)
    # critest hides /bin/ls and calls a shell: a file of its own, not a link to the shell.
    yield f"{END_TO_END}/busybox", ["1.29-2"], {"bin/ls": (0o755, base.read("bin/busybox"))}, {}
    # It looks for these words in the command line of the container's first process.
    nginx = lambda port: {"Cmd": ["nginx", f":{port}", "master process"]}
    yield f"{END_TO_END}/nginx", ["1.14-2"], {"usr/sbin/nginx": program}, nginx(80)
    yield f"{STAGING}/hostnet-nginx-amd64", ["latest"], {"usr/sbin/nginx": program}, nginx(12003)
    yield f"{END_TO_END}/httpd", ["2.4.39-4"], {"usr/sbin/httpd": program}, {"Cmd": ["httpd", ":80"]}
    yield f"{END_TO_END}/nonewprivs", ["1.3"], {"nonewprivs": (0o4755, stand_in)}, {"Cmd": ["/nonewprivs"]}
    yield "pause", ["3.6", "3.10", "3.10.2"], {"pause": program}, {"Cmd": ["/pause"]}
    # Not one more tag: critest counts the tags of this one.
    yield "pause", ["3.9"], {"pause": program}, {"Cmd": ["/pause"], "Labels": {"version": "3.9"}}
    users = {
        "etc/passwd": (0o644, base.read("etc/passwd") + USER),
        "etc/group": (0o644, base.read("etc/group") + GROUPS),
    }
    yield f"{STAGING}/test-image-predefined-group", ["latest"], users, {"User": "1000"}
    for name, user in {
        "uid": "1002",
        "username": "www-data",
        "uid-group": "1003:1004",
        "username-group": "www-data:1004",
    }.items():
        yield f"{STAGING}/test-image-user-{name}", ["latest"], {}, {"User": user}
    for name, tags in (
        ("latest", ["latest"]),
        ("tag", ["test"]),
        ("tag", ["all"]),
        ("tags", ["1", "2", "3"]),
        ("1", ["latest"]),
        ("2", ["latest"]),
        ("3", ["latest"]),
    ):
        # Each is another image than all others.
        yield f"{STAGING}/test-image-{name}", tags, {f"{name}-{tags[0]}": (0o644, b"")}, {}


def archive(files):
    """A tar of files, all root's, each with a mode and what it holds."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, (mode, content) in files.items():
            info = tarfile.TarInfo(name)
            info.mode, info.size = mode, len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Image:
    """The only image of an OCI layout, which has one layer."""

    def __init__(self, layout):
        self.layout = layout
        [entry] = json.loads((layout / "index.json").read_text())["manifests"]
        manifest = json.loads(registry.blob(layout, entry))
        self.config = json.loads(registry.blob(layout, manifest["config"]))
        [self.layer] = manifest["layers"]

    def read(self, path):
        """What a file of the image holds."""
        with tarfile.open(fileobj=io.BytesIO(registry.blob(self.layout, self.layer))) as tar:
            return tar.extractfile(path).read()

    def derive(self, layout, tags, tar, config):
        """Writes a layout with an image of one more layer and another configuration."""
        blobs = layout / "blobs/sha256"
        blobs.mkdir(parents=True)

        def blob(kind, data):
            digest = hashlib.sha256(data).hexdigest()
            (blobs / digest).write_bytes(data)
            return {"mediaType": f"{OCI}.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

        as_json = lambda value: json.dumps(value).encode()
        kept = blob("layer.v1.tar+gzip", registry.blob(self.layout, self.layer))
        added = blob("layer.v1.tar", tar)
        sums = self.config["rootfs"]["diff_ids"] + [added["digest"]]
        config = blob("config.v1+json", as_json(self.config | {
            "config": self.config["config"] | config,
            "rootfs": {"type": "layers", "diff_ids": sums},
        }))
        manifest = blob("manifest.v1+json", as_json({
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": config,
            "layers": [kept, added],
        }))
        tagged = [manifest | {"annotations": {"org.opencontainers.image.ref.name": tag}} for tag in tags]
        (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (layout / "index.json").write_bytes(as_json({"schemaVersion": 2, "manifests": tagged}))


if __name__ == "__main__":
    main()
