# SPDX-License-Identifier: Apache-2.0
# `make` or `make help` lists what there is.
export CGO_ENABLED := 0
BIN := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# What `peapod kubectl version` and user agents say; daemon.KubernetesVersion.
KUBERNETES := -X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37
LDFLAGS := -s -w -X github.com/peapod/peapod/daemon.Version=$(VERSION) $(KUBERNETES)

.PHONY: help build demo test e2e critest bench bench-pods bench-scheduler bench-services bench-api bench-pictures benchstat soak conformance lint generate deps clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-15s %s\n", $$1, $$2}'

build: ## bin/peapod, bin/peapod-keeper and bin/peapod-launcher
	@mkdir -p $(BIN)
	go build -ldflags '$(LDFLAGS)' -o $(BIN)/peapod .
	go build -ldflags '-s -w' -o $(BIN)/peapod-keeper ./keeper/peapod-keeper
	go build -ldflags '-s -w' -o $(BIN)/peapod-launcher ./sandbox/peapod-launcher

deps: ## install the Debian packages a node needs (as root)
	@./scripts/deps

demo: deps build ## start a node and run a real two-container Pod on it (as root)
	@./scripts/demo

test: deps build ## every test, unattended (as root)
	@./scripts/test

critest: deps build ## Kubernetes' conformance suite for container runtimes (as root); ARGS="-focus REGEXP" runs a part
	@./scripts/critest $(ARGS)

bench: deps build ## goals P1-P12 beside stock Kubernetes, docs/benchmarks.md and its pictures (as root): twenty minutes on a quiet machine
	@./scripts/bench
	@./scripts/bench-scheduler
	@./scripts/bench-services
	@./scripts/bench-api
	@$(MAKE) --no-print-directory bench-pictures

bench-pods: deps build ## of these the life of Pods (as root); ARGS="-alone -profile DIR" is Peapod alone, in some minutes
	@./scripts/bench $(ARGS)

soak: deps build ## random work with faults for an hour, and what it did not keep (as root); DURATION=, SEED=
	@./scripts/soak $(ARGS)

bench-scheduler: ## the scheduler beside kube-scheduler, on simulated nodes; ARGS="-nodes N -pods N -only REGEXP"
	@./scripts/bench-scheduler $(ARGS)

bench-services: deps ## addresses of Services beside kube-proxy (as root); ARGS="-services N -changes N"
	@./scripts/bench-services $(ARGS)

bench-api: deps build ## durable creates of Pods beside kube-apiserver and etcd (as root); ARGS="-creates N -rounds N"
	@./scripts/bench-api $(ARGS)

bench-pictures: ## draw what the benchmarks measured (bin/bench) into docs/benchmarks, and write docs/benchmarks.md
	@cd test/bench/plot && go run . -results $(CURDIR)/bin/bench -out $(CURDIR)/docs/benchmarks -document $(CURDIR)/docs/benchmarks.md

benchstat: ## compare Go benchmarks with another commit; BASE=COMMIT, PACKAGES="./scheduler ./service", BENCH=REGEXP
	@BENCH='$(BENCH)' ./scripts/benchstat "$(BASE)" $(PACKAGES)

conformance: deps build ## upstream's conformance tests, and docs/conformance.md (as root); FAST=1, FOCUS=, AGAIN=, WORKERS=, NODES=
	@./scripts/conformance

lint: ## go vet, gofmt and staticcheck
	@./scripts/lint

generate: ## regenerate the OpenAPI definitions
	@./scripts/generate

clean: ## remove what build made
	rm -rf $(BIN)
