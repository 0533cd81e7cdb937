# make bench   train, score and rank every method on the nano task; ends with the leaderboard
# make test    the fast tests          make test-all   the slow ones too
# make check   lint, format, types and import contracts     make install    .venv alone
# make docs    the documentation as a site in site/; a broken link fails
# make assets  fetch all models and data; runs fetch what they need by themselves
# make clean   remove .venv and every tool's cache; results/ stays
#
# Each is enough on a fresh machine with Python 3.11 to 3.13 and a package index. Another Python: make PYTHON=python3.12

PYTHON ?= python3
WORKERS ?= 2

BIN := .venv/bin
READY := .venv/.ready

# Processes that spin while they wait starve each other.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: bench test test-all check docs install assets clean

# The SFT row first, alone: it makes the stages that all runs share. One thread, as the workers have: with more the last
# digits differ. Then the longest runs first; PPO and RLAIF begin with a reward model each, so neither waits for the other.
bench: $(READY)
	$(BIN)/isoalign assets comments rtp_scored rtp_categories tox_block toxic_classifier minilm
	$(BIN)/isoalign run algorithm=sft threads=1
	$(BIN)/isoalign run -m algorithm=ppo,rlaif,kto,dpo,sft_chosen threads=1 hydra/launcher=joblib hydra.launcher.n_jobs=$(WORKERS)
	$(BIN)/isoalign board nano

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-all: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m ""

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)
	@$(BIN)/python -c 'import material, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

install: $(READY)

assets: $(READY)
	$(BIN)/isoalign assets

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { echo "isoalign needs Python 3.11 to 3.13, and $(PYTHON) is another version; choose one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) can't make virtual environments; install its venv package (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv: some minutes on the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[sweep,dev]'
	@touch $(READY)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis site build dist isoalign.egg-info outputs multirun
