#!/usr/bin/env python3
"""Fills a registry's storage with stand-ins for the images that containerd's client suite
asks for, under the names that it asks for: Alpine (testbed/alpine.py) with a layer of ours.

    client_images.py DIRECTORY STAND-IN

The storage is DIRECTORY/storage. One image the suite names by the digest of the original:
what needs that one cannot pass. Needs docker-registry.
"""

import importlib.util
import pathlib
import sys

# Its neighbour, which has a namesake one directory above.
spec = importlib.util.spec_from_file_location("kubernetes_images", pathlib.Path(__file__).with_name("images.py"))
images = importlib.util.module_from_spec(spec)
spec.loader.exec_module(images)


def main():
    work, stand_in = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_bytes()
    base = images.alpine()
    server, address = images.registry.start(work)
    try:
        for number, (name, tag, files, config) in enumerate(catalogue(stand_in)):
            layout = work / str(number)
            base.derive(layout, [tag], images.archive(files), config)
            images.registry.push(layout, address, name)
    finally:
        server.terminate()
        server.wait()


def catalogue(stand_in):
    """Each image: its name and tag, what is added to Alpine, and how it is configured."""
    yield "containerd/busybox", "1.36", {"etc/stands-in": (0o644, b"busybox\n")}, {"Cmd": ["sh"]}
    volume = {"test_dir/test_file": (0o644, b"test_content\n")}
    yield "containerd/volume-copy-up", "2.2", volume, {"Cmd": ["sh"], "Volumes": {"/test_dir": {}}}
    owned = {"usr/bin/passwd": (0o4755, b"#!/bin/sh\n"), "usr/bin/bash": (0o755, b'#!/bin/sh\nexec sh "$@"\n')}
    yield "containerd/volume-ownership", "2.1", owned, {"Cmd": ["sh"]}
    yield "e2e-test-images/busybox", "1.29-2", {}, {"Cmd": ["sh"]}
    for tag in ("3.6", "3.10.2"):
        yield "pause", tag, {"pause": (0o755, stand_in)}, {"Cmd": ["/pause"]}


if __name__ == "__main__":
    main()
