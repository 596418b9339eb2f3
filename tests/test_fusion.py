"""The fusion lane without servers: the same alerts whatever the order, the cuts, the repetitions and the restarts."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest

from stream.agents.fusion import Fusion, quote
from stream.settings import Settings
from stream.transport import Block

MINUTE = 60_000
START = 1_772_380_800_000
SOURCES = ["reviews/0", "reviews/1", "chats/0"]


class Record:
    def __init__(self, offset: int, message: dict[str, Any]) -> None:
        self.offset, self.value = offset, orjson.dumps(message)


def text(source: str, number: int, ts: int, negative: bool, words: str = "") -> dict[str, Any]:
    words = words or f"包装破了 {random.Random(f'{source} {number}').getrandbits(60):x}"
    fingerprint = f"{random.Random(words).getrandbits(64):016x}"
    aspect = {"aspect": "packaging", "sentiment": "negative", "prob": 0.9, "evidence": [[0, 4]]}
    return {
        "kind": "text", "source": source, "seq": [number, 0], "scope": "product",
        "signal_id": f"review/{source}-{number}",
        "event_id": f"{source}-{number}", "ts": ts, "channel": "review", "product_id": "p1", "category": "c",
        "text": words, "aspects": [aspect] if negative else [], "demands": [], "late": False,
        "fingerprint": fingerprint,
    }  # fmt: skip


def mark(source: str, ts: int) -> dict[str, Any]:
    return {"kind": "watermark", "source": source, "ts": ts, "idle": False, "replay": True}


def streams(words: str = "") -> list[list[dict[str, Any]]]:
    """Five and a half hours in which packaging is bad in the third, by source, each in its own order."""
    out = []
    for place, source in enumerate(SOURCES):
        messages, number = [], 0
        for minute in range(0, 330, 5):
            bad = 120 <= minute < 180
            for copy in range(4 if bad else 1):
                number += 1
                ts = START + minute * MINUTE + place * 1_000 + copy * 10
                messages.append(text(source, number, ts, negative=bad, words=words if bad else ""))
            messages.append(mark(source, START + (minute + 5) * MINUTE))
        out.append(messages)
    return out


def interleave(parts: list[list[dict[str, Any]]], seed: int) -> list[dict[str, Any]]:
    dice, parts = random.Random(seed), [list(part) for part in parts]
    mixed = []
    while any(parts):
        part = dice.choice([part for part in parts if part])
        mixed.append(part.pop(0))
    return mixed


async def alerts(messages: list[dict[str, Any]], cut: int = 1_000, restart_at: int = -1) -> list[dict[str, Any]]:
    fusion, shards, rows = Fusion(Settings(), SOURCES, "m"), {}, []
    records = [Record(offset, message) for offset, message in enumerate(messages)]
    for start in range(0, len(records), cut):
        effects = await fusion.process(Block("signals", 0, records[start : start + cut]))
        assert not effects.rejects
        rows += effects.rows["alerts"]
        shards |= fusion.dump()
        if start >= restart_at >= 0:
            restart_at = -1
            fusion = Fusion(Settings(), SOURCES, "m")
            fusion.load(shards)
    return sorted(rows, key=lambda row: (row["alert_id"], row["updated_at"]))


async def test_the_incident_opens_and_resolves() -> None:
    states = [(row["label"], row["state"]) for row in await alerts(interleave(streams(), 0))]
    assert ("packaging", "open") in states
    assert ("packaging", "resolved") in states


@pytest.mark.parametrize("seed", range(5))
async def test_neither_interleaving_nor_block_size_nor_a_restart_changes_anything(seed: int) -> None:
    expected = await alerts(interleave(streams(), 99))
    assert await alerts(interleave(streams(), seed), cut=1 + 37 * seed, restart_at=100 * seed) == expected


async def test_what_a_source_repeats_after_a_crash_is_counted_once() -> None:
    parts = streams()
    expected = await alerts(interleave(parts, 1))
    repeated = [part[:30] + part[10:] for part in parts]
    assert await alerts(interleave(repeated, 1)) == expected


async def test_copied_texts_are_told() -> None:
    (opened, *_) = [
        row for row in await alerts(interleave(streams(words="包装太差大家别买"), 0)) if row["state"] == "open"
    ]
    assert "repeat another one" in opened["note"]
    assert all(not row["note"] for row in await alerts(interleave(streams(), 0)))


async def test_a_message_that_is_no_signal_is_refused_and_the_rest_counts() -> None:
    fusion = Fusion(Settings(), SOURCES, "m")
    bad = Record(0, {"kind": "weather"})
    effects = await fusion.process(Block("signals", 0, [bad, Record(1, text("reviews/0", 1, START, negative=True))]))
    assert len(effects.rejects) == 1
    assert effects.counts["texts"] == 1


def test_a_long_quote_is_cut_around_its_evidence() -> None:
    long = "好" * 500 + "包装破了" + "好" * 500
    candidate = quote({"text": long, "event_id": "e"}, 0.9, [(500, 504)])
    ((start, end),) = candidate.spans
    assert candidate.text[start:end] == "包装破了"
    assert len(candidate.text) <= 280
