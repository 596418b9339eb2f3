"""Durable state in a Faust Table, as atomic checkpoints of shards.

The state of a partition is a set of named shards of bytes. A checkpoint writes the shards that changed and then one
``head`` that names the epoch and the position in the source topic. Each shard has two slots and a checkpoint writes
the one that the last head does not point at. So **every prefix of the changelog holds a complete checkpoint**: a
crash between two writes, an unsent tail or a broker that forgets its last records leads back to the last head, and
reading resumes at the position that belongs to it (:meth:`Checkpoints.position`).

A write is acknowledged by the broker before it counts; Faust alone would log a failed changelog write and go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

Shards = Mapping[str, bytes]


PART_BYTES = 512 * 1024  # brokers take records of 1 MiB
CANCELLED_SECONDS = 5.0  # how long a cancelled save may still take


@dataclass(slots=True)
class Checkpoints:
    """The checkpoints of one partition in one table.

    Keys are ``<partition>`` for the head and ``<partition>/<shard>/<slot>/<part>``; a large shard takes several parts.
    """

    table: Any
    partition: int
    epoch: int = 0
    slots: dict[str, tuple[int, int]] = field(default_factory=dict)  # shard: slot, number of parts

    @staticmethod
    def position(table: Any, partition: int) -> int | None:
        """Offset of the first record that the partition's last checkpoint does not contain; None without one."""
        head = table.data.get(str(partition).encode())
        return orjson.loads(head)["position"] if head else None

    def restore(self) -> dict[str, bytes]:
        """The shards of the last complete checkpoint, none if there is none."""
        head = self.table.data.get(str(self.partition).encode())
        if not head:
            return {}
        state = orjson.loads(head)
        self.epoch = state["epoch"]
        self.slots = {name: (slot, parts) for name, (slot, parts) in state["slots"].items()}
        return {
            name: b"".join(self.table.data[self._key(name, slot, part)] for part in range(parts))
            for name, (slot, parts) in self.slots.items()
        }

    async def save(self, position: int, changed: Shards) -> None:
        """Write ``changed`` and then the head. Raises what the broker says when a write is refused.

        Cancelled, it ends only when the writes have: a head that is in memory and not in the changelog, or comes there
        after the partition has moved, would let later writes go into the slots that the other one names.
        """
        saving = asyncio.create_task(self._save(position, changed))
        try:
            await asyncio.shield(saving)
        except asyncio.CancelledError:
            await asyncio.wait({saving}, timeout=CANCELLED_SECONDS)
            raise

    async def _save(self, position: int, changed: Shards) -> None:
        slots, writes = dict(self.slots), []
        for name, data in changed.items():
            slot = 1 - slots[name][0] if name in slots else 0
            parts = [data[start : start + PART_BYTES] for start in range(0, len(data) or 1, PART_BYTES)]
            slots[name] = (slot, len(parts))
            writes += [self._write(self._key(name, slot, number), part) for number, part in enumerate(parts)]
        await asyncio.gather(*writes)
        epoch = self.epoch + 1
        head = orjson.dumps({"epoch": epoch, "position": position, "slots": slots})
        await self._write(str(self.partition).encode(), head)
        self.epoch, self.slots = epoch, slots

    def _key(self, name: str, slot: int, part: int) -> bytes:
        return f"{self.partition}/{name}/{slot}/{part}".encode()

    async def _write(self, key: bytes, data: bytes) -> None:
        self.table.data[key] = data
        await self.table.send_changelog(self.partition, key, data)
