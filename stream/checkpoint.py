"""Durable state in a Faust Table: immutable segments and a head that names them.

The state of a partition is a set of named segments of bytes. A checkpoint writes the segments that changed, each under
keys that no head names, and then one *head* that lists the live segments and the positions in the source topics. So

- **every prefix of the changelog holds a complete checkpoint**: a crash between two writes, an unsent tail or a broker
  that forgets its last records leads back to the last head, and reading resumes at the positions that belong to it;
- **the cost follows the change**: a processor may append what is new as a segment of its own and fold many small ones
  into one when it pays (a log-structured merge, O'Neil et al., 1996);
- **a worker that lost its partition cannot spoil the state of the next one**: each owner writes under a term of its
  own, above the term it found, and of several heads the one of the highest term counts.

A write is acknowledged by the broker before it counts; Faust alone would log a failed changelog write and go on.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

#: What changed: the new bytes of a segment, or None for one that is no longer needed. Others stay as they are.
Changes = Mapping[str, bytes | None]
Segments = Mapping[str, bytes]

PART_BYTES = 512 * 1024  # brokers take records of 1 MiB
CANCELLED_SECONDS = 5.0  # how long a cancelled save may still take
FOLD_BYTES = 64 * 1024
FOLD_SEGMENTS = 32
MERGED = 8


@dataclass(slots=True)
class Checkpoints:
    """The checkpoints of one partition in one table.

    Keys are ``<partition>/<owner>`` for a head and ``<partition>/<owner>/<number>`` for a piece of a segment, where the
    owner is a term and a token. Numbers are used again once the head that named them is history, so the changelog
    holds about as many keys as the state has pieces and needs no tombstones but those for an owner of before.
    """

    table: Any
    partition: int
    term: int = 1
    epoch: int = 0
    segments: dict[str, list[str]] = field(default_factory=dict)  # name: keys of its pieces, without the partition
    owner: str = ""
    written: int = -1  # offset of the newest record of ours in the changelog
    _numbers: int = 0
    _free: list[str] = field(default_factory=list)
    _rubbish: set[bytes] = field(default_factory=set)

    @staticmethod
    def head(table: Any, partition: int) -> dict[str, Any] | None:
        """The head that counts: ``term``, ``epoch``, ``positions`` by topic, ``segments``; None without any."""
        mine = f"{partition}/".encode()
        heads = [orjson.loads(table.data[key]) for key in table.data if key.startswith(mine) and key.count(b"/") == 1]
        return max(heads, key=lambda head: (head["term"], head["epoch"], head["owner"]), default=None)

    def restore(self, generation: int = 0) -> tuple[dict[str, int], dict[str, bytes]]:
        """Positions by topic and segments of the last complete checkpoint, both empty if there is none.

        ``generation`` of the group grows with every owner, so one that has written nothing yet has its own term too.
        """
        head = self.head(self.table, self.partition) or {"term": 0, "positions": {}, "segments": {}}
        self.term, self.epoch = max(head["term"] + 1, generation), 0
        self.owner = f"{self.term}-{token_hex(4)}"
        self.segments = head["segments"]
        live = {self._key(piece) for pieces in self.segments.values() for piece in pieces}
        mine = f"{self.partition}/".encode()
        self._rubbish = {key for key in self.table.data if key.startswith(mine) and key not in live}
        return head["positions"], {
            name: b"".join(self.table.data[self._key(piece)] for piece in pieces)
            for name, pieces in self.segments.items()
        }

    def is_latest(self) -> bool:
        """Whether no other owner has written a head since the last one written here."""
        head = self.head(self.table, self.partition)
        return head is not None and head["owner"] == self.owner and head["epoch"] == self.epoch

    def forget(self) -> None:
        """Free the memory of a partition that somebody else has now."""
        mine = f"{self.partition}/".encode()
        for key in [key for key in self.table.data if key.startswith(mine)]:
            self.table.data.pop(key, None)

    async def save(self, positions: Mapping[str, int], changes: Changes) -> None:
        """Write ``changes`` and then the head. Raises what the broker says when a write is refused.

        Cancelled, it ends only when the writes have: whoever has the partition next must find all of them or a head
        that does not name them.
        """
        saving = asyncio.create_task(self._save(positions, changes))
        try:
            await asyncio.shield(saving)
        except asyncio.CancelledError:
            await asyncio.wait({saving}, timeout=CANCELLED_SECONDS)
            raise

    async def _save(self, positions: Mapping[str, int], changes: Changes) -> None:
        segments = dict(self.segments)
        replaced = [piece for name in changes for piece in segments.pop(name, ())]
        writes: list[Coroutine[Any, Any, None]] = []
        for name, data in changes.items():
            if data is not None:
                parts = [data[start : start + PART_BYTES] for start in range(0, len(data) or 1, PART_BYTES)]
                segments[name] = [self._new_piece() for _ in parts]
                writes += [
                    self._write(self._key(piece), part) for piece, part in zip(segments[name], parts, strict=True)
                ]
        if self.epoch:  # what the head before ours names goes only when there is one of ours
            writes += [self._write(key, None) for key in self._rubbish]
            self._rubbish = set()
        await asyncio.gather(*writes)
        head = {
            "term": self.term,
            "epoch": self.epoch + 1,
            "owner": self.owner,
            "positions": dict(positions),
            "segments": segments,
        }
        await self._write(self._key(self.owner), orjson.dumps(head))
        self.epoch, self.segments = self.epoch + 1, segments
        for piece in replaced:
            self._let_go(piece)

    def _let_go(self, piece: str) -> None:
        """A piece that our head no longer names: its number serves again if it is ours, or else it is deleted. Not
        before the next save: by then it is known whether the partition has moved and somebody still reads it."""
        if piece.startswith(f"{self.owner}/"):
            self._free.append(piece)
            self.table.data.pop(self._key(piece), None)
        else:
            self._rubbish.add(self._key(piece))

    def _new_piece(self) -> str:
        if self._free:
            return self._free.pop()
        self._numbers += 1
        return f"{self.owner}/{self._numbers}"

    def _key(self, piece: str) -> bytes:
        return f"{self.partition}/{piece}".encode()

    async def _write(self, key: bytes, data: bytes | None) -> None:
        if data is None:
            self.table.data.pop(key, None)
        else:
            self.table.data[key] = data
        sent = await self.table.send_changelog(self.partition, key, data)
        self.written = max(self.written, sent.offset)


class Log:
    """The segments of one thing that grows: the first holds all of it at some time, the others what changed since.

    Segments are numbered; ``next`` is the number of the one to come. An owner that knows under which number each part
    changed last may let a new segment take in the ones from :meth:`since` on: every eighth takes in the seven before
    it, every 64th the 63, so few are live at any time and a change is written again once per level. Folding all into
    one when the changes outweigh the first keeps what is read back within a small multiple of the thing itself.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.next = 0
        self._sizes: dict[int, int] = {}  # of the live segments

    def due(self) -> bool:
        """Whether the next dump should be of everything."""
        base, *changes = self._sizes.values() or [0]
        return sum(changes) > max(base, FOLD_BYTES) or len(changes) > FOLD_SEGMENTS

    def since(self) -> int:
        """The oldest segment to be taken in by the next one."""
        step = 1
        while self.next and self.next % (step * MERGED) == 0:
            step *= MERGED
        return max(self.next - step, min(self._sizes, default=-1)) + 1

    def append(self, data: bytes, since: int | None = None) -> dict[str, bytes | None]:
        """``data`` is what changed since the last call; or else since segment ``since``, as :meth:`since` said."""
        taken_in = self.drop(self.next if since is None else since)
        name = f"{self.name}/{self.next}"
        self.seen(self.next, len(data))
        return taken_in | {name: data}

    def fold(self, data: bytes) -> dict[str, bytes | None]:
        return self.append(data, 0)

    def drop(self, since: int = 0) -> dict[str, bytes | None]:
        """The segments from ``since`` on are over."""
        over = [number for number in self._sizes if number >= since]
        for number in over:
            del self._sizes[number]
        return {f"{self.name}/{number}": None for number in over}

    def seen(self, number: int, size: int) -> None:
        """A segment exists: called for each one in order when state is loaded."""
        self.next = number + 1
        self._sizes[number] = size


