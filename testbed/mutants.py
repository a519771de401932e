#!/usr/bin/env python3
"""Changes each expression of the parts that decide, one at a time, and sees a unit test fail.

    mutants.py [--in-diff BASE] [--shard K/N] [PART ...]

With BASE only what has changed since that commit, with K/N every Nth change, from the Kth
on. A part goes on where it was
interrupted; `rm -r target/cargo-mutants` begins again. What no test notices has to stand in
integration/survivors.md, with why, and there may be no more of it than a part's share of
all that can be compiled.
"""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "cargo-mutants"
SURVIVORS = ROOT / "integration" / "survivors.md"
CARGO = shlex.split(os.environ.get("CARGO", "cargo"))

# Compiled again for each: there it counts, and not in the tests.
COMPILED = ["--config=profile.dev.package.ferrun-seccomp.opt-level=1"]
# A few more binaries are linked for those alone that the first ones let through.
PLAN = [["--lib"], ["--test", "numbers", "--test", "absent", "--test", "sizes", "--test", "engine_configs"]]
SECCOMP = [["--lib", "--test", "profile"], ["--test", "direct"]]
UNIT = [["--lib"]]

# Name: package, files, its tests in turn, how many of a hundred may be missed.
PARTS = {
    "seccomp": ("ferrun-seccomp", ["seccomp/src/**"], SECCOMP, 3),
    "plan": ("ferrun", ["src/plan/**"], PLAN, 3),
    "bundle": ("ferrun", ["src/bundle/**"], PLAN, 3),
    "store": ("ferrun", ["src/store/**"], UNIT, 3),
    "apply": ("ferrun", ["src/resolve.rs", "src/apply/process.rs", "src/cgroups/stats.rs"], UNIT, 10),
    "image-tool": ("image-tool", [f"image-tool/src/{name}.rs" for name in
                                  ("archive", "convert", "manifest", "reference", "users")], [["--bins"]], 10),
}


def main():
    words = sys.argv[1:]
    base = shard = None
    if words[:1] == ["--in-diff"]:
        base, words = words[1], words[2:]
    if words[:1] == ["--shard"]:
        shard, words = words[1], words[2:]
    WORK.mkdir(parents=True, exist_ok=True)
    known = survivors(SURVIVORS.read_text())
    failed = False
    for name in words or PARTS:
        failed |= not run(name, base, shard, known)
    sys.exit(failed)


def run(name, base, shard, known):
    """Whether a part has no survivor that is not known, and not too many of those."""
    package, files, passes, share = PARTS[name]
    output = WORK / (f"{name}-in-diff" if base else name)
    options = ["--package", package, "--output", output, "--jobs", "1", "--iterate", "--no-shuffle", "--colors=never",
               "--minimum-test-timeout", "30"]
    for file in files:
        options += ["--file", file]
    if base:
        diff = WORK / "changes.diff"
        diff.write_bytes(subprocess.run(["git", "diff", base], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
        options += ["--in-diff", diff]
    if shard:
        # It is one of what is left, which the next pass would have less of.
        passes = [sum(passes, [])]
        options += ["--shard", shard, "--sharding", "round-robin"]
    environment = os.environ | {"CARGO_TARGET_DIR": str(WORK / "target"), "CARGO_PROFILE_DEV_DEBUG": "0",
                                "CARGO_INCREMENTAL": "1"}
    ledger = Ledger(output)
    for tests in passes:
        arguments = [f"--cargo-arg={argument}" for argument in ["--locked", *COMPILED, *tests]]
        subprocess.run([*CARGO, "mutants", *options, *arguments], cwd=ROOT, env=environment)
        ledger.add()
    caught, missed = ledger.names("caught", "timeout"), ledger.names("missed")
    viable = len(caught) + len(missed)
    strange = [mutation for mutation in missed if plain(mutation) not in known]
    for mutation in strange:
        print(f"    missed: {mutation}")
    is_much = 100 * len(missed) > share * viable
    print(f"{name}: {viable} can be compiled, {len(missed)} missed, {len(strange)} of them without a reason"
          + (f": more than {share} of a hundred" if is_much else ""), flush=True)
    return not strange and not is_much


class Ledger:
    """What became of each mutation in all runs: cargo-mutants tells of the last one alone."""

    def __init__(self, directory):
        self.directory = directory
        self.path = directory / "ledger.json"
        self.results = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.add()  # of a run that was interrupted

    def add(self):
        for result in ("missed", "unviable", "timeout", "caught"):
            path = self.directory / "mutants.out" / f"{result}.txt"
            if path.exists():
                self.results |= dict.fromkeys(path.read_text().splitlines(), result)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.results, indent=1))

    def names(self, *results):
        return sorted(name for name, result in self.results.items() if result in results)


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
