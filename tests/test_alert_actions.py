"""Operators and the running stack: an action reaches its alert, rules change while it runs, routes are told."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from test_fusion import START, Message, mark, text

from stream import alerts
from stream.detect.feedback import overall
from stream.detect.lifecycle import Action
from stream.events import SOURCES
from stream.settings import Settings
from stream.sinks.kafka import KafkaOut
from stream.stack import embedded_stack

PANE = 300_000
RULES = "rules: {{{name}: {{kind: negative_spike, routes: [log]}}}}\nroutes: {{log: {{to: file, address: {file}}}}}\n"
LOOK_SECONDS = 6  # a worker looks for other rules every five


def quiet_and_wave() -> list[Message]:
    quiet = [text("reviews/0", n, START + n * PANE, aspects=[]) for n in range(40)]
    return [*quiet, *(text("reviews/0", 100 + n, START + 40 * PANE + n) for n in range(12))]


def clocks(panes: int) -> list[Message]:
    return [mark(f"{topic}/0", START + panes * PANE) for topic in SOURCES]


async def soon(look: Callable[[], Awaitable[Any]]) -> Any:
    for _ in range(300):
        if found := await look():
            return found
        await asyncio.sleep(0.2)
    raise AssertionError("it did not come within a minute")


@pytest.mark.stack
async def test_an_operator_a_router_and_other_rules_while_the_stack_runs(tmp_path: Path) -> None:
    rules, sent = tmp_path / "rules.yaml", tmp_path / "sent.jsonl"
    rules.write_text(RULES.format(name="spike", file=sent))
    settings = Settings(home=tmp_path / "home", triton="", partitions=1, rules=str(rules))
    async with embedded_stack(settings) as stack, alerts.source(stack.settings) as store:
        out = KafkaOut(stack.settings.brokers)

        async def feed(*messages: Message) -> None:
            await out.send("signals", [("p1", message) for message in messages])

        async def newest(state: str) -> alerts.Alert | None:
            return next(iter(await alerts.list_alerts(store, state=state)), None)

        async def told() -> list[tuple[str, str]]:
            lines = map(json.loads, sent.read_text().splitlines() if sent.exists() else ())
            return [(line["type"], line["data"]["alert_id"]) for line in lines]

        await feed(*quiet_and_wave(), *clocks(41))
        opened = await soon(lambda: newest("open"))
        assert (opened["rule"], opened["origin"]) == ("spike", "organic")
        assert await soon(told) == [("alert.open", opened["alert_id"])]

        def action(verb: str, note: str = "") -> Action:
            return Action(opened["alert_id"], verb, int(time.time() * 1000), "ann", note=note)  # type: ignore[arg-type]

        held = await alerts.say(stack.settings, opened, action("ack", "looking"))
        assert held and (held["state"], held["cause"]) == ("acknowledged", "acknowledged by ann: looking")
        judged = await alerts.say(stack.settings, opened, action("useful"))
        assert judged and judged["verdict"] == "useful"
        assert [each.share for each in overall(await alerts.judged(store))] == [1.0]

        async def radar(*arguments: str) -> tuple[int, str]:
            done = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-m", "stream.cli", *arguments], capture_output=True, text=True,
                env={"PATH": "/usr/bin:/bin", "RADAR_HOME": str(tmp_path / "home"), "RADAR_RULES": str(rules)},
            )  # fmt: skip
            return done.returncode, done.stdout + done.stderr

        code, said = await radar("alerts", "snooze", opened["alert_id"][:6], "2h", "--by", "bob")
        assert code == 0 and "snoozed" in said
        assert (await radar("alerts", "not-useful", opened["alert_id"], "-m", "promotion"))[0] == 0
        assert (await newest("snoozed") or {})["cause"].startswith("not useful by ")
        stats = json.loads((await radar("rules", "stats", "--json"))[1])
        assert [(rule["rule"], rule["not_useful"]) for rule in stats["rules"]] == [("spike", 1)]
        code, said = await radar("alerts", "ack", "ffff")
        assert code == 2 and "no alert has an id that begins with ffff" in said

        rules.write_text(RULES.format(name="other", file=sent))
        await asyncio.sleep(LOOK_SECONDS)
        await feed(*clocks(42))
        ended = await soon(lambda: newest("resolved"))
        assert ended["cause"] == "packaging is watched by rule other now"
        await out.close()
