"""Fusion: signals of one product (or category) from all sources → panes → detectors → alerts.

The lane counts what the source lanes send, closes a pane when the joint watermark of all sources has passed it, and
lets the detectors look. A message that was counted before (a source lane went back to its last checkpoint) is known by
its source and sequence and skipped: the sequence of a source grows, and a lane repeats itself in the same order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final
from zlib import crc32

import orjson

from stream.checkpoint import Shards
from stream.detect.cells import Candidate, Cell, Key, Source
from stream.detect.copies import Copies
from stream.detect.engine import Engine
from stream.detect.rules import DEFAULT_RULES
from stream.events import Reject
from stream.lanes import Effects
from stream.records import Alert, Span, to_dict
from stream.settings import Settings
from stream.transport import Block
from stream.windows.panes import Panes
from stream.windows.watermark import MinWatermark

SHARDS: Final = 16
QUOTE_CHARACTERS: Final = 280
#: What shoppers do that speaks for a demand, and how much against a text that says it.
BEHAVIOUR: Final = {"return": ("return_refund", 0.5), "empty_search": ("restock", 0.5)}


class Fusion:
    """The processor of one partition of ``signals``."""

    def __init__(self, settings: Settings, sources: Iterable[str], model: str) -> None:
        self._clock = MinWatermark(sources)
        self._panes: Panes[Key, Cell] = Panes(settings.pane_ms, Cell)
        rules = [replace(rule, shop_per_day=rule.shop_per_day / settings.partitions) for rule in DEFAULT_RULES]
        self._engine = Engine(rules, pane_ms=settings.pane_ms, window_panes=settings.window_panes, model=model)
        self._copies = Copies(settings.window_panes * settings.pane_ms)
        self._notes: dict[str, str] = {}  # of open alerts
        self._applied: dict[str, list[Any]] = {}
        self._seen: dict[int, set[str]] = defaultdict(set)  # ids by open pane: a redelivered event counts once
        self._touched: set[int] = set()
        self._keys: dict[int, set[Key]] = defaultdict(set)

    @property
    def watermark(self) -> int:
        return self._clock.value

    async def process(self, block: Block) -> Effects:
        effects = Effects()
        for record in block.records:
            try:
                message = orjson.loads(record.value)
                handle = {"text": self._text, "pane": self._behaviour, "watermark": self._watermark}[message["kind"]]
                effects.counts[handle(message)] += 1
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                effects.rejects.append(Reject(record.offset, f"not a signal: {error!r}", record.value or b""))
        effects.counts["records"] += len(block)
        self._close(effects)
        return effects

    def tick(self, silent_seconds: float, elapsed_seconds: float) -> Effects:
        return Effects()

    # Messages; each gives the name of the count it goes under

    def _watermark(self, message: dict[str, Any]) -> str:
        self._clock.report(message["source"], message["ts"], message["idle"], message["replay"])
        return "watermarks"

    def _text(self, message: dict[str, Any]) -> str:
        if self._repeated(message):
            return "repeated"
        if message["late"]:
            return "late"
        start = self._panes.start_of(message["ts"])
        if start < self._panes.closed_to:
            return "late"
        identity = f"{message['scope']}/{message['signal_id']}"
        if identity in self._seen[start]:
            return "redelivered"
        self._seen[start].add(identity)
        source: Source = "reviews" if message["channel"] == "review" else "chats"
        where = (message["scope"], message["product_id"] if message["scope"] == "product" else "", message["category"])
        volume = Key("volume", *where, "")
        self._cell(message["ts"], volume).add(source)
        self._copies.add(volume.shard, message["ts"], message["signal_id"], message["fingerprint"])
        for aspect in message["aspects"]:
            if aspect["sentiment"] == "negative":
                key = Key("negative_spike", *where, aspect["aspect"])
                self._cell(message["ts"], key).add(source, 1.0, quote(message, aspect["prob"], aspect["evidence"]))
        for demand in message["demands"]:
            key = Key("demand_surge", *where, demand["demand"])
            self._cell(message["ts"], key).add(source, 1.0, quote(message, demand["prob"], demand["evidence"]))
        return "texts"

    def _behaviour(self, message: dict[str, Any]) -> str:
        if self._repeated(message):
            return "repeated"
        if message["pane"] < self._panes.closed_to:
            return "late"
        for name, (demand, weight) in BEHAVIOUR.items():
            count = message["counts"].get(name, 0)
            if count:
                key = Key("demand_surge", "product", message["product_id"], message["category"], demand)
                self._cell(message["pane"], key).add("clicks", weight * count)
        return "panes"

    def _repeated(self, message: dict[str, Any]) -> bool:
        last = self._applied.get(message["source"])
        if last is not None and message["seq"] <= last:
            return True
        self._applied[message["source"]] = message["seq"]
        return False

    def _cell(self, ts: int, key: Key) -> Cell:
        cell = self._panes.cell(ts, key)
        assert cell is not None, "callers have checked that the pane is open"
        self._touched.add(shard(key))
        return cell

    # Time

    def _close(self, effects: Effects) -> None:
        for start, cells in self._panes.close(self._clock.value):
            self._touched.update(map(shard, cells))
            self._seen.pop(start, None)
            for alert in self._engine.step(start, cells):
                row = to_dict(alert) | {"note": self._note(alert)}
                effects.rows["alerts"].append(row)
                effects.messages.append(("alerts", alert.alert_id, row, None))
                effects.counts[f"alerts_{alert.state}"] += 1

        self._copies.forget(self._panes.closed_to)

    def _note(self, alert: Alert) -> str:
        """What else there is to say of an alert; the last word stays with it when its window has passed."""
        if alert.state == "resolved":
            return self._notes.pop(alert.alert_id, "")
        note = self._notes[alert.alert_id] = self._copies.note(alert)
        return note

    # State

    def dump(self) -> Shards:
        shards = {
            "clock": orjson.dumps(
                [
                    self._clock.dump(),
                    self._panes.closed_to,
                    self._applied,
                    [[start, sorted(ids)] for start, ids in self._seen.items()],
                    self._copies.dump(),
                    self._notes,
                ]
            )
        }
        cells: dict[int, list[Any]] = {number: [] for number in self._touched}
        for start, pane in self._panes.open.items():
            for key, cell in pane.items():
                if shard(key) in cells:
                    cells[shard(key)].append([start, list(key), cell.reviews, cell.chats, cell.clicks, quotes(cell)])
        shards.update((f"open/{number}", orjson.dumps(listed)) for number, listed in cells.items())
        dirty = self._engine.dirty_keys()
        for key in dirty:
            self._keys[shard(key)].add(key)
        for number in {shard(key) for key in dirty}:
            states = [[list(key), self._engine.snapshot(key)] for key in sorted(self._keys[number])]
            shards[f"keys/{number}"] = orjson.dumps([entry for entry in states if entry[1]])
            self._keys[number] = {Key(*key) for key, state in states if state}
        self._engine.mark_saved()
        self._touched.clear()
        return shards

    def load(self, shards: Shards) -> None:
        clock, closed_to, self._applied, seen, copies, self._notes = orjson.loads(shards["clock"])
        self._clock.load(clock)
        self._panes.closed_to = closed_to
        self._copies.load(copies)
        self._seen.update((start, set(ids)) for start, ids in seen)
        for name, data in shards.items():
            if name.startswith("open/"):
                for start, key, reviews, chats, clicks, listed in orjson.loads(data):
                    candidates = [
                        Candidate(score, event_id, text, tuple((a, b) for a, b in spans))
                        for score, event_id, text, spans in listed
                    ]
                    self._panes.open.setdefault(start, {})[Key(*key)] = Cell(reviews, chats, clicks, candidates)
            elif name.startswith("keys/"):
                for key, state in orjson.loads(data):
                    self._engine.restore(Key(*key), state)
                    self._keys[shard(Key(*key))].add(Key(*key))


def shard(key: Key) -> int:
    """The shard of everything about a product or category."""
    return crc32(key.shard.encode()) % SHARDS


def quotes(cell: Cell) -> list[Any]:
    return [list(candidate) for candidate in cell.quotes]


def quote(message: dict[str, Any], prob: float, spans: list[Span]) -> Candidate:
    """A text as evidence: cut to the neighbourhood of its first span when it is long."""
    text = message["text"]
    start = 0
    if len(text) > QUOTE_CHARACTERS and spans:
        start = max(0, min(spans[0][0] - QUOTE_CHARACTERS // 4, len(text) - QUOTE_CHARACTERS))
    end = start + QUOTE_CHARACTERS
    inside = tuple((a - start, b - start) for a, b in spans if start <= a and b <= end)
    return Candidate(prob, message["event_id"], text[start:end], inside)
