# `make` alone prints what there is to make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# By its path: a python3 from elsewhere that comes first on PATH has no headers and no systemd library to build against.
PYTHON ?= /usr/bin/python3
VENV := .venv
PREFIX ?= /opt/lbagent
DESTDIR ?=

# What lbagent itself is built with (systemd-python has no wheels); empty where wheels are at hand (PIP_FIND_LINKS).
BUILD_PACKAGES ?= gcc libsystemd-dev pkg-config python3-dev
RUN_PACKAGES := python3 python3-venv
# What demo and tests run for real: HAProxy, promtool (metrics), a browser, curl, a load for the benchmark, a Debian that
# boots; three hosts in network namespaces with etcd and a virtual address.
TEST_PACKAGES := haproxy prometheus curl wrk chromium chromium-driver systemd systemd-container mmdebstrap \
  etcd-server etcd-client keepalived iproute2 faketime man-db jq
# Started by nobody when the packages above are installed for tests.
QUIET_UNITS := haproxy.service prometheus.service etcd.service keepalived.service

ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
export DEBIAN_FRONTEND := noninteractive
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONPATH PYTHONHOME

# $(call missing,PACKAGES): those that are not installed, as shell words in $$missing.
define missing
missing=(); for package in $(1); do \
  [[ $$(dpkg-query -W -f='$${Status}' $$package 2>/dev/null) == *' installed' ]] || missing+=($$package); done
endef
APT_INSTALL := apt-get install -y --no-install-recommends

.PHONY: help setup system demo test test-haproxy test-debian chaos lint docs bench scale install clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

setup: system $(VENV)/.stamp ## system packages where missing, then .venv with lbagent and lbctl

