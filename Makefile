# SPDX-License-Identifier: Apache-2.0
# Every target brings what it needs: Debian packages, the virtual environment, the object.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV   := .venv
PYTHON := $(VENV)/bin/python
OBJECT := src/vipbee/_obj/vipbee.bpf.o
STAMPS := build/stamps
AS_ROOT := $(if $(filter-out 0,$(shell id -u)),sudo -E)
PYTEST := $(PYTHON) -m pytest
PEERS  := $(if $(KUBE_PROXY),--kube-proxy $(KUBE_PROXY)) $(if $(CILIUM_AGENT),--cilium-agent $(CILIUM_AGENT))

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(STAMPS)/run $(VENV)/runtime $(OBJECT) ## a cluster of namespaces, curl and dig through VIPs, half a minute (root)
	@$(AS_ROOT) $(VENV)/bin/vipbee demo

.PHONY: test
test: $(STAMPS)/run $(STAMPS)/kernels $(VENV)/development $(OBJECT) ## all tests below, 15 minutes (root)
	@$(MAKE) test-unit test-bpf test-net
	@$(PYTEST) tests/kernels

.PHONY: build
build: $(OBJECT) ## compile the datapath

.PHONY: check
check: $(VENV)/development $(OBJECT) ## format, lint, strict types, import direction, C include direction
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/clang-format --dry-run -Werror bpf/*.[ch]
	$(PYTEST) tests/unit/test_layers.py

.PHONY: format
format: $(VENV)/development ## rewrite Python and C in the format `check` wants
	$(VENV)/bin/ruff format
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/clang-format -i bpf/*.[ch]

.PHONY: test-unit
test-unit: $(VENV)/development $(OBJECT) ## unit and golden tests, no root, < 20 s
	@$(PYTEST) -n 4 tests/unit tests/golden

.PHONY: test-bpf
test-bpf: $(STAMPS)/run $(VENV)/development $(OBJECT) ## programs and maps in this kernel (root)
	@$(AS_ROOT) $(PYTEST) -n 2 tests/bpf

.PHONY: test-net
test-net: $(STAMPS)/run $(VENV)/development $(OBJECT) ## real programs through VIPs in network namespaces (root)
	@$(AS_ROOT) $(PYTEST) -n 2 --dist loadfile tests/net

.PHONY: test-kernels
test-kernels: $(STAMPS)/kernels $(VENV)/development $(OBJECT) ## the same through VIPs on kernels 5.10, 6.1 and 6.12 (QEMU)
	@$(PYTEST) tests/kernels

.PHONY: test-image
test-image: $(STAMPS)/run $(STAMPS)/image $(VENV)/development $(OBJECT) ## build deploy/Dockerfile, run the DaemonSet's pod from it (root)
	@$(AS_ROOT) $(PYTEST) tests/image

.PHONY: bench
bench: $(STAMPS)/run $(VENV)/development $(OBJECT) ## side by side with kube-proxy, 30 minutes; KUBE_PROXY=, CILIUM_AGENT=path (root)
	@$(AS_ROOT) $(PYTHON) -m bench.compare $(PEERS)

.PHONY: bench-quick
bench-quick: $(STAMPS)/run $(VENV)/development $(OBJECT) ## the same to 5,000 Services, 5 minutes (root)
	@$(AS_ROOT) $(PYTHON) -m bench.compare --quick $(PEERS)

.PHONY: bench-sockets
bench-sockets: $(STAMPS)/run $(VENV)/development $(OBJECT) ## the socket layer: ns a hook, programming, restarts (root)
	@$(AS_ROOT) $(PYTHON) -m bench.sockets

.PHONY: bench-packets
bench-packets: $(STAMPS)/run $(VENV)/development $(OBJECT) ## the packet layer: ns, ports, floods, sweep (root)
	@$(AS_ROOT) $(PYTHON) -m bench.packets

.PHONY: manifests
manifests: $(VENV)/development ## deploy/kubernetes/vipbee.yaml from the Helm chart
	@$(PYTHON) tools/render_manifests.py

.PHONY: bench-scale
bench-scale: $(STAMPS)/run $(VENV)/development $(OBJECT) ## the agent at 10,000 Services, 50,000 endpoints, a day of changes (root)
	@$(AS_ROOT) $(PYTHON) -m bench.scale

.PHONY: clean
clean: ## remove what was built, the virtual environment too
	rm -rf build dist $(VENV) src/vipbee/_obj .hypothesis .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- what the targets need ------------------------------------------------------------

$(STAMPS)/%: tools/install-debian-packages
	@tools/install-debian-packages $*
	@mkdir -p $(@D) && touch $@

$(VENV)/runtime: requirements.lock pyproject.toml tools/make-environment | $(STAMPS)/build
	@tools/make-environment $(VENV) requirements.lock
	@touch $@

$(VENV)/development: requirements-dev.lock $(VENV)/runtime
	@tools/make-environment $(VENV) requirements-dev.lock
	@touch $@

$(OBJECT): $(wildcard bpf/*.[ch]) hatch_build.py | $(STAMPS)/build $(VENV)/runtime
	@$(PYTHON) hatch_build.py
