# Amber. `make help` lists the targets. Each installs what it needs (scripts/setup.sh) and prepares the servers it
# needs (scripts/servers.sh); both take a moment when all is there.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# A Go that scripts/setup.sh chose because the one on PATH is missing or too old comes first.
CACHE := $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/amber
export PATH := $(CACHE)/go/bin:$(PATH)
# A checkout that belongs to another user must not fail a build for git's opinion of it.
export GOFLAGS := $(strip $(GOFLAGS) -buildvcs=false)

# How much make fuzz, make crash and make campaign do, arguments for make test and make bench, and where make matrix finds its sources.
FUZZ     ?= 200000
CRASH    ?= 10
CAMPAIGN ?= 50
TEST     ?=
FIXTURES ?=
BENCH    ?=

PACKAGES := ./... ./examples/... ./otelhooks/... ./storage/blobstore/...

.PHONY: help demo test matrix check bench servers databases fuzz crash campaign cover setup setup-race clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]*:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

demo: setup databases ## back up, wipe and restore a real server, and prove that nothing is lost
	@go run ./examples/quickstart

test: setup-race servers ## all tests, on four real servers, with the race detector where it pays (TEST=arguments)
	@scripts/test.sh $(TEST)

matrix: setup databases ## every source into every target, as a table, and every topology by every method; of FIXTURES=directory instead of our own
	@CAMPAIGN=1 go test -count=1 -timeout 1h -v -run TestMatrix . $(if $(FIXTURES),-fixtures "$(abspath $(FIXTURES))") | grep -v -e '^=== ' -e '^ *--- PASS'

check: setup ## formatting, go vet, staticcheck, the import rules, tidy modules, scripts
	@scripts/check.sh

bench: setup servers ## speed and memory beside the servers' own tools, as a table (BENCH=arguments, see go run ./internal/bench -h)
	@go run ./internal/bench $(BENCH)

servers: setup databases ## the real servers for the tests: Redis 7.0 and 8.0, Valkey 8.1 and 9.1, and stores that speak S3, GCS and Azure
	@scripts/stores.sh $(if $(filter servers,$(MAKECMDGOALS)),,--quiet)

databases:
	@scripts/servers.sh $(if $(filter servers,$(MAKECMDGOALS)),,--quiet)

fuzz: setup databases ## every fuzz target for FUZZ=200000 executions
	@scripts/fuzz.sh $(FUZZ)

crash: setup servers ## the tests that kill processes, CRASH=10 times
	@go test -count=$(CRASH) -run 'Crash|Kill' $(TEST) $(PACKAGES) | { grep -v -e 'no test files' -e 'no tests to run' || true; }

campaign: setup servers ## every call of a store fails in every way, kills, full disks; schedulers in many processes; and changed files, loaded by real servers: CAMPAIGN=50 times a hundred
	@CAMPAIGN=1 go test -count=1 -timeout 0 -run 'Campaign|Full|Schedulers|KilledWriters' -v $(TEST) ./internal/chaos ./examples/faults ./schedule/storejournal | grep -v '^=== '
	@CAMPAIGN=1 go test -count=1 -timeout 0 -run 'TestCrash$$' -v $(TEST) ./examples/amberctl | grep -v '^=== '
	@CAMPAIGN=1 go test -count=$(CAMPAIGN) -timeout 0 -run Campaign -v $(TEST) ./rdb | grep -v '^=== '

cover: setup servers ## test coverage of each package and of all, by all tests
	@mkdir -p bin
	@go test -count=1 -coverpkg=./... -coverprofile=bin/cover.out ./... ./examples/... | { grep -v -e 'no test files' -e 'coverage: 0' || true; }
	@go tool cover -func=bin/cover.out | tail -1
	@echo "by line: go tool cover -html=bin/cover.out"

clean: ## remove built programs; the servers stay
	@rm -rf bin .bench

setup:
	@scripts/setup.sh

setup-race:
	@scripts/setup.sh race
