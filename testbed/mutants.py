#!/usr/bin/env python3
"""Changes each expression of the parts that decide, one at a time, and sees a test fail.

    mutants.py [--in-diff BASE] [PART ...]

With BASE only what has changed since that commit. The changes are those of cargo-mutants, but a part is built
once for all of them (switched.py); only what the compiler computes is built for itself. What no test notices
has to stand in integration/survivors.md, with why, and there may be no more of it than a part's share of all
that can be compiled.
"""

import collections
import contextlib
import json
import os
import pathlib
import platform
import re
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time

import switched

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "mutants"
TREE = WORK / "tree"
SURVIVORS = ROOT / "integration" / "survivors.md"
CARGO = shlex.split(os.environ.get("CARGO", "cargo"))
ENVIRONMENT = os.environ | {"CARGO_TARGET_DIR": str(WORK / "target"), "CARGO_PROFILE_DEV_DEBUG": "0",
                            "CARGO_INCREMENTAL": "1"}
# Beside the flags of .cargo/config.toml, which a static program needs. By warnings cargo hears what a target has not.
FLAGS = ["--config", "target.'cfg(all())'.rustflags=['--cap-lints=warn']"]

# A change may make a test do what its author never thought of: as root it finds all read-only but a
# directory of its own.
CONFINED = """mount -t tmpfs mutants "$TMPDIR" && mount -o remount,bind,ro / && exec "$@" """

MOST_MEMORY = 4 << 30

Part = collections.namedtuple("Part", "package root files tests share black_box", defaults=[False])
PLAN = ["--lib", "--test", "numbers", "--test", "absent", "--test", "sizes", "--test", "engine_configs"]
IMAGE_TOOL = [f"image-tool/src/{name}.rs" for name in ("archive", "convert", "manifest", "reference", "users")]
# What a process is when it has become the program: cheap ones first, since most of them notice most.
BLACK_BOX = ["process", "seccomp", "terminal", "notify", "attacks", "exec"]

# The package, its first file, what is changed, its tests, how many of a hundred may be missed, and whether the tests
# are black-box ones.
PARTS = {
    "seccomp": Part("ferrun-seccomp", "seccomp/src/lib.rs", ["seccomp/src/**"],
                    ["--lib", "--test", "profile", "--test", "direct"], 3),
    "plan": Part("ferrun", "src/lib.rs", ["src/plan/**"], PLAN, 3),
    "bundle": Part("ferrun", "src/lib.rs", ["src/bundle/**"], PLAN, 3),
    "store": Part("ferrun", "src/lib.rs", ["src/store/**"], ["--lib"], 3),
    "look-ups": Part("ferrun", "src/lib.rs", ["src/resolve.rs", "src/cgroups/stats.rs"], ["--lib"], 10),
    "process": Part("ferrun", "src/lib.rs", ["src/apply/process.rs"], BLACK_BOX, 10, True),
    "image-tool": Part("image-tool", "image-tool/src/main.rs", IMAGE_TOOL, ["--bins"], 10),
}


def main():
    words = sys.argv[1:]
    base = None
    if words[:1] == ["--in-diff"]:
        base, words = words[1], words[2:]
    known = survivors(SURVIVORS.read_text())
    failed = False
    for name in words or PARTS:
        failed |= not run(name, base, known)
    sys.exit(failed)


def run(name, base, known):
    """Whether a part has no survivor that is not known, and not too many of those."""
    part = PARTS[name]
    if part.black_box and os.geteuid() != 0:
        print(f"{name}: left out: its tests need root", flush=True)
        return True
    changes = listed(part, base)
    results, strange = collections.defaultdict(list), 0
    trial = BlackBoxTrial if part.black_box else Trial
    for number, result in trial(part, changes).results() if changes else ():
        change = changes[number]["name"]
        results[result].append(change)
        if result == "missed" and plain(change) not in known:
            strange += 1
            print(f"    missed: {change}", flush=True)
    (WORK / f"{name}.json").write_text(json.dumps(results, indent=1))
    missed, viable = len(results["missed"]), len(changes) - len(results["unviable"])
    is_much = base is None and 100 * missed > part.share * viable
    print(f"{name}: {viable} of {len(changes)} can be compiled, {missed} missed, {strange} of them without a reason"
          + (f": more than {part.share} of a hundred" if is_much else ""), flush=True)
    return not strange and not is_much


