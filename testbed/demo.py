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

import registry

TESTBED = pathlib.Path(__file__).resolve().parent
ROOT = TESTBED.parent
HUB = "registry-1.docker.io"
PATIENCE = 4  # seconds for Docker Hub to answer
SCRIPT = "echo Alpine $(cat /etc/alpine-release) on $(uname -sr); id; ps"


def main():
    with contextlib.ExitStack() as cleanup:
        home = pathlib.Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="demo-")))
        bundle = home / "bundle"
        if hub_answers():
            source = "Docker Hub"
            image = "alpine"
        else:
            source = "a registry on loopback, with an Alpine made of packages: Docker Hub does not answer"
            run(TESTBED / "install.sh", "registry")
            layout = subprocess.run([TESTBED / "alpine.py"], stdout=subprocess.PIPE, text=True)
            if layout.returncode != 0:
                sys.exit(layout.returncode)
            (home / "registry").mkdir()
            server, address = registry.start(home / "registry")
            cleanup.callback(server.wait)
            cleanup.callback(server.terminate)
            image = registry.push(pathlib.Path(layout.stdout.strip()), address, "library/alpine")
        print(f"The image comes from {source}.\n")

        run(ROOT / "bin/image-tool", "pull", image, bundle)
        configure(bundle / "config.json")
        print()
        run(ROOT / "bin/ferrun", "--root", home / "state", "run", "--bundle", bundle, "demo")
        print(f"\nAlpine came from {source}.")


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
    command = [str(program), *map(str, arguments)]
    print("$", shlex.join([os.path.relpath(program), *command[1:]]), flush=True)
    done = subprocess.run(command, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"demo: exit status {done.returncode}")


if __name__ == "__main__":
    main()
