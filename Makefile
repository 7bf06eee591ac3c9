# SPDX-License-Identifier: Apache-2.0
#
# Two commands on a fresh Debian 12, as root:   make demo    and    make test
# Both install what they need (Debian packages, then a virtual environment in .venv) and are fast
# and need no network when it is already there.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin

DEMO_PACKAGES := python3 python3-venv e2fsprogs xfsprogs btrfs-progs util-linux mount \
	busybox-static docker.io
TEST_PACKAGES := $(DEMO_PACKAGES) tgt libiscsi-bin fio tshark fuse3 libfuse3-dev pkg-config gcc \
	libc6-dev python3-dev qemu-utils qemu-block-extra lvm2 fdisk dosfstools \
	iproute2 procps systemd user-mode-linux kmod qemu-system-common libnbd-bin \
	open-isns-server open-isns-utils iptables dash \
	podman conmon runc docker-compose postgresql
# Debian's kubectl has the name of every other one, and cannot be installed beside it.
TEST_PACKAGES += $(if $(shell command -v kubectl),,kubernetes-client)
BENCH_PACKAGES := tgt libiscsi-bin qemu-utils qemu-system-common qemu-block-extra libnbd-bin fio \
	e2fsprogs mount postgresql user-mode-linux kmod iproute2 gcc libc6-dev \
	docker.io iptables busybox-static dash util-linux
# docker.io only adds a step to the demo, so the demo goes on where it cannot be installed.
OPTIONAL_DEMO_PACKAGES := docker.io

PYTEST_ARGS ?=
BENCH_ARGS ?=
# Most of the tests wait for a kernel, a target or a deadline, so a few run beside each other.
PYTEST_WORKERS ?= 4
HYPOTHESIS_PROFILE ?=
# Thousands of processes are started here: each would compile the project again, for longer than it
# runs. `make clean` removes what is kept.
unexport PYTHONDONTWRITEBYTECODE

.NOTPARALLEL:
.PHONY: help demo test lint bench soak clean venv system-packages image docker-plugin

help:
	@echo "make demo             a volume from end to end on this machine"
	@echo "make test             linters and all tests"
	@echo "make lint             ruff and mypy"
	@echo "make bench            measurements"
	@echo "make soak             the long runs"
	@echo "make image            a container image, in build/pyscsi-init-image.tar"
	@echo "make docker-plugin    a managed Docker plugin, in build/docker-plugin"
	@echo "make venv             the virtual environment of the tests, in $(VENV)"
	@echo "make system-packages  the Debian packages of the tests"
	@echo "make clean            remove what the other targets made"

demo: $(VENV)/.demo-packages $(VENV)/.run
	$(BIN)/pyscsi-init demo

test: lint
	@$(BIN)/python -m compileall -q -j 2 pyscsi_init fusefs benchmarks scripts tests/support
	$(BIN)/python -m pytest -m "not soak" -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/mypy --strict -p benchmarks -p tests.support -p tests.architecture -p scripts.images -m tests.conftest -m tests.conformance.page

bench: $(VENV)/.test $(VENV)/.bench-packages
	$(BIN)/python -m benchmarks.run $(BENCH_ARGS)

.PHONY: $(VENV)/.bench-packages
$(VENV)/.bench-packages:
	@scripts/system-packages $(BENCH_PACKAGES)

soak: venv
	HYPOTHESIS_PROFILE=$(or $(HYPOTHESIS_PROFILE),soak) $(BIN)/python -m pytest -m soak --timeout=0 \
		-o faulthandler_timeout=0 $(PYTEST_ARGS)

image: $(VENV)/.run
	$(BIN)/python -m scripts.images image

docker-plugin: $(VENV)/.run
	$(BIN)/python -m scripts.images docker-plugin

venv: $(VENV)/.test

system-packages:
	scripts/system-packages $(TEST_PACKAGES)

# Packages come before the environment (python3-venv, headers); asking dpkg takes milliseconds.
.PHONY: $(VENV)/.demo-packages
$(VENV)/.demo-packages:
	@scripts/system-packages --optional "$(OPTIONAL_DEMO_PACKAGES)" $(DEMO_PACKAGES)

$(BIN)/python: | $(VENV)/.demo-packages
	scripts/make-venv $(VENV)

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.test: pyproject.toml scripts/dependency-groups | system-packages $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[uvloop,bench,docker,csi]' \
		$$($(BIN)/python scripts/dependency-groups test lint)
	scripts/optional-extra $(BIN)/python pyfuse3
	touch $(VENV)/.run $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
