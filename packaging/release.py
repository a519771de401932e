#!/usr/bin/env python3
"""Makes what a release is made of, in dist/, from what is committed.

    release.py build ARCH ...     the static binaries, in target/dist
    release.py deb ARCH ...       Debian packages of them
    release.py tarball ARCH ...   an archive of them, with man pages and completions
    release.py notices            the licences of all crates, and lists of them (CycloneDX)
    release.py source             the sources with all crates: it builds without a network
    release.py sums               SHA256SUMS
    release.py version            nothing: prints what all of it is named after

ARCH is amd64 or arm64. The same commit gives the same bytes wherever it lies. Each step
takes what the one before it has made. As long as CHANGELOG.md calls the version of Cargo.toml
unreleased, what is made here is named after the time of the commit too, and the release is an
upgrade of it. For tests REVISION names another revision than 1, and DIST another directory.
"""

import datetime
import gzip
import hashlib
import io
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
DIST = pathlib.Path(os.environ.get("DIST", ROOT / "dist"))
BUILT = ROOT / "target" / "dist"
TARGETS = {"amd64": "x86_64-unknown-linux-musl", "arm64": "aarch64-unknown-linux-musl"}
MAINTAINER = os.environ.get("MAINTAINER") or "The ferrun developers <ferrun@packages.invalid>"

# What each Debian package has of its own. One more program is one more of these, and its
# Cargo package.
PACKAGES = {
    "ferrun": {
        "cargo": "ferrun",
        "program": "ferrun",
        "manual": "ferrun*.8",
        "units": ["run-ferrun_bin.mount"],
        "documents": ["README.md", "ARCHITECTURE.md", "SECURITY.md", "docs/*.md"],
        "fields": {"Suggests": "ferrun-image-tool, containerd-shim-ferrun"},
        "summary": "OCI container runtime, a drop-in replacement for runc",
        "description": """
            The program below containerd, Docker, Podman and CRI-O: it makes running processes of
            a bundle, which is a directory with a root file system and a config.json. It has runc's
            command line, output and exit codes, supports cgroup version 1 and 2, and works for
            ordinary users. Nothing is configured by this package: /usr/share/doc/ferrun/docs has
            the lines for each engine.""",
    },
    # Apart from ferrun: it has the runtime inside and needs no other program, and who has no
    # containerd has no use for it.
    "containerd-shim-ferrun": {
        "cargo": "ferrun-shim",
        "program": "containerd-shim-ferrun-v2",
        "manual": "containerd-shim-ferrun-v2.8",
        "documents": ["docs/shim.md"],
        "fields": {"Suggests": "ferrun", "Enhances": "containerd"},
        "summary": "shim for containerd with the OCI runtime ferrun inside",
        "description": """
            Stands between containerd and its containers, one process with one thread for a pod,
            and makes them itself where others call a runtime. A container is asked for by the
            runtime type io.containerd.ferrun.v2, or by this program's path. Nothing is configured
            by this package: /usr/share/doc/containerd-shim-ferrun/docs/shim.md has the lines.""",
    },
    "ferrun-image-tool": {
        "cargo": "image-tool",
        "program": "image-tool",
        "manual": "image-tool.1",
        "documents": ["image-tool/README.md"],
        "notices": "Docker's default seccomp profile, by the Moby authors, is under the Apache License, Version 2.0.\n",
        "fields": {"Depends": "ca-certificates", "Suggests": "ferrun"},
        "summary": "pulls an image from a container registry into an OCI bundle",
        "description": """
            Downloads an image from a registry, or takes it from an OCI layout on disk, verifies
            every digest and size in it, and unpacks it into a bundle that any OCI runtime runs.
            It needs no daemon, and root only for files of more than one owner.""",
    },
}


def main():
    steps = {"build": build, "deb": deb, "tarball": tarball}
    match sys.argv[1:]:
        case [step, *architectures] if step in steps and architectures and set(architectures) <= set(TARGETS):
            DIST.mkdir(exist_ok=True)
            for architecture in architectures:
                steps[step](architecture)
        case ["notices"]:
            DIST.mkdir(exist_ok=True)
            notices()
        case ["source"]:
            DIST.mkdir(exist_ok=True)
            source()
        case ["sums"]:
            sums()
        case ["version"]:
            print(version())
        case _:
            sys.exit(__doc__)


def version():
    return named((ROOT / "Cargo.toml").read_text(), (ROOT / "CHANGELOG.md").read_text(), epoch())


