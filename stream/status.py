"""What the workers of this machine say of themselves: the files ``<home>/worker-<n>.json``.

Each holds, per lane, what was counted, the next offset, the offset up to which everything is durable, the watermark
and the blocks that are not durable yet. Progress displays and the accounting of a replay read them; results never do.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import orjson

from stream.events import SOURCES
from stream.settings import Settings

Lanes = dict[str, dict[str, int]]
PLACES = ("position", "saved", "watermark", "queued", "stalled_seconds")  # what is not a count


def read_lanes(settings: Settings) -> Lanes:
    """The lanes of all workers here by ``topic/partition``; empty when none runs."""
    lanes: Lanes = {}
    for path in sorted(settings.home.glob("worker-*.json")):
        try:
            lanes.update(orjson.loads(path.read_bytes()))
        except (OSError, orjson.JSONDecodeError):
            continue
    return lanes


def totals(lanes: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """The counts of all partitions of a topic together; positions and watermarks left out."""
    summed: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, counts in lanes.items():
        topic = name.rpartition("/")[0]
        for count, value in counts.items():
            if count not in PLACES:
                summed[topic][count] += value
    return {topic: dict(counts) for topic, counts in summed.items()}


def caught_up(lanes: Mapping[str, Mapping[str, Any]], settings: Settings, ts: int) -> bool:
    """Whether every lane has passed event time ``ts`` (epoch ms) and made the outcome durable."""
    boundary = ts - ts % settings.pane_ms
    wanted = [
        f"{settings.topic(topic)}/{partition}"
        for topic in (*SOURCES, "signals")
        for partition in range(settings.partitions)
    ]
    return all(
        name in lanes
        and lanes[name]["watermark"] >= boundary
        and lanes[name]["saved"] == lanes[name]["position"]
        and not lanes[name]["queued"]
        for name in wanted
    )


async def wait_until_caught_up(settings: Settings, ts: int, patience: float = 60.0) -> bool:
    """Wait for :func:`caught_up`; False when nothing has moved for ``patience`` seconds."""
    before: Lanes = {}
    moved = time.monotonic()
    while time.monotonic() - moved < patience:
        lanes = read_lanes(settings)
        if caught_up(lanes, settings, ts):
            return True
        if lanes != before:
            before, moved = lanes, time.monotonic()
        await asyncio.sleep(0.2)
    return False
