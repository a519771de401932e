#!/usr/bin/env python3
"""Makes copies of Debian 13's crun and runc that run on this machine, and prints NAME=PATH
of each. What is there already is not made again.

    peers.py

Needs root, mmdebstrap and patchelf. The copies find their loader and libraries among the
files of that Debian, by absolute names: a loader in front of them would be what they
execute when they start themselves anew.
"""

import pathlib
import subprocess

import debian13

CACHE = pathlib.Path(__file__).resolve().parent / "cache" / "peers"


def build():
    """The copies. Made if need be."""
    # A copy names its loader, and a link to the cache may go before that does.
    root = debian13.build().resolve()
    place = CACHE / root.name
    place.mkdir(parents=True, exist_ok=True)
    loader = only(root.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*"))
    made = []
    for name in ["crun", "runc"]:
        copy = place / name
        if not copy.exists() or loader_of(copy) != str(loader):
            new = copy.with_suffix(".new")
            new.write_bytes((root / "usr" / "bin" / name).resolve().read_bytes())
            new.chmod(0o755)
            subprocess.run(["patchelf", "--set-interpreter", loader, "--force-rpath", "--set-rpath", loader.parent, new],
                           check=True)
            new.rename(copy)
        made.append((f"{name}-debian13", copy))
    return made


def loader_of(program):
    printed = subprocess.run(["patchelf", "--print-interpreter", program], check=True, capture_output=True, text=True)
    return printed.stdout.strip()


def only(found):
    """The one that there is."""
    [one] = found
    return one


if __name__ == "__main__":
    for name, path in build():
        print(f"{name}={path}")
