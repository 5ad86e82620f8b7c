# Larder's tasks. CI calls the same targets. Everything needs Rust, a C compiler and make, nothing else,
# but for tests of stores on servers, which need those.

CARGO ?= cargo
.DEFAULT_GOAL := list
.PHONY: dist gallery wheels bench-python python python-django servers list demo test lint bench bench-traces bench-peers bench-remote fuzz soak mutants audit clean bench-gates sanitize

list:  ## print this list
	@sed -n 's/^\([a-z-]*\):  *## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

demo:  ## build, then show the main job on real data
	$(CARGO) build --release --workspace
	$(CARGO) run --release --quiet --example demo

servers:  ## install the servers that tests start, where apt-get may
	@.ci/servers

test: servers  ## the whole suite: unit, integration, command line, examples, doc tests
	$(CARGO) test --workspace --all-features --no-fail-fast

python:  ## build the Python package in a virtual environment below target/ and test it; ARGS="-k django"
	@.ci/python test $(ARGS)

wheels:  ## the Python wheel of this platform, with cachectl, tried in an empty virtual environment, and the sdist
	@.ci/python wheels

bench-python:  ## the Python package beside LocMem, FileBasedCache, diskcache, Redis and Memcached; ARGS="--quick"
	@.ci/python bench $(ARGS)

python-django:  ## Django's own tests of caches, sessions and pages under Larder, for Django 5.2 and 6.1
	@.ci/python django

dist:  ## cachectl for machines without Rust, in target/dist: tar, .deb, manual pages, completions
	@.ci/dist

gallery:  ## what docs/CACHECTL.md shows, printed anew
	GALLERY=write cargo test -p cachectl --test it gallery

lint:  ## formatting, clippy, docs, and licences where cargo-deny is installed
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	$(CARGO) clippy --package larder -- -D warnings
	$(CARGO) clippy --package larder --features memory -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --all-features
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny --locked check licenses bans sources; \
	else \
		echo "lint: cargo-deny is not installed; licences and bans were left out"; \
	fi

package:  ## what would be published: the package alone, docs as docs.rs builds them, oldest dependencies, oldest Rust
	@.ci/package

bench:  ## the benchmarks; ARGS="get" runs those whose name contains it
	$(CARGO) bench --bench tree -- $(ARGS)
	$(CARGO) bench --bench memory --features memory

bench-traces:  ## miss ratios on access traces, from the folder TRACES=; ARGS="lfu" adds a policy
	$(CARGO) bench --bench traces -- $(ARGS)

bench-peers:  ## Larder beside its peers in one table; ARGS="--quick", ARGS="--help"
	$(CARGO) run --release --quiet --manifest-path benches/peers/Cargo.toml -- $(ARGS)

# The sanitizer that cargo-fuzz builds with needs a nightly compiler, or a stable one that is told to act as such. What
# is found goes to fuzz/artifacts, new inputs of interest below target; those worth keeping are moved to fuzz/corpus.
TARGET ?= entry marker names units operations
MINUTES ?= 5
fuzz:  ## the fuzzers for MINUTES=5 each, or one of them: TARGET=entry
	@$(CARGO) fuzz --version >/dev/null 2>&1 || \
		{ echo "fuzz: needs cargo-fuzz: cargo install cargo-fuzz --locked" >&2; exit 1; }
	@set -e; for target in $(TARGET); do \
		mkdir -p target/fuzz-corpus/$$target; \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target target/fuzz-corpus/$$target fuzz/corpus/$$target -- \
			-max_total_time=$$(($(MINUTES) * 60)) -max_len=16384 -timeout=10 -print_final_stats=1; \
	done

soak:  ## all campaigns at length, with random seeds and a table of counts: MINUTES=60
	@.ci/soak $(MINUTES)

# As with fuzzing, a stable compiler is told to act as a nightly one, whose sanitizer it has. Miri it lacks.
sanitize:  ## unit tests and models under AddressSanitizer, and the pure modules in Miri where that is installed
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" $(CARGO) test --all-features --lib \
		--target $$(rustc -vV | sed -n 's/^host: //p') --target-dir target/sanitize
	@if $(CARGO) miri --version >/dev/null 2>&1; then \
		$(CARGO) miri test --lib -- format:: indexed::index::table policy:: units::tests; \
	else \
		echo "sanitize: Miri is not installed; it was left out"; \
	fi

mutants:  ## mutation testing of tree and cull code; ARGS="--shard 0/8", ARGS="--iterate" (see .cargo/mutants.toml)
	@$(CARGO) mutants --version >/dev/null 2>&1 || \
		{ echo "mutants: needs cargo-mutants: cargo install cargo-mutants --locked" >&2; exit 1; }
	$(CARGO) mutants $(ARGS)
bench-gates:  ## each figure that Larder is held to, with its verdict; ARGS="--quick", ARGS="--help"
	$(CARGO) run --release --quiet --manifest-path benches/peers/Cargo.toml -- gates $(ARGS)

bench-remote: servers  ## Larder on Redis and Memcached beside the bare clients; ARGS="--quick"
	$(CARGO) run --release --quiet --manifest-path benches/peers/Cargo.toml -- remote $(ARGS)

audit:  ## known vulnerabilities, from the database that `cargo deny fetch db` or cargo-audit left
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny --offline check advisories; \
	elif $(CARGO) audit --version >/dev/null 2>&1; then \
		$(CARGO) audit --no-fetch; \
	else \
		echo "audit: neither cargo-deny nor cargo-audit is installed; nothing was checked" >&2; exit 1; \
	fi

clean:  ## remove what was built
	$(CARGO) clean
	$(CARGO) clean --manifest-path benches/peers/Cargo.toml
	$(CARGO) clean --manifest-path fuzz/Cargo.toml
	$(CARGO) clean --manifest-path python/Cargo.toml --target-dir target/python
