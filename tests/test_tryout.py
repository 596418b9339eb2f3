"""`radar rules`: a file is checked, shown and tried without any server."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from stream import tryout
from stream.cli import main
from stream.detect import Key
from stream.detect.cells import VOLUME
from stream.detect.rules import SHIPPED, load_rules

PANE = 300_000
START = 1_772_380_800_000
P1 = Key("negative_spike", "product", "p1", "c", "packaging")


def dumped(number: int, ts: int, **changes: Any) -> dict[str, Any]:
    """A row of `radar dump --canonical`."""
    return {
        "table": "signals", "signal_id": f"review/{number}", "event_id": f"e{number}", "ts": ts, "channel": "review",
        "product_id": "p1", "category": "c", "text": "包装破了", "aspect": ["packaging"], "demand": [],
        "aspect_sentiment": ["negative"], "aspect_prob": [0.9], "aspect_evidence": [[[0, 4]]], "demand_prob": [],
        "demand_evidence": [],
    } | changes  # fmt: skip


def message(number: int, ts: int, **changes: Any) -> dict[str, Any]:
    """The same text on the topic `signals`."""
    return {
        "kind": "text", "signal_id": f"review/{number}", "event_id": f"e{number}", "ts": ts, "channel": "review",
        "product_id": "p1", "category": "c", "text": "包装破了", "demands": [],
        "aspects": [{"aspect": "packaging", "sentiment": "negative", "prob": 0.9, "evidence": [[0, 4]]}],
    } | changes  # fmt: skip


def lines(rows: Iterable[dict[str, Any]]) -> list[bytes]:
    return [orjson.dumps(row) for row in rows]


def wave() -> list[dict[str, Any]]:
    quiet = [dumped(n, START + n * PANE, aspect_sentiment=["positive"]) for n in range(40)]
    return [*quiet, *(dumped(100 + n, START + 40 * PANE + n) for n in range(10))]


def test_rows_and_messages_count_alike_and_a_text_counts_once() -> None:
    rows = [dumped(1, START), dumped(2, START + PANE, category=""), dumped(3, START, aspect_sentiment=["neutral"])]
    messages = [message(1, START), message(2, START + PANE, category=""), message(3, START, aspects=[])]
    panes, texts = tryout.read_panes(lines([*rows, rows[0]]), PANE)
    assert (panes, texts) == tryout.read_panes(lines([*messages, *messages]), PANE)
    assert texts == 3
    assert {key: cell.observed for key, cell in panes[START].items()} == {
        P1: 1, P1.volume: 2, P1._replace(scope="category", product_id=""): 1,
        Key(VOLUME, "category", "", "c", ""): 2,
    }  # fmt: skip
    assert set(panes[START + PANE]) == {P1._replace(category=""), P1.volume._replace(category="")}
    assert panes[START][P1].quotes[0].spans == ((0, 4),)


def test_demands_and_what_shoppers_do_count_too() -> None:
    wants = dumped(1, START, aspect=[], aspect_sentiment=[], aspect_prob=[], aspect_evidence=[], channel="chat",
                   demand=["restock"], demand_prob=[0.8], demand_evidence=[[]])  # fmt: skip
    window = {"table": "windows", "pane_start": START, "scope": "product", "product_id": "p1", "category": "c",
              "returns": 0, "empty_searches": 4}  # fmt: skip
    panes, _ = tryout.read_panes(lines([wants, window, window | {"scope": "category", "product_id": ""}]), PANE)
    cell = panes[START][Key("demand_surge", "product", "p1", "c", "restock")]
    assert (cell.chats, cell.clicks) == (1, 2)


@pytest.mark.parametrize(
    ("line", "said"),
    [(b"{", "line 2 is neither"), (b"[1]", "line 2 is neither"), (b'{"table": "signals"}', "line 2 is neither"),
     (b'{"topic": "reviews", "value": {}}', "line 2 is a raw event")],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_named(line: bytes, said: str) -> None:
    with pytest.raises(tryout.BadInput, match=said):
        tryout.read_panes([b"", line], PANE)


def test_other_tables_of_a_dump_are_passed_over() -> None:
    assert tryout.read_panes([b'{"table": "sessions"}'], PANE) == ({}, 0)


def test_the_incidents_of_the_simulated_shop_are_found() -> None:
    panes = tryout.simulated(PANE)
    assert panes == tryout.simulated(PANE)
    rules = load_rules(SHIPPED)
    states = tryout.try_rules(rules, panes, PANE, 12)
    alerts = {alert.alert_id: alert for alert in states}
    assert sum(alert.state == "resolved" for alert in states) == len(alerts)  # no flapping
    assert sum(alert.severity >= 6 for alert in alerts.values()) == 5
    assert len(alerts) <= 5 + 4
    assert {alert.state for alert in alerts.values()} == {"resolved"}


# Commands


def radar(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["rules", *arguments], input=stdin)


def test_check_says_what_is_wrong_and_exits_1(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("rules: {a: {kind: demand_surge}}")
    bad.write_text("rules:\n  a:\n    kind: demand_surge\n    keep_fring_for: 1h\n")
    assert radar("check", str(good)).exit_code == 0
    result = radar("check", str(bad))
    assert result.exit_code == 1
    assert (
        f"{bad}:4:5: rules.a.keep_fring_for: no key 'keep_fring_for'; did you mean 'keep_firing_for'?" in result.output
    )


def test_show_tells_the_rules_in_force_with_their_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = json.loads(radar("show", "--json").stdout)
    assert [rule["name"] for rule in shown["rules"]][:2] == ["negative-spike", "demand-surge"]
    assert shown["rules"][0]["keep_firing_ms"] == 900_000
    mine = tmp_path / "mine.yaml"
    mine.write_text("rules: {mine: {kind: demand_surge}}")
    monkeypatch.setenv("RADAR_RULES", str(mine))
    assert "mine" in radar("show").stdout
    assert "negative-spike" in radar("show", str(SHIPPED)).stdout


def test_the_schema_is_json() -> None:
    assert "rules" in json.loads(radar("schema").stdout)["properties"]


def test_test_prints_what_a_file_would_have_told(tmp_path: Path) -> None:
    run = tmp_path / "run.jsonl"
    run.write_bytes(b"\n".join(lines(wave())))
    states = [
        json.loads(line) for line in radar("test", str(SHIPPED), "--input", str(run), "--json").stdout.splitlines()
    ]
    assert [state["state"] for state in states] == ["open", "resolved"]
    assert states[0]["evidence"][0]["text"] == "包装破了"
    deaf = tmp_path / "deaf.yaml"
    deaf.write_text("rules: {a: {kind: negative_spike, at_least: {observed: 50}}}")
    assert radar("test", str(deaf), "--input", "-", "--json", stdin=run.read_bytes()).stdout == ""


def test_test_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_text('{"topic": "reviews", "key": "p1", "value": {}}')
    result = radar("test", str(SHIPPED), "--input", str(events))
    assert result.exit_code == 1 and "radar replay" in result.output
    assert radar("test", str(SHIPPED), "--input", str(tmp_path / "nowhere")).exit_code == 2
