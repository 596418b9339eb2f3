"""Reviews and chats: block → decode → preprocess and score → signals.

Each text becomes one :class:`~stream.records.Signal`: a row in the sink and a message to ``signals``, once keyed by
product and once by category, where the fusion lanes count it. Its ``mark`` there is the partition's watermark before
it, which depends on the records before it alone. One that asks for what the catalogue does not have also goes, as a
``request``, to the one lane that looks for unmet demand. What a customer says in a chat also goes to ``said``, by user,
where the click lanes join it with behaviour; and who asks gets an answer for the recommendation service at once, since
the need is explicit.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, Literal

import orjson

from serving.errors import ScoringError
from serving.scorer import Scorer
from stream.agents.clock import SourceClock
from stream.checkpoint import Changes, Segments
from stream.detect import unmet
from stream.events import Chat, Heartbeat, Review, decode
from stream.lanes import Effects
from stream.recommend.catalogue import Catalogue
from stream.recommend.rank import answer
from stream.records import Signal, to_dict
from stream.settings import Settings
from stream.transport import Block
from stream.understand import Understood, understand

STORED_CHARACTERS: Final = 4_000
RETRY_SECONDS: Final = 1.0
#: What a request has of its text.
REQUEST: Final = (
    "source", "mark", "ts", "signal_id", "event_id", "channel", "user_id", "text", "demands", "fingerprint",
)  # fmt: skip
log = logging.getLogger(__name__)


class Texts:
    """The processor of one partition of ``reviews`` or ``chats``."""

    def __init__(self, topic: str, partition: int, settings: Settings, scorer: Scorer, catalogue: Catalogue) -> None:
        self._topic = topic
        self._source = f"{topic}/{partition}"
        self._ahead = settings.ahead_ms
        self._clock = SourceClock(self._source, settings)
        self._scorer, self._catalogue = scorer, catalogue
        self._saved: bytes = b""

    @property
    def watermark(self) -> int:
        return self._clock.watermark.value

    async def process(self, block: Block) -> Effects:
        effects = Effects()
        decoded = decode(self._topic, block.records, self._ahead)
        effects.rejects = decoded.rejects
        spoken = []
        for event, offset in zip(decoded.events, decoded.offsets, strict=True):
            mark = self._clock.watermark.value
            self._clock.observe([event])
            if type(event) is Review or (type(event) is Chat and event.role == "customer"):
                spoken.append((event, offset, mark))
        understood = await self._understand([event.text for event, _, _ in spoken])
        for (event, offset, mark), reading in zip(spoken, understood, strict=True):
            signal = self._signal(event, reading, event.ts < mark)
            self._emit(effects, signal, offset, mark)
            if type(event) is Chat:
                self._say(effects, signal, offset)
                if not signal.late:
                    self._answer(effects, signal)
        self._clock.report(effects)
        beats = sum(type(event) is Heartbeat for event in decoded.events)
        effects.counts["records"] += len(block)
        effects.counts["heartbeats"] += beats
        effects.counts["agent_messages"] += len(decoded.events) - beats - len(spoken)
        effects.counts["signals"] += len(spoken)
        effects.counts["out_of_domain"] += sum(reading.score.foreign for reading in understood)
        effects.counts["late"] += sum(event.ts < mark for event, _, mark in spoken)
        return effects

    async def _understand(self, texts: list[str]) -> list[Understood]:
        """Wait out a scorer that is away: the block stays unacknowledged and back-pressure takes care of the rest."""
        while True:
            try:
                return await understand(self._scorer, texts, self._catalogue.names)
            except ScoringError as error:
                if not error.again:
                    raise
                log.warning("%s waits: %s", self._source, error)
                await asyncio.sleep(RETRY_SECONDS)

    def tick(self, silent_seconds: float, elapsed_seconds: float) -> Effects:
        effects = Effects()
        if self._clock.run_on(silent_seconds, elapsed_seconds):
            self._clock.report(effects, idle=True)
        return effects

    def resume(self, topic: str, position: int) -> int:
        return position

    def dump(self) -> Changes:
        state = orjson.dumps(self._clock.dump())
        if state == self._saved:
            return {}
        self._saved = state
        return {"clock": state}

    def load(self, segments: Segments) -> None:
        self._saved = segments["clock"]
        self._clock.load(orjson.loads(self._saved))

    def _signal(self, event: Review | Chat, reading: Understood, late: bool) -> Signal:
        product = self._catalogue.get(event.product_id)
        channel: Literal["review", "chat"] = "review" if type(event) is Review else "chat"
        return Signal(
            signal_id=f"{channel}/{event.event_id}",
            event_id=event.event_id,
            ts=event.ts,
            channel=channel,
            user_id=event.user_id,
            product_id=event.product_id,
            category=product.category if product else "",
            session_id=event.session_id if type(event) is Chat else "",
            rating=event.rating if type(event) is Review else 0,
            late=late,
            **reading.signal_fields(STORED_CHARACTERS),
        )

    def _emit(self, effects: Effects, signal: Signal, offset: int, mark: int) -> None:
        row = to_dict(signal)
        effects.rows["signals"].append(row)
        message: dict[str, Any] = {"kind": "text", "source": self._source, "mark": mark, **row}
        if signal.product_id:
            effects.messages.append(
                ("signals", signal.product_id, {**message, "seq": [offset, 0], "scope": "product"}, None)
            )
        if signal.category:
            effects.messages.append(
                ("signals", f"category/{signal.category}", {**message, "seq": [offset, 1], "scope": "category"}, None)
            )
        product = self._catalogue.get(signal.product_id)
        if terms := unmet.missing_terms(row, product.text if product else ""):
            request = {"kind": "request", "seq": [offset, 2], "terms": terms}
            request |= {name: message[name] for name in REQUEST}
            effects.messages.append(("signals", unmet.PLACE, request, None))

    def _say(self, effects: Effects, signal: Signal, offset: int) -> None:
        message: dict[str, Any] = {
            "kind": "said",
            "source": self._source,
            "seq": [offset, 0],
            "ts": signal.ts,
            "signal_id": signal.signal_id,
            "user_id": signal.user_id,
            "session_id": signal.session_id,
            "product_id": signal.product_id,
            "score": signal.sentiment["score"],
            "demands": [demand["demand"] for demand in signal.demands],
            "late": signal.late,
        }
        effects.messages.append(("said", signal.user_id, message, None))

    def _answer(self, effects: Effects, signal: Signal) -> None:
        recommendation = answer(signal, self._catalogue)
        if recommendation is not None:
            row = to_dict(recommendation)
            effects.rows["recommendations"].append(row)
            effects.messages.append(("recommendations", signal.user_id, row, None))
