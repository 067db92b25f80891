# Everything that is done with DriftDB's sources. Rust and make are enough for `build`, `test` and `demo`.

CARGO ?= cargo
PYTHON ?= python3
# Cargo.lock is committed: what was tested is what is built.
LOCKED := --locked

.DEFAULT_GOAL := help
.PHONY: help build test bench bench-history demo clients fmt clippy doc ci soak clean

help: ## Lists these targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Builds driftdb-writer, driftdb-reader and driftctl into target/release.
	$(CARGO) build $(LOCKED) --release --workspace --bins

# One build for the tests and for the daemons that they start.
test: ## Runs every test.
	$(CARGO) build $(LOCKED) --workspace --bins --tests --examples
	$(CARGO) test $(LOCKED) --workspace

demo: build ## Shows what DriftDB does, on 10,000 generated orders.
	target/release/driftctl demo

bench: build ## Measures, and prints one line of JSON a figure.
	target/release/driftctl bench

# Takes some minutes, and 8 GB of disk.
bench-history: build ## Measures histories of 1,000,000 and of 10,000,000 events, side by side.
	target/release/driftctl bench --phases echo,history --history 1000000,10000000

clients: ## Uses the daemons from Python (needs python3 with venv) and Node (skipped where it is not there).
	PYTHON=$(PYTHON) CARGO=$(CARGO) tests/clients/python/run.sh
	CARGO=$(CARGO) tests/clients/node/run.sh

fmt: ## Formats the sources.
	$(CARGO) fmt --all

clippy: ## Lints, warnings being errors.
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings

doc: ## Builds the documentation of the sources, warnings being errors.
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --workspace --no-deps

ci: ## Runs all that must pass before a change is merged.
	.ci/run

# The same promises as `test`, over many more cases.
soak: build ## Runs the long tests.
	DRIFTDB_SOAK=1 $(CARGO) test $(LOCKED) --release --workspace -- --include-ignored

clean: ## Removes what was built.
	$(CARGO) clean
