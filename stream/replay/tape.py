"""Which events of a source are played, in which order and at which time. Pure.

A :class:`Tape` is iterated once, while others may wind it: :meth:`Tape.seek`. Who plays it tells it what was sent and
puts back what was not because of that. Forward, events are left out. Event time
never goes back in the topics, so backward, and from the end to the start of a loop, the source is read again with all
event times moved on, by whole panes, to just after the newest event that was played; what is played again has event
ids of its own (``c7-5#1``), or it would pass for a second delivery.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

from stream.events import SOURCES
from stream.replay.events import Event

PANE_MS: Final = 300_000


class Source(Protocol):
    """Events that can be read again from the start."""

    def __iter__(self) -> Iterator[Event]: ...

    def done(self) -> float:
        """How much of it the latest iteration has given, from 0 to 1."""


class Selection(NamedTuple):
    """Which events are taken. None takes all; times are epoch ms, ``end`` exclusive.

    Catalogue records are always taken. ``kinds`` are topics (``chats``) or actions of clicks (``purchase``). A record
    that cannot be read has neither product nor user.
    """

    begin: int | None = None
    end: int | None = None
    products: frozenset[str] | None = None
    users: frozenset[str] | None = None
    kinds: frozenset[str] | None = None

    def takes(self, event: Event) -> bool:
        if event.topic == "catalog":
            return True
        if (self.begin is not None and event.ts < self.begin) or (self.end is not None and event.ts >= self.end):
            return False
        value = event.value if isinstance(event.value, dict) else {}
        return (
            (self.products is None or value.get("product_id") in self.products)
            and (self.users is None or value.get("user_id") in self.users)
            and (self.kinds is None or event.topic in self.kinds or value.get("action") in self.kinds)
        )


class Tape:
    """The selected events of ``source`` as they are to be sent.

    ``shift_to`` moves all event times by whole panes, so that the first event comes at most one pane before that time.
    With ``loop`` it goes on from the start whenever it ends.
    """

    def __init__(
        self,
        source: Source,
        selection: Selection = Selection(),  # noqa: B008 (immutable)
        *,
        shift_to: int | None = None,
        loop: bool = False,
        pane_ms: int = PANE_MS,
    ) -> None:
        self._source, self._selection, self._loop, self._pane = source, selection, loop, pane_ms
        self._shift_to = shift_to
        self._takes_all = selection == Selection()
        self._events: Iterator[Event] = iter(())
        self._not_before = 0
        self._first: int | None = None  # recorded time of the first event
        self._any = False  # whether this round has given one
        self._in_hand: Event | None = None
        self._returned: Event | None = None
        self.shift = 0  # added to every event time
        self.round = 0  # how often it was wound back
        self.position = 0  # newest recorded time that was sent since then
        self.clock = 0  # newest event time that was sent

    def __iter__(self) -> Iterator[Event]:
        self._events = iter(self._source)
        while True:
            event, self._returned = self._returned or next(self._events, None), None
            if event is not None:
                if self._wanted(event):
                    self._in_hand = event
                    yield self._moved(event)
            elif self._loop and self._any and self._first is not None:
                self._wind_back(self._first)
            else:
                return

    def sent(self, ts: int) -> None:
        """The event in hand was sent, with the time ``ts``."""
        self.position = max(self.position, ts - self.shift)
        self.clock = max(self.clock, ts)

    def put_back(self) -> None:
        """The event in hand was not sent: it is given again if it is still to be played."""
        self._returned = self._in_hand

    def seek(self, ts: int) -> None:
        """Go on at recorded time ``ts`` (epoch ms)."""
        if ts < max(self.position, self._not_before):
            self._wind_back(ts)
        else:
            self._not_before = ts

    def done(self) -> float:
        return self._source.done()

    def _wanted(self, event: Event) -> bool:
        if event.ts < self._not_before and event.topic in SOURCES:
            return False
        return self._takes_all or self._selection.takes(event)

    def _moved(self, event: Event) -> Event:
        if event.topic not in SOURCES:
            return event
        if self._first is None:
            self._first = event.ts
            if self._shift_to is not None:
                self.shift = (self._shift_to - event.ts) // self._pane * self._pane
        self._any = True
        return moved(event, self.shift, self.round) if self.shift or self.round else event

    def _wind_back(self, ts: int) -> None:
        behind = self.clock - (ts + self.shift)
        self.shift += max(0, (behind // self._pane + 1) * self._pane)
        self.round += 1
        self.position, self._not_before, self._any, self._in_hand = 0, ts, False, None
        self._events = iter(self._source)


def moved(event: Event, by: int, round: int) -> Event:
    """The event ``by`` milliseconds later and, in a later round, with an id of its own; unreadable ones as they are."""
    topic, key, value, ts = event
    if not isinstance(value, dict) or type(value.get("ts")) is not int:
        return Event(topic, key, value, ts + by)
    value = {**value, "ts": value["ts"] + by}
    if round and "event_id" in value:
        value["event_id"] = f"{value['event_id']}#{round}"
    return Event(topic, key, value, ts + by)
