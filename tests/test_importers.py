"""Importers: small samples of each format, what a bad row says, and the real files where they are."""

import os
from itertools import pairwise
from pathlib import Path
from zipfile import ZipFile

import pytest

from stream import importers
from stream.events import PARSERS
from stream.importers import IMPORTERS, BadFile, Columns, Report, otto, rees46, reviews, yoochoose
from stream.replay import Event

DATA = Path(os.environ.get("RADAR_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))


def _file(folder: Path, text: str, name: str = "file.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def _values(events: list[Event], name: str) -> list[object]:
    return [event.value.get(name) for event in events]  # type: ignore[union-attr]


def test_reviews_by_label_and_category(tmp_path: Path) -> None:
    path = _file(tmp_path, '\ufeffcat,label,review\n书籍,1,"好看, 推荐"\n水果,0,烂了\n')
    report = Report()
    events = sorted(reviews(path, report, start=1_000_000_000_000, per_hour=3_600), key=lambda event: str(event.key))
    assert _values(events, "product_id") == ["书籍", "水果"]
    assert _values(events, "rating") == [5, 1]
    assert _values(events, "text") == ["好看, 推荐", "烂了"]
    assert {event.ts for event in events} == {1_000_000_000_000, 1_000_000_001_000}
    assert (report.events, report.skipped) == (2, 0)


def test_reviews_with_times_are_sorted(tmp_path: Path) -> None:
    path = _file(tmp_path, "when,say,stars,who,id\n2026-03-01T10:00:00Z,b,4,u2,p\n1700000000,a,5.0,u1,p\n")
    events = list(reviews(path, Report(), Columns(time="when", text="say", user="who", product="id")))
    assert _values(events, "text") == ["a", "b"]
    assert _values(events, "ts") == [1_700_000_000_000, 1_772_359_200_000]
    assert _values(events, "user_id") == ["u1", "u2"]
    assert _values(events, "rating") == [5, 4]


def test_reviews_json_lines_in_a_zip(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "r.zip", "w") as archive:
        archive.writestr("r.jsonl", '{"sentence": "不错", "label": "Positive"}\nnot json\n[1]\n')
    report = Report()
    (event,) = reviews(tmp_path / "r.zip", report, product="x")
    assert event.value["rating"] == 5  # type: ignore[index]
    assert event.key == "x"
    assert report.skipped == 2
    assert f"{tmp_path / 'r.zip'}:2: not JSON" in report.notes[0]


def test_a_category_can_be_split_into_products(tmp_path: Path) -> None:
    path = _file(tmp_path, "cat,review\n" + "".join(f"书籍,text {n}\n" for n in range(200)))
    events = list(reviews(path, Report(), products_per_category=4))
    assert {event.key for event in events} == {f"书籍-{n}" for n in range(4)}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("5,a,b", "3 fields instead of 2"),
        ("5,", "no text"),
        ("11,fine", "rating '11' is not a number from 1 to 5"),
    ],
)
def test_bad_review_rows_are_skipped_with_their_line(tmp_path: Path, row: str, reason: str) -> None:
    path = _file(tmp_path, f"rating,text\n4,good\n{row}\n3,so so\n")
    report = Report()
    assert len(list(reviews(path, report))) == report.events == 2
    assert report.skipped == 1
    assert report.notes[0].startswith(f"{path}:3: {reason}")


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("", Columns(), "is empty"),
        ("a,b\n1,2\n", Columns(), "no column of texts"),
        ("text\nhi\n", Columns(rating="stars"), "no column 'stars'"),
        ("[{}]", Columns(), "jq -c"),
        ('text\n"open\n' + "x" * 200_000, Columns(), "double quote"),
    ],
)
def test_files_of_no_use_say_why(tmp_path: Path, text: str, columns: Columns, message: str) -> None:
    with pytest.raises(BadFile, match=message):
        list(reviews(_file(tmp_path, text), Report(), columns))


def test_a_file_in_another_encoding_says_how_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "gbk.csv").write_bytes("review\n很好\n".encode("gb18030"))
    with pytest.raises(BadFile, match="iconv -f GB18030"):
        list(reviews(tmp_path / "gbk.csv", Report()))