def named(manifest, changelog, time):
    """The version of Cargo.toml, which the first section of the changelog is about: released on
    a day, or not yet."""
    number = re.search(r'(?m)^\[workspace\.package\]\nversion = "(.+)"$', manifest)[1]
    section, day = re.search(r"(?m)^## (\S+) \((.+)\)$", changelog).groups()
    if section != number:
        sys.exit(f"Cargo.toml says {number}, and the first section of CHANGELOG.md is {section}")
    if day == "unreleased":
        return number + datetime.datetime.fromtimestamp(time, datetime.timezone.utc).strftime("~git%Y%m%d.%H%M%S")
    datetime.date.fromisoformat(day)
    return number


def epoch():
    """When the commit was made, which all files are said to be from."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    kept = ROOT / ".commit-time"
    return int(kept.read_text() if kept.exists() else git("log", "-1", "--format=%ct"))


def commit():
    kept = ROOT / ".commit"
    return kept.read_text().strip() if kept.exists() else git("describe", "--always", "--abbrev=12")


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, **options)


# Building


def build(architecture):
    """Each program for itself: together their crates would have more features."""
    target = TARGETS[architecture]
    name = target.upper().replace("-", "_")
    compiler = "gcc" if platform.machine() == target.split("-")[0] else f"{target.split('-')[0]}-linux-gnu-gcc"
    prefixes = remapped()
    environment = os.environ | {
        f"CARGO_TARGET_{name}_LINKER": compiler,
        f"CC_{target.replace('-', '_')}": compiler,
        f"CFLAGS_{target.replace('-', '_')}": " ".join(f"-ffile-prefix-map={old}={new}" for old, new in prefixes),
        "SOURCE_DATE_EPOCH": str(epoch()),
        "FERRUN_COMMIT": commit(),
    }
    flags = json.dumps([f"--remap-path-prefix={old}={new}" for old, new in prefixes])
    for package in PACKAGES.values():
        run(ROOT / "testbed/with-rust", "cargo", "build", "--locked", "--release", "--package", package["cargo"],
            "--target", target, "--target-dir", BUILT, "--config", f"target.'cfg(target_env = \"musl\")'.rustflags={flags}",
            cwd=ROOT, env=environment)
        program = binary(architecture, package)
        program.parent.mkdir(exist_ok=True)
        # What cargo has left in it is names of functions.
        run(compiler.replace("gcc", "strip"), "--strip-all", "-o", program,
            BUILT / target / "release" / package["program"])


def remapped():
    """Directories whose names would be in the binaries, and what is there in their place."""
    cargo = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo"))
    registries = sorted(cargo.glob("registry/src/*"))
    return [(ROOT, "/ferrun"), *((path, "/crates") for path in registries), (ROOT / "vendor", "/crates")]


def binary(architecture, package):
    return BUILT / architecture / package["program"]


# Whose work is in it


NOTICES = """\
What is linked into {program} besides its own code, with the licences and notices that come
with each crate. Rust's standard library, by the Rust project's developers, is under the
Apache License, Version 2.0, or the MIT licence; musl, by Rich Felker and others, is under
the MIT licence.
"""
RULE = "=" * 80


def notices():
    """The texts come from the crates themselves, which have been fetched to be built."""
    bills = bills_of_materials()
    metadata = json.loads(run(ROOT / "testbed/with-rust", "cargo", "metadata", "--locked", "--format-version=1", cwd=ROOT,
                              stdout=subprocess.PIPE).stdout)
    found = {(crate["name"], crate["version"]): crate for crate in metadata["packages"]}
    for name, package in PACKAGES.items():
        bill = json.loads(bills[package["cargo"]])
        text = NOTICES.format(program=package["program"]) + package.get("notices", "")
        printed = {}
        for component in bill["components"]:
            crate = found[component["name"], component["version"]]
            if crate["source"] is None:
                continue  # our own
            text += f"\n{RULE}\n{crate['name']} {crate['version']}: {crate['license']}\n{RULE}\n"
            for licence in texts_of(crate):
                first = printed.setdefault(licence, crate["name"])
                text += licence if first == crate["name"] else f"(The same text as of {first}.)\n"
        (DIST / f"{name}-third-party.txt").write_text(text)
        (DIST / f"{name}.cdx.json").write_text(bills[package["cargo"]])


def texts_of(crate):
    """A crate's licences and notices, each text once, or whom it is by where it brings none."""
    directory = pathlib.Path(crate["manifest_path"]).parent
    names = ("LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE")
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name.upper().startswith(names))
    texts = dict.fromkeys(path.read_text(errors="replace").strip() + "\n" for path in files)
    return texts or [f"By {', '.join(crate['authors']) or 'its authors'}; {crate['repository']}\n"]


