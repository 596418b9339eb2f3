"""A stock Faust agent, one click at a time, with tables as its manual has them.

Counts of a product and partition lie in a tumbling table, a shopper's session in a plain one whose row starts anew
after the gap (Faust has no session windows). Both have their changelog in Kafka and their data in memory. Settings are
the fastest that keep what Faust promises: JSON through orjson (Faust's own, when it is installed), large fetches and
stream buffers, batches for the changelog, a producer buffer ten times as large.
"""

from __future__ import annotations

import asyncio
import tempfile
from datetime import timedelta
from typing import Any

import faust
from faust.types import EventT

from bench.peers import GAP_MS, PANE_MS, Run, asked


async def work(run: Run, home: str) -> tuple[int, int]:
    """Sessions begun and panes opened."""
    app = faust.App(
        "faust-stock",
        broker=f"kafka://{run.broker}",
        store="memory://",
        datadir=home,
        topic_partitions=len(run.positions),
        topic_replication_factor=1,
        topic_disable_leader=True,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        broker_max_poll_records=10_000,
        stream_buffer_maxsize=16_384,
        stream_wait_empty=False,
        producer_linger=0.05,
        producer_max_batch_size=500_000,
        web_enabled=False,
        worker_redirect_stdouts=False,
    )
    made = {"sessions": 0, "panes": 0}

    def new_pane() -> dict[str, int]:
        made["panes"] += 1
        return {}

    def event_time(event: EventT[Any] | None) -> float:
        assert event is not None
        return float(event.value["ts"]) / 1_000

    sessions = app.Table("sessions")
    panes = app.Table("panes", default=new_pane).tumbling(
        timedelta(milliseconds=PANE_MS), expires=timedelta(hours=1)
    ).relative_to(event_time)  # fmt: skip
    done = asyncio.Event()

    @app.agent(app.topic(run.topic))  # type: ignore[untyped-decorator]
    async def take(stream: Any) -> None:
        async for event in stream.events():
            if done.is_set() or event.key is None:
                continue
            run.begin()
            click, partition = event.value, event.message.partition
            action, ts, user = click["action"], click["ts"], click["user_id"]
            session = sessions.get(user)
            if session is None or ts - session["last"] > GAP_MS:
                made["sessions"] += 1
                session = {"first": ts, "last": ts, "counts": {}}
            session["last"] = max(ts, session["last"])
            session["counts"][action] = session["counts"].get(action, 0) + 1
            sessions[user] = session
            if product := click.get("product_id"):
                key = f"{partition}/{product}"
                counts = panes[key].value(event)
                counts[action] = counts.get(action, 0) + 1
                panes[key] = counts
            if run.took(partition):
                run.end()
                done.set()

    app.producer.buffer.max_messages = 1_000
    await app.start()
    await done.wait()
    await app.stop()
    return made["sessions"], made["panes"]


def main() -> None:
    run = asked()
    with tempfile.TemporaryDirectory() as home:
        sessions, panes = asyncio.run(work(run, home))
    run.report("faust_stock", "faust-streaming", sessions, panes)


if __name__ == "__main__":
    main()