# A unit that nobody had before gets a mask that lasts no longer than the installation (RUNLEVEL says the same to
# init scripts), and is not enabled for the next boot either. What is there already is left as it is.
system:
	@$(call missing,$(RUN_PACKAGES) $(BUILD_PACKAGES) $(TEST_PACKAGES)); \
	if (( $${#missing[@]} == 0 )); then exit 0; fi; \
	echo "installing: $${missing[*]}"; \
	new=(); for unit in $(QUIET_UNITS); do \
	  [[ " $${missing[*]}" != *" $${unit%.service}"* ]] || new+=("$$unit"); done; \
	masks() { for unit in $${new[@]+"$${new[@]}"}; do $(ROOT) "$$@" "/run/systemd/system/$$unit"; done; }; \
	if [[ -d /run/systemd/system ]]; then trap 'masks rm -f' EXIT; masks ln -sf /dev/null; $(ROOT) systemctl daemon-reload; fi; \
	$(ROOT) apt-get update; \
	$(ROOT) env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 $(APT_INSTALL) "$${missing[@]}"; \
	if [[ -d /run/systemd/system ]]; then \
	  masks rm -f; $(ROOT) systemctl daemon-reload; \
	  for unit in $${new[@]+"$${new[@]}"}; do $(ROOT) systemctl disable "$$unit"; done; \
	fi

$(VENV)/.stamp: pyproject.toml | system
	[[ -x $(VENV)/bin/pip ]] || $(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --use-pep517 -e '.[dev]'
	touch $@

demo: setup ## a real HAProxy under live traffic goes through every mode; KEEP=1 leaves it running
	KEEP="$(KEEP)" $(VENV)/bin/python -m tests.demo

test: setup ## the whole suite; PYTEST_ARGS="-k guard" for less
	$(VENV)/bin/pytest -n 2 $(PYTEST_ARGS)

test-haproxy: setup ## what another HAProxy can change, on RELEASE=bookworm, trixie or sid (as root)
	$(VENV)/bin/python -m tests.releases "$(RELEASE)" $(PYTEST_ARGS)

test-debian: setup ## the suite with the Python, HAProxy and etcd of RELEASE=trixie (as root)
	$(VENV)/bin/python -m tests.debian "$(or $(RELEASE),trixie)" $(PYTEST_ARGS)

chaos: setup ## random faults under load; SECONDS=600 SEED=7 (a seed replays), HOSTS=3 for a control plane
	$(VENV)/bin/python -m tests.chaos --hosts $(or $(HOSTS),1) --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

lint: setup ## style, types, layers
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

docs: setup ## the reference from the program, then the manual into dist/manual; a link that leads nowhere fails
	$(VENV)/bin/python -m docs.generate
	$(VENV)/bin/mkdocs build

bench: setup ## what the guard costs per request
	$(VENV)/bin/python -m tests.measure.bench

scale: setup ## what 50 agents cost on one etcd; AGENTS="3 10 25 50"
	$(VENV)/bin/python -m tests.measure.scale --agents $(or $(AGENTS),3 10 25 50)

# An installation for the system: a virtual environment that depends on nothing in this checkout, the units, the
# configuration where there is none. With DESTDIR nothing outside it is touched, and paths are as they will be without it.
install: ## into PREFIX (/opt/lbagent), for systemd; DESTDIR for packagers
	@$(call missing,$(RUN_PACKAGES) $(BUILD_PACKAGES)); \
	if (( $${#missing[@]} )); then $(ROOT) apt-get update; $(ROOT) env DEBIAN_FRONTEND=noninteractive $(APT_INSTALL) "$${missing[@]}"; fi
	$(PYTHON) -m venv --clear "$(DESTDIR)$(PREFIX)"
	"$(DESTDIR)$(PREFIX)/bin/pip" install --quiet --no-compile .
	install -d "$(DESTDIR)/usr/share/bash-completion/completions"
	_LBCTL_COMPLETE=bash_source "$(DESTDIR)$(PREFIX)/bin/lbctl" > "$(DESTDIR)/usr/share/bash-completion/completions/lbctl" \
	  || { echo "no shell completion" >&2; rm -f "$(DESTDIR)/usr/share/bash-completion/completions/lbctl"; }
	"$(DESTDIR)$(PREFIX)/bin/python" -m compileall -q $(if $(DESTDIR),-s "$(DESTDIR)") "$(DESTDIR)$(PREFIX)/lib"
	$(if $(DESTDIR),grep -rIlZ --exclude-dir=lib -F "$(DESTDIR)$(PREFIX)" "$(DESTDIR)$(PREFIX)" | xargs -0r sed -i 's|$(DESTDIR)$(PREFIX)|$(PREFIX)|g')
	install -d "$(DESTDIR)/usr/lib/systemd/system"
	for unit in lbagent.service lbagent.socket; do \
	  sed 's|/opt/lbagent/|$(PREFIX)/|' "systemd/$$unit" > "$(DESTDIR)/usr/lib/systemd/system/$$unit"; done
	install -D -m 644 systemd/haproxy-lbagent.conf "$(DESTDIR)/usr/lib/systemd/system/haproxy.service.d/lbagent.conf"
	install -D -m 644 systemd/lbagent.sysusers "$(DESTDIR)/usr/lib/sysusers.d/lbagent.conf"
	install -D -m 644 -t "$(DESTDIR)/usr/local/share/man/man1" docs/man/lbctl.1
	install -D -m 644 -t "$(DESTDIR)/usr/local/share/man/man8" docs/man/lbagent.8
	install -D -m 644 systemd/lbagent.tmpfiles "$(DESTDIR)/usr/lib/tmpfiles.d/lbagent.conf"
	install -d "$(DESTDIR)/usr/local/bin" && ln -sfn "$(PREFIX)/bin/lbctl" "$(DESTDIR)/usr/local/bin/lbctl"
	[[ -e "$(DESTDIR)/etc/lbagent/lbagent.yaml" ]] || install -D -m 644 haproxy/lbagent.yaml "$(DESTDIR)/etc/lbagent/lbagent.yaml"
ifeq ($(DESTDIR),)
	systemd-sysusers lbagent.conf
	systemd-tmpfiles --create lbagent.conf
	if [[ -d /run/systemd/system ]]; then systemctl daemon-reload; fi
	@echo "Next: systemctl restart haproxy (for its master socket), systemctl enable --now lbagent, lbctl doctor"
endif

clean: ## take away what make and its programs left here
	rm -rf $(VENV) dist .demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
