"""Requests and clusters of terms: what is asked for and not there."""

from __future__ import annotations

import random

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stream.detect.cells import VOLUME, Candidate, Cell, Key
from stream.detect.unmet import (
    ASK_WORDS,
    MOST_BESIDE,
    MOST_TERMS,
    UNLISTED,
    Clusters,
    Requests,
    Terms,
    beyond,
    cells,
    key_terms,
    missing_terms,
)

PANE = 300_000
START = 1_772_380_800_000


def asked(**counts: int) -> Requests:
    """``露营_帐篷=3``: three searches for both."""
    return {tuple(sorted(name.split("_"))): Cell(clicks=float(count)) for name, count in counts.items()}


def learnt(*panes: Requests, most: int = 20_000) -> Clusters:
    clusters = Clusters(PANE, most)
    for number, requests in enumerate(panes):
        clusters.learn(START + number * PANE, requests)
    return clusters


# Key terms


@given(st.lists(st.text(max_size=40)))
def test_key_terms_are_few_sorted_and_no_words_of_asking(words: list[str]) -> None:
    terms = key_terms(words)
    assert list(terms) == sorted(set(terms))
    assert len(terms) <= MOST_TERMS
    assert not ASK_WORDS.intersection(terms)
    assert key_terms(reversed(words[:1])) == key_terms(words[:1])


def signal(demand: str, *words: str, entities: tuple[tuple[str, str], ...] = ()) -> dict[str, object]:
    return {
        "demands": [{"demand": demand}] if demand else [],
        "keywords": list(words),
        "entities": [{"type": kind, "text": text} for kind, text in entities],
    }


@pytest.mark.parametrize(
    ("said", "listed", "terms"),
    [
        (signal("restock", "黑色", "补货", "耳机"), "降噪 耳机 白色", ("黑色",)),
        (signal("product_question", "敏感", "肌"), "面膜", ("敏感",)),
        (signal("feature_request", entities=(("size", "XXL"), ("price", "99元"))), "T恤 S M L", ("xxl",)),
        (signal("compatibility", "iPhone"), "", ("iphone",)),
        (signal("restock", "耳机", "补货"), "降噪耳机", ()),
        (signal("delivery_urgency", "黑色"), "", ()),
        (signal("", "黑色"), "", ()),
    ],
)
def test_a_request_is_known_by_what_the_catalogue_does_not_have(said: dict, listed: str, terms: Terms) -> None:  # type: ignore[type-arg]
    assert missing_terms(said, listed) == terms


# Clusters


def test_terms_of_the_same_requests_belong_together_and_the_most_frequent_one_leads() -> None:
    clusters = learnt(asked(帐篷=5, 帐篷_露营=6, 猫粮=4))
    assert [clusters.of(term) for term in ("帐篷", "露营", "猫粮", "吉他")] == ["帐篷", "帐篷", "猫粮", "吉他"]
    assert clusters.names("帐篷", START) == ["帐篷", "露营"]


def test_a_word_that_goes_with_everything_holds_nothing_together() -> None:
    clusters = learnt(asked(帐篷_黑色=5, 猫粮_黑色=5, 吉他_黑色=5, 鱼竿_黑色=5, 轮胎_黑色=5))
    assert len({clusters.of(term) for term in ("帐篷", "猫粮", "吉他", "鱼竿", "轮胎", "黑色")}) == 6


def test_a_thing_that_is_often_asked_for_leads_what_is_asked_of_it() -> None:
    clusters = learnt(asked(帐篷=60), asked(帐篷_双人=5, 帐篷_自动=5, 帐篷_防水=5, 帐篷_便宜=5, 帐篷_露营=5))
    assert {clusters.of(term) for term in ("双人", "自动", "防水", "便宜", "露营")} == {"帐篷"}


def test_a_settled_term_stays_where_it_is() -> None:
    """Its series goes on, whatever else it comes to be asked for with."""
    clusters = learnt(asked(帐篷=6), asked(帐篷_露营=90))
    assert clusters.of("露营") == clusters.of("帐篷") == "帐篷"
    late = learnt(asked(帐篷=6, 露营=7), asked(帐篷_露营=90))
    assert (late.of("帐篷"), late.of("露营")) == ("帐篷", "露营")


def test_the_cluster_of_an_open_alert_loses_no_term() -> None:
    first, then = asked(帐篷=2), asked(帐篷_露营=3, 露营=6)
    for held, leader in ((set(), "露营"), ({"帐篷"}, "帐篷")):
        clusters = Clusters(PANE)
        clusters.learn(START, first)
        clusters.learn(START + PANE, then, held)
        assert clusters.of("帐篷") == leader


WORDS = st.sampled_from(["帐篷", "露营", "猫粮", "吉他", "双人", "黑色"])
REQUESTS = st.dictionaries(
    st.sets(WORDS, min_size=1, max_size=3).map(lambda words: tuple(sorted(words))),
    st.integers(1, 9).map(lambda count: Cell(clicks=float(count))),
    max_size=6,
)


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(REQUESTS, max_size=8), st.integers(0, 1 << 32), st.integers(2, 8))
def test_neither_order_nor_restarts_change_a_cluster(panes: list[Requests], chance: int, most: int) -> None:
    dice = random.Random(chance)
    usual = learnt(*panes, most=most)
    other, saved = Clusters(PANE, most), {}
    for number, requests in enumerate(panes):
        items = list(requests.items())
        dice.shuffle(items)
        other.learn(START + number * PANE, dict(items))
        saved |= {name: orjson.dumps(other.row(name)) for name in other.changed}
        other.changed.clear()
        if dice.random() < 0.5:
            other = Clusters(PANE, most)
            for name, row in saved.items():
                if (state := orjson.loads(row)) is not None:
                    other.restore(name, state)
    assert {name: usual.row(name) for name in usual} == {name: other.row(name) for name in other}
    assert len(list(usual)) <= most
    rows = [row for name in usual if (row := usual.row(name))]
    assert all(len(row[5]) <= 2 * MOST_BESIDE for row in rows)


# Counting


def test_a_request_counts_once_for_each_of_its_clusters_and_once_in_all() -> None:
    requests = asked(帐篷=6, 帐篷_露营=4, 猫粮=1)
    requests["猫粮",].add("chats", 1.0, Candidate(0.9, "m1", "有猫粮吗", ()))
    found = cells(requests, learnt(requests))
    counts = {(key.kind, key.label): (cell.chats, cell.clicks) for key, cell in found.items()}
    assert counts == {
        ("unmet_demand", "帐篷"): (0, 10), ("unmet_demand", "猫粮"): (1, 1), (VOLUME, ""): (1, 11),
    }  # fmt: skip
    assert found[Key("unmet_demand", "shop", "", UNLISTED, "猫粮")].quotes[0].event_id == "m1"
    assert cells({}, Clusters(PANE)) == {}


@given(st.sets(st.text(min_size=1, max_size=3), max_size=20), st.integers(0, 10), st.randoms(use_true_random=False))
def test_what_is_too_much_does_not_depend_on_the_order(words: set[str], limit: int, dice: random.Random) -> None:
    requests: Requests = {(word,): Cell() for word in words}
    out = beyond(requests, limit)
    items = list(requests.items())
    dice.shuffle(items)
    assert beyond(dict(items), limit) == out
    assert len(out) == max(0, len(words) - limit)
