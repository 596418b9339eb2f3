# make demo and make test are all a newcomer needs; each does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
.DEFAULT_GOAL := help
.PHONY: help setup setup-all demo test test-kafka test-faults check fmt train train-smoke evaluate bench-smoke bench-stream bench-state bench-latency bench-replay bench-detect bench-model lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/core.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the runtime packages (about a minute) ..."
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/all.stamp: $(VENV)/core.stamp
	@echo "Installing the test and training packages (about two minutes) ..."
	$(PIP) install -q -c constraints.txt -e '.[dev,training,bench]'
	@touch $@

setup: $(VENV)/core.stamp  ## virtual environment in .venv with what runs the radar
setup-all: $(VENV)/all.stamp  ## the same plus tests, training and bench

demo: setup  ## start the embedded stack, feed it a simulated shop with incidents, report what was found
	$(BIN)/radar demo

test: setup-all  ## all tests but those on Apache Kafka and the long ones of faults
	$(BIN)/python -m pytest -m 'not kafka and not faults'

test-kafka: setup-all  ## minutes: the tests on Apache Kafka itself (Java 17, Maven); says why where it skips them
	$(BIN)/python -m pytest -m kafka -rs

test-faults: setup-all  ## ten minutes: workers killed 50 times, stores, disks, clocks and deliveries gone wrong
	$(BIN)/python -m pytest tests/test_faults.py -rs

check: setup-all  ## ruff and mypy (strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: setup-all  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train-smoke: setup-all  ## minutes: train a tiny model on the texts in the repository, export and load it
	$(BIN)/python -m training.train --smoke

train: setup-all  ## a model from the base weights and all data sets, into model_repo/demand/1 (eight hours on 2 cores)
	$(BIN)/python -m training.train

evaluate: setup-all  ## figures of the shipped model into docs/model-card.md
	$(BIN)/python -m training.evaluate

bench-smoke: setup-all  ## clicks/s and texts/s here, beside librdkafka and in-process ONNX Runtime
	$(BIN)/python -m bench.smoke

$(VENV)/quix.stamp: bench/peers/quix.txt
	$(PYTHON) -m venv $(VENV)/quix
	$(VENV)/quix/bin/python -m pip install -q -r bench/peers/quix.txt
	@touch $@

bench-stream: setup-all $(VENV)/quix.stamp  ## clicks/s of one worker beside Faust, Quix Streams and Bytewax
	$(BIN)/python -m bench.stream

bench-state: setup-all  ## bytes, cost of a click, changelog and recovery by number of open sessions
	$(BIN)/python -m bench.state

bench-latency: setup-all  ## from the event that completes a window to its alerts in the store
	$(BIN)/python -m bench.latency

bench-replay: setup-all  ## how many times faster than real time a recorded stretch goes through
	$(BIN)/python -m bench.replay

bench-detect: setup-all  ## outbreaks found at a budget of false alarms, beside peers; then cost, ramps, repeats
	$(BIN)/python -m bench.detect

bench-model: setup-all  ## texts/s of the text model, full and small, int8, fp32 and in PyTorch
	$(BIN)/python -m bench.model

lock: setup-all  ## write constraints.txt from the environment as installed
	$(PIP) freeze --exclude-editable | grep -v '^demand-radar' > constraints.txt

clean:  ## remove the virtual environment and local state
	rm -rf $(VENV) .radar build *.egg-info
