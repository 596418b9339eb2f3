"""Replays on the real stack: from topics and files, into namespaces; and the backtest beside what workers concluded."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console
from sites import returns
from test_end_to_end import START, shop

from stream.backtest.lab import alerts_of, signals_of
from stream.backtest.run import Options as BacktestOptions
from stream.backtest.run import run_backtest
from stream.backtest.scores import RememberedScorer
from stream.detect.rules import SHIPPED, load_rules
from stream.dump import canonical, sums
from stream.replay import Event, EventFiles, replay_events, write_events
from stream.replay.events import merged
from stream.replay.namespace import BadNamespace, clean, namespaces, settings_in
from stream.replay.recorded import Offsets, Stretch, record
from stream.replay.run import Options, ReplayReport, run_replay
from stream.replay.tape import Selection
from stream.settings import Settings
from stream.simulate.incidents import HOUR
from stream.sinks.kafka import partition_of
from stream.stack import embedded_stack

pytestmark = pytest.mark.stack

PARTITIONS = 2


def events() -> list[Event]:
    """Alerts that need no trained model, a few texts, and events minutes behind the others."""
    ordinary = shop()
    ordinary.texts_per_hour, ordinary.scenario, ordinary.dirty = 12, [], 0.0
    ordinary.incidents = []
    both = list(merged([ordinary.generate(), returns()]))
    for place in range(200, len(both) - 100, 60):
        both.insert(place + 70, both.pop(place))
    return both


def quiet() -> Console:
    return Console(file=io.StringIO())


async def replayed(settings: Settings, name: str, **options: Any) -> tuple[ReplayReport, dict[str, str]]:
    """A replay into a namespace, and the sums of all that it concluded."""
    report = await run_replay(settings, Options(namespace=name, **options), quiet())
    assert report.complete
    found = await sums(settings_in(settings, name))
    return report, {table: digest for table, _, digest in found}


async def alerts_in(settings: Settings, name: str) -> list[dict[str, Any]]:
    rows = [orjson.loads(line) async for _, line in canonical(settings_in(settings, name), ["alerts"])]
    return sorted(rows, key=lambda row: (row["updated_at"], row["alert_id"]))


def told(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in ("alert_id", "state", "updated_at", "severity", "observed")) for row in rows]


async def test_the_same_stretch_gives_the_same_whatever_the_speed_the_workers_and_the_source(tmp_path: Path) -> None:
    recorded = events()
    file = tmp_path / "events.jsonl"
    write_events(recorded, file)
    home = Settings(home=tmp_path / "home", triton="", partitions=PARTITIONS, checkpoint_seconds=0.2)
    async with embedded_stack(home, workers=0) as stack:
        settings = stack.settings
        first, expected = await replayed(settings, "fast", files=[file])
        assert first.alerts
        assert first.stages["replay-fast-clicks"]["late"] > 10

        _, paced = await replayed(settings, "paced", files=[file], speed=1_500, workers=2)
        assert paced == expected

        # From the topics of one namespace into another.
        read = settings_in(settings, "fast").model_copy(update={"home": settings.home, "database": settings.database})
        _, again = await replayed(read, "again", topics=True)
        assert again == expected
        with pytest.raises(BadNamespace, match="read from and written to"):
            await run_replay(read, Options(namespace="fast", topics=True), quiet())

        # The radar's own code in this process, from the file and from what lies in signals.
        rows = await alerts_in(settings, "fast")
        rules = load_rules(SHIPPED)
        async with RememberedScorer(settings, tmp_path / "scores") as scorer:
            signals = await signals_of(EventFiles([file]), settings, scorer)
        assert told(await alerts_of(signals, settings, rules)) == told(rows)
        report = await run_backtest(read, BacktestOptions(rules=SHIPPED, curve=False))
        assert {change.what for change in report.changes} == {"same"}
        assert {alert["alert_id"] for alert in report.after.alerts} == {row["alert_id"] for row in rows}

        # And nothing of it is left.
        assert await namespaces(settings) == ["replay-again", "replay-fast", "replay-paced"]
        for name in await namespaces(settings):
            gone = await clean(settings, name)
            assert gone["topics"] >= 9
            assert gone["files"]
        assert await namespaces(settings) == []
        assert (await clean(settings, "fast"))["topics"] == 0


async def test_a_stretch_of_the_topics_by_time_offset_and_selection(tmp_path: Path) -> None:
    home = Settings(home=tmp_path / "home", triton="", partitions=PARTITIONS)
    recorded = events()
    async with embedded_stack(home, workers=0) as stack:
        settings = stack.settings
        await replay_events(recorded, settings)

        whole = await record(settings, Stretch(), tmp_path / "whole")
        found = list(EventFiles(whole.files))
        for topic in ("reviews", "chats", "clicks"):
            for partition in range(PARTITIONS):
                sent, read = (
                    [
                        each.value
                        for each in those
                        if each.topic == topic and partition_of(each.key, PARTITIONS) == partition
                    ]
                    for those in (recorded, found)
                )
                assert read == sent
        assert [event.topic for event in found[:30]] == ["catalog"] * 30
        assert whole.unreadable == 0

        begin, end = START + HOUR, START + 2 * HOUR
        part = await record(settings, Stretch(begin, end), tmp_path / "part")
        inside = [event.line() for event in found if event.topic != "catalog" and begin <= event.ts < end]
        assert sorted(event.line() for event in EventFiles(part.files) if event.topic != "catalog") == sorted(inside)

        some = await record(settings, Stretch(offsets={("clicks", 1): Offsets(10, 60)}), tmp_path / "some")
        places = [e.value for e in recorded if e.topic == "clicks" and partition_of(e.key, PARTITIONS) == 1]
        read = [event.value for event in EventFiles(some.files) if event.topic != "catalog"]
        assert 40 < len(read) <= 50  # heartbeats take places too
        assert read == places[places.index(read[0]) :][: len(read)]

        # A simulated source, chosen and moved, to a topic nobody reads.
        selection = Selection(kinds=frozenset({"purchase"}))
        report = await run_replay(
            settings, Options(simulate=1, selection=selection, remap={"clicks": "clicks"}, shift_to=end), quiet()
        )
        assert report.sent["clicks"] > 10
        assert report.first_ts <= end < report.first_ts + 2 * settings.pane_ms + HOUR


async def test_without_a_stack_one_is_started_and_its_tables_stay(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", triton="", partitions=1)
    options = Options(simulate=1, selection=Selection(kinds=frozenset({"clicks"})), namespace="alone")
    report = await run_replay(settings, options, quiet())
    assert report.complete
    assert report.database == "radar_replay_alone"
    assert await asyncio.gather(namespaces(settings)) == [["replay-alone"]]
    assert (await clean(settings, "alone"))["database"] == "radar_replay_alone"
    assert await namespaces(settings) == []
