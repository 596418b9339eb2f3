"""What shoppers said, joined with their sessions.

Clicks make the session; a chat message belongs to the session of its shopper that it falls into or within a gap of, the
earlier one of two; messages near no session make one of their own. Both sides move at their own speed (clicks flow
while the model is slow), so an ended session waits here until the clock of the chats has passed it by a gap, and what
comes out depends on event time alone.

A session that waits when there is no more room goes out without its chats, the oldest first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, NamedTuple

import orjson

from stream.checkpoint import Segments, in_order
from stream.records import content_id
from stream.windows.sessions import COUNTED

Session = dict[str, Any]


class Said(NamedTuple):
    """One message of a customer."""

    ts: int
    signal_id: str
    session_id: str
    score: float
    demands: tuple[str, ...]


class Chats:
    """Messages and ended sessions that wait for each other."""

    def __init__(self, gap: int) -> None:
        self._gap = gap
        self._clock = 0
        self._said: dict[str, dict[str, Said]] = defaultdict(dict)  # by user and signal
        self._waiting: list[tuple[int, str, Session]] = []  # a heap by end
        self._heard = False  # since the last dump
        self._unsaved: list[Session] = []
        self._segments: dict[int, int] = {}  # number: newest end in it
        self._next = 0

    def __len__(self) -> int:
        """Sessions that wait."""
        return len(self._waiting)

    def hear(self, user: str, said: Said) -> None:
        """Take a message in; a second delivery changes nothing."""
        self._said[user][said.signal_id] = said
        self._heard = True

    def join(self, ended: list[Session], clock: int, covered: Callable[[str, int], bool], most: int) -> list[Session]:
        """Sessions that are complete at ``clock``, the joint watermark, among ``ended`` and those that waited.

        ``covered(user, ts)`` says whether a shopper has an open session that a message at ``ts`` belongs to.
        """
        self._clock = clock
        ready = []
        for session in ended:
            if session["ended_at"] + self._gap < clock:
                ready.append(session)
            else:
                heappush(self._waiting, (*_age(session), session))
                self._unsaved.append(session)
        while self._waiting and (self._waiting[0][0] + self._gap < clock or len(self._waiting) > most):
            ready.append(heappop(self._waiting)[2])
        if self._said:
            for session in sorted(ready, key=_age):
                self._attach(session)
            ready += self._sessions_of_chats(covered)
        return ready

    def _attach(self, session: Session) -> None:
        messages = self._said.get(session["user_id"])
        if messages:
            begin, end = session["started_at"] - self._gap, session["ended_at"] + self._gap
            self._add(session, [said for said in messages.values() if begin <= said.ts <= end])

    def _add(self, session: Session, heard: list[Said]) -> None:
        if heard:
            session["chats"] = len(heard)
            session["demands"] = sorted({name for said in heard for name in said.demands})
            session["sentiment"] = round(sum(sorted(said.score for said in heard)) / len(heard), 6)
            messages = self._said[session["user_id"]]
            for said in heard:
                del messages[said.signal_id]
            if not messages:
                del self._said[session["user_id"]]
            self._heard = True

    def _sessions_of_chats(self, covered: Callable[[str, int], bool]) -> list[Session]:
        """Sessions of messages alone: chains without a gap that nobody's clicks can reach any more."""
        waiting: dict[str, list[Session]] = defaultdict(list)
        for _, _, session in self._waiting:
            waiting[session["user_id"]].append(session)
        ready = []
        for user in sorted(self._said):
            free = [
                said
                for said in sorted(self._said[user].values())
                if not covered(user, said.ts)
                and not any(one["started_at"] - self._gap <= said.ts for one in waiting.get(user, ()))
            ]
            while free:
                chain = [free.pop(0)]
                while free and free[0].ts - chain[-1].ts <= self._gap:
                    chain.append(free.pop(0))
                if chain[-1].ts + self._gap < self._clock:
                    session = self._of_chats(user, chain)
                    self._add(session, chain)
                    ready.append(session)
        return ready

    def _of_chats(self, user: str, chain: list[Said]) -> Session:
        return {
            "session_key": content_id(user, chain[0].ts, "chats"), "user_id": user, "session_id": chain[0].session_id,
            "started_at": chain[0].ts, "ended_at": chain[-1].ts, "events": 0, **dict.fromkeys(COUNTED, 0),
            "dwell_ms": 0, "abandoned": 0, "price_low": 0.0, "price_high": 0.0, "compared": 0, "products": [],
            "chats": 0, "demands": [], "sentiment": 0.0, "cut": False, "intent": "",
        }  # fmt: skip

    # State

    def dump(self) -> dict[str, bytes | None]:
        """Messages are few and written whole; sessions are appended and dropped when the clock has passed them."""
        changes: dict[str, bytes | None] = {}
        if self._heard:
            self._heard = False
            said = [[user, *message] for user, messages in self._said.items() for message in messages.values()]
            changes["said"] = orjson.dumps(said)
        waiting = [session for session in self._unsaved if session["ended_at"] + self._gap >= self._clock]
        self._unsaved = []
        if waiting:
            changes[f"waiting/{self._next}"] = orjson.dumps(waiting)
            self._segments[self._next] = max(session["ended_at"] for session in waiting)
            self._next += 1
        for number in [number for number, end in self._segments.items() if end + self._gap < self._clock]:
            del self._segments[number]
            changes[f"waiting/{number}"] = None
        return changes

    def load(self, segments: Segments, clock: int) -> None:
        """Continue from the segments of :meth:`dump` at the joint watermark ``clock``."""
        self._clock = clock
        for user, ts, signal_id, session_id, score, demands in orjson.loads(segments.get("said", b"[]")):
            self._said[user][signal_id] = Said(ts, signal_id, session_id, score, tuple(demands))
        for _, number, data in in_order(segments, "waiting/"):
            sessions = orjson.loads(data)
            self._segments[number] = max(session["ended_at"] for session in sessions)
            self._next = number + 1
            for session in sessions:
                if session["ended_at"] + self._gap >= clock:
                    heappush(self._waiting, (*_age(session), session))


def _age(session: Session) -> tuple[int, str]:
    return session["ended_at"], session["session_key"]