def test_yoochoose_prepared(tmp_path: Path) -> None:
    path = _file(tmp_path, "SessionId\tItemId\tTime\n1\t10\t1396860669.277\nbroken\n2\t11\t1396860600\n")
    report = Report()
    events = list(yoochoose(path, report))
    assert [(event.key, event.ts) for event in events] == [("2", 1_396_860_600_000), ("1", 1_396_860_669_277)]
    assert report.skipped == 1
    assert f"{path}:3:" in report.notes[0]


def test_yoochoose_original_clicks_and_buys(tmp_path: Path) -> None:
    clicks = list(yoochoose(_file(tmp_path, "1,2014-04-07T10:51:09.277Z,214536502,0\n"), Report()))
    buys = list(yoochoose(_file(tmp_path, "1,2014-04-07T10:51:10Z,214536502,12462,2\n"), Report()))
    assert _values(clicks + buys, "action") == ["view", "purchase"]
    assert _values(clicks + buys, "ts") == [1_396_867_869_277, 1_396_867_870_000]
    assert _values(buys, "quantity") == [2]


def test_rees46(tmp_path: Path) -> None:
    header = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
    rows = "2019-10-01 00:00:00 UTC,view,1,2,,x,35.79,7,s1\n2019-10-01 00:00:01 UTC,remove_from_cart,1,2,,x,1,7,s1\n"
    report = Report()
    events = list(rees46(_file(tmp_path, header + rows + "2019-10-01 00:00:02 UTC,dance,1,2,,x,1,7,s1\n"), report))
    assert _values(events, "action") == ["view", "uncart"]
    assert events[0].ts == 1_569_888_000_000
    assert "file.csv:4" in report.notes[0]
    assert "'dance' is none of view" in report.notes[0]


def test_otto_sessions_are_merged_by_time(tmp_path: Path) -> None:
    lines = (
        '{"session":0,"events":[{"aid":1,"ts":1000,"type":"clicks"},{"aid":2,"ts":3000,"type":"orders"}]}\n'
        '{"session":1,"events":[{"aid":3,"ts":2000,"type":"carts"}]}\n{"session":2}\n'
    )
    report = Report()
    events = list(otto(_file(tmp_path, lines), report))
    assert [(event.ts, event.key) for event in events] == [(1000, "0"), (2000, "1"), (3000, "0")]
    assert _values(events, "action") == ["view", "cart", "purchase"]
    assert report.skipped == 1


def test_sorting_in_temporary_files_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"{n % 7}\t{n}\t{1_396_860_000 + n * 7919 % 1000}\n" for n in range(1_000))
    path = _file(tmp_path, f"SessionId\tItemId\tTime\n{rows}")
    whole = list(yoochoose(path, Report()))
    monkeypatch.setattr(importers, "SORT_CHUNK", 64)
    assert list(yoochoose(path, Report())) == whole


REAL = [
    ("reviews", "zh_review_sentiment/online_shopping_10_cats.zip", 59_682),
    ("reviews", "zh_review_sentiment/waimai_10k.csv", 11_987),
    ("reviews", "eprstmt_fewclue/unlabeled.json", 19_565),
    ("yoochoose", "click_yoochoose100k/yoochoose-clicks-100k_train_full.txt", 70_278),
    ("yoochoose", "click_yoochoose100k/yoochoose-clicks-100k_test.txt", 13_568),
    ("rees46", "click_rees46_1000/2019-Oct-sample.csv", 1_000),
    ("otto", "click_otto_sample/otto_sample.jsonl", 862),
]


@pytest.mark.data
@pytest.mark.parametrize(("name", "file", "count"), REAL)
def test_real_files(name: str, file: str, count: int) -> None:
    if not (DATA / file).exists():
        pytest.skip(f"{DATA / file} is not here; set RADAR_DATA")
    report = Report()
    first = list(IMPORTERS[name](DATA / file, report))
    assert (len(first), report.events) == (count, count)
    assert report.skipped <= 1
    assert all(earlier.ts <= later.ts for earlier, later in pairwise(first))
    for event in first:
        PARSERS[event.topic](event.value)  # type: ignore[arg-type]
    assert list(IMPORTERS[name](DATA / file, Report())) == first
