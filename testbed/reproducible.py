#!/usr/bin/env python3
"""Builds what is committed twice and compares every byte: from a clone, and from the archive
of the sources in another place, where there is no network.

Packages and archives of this machine's architecture, in a temporary directory.
"""

import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
STEPS = [["build", ARCHITECTURE], ["notices"], ["deb", ARCHITECTURE], ["tarball", ARCHITECTURE]]


def main():
    with tempfile.TemporaryDirectory(prefix="reproducible-") as work:
        work = pathlib.Path(work)
        clone = work / "one"
        run(["git", "clone", "--quiet", ROOT, clone])
        make(clone, [["source"], *STEPS])
        archive, = (clone / "dist").glob("ferrun-*.tar.xz")
        other = work / "another" / "place"
        other.mkdir(parents=True)
        run(["tar", "--extract", "--file", archive, "--directory", other])
        archive.unlink()
        unpacked, = other.iterdir()
        # No network, not even loopback.
        make(unpacked, STEPS, ["unshare", "--map-root-user", "--net"])
        one, two = (sums(place / "dist") for place in (clone, unpacked))
        for name in sorted({*one, *two}):
            print(f"{'same' if one.get(name) == two.get(name) else 'DIFFERENT'}: {name}")
        sys.exit(one != two)


def make(place, steps, within=()):
    for step in steps:
        print("reproducible:", place.name, *step, flush=True)
        run([*within, place / "packaging/release.py", *step], cwd=place)


def run(command, **options):
    subprocess.run(command, check=True, **options)


def sums(directory):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


if __name__ == "__main__":
    main()
