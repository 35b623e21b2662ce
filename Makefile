# The front door. `make` alone lists what there is. Nothing here is needed to build: `cargo build` is enough for that.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

STACK := $(or $(PULSEGATE_STACK_DIR),$(CURDIR)/.stack)
# Commands that talk to the stack learn its addresses here, exactly as a person would.
WITH_STACK := source '$(STACK)/env' &&

# How long each fuzz target runs.
FUZZ_SECONDS ?= 10
# Further arguments, such as TEST_ARGS='--test worker' or DEMO_ARGS='--json'.
TEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=

.PHONY: help setup up down status reset demo test bench fmt lint lint-format lint-clippy lint-shell doc deny fuzz ci

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing to build and run it all here (Debian, root)
	@docker/setup

up: ## start Kafka, TimescaleDB and the schema registry (docker/README.md)
	@docker/stack up

down: ## stop what `up` started; the data stay
	@docker/stack down

status: ## say what is up
	@docker/stack status

reset: ## stop it and wipe its data; the downloads stay
	@docker/stack reset

demo: setup up ## a signed fleet through both roles, and what became of it
	$(WITH_STACK) cargo run --release --locked -- demo $(DEMO_ARGS)

test: setup up ## every test, against the real services
	$(WITH_STACK) cargo test --workspace --locked $(TEST_ARGS)

bench: setup up ## the benchmarks
	$(WITH_STACK) cargo bench --workspace --locked $(BENCH_ARGS)

fmt: ## format the code
	cargo fmt --all

lint: lint-format lint-clippy lint-shell ## formatting, clippy and shellcheck, as CI asks for them

lint-format:
	cargo fmt --all --check

lint-clippy:
	cargo clippy --workspace --all-targets --locked -- -D warnings

lint-shell:
	shellcheck --external-sources docker/stack docker/setup docker/lib/*.sh .ci/run .ci/fuzz .ci/deny

doc: ## the documentation, private items included
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items --locked

deny: ## licences, sources and versions of what we depend on; advisories where their database can be reached
	@.ci/deny

fuzz: ## each fuzz target for FUZZ_SECONDS seconds
	@.ci/fuzz $(FUZZ_SECONDS)

ci: ## what CI runs
	bash .ci/run
