# make lists the targets. `make demo` and `make test` need Go, make and a C
# compiler; what else they use is installed or named by scripts/deps.sh.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The toolchain is the one that is installed, never a downloaded one.
export GOTOOLCHAIN := local
GO ?= go
export GO
# All steps compile as releases are compiled, so that one has what another compiled.
# Only the race detector needs C.
export CGO_ENABLED := 0
export GOFLAGS += -trimpath

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
export LDFLAGS := -s -w -X main.version=$(VERSION)
# The time of every file in a release, so that the same commit gives the same bytes.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
STATICCHECK := $(GO) tool -modfile=.ci/tools.mod staticcheck
STEP := scripts/step.sh
PACKAGES = $(GO) run ./packaging/openwrt/build -version $(VERSION) -date $(SOURCE_DATE_EPOCH)

# What runs on routers, which are 32-bit: tested as such too, without what only
# facilitators and tests have of chains.
PARTS = $$($(GO) list $(patsubst %,./%/...,$(wildcard modem tunnel meter channel)) | grep -v -e /ledger/evm -e /facilitatortest -e /interop)

# The race tests wait more than they compute, so more of them run at once than
# there are cores; and what computes keys, signatures and hashes takes four times
# as long when it is watched, though nothing in it is shared.
UNWATCHED := golang.org/x/crypto/scrypt golang.org/x/crypto/pbkdf2 golang.org/x/crypto/sha3 github.com/decred/dcrd/dcrec/secp256k1/v4
AT_ONCE := $(shell echo $$(($$(nproc 2>/dev/null || echo 2) * 3 / 2)))
RACE := env CGO_ENABLED=1 $(GO) test -race -vet=off -shuffle=on -p $(AT_ONCE) -parallel 4 $(UNWATCHED:%=-gcflags=%=-race=false)

BYTES ?= 50MB
FUZZTIME ?= 1m
CHECK_FUZZTIME ?= 1s
REPEATS ?= 20
# Flags of scripts/bench.
BENCH ?=
# Which of OpenWrt's architectures packages are built for. Default: all.
ARCHS ?=
# The key that signs a release. Those of OpenWrt's feeds are beside it, unless
# they are named: NAME.key, NAME.usign and NAME.pem.
export SIGNING_KEY ?=
export X402_USIGN_KEY ?= $(wildcard $(patsubst %.key,%.usign,$(filter %.key,$(SIGNING_KEY))))
export X402_APK_KEY ?= $(wildcard $(patsubst %.key,%.pem,$(filter %.key,$(SIGNING_KEY))))
# How often the crash test kills each process.
export X402_KILLS ?= 10
# Set: the race tests simulate and emulate as much as those without the race detector.
export X402_SOAK ?=

# The router targets: GOOS_GOARCH, and the variant where GOARCH has several.
# Which OpenWrt packages each serves: docs/decisions/0010-router-targets.md.
ROUTERS := linux_mipsle_softfloat linux_mips_softfloat linux_arm_5 linux_arm_6 linux_arm_7 \
	linux_arm64 linux_386_softfloat linux_amd64 linux_riscv64 linux_loong64 linux_mips64_softfloat

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## sell, buy, crash, settle and refund on this machine (BYTES=50MB)
	@bin/x402 demo --bytes $(BYTES)

.PHONY: demo-evm
demo-evm: ## the same with a facilitator that settles on a local chain (Anvil, from npm)
	@CI=true $(GO) test -run DemoOnChain -count=1 -v ./scripts/demo

.PHONY: build
build: ## build every command for this machine into bin/
	$(GO) build -buildvcs=false -ldflags "$(LDFLAGS)" -o bin/ ./cmd/...

.PHONY: cross $(ROUTERS)
cross: $(ROUTERS) ## build x402-agent for every router target into dist/
$(ROUTERS):
	@scripts/cross.sh $@

.PHONY: packages
packages: cross ## build .ipk and .apk for OpenWrt from dist/ into dist/packages (ARCHS: which)
	@$(PACKAGES) $(ARCHS)

.PHONY: debian
debian: ## build the Debian packages for amd64, arm64 and armhf into dist/debian/
	@packaging/debian/build.sh $(VERSION)

.PHONY: release
release: cross debian ## programs, packages, feeds, checksums and a Debian repository in dist/ (SIGNING_KEY=FILE)
	@rm -rf dist/packages
	@$(PACKAGES) $(ARCHS)
	@scripts/release/release.sh $(VERSION)

.PHONY: reproduce
reproduce: ## build the release twice in different places, and compare
	@scripts/release/reproduce.sh

.PHONY: budgets
budgets: deps $(if $(CROSSED),,cross) ## check sizes, and what is reachable from x402-agent
	@$(GO) run ./scripts/budgets -dist dist $(ROUTERS)
	@$(PACKAGES) mipsel_24kc

.PHONY: test
test: deps ## everything that CI runs: check, build, budgets, demo
	@$(MAKE) --no-print-directory check
	@$(STEP) build $(MAKE) --no-print-directory build
	@$(STEP) budgets $(MAKE) --no-print-directory budgets CROSSED=by-check
	@$(STEP) demo $(MAKE) --no-print-directory demo

.PHONY: check
check: ## the gate: format, vet, lint, tidy, rules, race tests, short fuzzing, cross builds
	@$(STEP) format scripts/format.sh
	@$(STEP) vet $(GO) vet ./...
	@$(STEP) staticcheck $(STATICCHECK) ./...
	@$(STEP) tidy $(GO) mod tidy -diff
	@$(STEP) fix $(GO) fix -diff ./...
	@$(STEP) rules $(GO) test .
	@$(STEP) race $(RACE) -timeout 20m ./...
	@$(STEP) 32-bit env GOARCH=386 $(GO) test -vet=off -timeout 15m $(PARTS)
	@$(STEP) fuzz scripts/fuzz.sh $(CHECK_FUZZTIME)
	@$(STEP) cross $(MAKE) --no-print-directory cross

.PHONY: bench
bench: ## throughput and CPU per GB beside a bare QUIC relay, memory, latency, lossy links (BENCH=--help)
	@$(GO) run ./scripts/bench $(BENCH)

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (1m)
	@scripts/fuzz.sh $(FUZZTIME)

.PHONY: soak
soak: export X402_KILLS = 100
soak: export X402_SOAK = 1
soak: FUZZTIME = 5m
soak: deps build ## the long run: race tests in full length and 20 times, 100 kills, 5,000 agents, long fuzzing
	@$(STEP) kills $(GO) test -run Kill -count=1 -timeout 2h ./...
	@X402_AGENTS=5000 $(STEP) scale $(GO) test -run 'Scale|HalfOpen' -v -count=1 -timeout 1h ./cmd/x402-relay ./tunnel/relay/server
	@X402_KILLS=1 $(STEP) length $(RACE) -timeout 5h ./...
	@X402_KILLS=1 X402_SOAK= $(STEP) repeats $(RACE) -count=$(REPEATS) -timeout 5h ./...
	@$(STEP) fuzz scripts/fuzz.sh $(FUZZTIME)

.PHONY: deps
deps:
	@scripts/deps.sh xz qemu-mipsel-static curl git ip nft dbus-daemon node npm chromium busybox shellcheck openssl \
		dpkg lintian man fish zsh gpgv systemd-analyze systemd-nspawn ansible-playbook

.PHONY: fmt
fmt: ## format the source and apply go fix
	$(GO) fix ./...
	gofmt -w -s .

.PHONY: clean
clean: ## remove bin/ and dist/
	rm -rf bin dist
