"""Detectors: counts per pane in, alert states out. Pure: no I/O, no clock; event time comes in."""

from stream.detect.cells import Cell, Key, merge
from stream.detect.engine import Engine
from stream.detect.rules import DEFAULT_RULES, Rule

__all__ = ["DEFAULT_RULES", "Cell", "Engine", "Key", "Rule", "merge"]
