#!/usr/bin/env python3
"""Checks the licences and sources of all crates against deny.toml.

Does what cargo-deny would, from Cargo.lock and what cargo has fetched, in a
second. It knows nothing of advisories: those need the network and cargo-deny.
"""

import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# As cargo names crates.io in Cargo.lock, without the host of its index.
CRATES_IO = re.compile(r"registry\+https://[^/]+/rust-lang/crates\.io-index")


def main():
    try:
        import tomllib
    except ModuleNotFoundError:
        print("SKIP: dependencies: Python 3.11 reads deny.toml, this one is older")
        return
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    allowed = set(rules["licenses"]["allow"])
    packages = {}
    for target in rules["graph"]["targets"]:
        answer = subprocess.run([ROOT / "testbed/with-rust", "cargo", "metadata", "--locked", "--format-version=1",
                                 "--filter-platform", target], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        metadata = json.loads(answer.stdout)
        # `packages` lists those of other platforms, too; what is resolved does not.
        used = {node["id"] for node in metadata["resolve"]["nodes"]}
        packages |= {package["id"]: package for package in metadata["packages"] if package["id"] in used}

    faults = []
    for package in packages.values():
        label = f"{package['name']} {package['version']}"
        if package["source"] is not None and not CRATES_IO.fullmatch(package["source"]):
            faults.append(f"{label}: from {package['source']}, only crates.io is allowed")
        licence = package["license"] or "none"
        if not permitted(licence, allowed):
            faults.append(f"{label}: licence {licence!r} is not in deny.toml")
    for fault in faults:
        print(f"dependencies: {fault}")
    print(f"dependencies: {len(packages)} crates looked at, {len(faults)} faults")
    sys.exit(bool(faults))


def permitted(expression, allowed):
    """Whether an SPDX expression can be met with the allowed licences. AND binds
    closer than OR; old crates write a slash for OR."""
    words = re.findall(r"\(|\)|/|[^\s()/]+", expression)

    def either():
        met = both()
        while words and words[0] in ("OR", "/"):
            words.pop(0)
            met = both() or met
        return met

    def both():
        met = one()
        while words and words[0] == "AND":
            words.pop(0)
            met = one() and met
        return met

    def one():
        word = words.pop(0)
        if word == "(":
            met = either()
            words.pop(0)
            return met
        if words and words[0] == "WITH":
            words.pop(0)
            word = f"{word} WITH {words.pop(0)}"
        return word in allowed

    return either()


if __name__ == "__main__":
    main()
