"""Bytewax: session windows by shopper, tumbling windows by partition and product, with its recovery store on.

Bytewax has a watermark per key, so in a replay a silent key's windows close at the end of the input. The rate runs to
the last click; the rate until all windows are closed and saved, which is what the radar's own means, is told as well.

Settings: its Kafka source in large batches, parsing batch by batch, folding in the order of arrival (``ordered=False``:
counts need no other), no timers on windows that lie in the past, a snapshot of what changed every 10 s (its default)
into SQLite. A run must be longer than that, or it has no snapshot in it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import orjson
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from bench.peers import FETCH, GAP_MS, LATENESS_MS, PANE_MS, Run, asked

BATCH = 10_000
START = datetime(2020, 1, 1, tzinfo=UTC)

Seen = tuple[datetime, str]  # when, and which action
Counts = dict[str, int]


class Partition(StatefulSourcePartition[Any, Any]):
    """A partition of the topic, until the run has enough."""

    def __init__(self, records: StatefulSourcePartition[Any, Any], run: Run, number: int) -> None:
        self._records, self._run, self._number = records, run, number

    def next_batch(self) -> Iterable[Any]:
        if self._run.left <= 0:  # what came before went through the whole flow by now
            self._run.end()
            raise StopIteration
        batch = [record for record in self._records.next_batch() if record.key is not None][: self._run.left]
        if batch:
            self._run.begin()
            self._run.took(self._number, len(batch))
        return batch

    def snapshot(self) -> Any:
        return self._records.snapshot()

    def close(self) -> None:
        self._records.close()


class Source(KafkaSource):
    """Bytewax's own, cut off after the clicks of the run."""

    def __init__(self, run: Run) -> None:
        super().__init__([run.broker], [run.topic], add_config=FETCH, batch_size=BATCH)
        self._run = run

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Partition:  # type: ignore[override]
        records = super().build_part(step_id, for_part, resume_state)
        return Partition(records, self._run, int(for_part.partition("-")[0]))


class Counter(DynamicSink[Any], StatelessSinkPartition[Any]):
    """Counts what it is given."""

    def __init__(self) -> None:
        self.count = 0

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Counter:
        return self

    def write_batch(self, items: list[Any]) -> None:
        self.count += len(items)


def parse(records: list[Any]) -> list[tuple[str, str, Seen]]:
    """User, partition with product if there is one, and what is counted."""
    clicks = ((record.partition, orjson.loads(record.value)) for record in records)
    return [
        (
            click["user_id"],
            f"{partition}/{click['product_id']}" if "product_id" in click else "",
            (datetime.fromtimestamp(click["ts"] / 1_000, UTC), click["action"]),
        )
        for partition, click in clicks
    ]


def by_user(clicks: list[tuple[str, str, Seen]]) -> list[tuple[str, Seen]]:
    return [(user, seen) for user, _, seen in clicks]


def by_product(clicks: list[tuple[str, str, Seen]]) -> list[tuple[str, Seen]]:
    return [(product, seen) for _, product, seen in clicks if product]


def add(counts: Counts, event: Seen) -> Counts:
    counts[event[1]] = counts.get(event[1], 0) + 1
    return counts


def merge(left: Counts, right: Counts) -> Counts:
    return {action: left.get(action, 0) + right.get(action, 0) for action in left | right}


def work(run: Run, home: str) -> tuple[int, int]:
    """Sessions and panes closed, all of them at the end of the input."""
    sessions, panes = Counter(), Counter()
    flow = Dataflow("clicks")

    def count(name: str, keyed: Stream[Any], windower: win.Windower[Any], sink: Counter) -> None:
        clock: win.EventClock[Seen] = win.EventClock(
            lambda event: event[0], timedelta(milliseconds=LATENESS_MS), to_system_utc=lambda _: None
        )
        windows = win.fold_window(name, keyed, clock, windower, dict, add, merge, ordered=False)
        op.output(f"{name}-out", windows.down, sink)

    clicks = op.flat_map_batch("parse", op.input("records", flow, Source(run)), parse)
    users = op.flat_map_batch("by-user", clicks, by_user)
    count("sessions", users, win.SessionWindower(timedelta(milliseconds=GAP_MS)), sessions)
    products = op.flat_map_batch("by-product", clicks, by_product)
    count("panes", products, win.TumblingWindower(timedelta(milliseconds=PANE_MS), START), panes)
    init_db_dir(home, 1)  # type: ignore[no-untyped-call]
    cli_main(flow, recovery_config=RecoveryConfig(home))  # type: ignore[no-untyped-call]
    run.close()
    return sessions.count, panes.count


def main() -> None:
    run = asked()
    with tempfile.TemporaryDirectory() as home:
        sessions, panes = work(run, home)
    run.report("bytewax", "bytewax", sessions, panes)


if __name__ == "__main__":
    main()
