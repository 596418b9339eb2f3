"""What shoppers said, joined with their sessions.

Clicks make the session; a chat message belongs to the session of its shopper that it falls into or within a gap of, the
earlier one of two; messages near no session make one of their own. Both sides move at their own speed (clicks flow
while the model is slow), so an ended session waits here until the clock of the chats has passed it by a gap, and what
comes out depends on event time alone.

A session that waits when there is no more room goes out without its chats, the oldest first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Any, NamedTuple

import numpy as np
import orjson

from stream.checkpoint import Segments, in_order
from stream.columns import Column, Columns
from stream.journal import Journal
from stream.records import content_id
from stream.windows.sessions import COUNTED


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
        self._undecided: list[tuple[int, str]] = []  # a heap of messages by time, with their users
        self._kept = Journal[tuple[str, str]]("said", lambda _: self._keys(), lambda _, key: self._row(*key))
        self._waiting: list[Columns] = []
        self._soonest: list[int] = []  # the first end in each of them
        self._size = 0  # sessions that wait
        self._unsaved: list[Columns] = []
        self._segments: dict[int, int] = {}  # number: newest end in it
        self._next = 0

    def __len__(self) -> int:
        """Sessions that wait."""
        return self._size

    def hear(self, user: str, said: Said) -> None:
        """Take a message in; a second delivery changes nothing."""
        self._said[user][said.signal_id] = said
        heappush(self._undecided, (said.ts, user))
        self._kept.changed[0].add((user, said.signal_id))

    def join(self, ended: list[Columns], clock: int, covered: Callable[[str, int], bool], most: int) -> list[Columns]:
        """Sessions that are complete at ``clock``, the joint watermark, among ``ended`` and those that waited.

        ``covered(user, ts)`` says whether a shopper has an open session that a message at ``ts`` belongs to; it knows
        all clicks before ``clock``.
        """
        self._clock = clock
        ready = self._overdue()
        for sessions in ended:
            over, waiting = self._split(sessions)
            ready += over
            for part in waiting:
                self._wait(part)
                self._unsaved.append(part)
        if self._size > most:
            ready.append(self._oldest(self._size - most))
        if self._said:
            if ready:
                ready = [Columns.concat(ready)]
                self._attach(ready[0])
            ready += self._sessions_of_chats(covered)
        return ready

    def _split(self, sessions: Columns) -> tuple[list[Columns], list[Columns]]:
        """Those that the clock has passed by a gap, and those that it has not."""
        over = sessions["ended_at"] + self._gap < self._clock
        if over.all():
            return [sessions], []
        if not over.any():
            return [], [sessions]
        return [sessions.take(np.flatnonzero(over))], [sessions.take(np.flatnonzero(~over))]

    def _wait(self, sessions: Columns) -> None:
        self._waiting.append(sessions)
        self._soonest.append(int(sessions["ended_at"].min()))
        self._size += len(sessions)

    def _overdue(self) -> list[Columns]:
        """Take those that the clock has passed out of the waiting ones."""
        ready: list[Columns] = []
        due = {i for i, end in enumerate(self._soonest) if end + self._gap < self._clock}
        if due:
            before = self._waiting
            self._waiting = [part for i, part in enumerate(before) if i not in due]
            self._soonest = [end for i, end in enumerate(self._soonest) if i not in due]
            self._size = sum(map(len, self._waiting))
            for i in sorted(due):
                over, waiting = self._split(before[i])
                ready += over
                for part in waiting:
                    self._wait(part)
        return ready

    def _oldest(self, count: int) -> Columns:
        """Take the ``count`` oldest out of the waiting ones."""
        everything = Columns.concat(self._waiting)
        order = np.lexsort((np.array(everything["session_key"]), everything["ended_at"]))
        self._waiting, self._soonest, self._size = [], [], 0
        if count < len(order):
            self._wait(everything.take(order[count:]))
        return everything.take(order[:count])

    def _attach(self, sessions: Columns) -> None:
        """Give sessions what their shoppers said in them, the earliest first."""
        places = [i for i, user in enumerate(sessions["user_id"]) if user in self._said]
        ends, begins = sessions["ended_at"].tolist(), sessions["started_at"].tolist()
        for i in sorted(places, key=lambda i: (ends[i], sessions["session_key"][i])):
            begin, end = begins[i] - self._gap, ends[i] + self._gap
            messages = self._said.get(sessions["user_id"][i], {})
            heard = [said for said in messages.values() if begin <= said.ts <= end]
            if heard:
                sessions["chats"][i], sessions["demands"][i], sessions["sentiment"][i] = told(heard)
                self._drop(sessions["user_id"][i], heard)

    def _drop(self, user: str, heard: list[Said]) -> None:
        messages = self._said[user]
        for said in heard:
            del messages[said.signal_id]
            self._kept.changed[0].add((user, said.signal_id))
        if not messages:
            del self._said[user]

    def _sessions_of_chats(self, covered: Callable[[str, int], bool]) -> list[Columns]:
        """Sessions of messages alone: chains without a gap that nobody's clicks can reach any more.

        A message that the clock has passed by a gap is decided: it belongs to a session that is there, or to none. The
        last one of a chain decides the chain.
        """
        users: set[str] = set()
        while self._undecided and self._undecided[0][0] + self._gap < self._clock:
            users.add(heappop(self._undecided)[1])
        users &= self._said.keys()
        if not users:
            return []
        near = self._waiting_sessions(users)
        ready = []
        for user in sorted(users):
            free = [
                said
                for said in sorted(self._said[user].values())
                if not covered(user, said.ts) and not any(begin <= said.ts <= end for begin, end in near[user])
            ]
            while free:
                chain = [free.pop(0)]
                while free and free[0].ts - chain[-1].ts <= self._gap:
                    chain.append(free.pop(0))
                if chain[-1].ts + self._gap < self._clock:
                    ready.append(session_of_chats(user, chain))
                    self._drop(user, chain)
        return ready

    def _waiting_sessions(self, users: set[str]) -> dict[str, list[tuple[int, int]]]:
        """From when to when messages belong to the waiting sessions of ``users``."""
        near: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for part in self._waiting:
            for i, user in enumerate(part["user_id"]):
                if user in users:
                    near[user].append((int(part["started_at"][i]) - self._gap, int(part["ended_at"][i]) + self._gap))
        return near

    # State

    def _keys(self) -> Iterator[tuple[str, str]]:
        return ((user, signal_id) for user, messages in self._said.items() for signal_id in messages)

    def _row(self, user: str, signal_id: str) -> list[Any] | None:
        said = self._said.get(user, {}).get(signal_id)
        return list(said) if said else None

    def dump(self) -> dict[str, bytes | None]:
        """Messages are a journal; sessions are appended and dropped when the clock has passed them."""
        changes = self._kept.dump()
        waiting = [part for sessions in self._unsaved for part in self._split(sessions)[1]]
        self._unsaved = []
        if waiting:
            whole = Columns.concat(waiting)
            changes[f"waiting/{self._next}"] = orjson.dumps(dict(whole.items()), option=orjson.OPT_SERIALIZE_NUMPY)
            self._segments[self._next] = int(whole["ended_at"].max())
            self._next += 1
        for number in [number for number, end in self._segments.items() if end + self._gap < self._clock]:
            del self._segments[number]
            changes[f"waiting/{number}"] = None
        return changes

    def load(self, segments: Segments, clock: int) -> None:
        """Continue from the segments of :meth:`dump` at the joint watermark ``clock``."""
        self._clock = clock
        for _, (user, signal_id), (ts, _, session_id, score, demands) in self._kept.load(segments):
            self._said[user][signal_id] = Said(ts, signal_id, session_id, score, tuple(demands))
            heappush(self._undecided, (ts, user))
        for _, number, data in in_order(segments, "waiting/"):
            saved = orjson.loads(data)
            sessions = Columns({name: _column(values) for name, values in saved.items()})
            self._segments[number] = int(sessions["ended_at"].max())
            self._next = number + 1
            for part in self._split(sessions)[1]:
                self._wait(part)


def told(heard: list[Said]) -> tuple[int, list[str], float]:
    """How many messages, what they ask for, and their mean score."""
    demands = sorted({name for said in heard for name in said.demands})
    return len(heard), demands, round(sum(sorted(said.score for said in heard)) / len(heard), 6)


def session_of_chats(user: str, chain: list[Said]) -> Columns:
    chats, demands, sentiment = told(chain)
    row = {
        "session_key": content_id(user, chain[0].ts, "chats"), "user_id": user, "session_id": chain[0].session_id,
        "started_at": chain[0].ts, "ended_at": chain[-1].ts, "events": 0, **dict.fromkeys(COUNTED, 0),
        "dwell_ms": 0, "abandoned": 0, "price_low": 0.0, "price_high": 0.0, "compared": 0, "products": [],
        "chats": chats, "demands": demands, "sentiment": sentiment, "intent": "", "cut": False,
    }  # fmt: skip
    return Columns({name: _column([value]) for name, value in row.items()})


def _column(values: list[Any]) -> Column:
    return values if isinstance(values[0], str | list) else np.array(values)
