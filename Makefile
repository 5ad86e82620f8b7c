# Larder's tasks. CI calls the same targets. Everything needs Rust, a C compiler and make, nothing else.

CARGO ?= cargo
.DEFAULT_GOAL := list
.PHONY: list demo test lint bench bench-peers audit clean

list:  ## print this list
	@sed -n 's/^\([a-z-]*\):  *## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

demo:  ## build, then show the main job on real data
	$(CARGO) build --release --quiet --workspace
	$(CARGO) run --release --quiet --example demo

test:  ## the whole suite: unit, integration, command line, examples, doc tests
	$(CARGO) test --workspace --all-features --no-fail-fast

lint:  ## formatting, clippy, docs, and licences where cargo-deny is installed
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --all-features
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny --locked check licenses bans sources; \
	else \
		echo "lint: cargo-deny is not installed; licences and bans were left out"; \
	fi

bench:  ## the benchmarks; ARGS="get" runs those whose name contains it
	$(CARGO) bench --bench tree -- $(ARGS)
	$(CARGO) bench --bench memory --features memory

bench-peers:  ## Larder beside its peers in one table; ARGS="--quick", ARGS="--help"
	$(CARGO) run --release --quiet --manifest-path benches/peers/Cargo.toml -- $(ARGS)

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
