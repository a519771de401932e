#!/usr/bin/env python3
"""Runs all parts of the tests, whether or not one fails, and adds them up.

    run_tests.py [PART ...]

A part is a target of the Makefile. Its output goes to target/test/PART.log. The ten tests
that took longest are named, then each that failed and what it said. The last line is
`N passed, N failed, N skipped`; the exit status is 1 if anything failed.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOGS = ROOT / "target" / "test"
PARTS = ["lint", "unit", "image-tool-test", "integration", "conformance"]
TAIL = 40  # lines of a log that are shown when its part fails
SAID = (200, 600)  # characters of what a failed test said, at its beginning and at its end
SLOWEST = 10

# What cargo runs its test binaries by, on whatever machine this is.
TIMED = {f"CARGO_TARGET_{machine}_UNKNOWN_LINUX_{libc}_RUNNER": str(ROOT / "testbed" / "timed")
         for machine in ("X86_64", "AARCH64") for libc in ("GNU", "MUSL")}


def main():
    os.chdir(ROOT)
    LOGS.mkdir(parents=True, exist_ok=True)
    total = (0, 0, 0)
    times = []
    failed = []
    for part in sys.argv[1:] or PARTS:
        reason = unable(part)
        if reason:
            print(f"{part}: SKIP: {reason}")
            counts = (0, 0, 1)
        else:
            counts = run(part)
            output = (LOGS / f"{part}.log").read_text(errors="replace")
            times += durations(output)
            failed += failures(output) or ([f"{part}: its log says why"] if counts[1] else [])
        total = tuple(map(sum, zip(total, counts)))
    for seconds, name in sorted(times, reverse=True)[:SLOWEST]:
        print(f"slow: {seconds:6.1f} s  {name}")
    for failure in failed:
        print(f"failed: {failure}")
    print("{} passed, {} failed, {} skipped".format(*total))
    sys.exit(total[1] > 0)


def unable(part):
    """Why a part can't run here at all."""
    if part == "conformance" and os.geteuid() != 0:
        return "the OCI suite needs root"
    if part == "conformance" and not re.search(r"(?m)^\S+ \S+ cgroup ", pathlib.Path("/proc/mounts").read_text()):
        return "the OCI suite knows cgroup v1 only, and this machine has none"
    return None


def within():
    """What a part runs in. The root of a container is an overlay: the kernel maps no ids of one,
    and mounts none on it, which tests do with files that they make in TMPDIR."""
    place = tempfile.gettempdir()
    kind = subprocess.run(["stat", "--file-system", "--format=%T", place], stdout=subprocess.PIPE, text=True).stdout
    if os.geteuid() != 0 or kind.strip() != "overlayfs":
        return []
    within = ["unshare", "--mount", "sh", "-euc", 'mount -t tmpfs tmpfs "$1"; shift; exec "$@"', "sh", place]
    may = subprocess.run([*within, "true"]).returncode == 0
    print(f"{place} is on an overlay: the tests {'get a tmpfs in its place' if may else 'may mount no tmpfs there'}",
          flush=True)
    return within if may else []


def run(part):
    path = LOGS / f"{part}.log"
    print(f"{part}: output in {path.relative_to(ROOT)}", flush=True)
    started = time.monotonic()
    with path.open("wb") as log:
        status = subprocess.run([*within(), "make", "--no-print-directory", part], stdin=subprocess.DEVNULL, stdout=log,
                                stderr=log, env=os.environ | TIMED).returncode
    output = path.read_text(errors="replace")
    passed, failed, skipped, reasons = count(output)
    if passed + failed + skipped == 0:
        passed = int(part == "lint" and status == 0)  # which has checks, not tests
        failed = int(not passed)
    elif status != 0 and failed == 0:
        failed = 1
    if failed:
        print("\n".join("    " + line for line in output.splitlines()[-TAIL:]))
    for reason in reasons:
        print(f"    {reason}")
    # Tests of engines are long, and each claim in them counts.
    steps = sum(int(number) for number in re.findall(r": (\d+) steps in ", output))
    print(f"{part}: {passed} passed, {failed} failed, {skipped} skipped, {f'{steps} steps, ' if steps else ''}"
          f"{time.monotonic() - started:.0f} s", flush=True)
    return passed, failed, skipped


