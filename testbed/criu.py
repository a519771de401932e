#!/usr/bin/env python3
"""Makes a program criu of what Debian 13 has, for a machine whose own is too old or not there,
and prints where it is. What is there already is not made again.

    criu.py

Needs root and mmdebstrap. Nothing is installed: the program and its libraries lie in
testbed/cache/criu, and a script in testbed/cache/bin calls the one with the others.
"""

import fcntl
import pathlib
import subprocess
import sys
import tempfile

import debian13

CACHE = pathlib.Path(__file__).resolve().parent / "cache" / "criu"
SCRIPT = """\
#!/bin/sh
files=$(dirname "$(readlink -f "$0")")/../criu/files
exec "$files"/usr/lib/*/ld-linux-*.so.* --argv0 criu --library-path "$(echo "$files"/usr/lib/*-linux-gnu)" \\
    "$files/usr/sbin/criu" "$@"
"""


def build():
    """The program. Made if need be."""
    program = CACHE.parent / "bin" / "criu"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not program.exists():
            print(f"criu: that of {debian13.SUITE}, in {CACHE}", file=sys.stderr)
            # Beside its place, and renamed: it is whole or not there.
            with tempfile.TemporaryDirectory(dir=CACHE, prefix=".new-") as work:
                files = pathlib.Path(work) / "files"
                subprocess.run(["mmdebstrap", "--quiet", "--variant=extract", "--include=criu", debian13.SUITE,
                                files, *debian13.mirrors()], stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)
                files.rename(CACHE / "files")
            program.parent.mkdir(exist_ok=True)
            program.write_text(SCRIPT)
            program.chmod(0o755)
    return program


if __name__ == "__main__":
    print(build())