def bills_of_materials():
    """Of each crate of the workspace, which is how cargo-cyclonedx works: it writes beside the
    crates, and to no other place."""
    run(ROOT / "testbed/with-rust", "cargo", "cyclonedx", "--quiet", "--format", "json", "--spec-version", "1.5",
        "--target", TARGETS["amd64"], "--no-build-deps", cwd=ROOT, env=os.environ | {"SOURCE_DATE_EPOCH": str(epoch())})
    found = {}
    members = json.loads(run(ROOT / "testbed/with-rust", "cargo", "metadata", "--locked", "--no-deps", "--format-version=1",
                             cwd=ROOT, stdout=subprocess.PIPE).stdout)["packages"]
    for member in members:
        path = pathlib.Path(member["manifest_path"]).parent / f"{member['name']}.cdx.json"
        # Where it was made is nobody's business.
        found[member["name"]] = path.read_text().replace(f"file://{ROOT}", "file:///ferrun")
        path.unlink()
    return found


# What belongs to a program besides


def stage(tree, architecture, name, vendor):
    """Puts a program and what belongs to it below usr of `tree`, a mapping of paths to
    contents and modes. `vendor`: as a distribution's package, not as a local installation."""
    package = PACKAGES[name]
    program = package["program"]
    tree[f"bin/{program}"] = (binary(architecture, package).read_bytes(), 0o755)
    for page in sorted((ROOT / "man").glob(package["manual"])):
        section = page.suffix[1:]
        add(tree, f"share/man/man{section}/{page.name}.gz", compressed(page.read_bytes()))
    completions = ROOT / "packaging" / "completions"
    zsh = "vendor-completions" if vendor else "site-functions"
    for file, place in {
        f"{program}.bash": f"share/bash-completion/completions/{program}",
        f"_{program}": f"share/zsh/{zsh}/_{program}",
        f"{program}.fish": f"share/fish/vendor_completions.d/{program}.fish",
    }.items():
        if (completions / file).exists():
            add(tree, place, (completions / file).read_bytes())
    for pattern in package["documents"]:
        for path in sorted(ROOT.glob(pattern)):
            place = path.relative_to(ROOT)
            place = place.name if place.parts[0] == program else place
            add(tree, f"share/doc/{name}/{place}", path.read_bytes())
    for unit in package.get("units", []):
        text = (ROOT / "packaging" / "systemd" / unit).read_text()
        text = text if vendor else text.replace("/usr/bin", "/usr/local/bin")
        add(tree, f"lib/systemd/system/{unit}", text.encode())
    add(tree, f"share/doc/{name}/third-party.gz", compressed((DIST / f"{name}-third-party.txt").read_bytes()))


def add(tree, path, content):
    tree[path] = (content, 0o644)


def compressed(content):
    return gzip.compress(content, 9, mtime=0)


# Debian packages


