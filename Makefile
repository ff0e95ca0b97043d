# Builds, tests and installs imgmount. Start with `make demo`.

CARGO   ?= cargo
PREFIX  ?= /usr/local
DESTDIR ?=
BENCH   ?=
SOAK_SECONDS ?= 3600
KILLS   ?= 1000
LIMITS ?= all FUZZ ?=
FUZZ_SECONDS ?= 60
FUZZ_SANITIZER ?= none

bindir  = $(DESTDIR)$(PREFIX)/bin
datadir = $(DESTDIR)$(PREFIX)/share
mandir  = $(datadir)/man/man1
program = target/release/imgmount

completions = \
	$(datadir)/bash-completion/completions/imgmount \
	$(datadir)/zsh/site-functions/_imgmount \
	$(datadir)/fish/vendor_completions.d/imgmount.fish

.PHONY: build deps demo test random soak limits fuzz bench lint recording dist test-dist install uninstall clean

build:
	$(CARGO) build --release --locked

# Shows the main commands on a small image that it creates.
demo:
	scripts/deps.sh demo
	$(CARGO) build --release --locked --bins --example sample_image
	scripts/demo.sh target/release

# Lists the missing packages that `make test` needs, and installs them with apt-get.
deps:
	scripts/deps.sh test

# All checks for a change. Tests that need a missing tool print SKIPPED; if CI is set in the environment,
# they fail instead.
test: deps
	$(MAKE) lint
	$(CARGO) build --locked --bins --example sample_image
	scripts/demo.sh target/debug
	$(CARGO) test --locked
	$(if $(CI),$(CARGO) test --locked --no-default-features)
	scripts/policy.sh
	$(if $(CI),$(MAKE) random)

# Runs the random tests with a random seed and prints it. `IMGMOUNT_TEST_SEED=N make random` repeats a run.
random_tests = blob:: faulty:: glob:: kills:: matrix:: mutations:: overlay:: path:: random:: seekable:: soak:: streams::
random:
	IMGMOUNT_TEST_SEED=$${IMGMOUNT_TEST_SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')} \
		$(CARGO) test --locked --lib --test it -- $(random_tests)

# Reads from mounts for an hour while sources, caches and servers fail at random, with a random seed. `make test`
# runs the same test for a few seconds. SOAK_SECONDS=N sets another length; IMGMOUNT_SOAK_LOGS=DIR keeps the logs of a failure.
soak:
	IMGMOUNT_SOAK_SECONDS=$(SOAK_SECONDS) \
		IMGMOUNT_TEST_SEED=$${IMGMOUNT_TEST_SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')} \
		$(CARGO) test --locked --test it -- soak::

# Runs every command on hostile images of at most 10 MB, and prints the time and the memory that each command needs.
# Takes an hour. LIMITS=NAME,NAME selects images; tests/it/limits/hostile.rs lists them.
limits:
	$(CARGO) build --release --locked
	IMGMOUNT_LIMITS=$(LIMITS) IMGMOUNT_LIMITS_PROGRAM=$(program) \
		$(CARGO) test --locked --test it -- limits::sweep --nocapture the fuzz targets one after the other, a minute each; needs cargo-fuzz and a nightly compiler. FUZZ=NAME selects
# targets, FUZZ_SECONDS=N another time, FUZZ_SANITIZER=address checks memory. See docs/fuzzing.md.
fuzz:
	scripts/fuzz.sh "$(FUZZ_SECONDS)" "$(FUZZ_SANITIZER)" $(FUZZ)

# Kills the program 1,000 times at random moments, with a random seed, and checks what the next run finds.
# `make test` does it a few times. KILLS=N sets another number.
kills:
	IMGMOUNT_KILLS=$(KILLS) \
		IMGMOUNT_TEST_SEED=$${IMGMOUNT_TEST_SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')} \
		$(CARGO) test --locked --test it -- kills::

# Compares imgmount with other programs and with its goals; see docs/performance.md. BENCH=--quick takes a few
# minutes; BENCH=--help lists all options.
bench:
	scripts/deps.sh bench
	$(CARGO) build --release --locked
	$(CARGO) bench --locked --bench peers -- $(BENCH)

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	for features in "" cli fuse registry; do \
		$(CARGO) clippy --locked --all-targets --no-default-features --features "$$features" -- -D warnings || exit; \
	done
	for features in --all-features --no-default-features; do \
		RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' \
			$(CARGO) doc --locked --no-deps --lib "$$features" --document-private-items || exit; \
		RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --lib "$$features" || exit; \
	done

# Records a terminal session on the sample image as docs/recording.svg, for the README.
recording:
	$(CARGO) build --locked --bins --example sample_image
	scripts/record.py target/debug > docs/recording.svg.new
	mv docs/recording.svg.new docs/recording.svg

# Writes packages to target/dist: a tarball with a static binary, and a .deb. See scripts/dist.sh.
dist:
	scripts/deps.sh dist
	scripts/dist.sh

# Tests what `make dist` has written: the binary in an empty root directory, the .deb in a fresh Debian. Needs root.
test-dist:
	scripts/deps.sh dist
	scripts/test-dist.sh

# Installs what `make build` has built. It does not build, so that cargo need not run as root.
install:
	@test -x $(program) || { echo "run 'make build' first" >&2; exit 1; }
	install -D -m 755 $(program) $(bindir)/imgmount
	install -d $(dir $(completions))
	$(program) completions bash > $(word 1,$(completions))
	$(program) completions zsh > $(word 2,$(completions))
	$(program) completions fish > $(word 3,$(completions))
	install -d $(mandir)
	$(program) man $(mandir)

uninstall:
	rm -f $(bindir)/imgmount $(completions) $(mandir)/imgmount.1 $(mandir)/imgmount-*.1

clean:
	$(CARGO) clean
