"""Labels of ours for real texts, which are named by a hash since the texts may not be written down here."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from serving.labels import ASPECTS, DEMANDS, POLARITIES
from training import data
from training.data import ANNOTATED_SETS, ANNOTATIONS, Row, annotated, identity
from training.mapping import ALL_ASPECTS, ALL_DEMANDS

LINES: list[dict[str, Any]] = [
    json.loads(line)
    for path in sorted(ANNOTATIONS.glob("*.jsonl"))
    for line in path.read_text(encoding="utf-8").splitlines()
]
TEXT = "杯子漏水，能退吗"
SHOWN = Row(
    TEXT, "zh", "shop", "negative", {"quality": "negative", "efficacy": "positive"}, ALL_ASPECTS,
    spans={"quality": ((0, 4),), "efficacy": ((0, 4),)}, known_spans=frozenset({"quality", "efficacy", "price"}),
)  # fmt: skip


def faults(item: dict[str, Any]) -> list[str]:
    """What is wrong with a line, in words; nothing if it is well formed."""
    named = [*item.get("aspects", ()), *item["demands"], *item.get("masked", ())]
    wrong = [
        f"unknown field {name}" for name in item.keys() - {"set", "key", "sentiment", "aspects", "demands", "masked"}
    ]
    wrong += [f"unknown set {item['set']}"] if item["set"] not in ANNOTATED_SETS else []
    wrong += [f"named twice: {name}" for name, times in Counter(named).items() if times > 1]
    wrong += [f"no label: {name}" for name in item.get("masked", ()) if name not in ASPECTS + DEMANDS]
    wrong += [
        f"{name} is {value}"
        for name, value in item.get("aspects", {}).items()
        if value not in POLARITIES or name not in ASPECTS
    ]
    wrong += [
        f"{name} is {value}" for name, value in item["demands"].items() if not 0 < value <= 1 or name not in DEMANDS
    ]
    return wrong + ([f"sentiment is {item['sentiment']}"] if item.get("sentiment", "neutral") not in POLARITIES else [])


def test_a_faulty_line_is_found_out() -> None:
    right = {
        "set": "amazon",
        "key": "0" * 16,
        "demands": {"discount": 0.6},
        "aspects": {"price": "negative"},
        "masked": [],
    }
    assert faults(right) == []
    wrong: list[dict[str, Any]] = [
        {"set": "shop"}, {"demands": {"discount": 0.0}}, {"demands": {"price": 0.5}}, {"aspects": {"price": "bad"}},
        {"masked": ["price"]}, {"masked": ["colour"]}, {"sentiment": "mixed"}, {"mask": []},
    ]  # fmt: skip
    for change in wrong:
        assert faults(right | change)


def test_every_line_is_well_formed_and_no_text_is_labelled_twice() -> None:
    assert {item["key"]: wrong for item in LINES if (wrong := faults(item))} == {}
    assert [key for key, times in Counter(item["key"] for item in LINES).items() if times > 1] == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of annotations, and one set, "shop", of one text."""
    monkeypatch.setattr(data, "ANNOTATED_SETS", {"shop": lambda _: [SHOWN]})
    return tmp_path


def note(folder: Path, **changes: Any) -> None:
    """Add a line about the text of the shop."""
    item = {"set": "shop", "key": identity(TEXT), "demands": {}, "aspects": {}, "masked": []} | changes
    with (folder / "zh.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(item) + "\n")


def test_labels_take_the_place_of_the_sets_own(folder: Path) -> None:
    note(
        folder,
        demands={"return_refund": 0.3},
        aspects={"quality": "negative", "usability": "negative"},
        masked=["size"],
    )
    (row,) = annotated(folder, folder)
    assert (row.text, row.sentiment, row.source) == (TEXT, "negative", "annotated/shop")
    assert row.demands == {"return_refund": 0.3} and row.known_demands == ALL_DEMANDS
    assert row.aspects == {"quality": "negative", "usability": "negative"}
    assert row.known_aspects == ALL_ASPECTS - {"size"}
    assert row.spans == {"quality": ((0, 4),)}, "evidence is kept for the opinion that the set had too"
    assert row.known_spans == (ALL_ASPECTS | ALL_DEMANDS) - {"usability", "return_refund", "size"}


def test_without_aspects_those_of_the_set_stand(folder: Path) -> None:
    note(folder, demands={"return_refund": 0.3}, masked=["efficacy"])
    line = json.loads((folder / "zh.jsonl").read_text(encoding="utf-8"))
    (folder / "zh.jsonl").write_text(json.dumps({k: v for k, v in line.items() if k != "aspects"}), encoding="utf-8")
    (row,) = annotated(folder, folder)
    assert row.aspects == SHOWN.aspects and row.known_aspects == ALL_ASPECTS - {"efficacy"}
    assert row.demands == {"return_refund": 0.3} and row.known_demands == ALL_DEMANDS


def test_a_sentiment_is_taken_where_one_is_given(folder: Path) -> None:
    note(folder, sentiment="neutral")
    assert annotated(folder, folder)[0].sentiment == "neutral"


@pytest.mark.parametrize("wrong", [{"key": "f" * 16}, {"set": "elsewhere"}])
def test_labels_of_a_text_that_is_not_there_are_an_error_with_their_line(folder: Path, wrong: dict[str, str]) -> None:
    note(folder)
    note(folder, **wrong)
    with pytest.raises(ValueError, match=r"zh\.jsonl, line 2:"):
        annotated(folder, folder)


def test_names_of_texts_ignore_what_the_split_ignores() -> None:
    assert identity("Sehr GUT!") == identity("sehr, gut") != identity("sehr gut 2")


@pytest.mark.skipif(not (data.ROOT.parent / "shared" / "data").is_dir(), reason="needs the public data sets")
def test_every_annotated_text_is_there() -> None:
    folder = data.data_folder()
    rows = annotated(folder)
    assert len(rows) == len(LINES)
    assert {row.lang for row in rows} <= {"zh", "en"}
