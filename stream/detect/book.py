"""Which series has which row of a panel, and what was done to it since it was last saved, so that it can be done again.

A step moves every row of a :class:`~stream.detect.panel.Panel`, so saving the rows that changed would be saving all of
them, at every checkpoint, for a handful of counts. What is saved instead is a *snapshot* now and then, and in between
the *inputs*, which are small: applied again in order they lead to the same panel, to the last bit. A snapshot is due
when the inputs since the last one outweigh it, so reading back costs no more than a small multiple of the state.

Beside the rows of the series that were admitted there are those of what they belong to (:func:`parent`), which hold the
counts of all series below, admitted or not. A pane that was left out (nothing had come for :data:`IDLE_PANES`) is no
silence: nothing is learnt across it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream.checkpoint import Log, Segments, in_order, pack, unpack
from stream.detect.cells import Key
from stream.detect.evidence import NO_RAMP
from stream.detect.forecast import LEAST, Floats, Mask, Settings
from stream.detect.panel import WEEK_OF, Panel, Step
from stream.detect.policy import Rule

IDLE_PANES: Final = 288
NAME: Final = "panel"
Counts = Mapping[Key, float]
Rows = NDArray[np.int64]


def parent(key: Key) -> Key | None:
    """What a series belongs to, with the same label: product < category < the shop's products; category < the shop's
    categories; a cluster of requests < all requests."""
    if key.scope == "product" and key.product_id and key.category:
        return key._replace(product_id="")
    if key.product_id or key.category:
        return key.shop if key.scope != "shop" else key._replace(category="", label="")
    return None


def is_leaf(key: Key) -> bool:
    """Whether it is a series that is watched, not the sum of some."""
    return bool(key.product_id if key.scope == "product" else key.category)


class Book:
    """The dense series of one worker partition."""

    def __init__(self, settings: Settings) -> None:
        self.panel = Panel(settings)
        self.rows: dict[Key, int] = {}
        self._last = -1  # the newest pane
        self._keys: list[Key | None] = []  # by row
        self._parents: list[int] = []
        self._shares: list[bool] = []
        self._free: deque[int] = deque()
        self._of: dict[Key, list[int]] = defaultdict(list)  # shares, by the volume that they are shares of
        self._moved = True
        self._named: list[tuple[Rule, Rows]] | None = None
        self._inputs: list[list[Any]] = []
        self._log = Log(NAME)

    def settled(self) -> Mask:
        """By row: whether it has seen each slot of its season."""
        return np.asarray(self.panel.state["age"] > WEEK_OF * self.panel.settings.cycle_panes)

    def key(self, row: int) -> Key:
        """Whose row it is."""
        key = self._keys[row]
        assert key is not None, "only rows of series are asked for"
        return key

    def is_share(self, key: Key) -> bool:
        return self._shares[self.rows[key]]

    def by_rule(self, rule_of: Callable[[Key], Rule | None]) -> list[tuple[Rule, Rows]]:
        """The rows of the series that each rule watches; asked again when rows came or went."""
        if self._named is None:
            rows: dict[str, tuple[Rule, list[int]]] = {}
            for key, row in self.rows.items():
                rule = rule_of(key) if is_leaf(key) else None
                if rule is not None:
                    rows.setdefault(rule.name, (rule, []))[1].append(row)
            self._named = [(rule, np.array(found)) for rule, found in rows.values()]
        return self._named

    def forget_rules(self) -> None:
        self._named = None

    # What is done to it

    def admit(self, key: Key, share: bool, count: float, exposure: float) -> None:
        """Give a series a row: it had ``count`` in ``exposure`` panes (for a share: texts) so far."""
        self._do("admit", list(key), share, count, exposure)

    def release(self, key: Key) -> None:
        """Forget a series."""
        self._do("release", self.rows[key])

    def add_late(self, pane: int, counts: Counts, volumes: Counts) -> None:
        """Add what is told only now to the pane it belongs to."""
        if self.rows:
            self._do("late", pane, *self._by_row(counts, volumes))

    def quieten(self, key: Key) -> None:
        """Begin anew to look for a ramp: what rose so far has been told."""
        self._do("quieten", self.rows[key])

    def step(
        self,
        pane: int,
        counts: Counts,
        volumes: Counts,
        frozen: Iterable[Key],
        shadow: bool,
        calendar: tuple[float, float],
    ) -> Step:
        """Take in a pane, in order. ``volumes`` are all texts, by the keys of their places.

        What a series counts, and the texts of its place, count for all that it belongs to as well.
        """
        held = sorted(self.rows[key] for key in frozen if key in self.rows)
        step = self._do("step", pane, *self._by_row(counts, volumes), held, shadow, *calendar)
        assert step is not None
        return step

    def _by_row(self, counts: Counts, volumes: Counts) -> list[list[Any]]:
        """Rows and counts, and rows of shares and their volumes."""
        seen = [(self.rows[key], count) for key, count in with_parents(counts).items() if key in self.rows]
        given = [(row, texts) for key, texts in with_parents(volumes).items() for row in self._of.get(key, ())]
        return [[row for row, _ in seen], [n for _, n in seen], [row for row, _ in given], [n for _, n in given]]

    def _do(self, name: str, *arguments: Any) -> Step | None:
        self._inputs.append([name, *arguments])
        done: Step | None = getattr(self, f"_{name}")(*arguments)
        return done

    # How it is done, now and again

    def _admit(self, key: list[str], share: bool, count: float, exposure: float) -> None:
        row = self._row(Key(*key), share)  # type: ignore[arg-type]
        state = self.panel.state
        for field, amount in (("count", count), ("exposure", exposure)):
            state[field][row] = state[f"slow_{field}"][row] = amount

    def _row(self, key: Key, share: bool) -> int:
        """A row for ``key``, made if need be."""
        if key in self.rows:
            return self.rows[key]
        above = parent(key)
        owner = -1 if above is None else self._row(above, share)
        if owner >= 0 and self._shares[owner] != share:
            owner = -1  # a share of counts, or the other way round, would be no first guess
        if self._free:
            row = self._free.popleft()
            self._keys[row], self._parents[row], self._shares[row] = key, owner, share
        else:
            row = len(self._keys)
            self._keys.append(key)
            self._parents.append(owner)
            self._shares.append(share)
            self.panel.state.grow(row + 1)
        self.rows[key], self._moved, self._named = row, True, None
        if share:
            self._of[key.volume].append(row)
        return row

    def _release(self, row: int) -> None:
        key = self._keys[row]
        assert key is not None, "only a series that has a row is released"
        del self.rows[key]
        if self._shares[row]:
            self._of[key.volume].remove(row)
        self._keys[row], self._parents[row], self._moved, self._named = None, -1, True, None
        self.panel.clear(row)
        self._free.append(row)

    def _quieten(self, row: int) -> None:
        self.panel.state["ramp"][:, row] = NO_RAMP

    def _late(self, pane: int, rows: list[int], seen: list[float], shares: list[int], given: list[float]) -> None:
        settings, state = self.panel.settings, self.panel.state
        block, behind = pane // settings.ring, self._last // settings.ring - pane // settings.ring
        if pane > self._last or behind >= settings.blocks:
            return
        more, of = self._spread(rows, seen), self._spread(shares, given)
        expected = of * state["count"] / np.maximum(state["exposure"], LEAST)
        if self._last - pane < settings.ring:
            for name, amount in (("seen", more), ("expected", expected), ("given", of)):
                state[name][pane % settings.ring] += amount
        state["block_seen"][block % settings.blocks] += more
        state["block_expected"][block % settings.blocks] += expected

    def _step(
        self,
        pane: int,
        rows: list[int],
        seen: list[float],
        shares: list[int],
        given: list[float],
        held: list[int],
        shadow: bool,
        factor: float,
        doubt: float,
    ) -> Step:
        panel = self.panel
        if self._moved:
            panel.place(np.array(self._parents, np.int64), np.array(self._shares, bool))
            self._moved = False
        if self._last >= 0 and pane > self._last + 1:
            panel.state["held"] = pane
        self._last = pane
        frozen = np.zeros(panel.size, bool)
        frozen[held] = True
        exposure = np.where(panel.shares, self._spread(shares, given), 1.0)
        return panel.step(
            pane, self._spread(rows, seen), exposure, frozen, np.full(panel.size, shadow), (factor, doubt)
        )

    def _spread(self, rows: list[int], values: list[float]) -> Floats:
        full = np.zeros(self.panel.state.size)
        full[rows] = values
        return full

    # State

    def dump(self) -> dict[str, bytes | None]:
        """What changed since the last call."""
        inputs, self._inputs = self._inputs, []
        if not inputs:
            return {}
        if self._log.next and not self._log.due():
            return self._log.append(pack(inputs, [], lasting=True))
        meta = [[key and list(key) for key in self._keys], self._parents, self._shares, list(self._free), self._last]
        return self._log.fold(pack(meta, [self.panel.state.save()], lasting=True))

    def load(self, segments: Segments) -> None:
        """Take up where :meth:`dump` left off."""
        for place, (_, number, data) in enumerate(in_order(segments, f"{NAME}/")):
            self._log.seen(number, len(data))
            meta, arrays = unpack(data)
            if place:
                for name, *arguments in meta:
                    getattr(self, f"_{name}")(*arguments)
                continue
            keys, self._parents, self._shares, free, self._last = meta
            self._keys = [Key(*key) if key else None for key in keys]
            self.rows = {key: row for row, key in enumerate(self._keys) if key}
            self._free, self._moved, self._named = deque(free), True, None
            for row, key in enumerate(self._keys):
                if key and self._shares[row]:
                    self._of[key.volume].append(row)
            self.panel.state.restore(arrays[0])


def with_parents(counts: Counts) -> dict[Key, float]:
    """The counts, and the sums of those that belong together."""
    sums: dict[Key, float] = {}
    for key, count in counts.items():
        series: Key | None = key
        while series is not None:
            sums[series] = sums.get(series, 0.0) + count
            series = parent(series)
    return sums
