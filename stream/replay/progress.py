"""How far a replay is, for whoever watches: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from stream.alerts import human
from stream.replay.control import Control
from stream.replay.send import Progress, ReplaySummary
from stream.replay.tape import Tape
from stream.settings import Settings
from stream.status import read_lanes, totals

Counts = dict[str, dict[str, int]]
LINE_SECONDS: Final = 5.0
BAR_SECONDS: Final = 0.25


@asynccontextmanager
async def show_progress(
    settings: Settings, control: Control, console: Console, before: Counts
) -> AsyncIterator[Progress]:
    """Shows how far it is; gives what is to be told of every advance."""
    summary = ReplaySummary()

    def sent(now: ReplaySummary) -> None:
        nonlocal summary
        summary = now

    if console.is_terminal and control.tape is not None:
        shown = _bar(lambda: summary, control, control.tape, console)
    else:
        shown = _lines(settings, lambda: summary, control, before, console)
    task = asyncio.create_task(shown)
    try:
        yield sent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _bar(summary: Callable[[], ReplaySummary], control: Control, tape: Tape, console: Console) -> None:
    begun = time.monotonic()
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while True:
            done = tape.done()
            row = Table.grid(*[Column(no_wrap=True)] * 6, padding=(0, 1))
            row.add_row(
                human(tape.clock)[5:] if tape.clock else "not started",
                ProgressBar(1.0, done, width=24),
                f"{done:4.0%}",
                f"{summary().events:,} events, {summary().rate:,.0f}/s",
                eta(done, time.monotonic() - begun) if not control.paused and not tape.round else "",
                Text(control.state()["state"], "yellow" if control.paused else "green"),
            )
            live.update(row, refresh=True)
            await asyncio.sleep(BAR_SECONDS)


async def _lines(
    settings: Settings,
    summary: Callable[[], ReplaySummary],
    control: Control,
    before: Counts,
    console: Console,
) -> None:
    begun, tape = time.monotonic(), control.tape
    while True:
        await asyncio.sleep(LINE_SECONDS)
        lanes = read_lanes(settings)
        now = difference(totals(lanes), before)
        texts = sum(now.get(settings.topic(topic), {}).get("signals", 0) for topic in ("reviews", "chats"))
        clicks = now.get(settings.topic("clicks"), {}).get("clicks", 0)
        clock = min((lanes[name]["watermark"] for name in lanes if "signals" in name), default=0)
        when = f"{datetime.fromtimestamp(clock / 1000, UTC):%Y-%m-%d %H:%M}" if clock else "not started"
        left = f", {eta(tape.done(), time.monotonic() - begun)}" if tape is not None and not tape.round else ""
        paused = ", paused" if control.paused else ""
        console.print(
            f"  event time {when}: {summary().events:,} events sent, {texts:,} texts and {clicks:,} clicks read"
            f"{left}{paused}",
            style="dim",
        )


def eta(done: float, seconds: float) -> str:
    """When it will all be sent, going on as before; "" while that is anybody's guess."""
    if not 0.01 < done < 1:
        return ""
    return f"{timedelta(seconds=round(seconds * (1 - done) / done))} left to send"


def difference(after: Counts, before: Counts) -> Counts:
    """What was counted since ``before``."""
    return {
        topic: {name: count - before.get(topic, {}).get(name, 0) for name, count in counts.items()}
        for topic, counts in after.items()
    }
