"""Fusion: signals of one product (or category) from all sources → panes → rows of ``windows``, detectors → alerts.

The lane counts what the source lanes send, closes a pane when the joint watermark of all sources has passed it, writes
its tallies and lets the detectors look. A message that was counted before (a source lane went back to its last
checkpoint) is known by its source and sequence and skipped: the sequence of a source grows, and a lane repeats itself
in the same order.

**Late messages.** Each message has a *mark*: its source's watermark just before it, rounded down to a pane boundary
(``mark`` of a text; one pane before the boundary at which a click lane sends). Marks of a source grow, and it reports a
boundary after every message with an earlier mark. A message for a pane that ends after its mark is on time: the lane
counts it at once, since the joint watermark cannot have passed that pane before the source's own. Any other message is
a correction: it is held and counted at the boundary ``mark + pane_ms``. When the joint watermark comes to a boundary,
each source has reported it, so exactly the corrections with earlier marks are there. What is counted when thus depends
on each source's own sequence and not on how the sources interleave, where blocks end, what is repeated, or restarts.
A correction adds to its closed pane, whose rows are written again with the next revision, and to the sliding windows
that are judged from this boundary on; alerts told before stay as they are. Where the mark is ``correct_ms`` or more
past the end of the pane, the message is too late: it is counted as ``dropped_late`` and nowhere else.

(In live operation the clock may run past a silent source. Then the lane's own position takes the place of the mark, and
the order in ``signals`` decides; still neither blocks nor restarts do.)

**Memory** is bounded by ``max_keys`` tallies in a pane (see :mod:`stream.windows.tallies` for which ones stay; those
dropped are counted as ``overflow``), kept until the pane can no longer be corrected; by the ids of the texts in the
sliding window; and by the detectors' own bound on silent series.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain
from operator import add
from typing import Any, Final, NamedTuple

import orjson

from stream.checkpoint import Changes, Segments
from stream.detect.cells import Candidate, Cell, Key, Source
from stream.detect.copies import Copies, Text, place
from stream.detect.engine import Engine
from stream.detect.rules import DEFAULT_RULES
from stream.events import Reject
from stream.journal import Journal
from stream.lanes import Effects
from stream.records import Alert, Span, to_dict
from stream.settings import Settings
from stream.transport import Block
from stream.windows.behaviour import PANE_FEATURES
from stream.windows.tallies import Tally, Where, beyond, rank, window_columns
from stream.windows.watermark import MinWatermark

QUOTE_CHARACTERS: Final = 280
INTEGERS: Final = frozenset({int})
Message = dict[str, Any]
Pane = dict[Where, Tally]


class Said(NamedTuple):
    """What is counted of a text: ``counts`` are TEXT_FEATURES, an opinion is (label, probability, evidence)."""

    where: Where
    text_id: str
    text: Text
    source: Source
    counts: tuple[int, ...]
    opinions: list[tuple[str, float, list[Span]]]
    message: Message


class Fusion:
    """The processor of one partition of ``signals``."""

    def __init__(self, settings: Settings, sources: Iterable[str], model: str) -> None:
        self._length, self._correct = settings.pane_ms, settings.correct_ms
        self._window = settings.window_panes * settings.pane_ms
        self._limit = settings.max_keys
        self._clock = MinWatermark(sources)
        self._closed_to = 0
        self._applied: dict[str, list[int]] = {}
        self._panes: dict[int, Pane] = defaultdict(dict)  # open, and closed ones that may still be corrected
        self._late: dict[int, dict[tuple[Any, ...], Message]] = defaultdict(dict)  # by the boundary that counts them
        self._copies = Copies()
        rules = [replace(rule, shop_per_day=rule.shop_per_day / settings.partitions) for rule in DEFAULT_RULES]
        self._engine = Engine(rules, settings.pane_ms, settings.window_panes, model=model, max_silent=settings.max_keys)
        self._notes: dict[str, str] = {}  # of open alerts
        self._saved = b""
        self._tallied = Journal[Where]("panes", lambda start: self._panes[start], self._tally)
        self._read = Journal[str]("texts", self._copies.ids, self._copies.row)
        self._held = Journal[tuple[Any, ...]](
            "late", lambda due: self._late[due], lambda due, key: self._late[due][key]
        )
        self._series = Journal[tuple[str, ...]](
            "series", lambda _: map(tuple, self._engine.known_keys()), self._baseline
        )
        self._noted = Journal[str]("notes", lambda _: self._notes, lambda _, alert_id: self._notes.get(alert_id))
        self._handlers = {"text": self._text, "panes": self._behaviour, "watermark": self._watermark}

    @property
    def watermark(self) -> int:
        return self._clock.value

    async def process(self, block: Block) -> Effects:
        effects = Effects()
        for record in block.records:
            try:
                message = orjson.loads(record.value)
                effects.counts[self._handlers[message["kind"]](message, effects)] += 1
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                effects.rejects.append(Reject(record.offset, f"not a signal: {error!r}", record.value or b""))
            if self._clock.value >= self._closed_to + self._length:
                self._advance(effects)
        effects.counts["records"] += len(block)
        return effects

    def tick(self, silent_seconds: float, elapsed_seconds: float) -> Effects:
        return Effects()

    def resume(self, topic: str, position: int) -> int:
        return position

    # Messages; each gives the name of the count it goes under

    def _watermark(self, message: Message, effects: Effects) -> str:
        self._clock.report(message["source"], message["ts"], message["idle"], message["replay"])
        return "watermarks"

    def _text(self, message: Message, effects: Effects) -> str:
        said, start = read_text(message), self._floor(message["ts"])
        if self._repeated(message):
            return "repeated"
        if late := self._hold(message, start, message["mark"]):
            return late
        if not self._remember(start, said):
            return "redelivered"
        pane = self._panes[start]
        count_text(pane, said)
        self._tallied.changed[start].add(said.where)
        self._make_room(start, effects, self._limit + self._limit // 8)
        return "texts"

    def _behaviour(self, message: Message, effects: Effects) -> str:
        places, counts = read_behaviour(message)
        start = self._floor(message["pane"])
        if self._repeated(message):
            return "repeated"
        if late := self._hold(message, start, message["seq"][0] - self._length):
            return late
        count_behaviour(self._panes[start], places, counts)
        self._tallied.changed[start].update(places)
        self._make_room(start, effects, self._limit + self._limit // 8)
        return "panes"

    def _repeated(self, message: Message) -> bool:
        last = self._applied.get(message["source"])
        if last is not None and message["seq"] <= last:
            return True
        self._applied[message["source"]] = message["seq"]
        return False

    def _hold(self, message: Message, start: int, mark: int) -> str:
        """Keep a correction until its boundary; "" for a message that is on time."""
        mark = max(self._floor(mark), self._closed_to)
        if start >= mark:
            return ""
        if start + self._length + self._correct <= mark:
            return "dropped_late"
        due, key = mark + self._length, (message["source"], *message["seq"])
        self._late[due][key] = message
        self._held.changed[due].add(key)
        return "late"

    def _remember(self, start: int, said: Said) -> bool:
        """Whether a text is new in its pane."""
        new = self._copies.add(start, said.text_id, said.text)
        if new:
            self._read.changed[start].add(said.text_id)
        return new

    def _make_room(self, start: int, effects: Effects, room: int) -> None:
        """Drop the tallies beyond the limit once there are more than ``room``."""
        pane = self._panes[start]
        if len(pane) > room:
            for where in beyond(pane, self._limit):
                del pane[where]
                self._tallied.changed[start].add(where)
                effects.counts["overflow"] += 1

    # Time

    def _floor(self, ts: int) -> int:
        return ts - ts % self._length

    def _advance(self, effects: Effects) -> None:
        """Pass the boundaries up to the joint watermark, one after the other; those where nothing happens but the last
        are left out."""
        last = self._floor(self._clock.value)
        ends = {start + self._length for start in self._panes if self._closed_to <= start < last}
        for end in sorted({last, *ends, *(due for due in self._late if due < last)}):
            self._closed_to = end
            late = self._correct_panes(end, effects)
            for alert in self._engine.step(end - self._length, self._close(end - self._length, effects), late):
                self._tell(alert, effects)
            self._forget(end)

    def _close(self, start: int, effects: Effects) -> dict[Key, Cell]:
        """Write the rows of a pane; what the detectors count of it."""
        if start not in self._panes:
            return {}
        self._make_room(start, effects, self._limit)
        cells: dict[Key, Cell] = {}
        rows = []
        for where, tally in self._panes[start].items():
            rows.append(tally.row(start, where))
            cells.update(tally.cells(where))
            tally.without_quotes()
        if rows:
            effects.columns["windows"].append(window_columns(rows))
        effects.counts["windows"] += len(rows)
        return cells

    def _correct_panes(self, boundary: int, effects: Effects) -> dict[int, dict[Key, Cell]]:
        """Count the corrections that are due; what the detectors count of them, by pane."""
        cells: dict[int, dict[Key, Cell]] = {}
        for start, pane in self._corrections(boundary, effects).items():
            cells[start] = {}
            for where in sorted(pane, key=rank):
                tally = self._panes[start].get(where)
                if tally is None:
                    if len(self._panes[start]) >= self._limit:
                        effects.counts["overflow"] += 1
                        continue
                    tally = self._panes[start][where] = Tally()
                cells[start].update(pane[where].cells(where))
                pane[where].without_quotes()
                tally.add(pane[where])
                tally.revision += 1
                self._tallied.changed[start].add(where)
                effects.columns["windows"].append(window_columns([tally.row(start, where)]))
                effects.counts["corrected"] += 1
        return cells

    def _corrections(self, boundary: int, effects: Effects) -> dict[int, Pane]:
        additions: dict[int, Pane] = defaultdict(dict)
        for _, message in sorted(self._late.pop(boundary, {}).items()):
            if message["kind"] == "panes":
                count_behaviour(additions[self._floor(message["pane"])], *read_behaviour(message))
                continue
            said, start = read_text(message), self._floor(message["ts"])
            if self._remember(start, said):
                count_text(additions[start], said)
            else:
                effects.counts["redelivered"] += 1
        self._held.drop(boundary)
        return additions

    def _forget(self, now: int) -> None:
        """Let go of what no correction and no window can touch from the boundary ``now`` on."""
        for start in [start for start in self._panes if start + self._length + self._correct <= now]:
            del self._panes[start]
            self._tallied.drop(start)
        kept = max(self._length + self._correct, self._window)
        for start in [start for start in self._copies.panes if start + kept <= now]:
            self._copies.forget(start)
            self._read.drop(start)

    def _tell(self, alert: Alert, effects: Effects) -> None:
        row = to_dict(alert) | {"note": self._note(alert)}
        effects.rows["alerts"].append(row)
        effects.messages.append(("alerts", alert.alert_id, row, None))
        effects.counts[f"alerts_{alert.state}"] += 1

    def _note(self, alert: Alert) -> str:
        """What else there is to say of an alert; the last word stays with it when its window has passed."""
        self._noted.changed[0].add(alert.alert_id)
        if alert.state == "resolved":
            return self._notes.pop(alert.alert_id, "")
        note = self._notes[alert.alert_id] = self._copies.note(alert)
        return note

    # State

    def _tally(self, start: int, where: Where) -> list[Any] | None:
        tally = self._panes[start].get(where)
        return tally.to_list() if tally else None

    def _baseline(self, _: int, series: tuple[str, ...]) -> list[Any] | None:
        return self._engine.snapshot(Key(*series)) or None  # type: ignore[arg-type]

    def dump(self) -> Changes:
        self._series.changed[0].update(map(tuple, self._engine.dirty_keys()))
        self._engine.mark_saved()
        changes: dict[str, bytes | None] = {}
        for journal in (self._tallied, self._read, self._held, self._series, self._noted):
            changes |= journal.dump()
        clock = orjson.dumps([self._clock.dump(), self._closed_to, self._applied])
        if clock != self._saved:
            changes["clock"] = self._saved = clock
        return changes

    def load(self, segments: Segments) -> None:
        self._saved = segments["clock"]
        clock, self._closed_to, self._applied = orjson.loads(self._saved)
        self._clock.load(clock)
        for start, where, row in self._tallied.load(segments):
            tally = self._panes[start][where] = Tally.from_list(row)
            if start < self._closed_to:
                tally.without_quotes()
        for start, text_id, row in self._read.load(segments):
            self._copies.add(start, text_id, Text(*row))
        for due, key, message in self._held.load(segments):
            self._late[due][key] = message
        for _, series, row in self._series.load(segments):
            self._engine.restore(Key(*series), row)  # type: ignore[arg-type]
        for _, alert_id, note in self._noted.load(segments):
            self._notes[alert_id] = note


# Reading checks all of a message before anything is counted


def read_text(message: Message) -> Said:
    """A message of kind "text". Raises KeyError, TypeError or ValueError where it is none."""
    scope, category, rating = message["scope"], message["category"], message["rating"]
    where: Where = (scope, message["product_id"] if scope == "product" else "", category)
    review = message["channel"] == "review"
    opinions = [
        (f"negative/{aspect['aspect']}", aspect["prob"], aspect["evidence"])
        for aspect in message["aspects"]
        if aspect["sentiment"] == "negative"
    ]
    opinions += [(f"demand/{demand['demand']}", demand["prob"], demand["evidence"]) for demand in message["demands"]]
    counts = (int(review), int(not review), int(message["sentiment"]["label"] == "negative"), rating, int(rating > 0))
    text = Text(place(*where), message["ts"], int(message["fingerprint"], 16))
    source: Source = "reviews" if review else "chats"
    return Said(where, f"{scope}/{message['signal_id']}", text, source, counts, opinions, message)


def read_behaviour(message: Message) -> tuple[list[Where], list[tuple[int, ...]]]:
    """A message of kind "panes": places and their PANE_FEATURES. Raises as :func:`read_text` does."""
    columns = message["columns"]
    features = [columns[name] for name in PANE_FEATURES]
    if not INTEGERS.issuperset(map(type, chain.from_iterable(features))):
        raise TypeError("counts of behaviour are whole numbers")
    counts = list(zip(*features, strict=True))
    scopes = [message["scope"]] * len(counts)
    return list(zip(scopes, columns["product_id"], columns["category"], strict=True)), counts


def count_text(pane: Pane, said: Said) -> None:
    tally = pane.get(said.where)
    if tally is None:
        tally = pane[said.where] = Tally()
    tally.texts = tuple(map(add, tally.texts, said.counts))
    for label, prob, evidence in said.opinions:
        cell = tally.labels.get(label)
        if cell is None:
            cell = tally.labels[label] = Cell()
        cell.add(said.source, 1.0, quote(said.message, prob, evidence) if cell.admits(prob) else None)


def count_behaviour(pane: Pane, places: list[Where], counts: list[tuple[int, ...]]) -> None:
    for where, row in zip(places, counts, strict=True):
        tally = pane.get(where)
        if tally is None:
            pane[where] = Tally(row)
        else:
            tally.behaviour = tuple(map(add, tally.behaviour, row))


def quote(message: Mapping[str, Any], prob: float, spans: list[Span]) -> Candidate:
    """A text as evidence: cut to the neighbourhood of its first span when it is long."""
    text = message["text"]
    start = 0
    if len(text) > QUOTE_CHARACTERS and spans:
        start = max(0, min(spans[0][0] - QUOTE_CHARACTERS // 4, len(text) - QUOTE_CHARACTERS))
    end = start + QUOTE_CHARACTERS
    inside = tuple((a - start, b - start) for a, b in spans if start <= a and b <= end)
    return Candidate(prob, message["event_id"], text[start:end], inside)
