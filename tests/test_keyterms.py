"""Key terms: what stands out, what does not, and what the embedded store answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from test_sinks_chdb import StoreProcess
from test_sinks_rows import T0, signal

from stream import keyterms
from stream.alerts import StoppedStore
from stream.cli import main
from stream.keyterms import Count, standing_out
from stream.sinks.chdb import ChdbSink

HOUR = 3_600_000
COUNTS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200), st.integers(0, 500)), min_size=1, max_size=20)


def counted(numbers: list[tuple[int, int, int]]) -> list[Count]:
    return [Count(f"t{i}", a, b, a + b + more + 1) for i, (a, b, more) in enumerate(numbers)]


@given(COUNTS)
def test_a_term_stands_out_in_one_of_two_periods_at_most(numbers: list[tuple[int, int, int]]) -> None:
    forth = {found.term for found in standing_out(counted(numbers))}
    back = {found.term for found in standing_out([count._replace(recent=count.before, before=count.recent)
                                                  for count in counted(numbers)])}  # fmt: skip
    assert not forth & back


@given(COUNTS)
def test_the_order_of_the_counts_does_not_matter(numbers: list[tuple[int, int, int]]) -> None:
    assert standing_out(counted(numbers)[::-1]) == standing_out(counted(numbers))


def test_news_stands_out_and_a_larger_share_of_all_does_not() -> None:
    usual = [Count(f"w{i}", 30, 300, 4_000) for i in range(30)]
    assert standing_out(usual) == []
    leak, *others = standing_out([*usual, Count("漏水", 14, 2, 20), Count("好看", 33, 300, 4_000)])
    assert leak.term == "漏水" and leak.score > 4 and not others
    assert standing_out([*usual, Count("漏水", 2, 0, 2)]) == []  # too few texts
    assert standing_out([Count("漏水", 14, 0, 14)]) == []  # nothing to compare with


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreProcess]:
    with StoreProcess(tmp_path / "chdb") as store:
        yield store


def texts() -> list[dict[str, Any]]:
    """A week of ordinary texts about two products; in the last hour one of them leaks, and a text is sent 40 times."""

    def one(n: int, ts: int, words: list[str], product: str = "it's", copy: int = 0) -> dict[str, Any]:
        return signal(n, ts=ts, product_id=product, keywords=words, text=f"{' '.join(words)} {n}",
                      event_id=f"e{n}", signal_id=f"e{n}", fingerprint=f"{copy or n:016x}")  # fmt: skip

    usual = ["好看", "快递", "颜色", "包装", "杯子", "价格"]
    past = [one(n, T0 + n * HOUR // 4, [usual[n % 6], usual[n % 5]], ("it's", "p2")[n % 2]) for n in range(600)]
    now = T0 + 170 * HOUR
    leaks = [one(1_000 + n, now + n * 1_000, ["漏水", usual[n % 6]]) for n in range(9)]
    copies = [one(2_000 + n, now + n * 1_000, ["加微信"], copy=7_777) for n in range(40)]
    return [*past, *leaks, *copies]


@pytest.mark.stack
def test_the_store_tells_what_people_call_it(store: StoreProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    since, until = T0 + 169 * HOUR, T0 + 171 * HOUR

    async def ask(source: Any, **place: str) -> list[dict[str, Any]]:
        return await keyterms.read(source, since, until, **place)  # type: ignore[arg-type]

    async def check() -> list[dict[str, Any]]:
        async with ChdbSink(store.address, database="radar") as sink:
            assert await keyterms.newest(sink) == 0
            await sink.write("signals", texts())
            assert await keyterms.newest(sink) == T0 + 170 * HOUR + 39_000
            assert await ask(sink, product="p2") == await ask(sink, product="nobody' OR 1 --") == []
            assert [term["term"] for term in await ask(sink, category="kettles")] == ["漏水"]
            assert [term["term"] for term in await ask(sink)] == ["漏水"]
            return await ask(sink, product="it's")

    (leak,) = found = asyncio.run(check())
    assert (leak["term"], leak["recent"], leak["before"]) == ("漏水", 9, 0)
    assert [quote["event_id"] for quote in leak["quotes"]] == ["e1008", "e1007"]
    assert leak["quotes"][0]["text"] == "漏水 颜色 1008"
    store.stop()
    assert asyncio.run(ask(StoppedStore(store.path), product="it's")) == found

    monkeypatch.setenv("RADAR_HOME", str(store.path.parent))
    told = CliRunner().invoke(main, ["terms", "--product", "it's", "--since", "1h", "--json"])
    assert json.loads(told.stdout) == leak
    assert "漏水" in CliRunner().invoke(main, ["terms", "--since", "1h"]).stdout
    assert CliRunner().invoke(main, ["terms", "--since", "lately"]).exit_code == 2
