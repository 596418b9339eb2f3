"""The last line of a bench: one JSON object with the figures, the machine and the versions they belong to."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson


def result(bench: str, figures: dict[str, Any], packages: Iterable[str], peers: Mapping[str, str] | None = None) -> str:
    """The line; ``peers`` are versions found elsewhere than in this environment."""
    machine = f"{_cpu()}, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    versions = {name: version(name) for name in ("demand-radar", *packages)} | dict(peers or {})
    line = {"bench": bench, "figures": figures, "machine": machine, "versions": versions}
    return orjson.dumps(line, option=orjson.OPT_NON_STR_KEYS).decode()


def _cpu() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "processor unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "processor unknown"
    )
