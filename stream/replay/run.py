"""``radar replay``: a source, a tape, a namespace with its workers, and an account of what came out.

By default each replay gets a fresh namespace (:mod:`stream.replay.namespace`) and workers of its own, on the stack that
runs or on one that is started for it: what is in production is read at most, and event time, which stands past the end
after a replay, begins anew.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stream import alerts as reader
from stream.events import ACTIONS, SOURCES
from stream.replay.control import HELP, Control, NoControl, keyboard, listen
from stream.replay.events import TOPICS, Event, EventFiles
from stream.replay.namespace import check_apart, fresh_name, full_name, settings_in, workers
from stream.replay.plan import Plan, plan
from stream.replay.progress import Counts, difference, show_progress
from stream.replay.recorded import Offsets, Stretch, record
from stream.replay.send import ReplaySummary, replay_events
from stream.replay.tape import Selection, Source, Tape
from stream.settings import Settings, running
from stream.sinks import open_sink
from stream.sinks.base import Sink
from stream.stack import embedded_stack
from stream.status import read_lanes, totals, wait_until_caught_up
from stream.topics import TopicsError, admin

WORKER_PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    """What ``radar replay`` was asked for. Times are epoch ms."""

    files: Sequence[Path] = ()
    topics: bool = False  # read the topics that the settings name
    simulate: float = 0.0  # hours of a simulated shop
    seed: int = 7
    selection: Selection = Selection()  # noqa: RUF009 (immutable)
    offsets: Mapping[tuple[str, int], Offsets] = field(default_factory=dict)
    recording: Path | None = None  # where what was read from topics stays
    keep_invalid: bool = False
    speed: float | None = None
    loop: bool = False
    paused: bool = False
    control: Path | None = None
    shift_to: int | None = None
    namespace: str = ""  # "": a fresh one
    in_place: bool = False
    remap: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1


def check_kinds(kinds: Sequence[str]) -> frozenset[str] | None:
    """What ``--kind`` names, None for nothing. Raises ValueError."""
    if unknown := sorted(set(kinds) - {*SOURCES, *ACTIONS}):
        raise ValueError(f"kind {', '.join(unknown)}: there are {', '.join((*SOURCES, *ACTIONS))}")
    return frozenset(kinds) or None


def read_remap(texts: Sequence[str]) -> dict[str, str]:
    """``reviews=other`` each. Raises ValueError."""
    pairs = [text.partition("=") for text in texts]
    if bad := ["".join(pair) for pair in pairs if pair[0] not in TOPICS or not pair[2]]:
        raise ValueError(f"remap {bad[0]!r}: say TOPIC=OTHER, where TOPIC is one of {', '.join(TOPICS)}")
    return {topic: other for topic, _, other in pairs}


@dataclass(slots=True)
class ReplayReport:
    """What went in and what came out, stage by stage."""

    sent: dict[str, int]
    heartbeats: int
    late: int
    first_ts: int
    last_ts: int
    seconds: float  # until everything was read, counted and durable
    complete: bool
    stages: Counts
    alerts: list[dict[str, Any]]
    namespace: str = ""  # "": in place
    database: str = ""

    @property
    def events_per_second(self) -> float:
        return sum(self.sent.values()) / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "heartbeats": self.heartbeats,
            "late": self.late,
            "first_ts": self.first_ts,
            "last_ts": self.last_ts,
            "seconds": round(self.seconds, 1),
            "events_per_s": round(self.events_per_second),
            "complete": self.complete,
            "stages": self.stages,
            "alerts": self.alerts,
            "namespace": self.namespace,
            "database": self.database,
        }

    def print(self, out: Console, with_alerts: bool = True) -> None:
        sent = ", ".join(f"{count:,} {topic}" for topic, count in self.sent.items()) or "nothing"
        between = f" from {reader.human(self.first_ts)} to {reader.human(self.last_ts)} UTC" if self.first_ts else ""
        out.print(f"\n{sent}{between} in {self.seconds:.1f} s: {self.events_per_second:,.0f} events/s")
        if self.stages:
            table = Table("stage", "counts")
            for topic, counts in self.stages.items():
                table.add_row(topic, ", ".join(f"{count:,} {name}" for name, count in counts.items() if count))
            out.print(table)
        if not self.complete:
            out.print(
                "[yellow]The workers have not finished: look into the logs in <home>/logs, or run radar doctor.[/]"
            )
        if with_alerts:
            out.print(reader.as_table(self.alerts) if self.alerts else "no alerts")
        if self.namespace:
            out.print(
                f"namespace {self.namespace}: look again with RADAR_DATABASE={self.database} radar alerts; remove it "
                f"with radar replay --clean {self.namespace}",
                style="dim",
                highlight=False,
            )


class Simulated:
    """A simulated shop as a source."""

    def __init__(self, hours: float, seed: int) -> None:
        from stream.simulate import Shop

        self._shop = Shop(hours=hours, seed=seed)
        self._clock = self._shop.start

    def __iter__(self) -> Iterator[Event]:
        for event in self._shop.generate():
            self._clock = event.ts
            yield event

    def done(self) -> float:
        return min(1.0, (self._clock - self._shop.start) / (self._shop.hours * 3_600_000))


async def dry_run(settings: Settings, options: Options) -> Plan:
    """What would be sent; nothing is."""
    async with _source(settings, options) as source:
        tape = Tape(source, options.selection, shift_to=options.shift_to, pane_ms=settings.pane_ms)
        return await asyncio.to_thread(plan, tape)


async def run_replay(settings: Settings, options: Options, console: Console) -> ReplayReport:
    """Send what the options choose where they say, wait for the workers and account for it."""
    name = "" if options.in_place else full_name(options.namespace or fresh_name(datetime.now(UTC)))
    target = settings_in(settings, name) if name else settings
    written = [options.remap.get(topic, target.topic(topic)) for topic in TOPICS]
    if options.topics and not options.in_place:
        check_apart(settings, written)
    async with _source(settings, options, console) as source:
        tape = Tape(source, options.selection, shift_to=options.shift_to, loop=options.loop, pane_ms=settings.pane_ms)
        control = Control(options.speed, tape, options.paused)
        async with _controlled(settings, options, control, console):
            if options.remap:
                return await _send_only(target, options, tape, control, console)
            async with _target(settings, target, options, console) as feeding:
                report = await feed(tape, feeding, control, console)
    report.namespace, report.database = name, target.database if name else ""
    return report


@asynccontextmanager
async def _source(settings: Settings, options: Options, console: Console | None = None) -> AsyncIterator[Source]:
    if options.simulate:
        yield Simulated(options.simulate, options.seed)
    elif options.files:
        yield EventFiles(options.files, options.keep_invalid)
    else:
        with ExitStack() as stack:
            folder = options.recording or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="radar-")))
            stretch = Stretch(options.selection.begin, options.selection.end, options.offsets)
            recording = await record(settings, stretch, folder, options.keep_invalid)
            if console:
                counts = ", ".join(f"{count:,} {topic}" for topic, count in recording.counts.items())
                console.print(f"read {counts} from topics; {recording.unreadable:,} unreadable")
            yield EventFiles(recording.files, options.keep_invalid)


@asynccontextmanager
async def _controlled(settings: Settings, options: Options, control: Control, console: Console) -> AsyncIterator[None]:
    """Keys, and a socket: where the options say, else ``<home>/replay.sock`` unless another replay has it."""
    path = options.control or settings.home / "replay.sock"
    with keyboard(control) as keys:
        if keys:
            console.print(HELP, style="dim", highlight=False)
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(listen(control, path))
            except NoControl as error:
                if options.control:
                    raise
                console.print(str(error), style="dim", highlight=False)
            yield


@asynccontextmanager
async def _target(settings: Settings, target: Settings, options: Options, console: Console) -> AsyncIterator[Settings]:
    """Workers that read what is sent, on servers that run or on ones started for it."""
    if running(settings.home) is not None or "broker" in settings.model_fields_set:
        if options.in_place:
            yield settings
            return
        async with workers(target, options.workers):
            yield target
        return
    console.print("no stack runs here: starting one for this replay")
    own = settings.model_copy(update={"prefix": target.prefix, "database": target.database, "idle_seconds": 0.0})
    async with embedded_stack(own, workers=options.workers) as stack:
        yield stack.settings


async def _send_only(
    target: Settings, options: Options, tape: Tape, control: Control, console: Console
) -> ReplayReport:
    """To topics that others read."""
    async with admin(target) as client:
        there = set(await client.list_topics())
    if missing := sorted(set(options.remap.values()) - there):
        raise TopicsError(
            f"No topic {', '.join(missing)} at {target.broker}: create it with {target.partitions} partitions"
        )
    async with show_progress(target, control, console, {}) as sent:
        summary = await replay_events(tape, target, None, sent, control=control, remap=options.remap)
    return _report(summary, summary.seconds, True, {}, [])


async def feed(
    events: Iterable[Event],
    settings: Settings,
    control: Control,
    console: Console,
    on_alert: Callable[[], None] = lambda: None,
) -> ReplayReport:
    """Replay ``events``, show progress and alerts, wait until all of it is durable, and account for it."""
    before = totals(read_lanes(settings))
    begun = time.monotonic()
    async with open_sink(settings) as sink, show_progress(settings, control, console, before) as sent:
        watcher = asyncio.create_task(_show_alerts(sink, console, on_alert))
        try:
            events = _looking_back(events, settings, console)
            summary = await replay_events(events, settings, None, sent, WORKER_PATIENCE, control)
            until = summary.last_ts + settings.session_gap_ms
            complete = not summary.first_ts or await wait_until_caught_up(settings, until)
            seconds = time.monotonic() - begun
            found = await reader.list_alerts(sink, since=summary.first_ts)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
    until += settings.window_panes * settings.pane_ms
    stages = difference(totals(read_lanes(settings)), before)
    return _report(summary, seconds, complete, stages, [alert for alert in found if alert["opened_at"] <= until])


def _report(
    summary: ReplaySummary, seconds: float, complete: bool, stages: Counts, alerts: list[dict[str, Any]]
) -> ReplayReport:
    return ReplayReport(
        sent=dict(summary.sent),
        heartbeats=summary.heartbeats,
        late=summary.late,
        first_ts=summary.first_ts,
        last_ts=summary.last_ts,
        seconds=seconds,
        complete=complete,
        stages=stages,
        alerts=alerts,
    )


def _looking_back(events: Iterable[Event], settings: Settings, console: Console) -> Iterator[Event]:
    """The events; says so where event time in the topics is past them already."""
    stream = iter(events)
    for event in stream:
        if event.topic in SOURCES:
            lanes = read_lanes(settings)
            clock = max((lane["watermark"] for name, lane in lanes.items() if "signals" in name), default=0)
            if event.ts < clock - settings.correct_ms:
                console.print(
                    f"[yellow]Event time here stands at {reader.human(clock)} UTC, and these events begin at "
                    f"{reader.human(event.ts)}: they come too late to be counted. Replay into a fresh namespace, or "
                    "move them with --shift-to.[/]"
                )
            yield event
            break
        yield event
    yield from stream


async def _show_alerts(sink: Sink, console: Console, on_alert: Callable[[], None]) -> None:
    async for alert in reader.follow(sink, seconds=0.5):
        on_alert()
        colour = "red" if alert["state"] == "open" else "green"
        at = datetime.fromtimestamp((alert["closed_at"] or alert["opened_at"]) / 1000, UTC)
        line = Text.assemble(
            (f"  {alert['state']:8} ", colour),
            f"{at:%m-%d %H:%M}  {alert['kind']}: {reader.label_of(alert)}  {reader.place_of(alert)}  "
            f"severity {alert['severity']}, {alert['observed']:g} seen, {alert['expected']:.2g} expected",
        )
        if alert["state"] == "open" and alert["evidence"]:
            line.append(f"  “{alert['evidence'][0]['text'][:60]}”", "italic")
        console.print(line, soft_wrap=True)
