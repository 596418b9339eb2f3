"""Session windows: one shopper's clicks with no gap longer than ``gap``, at most ``longest`` from first to last.

All open sessions lie in columns, one row each, so that a block of clicks is taken by some eighty numpy calls whatever
the number of sessions, a session costs some 120 bytes besides its two ids, and a checkpoint is a copy of the rows that
changed. Clicks must come in the order of event time (the click lane releases them at its watermark): then neither
arrival nor the cut of the blocks matters, which the tests hold against a plain one-by-one implementation.

What a session remembers is bounded: its first :data:`REMEMBERED` products and its last :data:`CARTED` cart entries.
An intent is told at the click that completes it, once a session:

- ``comparing``: a third product of one category viewed, before anything went into the cart;
- ``price_watch``: a product viewed for the third time, before anything went into the cart;
- ``sold_out``: a product viewed that the catalogue says is out of stock;
- ``empty_search``: a search without results;
- ``abandoned_cart``: the session ended with something in the cart and no purchase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.checkpoint import Log, Segments, in_order, pack, unpack
from stream.columns import Column, Columns
from stream.events import ACTIONS, ClickColumns
from stream.recommend.intent import INTENTS
from stream.records import content_id
from stream.windows.behaviour import DWELL_MS, NONE, PANE_FEATURES, Ints, Longs, Products, grown
from stream.windows.index import Index

REMEMBERED: Final = 12  # products of a session
CARTED: Final = 20  # entries of a cart
COMPARED: Final = 3  # different products of one category
WATCHED: Final = 3  # views of one product
BUCKET_MS: Final = 10_000  # sessions are ended in steps of this; divides a pane
SHARD_ROWS: Final = 65_536  # rows that are folded together
BETWEEN: Final = b"\0\0"  # ids have no null bytes and are not empty

#: Columns of ``counts``, by the names they have in a closed session.
COUNTED: Final = PANE_FEATURES[: PANE_FEATURES.index("returns") + 1]
VIEW, SEARCH, CART, UNCART = (ACTIONS.index(name) for name in ("view", "search", "cart", "uncart"))
#: Column of ``counts``, here and in panes, of each action.
COLUMN: Final = np.array([0, 1, 3, 4, 5, 6, 7, 8])
EMPTY, CARTS, PURCHASES = (COUNTED.index(name) for name in ("empty_searches", "carts", "purchases"))
BIT: Final = {name: 1 << place for place, name in enumerate(INTENTS)}
#: The most telling intent by the bits of those that were told.
TELLING: Final = [next((name for name in INTENTS if bits & BIT[name]), "") for bits in range(1 << len(INTENTS))]

COLUMNS: Final[dict[str, tuple[Any, tuple[int, ...], Any]]] = {  # name: type, shape of a row, empty value
    "started": (np.int64, (), 0),
    "last": (np.int64, (), 0),
    "counts": (np.uint16, (len(COUNTED),), 0),
    "dwell": (np.uint32, (), 0),
    "low": (np.float64, (), np.inf),
    "high": (np.float64, (), -np.inf),
    "viewing": (np.int32, (), NONE),  # the product looked at, if the last click was a view
    "remembered": (np.uint8, (), 0),
    "seen": (np.int32, (REMEMBERED,), NONE),
    "seen_views": (np.uint8, (REMEMBERED,), 0),
    "fired": (np.uint8, (), 0),
}


@dataclass(slots=True)
class Told:
    """An intent, the click (place in the batch; -1: the end of the session) and the session that showed it."""

    intent: str
    place: int
    user_id: str
    session_id: str
    product: int
    ts: int


@dataclass(slots=True)
class Taken:
    """What a batch of clicks, or an end of sessions, led to."""

    told: list[Told]
    ended: list[Columns]  # see Session in stream.records; without chats
    left: list[tuple[int, int]]  # event time of the end, product left in the cart
    looked_at: Ints  # by click: the product viewed until then, NONE: none
    dwell: Longs  # by click: for how long (ms)


class Sessions:
    """The open sessions of a partition. ``seen``, ``started`` … are columns by row; see :data:`COLUMNS`."""

    started: Longs
    last: Longs
    counts: npt.NDArray[np.uint16]
    dwell: npt.NDArray[np.uint32]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    viewing: Ints
    remembered: npt.NDArray[np.uint8]
    seen: Ints
    seen_views: npt.NDArray[np.uint8]
    fired: npt.NDArray[np.uint8]

    def __init__(self, gap: int, longest: int, products: Products) -> None:
        self._gap, self._longest, self._products = gap, longest, products
        self._row = Index()  # by hash of the shopper
        self._size = 0  # rows ever used
        self._ids: npt.NDArray[np.object_] = np.zeros(0, np.object_)  # shopper and session as bytes, see _names
        self._free: list[int] = []
        self._carts: dict[int, list[int]] = {}
        self._buckets: dict[int, list[Longs]] = {}  # rows by the bucket in which they may end
        self._bucket: Ints = np.zeros(0, np.int32)  # the one that counts of a row
        self._alive: npt.NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._changed: Ints = np.zeros(0, np.int32)  # number of the segment that a row was or will be written in
        self._named: Ints = np.zeros(0, np.int32)  # the same for its ids
        self._logs: list[Log] = []
        self._next: Ints = np.zeros(0, np.int32)  # number of the segment to come, by shard
        for name, (dtype, shape, _) in COLUMNS.items():
            setattr(self, name, np.zeros((0, *shape), dtype))

    def __len__(self) -> int:
        return len(self._row)

    # Clicks

    def take(self, batch: ClickColumns) -> Taken:
        """Take in clicks in the order of event time: the intents they complete and the sessions they prove over."""
        if not len(batch):
            return Taken([], [], [], np.zeros(0, np.int32), np.zeros(0, np.int64))
        row = self._rows_of(batch)
        order = stable_order(row, self._size)
        row, ts = row[order], batch.ts[order]
        action, product = batch.action[order], batch.product[order]
        before, begin, cut = self._cut(row, ts)
        row, over = self._next_sessions(batch, order, row, begin, cut)
        starts = np.flatnonzero(begin)
        ends = np.append(starts[1:], len(row)) - 1
        owner = row[starts]  # the session of each run of clicks; no session has two runs
        segment = np.cumsum(begin) - 1

        looked_at = np.empty(len(row), np.int32)
        looked_at[1:] = np.where(action[:-1] == VIEW, product[:-1], NONE)
        looked_at[starts] = self.viewing[owner]
        dwell = np.where(looked_at != NONE, np.minimum(ts - before, DWELL_MS), 0)
        carts = (action == CART).astype(np.int64)
        carts_before = np.cumsum(carts) - carts
        carts_before += (self.counts[owner, CARTS] - carts_before[starts])[segment]

        counted = np.bincount(segment * len(COUNTED) + COLUMN[action], minlength=len(owner) * len(COUNTED))
        counted = counted.reshape(len(owner), len(COUNTED))
        empty = batch.empty[order]
        counted[:, EMPTY] = np.bincount(segment[empty], minlength=len(owner))
        self.counts[owner] = np.minimum(self.counts[owner] + counted, 65_535)
        self.dwell[owner] += np.add.reduceat(dwell, starts).astype(np.uint32)
        price = batch.price[order]
        self.low[owner] = np.fmin(self.low[owner], np.fmin.reduceat(price, starts))
        self.high[owner] = np.fmax(self.high[owner], np.fmax.reduceat(price, starts))
        self.last[owner] = ts[ends]
        self.viewing[owner] = np.where(action[ends] == VIEW, product[ends], NONE)
        self._touch(owner)

        told = self._views(row, ts, action, product, carts_before, order)
        told += [(int(i), "empty_search") for i in np.flatnonzero(empty & ~self._has(row, "empty_search"))]
        for i in np.flatnonzero(((action == CART) | (action == UNCART)) & (product != NONE)).tolist():
            self._cart(int(row[i]), int(action[i]), int(product[i]))
        fired = self._fire(told, row, order, ts, product)
        ended = self._end(over)
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return Taken(fired + ended.told, ended.ended, ended.left, looked_at[back], dwell[back])

    def _rows_of(self, batch: ClickColumns) -> Longs:
        """The open session of each click's shopper; one is begun where there is none."""
        rows = self._row.find(batch.user)
        new = np.flatnonzero(rows == NONE)
        if len(new):
            _, firsts, which = np.unique(batch.user[new], return_index=True, return_inverse=True)
            begun, by_time = np.empty(len(firsts), np.int64), np.argsort(firsts)
            begun[by_time] = self._begin(batch, new[firsts[by_time]])
            rows[new] = begun[which]
        return rows

    def _begin(self, batch: ClickColumns, places: Longs) -> Longs:
        """Open a session at each of these clicks; the rows."""
        reused = min(len(places), len(self._free))
        rows = [self._free.pop() for _ in range(reused)]
        rows += range(self._size, self._size + len(places) - reused)
        self._size += len(places) - reused
        if self._size > len(self.started):
            self._grow(self._size)
        at = np.array(rows, np.int64)
        for row, click in zip(rows, map(batch.click, places.tolist()), strict=True):
            self._ids[row] = f"{click.user_id}\0{click.session_id}".encode()
        self._row.put(batch.user[places], at)
        for name, (_, _, empty) in COLUMNS.items():
            getattr(self, name)[at] = empty
        self.started[at] = self.last[at] = batch.ts[places]
        self._alive[at] = True
        self._touch(at)
        self._named[at] = self._changed[at]
        self._schedule(at)
        return at

    def _grow(self, rows: int) -> None:
        for name, (_, _, empty) in COLUMNS.items():
            setattr(self, name, grown(getattr(self, name), rows, empty))
        self._ids = grown(self._ids, rows, None)
        self._bucket = grown(self._bucket, rows)
        self._alive = grown(self._alive, rows)
        self._changed, self._named = grown(self._changed, rows, -1), grown(self._named, rows, -1)
        while len(self._logs) * SHARD_ROWS < len(self.started):
            self._logs.append(Log(f"sessions/{len(self._logs)}"))
        self._next = np.array([log.next for log in self._logs], np.int32)

    def _touch(self, rows: Any) -> None:
        self._changed[rows] = self._next[rows // SHARD_ROWS]

    def _cut(self, row: Any, ts: Longs) -> tuple[Longs, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """For clicks by session and time: the time of the click before, where a run of clicks of one session begins,
        and where that is because the session before it is over."""
        first = np.append(True, row[1:] != row[:-1])
        before = np.append(0, ts[:-1])
        before[first] = self.last[row[first]]
        cut = ts - before > self._gap
        place = np.arange(len(row))
        while True:
            begin = first | cut
            start = np.maximum.accumulate(np.where(begin, place, 0))
            began = np.where(first & ~cut, self.started[row], ts)[start]
            too_long = np.flatnonzero(ts - began > self._longest)
            if not len(too_long):
                break
            cut[too_long[np.unique(start[too_long], return_index=True)[1]]] = True
        before[cut] = ts[cut]
        return before, begin, cut

    def _next_sessions(
        self, batch: ClickColumns, order: Any, row: Any, begin: npt.NDArray[np.bool_], cut: npt.NDArray[np.bool_]
    ) -> tuple[Any, list[int]]:
        """Begin a session at each cut: the session of each click, and the sessions that are over."""
        if not cut.any():
            return row, []
        starts = np.flatnonzero(begin)
        owner = row[starts].copy()
        segments = np.flatnonzero(cut[starts])
        new = self._begin(batch, order[starts[segments]])
        same_shopper = np.append(False, row[starts][1:] == row[starts][:-1])
        owner[segments] = new
        over = np.where(same_shopper[segments], owner[segments - 1], row[starts[segments]])
        return owner[np.cumsum(begin) - 1], over.tolist()

    def _views(
        self, row: Any, ts: Longs, action: Any, product: Ints, carts_before: Longs, order: Any
    ) -> list[tuple[int, str]]:
        """Remember the products viewed; (place, intent) of the views that complete one, each session's first."""
        self._products.refresh()
        at = np.flatnonzero((action == VIEW) & (product != NONE))
        if not len(at):
            return []
        session, viewed, free = row[at], product[at], carts_before[at] == 0
        told = [(int(i), "sold_out") for i in at[self._products.sold_out[viewed] & ~self._has(session, "sold_out")]]

        pair = session * (1 << 32) + viewed
        by_pair = np.argsort(pair, kind="stable")
        head = np.append(True, pair[by_pair][1:] != pair[by_pair][:-1])
        first_of = np.flatnonzero(head)[np.cumsum(head) - 1]
        rank, is_last, leader = np.empty((3, len(at)), np.int64)
        rank[by_pair] = np.arange(len(at)) - first_of  # which view of the pair in this batch, from 0
        is_last[by_pair] = np.append(head[1:], True)
        leader[by_pair] = by_pair[first_of]  # the first view of the pair in this batch
        match = self.seen[session] == viewed[:, None]
        known = match.any(axis=1)
        slot = np.where(known, match.argmax(axis=1), NONE)

        new = np.flatnonzero((rank == 0) & ~known)  # first views, by session and time
        if len(new):
            of = session[new]
            first = np.append(True, of[1:] != of[:-1])
            runs = np.flatnonzero(first)
            nth_new = np.arange(len(new)) - runs[np.cumsum(first) - 1]
            place = self.remembered[of] + nth_new
            fits = place < REMEMBERED
            new, of, place = new[fits], of[fits], place[fits]
            told += self._comparisons(at, new, of, viewed[new], free[new])
            self.seen[of, place] = viewed[new]
            np.add.at(self.remembered, of, 1)
            slot_of_new = np.full(len(at), NONE)
            slot_of_new[new] = place
            slot = np.where(known, slot, slot_of_new[leader])

        kept = np.flatnonzero(slot != NONE)
        total = self.seen_views[session[kept], slot[kept]] + rank[kept] + 1
        watched = kept[(total == WATCHED) & free[kept]]
        told += [(int(i), "price_watch") for i in at[watched]]
        last = kept[is_last[kept] == 1]
        views = self.seen_views[session[last], slot[last]] + rank[last] + 1
        self.seen_views[session[last], slot[last]] = np.minimum(views, 255)
        return told

    def _comparisons(
        self, at: Any, new: Any, session: Any, viewed: Ints, free: npt.NDArray[np.bool_]
    ) -> list[tuple[int, str]]:
        """Among first views: those that make the number of products of one category :data:`COMPARED`."""
        category = self._products.category[viewed].astype(np.int64)
        seen = self.seen[session]
        same = (self._products.category[seen] == category[:, None]) & (seen != NONE)
        group = session * (1 << 32) + category
        by_group = np.argsort(group, kind="stable")
        head = np.append(True, group[by_group][1:] != group[by_group][:-1])
        nth = np.empty(len(new), np.int64)
        nth[by_group] = np.arange(len(new)) - np.flatnonzero(head)[np.cumsum(head) - 1]
        reached = (same.sum(axis=1) + nth + 1 == COMPARED) & (category > 0) & free
        return [(int(i), "comparing") for i in at[new[reached]]]

    def _has(self, row: Any, intent: str) -> npt.NDArray[np.bool_]:
        has: npt.NDArray[np.bool_] = self.fired[row] & BIT[intent] != 0
        return has

    def _fire(self, told: list[tuple[int, str]], row: Any, order: Any, ts: Longs, product: Ints) -> list[Told]:
        if not told:
            return []
        told = sorted(told)
        at = np.array([i for i, _ in told])
        places, sessions = order[at].tolist(), row[at].tolist()
        fired = dict(zip(sessions, self.fired[row[at]].tolist(), strict=True))
        first: list[Told] = []
        for (i, intent), place, session in zip(told, places, sessions, strict=True):
            if not fired[session] & BIT[intent]:
                fired[session] |= BIT[intent]
                first.append(Told(intent, place, *self._names(session), int(product[i]), int(ts[i])))
        self.fired[list(fired)] = list(fired.values())
        return first

    def _cart(self, row: int, action: int, product: int) -> None:
        cart = self._carts.get(row)
        if cart is None:
            if action == CART:
                self._carts[row] = [product]
            return
        if product in cart:
            cart.remove(product)
        if action == CART:
            cart.append(product)
            del cart[:-CARTED]
        elif not cart:
            del self._carts[row]

    def amend(self, user: str, ts: int, action: int, price: float | None, empty: bool) -> bool:
        """Count a late click in the open session that it falls into, if there is one; its order is not restored."""
        (row,) = self._row.find(_hashes([user])).tolist()
        if row == NONE or not self.started[row] - self._gap <= ts <= self.last[row] + self._gap:
            return False
        for column in (int(COLUMN[action]), *([EMPTY] if empty else [])):
            self.counts[row, column] = min(int(self.counts[row, column]) + 1, 65_535)
        if price is not None:
            self.low[row], self.high[row] = min(self.low[row], price), max(self.high[row], price)
        self._touch(row)
        return True

    # Ends

    def _schedule(self, rows: Longs) -> None:
        buckets = (self.last[rows] + self._gap) // BUCKET_MS + 1
        self._bucket[rows] = buckets
        order = np.argsort(buckets, kind="stable")
        numbers, firsts = np.unique(buckets[order], return_index=True)
        for bucket, part in zip(numbers.tolist(), np.split(rows[order], firsts[1:]), strict=False):
            self._buckets.setdefault(bucket, []).append(part)

    def close(self, watermark: int) -> Taken:
        """End the sessions whose silence was over at the last whole bucket before ``watermark``."""
        boundary = watermark // BUCKET_MS
        due = [rows for number in list(self._buckets) if number <= boundary for rows in self._buckets.pop(number)]
        if not due:
            return self._end([])
        rows = np.unique(np.concatenate(due))
        rows = rows[(self._bucket[rows] <= boundary) & self._alive[rows]]
        rows = rows[np.argsort(self._bucket[rows], kind="stable")]
        done = self.last[rows] + self._gap < boundary * BUCKET_MS
        self._schedule(rows[~done])
        return self._end(rows[done].tolist())

    def shrink(self, most: int) -> Taken:
        """End the sessions silent for longest, as cut, until no more than ``most`` are open."""
        excess = len(self) - most
        if excess <= 0:
            return self._end([])
        rows = self._row.rows()
        limit = np.partition(self.last[rows], excess - 1)[excess - 1]
        oldest = sorted((int(self.last[row]), self._names(row), row) for row in rows[self.last[rows] <= limit].tolist())
        return self._end([row for _, _, row in oldest[:excess]], cut=True)

    def covers(self, user: str, ts: int) -> bool:
        """Whether a chat at ``ts`` belongs to the open session of its shopper."""
        (row,) = self._row.find(_hashes([user])).tolist()
        return row != NONE and int(self.started[row]) - self._gap <= ts <= int(self.last[row]) + self._gap

    def _end(self, rows: list[int], cut: bool = False) -> Taken:
        if not rows:
            return Taken([], [], [], np.zeros(0, np.int32), np.zeros(0, np.int64))
        at = np.array(rows)
        names = [each.decode().partition("\0") for each in self._ids[at]]
        started, last = self.started[at].tolist(), self.last[at].tolist()
        bought = (self.counts[at, PURCHASES] > 0).tolist()
        told: list[Told] = []
        left: list[tuple[int, int]] = []
        abandoned = [0] * len(rows)
        for i in [i for i, row in enumerate(rows) if row in self._carts]:
            cart = self._carts.pop(rows[i])
            if not bought[i]:
                abandoned[i] = 1
                told.append(Told("abandoned_cart", -1, names[i][0], names[i][2], cart[-1], last[i]))
                left += [(last[i] + self._gap, product) for product in cart]
        fired = self.fired[at] | np.where(abandoned, BIT["abandoned_cart"], 0)
        low, high = self.low[at], self.high[at]
        counts = self.counts[at].astype(np.int64)
        ids, remembered = self._products.ids, self.remembered[at].tolist()
        columns: dict[str, Column] = {
            "session_key": [content_id(name[0], begun) for name, begun in zip(names, started, strict=True)],
            "user_id": [name[0] for name in names],
            "session_id": [name[2] for name in names],
            "started_at": self.started[at],
            "ended_at": self.last[at],
            "events": counts.sum(axis=1) - counts[:, EMPTY],
            **{name: counts[:, column].copy() for column, name in enumerate(COUNTED)},
            "dwell_ms": self.dwell[at].astype(np.int64),
            "abandoned": np.array(abandoned),
            "price_low": np.where(low == np.inf, 0.0, low),
            "price_high": np.where(high == -np.inf, 0.0, high),
            "compared": self._compared(at),
            "products": [
                [ids[n] for n in seen[:k]] for seen, k in zip(self.seen[at].tolist(), remembered, strict=True)
            ],
            "chats": np.zeros(len(rows), np.int64),
            "demands": [[] for _ in rows],
            "sentiment": np.zeros(len(rows)),
            "intent": ["bought" if b else TELLING[bits] for b, bits in zip(bought, fired.tolist(), strict=True)],
            "cut": np.full(len(rows), cut),
        }
        self._row.remove(at)
        self._free += rows
        self._ids[at] = None
        self._bucket[at] = -1
        self._touch(at)
        self._alive[at] = False
        return Taken(told, [Columns(columns)], left, np.zeros(0, np.int32), np.zeros(0, np.int64))

    def _compared(self, rows: Any) -> npt.NDArray[np.int64]:
        """The most different products of one category that each session has seen."""
        seen = self.seen[rows]
        category = np.where(seen != NONE, self._products.category[seen], 0)
        same = (category[:, :, None] == category[:, None, :]) & (category != 0)[:, :, None]
        most: npt.NDArray[np.int64] = same.sum(axis=2).max(axis=1)
        return most

    # State

    def used(self) -> Ints:
        """Numbers of the products that open sessions name."""
        rows = self._row.rows()
        carts = np.array([product for cart in self._carts.values() for product in cart], np.int32)
        return np.concatenate((self.seen[rows].ravel(), self.viewing[rows], carts))

    def renumber(self, new: Ints) -> None:
        self.seen, self.viewing = new[self.seen], new[self.viewing]
        self._carts = {row: new[cart].tolist() for row, cart in self._carts.items()}
        self._touch(self._row.rows())

    def dump(self) -> dict[str, bytes | None]:
        """The rows that changed since the last call, by shard."""
        changes: dict[str, bytes | None] = {}
        for shard, log in enumerate(self._logs):
            begin = shard * SHARD_ROWS
            changed = self._changed[begin : min(begin + SHARD_ROWS, self._size)]
            if (changed == log.next).any():
                since = 0 if log.due() else log.since()
                rows = begin + np.flatnonzero(changed >= since)
                changes |= log.append(self._packed(rows, since, lasting=since < log.next), since)
                self._next[shard] = log.next
        return changes

    def _packed(self, rows: Longs, since: int, lasting: bool) -> bytes:
        alive = self._alive[rows]
        live, gone = rows[alive], rows[~alive] if since else rows[:0]
        named = live[self._named[live] >= since]
        carted = [row for row in live.tolist() if row in self._carts]
        carts = [self._carts[row] for row in carted]
        ids = np.frombuffer(BETWEEN.join(self._ids[named]), np.uint8)
        arrays = [
            *(rows.astype(np.int32) for rows in (gone, named, live)), ids, np.array(carted, np.int32),
            np.array([len(cart) for cart in carts], np.uint8), np.array([p for cart in carts for p in cart], np.int32),
        ]  # fmt: skip
        columns = [getattr(self, name)[live] for name in COLUMNS]
        return pack({"size": self._size}, arrays + columns, lasting)

    def load(self, segments: Segments) -> None:
        """Continue from the segments of :meth:`dump`; to be called once, on an empty object."""
        for shard, number, data in in_order(segments, "sessions/"):
            meta, (gone, named, live, ids, carted, lengths, products, *columns) = unpack(data)
            self._grow_to(meta["size"], int(shard))
            log = self._logs[int(shard)]
            if log.next:  # not the first of its shard
                for row in (*gone.tolist(), *live.tolist()):
                    self._carts.pop(row, None)
            ends = np.cumsum(lengths, dtype=np.int64).tolist()
            for row, begin, end in zip(carted.tolist(), [0, *ends], ends, strict=False):
                self._carts[row] = products[begin:end].tolist()
            log.seen(number, len(data))
            self._next[int(shard)] = log.next
            self._alive[gone], self._alive[live] = False, True
            self._changed[gone] = self._changed[live] = self._named[named] = number
            if len(named):
                self._ids[named] = ids.tobytes().split(BETWEEN)
            for name, values in zip(COLUMNS, columns, strict=True):
                getattr(self, name)[live] = values
        alive = self._alive[: self._size]
        self._free = np.flatnonzero(~alive).tolist()
        self._ids[self._free] = None
        rows = np.flatnonzero(alive)
        if len(rows):
            names = BETWEEN.join(self._ids[rows]).decode().split(BETWEEN.decode())
            self._row.put(_hashes([name.partition("\0")[0] for name in names]), rows)
        self._schedule(rows)

    def _grow_to(self, size: int, shard: int) -> None:
        rows = max(size, shard * SHARD_ROWS + 1)
        if rows > len(self.started):
            self._grow(rows)
        self._size = max(self._size, size)

    def _names(self, row: int) -> tuple[str, str]:
        """Shopper and session of a row."""
        user, _, session_id = self._ids[row].decode().partition("\0")
        return user, session_id


def stable_order(numbers: Any, end: int) -> Longs:
    """How to sort numbers from 0 up to ``end``, not included, equal ones as they come: numpy counts digits in 16 bits,
    eight times as fast as it compares."""
    return np.argsort(numbers.astype(np.uint16) if end <= 1 << 16 else numbers, kind="stable")


def _hashes(users: Sequence[str]) -> Longs:
    return np.fromiter(map(hash, users), np.int64, len(users))
