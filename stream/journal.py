"""State that consists of rows by key: a dump appends the rows that changed, whatever the number of the others.

A journal has parts (a pane, say) that go away as a whole; each part is a :class:`~stream.checkpoint.Log`, where of
several rows of one key the newest counts. The rows themselves stay with their owner.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import orjson

from stream.checkpoint import Log, Segments, in_order

K = TypeVar("K", bound=Hashable)


class Journal(Generic[K]):
    """The segments ``<name>/<part>/<number>``.

    ``keys(part)`` lists all keys of a part; ``row(part, key)`` gives the present row as plain JSON, None when there is
    none (any more). Keys are strings or plain tuples. The owner adds the keys that changed to ``changed[part]``.
    """

    def __init__(self, name: str, keys: Callable[[int], Iterable[K]], row: Callable[[int, K], Any]) -> None:
        self.changed: dict[int, set[K]] = defaultdict(set)
        self._name, self._keys, self._row = name, keys, row
        self._logs: dict[int, Log] = {}
        self._dropped: dict[str, bytes | None] = {}

    def drop(self, part: int) -> None:
        """A part is over."""
        self.changed.pop(part, None)
        if part in self._logs:
            self._dropped |= self._logs.pop(part).drop()

    def dump(self) -> dict[str, bytes | None]:
        """What changed since the last call."""
        changes, self._dropped = self._dropped, {}
        changed, self.changed = self.changed, defaultdict(set)
        for part, keys in changed.items():
            log = self._log(part)
            if log.due():
                changes |= log.fold(self._rows(part, self._keys(part)))
            elif keys:
                changes |= log.append(self._rows(part, keys))
        return changes

    def load(self, segments: Segments) -> Iterator[tuple[int, K, Any]]:
        """Take up where ``dump`` left off: part, key and row of every row in ``segments``. Read it to the end."""
        rows: dict[int, dict[K, Any]] = defaultdict(dict)
        for part, number, data in in_order(segments, f"{self._name}/"):
            self._log(int(part)).seen(number, len(data))
            rows[int(part)].update((_key(key), row) for key, row in orjson.loads(data))
        for number, held in rows.items():
            for key, row in held.items():
                if row is not None:
                    yield number, key, row

    def _log(self, part: int) -> Log:
        if part not in self._logs:
            self._logs[part] = Log(f"{self._name}/{part}")
        return self._logs[part]

    def _rows(self, part: int, keys: Iterable[K]) -> bytes:
        return orjson.dumps([(key, self._row(part, key)) for key in keys])


def _key(key: Any) -> Any:
    return tuple(key) if type(key) is list else key
