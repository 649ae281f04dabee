# What to type. Each target installs what it needs and does not find (packaging/deps), on Debian-like and Fedora-like
# systems; it asks for root only then.

PREFIX = /usr
SYSCONFDIR = /etc
DESTDIR =
# One scenario of tests/vm by name, one Debian suite, one security module; empty: all of them, or what make test wants.
SCENARIO =
HOST =
LSM =
# One target of tests/fuzz by name; empty: all of them.
TARGET =
# What make release-check does: the suite of its root, and one of README's commands; empty: both.
SUITE = bookworm
COMMAND =

# Where the programs are taken from, so that one release build serves tests, package and installation.
BUILT = $(or $(CARGO_TARGET_DIR),target)/release

PROGRAMS = virt-mdev virt-mdev-hook
# Where udev looks for programs that its rules name without a path.
UDEV_PROGRAM = virt-mdev-udev
UDEV_RULES = 60-virt-mdev.rules
MANUALS = $(wildcard packaging/man/*.[1-9])
UNITS = $(wildcard packaging/systemd/*)
TMPFILES = packaging/tmpfiles/virt-mdev.conf
SCHEMAS = $(wildcard packaging/schema/*.json)
DOCUMENTS = $(wildcard README.md docs/*.md)
# Where bash, zsh and fish look for what packages bring; Debian keeps its zsh's own functions apart.
BASH_DIR = $(PREFIX)/share/bash-completion/completions
ZSH_DIR = $(PREFIX)/share/zsh/$(if $(wildcard /etc/debian_version),vendor-completions,site-functions)
FISH_DIR = $(PREFIX)/share/fish/vendor_completions.d
HOOKS_DIR = $(SYSCONFDIR)/libvirt/hooks/qemu.d
UNITS_DIR = $(PREFIX)/lib/systemd/system
TMPFILES_DIR = $(PREFIX)/lib/tmpfiles.d
UDEV_DIR = $(PREFIX)/lib/udev

# The Debian version is upstream's, a dash and the package's revision.
VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml | head -n 1)
DEB_VERSION := $(shell sed -n '1s/.*(\(.*\)).*/\1/p' packaging/debian/changelog)
DEB_ARCH := $(shell dpkg --print-architecture 2>/dev/null || uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
DEB = target/package/virt-mdev_$(DEB_VERSION)_$(DEB_ARCH).deb
TARBALL = target/dist/virt-mdev-$(VERSION).tar.xz
PACKAGE_DATE := $(shell packaging/date)
MAINTAINER := $(shell sed -n 's/^Maintainer: //p' packaging/debian/control)
# The rpm and Arch packages are built from the tarball; with VIRT_MDEV_BUILT=DIR the programs are taken from there.
VIRT_MDEV_BUILT =
RPMBUILD = rpmbuild
CLEAN_ENV = env -u MAKEFLAGS -u MFLAGS -u MAKEOVERRIDES -u VIRT_MDEV_BUILT SOURCE_DATE_EPOCH=$(PACKAGE_DATE)

# rustup's directory: a shell that is no login shell may not have it.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

# A workspace of its own: what only tests need is not in the lock file of the programs.
EMULATOR = --manifest-path tests/emulator/Cargo.toml
EMULATOR_CARGO = CARGO_TARGET_DIR=tests/emulator/target cargo
# So is libFuzzer, which clippy does not need; everything else in there is what the product's tests have, too.
GUIDED = --manifest-path tests/fuzz/guided/Cargo.toml

.DEFAULT_GOAL := build
# Two cargos, or two virtual machines, would only wait for each other.
.NOTPARALLEL:
.PHONY: help build check test fuzz test-emulator test-vm test-vm-all soak bench demo demo-vm deny release-check package lint-package dist rpm arch test-packages selinux install uninstall clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  make %-14s %s\n", $$1, $$2 }'

build: deps-build ## the release build
	packaging/build

check: deps-build deps-check ## formatting, lints, unit and case tests, shell files: under a minute
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	$(EMULATOR_CARGO) fmt $(EMULATOR) --check
	$(EMULATOR_CARGO) clippy $(EMULATOR) --all-targets --locked -- -D warnings
	cargo fmt $(GUIDED) --check
	CARGO_TARGET_DIR=target cargo clippy $(GUIDED) --no-default-features --locked -- -D warnings
	cargo test --locked --quiet
	packaging/crates
	@if udevadm verify --help >/dev/null 2>&1; then \
	    udevadm verify --resolve-names=never udev-rules/$(UDEV_RULES); \
	else \
	    echo "udev rules: not verified, that needs udevadm of systemd 254 or newer"; \
	fi
	@if command -v groff >/dev/null; then \
	    ! groff -ww -mdoc -Tutf8 -z $(MANUALS) 2>&1 | grep .; \
	else \
	    echo "manual pages: not verified, this system has no groff"; \
	fi
	shellcheck $$(packaging/tree --list | xargs -d '\n' awk 'FNR == 1 { if (/^#!.*[\/ ](ba)?sh$$/ || FILENAME ~ /\.sh$$/) print FILENAME; nextfile }')

test: check fuzz test-emulator selinux test-packages test-vm ## everything: check, hostile input, emulated host, SELinux, packages, real host

# Without MINUTES the same input each time: what is found by chance must not stop somebody else's change.
fuzz: deps-build $(if $(MINUTES),deps-fuzz) ## hostile input for every reader, twelve seconds each (MINUTES=n: libFuzzer, n minutes each; TARGET=name: only that)
	$(if $(MINUTES),tests/fuzz/guided/run $(MINUTES) $(TARGET),FUZZ_SEED=1 FUZZ_MINUTES=0.2 FUZZ_TARGETS='$(TARGET)' \
	    cargo test --locked --quiet --test fuzz -- --nocapture $(if $(TARGET),--exact names $(TARGET)))

# With names: the package that this machine has just built. Without: one that was built in a root of each suite.
test-vm: package selinux deps-vm $(if $(SCENARIO),,dist) ## scenarios on real hosts (HOST=bookworm|trixie|sid|modular LSM=apparmor|selinux SCENARIO=name)
	tests/vm/run $(addprefix --on ,$(HOST)) $(addprefix --,$(LSM)) $(SCENARIO)

test-vm-all: package selinux dist deps-vm ## all scenarios on each of the hosts: hours
	tests/vm/run --everywhere

soak: package deps-vm ## random kills, starts and stops, migrations, on real hosts, many times as many as in make test: hours (SOAK=n: n times)
	SOAK=$(or $(SOAK),200) tests/vm/run soak cycles migrate

DEMO = cd tests/demo && ../emulator/target/release/virt-mdev-emulator --host ../emulator/hosts/mixed.toml -- ./show $(abspath $(BUILT))
test-emulator: build deps-emulator ## the emulated host's own tests, and the programs on it
	VIRT_MDEV_BUILT=$(abspath $(BUILT)) $(EMULATOR_CARGO) test $(EMULATOR) --release --locked --quiet
	@($(DEMO)) >target/demo.log 2>&1 || { cat target/demo.log; exit 1; }
	@echo "demo: as it should be"

# Times are ratios between programs that run in turns; the counts alone are also a test of make test-emulator.
bench: build deps-emulator ## what the programs cost, beside mdevctl and other hooks: a table, and target/bench.json (CHECK=1: judged)
	VIRT_MDEV_BUILT=$(abspath $(BUILT)) $(EMULATOR_CARGO) test $(EMULATOR) --release --locked --quiet --test bench -- \
	    --times --json $(abspath target/bench.json) $(if $(CHECK),--check)

demo: build ## a domain's life on an emulated host, shown; needs root, or user namespaces
	$(EMULATOR_CARGO) build $(EMULATOR) --release --locked --quiet
	@$(DEMO)

demo-vm: package deps-vm ## a domain's life on the real host, shown
	tests/vm/run --demo

deny: deps-build ## what the crates may be, and what is known of them
	packaging/deny

release-check: deny deps-vm ## README's two commands, typed on a bare Debian root: hours (SUITE=trixie COMMAND='make demo' CACHE=DIR)
	CACHE='$(CACHE)' packaging/readme-in $(SUITE) $(if $(COMMAND),'$(COMMAND)')

package: deps-package $(DEB) ## the Debian package, in target/package
	@echo $(DEB)

lint-package: package ## what lintian says of the package
	@if command -v lintian >/dev/null; then \
	    lintian --allow-root --fail-on error,warning $(DEB) && echo "lintian: nothing to say"; \
	else \
	    echo "lintian: skipped, this system has none"; \
	fi

# One of the formats builds the programs from the tarball, without a network; the others take those that are there.
test-packages: VIRT_MDEV_BUILT =
test-packages: RPMBUILD = unshare --user --map-root-user --net rpmbuild
test-packages: deps-life lint-package rpm ## all three formats: built offline, file lists, checkers, twice the same
	@$(MAKE) --no-print-directory -o dist arch VIRT_MDEV_BUILT=$(abspath $(BUILT))
	@packaging/test $(abspath $(BUILT))

# The headers' makefile writes beside its sources. NAME only keeps it from asking the system for the policy's name.
selinux: deps-selinux ## the SELinux policy module, target/selinux/virt_mdev.pp; installed by nobody but you
	@rm -rf target/selinux
	@install -D -m 0644 -t target/selinux packaging/selinux/*
	$(CLEAN_ENV) make --no-print-directory -C target/selinux -f /usr/share/selinux/devel/Makefile NAME=default virt_mdev.pp

# cargo decides whether there is anything to build; make then compares the times of the files, so that an unchanged
# program does not make a new package.
$(addprefix $(BUILT)/,$(PROGRAMS) $(UDEV_PROGRAM)): build
	@:

$(DEB): $(addprefix $(BUILT)/,$(PROGRAMS) $(UDEV_PROGRAM)) Makefile $(wildcard LICENSE-* packaging/THIRD-PARTY-NOTICES CHANGELOG.md $(DOCUMENTS)) \
        $(shell find packaging -type f) udev-rules/$(UDEV_RULES)
	@case $(DEB_VERSION) in $(VERSION)-*) ;; \
	    *) echo "packaging/debian/changelog says $(DEB_VERSION), Cargo.toml says $(VERSION)" >&2; exit 1;; esac
	rm -rf target/package
	packaging/tree target/package/virt-mdev-$(VERSION)
	cp -R --preserve=mode packaging/debian target/package/virt-mdev-$(VERSION)/debian
	cd target/package/virt-mdev-$(VERSION) && \
	    $(CLEAN_ENV) VIRT_MDEV_BUILT=$(abspath $(BUILT)) \
	    dpkg-buildpackage --build=binary --no-check-builddeps --no-sign >../build.log 2>&1 || { cat ../build.log; exit 1; }

dist: deps-dist ## the source with all crates, from which packages are built offline: target/dist/virt-mdev-VERSION.tar.xz
	packaging/dist target/dist

# On a system that is no rpm one, its database cannot know what is installed: --nodeps. The tests have run in "make check"
# and are left to those who build elsewhere: --nocheck. Neither this host's name nor the time is to be in the package.
rpm: deps-rpm dist ## the rpm packages, in target/rpm, built from that tarball
	rm -rf target/rpm
	install -D -m 0644 -t target/rpm/SOURCES $(TARBALL)
	install -D -m 0644 -t target/rpm/SPECS packaging/rpm/virt-mdev.spec
	touch --date=@$(PACKAGE_DATE) target/rpm/SOURCES/* target/rpm/SPECS/*
	@$(CLEAN_ENV) VIRT_MDEV_BUILT=$(VIRT_MDEV_BUILT) $(RPMBUILD) -ba --nocheck $(if $(wildcard /etc/debian_version),--nodeps) \
	    --define '_topdir $(abspath target/rpm)' --define '_buildhost reproducible' \
	    --define 'use_source_date_epoch_as_buildtime 1' --define 'clamp_mtime_to_source_date_epoch 1' \
	    target/rpm/SPECS/virt-mdev.spec >target/rpm/build.log 2>&1 || { cat target/rpm/build.log; exit 1; }
	@ls target/rpm/RPMS/*/*.rpm target/rpm/SRPMS/*.rpm

# makepkg does not run as root; in a name space of its own root can be somebody else without giving away any file.
# --nodeps: on a system that is no Arch, pacman does not know what is installed. --nocheck: as for rpm.
arch: deps-arch dist ## the Arch package, in target/arch, built from that tarball
	rm -rf target/arch
	install -D -m 0644 -t target/arch $(TARBALL) packaging/arch/PKGBUILD
	sed -e '/^#FUNCTIONS#$$/{r packaging/scripts/functions.sh' -e 'd}' packaging/arch/virt-mdev.install >target/arch/virt-mdev.install
	@cd target/arch && $(CLEAN_ENV) VIRT_MDEV_BUILT=$(VIRT_MDEV_BUILT) PKGEXT=.pkg.tar.zst PKGDEST=$(abspath target/arch) \
	    BUILDDIR=$(abspath target/arch) SRCDEST=$(abspath target/arch) PACKAGER='$(MAINTAINER)' \
	    $(if $(filter 0,$(shell id -u)),unshare --user --map-user=1000 --map-group=1000) \
	    makepkg --nodeps --nocheck --force --noprogressbar >build.log 2>&1 || { cat build.log; exit 1; }
	@ls target/arch/*.pkg.tar.zst

install: ## into DESTDIR, below PREFIX=/usr and SYSCONFDIR=/etc (libvirtd's AppArmor profile wants /usr/bin)
	@test -x $(BUILT)/virt-mdev-hook || $(MAKE) build
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(HOOKS_DIR) $(DESTDIR)$(SYSCONFDIR)/virt-mdev
	install -m 0755 $(addprefix $(BUILT)/,$(PROGRAMS)) $(DESTDIR)$(PREFIX)/bin
	ln -sfn $(PREFIX)/bin/virt-mdev-hook $(DESTDIR)$(HOOKS_DIR)/50-virt-mdev
	test -e $(DESTDIR)$(SYSCONFDIR)/virt-mdev/config.toml || \
	    install -m 0644 packaging/config.toml $(DESTDIR)$(SYSCONFDIR)/virt-mdev/config.toml
	install -D -m 0755 -t $(DESTDIR)$(UDEV_DIR) $(BUILT)/$(UDEV_PROGRAM)
	install -D -m 0644 -t $(DESTDIR)$(UDEV_DIR)/rules.d udev-rules/$(UDEV_RULES)
	test $(UDEV_DIR) = /usr/lib/udev || \
	    sed -i 's|"$(UDEV_PROGRAM)|"$(UDEV_DIR)/$(UDEV_PROGRAM)|' $(DESTDIR)$(UDEV_DIR)/rules.d/$(UDEV_RULES)
	install -D -m 0644 -t $(DESTDIR)$(UNITS_DIR) $(UNITS)
	sed -i 's|/usr/bin/|$(PREFIX)/bin/|' $(addprefix $(DESTDIR)$(UNITS_DIR)/,$(filter %.service,$(notdir $(UNITS))))
	install -D -m 0644 -t $(DESTDIR)$(TMPFILES_DIR) $(TMPFILES)
	for manual in $(MANUALS); do \
	    install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/man/man$${manual##*.} $$manual || exit; done
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/virt-mdev/schema $(SCHEMAS)
	install -D -m 0644 packaging/completions/virt-mdev.bash $(DESTDIR)$(BASH_DIR)/virt-mdev
	install -D -m 0644 -t $(DESTDIR)$(ZSH_DIR) packaging/completions/_virt-mdev
	install -D -m 0644 -t $(DESTDIR)$(FISH_DIR) packaging/completions/virt-mdev.fish
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/virt-mdev packaging/THIRD-PARTY-NOTICES
	for document in $(DOCUMENTS); do \
	    install -D -m 0644 $$document $(DESTDIR)$(PREFIX)/share/doc/virt-mdev/$$document || exit; done
	@test -n "$(DESTDIR)" || printf '%s\n' "A libvirt daemon that runs already sees the hook after:" \
	    "    virt-mdev doctor --fix" \
	    "or  kill -HUP \$$(cat /run/libvirtd.pid) && touch /run/virt-mdev.told   (or virtqemud)" \
	    "Devices that could not be removed at once are tried again after:" \
	    "    systemctl daemon-reload && systemctl enable --now $(filter-out %@.service,$(notdir $(UNITS)))"

uninstall: ## what install put there; a changed configuration stays
	@test -n "$(DESTDIR)" || ! command -v systemctl >/dev/null || \
	    systemctl --quiet disable --now $(filter-out %@.service,$(notdir $(UNITS))) 2>/dev/null || true
	rm -f $(addprefix $(DESTDIR)$(UNITS_DIR)/,$(notdir $(UNITS))) $(DESTDIR)$(TMPFILES_DIR)/$(notdir $(TMPFILES))
	rm -f $(DESTDIR)$(UDEV_DIR)/rules.d/$(UDEV_RULES) $(DESTDIR)$(UDEV_DIR)/$(UDEV_PROGRAM)
	rm -f $(DESTDIR)$(HOOKS_DIR)/50-virt-mdev $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(PROGRAMS))
	for manual in $(notdir $(MANUALS)); do rm -f $(DESTDIR)$(PREFIX)/share/man/man$${manual##*.}/$$manual; done
	rm -f $(DESTDIR)$(BASH_DIR)/virt-mdev $(DESTDIR)$(ZSH_DIR)/_virt-mdev $(DESTDIR)$(FISH_DIR)/virt-mdev.fish
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/virt-mdev $(DESTDIR)$(PREFIX)/share/virt-mdev
	! cmp -s packaging/config.toml $(DESTDIR)$(SYSCONFDIR)/virt-mdev/config.toml || \
	    rm $(DESTDIR)$(SYSCONFDIR)/virt-mdev/config.toml
	-rmdir --ignore-fail-on-non-empty $(DESTDIR)$(SYSCONFDIR)/virt-mdev $(DESTDIR)$(HOOKS_DIR)

clean: ## all that was built
	cargo clean
	$(EMULATOR_CARGO) clean $(EMULATOR)

deps-%:
	@packaging/deps $*
