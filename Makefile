# The commands of this repository. "make test" is everything CI runs.

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
ACTIONLINT = github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: backports-test fleet-test demo test upgrade-proof systemd-test bench microbench mutants soak profile lint image setup unit race purego checks 386 386-all cross vuln fuzz model-long demo-test e2e deploy-test release release-test rename kubernetes-test

demo: ## a server, the gateway and a chat page, until Ctrl-C
	go build -o bin/xmppgate ./cmd/xmppgate
	bin/xmppgate demo --foreground

test: setup ## all of it, a quarter of an hour or more
	$(MAKE) --jobs 2 --output-sync=target race checks
	$(MAKE) --jobs 1 demo-test e2e deploy-test

checks: ## what mostly compiles
	$(MAKE) --jobs 1 lint purego cross 386 fuzz

upgrade-proof: ## 5,000 sessions and 50 upgrades, and processes that end or stop in each phase, some minutes: docs/upgrade.md
	go build -o bin/xmppgate ./cmd/xmppgate
	go test -run TestUpgradeProof -v ./cmd/xmppgate -upgrade.program=$(CURDIR)/bin/xmppgate -upgrade.sessions=5000 -upgrade.times=50 -upgrade.rate=2000
	go test -run TestUpgradeFaults -v ./cmd/xmppgate -upgrade.slow

systemd-test: ## the units with a systemd of their own in namespaces, as root: docs/upgrade.md
	go vet -tags systemd ./cmd/xmppgate
	go test -tags systemd -run TestSystemd -v ./cmd/xmppgate

bench: ## HAProxy, nginx and the servers' own WebSockets beside xmppgate, about 15 minutes: deploy/bench/RESULTS.md
	cd deploy/bench && go run .

microbench: ## what an element costs; compare two runs with benchstat
	go test -run '^$$' -bench . -count 6 ./framing ./proxy ./proxy/internal/session

mutants: ## the program without one protection after the other, each of which a test has to notice, about 15 minutes: deploy/mutants.txt
	go test ./deploy -run Mutants -mutants -timeout 1h

# For an hour: SOAK=1h.
SOAK ?= 3m

soak: ## clients talk while links, gateways, servers and certificates come and go; nothing may be lost
	cd deploy/e2e && go test -run Soak -v -soak $(SOAK) -soak.clients 300 -timeout 0 .

profile: ## where the relay spends its time, for the compiler of the image; renew it when that has changed
	mkdir -p bin
	go test -trimpath -run '^$$' -bench 'WakeUp|Session' -benchtime 2s -cpuprofile $(CURDIR)/bin/proxy.prof -o /dev/null ./proxy
	go test -trimpath -run '^$$' -bench Batch -benchtime 2s -cpuprofile $(CURDIR)/bin/session.prof -o /dev/null ./proxy/internal/session
	go tool pprof -proto bin/proxy.prof bin/session.prof > cmd/xmppgate/release.pgo

lint:
	@test -z "$$(gofmt -s -l . | tee /dev/stderr)" || (echo 'gofmt: the files above' >&2; exit 1)
	go mod tidy -diff && go vet ./... && go run $(STATICCHECK) ./...
	go run $(ACTIONLINT)

image: ## with docker, podman or buildah, whichever answers first
	deploy/image.sh

release: ## binaries, packages and the image of the commit that is checked out, in dist
	cd deploy/release && go run . -o dist

rename: ## another module path everywhere: make rename MODULE=host/path
	cd deploy/release && go run ./rename ../.. "$(MODULE)"

release-test: ## packages in clean roots, with what debootstrap downloads
	deploy/test-release.sh -tags roots

kubernetes-test: ## as root: manifests before an API server, which is built first; half an hour, later seconds: docs/kubernetes.md
	deploy/kubernetes/cluster/run.sh

# The parts of "make test", in its order.

setup: ## Debian packages and npm modules for the tests below; only what is missing
	deploy/e2e/setup.sh

unit: race purego

race:
	go test -race ./...

purego: ## without the assembly
	go test -tags purego ./framing

# Also in CI, on several systems: .github/workflows.

386: ## int has 32 bits; tests with sockets and processes do not depend on that
	GOARCH=386 go vet ./...
	GOARCH=386 go test -short $$(go list ./... | grep -v -e '/cmd/xmppgate$$' -e '/proxy$$')
	GOARCH=386 go test -short -run 'Transcripts|Size|Small' ./proxy

386-all: ## the rest as well
	GOARCH=386 go test -short ./...

cross: ## other systems and byte orders, as far as they can be checked from here
	for system in linux/arm64 linux/386 linux/s390x darwin/arm64 windows/amd64 freebsd/amd64; do \
		echo $$system; GOOS=$${system%/*} GOARCH=$${system#*/} CGO_ENABLED=0 go vet ./... || exit 1; \
	done

vuln: ## known vulnerabilities in what is linked
	go run $(GOVULNCHECK) ./...

# In CI every target only starts from its corpus. To look for something: FUZZTIME=10m.
FUZZTIME ?= 4s

fuzz:
	deploy/fuzz.sh $(FUZZTIME)

.PHONY: fuzz-long
fuzz-long: ## each target for FUZZTIME; the executions are added up in docs/reliability.md
	deploy/fuzz.sh -record $(FUZZTIME)

# Whole sessions against the model, see proxy/internal/model. "make race" tries some.
MODELTIME ?= 5m

model-long: ## each loop, and the session alone, for MODELTIME
	go test -run '^TestModel$$' -v -timeout 0 ./proxy/internal/session -model $(MODELTIME)
	go test -run '^TestModel' -v -timeout 0 ./proxy -model $(MODELTIME)

demo-test: ## the demo with a real Prosody, and the status page, in a real browser
	go test -tags e2e -run 'Demo|StatusPage' -v ./cmd/xmppgate ./cmd/xmppgate/internal/demo

e2e: ## real servers, real clients
	cd deploy/e2e && go vet ./... && go test -parallel 4 -timeout 15m ./...

fleet-test: ## three gateways before three ejabberd nodes, any of which is killed; two minutes; docs/scaling.md
	cd deploy/e2e && go vet -tags fleet . && go test -tags fleet -run '^TestFleet$$' -count=1 -v . -update

# What is the same for any version of a server.
BACKPORTS = TestResumeAfterLoss|TestResumeAfterKill|TestGatewayRestart|TestInstantMessaging|TestGroupChat|TestEarlyAuthenticate|TestNodeKilled

backports-test: ## Prosody 13 and ejabberd 24 of bookworm-backports, unpacked; docs/servers.md
	deploy/e2e/backports.sh
	cd deploy/e2e && PATH="$$PWD/backports/bin:$$PATH" E2E_EJABBERD="$$(echo $$PWD/backports/root/usr/lib/*-linux-gnu):$$PWD/backports/root/usr/lib/erlang/lib" \
		go test -count=1 -run '^($(BACKPORTS))$$' -v .

deploy-test: ## configurations, manifests, rules and the image
	deploy/test.sh
	deploy/test-image.sh
	cd deploy/bench && go vet ./... && go test ./...
	deploy/test-release.sh
