#!/usr/bin/env python3
"""Takes each protection out, one at a time, and sees its test fail.

A patch beside this file takes one protection out of the sources. Its first lines say
what that is and which test has to notice:

    What is taken out.
    red: PACKAGE TARGET TEST

TARGET is `lib` or `bin` for unit tests, or the name of a test binary. A test counts only if it passes on the
sources as they are: one that always fails proves nothing.

    run.py [NAME...]     all patches, or those whose names contain one of the words

Mutants are dangerous: each test runs in mount and pid namespaces of its own, with the
machine's root file system read-only but for a directory in memory, and /tmp with a layer of it above.
"""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CARGO = shlex.split(os.environ.get("CARGO", "cargo"))
WORK = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "mutants"
TREE = WORK / "tree"
TARGET = WORK / "target"
SCRATCH = WORK / "scratch"

UNIT_TESTS = {"lib": ["--lib"], "bin": ["--bins"]}

# Some tests kill a call at each of its system calls.
PATIENCE = 300

# The shell is pid 1 and stays: it adopts whatever a mutant leaves behind. CRIU tries the kernel out
# in /tmp, in which all this may lie.
SANDBOX = """
here=$PWD
mount -t tmpfs -o mode=1777 scratch "$TMPDIR" && cd "$TMPDIR" &&
mkdir -m 1777 upper && mkdir work &&
mount -t overlay -o lowerdir=/tmp,upperdir=upper,workdir=work upper /tmp &&
mount --bind . "$TMPDIR" &&
mount -o remount,bind,ro / &&
cd "$here" &&
"$@"
exit $?
"""


class Broken(Exception):
    """What says nothing about a protection: a patch, a build or a test that is amiss."""


class Mutant:
    """One patch, and the test that has to notice it."""

    def __init__(self, path):
        self.path = path
        self.name = path.stem
        words = next(
            (line.split()[1:] for line in path.read_text().splitlines() if line.startswith("red: ")),
            [],
        )
        if len(words) != 3:
            raise Broken(f"{path.name}: no line \"red: PACKAGE TARGET TEST\"")
        self.test = tuple(words)

    def apply(self, *options):
        # Whatever repository the tree lies in is not meant.
        environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(WORK)}
        # One line around a change that is as it was is enough: the rest may have moved on.
        call(["git", "apply", "-C1", *options, self.path], environment)


def call(command, environment=None):
    """Runs a command in the tree; what it says is shown only where it fails."""
    done = subprocess.run(
        command, cwd=TREE, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        raise Broken(f"{shlex.join(map(str, command))}\n{done.stdout[-4000:]}")


def copy_tree():
    """Makes the tree what git knows of the checkout. Files that are the same keep their
    times, so that cargo does not build them again."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    names = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    for name in names:
        source, copy = ROOT / name, TREE / name
        if not copy.is_file() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
    for copy in [path for path in TREE.rglob("*") if path.is_file()]:
        if str(copy.relative_to(TREE)) not in names:
            copy.unlink()


def cargo(*arguments):
    """Calls cargo and gives the lines of what it prints on stdout."""
    command = [*CARGO, *arguments, "--locked", "--message-format", "json-render-diagnostics"]
    environment = os.environ | {"CARGO_TARGET_DIR": str(TARGET)}
    done = subprocess.run(command, cwd=TREE, env=environment, text=True, capture_output=True)
    if done.returncode:
        raise Broken(f"{shlex.join(command)}\n{done.stderr[-4000:]}")
    return done.stdout.splitlines()


def build(tests):
    """Builds what the tests run. Returns the program of each package and target."""
    if any(package == "integration" for package, _, _ in tests):
        cargo("build", "--package", "ferrun")
    # Beside the runtime.
    if any(target.startswith("shim") for _, target, _ in tests):
        cargo("build", "--package", "ferrun-shim")
    programs = {}
    for package, target in sorted({(package, target) for package, target, _ in tests}):
        of_target = UNIT_TESTS.get(target, ["--test", target])
        for line in cargo("test", "--no-run", "--package", package, *of_target):
            program = json.loads(line)
            if program.get("profile", {}).get("test") and program.get("executable"):
                directory = pathlib.Path(program["manifest_path"]).parent
                programs[package, target] = (program["executable"], directory)
    return programs


def passes(test, programs):
    """Whether a test passes. Its end by a signal or a time limit is a failure too."""
    package, target, name = test
    program, directory = programs[package, target]
    # A criu that was made beside the checkout is not in the tree.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(ROOT / "testbed" / "cache" / "bin")])
    environment = os.environ | {"RUNTIME": str(TARGET / "debug/ferrun"), "TMPDIR": str(SCRATCH), "PATH": path}
    # What the caller ignores, as nohup does, would reach the programs in containers.
    sandbox = ["env", "--default-signal=HUP,INT,QUIT,PIPE"]
    sandbox += ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    sandbox += [str(ROOT / "testbed" / "own-devices")]
    try:
        done = subprocess.run(
            [*sandbox, "sh", "-c", SANDBOX, "sh", program, "--exact", name],
            cwd=directory, env=environment, text=True, timeout=PATIENCE, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
    except subprocess.TimeoutExpired:
        return False
    if "SKIP: " in done.stdout:
        raise Broken(f"{name} was not tested here:\n{done.stdout}")
    if "running 1 test" not in done.stdout:
        raise Broken(f"{' '.join(test)}: did not run:\n{done.stdout}")
    return done.returncode == 0


def main():
    words = sys.argv[1:]
    mutants = [Mutant(path) for path in sorted(HERE.glob("*.patch"))]
    mutants = [mutant for mutant in mutants if not words or any(word in mutant.name for word in words)]
    if not mutants:
        raise Broken(f"no patch is named so: {' '.join(words)}")
    for directory in (TREE, SCRATCH):
        directory.mkdir(parents=True, exist_ok=True)
    copy_tree()
    tests = sorted({mutant.test for mutant in mutants})
    programs = build(tests)
    failing = {test for test in tests if not passes(test, programs)}
    red, amiss = 0, []
    for mutant in mutants:
        began = time.monotonic()
        applied = False
        try:
            if mutant.test in failing:
                raise Broken(f"{' '.join(mutant.test)}: fails without the mutant")
            mutant.apply()
            applied = True
            programs = build([mutant.test])
            verdict = "GREEN" if passes(mutant.test, programs) else "red"
        except Broken as error:
            verdict = f"BROKEN: {error}"
        finally:
            if applied:
                mutant.apply("--reverse")
        if verdict == "red":
            red += 1
        else:
            amiss.append(mutant.name)
        print(f"{mutant.name:40} {time.monotonic() - began:5.1f} s  {verdict}", flush=True)
    print(f"{red} of {len(mutants)} mutants are red")
    if amiss:
        sys.exit(f"not red: {' '.join(amiss)}")


if __name__ == "__main__":
    try:
        main()
    except Broken as error:
        sys.exit(f"run.py: {error}")
