#!/usr/bin/env python3
"""Fills a registry with the images that engines are tested with, and prints where its
storage is. What is there already is not made again.

    library/alpine        Alpine itself (testbed/alpine.py)
    library/hello-world   one static program of our own
    library/ubuntu        NOT Ubuntu: bash, coreutils and what they need, of this machine's
                          distribution, under the name that tutorials use
    library/web           busybox' web server on port 8080

Needs docker-registry, busybox-static, Rust's musl target, apt-get and dpkg-deb.
"""

import fcntl
import hashlib
import io
import json
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TESTBED = HERE.parent.parent / "testbed"
CACHE = TESTBED / "cache" / "engines"
sys.path.insert(0, str(TESTBED))
import registry

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OCI = "application/vnd.oci.image"
# bash and coreutils, and what is needed to start and to call oneself a distribution.
PACKAGES = """base-files bash coreutils dash debianutils grep sed
    libacl1 libattr1 libc6 libgmp10 libpcre2-8-0 libselinux1 libtinfo6""".split()


def main():
    sources = [HERE / "images.py", HERE / "hello.rs", TESTBED / "alpine.py"]
    made_of = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    storage = CACHE / f"registry-{made_of[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    turn = open(CACHE / ".lock", "w")
    fcntl.flock(turn, fcntl.LOCK_EX)
    if not storage.exists():
        for old in CACHE.glob("registry-*"):
            shutil.rmtree(old)
        # Beside its place, and renamed: a storage is whole or not there.
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=".images-") as work:
            fill(pathlib.Path(work))
            (pathlib.Path(work) / "storage").rename(storage)
    print(storage)


def fill(work):
    alpine = run(TESTBED / "alpine.py").decode().strip()
    server, address = registry.start(work)
    try:
        registry.push(pathlib.Path(alpine), address, "library/alpine")
        for name, image in ("hello-world", hello(work)), ("ubuntu", ubuntu(work)), ("web", web()):
            write_layout(work / name, *image)
            registry.push(work / name, address, f"library/{name}")
    finally:
        server.terminate()
        server.wait()


def hello(work):
    program = work / "hello"
    run(TESTBED / "with-rust", "rustc", "--target", "x86_64-unknown-linux-musl", "-O", "-C", "strip=symbols",
        "-o", program, HERE / "hello.rs")
    return archive({"hello": program.read_bytes()}), {"Cmd": ["/hello"]}


def ubuntu(work):
    root, packages = work / "root", work / "packages"
    root.mkdir()
    packages.mkdir()
    run("apt-get", "-qq", "download", *PACKAGES, cwd=packages)
    for package in packages.glob("*.deb"):
        run("dpkg-deb", "--extract", package, root)
    if not (root / "bin/sh").exists():
        (root / "bin/sh").symlink_to("dash")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc/group").write_text("root:x:0:\n")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(root.iterdir()):
            if path.name in ("bin", "etc", "lib", "lib64", "root", "sbin", "tmp", "usr", "var"):
                tar.add(path, path.name, filter=without_documents)
    return buffer.getvalue(), {"Env": [PATH], "Cmd": ["/bin/bash"]}


def without_documents(info):
    return None if info.name in ("usr/share/doc", "usr/share/man", "usr/share/locale") else info


def web():
    busybox = next(path for path in map(pathlib.Path, ("/bin/busybox", "/usr/bin/busybox")) if path.exists())
    files = {f"bin/{name}": busybox.read_bytes() for name in ("httpd", "sh")}
    files["www/index.html"] = b"served from a container\n"
    command = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]
    return archive(files), {"Env": ["PATH=/bin"], "Cmd": command, "ExposedPorts": {"8080/tcp": {}}}


def archive(files):
    """A tar of programs and other files, all root's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o755, len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_layout(layout, tar, config):
    """An OCI image layout with the tar as its only layer, tagged latest."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(kind, data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"{OCI}.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    as_json = lambda value: json.dumps(value).encode()
    layer = blob("layer.v1.tar", tar)
    config = blob("config.v1+json", as_json({
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }))
    manifest = blob("manifest.v1+json", as_json(
        {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": config, "layers": [layer]}))
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (layout / "index.json").write_bytes(as_json({"schemaVersion": 2, "manifests": [manifest]}))


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(done.args)}: exit status {done.returncode}\n{done.stderr.decode(errors='replace')}")
    return done.stdout


if __name__ == "__main__":
    main()