def count(output):
    """Adds up what the test programs say: passed, failed, skipped, and why skipped."""
    passed = failed = skipped = 0
    reasons = []
    for line in output.splitlines():
        if cargo := re.match(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", line):
            passed += int(cargo[1])
            failed += int(cargo[2])
            skipped += int(cargo[3])
        elif go := re.match(r"--- (PASS|FAIL|SKIP): ", line):
            passed += go[1] == "PASS"
            failed += go[1] == "FAIL"
            skipped += go[1] == "SKIP"
        elif python := re.match(r"test_\w+ \(.*\) \.\.\. (ok|FAIL|ERROR|skipped)", line):
            passed += python[1] == "ok"
            failed += python[1] in ("FAIL", "ERROR")
            skipped += python[1] == "skipped"
        elif suite := re.match(r"programs: (\d+) passed, (\d+) failed, (\d+) skipped$", line):
            passed += int(suite[1])
            failed += int(suite[2])
            skipped += int(suite[3])
        elif line.startswith("skip: "):
            reasons.append(line)  # counted by the suite already
        elif found := re.search(r"\bSKIP: (\S+ \(.+?\): )?.*", line):
            # Of a case, in a view or for a caller that this machine has not, the rest
            # of the test was run. A whole test is one that cargo counts as passed.
            passed -= found[1] is None
            skipped += 1
            reasons.append(found[0])
    return passed, failed, skipped, list(dict.fromkeys(reasons))


def durations(output):
    """How long each test took, as far as the programs say so: seconds and name."""
    times = []
    binary = ""
    for line in output.splitlines():
        if running := re.match(r"\s+Running (?:unittests )?(\S+) \(", line):
            binary = running[1]
        elif cargo := re.match(r"test (\S+) \.\.\. .*<([0-9.]+)s>$", line):
            times.append((float(cargo[2]), f"{binary}: {cargo[1]}"))
        elif go := re.match(r"--- (?:PASS|FAIL): (\S+) \(([0-9.]+)s\)", line):
            times.append((float(go[2]), f"conformance: {go[1]}"))
        elif suite := re.match(r"(\w+) +\d+ passed +\d+ failed +\d+ skipped +([0-9.]+)s ", line):
            times.append((float(suite[2]), f"OCI suite: {suite[1]}"))
    return times


def shortened(words):
    """A long text without its middle: a command stands first, and why it failed last."""
    first, last = SAID
    return words if len(words) <= first + last else f"{words[:first]} [...] {words[-last:]}"


def failures(output):
    """The tests that failed, each with the place and what it said, as one line."""
    said = {}
    for name, text in re.findall(r"(?m)^---- (\S+) stdout ----\n((?:(?!----|failures:).*\n?)*)", output):
        if panic := re.search(r"panicked at (\S+):\d+:\n((?:(?!note: run with |stack backtrace:).*\n?)*)", text):
            words = " | ".join(line.strip() for line in panic[2].splitlines() if line.strip())
            said[name] = f": {panic[1]}: {shortened(words)}"
    failed = []
    binary = ""
    for found in re.finditer(r"(?m)^ +Running (?:unittests )?(?P<binary>\S+) \("
                             r"|^failures:\n(?P<cargo>(?:    \S+\n)+)\ntest result: "
                             r"|^--- FAIL: (?P<go>\S+) "
                             r"|^test_\w+ \((?P<python>.*)\) \.\.\. (?:FAIL|ERROR)$"
                             r"|^(?P<suite>\w+) +\d+ passed +\d+ failed .*s  (?!clean$|as expected$)", output):
        binary = found["binary"] or binary
        failed += [f"{binary}: {name}{said.get(name, '')}" for name in (found["cargo"] or "").split()]
        failed += [f"conformance: {found['go']}"] if found["go"] else []
        failed += [found["python"]] if found["python"] else []
        failed += [f"OCI suite: {found['suite']}"] if found["suite"] else []
    return failed


if __name__ == "__main__":
    main()
