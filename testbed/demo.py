#!/usr/bin/env python3
"""From a registry to a running container, by the two programs in bin/.

Pulls Alpine from Docker Hub where that answers, else from a registry that it starts
on loopback with an Alpine made by alpine.py. As root, or rootless.
"""

import contextlib
import http.client
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

import alpine
import registry

TESTBED = pathlib.Path(__file__).resolve().parent
ROOT = TESTBED.parent
HUB = "registry-1.docker.io"
PATIENCE = 4  # seconds for Docker Hub to answer
SCRIPT = "echo Alpine $(cat /etc/alpine-release) on $(uname -sr); id; ps"


def main():
    registry.tidy_when_interrupted()
    with contextlib.ExitStack() as cleanup:
        home = pathlib.Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="demo-")))
        bundle = home / "bundle"
        source = "Docker Hub"
        if not hub_answers() or not run(ROOT / "bin/image-tool", "pull", "alpine", bundle):
            print("Docker Hub gives no image: a registry on loopback will serve an Alpine made of packages.")
            source = "a registry on loopback, with an Alpine made of packages"
            image = serve_alpine(home, cleanup)
            if not run(ROOT / "bin/image-tool", "pull", image, bundle):
                sys.exit(1)
        configure(bundle / "config.json")
        print()
        if not run(ROOT / "bin/ferrun", "--root", home / "state", "run", "--bundle", bundle, "demo"):
            sys.exit(1)
        print(f"\nThis was Alpine from {source}.")


def serve_alpine(home, cleanup):
    """Starts a registry with our own Alpine in it, and returns the reference."""
    if not run(TESTBED / "install.sh", "registry"):
        sys.exit(1)
    # Kept for the next time, where the checkout is ours to write to.
    layout = alpine.CACHE / "alpine" if os.access(TESTBED, os.W_OK) else home / "alpine"
    made = subprocess.run([TESTBED / "alpine.py", layout], stdout=subprocess.DEVNULL)
    if made.returncode != 0:
        sys.exit(made.returncode)
    place = home / "registry"
    place.mkdir()
    server, address = registry.start(place)
    cleanup.callback(server.wait)
    cleanup.callback(server.terminate)
    return registry.push(layout, address, "library/alpine")


def hub_answers():
    connection = http.client.HTTPSConnection(HUB, timeout=PATIENCE)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status in (200, 401)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def configure(path):
    """Sets the program, and for root a cgroup of our own."""
    config = json.loads(path.read_text())
    config["process"]["args"] = ["/bin/sh", "-c", SCRIPT]
    if os.geteuid() == 0:
        config["linux"]["cgroupsPath"] = f"/ferrun-demo-{os.getpid()}"
    path.write_text(json.dumps(config, indent=2))


def run(program, *arguments):
    """Runs a program, showing how; whether it succeeded."""
    command = [str(program), *map(str, arguments)]
    print("$", shlex.join([os.path.relpath(program), *command[1:]]), flush=True)
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 0


if __name__ == "__main__":
    main()
