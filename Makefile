# Needs Go, make and git. `make test` and `make bench` install what else they need with scripts/setup.sh.

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LINT    := build/tools/golangci-lint

# What the race detector runs: not the packages that measure time against real processes, which it slows down too much.
RACE := ./leader/... ./arp ./bgp/bfd ./internal/agent ./internal/config ./internal/health ./internal/hearsay ./internal/ipam ./internal/service ./internal/status

FUZZTIME ?= 20s
FAULTS   ?= 1000
BENCH    ?= failover,idle

# The version comes from git describe; go's own stamp fails where the tree belongs to another user.
export GOFLAGS += -buildvcs=false

.PHONY: all
all: build

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

.PHONY: build
build: ## the program, static: build/pintle
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o build/pintle ./cmd/pintle

# Pods that run as root (pintle manifest pod) and the image's own user both work: see the Dockerfile.
.PHONY: image
image: ## the image, without docker: build/image/pintle-amd64.tar and pintle-arm64.tar
	for arch in amd64 arm64; do \
	  CGO_ENABLED=0 GOOS=linux GOARCH=$$arch go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o build/image/$$arch/pintle ./cmd/pintle && \
	  go run ./tools/image -binary build/image/$$arch/pintle -arch $$arch -version $(VERSION) -out build/image/pintle-$$arch.tar || exit 1; \
	done

# LAB=require makes a test fail that cannot make network namespaces; without, it is skipped. Tests that run Kubernetes come last and
# two packages at a time: its programs, which are built meanwhile, keep a machine busy.
.PHONY: test
test: ## vet and all tests (LAB=require: none may be skipped for want of rights)
	scripts/setup.sh test
	scripts/test.sh $(TESTFLAGS)

.PHONY: kube
kube: ## the programs of Kubernetes that tests run, in the user's cache
	scripts/kube.sh

.PHONY: race
race: ## the tests of the concurrent packages with the race detector (needs gcc)
	scripts/setup.sh race
	CGO_ENABLED=1 go test -race -short -timeout 20m $(TESTFLAGS) $(RACE)

.PHONY: lint
lint: $(LINT) ## golangci-lint, of the version that tools/lint names
	$(LINT) run ./...

$(LINT): tools/lint/go.mod tools/lint/go.sum
	go build -C tools/lint -o $(CURDIR)/$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: demo
demo: build ## three machines, one address, and four faults
	build/pintle demo

.PHONY: bench
bench: build ## Pintle beside keepalived (BENCH=failover, idle, calm, kube, bgp or services, RUNS=n); figures go to build/bench/
	scripts/setup.sh bench
	$(if $(or $(findstring kube,$(BENCH)),$(findstring services,$(BENCH))),scripts/kube.sh)
	go build -o build/tools/bench ./test/bench
	build/tools/bench -pintle build/pintle -out build/bench -bench $(BENCH) $(if $(RUNS),-runs $(RUNS)) $(BENCHFLAGS)

.PHONY: soak
soak: build ## 1,000 faults in a row, more than an hour (FAULTS=n)
	go build -o build/tools/soak ./test/soak
	build/tools/soak -pintle build/pintle -faults $(FAULTS) $(SOAKFLAGS)

.PHONY: fuzz
fuzz: ## each fuzz test for FUZZTIME
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: clean
clean: ## remove what was built
	rm -rf build