def in_order(segments: Segments, prefix: str) -> list[tuple[str, int, bytes]]:
    """The segments ``<prefix><rest>/<number>`` as (rest, number, data), by number."""
    found = []
    for name, data in segments.items():
        if name.startswith(prefix):
            rest, _, number = name[len(prefix) :].rpartition("/")
            found.append((rest, int(number), data))
    return sorted(found, key=lambda segment: segment[:2])


def pack(meta: Any, arrays: Sequence[npt.NDArray[Any]], lasting: bool = False) -> bytes:
    """JSON and arrays as bytes. What is ``lasting`` is compressed: columns of sessions to a third, at 120 MB/s."""
    head = orjson.dumps([meta, [[array.dtype.str, array.shape] for array in arrays]])
    parts = [struct.pack("<I", len(head)), head, *(np.ascontiguousarray(array).tobytes() for array in arrays)]
    return zlib.compress(b"".join(parts), int(lasting))


def unpack(data: bytes) -> tuple[Any, list[npt.NDArray[Any]]]:
    """What :func:`pack` took."""
    data = zlib.decompress(data)
    (length,) = struct.unpack_from("<I", data)
    meta, shapes = orjson.loads(data[4 : 4 + length])
    at, arrays = 4 + length, []
    for dtype, shape in shapes:
        count = int(np.prod(shape))
        arrays.append(np.frombuffer(data, dtype, count, at).reshape(shape))
        at += arrays[-1].nbytes
    return meta, arrays
