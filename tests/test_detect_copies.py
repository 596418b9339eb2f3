"""Whether many people or a few made an alert."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.detect.cells import Key
from stream.detect.copies import About, Copies, Origin, Text, author, busiest, judge, place

HOUR = 3_600_000
PLACE = place("product", "p1", "c")


def texts(count: int, copies: int = 0, authors: int = 0, minutes: float = 60.0) -> list[Text]:
    """``copies`` of the texts repeat the first one; 0 authors: not known."""
    dice = random.Random(count)
    marks = [dice.getrandbits(64) for _ in range(count - copies)]
    marks += [marks[0] ^ 1] * copies
    return [
        Text(PLACE, int(n * minutes * 60_000 / count), mark, 1 + n % authors if authors else 0)
        for n, mark in enumerate(marks)
    ]


@pytest.mark.parametrize(
    ("said", "label"),
    [
        (texts(20, authors=20), "organic"),
        (texts(20, copies=4, authors=18), "organic"),
        (texts(20), "organic"),
        (texts(20, copies=10, authors=20), "coordinated"),
        (texts(20, authors=10), "coordinated"),
        (texts(20, copies=6, authors=20, minutes=4), "coordinated"),
        (texts(20, copies=6, authors=20), "unclear"),
        (texts(20, authors=14), "unclear"),
        (texts(4, copies=3, authors=1), "unclear"),
        ([], "unclear"),
    ],
)
def test_the_label_follows_copies_hands_and_burst(said: list[Text], label: str) -> None:
    assert judge(said, HOUR).label == label


def test_the_figures_are_told() -> None:
    origin = judge(texts(20, copies=10, authors=8, minutes=4), HOUR)
    assert origin == Origin("coordinated", 20, 10, 0.4, 1.0)
    figures = {"texts": 20.0, "copied": 0.5, "authors_per_text": 0.4, "burst": 1.0}
    assert origin.about == About("10 of 20 texts repeat another one", "coordinated", figures)
    assert judge(texts(20, copies=2), HOUR).about.note == ""
    assert judge([], HOUR).about.figures == {"texts": 0.0, "copied": 0.0, "authors_per_text": 1.0, "burst": 0.0}


@given(st.lists(st.integers(0, 100)), st.integers(0, 30))
def test_the_busiest_stretch_is_the_most_that_any_window_holds(times: Sequence[int], length: int) -> None:
    plain = max((sum(at <= other < at + max(1, length) for other in times) for at in times), default=0)
    assert busiest(sorted(times), length) == plain


def test_an_author_is_a_checksum_and_nobody_is_zero() -> None:
    assert author("") == 0
    assert author("u1") != author("u2") and 0 < author("u1") < 1 << 32


@given(st.randoms(use_true_random=False))
def test_only_the_texts_of_the_place_in_the_window_count_in_any_order(dice: random.Random) -> None:
    copies = Copies()
    labels = ("negative/size", "negative/packaging")
    inside = [(f"t{n}", Text(PLACE, HOUR + n, 7, author("u"), labels)) for n in range(6)]
    outside = [("before", Text(PLACE, HOUR - 1, 7, 1, labels)), ("after", Text(PLACE, 2 * HOUR, 7, 1, labels))]
    elsewhere = [(f"o{n}", Text(place("product", "p2", "c"), HOUR + n, 7, 1, labels)) for n in range(6)]
    about_more = [(f"m{n}", Text(PLACE, HOUR + n, n << 9, n, ("demand/packaging",))) for n in range(40)]
    said = [*inside, *outside, *elsewhere, *about_more]
    dice.shuffle(said)
    for text_id, text in said:
        copies.add(text.ts - text.ts % HOUR, text_id, text)
    origin = copies.origin(Key("negative_spike", "product", "p1", "c", "packaging"), HOUR, 2 * HOUR)
    assert (origin.texts, origin.copies, origin.label) == (6, 5, "coordinated")
    assert copies.origin(Key("unmet_demand", "product", "p1", "c", "tent"), HOUR, 2 * HOUR).texts == 46


def test_a_row_from_before_authors_were_kept_is_still_read() -> None:
    assert Text("product/p1", 5, 9).author == Text(*["product/p1", 5, 9]).author == 0
