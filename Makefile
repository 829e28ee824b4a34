# SPDX-License-Identifier: Apache-2.0
# Everyday verbs; `make help` lists them. ARGS="..." is handed on to the verb's program.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=
TESTS ?=
FUZZ_SECONDS ?= 20

BUILD_PACKAGES := gcc libc6-dev pkg-config liburing-dev libxxhash-dev libssl-dev
ifeq ($(filter-out /usr/bin/% /bin/%,$(shell command -v $(PYTHON))),)
BUILD_PACKAGES += python3 python3-venv python3-dev
endif
CLUSTER_PACKAGES := ceph-mon ceph-osd ceph-common
TEST_PACKAGES := qemu-utils libnbd-bin python3-libnbd nbdkit nbd-client fio fuse3 e2fsprogs xfsprogs btrfs-progs kmod \
	$(CLUSTER_PACKAGES) ceph-mgr python3-rados user-mode-linux qemu-system-x86 busybox-static
DEMO_PACKAGES := qemu-utils libnbd-bin mmdebstrap nbd-client fuse3 e2fsprogs fdisk
BENCH_PACKAGES := qemu-utils qemu-system-common nbdkit fio git
RADOS_BENCH_PACKAGES := $(CLUSTER_PACKAGES) python3-rados python3-rbd
FUZZ_PACKAGES := clang libclang-rt-dev

