# `make help` lists the targets. RUNTIME=... tests another runtime than bin/ferrun.

TESTBED := $(CURDIR)/testbed
CARGO_HOME ?= $(HOME)/.cargo
# What testbed/install.sh could not get from the system's own packages comes first.
export PATH := $(TESTBED)/cache/bin:$(TESTBED)/cache/cargo/bin:$(TESTBED)/cache/go/bin:$(CARGO_HOME)/bin:$(PATH):/usr/sbin:/sbin

CARGO := $(TESTBED)/with-rust cargo
MUSL := $(shell uname -m)-unknown-linux-musl
# An absolute path: the tests run in directories of their own.
NAMED = $(if $(findstring /,$(RUNTIME)),$(abspath $(RUNTIME)),$(shell command -v $(RUNTIME)))
TESTED = $(if $(RUNTIME),$(or $(NAMED),$(RUNTIME)),$(CURDIR)/bin/ferrun)
BUILT = $(if $(RUNTIME),,bin/ferrun bin/containerd-shim-ferrun-v2)

# What `ferrun --version` says.
# Sources of a release have it in a file.
export FERRUN_COMMIT := $(shell cat .commit 2>/dev/null || git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)

WORKSPACE := Cargo.toml Cargo.lock rust-toolchain.toml .cargo/config.toml
SOURCES := $(shell find src seccomp/src dbus/src -type f) $(WORKSPACE) seccomp/Cargo.toml dbus/Cargo.toml build.rs \
	text-order.ld
SHIM_SOURCES := $(shell find shim/src -type f) shim/Cargo.toml
IMAGE_TOOL_SOURCES := $(shell find image-tool/src image-tool/profiles -type f) $(WORKSPACE) image-tool/Cargo.toml

.PHONY: build
build: bin/ferrun bin/containerd-shim-ferrun-v2 bin/image-tool ## bin/ferrun and the shim (static), bin/image-tool

bin/ferrun: $(SOURCES)
	@$(TESTBED)/install.sh build
	$(CARGO) build --locked --release --package ferrun --target $(MUSL)
	@install -D target/$(MUSL)/release/ferrun $@

bin/containerd-shim-ferrun-v2: $(SOURCES) $(SHIM_SOURCES)
	@$(TESTBED)/install.sh build
	$(CARGO) build --locked --release --package ferrun-shim --target $(MUSL)
	@install -D target/$(MUSL)/release/containerd-shim-ferrun-v2 $@

bin/image-tool: $(IMAGE_TOOL_SOURCES)
	@$(TESTBED)/install.sh build
	$(CARGO) build --locked --release --package image-tool
	@install -D target/release/image-tool $@

.PHONY: demo
demo: ## pull Alpine from a registry and run it, installing what that needs
	@$(TESTBED)/install.sh demo
	@$(MAKE) --no-print-directory build
	@$(TESTBED)/demo.py

.PHONY: test
test: ## all tests, installing what they need
	@$(TESTBED)/install.sh test
	@$(MAKE) --no-print-directory build
	@$(TESTBED)/run_tests.py

.PHONY: lint
lint: ## formatting, lints, licences, spelling
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings
	$(CARGO) check --locked --quiet --package ferrun --target aarch64-unknown-linux-musl
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	@# What is checked is not linked: neither libFuzzer is built for it nor a nightly Rust needed.
	CUSTOM_LIBFUZZER_PATH=/not/linked CARGO_TARGET_DIR=$(or $(CARGO_TARGET_DIR),$(CURDIR)/target) \
		$(CARGO) check --locked --quiet --manifest-path fuzz/Cargo.toml
	$(TESTBED)/dependencies.py
	typos
	cd conformance && test -z "$$(gofmt -l .)" && go vet .
	cd integration/engines/current && test -z "$$(gofmt -l stand-in prober)" && go vet ./stand-in ./prober

.PHONY: spelling workflows
spelling: ## the spelling of all that is committed
	@$(TESTBED)/install.sh spelling
	typos
