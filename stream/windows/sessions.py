"""Session windows: one shopper's clicks with no gap longer than ``gap``, at most ``longest`` from first to last.

Clicks must come in the order of event time (the click lane releases them at its watermark), so a session does not
depend on arrival. A session ends when the watermark has passed its last click by ``gap``, or when the shopper's next
click proves it over.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from stream.events import Click
from stream.recommend.catalogue import Catalogue
from stream.recommend.intent import Behaviour, Intent
from stream.records import Session, content_id


@dataclass(slots=True)
class Open:
    """A session under way; times in epoch milliseconds."""

    user_id: str
    session_id: str
    started: int
    last: int
    behaviour: Behaviour = field(default_factory=Behaviour)

    def record(self) -> Session:
        """The session as it leaves the worker."""
        seen = self.behaviour
        return Session(
            session_key=content_id(self.user_id, self.started),
            user_id=self.user_id,
            session_id=self.session_id,
            started_at=self.started,
            ended_at=self.last,
            views=seen.views,
            searches=seen.searches,
            empty_searches=seen.empty_searches,
            carts=seen.carts,
            purchases=seen.purchases,
            products=seen.products,
            intent=seen.intent,
        )

    def to_list(self) -> list[Any]:
        return [self.user_id, self.session_id, self.started, self.last, self.behaviour.to_list()]

    @classmethod
    def from_list(cls, state: list[Any]) -> Open:
        user_id, session_id, started, last, behaviour = state
        return cls(user_id, session_id, started, last, Behaviour.from_list(behaviour))


class Sessions:
    """The open sessions of a partition; memory is bounded by the shoppers seen within the last ``gap``."""

    def __init__(self, gap: int, longest: int) -> None:
        self.open: dict[str, Open] = {}
        self._gap, self._longest = gap, longest
        self._ends: list[tuple[int, str]] = []  # earliest possible end, user; outdated entries are put back

    def observe(self, click: Click, catalogue: Catalogue) -> tuple[Open | None, list[Intent], Open]:
        """Take in a click: the session it proves over, the intents it completes, and the session it belongs to."""
        session, over = self.open.get(click.user_id), None
        if session is not None and (click.ts - session.last > self._gap or click.ts - session.started > self._longest):
            over, session = session, None
        if session is None:
            session = Open(click.user_id, click.session_id, click.ts, click.ts)
            self.add(session)
        session.last = click.ts
        intents = session.behaviour.update(
            click.action, click.product_id, click.query, click.results, click.price, catalogue
        )
        return over, intents, session

    def add(self, session: Open) -> None:
        self.open[session.user_id] = session
        heapq.heappush(self._ends, (session.last + self._gap, session.user_id))

    def close(self, watermark: int) -> Iterator[Open]:
        """The sessions that ended before ``watermark``."""
        while self._ends and self._ends[0][0] < watermark:
            _, user = heapq.heappop(self._ends)
            session = self.open.get(user)
            if session is None:
                continue
            if session.last + self._gap < watermark:
                yield self.open.pop(user)
            else:
                heapq.heappush(self._ends, (session.last + self._gap, user))