def listed(part, base):
    """The changes of cargo-mutants, by numbers from 1 on."""
    options = ["--package", part.package, *(word for file in part.files for word in ("--file", file))]
    WORK.mkdir(parents=True, exist_ok=True)
    if base:
        diff = WORK / "changes.diff"
        diff.write_bytes(subprocess.run(["git", "diff", base], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
        options += ["--in-diff", diff]
    listing = subprocess.run([*CARGO, "mutants", "--list", "--json", "--colors=never", *options], cwd=ROOT, check=True,
                             stdout=subprocess.PIPE)
    return dict(enumerate(json.loads(listing.stdout or "[]"), 1))


class Trial:
    """A copy of the source with the changes of a part in it."""

    def __init__(self, part, changes):
        self.part, self.changes = part, changes
        # Whoever goes on working meanwhile changes nothing here.
        copy_source()
        self.root = (ROOT / part.root).read_text()
        paths = sorted({change["file"] for change in changes.values()})
        self.files = {path: switched.File((ROOT / path).read_text(), {
            number: change for number, change in changes.items() if change["file"] == path}) for path in paths}
        self.alone = set().union(*(file.alone for file in self.files.values()))
        self.unviable = set()

    def results(self):
        """Each change by its number, and what becomes of it: missed, caught or unviable."""
        self.write()
        while wrong := self.errors():
            self.sort_out(wrong)
            self.write()
        yield from ((number, "unviable") for number in sorted(self.unviable))
        binaries = self.build(self.part.tests)
        limit = self.limit(binaries)
        for number in sorted(self.changes.keys() - self.unviable - self.alone):
            yield number, "caught" if self.is_noticed(binaries, number, number, limit) else "missed"
        for path, file in self.files.items():
            write(TREE / path, file.text)
        for number in sorted(self.alone):
            path = self.changes[number]["file"]
            write(TREE / path, self.files[path].changed(number))
            yield number, self.tried_alone(number, limit)
            write(TREE / path, self.files[path].text)

    def tried_alone(self, number, limit):
        # The unit tests are built first: mostly they suffice.
        for tests in self.part.tests[:1], self.part.tests:
            binaries = self.build(tests)
            if not binaries:
                return "unviable"
            if self.is_noticed(binaries, number, 0, limit):
                return "caught"
        return "missed"

    def limit(self, binaries):
        """How many seconds a test may take: ten times what it takes without a change."""
        runs = {binary: self.run([binary], 0, 300) for binary in binaries}
        failed = [binary for binary, (passed, _) in runs.items() if not passed]
        if failed or not runs:
            sys.exit(f"mutants: without a change there is already a failure: {failed or self.part.package}")
        return 10 + 10 * max(seconds for _, seconds in runs.values())

    def is_noticed(self, binaries, number, switch, limit):
        """Whether a test fails. Those beside what is changed come first: they notice most, and take least."""
        beside = [binaries[0], module_of(self.changes[number]["file"])]
        return any(not self.run(command, switch, limit)[0] for command in (beside, *([path] for path in binaries)))

    def run(self, command, number, limit):
        """Whether all tests of a binary pass, and how many seconds that took."""
        if os.geteuid() == 0:
            command = ["unshare", "--mount", "--propagation=private", "sh", "-c", CONFINED, "sh", *command]
        with tempfile.TemporaryDirectory(dir=WORK) as directory:
            words = {"SWITCHED": str(number), "TMPDIR": directory}
            return ended(command, limit, (TREE / self.part.root).parent.parent, words, preexec_fn=limit_memory)

    def write(self):
        write(TREE / self.part.root, self.root + switched.SWITCH)
        for path, file in self.files.items():
            text = file.switched(self.unviable | self.alone)
            write(TREE / path, text + (switched.SWITCH if path == self.part.root else ""))

    def cargo(self, *arguments, package=None):
        """The messages of cargo, and whether all went well."""
        command = [*CARGO, *arguments, *FLAGS, "--locked", "--message-format=json", "--package",
                   package or self.part.package]
        run = subprocess.run(command, cwd=TREE, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        messages = [json.loads(line) for line in run.stdout.decode().splitlines() if line.startswith("{")]
        return messages, run.returncode == 0, run.stderr.decode()

    def errors(self):
        """Files and lines that the compiler does not take."""
        messages, fine, words = self.cargo("check")
        messages = [message["message"] for message in messages if message["reason"] == "compiler-message"]
        wrong = [message for message in messages if message["level"] == "error" and message["spans"]]
        if not fine and not wrong:
            sys.exit(f"mutants: {self.part.package} cannot be checked: {words[-2000:]}")
        return wrong

    def sort_out(self, wrong):
        """Takes out what the errors are about."""
        count = len(self.unviable | self.alone)
        for message in wrong:
            spans = sorted(message["spans"], key=lambda span: not span["is_primary"])
            whose = [self.files[span["file_name"]].whose(span["line_start"]) for span in spans
                     if span["file_name"] in self.files]
            whose = next((numbers for numbers in whose if numbers), set())
            if len(whose) == 1:
                self.unviable |= whose
            else:
                self.alone |= whose
        if len(self.unviable | self.alone) == count:
            sys.exit("mutants: " + "".join(message["rendered"] for message in wrong)[:4000])

    def build(self, tests):
        """The binaries of these tests; none if they cannot be compiled."""
        messages, fine, _ = self.cargo("test", "--no-run", *tests)
        binaries = [pathlib.Path(message["executable"]) for message in messages
                    if message["reason"] == "compiler-artifact" and message["profile"]["test"]]
        # The unit tests first: they notice most.
        binaries.sort(key=lambda path: path.name.rsplit("-", 1)[0] in self.part.tests)
        return binaries if fine else []


class BlackBoxTrial(Trial):
    """What a process does to itself before it is the program, which a test has to see from outside.

    The tests are as they are, of what they change themselves, and call a program with the change in it. One that gave
    its streams to whoever it became gave the machine's null device away, so they have devices of their own."""

    PROGRAM = WORK / "target" / f"{platform.machine()}-unknown-linux-musl" / "debug" / "ferrun"
    STAMPED = WORK / "ferrun"

    def build(self, tests):
        _, fine, _ = self.cargo("build", "--bin", "ferrun", "--target", self.PROGRAM.parts[-3])
        if not fine:
            return []
        targets = [word for test in tests for word in ("--test", test)]
        messages, fine, _ = self.cargo("test", "--no-run", *targets, package="integration")
        built = {message["target"]["name"]: message["executable"] for message in messages
                 if message["reason"] == "compiler-artifact" and message["profile"]["test"]}
        return [built[test] for test in tests] if fine else []

    def tried_alone(self, number, limit):
        binaries = self.build(self.part.tests)
        if not binaries:
            return "unviable"
        return "caught" if self.is_noticed(binaries, 0, 0, limit) else "missed"

    def is_noticed(self, binaries, number, switch, limit):
        return any(not self.run([path], switch, limit)[0] for path in binaries)

    def run(self, command, number, limit):
        self.STAMPED.unlink(missing_ok=True)
        self.STAMPED.write_bytes(switched.stamped(self.PROGRAM.read_bytes(), number))
        self.STAMPED.chmod(0o755)
        private = ["unshare", "--mount", "--propagation=private", ROOT / "testbed" / "own-devices"]
        return ended(private + command, limit, ROOT / "integration", {"RUNTIME": str(self.STAMPED)})


def ended(command, limit, directory, words, **more):
    """Whether a command ends well within so many seconds, and how many it took."""
    started = time.monotonic()
    run = subprocess.Popen(command, cwd=directory, env=ENVIRONMENT | words, start_new_session=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
    try:
        passed = run.wait(timeout=limit) == 0
    except subprocess.TimeoutExpired:
        passed = False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    return passed, time.monotonic() - started


def copy_source():
    """The source as it is now, with what has not been committed; what is the same is left alone."""
    names = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                           stdout=subprocess.PIPE).stdout.decode().splitlines()
    for name in names:
        if (ROOT / name).is_file():
            write(TREE / name, (ROOT / name).read_bytes())


def write(path, content):
    content = content.encode() if isinstance(content, str) else content
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def limit_memory():
    """A loop without an end may ask for all that there is."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def module_of(file):
    """As a test binary names it: `plan::cgroup::unit::`."""
    return "::".join(re.sub(r".*?src/|/mod\.rs$|\.rs$", "", file).split("/")) + "::"


def plain(name):
    """Without line and column, which every change moves."""
    return re.sub(r"^(\S+?):\d+:\d+: ", r"\1: ", name)


def survivors(page):
    """What the page has a reason for: rows of file, mutation, why."""
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in page.splitlines()
            if line.startswith("| `")]
    return {f"{row[0].strip('`')}: {row[1].strip('`')}".replace("\\|", "|") for row in rows if len(row) == 3 and row[2]}


if __name__ == "__main__":
    main()