workflows: ## the files of .github/workflows
	@$(TESTBED)/install.sh workflows
	actionlint

# Everything builds with the Rust that Cargo.toml names as the lowest; clippy knows of nearly each
# part of the standard library since when it is there, and this asks that Rust itself.
LOWEST := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
.PHONY: lowest-rust
lowest-rust: ## whether it builds with the lowest Rust that Cargo.toml names, which rustup fetches
	@$(TESTBED)/install.sh build
	@rustup run $(LOWEST) rustc --version 2>/dev/null || \
		{ echo 'lowest-rust: Rust $(LOWEST), by rustup' >&2; \
		rustup toolchain install $(LOWEST) --no-self-update --profile minimal; }
	RUSTUP_TOOLCHAIN=$(LOWEST) cargo check --locked --workspace --all-targets --target-dir target/lowest-rust

.PHONY: unit
unit: ## tests without root and without a container
	$(CARGO) test --locked --no-fail-fast --package ferrun --package ferrun-seccomp --package ferrun-dbus --package ferrun-shim --package bench --package manual
	cd conformance && RUNTIME=$(wildcard $(TESTED)) IMAGE_TOOL=$(wildcard $(CURDIR)/bin/image-tool) \
		PLANNER=$(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/debug/examples/plan go test -v .
	python3 -m unittest discover --verbose --start-directory testbed --pattern '*_test.py'

.PHONY: image-tool-test
image-tool-test: ## image-tool against registries, good and hostile
	$(CARGO) test --locked --no-fail-fast --package image-tool

.PHONY: integration
integration: $(BUILT) bin/image-tool ## black-box tests of the runtime, as root in all views
	RUNTIME=$(TESTED) $(CARGO) test --locked --no-fail-fast --package integration

.PHONY: mutants
mutants: ## take each protection out and see its test fail, as root; five minutes
	@$(TESTBED)/install.sh test
	CARGO="$(CARGO)" integration/mutants/run.py

.PHONY: test-full
test-full: test mutants ## all tests, also those that take many minutes, and the mutants
	RUNTIME=$(TESTED) $(CARGO) test --locked --no-fail-fast --package integration -- --ignored
	$(CARGO) test --locked --release --package image-tool -- --ignored

ENGINES := $(TESTBED)/cache/engines/bin
GO_BUILD := CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags '-s -w' -o $(ENGINES)/

.PHONY: engines-current
engines-current: $(ENGINES)/.containerd ## build today's containerd, crictl and critest; two minutes of two processors

$(ENGINES)/.containerd: $(wildcard $(addprefix integration/engines/current/, go.* stand-in/* prober/*))
	@$(TESTBED)/install.sh go
	cd integration/engines/current && $(GO_BUILD) -tags 'no_btrfs no_devmapper no_zfs' tool ./stand-in ./prober
	cd integration/engines/current && CGO_ENABLED=0 go test -c -buildvcs=false -trimpath -ldflags '-s -w' \
		-o $(ENGINES)/critest.test sigs.k8s.io/cri-tools/cmd/critest
	cd integration/engines/current && CGO_ENABLED=0 go test -c -buildvcs=false -trimpath -ldflags '-s -w' \
		-o $(ENGINES)/client.test github.com/containerd/containerd/v2/integration/client
	@touch $@

# Releases of containerd that ask for a shim in another way than today's. No module of this tree
# depends on them; the module that builds one is thrown away.
RELEASES := $(patsubst %,$(ENGINES)/../releases/%/ctr,2.0.11 2.1.9 2.2.7 2.3.7)
$(RELEASES): $(ENGINES)/../releases/%/ctr:
	@$(TESTBED)/install.sh go
	rm -rf $(@D).new && mkdir -p $(@D).new/module && cd $(@D).new/module && go mod init releases && \
		go get -tool $(patsubst %,github.com/containerd/containerd/v2/cmd/%@v$*,containerd containerd-shim-runc-v2 ctr) && \
		CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags '-s -w' -tags 'no_btrfs no_devmapper no_zfs no_aufs' -o ../ tool
	rm -rf $(@D).new/module $(@D) && mv $(@D).new $(@D)

$(ENGINES)/.moby: $(wildcard integration/engines/current/moby/go.*)
	@$(TESTBED)/install.sh go
	cd integration/engines/current/moby && $(GO_BUILD) -tags 'exclude_graphdriver_btrfs netgo osusergo' tool
	@touch $@

$(ENGINES)/.nerdctl: $(wildcard integration/engines/current/nerdctl/go.*)
	@$(TESTBED)/install.sh go
	cd integration/engines/current/nerdctl && $(GO_BUILD) tool
	@touch $@

# It needs libseccomp, and a program in C of its own that pins namespaces.
CRIO_TAGS := containers_image_openpgp exclude_graphdriver_btrfs btrfs_noversion seccomp
$(ENGINES)/.crio: $(wildcard integration/engines/current/crio/go.*)
	@$(TESTBED)/install.sh go
	cd integration/engines/current/crio && $(subst CGO_ENABLED=0,CGO_ENABLED=1,$(GO_BUILD)) -tags '$(CRIO_TAGS)' tool
	cd integration/engines/current/crio && cc -static -Os -o $(ENGINES)/pinns \
		"$$(go list -m -f '{{.Dir}}' github.com/cri-o/cri-o)"/pinns/src/*.c
	@touch $@

KUBERNETES := $(wildcard integration/engines/current/kubernetes/go.*)
$(ENGINES)/kubelet: $(KUBERNETES)
	@$(TESTBED)/install.sh go
	cd integration/engines/current/kubernetes && $(GO_BUILD) k8s.io/kubernetes/cmd/kubelet

$(ENGINES)/.kubernetes: $(ENGINES)/kubelet $(KUBERNETES)
	cd integration/engines/current/kubernetes && $(GO_BUILD) $(addprefix k8s.io/kubernetes/cmd/, \
		kube-apiserver kube-controller-manager kube-scheduler kubectl)
	cd integration/engines/current/kubernetes && $(GO_BUILD)etcd go.etcd.io/etcd/server/v3
	@touch $@

.PHONY: test-engines
test-engines: ## Docker, Podman, Buildah, containerd, Kubernetes' tests with the runtime, as root
	@$(TESTBED)/install.sh engines
	@$(MAKE) --no-print-directory $(BUILT) $(addprefix $(ENGINES)/., containerd nerdctl)
	@$(TESTBED)/run_tests.py engines engines-v2 debian13

ENGINES_TEST := $(CARGO) test --locked --no-fail-fast --package engines
.PHONY: engines engines-v2 debian13
engines: $(BUILT) $(ENGINES)/.containerd
	RUNTIME=$(TESTED) $(ENGINES_TEST) --test debian --test containerd --test systemd
# A machine of cgroup version 1 has a view of version 2, but without the controllers that limit.
# These ask for no limit; containerd always does, and so does Podman of root.
DOCKER_WITHOUT_LIMITS := compose:: docker::a_daemon docker::privileged docker::the_tutorial docker::users \
	docker::what_cannot docker::what_is_run options::mounts options::s
engines-v2: $(BUILT)
	RUNTIME=$(TESTED) VIEWS=V2 $(ENGINES_TEST) --test debian -- $(DOCKER_WITHOUT_LIMITS) buildah:: podman::a_user

# Today's engines as a distribution sets them up, on one that the runtime boots.
debian13: $(BUILT) $(addprefix $(ENGINES)/., containerd nerdctl)
	RUNTIME=$(TESTED) $(ENGINES_TEST) --test debian13 -- --skip pods::crio

.PHONY: test-shim
test-shim: ## containerd with our shim, by ctr and crictl, as root; ten minutes. SHIM=go: the same with containerd's
	@$(TESTBED)/install.sh engines
	@$(MAKE) --no-print-directory $(BUILT) bin/containerd-shim-ferrun-v2 $(ENGINES)/.containerd
	@$(TESTBED)/run_tests.py shim

.PHONY: test-shim-long
test-shim-long: $(BUILT) ## the shim killed at each of its system calls; 10,000 execs and 2,000 containers in one; ten minutes
	RUNTIME=$(TESTED) $(CARGO) test --locked --no-fail-fast --package integration --test shim_killed --test shim_short -- \
		--ignored --nocapture

.PHONY: test-shim-releases shim-releases
test-shim-releases: ## our shim with containerd 2.0 to 2.3, which it builds; ten minutes
	@$(TESTBED)/install.sh engines
	@$(MAKE) --no-print-directory $(BUILT) $(ENGINES)/.containerd $(RELEASES)
	@$(TESTBED)/run_tests.py shim-releases
shim-releases:
	RUNTIME=$(TESTED) $(ENGINES_TEST) --test shim -- --ignored releases::

# Our shim holds the runtime, and containerd's calls it.
.PHONY: shim current-shim
shim: $(BUILT) bin/containerd-shim-ferrun-v2 $(ENGINES)/.containerd
	RUNTIME=$(TESTED) $(ENGINES_TEST) --test shim
current-shim: bin/containerd-shim-ferrun-v2
	RUNTIME=$(TESTED) $(ENGINES_TEST) --test shim -- --ignored --skip cost:: --skip releases::

.PHONY: test-engines-guest
test-engines-guest: ## the same engines in a virtual machine with cgroup v2 whole; half an hour
	@$(TESTBED)/install.sh engines
	@$(TESTBED)/install.sh guest
	@$(MAKE) --no-print-directory $(BUILT) $(ENGINES)/.containerd
	@$(TESTBED)/run_tests.py engines-guest

# TESTS='docker:: ctr::' runs some of them.
.PHONY: engines-guest
engines-guest: $(BUILT) $(ENGINES)/.containerd
	CARGO="$(CARGO)" $(TESTBED)/guest_engines.py $(TESTED) $(TESTS)

.PHONY: test-systemd
test-systemd: ## limits under systemd's driver by Docker, Podman, containerd and a kubelet, in a virtual Debian 13; half an hour
	@$(TESTBED)/install.sh systemd
	@$(MAKE) --no-print-directory $(BUILT) $(ENGINES)/.containerd $(ENGINES)/kubelet
	@$(TESTBED)/run_tests.py guest-systemd

# RUNTIME=runc is the one of that Debian, TESTS='docker:: pods::' runs some of them, and
# `make test-systemd` all but those of checkpoints.
.PHONY: guest-systemd
guest-systemd: $(BUILT) $(ENGINES)/.containerd $(ENGINES)/kubelet
	CARGO="$(CARGO)" $(TESTBED)/guest_systemd.py $(TESTED) $(TESTS)

.PHONY: test-checkpoint
test-checkpoint: ## images of containers by the runtime, Docker, Podman, containerd and CRI-O, in a virtual Debian 13; an hour
	@$(TESTBED)/install.sh systemd
	@$(MAKE) --no-print-directory $(ENGINES)/.crio $(ENGINES)/../releases/2.3.7/ctr
	@$(MAKE) --no-print-directory guest-systemd TESTS='checkpoint:: $(TESTS)'

.PHONY: test-engines-current
test-engines-current: ## today's containerd, Docker, BuildKit and Kubernetes with the runtime, as root; builds them
	@$(TESTBED)/install.sh engines
	@$(MAKE) --no-print-directory $(BUILT) $(addprefix $(ENGINES)/., containerd moby kubernetes crio)
	@$(TESTBED)/run_tests.py current-containerd current-shim current-buildkit current-docker current-v2 current-crio

.PHONY: current-containerd current-buildkit current-docker current-v2 current-crio
current-containerd:
	RUNTIME=$(TESTED) $(ENGINES_TEST) --test containerd -- --include-ignored
current-buildkit:
	RUNTIME=$(TESTED) ENGINES=$(ENGINES) $(ENGINES_TEST) --test buildkit --test moby
current-docker:
	RUNTIME=$(TESTED) ENGINES=$(ENGINES) $(ENGINES_TEST) --test debian -- docker:: options:: compose:: leaks::
current-crio:
	RUNTIME=$(TESTED) $(ENGINES_TEST) --test debian13 -- pods::crio
current-v2:
	RUNTIME=$(TESTED) ENGINES=$(ENGINES) VIEWS=V2 $(ENGINES_TEST) --test buildkit --test moby
	RUNTIME=$(TESTED) ENGINES=$(ENGINES) VIEWS=V2 $(ENGINES_TEST) --test debian -- $(DOCKER_WITHOUT_LIMITS)

.PHONY: test-guest
test-guest: ## tests in a virtual machine with cgroup v2 whole, AppArmor, SELinux and a resctrl; two minutes, all with ALL=1
	@$(TESTBED)/install.sh guest
	@$(TESTBED)/run_tests.py guest

# What depends on the kernel and its controllers.
GUEST := update events resources devices apparmor selinux intel_rdt exec process seccomp rootless namespaces idmapped lives
.PHONY: guest
guest: $(BUILT)
	CARGO="$(CARGO)" $(TESTBED)/guest.py $(TESTED) $(if $(ALL),,$(GUEST))

# TESTS='seccomp exec' runs some of them.
.PHONY: test-guest-arm64
test-guest-arm64: ## tests on arm64, in a virtual machine; builds for it first
	@$(TESTBED)/install.sh arm64
	CARGO="$(CARGO)" $(TESTBED)/guest_arm64.py $(TESTS)

.PHONY: conformance
conformance: $(BUILT) ## the OCI runtime-tools suite, as root
	cd conformance && go build -buildvcs=false -o work/conformance . && work/conformance -runtime $(TESTED)

.PHONY: fuzz
fuzz: ## fuzz what others write, a minute for each target: fuzz/README.md; gets a nightly Rust
	@$(TESTBED)/install.sh fuzz
	fuzz/run.sh $(or $(SECONDS),60) $(TARGETS)

# BASE=main looks at what has changed since then alone, PARTS="seccomp plan" at some parts.
.PHONY: mutants-all
mutants-all: ## change each expression of the parts that decide, and see a test fail
	@$(TESTBED)/install.sh mutants
	CARGO="$(CARGO)" $(TESTBED)/mutants.py $(if $(BASE),--in-diff $(BASE)) $(PARTS)

.PHONY: bench
bench: ## measure ferrun beside other runtimes, alone and under engines, as root; fifteen minutes
	@$(TESTBED)/install.sh bench
	@$(TESTBED)/install.sh engines
	@$(MAKE) --no-print-directory build $(ENGINES)/.containerd
	@# An engine that fails is cleaned up and left out, which takes unwinding.
	CARGO_PROFILE_RELEASE_PANIC=unwind $(CARGO) run --locked --release --package bench -- \
		--ferrun bin/ferrun --image-tool bin/image-tool $$($(TESTBED)/peers.py | sed 's/^/--runtime /') --output docs
	@# What systemd's driver costs, for docs/cgroups.md.
	RUNTIME=$(CURDIR)/bin/ferrun $(ENGINES_TEST) --test debian13 -- --ignored --nocapture
	@$(MAKE) --no-print-directory bench-shim

.PHONY: bench-shim
bench-shim: $(BUILT) $(ENGINES)/.containerd ## measure the shim beside containerd's, as root; ten minutes
	RUNTIME=$(CURDIR)/bin/ferrun SHIM_COSTS=$(CURDIR)/target/shim-costs.json $(ENGINES_TEST) --test shim -- \
		--ignored --nocapture cost::
	$(CARGO) run --locked --package bench -- --shims target/shim-costs.json docs

.PHONY: text-order
text-order: ## put the functions of ferrun in the order in which commands use them, as root
	$(CARGO) --config 'profile.release.package.ferrun.strip=false' build --locked --release --package ferrun \
		--target $(MUSL) --target-dir target/text-order
	$(TESTBED)/text_order.py target/text-order/$(MUSL)/release/ferrun

.PHONY: man
man: ## man pages and shell completions, from the command lines' own definitions
	$(CARGO) run --locked --package manual

PREFIX ?= /usr/local
INSTALLED = bin/ferrun bin/containerd-shim-ferrun-v2 bin/image-tool \
	$(patsubst man/%,share/man/man1/%,$(wildcard man/*.1)) $(patsubst man/%,share/man/man8/%,$(wildcard man/*.8)) \
	$(addprefix share/bash-completion/completions/,ferrun image-tool) \
	$(addprefix share/zsh/site-functions/,_ferrun _image-tool) \
	$(addprefix share/fish/vendor_completions.d/,ferrun.fish image-tool.fish) \
	$(addprefix share/doc/ferrun/,LICENSE README.md CHANGELOG.md) \
	lib/systemd/system/run-ferrun_bin.mount

.PHONY: install
install: ## what make has built below PREFIX (/usr/local), with man pages and completions; DESTDIR before it
	@test -x bin/ferrun -a -x bin/containerd-shim-ferrun-v2 -a -x bin/image-tool || { echo 'make install: nothing is built yet: run make first' >&2; exit 1; }
	install -D --target-directory=$(DESTDIR)$(PREFIX)/bin bin/ferrun bin/containerd-shim-ferrun-v2 bin/image-tool
	install -D --mode=644 --target-directory=$(DESTDIR)$(PREFIX)/share/man/man1 man/*.1
	install -D --mode=644 --target-directory=$(DESTDIR)$(PREFIX)/share/man/man8 man/*.8
	for program in ferrun image-tool; do \
		install -D --mode=644 packaging/completions/$$program.bash \
			$(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$program || exit; \
	done
	install -D --mode=644 --target-directory=$(DESTDIR)$(PREFIX)/share/zsh/site-functions packaging/completions/_*
	install -D --mode=644 --target-directory=$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d packaging/completions/*.fish
	install -D --mode=644 --target-directory=$(DESTDIR)$(PREFIX)/share/doc/ferrun LICENSE README.md CHANGELOG.md
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's:/usr/bin:$(PREFIX)/bin:' packaging/systemd/run-ferrun_bin.mount \
		>$(DESTDIR)$(PREFIX)/lib/systemd/system/run-ferrun_bin.mount
	chmod 644 $(DESTDIR)$(PREFIX)/lib/systemd/system/run-ferrun_bin.mount

.PHONY: uninstall
uninstall: ## remove what make install has put there
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,$(INSTALLED))
	-rmdir $(DESTDIR)$(PREFIX)/share/doc/ferrun

# What a release is made of: RELEASING.md.
RELEASE := packaging/release.py
ARCHITECTURES := amd64 arm64

.PHONY: deb
deb: ## Debian packages for amd64 and arm64, in dist/
	@$(TESTBED)/install.sh packages
	$(RELEASE) build $(ARCHITECTURES)
	$(RELEASE) notices
	$(RELEASE) deb $(ARCHITECTURES)

.PHONY: test-packages
test-packages: deb ## the packages of this machine's architecture used in fresh Debian 12 and 13, as root
	@$(TESTBED)/install.sh debian13
	$(TESTBED)/packages.py

# STEPS='13 told demo' makes some of them.
.PHONY: test-fresh
test-fresh: ## README's two commands in fresh Debian 12 and 13, as root and as a user; two hours
	@$(TESTBED)/install.sh debian13
	$(TESTBED)/fresh.py $(STEPS)

.PHONY: reproducible
reproducible: ## all of a release for this machine's architecture, twice in two places, once without a network
	@$(TESTBED)/install.sh packages
	$(TESTBED)/reproducible.py

.PHONY: dist
dist: deb ## all that a release is made of, in dist/
	$(RELEASE) tarball $(ARCHITECTURES)
	$(RELEASE) source
	$(RELEASE) sums

.PHONY: clean
clean: ## remove what was built and fetched
	rm -rf bin dist target conformance/work testbed/cache testbed/__pycache__

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile
