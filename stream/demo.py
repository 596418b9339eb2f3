"""``radar demo``: a simulated shop through the stack while one watches, and which of its incidents were found."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stream import alerts as reader
from stream.replay.control import Control
from stream.replay.run import ReplayReport, feed
from stream.settings import Settings, running
from stream.simulate import Shop
from stream.simulate.incidents import Finding, Incident, match_alerts
from stream.stack import embedded_stack


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

        replayed = await feed(shop.generate(), stack.settings, Control(speed), console, alert_came)
        findings = match_alerts(shop.incidents, map(_as_record, replayed.alerts))
        report = DemoReport(findings, replayed, up - begun, first[0] if first else None, shop.incidents)
        if keep:
            report.print(console)
            console.print(f"the stack stays up; look with RADAR_HOME={home} radar alerts; Ctrl-C stops it")
            await stack.wait()
    return report


def _as_record(alert: dict[str, Any]) -> dict[str, Any]:
    """An alert as read back, with the names of :class:`stream.records.Alert`."""
    return {
        **alert,
        "label": reader.label_of(alert),
        "scope": "product" if alert["product_id"] else "category",
        "updated_at": alert["closed_at"] or alert["opened_at"],
    }
