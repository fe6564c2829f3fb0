# Thin over uv: `make demo` and `make test` are all the set-up there is. ARGS= is passed on.
UV ?= $(shell command -v uv || echo .uv/bin/uv)
RUN = $(UV) run --locked
export GRPC_VERBOSITY ?= NONE

.PHONY: demo test lint bench chaos soak format reference golden
demo: $(UV)
	@$(RUN) --extra demo certvoy demo $(ARGS)

test: $(UV)
	@$(RUN) python scripts/test_programs.py
	@$(RUN) pytest --numprocesses 4 --dist worksteal $(ARGS)

lint: $(UV)
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy

format: $(UV)
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

reference: $(UV)
	@$(RUN) python scripts/reference.py

golden: $(UV)
	@$(RUN) python -m tests.xds.record

bench: $(UV)
	@$(RUN) python -m benchmarks $(ARGS)

chaos: $(UV)
	@$(RUN) python -m tests.chaos $(ARGS)

soak: $(UV)
	@$(RUN) python -m tests.chaos --seconds 3600 $(ARGS)

# Where there is no uv, one in a venv of its own; it brings everything else.
.uv/bin/uv:
	@python3 -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check 'uv>=0.9'
