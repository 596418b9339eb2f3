from dataclasses import replace

import pytest

from stream.recommend.catalogue import Catalogue, Product
from stream.recommend.intent import Intent
from stream.recommend.rank import MOST, answer, rank, trigger
from stream.records import Signal

CASE = Product("case", "phone case", "cases", price=20.0, stock=3, attributes={"fits": "X7", "colour": "black"})
SHELF = [
    CASE,
    Product("cheap", "phone case basic", "cases", price=10.0, stock=3, attributes={"fits": "X5", "colour": "red"}),
    Product("twin", "phone case slim", "cases", price=21.0, stock=3, attributes={"fits": "X7", "colour": "red"}),
    Product("dear", "leather wallet cover", "cases", price=90.0, stock=3, attributes={"fits": "X7", "colour": "black"}),
    Product("none", "phone case slim", "cases", price=20.0, stock=0),
    Product("kettle", "electric kettle", "kitchen", price=20.0, stock=3),
]


@pytest.fixture
def catalogue():
    return stocked(SHELF)


def stocked(products):
    catalogue = Catalogue()
    for product in products:
        catalogue.upsert(product)
    return catalogue


def ids(ranked):
    return [entry["product_id"] for entry in ranked]


@pytest.mark.parametrize(
    ("demand", "best", "reason"),
    [
        ("", "twin", "similar price"),
        ("discount", "cheap", "costs less"),
        ("compatibility", "dear", "same specifications"),
        ("restock", "twin", "similar product"),
        ("a demand without weights", "twin", "similar price"),
    ],
)
def test_the_demand_decides_what_counts(catalogue, demand, best, reason):
    first = rank(catalogue, demand=demand, product=CASE)[0]
    assert (first["product_id"], first["reason"]) == (best, reason)


def test_neither_the_product_itself_nor_what_is_sold_out_nor_what_is_excluded(catalogue):
    assert sorted(ids(rank(catalogue, product=CASE, text="phone case", exclude=["dear"]))) == ["cheap", "twin"]


def test_words_alone_find_products(catalogue):
    assert rank(catalogue, text="kettles") == [
        {"product_id": "kettle", "score": 0.8, "reason": "matches what was asked for"}
    ]


def test_nothing_to_go_by_gives_nothing(catalogue):
    assert rank(catalogue) == rank(catalogue, text="zzz") == rank(Catalogue(), product=CASE, text="case") == []


def test_popularity_lifts():
    catalogue = stocked([CASE, *(replace(CASE, product_id=product_id) for product_id in "cba")])
    assert ids(rank(catalogue, product=CASE)) == ["a", "b", "c"]
    assert ids(rank(catalogue, product=CASE, popularity={"c": 9.0, "b": 1.0})) == ["c", "b", "a"]


def test_free_products_and_products_without_attributes_are_ranked_too():
    free = Product("free", "sample", "cases", price=0.0, stock=1)
    catalogue = stocked([free, replace(free, product_id="other")])
    for demand in ("", "discount", "compatibility", "restock"):
        assert ids(rank(catalogue, demand=demand, product=free)) == ["other"]


def test_at_most_five_with_scores_between_0_and_1():
    catalogue = stocked(Product(f"q{i:02}", "phone case", "cases", price=1.0 + i, stock=1) for i in range(40))
    ranked = rank(catalogue, product=catalogue.get("q20"), text="phone", popularity={"q01": 3.0})
    assert len(ranked) == MOST
    assert all(0 <= entry["score"] <= 1 for entry in ranked)
    assert [entry["score"] for entry in ranked] == sorted((entry["score"] for entry in ranked), reverse=True)


def test_the_order_of_the_catalogue_does_not_matter(catalogue):
    assert rank(stocked(SHELF[::-1]), product=CASE, text="case") == rank(catalogue, product=CASE, text="case")


# Triggers


def test_a_session_trigger(catalogue):
    def fire(ts):
        return trigger(Intent("sold_out", "none"), ts=ts, user_id="u", session_id="s", catalogue=catalogue)

    recommendation = fire(7)
    assert recommendation == fire(7) and recommendation.trigger_id != fire(8).trigger_id
    assert (recommendation.intent, recommendation.product_id, recommendation.ts) == ("sold_out", "none", 7)
    assert ids(recommendation.products)[0] == "twin"
    assert recommendation.reason == "The shopper looked at a product that is sold out."


def test_an_empty_search_shows_what_shares_a_word(catalogue):
    intent = Intent("empty_search", "", "pink kettle")
    recommendation = trigger(intent, ts=1, user_id="u", session_id="s", catalogue=catalogue)
    assert ids(recommendation.products) == ["kettle"]


def test_no_trigger_without_anything_to_show(catalogue):
    intent = Intent("empty_search", "", "zzz")
    assert trigger(intent, ts=1, user_id="u", session_id="s", catalogue=catalogue) is None


def signal(demands, product_id="case", keywords=()):
    return Signal(
        signal_id="chat/e1", event_id="e1", ts=5, channel="chat", user_id="u", product_id=product_id, category="",
        session_id="s", rating=0, text="", language="en", sentiment={}, aspects=[],
        demands=[{"demand": name, "prob": prob, "strength": 0.5, "evidence": []} for name, prob in demands],
        keywords=list(keywords), entities=[], fingerprint="", late=False, model="",
    )  # fmt: skip


def test_the_surest_demand_is_answered(catalogue):
    recommendation = answer(signal([("restock", 0.6), ("discount", 0.9), ("return_refund", 0.99)]), catalogue)
    assert recommendation.intent == "asked"
    assert recommendation.reason == "The customer asked for a better price."
    assert ids(recommendation.products)[0] == "cheap"


@pytest.mark.parametrize(
    "asked",
    [signal([]), signal([("return_refund", 0.9)]), signal([("restock", 0.9)], product_id="", keywords=["zzz"])],
    ids=["no demand", "no demand for products", "nothing to show"],
)
def test_no_answer(catalogue, asked):
    assert answer(asked, catalogue) is None


def test_an_answer_to_words_without_a_product(catalogue):
    asked = signal([("recommendation_request", 0.9)], product_id="", keywords=["kettle"])
    assert ids(answer(asked, catalogue).products) == ["kettle"]
