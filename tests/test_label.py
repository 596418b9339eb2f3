"""``radar label``: a label previewed and texts queued with a tiny model, and what is said where something lacks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stream.cli import main
from stream.settings import Settings

pytest.importorskip("torch")

from serving.card import read_card
from serving.export import export
from training.batches import load_tokenizer
from training.model import RadarModel

TOKENIZER = read_card(Settings().model_repo).tokenizer_file
INVOICES = ["能开发票吗", "发票抬头写公司", "发票还没给我", "电子发票发我", "invoice please", "send me the invoice"]
OTHERS = [
    f"{what}{how}"
    for what in ("快递", "包装", "颜色", "味道", "尺码")
    for how in ("很好", "太差了", "一般", "不错", "慢")
]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny = RadarModel.tiny(load_tokenizer(TOKENIZER).get_vocab_size()).eval()
    export(tiny, TOKENIZER, folder / "demand" / "1", {"version": "test"})
    return folder


@pytest.fixture
def past(tmp_path: Path) -> Path:
    path = tmp_path / "past.jsonl"
    lines = [json.dumps({"text": text}) for text in ["要发票,电话13800138000", *OTHERS]]
    path.write_text("\n".join([*lines, "", lines[0], "没有发票吗"]), encoding="utf-8")
    return path


def radar(*arguments: str, models: Path, stdin: str = "") -> Result:
    return CliRunner(env={"RADAR_MODEL_REPO": str(models)}).invoke(main, ["label", *arguments], input=stdin)


def previewed(past: Path, models: Path, examples: str = "\n".join(INVOICES), *more: str) -> Result:
    few = past.with_name("few.txt")
    few.write_text(examples, encoding="utf-8")
    wanted = ("--label", "invoice", "--definition", "Asks for an invoice: 发票", "--examples", str(few))
    return radar("preview", str(past), *wanted, *more, models=models)


def test_a_label_is_previewed_and_personal_data_stays_in(past: Path, repository: Path) -> None:
    told = json.loads(previewed(past, repository, "\n".join(INVOICES), "--json").stdout)
    assert told["texts"] == len(OTHERS) + 2
    assert [text["text"] for text in told["found"]][:2] in (
        ["要发票,电话[PHONE]", "没有发票吗"], ["没有发票吗", "要发票,电话[PHONE]"],
    )  # fmt: skip
    assert "发票" in previewed(past, repository).stdout


def test_the_queue_gives_rows_to_correct(past: Path, repository: Path) -> None:
    rows = [
        json.loads(line) for line in radar("queue", str(past), "--count", "4", models=repository).stdout.splitlines()
    ]
    assert len(rows) == 4 and all(
        row.keys() == {"text", "lang", "kind", "sentiment", "aspects", "demands"} for row in rows
    )


def test_what_is_wrong_with_the_texts_is_said(past: Path, repository: Path) -> None:
    assert "needs two labels or more" in previewed(past, repository, "").stderr
    assert "no past texts" in radar("queue", "-", models=repository).stderr
    broken = radar("queue", "-", models=repository, stdin='{"txt": 1}\n')
    assert broken.exit_code == 2 and '"text"' in broken.stderr


def test_missing_packages_or_models_are_named(past: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = radar("queue", str(past), models=tmp_path / "none")
    assert missing.exit_code == 3 and "RADAR_MODEL_REPO" in missing.stderr
    monkeypatch.setitem(sys.modules, "training.label", None)
    monkeypatch.delattr("training.label")
    bare = radar("queue", str(past), models=tmp_path)
    assert bare.exit_code == 3 and "demand-radar[training]" in bare.stderr
