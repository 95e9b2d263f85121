.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
FROM ?=

.PHONY: help demo test torture bench corpus pages lint vocabulary wheel

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## Install what the demo needs, then move three VMs from a libvirt of its own to a folder: demo/
	@tools/setup.sh demo
	@PATH="$(CURDIR)/.venv/bin:$$PATH" examples/fleet/run.sh demo

test: ## Install what the tests need, then run them all: real libvirt, QEMU and qemu-nbd included
	@tools/setup.sh test
	$(PYTHON) -m pytest

torture: ## Kill apply with -9 at 500 random points (after make test, which installs what it needs)
	$(PYTHON) -m pytest tests/real/test_torture.py tests/cluster/test_torture.py --kills 500

bench: ## Measure planning, copying and start-up (after make test, which installs what they need)
	$(PYTHON) bench/plan.py
	$(PYTHON) bench/cli.py
	for what in copy nbd jobs upload memory; do $(PYTHON) -m bench.$$what || exit; done

corpus: ## Plan the domains of libvirt's own tests, of every release in Debian or below FROM=folders; print counts and broken promises
	$(PYTHON) tests/corpus/run.py $(or $(FROM),$$(find $$(tools/libvirt-releases.sh) -maxdepth 1 -name tests))

pages: ## Write the rules' pages, mappings/pages/, anew
	$(PYTHON) -m migrate.pages mappings/pages

wheel: ## Build a wheel whose translation is compiled, dist/ (after make test or demo, which install a compiler)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check build
	HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(PYTHON) -m build --outdir dist .

lint: ## Check style and format
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check

vocabulary: ## Write libvirt's vocabulary anew from every release in Debian, or KubeVirt's from FROM=a folder of schemas or a CRD file
	$(PYTHON) tools/$(if $(FROM),kubevirt_vocabulary.py $(FROM),libvirt_vocabulary.py $$(tools/libvirt-releases.sh | sed 's,$$,/schemas,'))
