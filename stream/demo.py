"""``radar demo`` and ``radar replay``: events through the stack while one watches, and an account of what came out."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stream import alerts as reader
from stream.replay import Event, ReplaySummary, read_events, replay_events
from stream.settings import Settings, running
from stream.simulate import Shop
from stream.simulate.incidents import Finding, Incident, match_alerts
from stream.sinks import open_sink
from stream.sinks.base import Sink
from stream.stack import embedded_stack
from stream.status import read_lanes, totals, wait_until_caught_up

Counts = dict[str, dict[str, int]]
PROGRESS_SECONDS = 5.0
WORKER_PATIENCE = 30.0


@dataclass(slots=True)
class ReplayReport:
    """What went in and what came out, stage by stage."""

    sent: dict[str, int]
    heartbeats: int
    first_ts: int
    last_ts: int
    seconds: float  # until everything was read, counted and durable
    complete: bool
    stages: Counts
    alerts: list[dict[str, Any]]

    @property
    def events_per_second(self) -> float:
        return sum(self.sent.values()) / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "heartbeats": self.heartbeats,
            "first_ts": self.first_ts,
            "last_ts": self.last_ts,
            "seconds": round(self.seconds, 1),
            "events_per_s": round(self.events_per_second),
            "complete": self.complete,
            "stages": self.stages,
            "alerts": self.alerts,
        }

    def print(self, out: Console, with_alerts: bool = True) -> None:
        sent = ", ".join(f"{count:,} {topic}" for topic, count in self.sent.items())
        out.print(
            f"\n{sent} from {reader.human(self.first_ts)} to {reader.human(self.last_ts)} UTC in {self.seconds:.1f} s: "
            f"{self.events_per_second:,.0f} events/s"
        )
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


@dataclass(slots=True)
class DemoReport:
    """Which injected incident was found, how late and with which evidence."""

    findings: list[Finding]
    replay: ReplayReport
    up_seconds: float
    first_alert_seconds: float | None  # from the stack being up to the first alert in the store
    incidents: list[Incident] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.replay.complete and not any(finding.verdict == "missed" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "found": sum(finding.verdict == "found" for finding in self.findings),
            "missed": sum(finding.verdict == "missed" for finding in self.findings),
            "false_alarms": sum(finding.verdict == "false alarm" for finding in self.findings),
            "up_s": round(self.up_seconds, 1),
            "first_alert_s": None if self.first_alert_seconds is None else round(self.first_alert_seconds, 1),
            "findings": [
                {
                    "verdict": finding.verdict,
                    "kind": about["kind"],
                    "label": about["label"],
                    "product_id": about["product_id"],
                    "category": about["category"],
                    "started_at": finding.incident.start if finding.incident else None,
                    "late_s": finding.late_ms // 1000 if finding.verdict == "found" else None,
                    "alert_id": finding.alert["alert_id"] if finding.alert else None,
                    "severity": finding.alert["severity"] if finding.alert else None,
                    "evidence": finding.quotes,
                    "also": finding.also,
                    "note": finding.note,
                }
                for finding in self.findings
                for about in (_about(finding),)
            ],
            "replay": self.replay.to_dict(),
        }

    def print(self, out: Console) -> None:
        table = Table(
            "incident", "where", "injected (UTC)", "verdict", "late", "sev", "evidence", title="What was found"
        )
        colours = {"found": "green", "missed": "red", "false alarm": "yellow"}
        for finding in self.findings:
            about = _about(finding)
            table.add_row(
                f"{about['kind']}: {about['label']}",
                reader.place_of(about),
                reader.human(finding.incident.start)[5:16] if finding.incident else "",
                Text(finding.verdict, colours[finding.verdict]),
                f"{finding.late_ms // 60_000} min" if finding.verdict == "found" else "",
                str(finding.alert["severity"]) if finding.alert else "",
                Text(" / ".join(finding.quotes[:2])[:120]),
            )
        for incident in self.incidents:
            if incident.kind == "promotion":
                table.add_row(
                    "promotion (no incident)", incident.category, reader.human(incident.start)[5:16], "", "", "", ""
                )
        self.replay.print(out, with_alerts=False)
        out.print(table)
        first = f"{self.first_alert_seconds:.0f} s" if self.first_alert_seconds is not None else "never"
        out.print(f"stack up in {self.up_seconds:.0f} s, first alert after {first}")


def _about(finding: Finding) -> dict[str, Any]:
    """Kind, label and place of a finding, from its incident or else its alert."""
    source: Any = finding.alert if finding.incident is None else finding.incident
    return {
        name: source[name] if finding.incident is None else getattr(source, name)
        for name in ("kind", "label", "product_id", "category")
    }


async def run_demo(
    settings: Settings, hours: float, seed: int, speed: float | None, keep: bool, console: Console
) -> DemoReport:
    """Start the stack in ``<home>/demo`` with an empty store, feed it a simulated shop, match alerts and incidents."""
    home = settings.home / "demo"
    if running(home) is None:
        shutil.rmtree(home / "chdb", ignore_errors=True)
    settings = settings.model_copy(update={"home": home, "idle_seconds": 0.0})
    shop = Shop(seed=seed, hours=hours)
    begun = time.monotonic()
    console.print("starting broker, Triton, chDB and a worker ...")
    async with embedded_stack(settings, on_event=lambda name, state: console.print(f"  {name}: {state}")) as stack:
        up = time.monotonic()
        console.print(f"up in {up - begun:.1f} s; feeding {hours:g} h of a simulated shop")
        first: list[float] = []

        def alert_came() -> None:
            if not first:
                first.append(time.monotonic() - up)

        replayed = await _feed(shop.generate(), stack.settings, speed, console, alert_came)
        findings = match_alerts(shop.incidents, map(_as_record, replayed.alerts))
        report = DemoReport(findings, replayed, up - begun, first[0] if first else None, shop.incidents)
        if keep:
            report.print(console)
            console.print(f"the stack stays up; look with RADAR_HOME={home} radar alerts; Ctrl-C stops it")
            await stack.wait()
    return report


async def run_replay(
    settings: Settings, files: Sequence[Path], speed: float | None, keep_invalid: bool, console: Console
) -> ReplayReport:
    """Send event files through the stack that runs here, or through one started for the purpose."""
    events = read_events(files, keep_invalid)
    if running(settings.home) is not None or "broker" in settings.model_fields_set:
        return await _feed(events, settings, speed, console)
    console.print("no stack runs here: starting one for this replay")
    async with embedded_stack(settings.model_copy(update={"idle_seconds": 0.0})) as stack:
        return await _feed(events, stack.settings, speed, console)


async def _feed(
    events: Iterable[Event],
    settings: Settings,
    speed: float | None,
    console: Console,
    on_alert: Callable[[], None] = lambda: None,
) -> ReplayReport:
    """Replay ``events``, show progress and alerts, wait until all of it is durable, and account for it."""
    before = totals(read_lanes(settings))
    begun = time.monotonic()
    summary = ReplaySummary()

    def sent(now: ReplaySummary) -> None:
        nonlocal summary
        summary = now

    async with open_sink(settings) as sink:
        watchers = [
            asyncio.create_task(_show_alerts(sink, console, on_alert)),
            asyncio.create_task(_show_progress(settings, lambda: summary, before, console)),
        ]
        try:
            summary = await replay_events(events, settings, speed, sent, WORKER_PATIENCE)
            complete = await wait_until_caught_up(settings, summary.last_ts + settings.session_gap_ms)
            seconds = time.monotonic() - begun
            found = await reader.list_alerts(sink, since=summary.first_ts)
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
    until = summary.last_ts + settings.session_gap_ms + settings.window_panes * settings.pane_ms
    return ReplayReport(
        sent=dict(summary.sent),
        heartbeats=summary.heartbeats,
        first_ts=summary.first_ts,
        last_ts=summary.last_ts,
        seconds=seconds,
        complete=complete,
        stages=_difference(totals(read_lanes(settings)), before),
        alerts=[alert for alert in found if alert["opened_at"] <= until],
    )


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


async def _show_progress(
    settings: Settings, summary: Callable[[], ReplaySummary], before: Counts, console: Console
) -> None:
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        lanes = read_lanes(settings)
        now = _difference(totals(lanes), before)
        texts = sum(now.get(settings.topic(topic), {}).get("signals", 0) for topic in ("reviews", "chats"))
        clicks = now.get(settings.topic("clicks"), {}).get("clicks", 0)
        clock = min((lanes[name]["watermark"] for name in lanes if "signals" in name), default=0)
        when = f"{datetime.fromtimestamp(clock / 1000, UTC):%Y-%m-%d %H:%M}" if clock else "not started"
        console.print(
            f"  event time {when}: {summary().events:,} events sent, {texts:,} texts and {clicks:,} clicks read",
            style="dim",
        )


def _difference(after: Counts, before: Counts) -> Counts:
    return {
        topic: {name: count - before.get(topic, {}).get(name, 0) for name, count in counts.items()}
        for topic, counts in after.items()
    }


def _as_record(alert: dict[str, Any]) -> dict[str, Any]:
    """An alert as read back, with the names of :class:`stream.records.Alert`."""
    return {
        **alert,
        "label": reader.label_of(alert),
        "scope": "product" if alert["product_id"] else "category",
        "updated_at": alert["closed_at"] or alert["opened_at"],
    }
