"""The command line as a user meets it: help, exit codes, JSON on stdout, words on stderr."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from stream.cli import main

COMMANDS = (
    "up", "demo", "worker", "simulate", "import", "replay", "score", "alerts", "rules", "route", "schema", "doctor",
    "terms", "label",
)  # fmt: skip


def radar(*arguments: str, home: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The real command in its own process, with nothing running and nothing configured."""
    return subprocess.run(
        [sys.executable, "-m", "stream.cli", *arguments],
        input=stdin, capture_output=True, text=True, timeout=120,
        env={"PATH": "/usr/bin:/bin", "RADAR_HOME": str(home), "RADAR_TRITON": "", "LANG": "C.UTF-8"},
    )  # fmt: skip


def test_every_command_has_help_that_says_what_it_does() -> None:
    listing = CliRunner().invoke(main, ["--help"])
    for command in COMMANDS:
        assert command in listing.output
        shown = CliRunner().invoke(main, [command, "--help"])
        assert shown.exit_code == 0
        assert len(shown.output.splitlines()) > 5


def test_wrong_usage_exits_2_and_names_the_option() -> None:
    for arguments in (
        ["replay", "no-such-file"],
        ["alerts", "--since", "yesterday"],
        ["replay", __file__, "--speed", "-1"],
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert "Error" in result.output


def test_score_answers_one_object_a_line_with_spans_of_the_given_text(tmp_path: Path) -> None:
    text = "  物流太慢了，<b>电话</b>13812345678  "
    done = radar(
        "score", "--json", home=tmp_path, stdin=text + "\n\n" + json.dumps({"id": 7, "text": "Too small"}) + "\n"
    )
    assert done.returncode == 0, done.stderr
    first, *_, last = map(json.loads, done.stdout.splitlines())
    assert "13812345678" not in done.stdout
    assert set(first) >= {"text", "language", "sentiment", "aspects", "demands", "keywords", "entities", "model"}
    (phone,) = [entity for entity in first["entities"] if entity["type"] == "PHONE"]
    assert text[slice(*phone["span"])] == "13812345678"
    for found in first["aspects"] + first["demands"]:
        for start, end in found["evidence"]:
            assert 0 <= start < end <= len(text)
    assert last["id"] == 7
    assert last["language"] == "en"


def test_score_marks_a_line_that_is_no_json_and_goes_on(tmp_path: Path) -> None:
    done = radar("score", "--json", home=tmp_path, stdin='{"text": \n{"text": "好"}\n')
    bad, good = map(json.loads, done.stdout.splitlines())
    assert bad["line"] == 1
    assert "error" in bad
    assert good["text"] == "好"
    assert done.returncode == 1


def test_score_of_hostile_lines_never_breaks(tmp_path: Path) -> None:
    lines = ["", "\x00\x01", "😡" * 5_000, "慢" * 20_000, "\u202e倒", "a\u0301" * 100]
    payload = "".join(json.dumps({"text": line}) + "\n" for line in lines)
    done = radar("score", "--json", home=tmp_path, stdin=payload)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(lines)


def test_simulate_writes_events_and_truth(tmp_path: Path) -> None:
    done = radar(
        "simulate", str(tmp_path / "e.jsonl"), "--hours", "1", "--truth", str(tmp_path / "t.json"), home=tmp_path
    )
    assert done.returncode == 0, done.stderr
    topics = {json.loads(line)["topic"] for line in (tmp_path / "e.jsonl").read_text().splitlines()}
    assert topics == {"catalog", "reviews", "chats", "clicks"}
    assert json.loads((tmp_path / "t.json").read_text())


def test_import_maps_columns_and_counts_what_it_skips(tmp_path: Path) -> None:
    table = tmp_path / "reviews.csv"
    table.write_text("stars,comment,sku\n1,盒子压扁了,p1\nmany,好,p1\n5,不错,p2\n")
    done = radar(
        "import", "reviews", str(table), "--text", "comment", "--rating", "stars", "--product", "sku", home=tmp_path
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(event["key"], event["value"]["rating"]) for event in events} == {("p1", 1), ("p2", 5)}
    assert "reviews.csv:3" in done.stderr


def test_schema_prints_the_tables(tmp_path: Path) -> None:
    done = radar("schema", home=tmp_path)
    assert done.returncode == 0
    for table in ("signals", "alerts", "recommendations", "sessions", "deadletters"):
        assert table in done.stdout


@pytest.mark.parametrize("arguments", [("alerts",), ("alerts", "--json")])
def test_alerts_without_a_stack_say_what_to_do(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = radar(*arguments, home=tmp_path)
    assert "radar up" in done.stderr or done.returncode == 0
    assert "Traceback" not in done.stderr


def test_doctor_names_the_remedy_of_each_failed_check_and_exits_1(tmp_path: Path) -> None:
    done = radar("doctor", "--json", home=tmp_path)
    assert done.returncode == 1
    failed = [check for check in json.loads(done.stdout) if not check["ok"]]
    assert any(check["name"] == "broker" for check in failed)
    assert all(check["remedy"] for check in failed)
