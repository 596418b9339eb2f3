"""Clicks: block → decode → wait for the watermark → sessions and product panes → triggers and behaviour signals.

Clicks are held until the watermark passes them and then taken in the order of event time, so sessions and panes do not
depend on the order of arrival, and a redelivered click is dropped where it lies beside itself. A closed pane goes to
``signals`` as the whole count of one product, not as a change, so sending it again is harmless.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Any, Final
from zlib import crc32

import orjson

from stream.agents.clock import SourceClock
from stream.checkpoint import Shards
from stream.events import Click, Heartbeat, decode
from stream.lanes import Effects
from stream.recommend.catalogue import Catalogue
from stream.recommend.intent import Intent
from stream.recommend.rank import trigger
from stream.records import to_dict
from stream.settings import Settings
from stream.transport import Block
from stream.windows.panes import Panes
from stream.windows.sessions import Open, Sessions

SHARDS: Final = 16


class Clicks:
    """The processor of one partition of ``clicks``."""

    def __init__(self, partition: int, settings: Settings, catalogue: Catalogue) -> None:
        self._source = f"clicks/{partition}"
        self._ahead = settings.ahead_ms
        self._clock = SourceClock(self._source, settings)
        self._catalogue = catalogue
        self._waiting: list[Click] = []
        self._last: Click | None = None  # the newest click taken: a copy of it may still come
        self._sessions = Sessions(settings.session_gap_ms, settings.session_max_ms)
        self._panes: Panes[str, Counter[str]] = Panes(settings.pane_ms, Counter)
        self._touched: set[int] = set()

    @property
    def watermark(self) -> int:
        return self._clock.watermark.value

    async def process(self, block: Block) -> Effects:
        effects = Effects()
        decoded = decode("clicks", block.records, self._ahead)
        effects.rejects = decoded.rejects
        late = self._clock.observe(decoded.events)
        clicks = [event for event in decoded.events if type(event) is not Heartbeat]
        on_time = [
            event for event, is_late in zip(decoded.events, late, strict=True) if not is_late and type(event) is Click
        ]
        self._waiting += on_time
        effects.counts["records"] += len(block)
        effects.counts["heartbeats"] += len(decoded.events) - len(clicks)
        effects.counts["late"] += len(clicks) - len(on_time)
        self._advance(effects)
        self._clock.report(effects)
        return effects

    def tick(self, silent_seconds: float, elapsed_seconds: float) -> Effects:
        effects = Effects()
        if self._clock.run_on(silent_seconds, elapsed_seconds):
            self._advance(effects)
            self._clock.report(effects, idle=True)
        return effects

    def _advance(self, effects: Effects) -> None:
        """Take the clicks that the watermark has passed, then close what it has ended."""
        watermark = self._clock.watermark.value
        self._waiting.sort()
        cut = bisect_left(self._waiting, watermark, key=lambda click: click.ts)
        ready, self._waiting = self._waiting[:cut], self._waiting[cut:]
        for click in ready:
            if self._last is not None and click.event_id == self._last.event_id:
                effects.counts["redelivered"] += 1
                continue
            self._last = click
            self._take(click, effects)
        for session in self._sessions.close(watermark):
            self._end(session, effects)
        for start, cells in self._panes.close(watermark):
            self._send_pane(start, cells, effects)

    def _take(self, click: Click, effects: Effects) -> None:
        effects.counts["clicks"] += 1
        over, intents, session = self._sessions.observe(click, self._catalogue)
        self._touched.add(shard(click.user_id))
        if over is not None:
            self._end(over, effects)
        for intent in intents:
            self._trigger(intent, click.ts, session, effects)
        product_id, action = click.product_id, click.action
        if action == "search" and click.results == 0:
            product_id, action = self._missed(click.query), "empty_search"
        if product_id:
            cell = self._panes.cell(click.ts, product_id)
            assert cell is not None, "clicks are taken before their pane closes"
            cell[action] += 1

    def _missed(self, query: str) -> str:
        """The product that an empty search was most likely for."""
        best = next(iter(self._catalogue.search(query, 1)), None)
        return best[0].product_id if best else ""

    def _end(self, session: Open, effects: Effects) -> None:
        self._touched.add(shard(session.user_id))
        for intent in session.behaviour.close():
            self._trigger(intent, session.last, session, effects)
        effects.rows["sessions"].append(to_dict(session.record()))
        effects.counts["sessions"] += 1

    def _trigger(self, intent: Intent, ts: int, session: Open, effects: Effects) -> None:
        recommendation = trigger(
            intent, ts=ts, user_id=session.user_id, session_id=session.session_id, catalogue=self._catalogue
        )
        if recommendation.products:
            row = to_dict(recommendation)
            effects.rows["recommendations"].append(row)
            effects.messages.append(("recommendations", session.user_id, row, None))
            effects.counts["recommendations"] += 1

    def _send_pane(self, start: int, cells: dict[str, Counter[str]], effects: Effects) -> None:
        for product_id, counts in sorted(cells.items()):
            product = self._catalogue.get(product_id)
            message: dict[str, Any] = {
                "kind": "pane",
                "source": self._source,
                "seq": [start, product_id],
                "pane": start,
                "product_id": product_id,
                "category": product.category if product else "",
                "counts": dict(counts),
            }
            effects.messages.append(("signals", product_id, message, None))
            effects.counts["panes"] += 1

    # State

    def dump(self) -> Shards:
        panes = [[start, cells] for start, cells in self._panes.open.items()]
        waiting, last = [list(click) for click in self._waiting], list(self._last) if self._last else None
        shards = {"clock": orjson.dumps([self._clock.dump(), self._panes.closed_to, panes, waiting, last])}
        sessions: dict[int, list[Any]] = defaultdict(list)
        for session in self._sessions.open.values():
            number = shard(session.user_id)
            if number in self._touched:
                sessions[number].append(session.to_list())
        shards.update((f"sessions/{number}", orjson.dumps(sessions[number])) for number in self._touched)
        self._touched.clear()
        return shards

    def load(self, shards: Shards) -> None:
        clock, self._panes.closed_to, panes, waiting, last = orjson.loads(shards["clock"])
        self._clock.load(clock)
        self._panes.open = {start: {key: Counter(counts) for key, counts in cells.items()} for start, cells in panes}
        self._waiting = [Click(*click) for click in waiting]
        self._last = Click(*last) if last else None
        for name, data in shards.items():
            if name.startswith("sessions/"):
                for state in orjson.loads(data):
                    self._sessions.add(Open.from_list(state))


def shard(user_id: str) -> int:
    """The shard of a shopper's session."""
    return crc32(user_id.encode()) % SHARDS