NATIVE := $(wildcard native/*.[ch] native/*/*.[ch])
LIBRARY := $(filter-out native/fuzz/% native/load/% native/export.c,$(filter %.c,$(NATIVE)))
LOAD_PARTS := $(wildcard native/segment/*.c) native/loop/loop.c native/loop/peer.c native/loop/poll.c native/loop/tune.c native/blocker_rados/api.c
FUZZERS := $(patsubst native/fuzz/%.c,fuzz_%,$(wildcard native/fuzz/*.c))
FUZZ_OBJECTS := $(patsubst native/%.c,build-fuzz/%.o,$(LIBRARY))
FUZZ_FLAGS := -g -O1 -Inative -std=gnu11 -D_GNU_SOURCE -Wno-unknown-warning-option
LINT_FLAGS := -Inative -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Wno-missing-field-initializers -Werror

# Run under the sanitizers: what drives native code and little else, as tools that a test starts run
# under them too. tests/segment/test_segment_kill.py counts instructions and cannot.
ASAN_TESTS ?= tests/segment/test_segment.py tests/xseg/test_peer.py tests/filters \
	tests/blockers/test_blocker_contract.py \
	tests/nbd/test_nbd_protocol.py tests/nbd/test_nbd_wire.py tests/vhost tests/mapper/test_mapper_tree.py \
	tests/volumes/test_walks.py tests/volumes/test_overlaps.py tests/volumes/test_faults.py
ASAN := ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" PYTHONPATH=$(CURDIR)/build-asan

# $(call packages,NAMES) installs those Debian packages that are missing, and calls apt-get only then.
define packages
@if ! command -v dpkg-query >/dev/null; then \
	echo "note: not a Debian system; needed are the equivalents of: $(1)"; exit 0; fi; \
have=$$(dpkg-query -W -f='$${db:Status-Status}:$${Package}\n' $(1) 2>/dev/null | sed -n 's/^installed://p'); \
missing=$$(comm -23 <(printf '%s\n' $(1) | sort) <(printf '%s\n' "$$have" | sort) | tr '\n' ' '); \
if [ -n "$$missing" ]; then \
	if [ "$$(id -u)" != 0 ]; then \
		echo "These Debian packages are missing: $$missing" >&2; \
		echo "Install them as root: apt-get install $$missing" >&2; exit 1; fi; \
	echo "installing: $$missing"; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
fi
endef

.PHONY: help build test lint check-asan fuzz bench demo soak lock clean packages-test locked-build

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

build: ## everything into .venv: packages, native code, the commands archipelago, vlmc, xseg
	$(call packages,$(BUILD_PACKAGES))
	@flock .build.lock $(MAKE) -s --no-print-directory locked-build

locked-build: $(VENV)/.native

$(VENV)/.requirements: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -q --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.commands: setup.py pyproject.toml $(VENV)/.requirements
	@$(PY) -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps \
		--config-settings editable_mode=compat -e .
	@touch $@

$(VENV)/.native: $(NATIVE) native xseg/_build.py $(VENV)/.commands
	@$(PY) setup.py -q build_ext --inplace
	@touch $@

packages-test:
	$(call packages,$(TEST_PACKAGES))

$(VENV)/.test: requirements-test.txt
	@$(PY) -m pip install -q --disable-pip-version-check -r requirements-test.txt
	@touch $@

test: packages-test build ## all tests (TESTS=path for some of them), with reasons and number of skips
	@flock .build.lock $(MAKE) -s --no-print-directory $(VENV)/.test
	$(PY) -m $(if $(TESTS),pytest -rs $(TESTS),tests) $(ARGS)

lint: build ## ruff and mypy on Python; gcc and its analyser on C, with warnings as errors
	@flock .build.lock $(MAKE) -s --no-print-directory $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	@printf '%s\n' native/fuzz/*.c | xargs -P2 -n1 gcc $(LINT_FLAGS) -fsyntax-only
	@printf '%s\n' $(filter-out native/fuzz/%,$(filter %.c,$(NATIVE))) | xargs -P2 -n1 gcc $(LINT_FLAGS) \
		-O2 -fanalyzer -c -o /dev/null
	@echo "C: no warnings"

check-asan: packages-test build ## the tests of native code on a build with ASan and UBSan
	@flock .build.lock $(MAKE) -s --no-print-directory $(VENV)/.test
	@mkdir -p build-asan/xseg && ln -sf $(CURDIR)/xseg/*.py build-asan/xseg/
	@flock .build.lock env ARCHIPELAGO_SANITIZE=1 $(PY) setup.py -q build_ext --build-lib build-asan --build-temp build-asan/objects
	@$(ASAN) $(PY) -P -c 'import xseg._native as n; assert "build-asan" in n.__file__, n.__file__'
	$(ASAN) $(PY) -P -m pytest -rs $(ASAN_TESTS) $(ARGS)

# A target is one file, which may include one .c file of ours, to call what is static there.
included = $(shell sed -n 's/^\#include "\(.*\)\.c"$$/build-fuzz\/\1.o/p' native/fuzz/$(1).c)

build-fuzz/%.o: native/%.c $(filter %.h,$(NATIVE))
	@mkdir -p $(@D)
	clang $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link,address,undefined -c -o $@ $<

build-fuzz/fuzz_%: native/fuzz/%.c $(FUZZ_OBJECTS)
	clang $(FUZZ_FLAGS) -fsanitize=fuzzer,address,undefined -o $@ $< \
		$(filter-out $(call included,$*),$(FUZZ_OBJECTS)) -luring -lcrypto -lpthread

fuzz: build ## each fuzz target for FUZZ_SECONDS, two at once; corpus of the C ones in tests/corpus/TARGET
	$(call packages,$(FUZZ_PACKAGES))
	@flock .build.lock $(MAKE) -s --no-print-directory $(VENV)/.test
	@$(MAKE) -s --no-print-directory -j2 $(addprefix build-fuzz/,$(FUZZERS))
	$(PY) -m tests.fuzz --seconds $(FUZZ_SECONDS) $(ARGS)

build/tool_load: $(wildcard native/load/*.c) $(filter %.h,$(NATIVE)) $(LOAD_PARTS)
	@mkdir -p build
	gcc -O2 -Inative -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Wno-missing-field-initializers \
		-o $@ $(filter %.c,$^)

$(VENV)/.bench: requirements-bench.txt
	@$(PY) -m pip install -q --disable-pip-version-check -r requirements-bench.txt
	@touch $@

bench: build ## measurements beside other servers (ONLY=nbd,hop QUICK=1), or an older COMPARE=revision; 15 minutes
	$(call packages,$(BENCH_PACKAGES) $(if $(or $(if $(ONLY),,all),$(findstring rados,$(ONLY))),$(RADOS_BENCH_PACKAGES)))
	@flock .build.lock $(MAKE) -s --no-print-directory $(VENV)/.bench build/tool_load
	$(PY) -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick) \
		$(if $(COMPARE),--compare $(COMPARE)) $(ARGS)

demo: build ## imports a real disk image, snapshots, clones, serves and maps it (IMAGE=path for yours, BACKEND=rados)
	$(call packages,$(DEMO_PACKAGES) $(if $(filter rados,$(BACKEND)),$(CLUSTER_PACKAGES)))
	$(PY) -m tools.demo $(if $(IMAGE),--image "$(IMAGE)") $(if $(BACKEND),--backend $(BACKEND)) $(ARGS)

soak: packages-test build ## the random tests, for long (SOAK_MINUTES=60)
	@flock .build.lock $(MAKE) -s --no-print-directory $(VENV)/.test
	ARCHIPELAGO_SOAK_MINUTES=$(or $(SOAK_MINUTES),60) $(PY) -m pytest -rs -m soak --timeout=0 $(TESTS) $(ARGS)

lock: ## newer Python packages: requirements*.txt, with hashes, from requirements*.in
	@$(PYTHON) -m venv build/lock && build/lock/bin/pip install -q --disable-pip-version-check uv
	@for name in requirements requirements-test requirements-bench; do build/lock/bin/uv pip compile -q --upgrade \
		--universal --python-version 3.11 --fork-strategy fewest --generate-hashes --system-certs \
		--custom-compile-command "make lock" $$name.in -o $$name.txt || exit 1; done

clean: ## removes what was built, but not .venv
	rm -rf build build-asan build-fuzz xseg/_native*.so native/segment/layout_hash.h *.egg-info $(VENV)/.native $(VENV)/.commands
