# Everything that you can do with DriftDB's sources. `build`, `test` and `demo` need only Rust, make and a C compiler.

CARGO ?= cargo
PYTHON ?= python3
# Build exactly the versions in Cargo.lock, which are the tested ones.
LOCKED := --locked
# The profile in which the demo is built: `make demo PROFILE=dev` uses what the tests have compiled already.
PROFILE ?= release
# Cargo reads the same variable. It may name a directory outside of the sources.
TARGET := $(or $(CARGO_TARGET_DIR),$(CARGO_BUILD_TARGET_DIR),target)
# The tests, and the programs that they start, compiled together: cargo then compiles each crate once for both.
TESTS := --workspace --bins --tests --examples

.DEFAULT_GOAL := help
.PHONY: help build test test-quick test-parquet planted soak bench bench-history bench-growth bench-counts demo clients clients-python clients-node clients-buckets client-docs fmt clippy doc deny ci clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build driftdb-writer, driftdb-reader and driftctl for release
	$(CARGO) build $(LOCKED) --release --workspace --bins

# The quick tests mostly wait, for files and for other processes: more threads than cores. The slow ones compute more.
test-quick: ## Run the quick tests (5 min on 2 cores, after compiling)
	$(CARGO) build $(LOCKED) $(TESTS)
	$(CARGO) test $(LOCKED) --workspace -- --test-threads 4

test: test-quick ## Run the quick and the slow tests (15 min on 2 cores, after compiling)
	$(CARGO) test $(LOCKED) --workspace --tests -- --ignored --test-threads 3

# Of the whole workspace, because most libraries then have the features that they have for the other tests, and are not compiled again.
test-parquet: ## Test the export to Parquet, which is behind a feature of driftctl
	$(CARGO) test $(LOCKED) --workspace --features driftctl/parquet --lib export::

planted: ## Show that the tests catch planted bugs, one at a time
	CARGO=$(CARGO) tests/planted/run.sh

# The same promises, over many more cases.
soak: ## Run all tests in their long form (hours)
	$(CARGO) build $(LOCKED) --release $(TESTS)
	DRIFTDB_SOAK=1 $(CARGO) test $(LOCKED) --release --workspace -- --include-ignored

clients: clients-python clients-node clients-buckets ## Test the packages for Python and Node, and buckets on S3 servers (needs python3 with venv; skips what is missing)

clients-python:
	PYTHON=$(PYTHON) CARGO=$(CARGO) tests/clients/python/run.sh

clients-node:
	CARGO=$(CARGO) tests/clients/node/run.sh

clients-buckets:
	PYTHON=$(PYTHON) CARGO=$(CARGO) tests/clients/buckets/run.sh

client-docs: ## Write the reference of the Python package into target/client-docs
	PYTHON=$(PYTHON) tests/clients/python/reference.sh

demo: ## Build DriftDB, and run the demo on 10,000 generated orders
	$(CARGO) build $(LOCKED) --profile $(PROFILE) $(if $(filter dev,$(PROFILE)),$(TESTS),--workspace --bins)
	"$(TARGET)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/driftctl" demo

bench: build ## Benchmark a store of a million events (minutes, 1 GB of disk)
	"$(TARGET)/release/driftctl" bench

bench-history: build ## Benchmark stores of 1 and 10 million events (tens of minutes, 8 GB of disk)
	"$(TARGET)/release/driftctl" bench --history 1000000,10000000

bench-growth: build ## Draw how the figures change with each size, into target/growth-*.svg (15 minutes, 8 GB of disk)
	for size in events tables readers watchers documents; do \
		"$(TARGET)/release/driftctl" bench --growth $$size --svg "$(TARGET)/growth-$$size.svg" || exit 1; \
	done

bench-counts: ## Count the instructions of the hot functions (needs valgrind; a minute)
	$(CARGO) bench $(LOCKED) -p driftdb-common --bench instruction_counts

fmt: ## Format the sources
	$(CARGO) fmt --all

clippy: ## Lint the sources; warnings are errors
	$(CARGO) clippy $(LOCKED) --workspace --all-targets --features driftctl/parquet -- -D warnings

doc: ## Build the API documentation; warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --workspace --no-deps

deny: ## Check the dependencies: advisories, licences, sources (needs cargo-deny)
	CARGO=$(CARGO) .ci/deny

ci: ## Run everything that must pass before a merge
	.ci/run

clean: ## Remove everything that was built
	$(CARGO) clean
