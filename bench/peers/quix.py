"""Quix Streams: session windows by shopper, tumbling windows by partition and product, in RocksDB with changelogs.

Its ``group_by`` sends every click through Kafka once more, except on a topic of one partition, where it changes the key
in place. The same is done here in each partition (:func:`rekeyed`): the panes are those of a partition, as the radar's
are. The watermark of the partition closes the sessions of silent shoppers, as ours does. Settings: at least once, a
checkpoint every 5 s (its default), batches for the changelogs, deep fetches.

It runs in an environment of its own (``quix.txt``), because it wants older versions of packages that the radar uses.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from quixstreams import Application
from quixstreams.dataframe import StreamingDataFrame

from bench.peers import FETCH, GAP_MS, LATENESS_MS, PANE_MS, Run, asked

Counts = dict[str, int]


def counting(opened: Callable[[int], None]) -> dict[str, Callable[..., Counts]]:
    """Counts by action for ``reduce``; ``opened`` hears of each window more (1) or, when two merge, less (-1)."""

    def initializer(click: dict[str, Any]) -> Counts:
        opened(1)
        return {click["action"]: 1}

    def reducer(counts: Counts, click: dict[str, Any]) -> Counts:
        action = click["action"]
        counts[action] = counts.get(action, 0) + 1
        return counts

    def merger(left: Counts, right: Counts) -> Counts:
        opened(-1)
        return {action: left.get(action, 0) + right.get(action, 0) for action in left | right}

    return {"initializer": initializer, "reducer": reducer, "merger": merger}


def work(run: Run, home: str) -> tuple[int, int]:
    """Sessions and panes opened."""
    made = {"sessions": 0, "panes": 0}

    def opened(what: str) -> Callable[[int], None]:
        def more(count: int) -> None:
            made[what] += count

        return more

    def processed(topic: str, partition: int, offset: int) -> None:
        if run.took(partition):
            run.end()
            app.stop()

    app = Application(
        broker_address=run.broker,
        consumer_group="quix",
        auto_offset_reset="earliest",
        consumer_extra_config=FETCH,
        producer_extra_config={"linger.ms": 50, "batch.size": 500_000},
        state_dir=home,
        loglevel="WARNING",
        on_message_processed=processed,
    )
    topic = app.topic(run.topic, timestamp_extractor=lambda click, *_: click.get("ts", 0))
    clicks = app.dataframe(topic)
    clicks = clicks.filter(lambda click: "ts" in click)
    clicks = clicks.update(lambda click: run.begin())
    sessions = clicks.session_window(GAP_MS, grace_ms=LATENESS_MS, name="sessions")
    sessions.reduce(**counting(opened("sessions"))).final(closing_strategy="partition")
    panes = rekeyed(clicks.filter(lambda click: "product_id" in click), "product_id").tumbling_window(
        PANE_MS, grace_ms=LATENESS_MS, name="panes"
    )
    panes.reduce(**counting(opened("panes"))).final(closing_strategy="partition")
    app.run()
    return made["sessions"], made["panes"]


def rekeyed(clicks: StreamingDataFrame, field: str) -> StreamingDataFrame:
    """``clicks`` with another key, in their partition."""
    return clicks._single_partition_groupby(field, field)


def main() -> None:
    run = asked()
    with tempfile.TemporaryDirectory() as home:
        sessions, panes = work(run, home)
    run.report("quix", "quixstreams", sessions, panes)


if __name__ == "__main__":
    main()
