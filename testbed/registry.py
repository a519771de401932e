#!/usr/bin/env python3
"""Serves an OCI layout from a real registry on loopback, for as long as a command runs.

    registry.py LAYOUT NAME [COMMAND ...]

Starts docker-registry on a free port with its storage in a temporary directory,
pushes each tagged manifest of LAYOUT to NAME, and runs COMMAND with the reference of
the last one in IMAGE. Without COMMAND it prints the reference and serves until it is
interrupted. Either way the registry is stopped and its storage removed.
"""

import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse

PATIENCE = 20  # seconds for the registry to come up
CONFIG = """\
version: 0.1
log: {{level: info}}
storage: {{filesystem: {{rootdirectory: {storage}}}}}
http: {{addr: "127.0.0.1:0"}}
"""


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    layout, name, command = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    tidy_when_interrupted()
    with tempfile.TemporaryDirectory(prefix="registry-") as home:
        server, address = start(pathlib.Path(home))
        try:
            image = push(layout, address, name)
            if command:
                sys.exit(subprocess.run(command, env=os.environ | {"IMAGE": image}).returncode)
            print(image, flush=True)
            server.wait()
        finally:
            server.terminate()
            server.wait()


def tidy_when_interrupted():
    """Makes the usual signals end this program like an error, past its clean-up."""
    for interrupt in signal.SIGTERM, signal.SIGHUP, signal.SIGINT:
        signal.signal(interrupt, lambda number, frame: sys.exit(128 + number))


def start(home):
    """Starts the registry and finds the port that the kernel gave it."""
    (home / "config.yml").write_text(CONFIG.format(storage=json.dumps(str(home / "storage"))))
    log = home / "log"
    with log.open("wb") as output:
        # A session of its own: an interrupt from the terminal is ours to handle.
        try:
            server = subprocess.Popen(["docker-registry", "serve", str(home / "config.yml")],
                                      stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
        except FileNotFoundError:
            sys.exit("docker-registry is missing: testbed/install.sh registry gets it")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        listening = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())
        if listening:
            return server, listening[1]
        time.sleep(0.02)
    server.kill()
    server.wait()
    sys.exit(f"docker-registry did not come up:\n{log.read_text()}")


def push(layout, address, name):
    """Pushes the tagged manifests with all that they name. Returns the last one's reference."""
    connection = http.client.HTTPConnection(address, timeout=60)
    image = None
    for manifest in json.loads((layout / "index.json").read_text())["manifests"]:
        tag = manifest.get("annotations", {}).get("org.opencontainers.image.ref.name")
        if tag is None:
            continue
        body = blob(layout, manifest)
        document = json.loads(body)
        for part in [document["config"], *document["layers"]]:
            location = request(connection, "POST", f"/v2/{name}/blobs/uploads/", b"", "application/octet-stream")
            place = urllib.parse.urlsplit(location)
            target = f"{place.path}?{place.query}&digest={urllib.parse.quote(part['digest'])}"
            request(connection, "PUT", target, blob(layout, part), "application/octet-stream")
        request(connection, "PUT", f"/v2/{name}/manifests/{tag}", body, manifest["mediaType"])
        image = f"{address}/{name}:{tag}"
    if image is None:
        sys.exit(f"{layout}: no manifest is tagged")
    return image


def blob(layout, descriptor):
    algorithm, digest = descriptor["digest"].split(":")
    return (layout / "blobs" / algorithm / digest).read_bytes()


def request(connection, method, target, body, content_type):
    """Sends one request and returns where the answer points to."""
    connection.request(method, target, body, {"Content-Type": content_type})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status not in (201, 202):
        sys.exit(f"{method} {target}: {answer.status} {text.decode(errors='replace')}")
    return answer.headers["Location"]


if __name__ == "__main__":
    main()
