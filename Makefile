# Entry point. `make` without arguments lists the targets. Nothing here is needed to build: `cargo build` is enough.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

STACK := $(or $(PULSEGATE_STACK_DIR),$(CURDIR)/.stack)
# Commands that talk to the stack get its addresses from this file, as a user's shell would.
WITH_STACK := source '$(STACK)/env' &&

# Duration of each fuzz target, in seconds.
FUZZ_SECONDS ?= 10
# Additional arguments, such as TEST_ARGS='--test stores' or DEMO_ARGS='--json'.
TEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=

.PHONY: help setup up down status reset demo test bench fmt lint lint-format lint-clippy lint-shell doc deny dependencies fuzz ci

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing to build and run everything (Debian, root)
	@docker/setup

up: ## start Kafka, TimescaleDB and the schema registry (docker/README.md)
	@docker/stack up

down: ## stop what `up` started; the data are kept
	@docker/stack down

status: ## show which services are running
	@docker/stack status

reset: ## stop the stack and wipe its data; the downloads are kept
	@docker/stack reset

demo: setup up ## run a signed fleet through both roles and print the results
	$(WITH_STACK) cargo run --release --locked --package pulsegate-demo -- $(DEMO_ARGS)

test: setup up ## run every test against the real services
	$(WITH_STACK) lacking=$$(.ci/lacking) && export PULSEGATE_TEST_SKIP="$${PULSEGATE_TEST_SKIP-$$lacking}" && \
	cargo test --workspace --locked $(TEST_ARGS)

bench: setup up ## run the benchmarks
	$(WITH_STACK) cargo build --release --locked --bin pulsegate && \
	cargo bench --package pulsegate-bench --locked $(BENCH_ARGS)

fmt: ## format the code
	cargo fmt --all

lint: lint-format lint-clippy lint-shell ## check formatting, clippy and shellcheck as CI does

lint-format:
	cargo fmt --all --check

lint-clippy:
	cargo clippy --workspace --all-targets --locked -- -D warnings

lint-shell:
	shellcheck --external-sources docker/stack docker/setup docker/lib/*.sh .ci/run .ci/fuzz .ci/deny .ci/dependencies .ci/lacking

doc: ## build the documentation, including private items
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items --locked

deny: ## check dependencies' licences, sources and versions; advisories if their database is reachable
	@.ci/deny

dependencies: ## check that every dependency is used, and that the gate links none of the load tester's
	@.ci/dependencies

fuzz: ## run each fuzz target for FUZZ_SECONDS seconds
	@.ci/fuzz $(FUZZ_SECONDS)

ci: ## run what CI runs
	bash .ci/run