def deb(architecture):
    for name, package in PACKAGES.items():
        tree = {}
        stage(tree, architecture, name, vendor=True)
        tree = {f"usr/{path}": found for path, found in tree.items()}
        about = f"usr/share/doc/{name}"
        add(tree, f"{about}/copyright", copyright_file().encode())
        add(tree, f"{about}/changelog.gz", compressed((ROOT / "CHANGELOG.md").read_bytes()))
        add(tree, f"{about}/changelog.Debian.gz", compressed(debian_changelog(name).encode()))
        overrides = (ROOT / "packaging" / "lintian-overrides").read_text()
        add(tree, f"usr/share/lintian/overrides/{name}", overrides.replace("PACKAGE", name).encode())
        full = debian_version()
        size = sum((len(content) + 1023) // 1024 + 1 for content, _ in tree.values())
        fields = {
            "Package": name, "Version": full, "Architecture": architecture, "Maintainer": MAINTAINER,
            "Installed-Size": str(size), **package["fields"], "Section": "admin", "Priority": "optional",
            "Description": described(package),
        }
        control = "".join(f"{field}: {value}\n" for field, value in fields.items())
        sums = "".join(f"{hashlib.md5(content).hexdigest()}  {path}\n" for path, (content, _) in sorted(tree.items()))
        add(tree, "DEBIAN/control", control.encode())
        add(tree, "DEBIAN/md5sums", sums.encode())
        file = DIST / f"{name}_{full}_{architecture}.deb"
        with tempfile.TemporaryDirectory() as directory:
            lay_out(pathlib.Path(directory) / "root", tree)
            run("dpkg-deb", "--root-owner-group", "--build", "--uniform-compression", "-Zxz",
                pathlib.Path(directory) / "root", file, stdout=subprocess.DEVNULL,
                env=os.environ | {"SOURCE_DATE_EPOCH": str(epoch())})
        print(file)


def lay_out(root, tree):
    os.umask(0o022)
    for path, (content, mode) in sorted(tree.items()):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(mode)
    for path in [root, *root.rglob("*")]:
        os.utime(path, (epoch(), epoch()))


def debian_version():
    return f"{version()}-{os.environ.get('REVISION', '1')}"


def described(package):
    """A description in the form of Debian's control files."""
    lines = textwrap.wrap(" ".join(package["description"].split()), 78)
    return "\n ".join([package["summary"], *lines])


def debian_changelog(name):
    from email.utils import formatdate
    return (f"{name} ({debian_version()}) unstable; urgency=medium\n\n"
            f"  * What has changed stands in changelog.gz.\n\n"
            f" -- {MAINTAINER}  {formatdate(epoch())}\n")


def copyright_file():
    licence = "".join(f" {line}\n" if line.strip() else " .\n"
                      for line in (ROOT / "packaging" / "copyright-note").read_text().splitlines())
    return ("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
            "Upstream-Name: ferrun\n"
            "Comment: The program is linked statically. The licences of the crates in it, with\n"
            " their copyright notices, stand in third-party.gz beside this file.\n\n"
            "Files: *\nCopyright: 2026 the ferrun developers\nLicense: Apache-2.0\n\n"
            "License: Apache-2.0\n" + licence)


# Archives


def tarball(architecture):
    """What `make install` would put below a prefix."""
    top = f"ferrun-{version()}-linux-{architecture}"
    tree = {}
    for name in PACKAGES:
        stage(tree, architecture, name, vendor=False)
    for name in "LICENSE", "CHANGELOG.md":
        add(tree, f"share/doc/ferrun/{name}", (ROOT / name).read_bytes())
    write_archive(DIST / f"{top}.tar.gz", {f"{top}/{path}": found for path, found in tree.items()})


def source():
    """What is committed, and all crates. Who unpacks it builds with `make`, and with no network."""
    top = f"ferrun-{version()}"
    tree = {}
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    links = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as committed:
        for entry in committed:
            if entry.isfile():
                tree[f"{top}/{entry.name}"] = (committed.extractfile(entry).read(), 0o755 if entry.mode & 0o100 else 0o644)
            elif entry.issym():
                links[f"{top}/{entry.name}"] = entry.linkname
    with tempfile.TemporaryDirectory() as directory:
        vendor = pathlib.Path(directory) / "vendor"
        told = run(ROOT / "testbed/with-rust", "cargo", "vendor", "--quiet", "--locked", "--versioned-dirs", vendor,
                   cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
        for path in sorted(vendor.rglob("*")):
            if path.is_file():
                mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
                tree[f"{top}/vendor/{path.relative_to(vendor)}"] = (path.read_bytes(), mode)
        told = told.replace(str(vendor), "vendor")
    config, mode = tree[f"{top}/.cargo/config.toml"]
    tree[f"{top}/.cargo/config.toml"] = (config + b"\n" + told.encode(), mode)
    add(tree, f"{top}/.commit", f"{commit()}\n".encode())
    add(tree, f"{top}/.commit-time", f"{epoch()}\n".encode())
    write_archive(DIST / f"{top}.tar.xz", tree, links)


def write_archive(file, tree, links=()):
    """An archive that depends on nothing but `tree`."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted([*tree, *links]):
            entry = tarfile.TarInfo(path)
            entry.mtime = epoch()
            entry.uname = entry.gname = "root"
            if path in tree:
                data, entry.mode = tree[path]
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
            else:
                entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, links[path], 0o777
                archive.addfile(entry)
    if file.suffix == ".gz":
        file.write_bytes(compressed(content.getvalue()))
    else:
        run("xz", "--threads=1", "-6", "--stdout", input=content.getvalue(), stdout=file.open("wb"))
    print(file)


def sums():
    names = sorted(path.name for path in DIST.iterdir() if path.is_file() and not path.name.startswith("SHA256SUMS"))
    lines = [f"{hashlib.sha256((DIST / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (DIST / "SHA256SUMS").write_text("".join(lines))
    print(DIST / "SHA256SUMS")


if __name__ == "__main__":
    main()
