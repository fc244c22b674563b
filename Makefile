# make demo    a virtual fleet of eight learns from smartwatch recordings, before your eyes
# make test    every test, mosquitto included
# make chaos   the long run of kills (KILLS=200, SEED=n, STRATEGY=fedavg): some minutes
# make fuzz    hostile inputs for every decoder, under a memory limit; SECONDS=600 and SEED=1 unless told otherwise
# make check   lint, format, types, import contracts, generated code
# Each does everything from a bare clone. PYTHON picks the interpreter (3.11 to 3.13).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# PyPI's torch for Linux may be a CUDA build of several GB; PyTorch's own CPU index is used where it answers.
# constraints.txt refuses the CUDA packages either way, so a wrong build can't slip in.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: demo test simulate chaos fuzz check format clean

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@extra=$$($(BIN)/python -c "import urllib.request as u; u.urlopen('$(TORCH_INDEX)/torch/', timeout=3); print('--extra-index-url $(TORCH_INDEX)')" 2>/dev/null || true); \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check $$extra -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	@state=$$(mktemp -d) && trap 'rm -rf "$$state"' EXIT && \
	  $(BIN)/coordinator start --rounds 5 --virtual 8 --plan watch --data watch --state "$$state"

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

simulate: $(STAMP)
	$(BIN)/python -m tests.simulation --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED))

KILLS ?= 200

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos.long --kills $(KILLS) $(if $(SEED),--seed $(SEED)) $(if $(STRATEGY),--strategy $(STRATEGY))

fuzz: $(STAMP)
	$(BIN)/python -m tests.hostile.fuzz --seconds $(or $(SECONDS),600) --seed $(or $(SEED),1)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m schemas.proto.generate --check

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
