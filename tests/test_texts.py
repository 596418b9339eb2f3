"""The text lane without servers: what it tells the fusion and click lanes does not depend on how its blocks are cut."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from test_serving_understand import WordScorer

from serving.decode import Demand, TextScore
from stream.agents.fusion import read_request
from stream.agents.texts import Texts
from stream.lanes import Effects
from stream.recommend.catalogue import Catalogue, Product
from stream.settings import Settings
from stream.transport import Block

START = 1_772_380_800_000
MINUTE = 60_000
ONE = WordScorer._one
SETTINGS = Settings(pane_ms=MINUTE, lateness_ms=5_000, partitions=2)


class Record:
    def __init__(self, offset: int, value: dict[str, Any]) -> None:
        self.offset, self.value, self.key, self.timestamp = offset, orjson.dumps(value), None, START + 60 * MINUTE


def chat(second: int, role: str = "customer") -> dict[str, Any]:
    return {
        "event_id": f"m{second}", "ts": START + second * 1_000, "session_id": "t1", "user_id": "u1", "role": role,
        "product_id": "p1", "text": "包装破损，退款",
    }  # fmt: skip


def talk(values: list[dict[str, Any]], cut: int = 100, topic: str = "chats") -> Effects:
    lane, total = Texts(topic, 0, SETTINGS, WordScorer(), Catalogue()), Effects()
    records = [Record(offset, value) for offset, value in enumerate(values)]
    for start in range(0, len(records), cut):
        total.merge(asyncio.run(lane.process(Block(topic, 0, records[start : start + cut]))))
    return total


def sent(effects: Effects, topic: str, kind: str) -> list[dict[str, Any]]:
    return [message for to, _, message, _ in effects.messages if to == topic and message["kind"] == kind]


VALUES = [
    chat(10),
    chat(70),
    {"heartbeat": START + 80_000, "replay": True},
    chat(75),
    chat(90, role="agent"),
    chat(88),
    chat(20),
]


def test_brands_and_products_of_the_catalogue_are_entities() -> None:
    catalogue = Catalogue()
    catalogue.upsert(Product("p9", "云杉保温壶", "kettles", brand="Spruce"))
    catalogue.upsert(Product("p9", "云杉保温壶", "kettles", brand="Fir"))
    lane = Texts("chats", 0, SETTINGS, WordScorer(), catalogue)
    record = Record(0, chat(10) | {"text": "云杉保温壶是FIR的吗，不是spruce？"})
    (row,) = asyncio.run(lane.process(Block("chats", 0, [record]))).rows["signals"]
    assert [(each["type"], each["text"]) for each in row["entities"]] == [("product", "云杉保温壶"), ("brand", "FIR")]


def test_foreign_texts_are_counted_and_told_like_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = talk(VALUES)
    monkeypatch.setattr(WordScorer, "_one", lambda self, text: replace(ONE(self, text), strangeness=1.5))
    foreign = talk(VALUES)
    assert plain.counts["out_of_domain"] == 0 and foreign.counts["out_of_domain"] == foreign.counts["signals"] == 5
    assert foreign.rows == plain.rows and foreign.messages == plain.messages


@pytest.mark.parametrize("cut", [1, 2, 3, 100])
def test_a_mark_is_the_watermark_before_the_record(cut: int) -> None:
    told = sent(talk(VALUES, cut), "signals", "text")
    before_first, *marks = [message["mark"] - START for message in told]
    assert before_first == -START
    assert marks == [5_000, 80_000, 85_000, 85_000]
    assert [message["late"] for message in told] == [False, False, True, False, True]
    assert [message["seq"] for message in told] == [[0, 0], [1, 0], [3, 0], [5, 0], [6, 0]]


def test_what_a_customer_says_goes_to_their_click_lane() -> None:
    effects = talk(VALUES)
    said = sent(effects, "said", "said")
    assert said[0] == {
        "kind": "said", "source": "chats/0", "seq": [0, 0], "ts": START + 10_000, "signal_id": "chat/m10",
        "user_id": "u1", "session_id": "t1", "product_id": "p1", "score": -0.9, "demands": ["return_refund"],
        "late": False,
    }  # fmt: skip
    assert [message["seq"][0] for message in said] == [0, 1, 3, 5, 6]
    assert {key for to, key, message, _ in effects.messages if to == "said" and message["kind"] == "said"} == {"u1"}


def test_who_asks_for_what_is_not_there_is_told_to_one_lane() -> None:
    """Reviews and chats alike; WordScorer hears no such demand, so it is put into its mouth."""
    asks = {"event_id": "m1", "ts": START, "session_id": "t", "user_id": "u1", "role": "customer", "text": "有帐篷吗"}
    catalogue = Catalogue()
    catalogue.upsert(Product("p1", "降噪耳机 黑色", "数码"))

    class Asking(WordScorer):
        async def score(self, texts: Sequence[str]) -> list[TextScore]:
            demands = (Demand("restock", 0.6, 0.9, []),)
            return [replace(score, demands=demands) for score in await super().score(texts)]

    values = [
        asks,
        asks | {"text": "黑色的还会补货吗", "product_id": "p1"},
        asks | {"text": "白色的补货吗", "product_id": "p1"},
    ]
    records = [Record(offset, value) for offset, value in enumerate(values)]
    effects = asyncio.run(Texts("chats", 0, SETTINGS, Asking(), catalogue).process(Block("chats", 0, records)))
    found = [(key, message) for to, key, message, _ in effects.messages if to == "signals" and "terms" in message]
    assert [(key, message["seq"], message["terms"]) for key, message in found] == [
        ("category/unlisted", [0, 2], ("帐篷",)), ("category/unlisted", [2, 2], ("白色",)),
    ]  # fmt: skip
    read = read_request(orjson.loads(orjson.dumps(found[0][1])))
    assert (read.terms, read.source, read.candidate.text) == (("帐篷",), "chats", "有帐篷吗")


def test_reviews_are_not_said() -> None:
    review = {"event_id": "r1", "ts": START, "user_id": "u1", "product_id": "p1", "text": "包装破损"}
    effects = talk([review], topic="reviews")
    assert len(sent(effects, "signals", "text")) == 1
    assert not [message for message in effects.messages if message[0] == "said"]
