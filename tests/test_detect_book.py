from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.detect.book import Book, is_leaf, parent
from stream.detect.cells import Key
from stream.detect.forecast import Settings
from stream.detect.rules import DEFAULT_RULES

HOUR = 3_600_000
QUICK = Settings(pane_ms=HOUR, windows=(1, 2, 4, 8), ring=4, run_panes=48)
BOX = Key("negative_spike", "product", "p1", "c1", "packaging")
KEYS = [BOX._replace(product_id=product, category=category) for product, category in ("ac", "bc", "dd", "e-")]
PLAIN = (1.0, 0.0)


def volumes(counts):
    return {key.volume: 2.0 * count for key, count in counts.items()}


def test_a_series_belongs_to_its_category_and_that_to_the_shop():
    assert parent(BOX) == BOX._replace(product_id="")
    assert parent(parent(BOX)) == BOX.shop
    assert parent(BOX.shop) is None
    assert parent(BOX._replace(category="")) == BOX.shop
    of_category = BOX._replace(scope="category", product_id="")
    assert parent(of_category) == of_category.shop
    cluster = Key("unmet_demand", "shop", "", "unlisted", "tent")
    assert parent(cluster) == Key("unmet_demand", "shop", "", "", "")
    assert [is_leaf(key) for key in (BOX, parent(BOX), BOX.shop, of_category, cluster)] == [
        True,
        False,
        False,
        True,
        True,
    ]


def test_what_a_series_counts_counts_for_all_it_belongs_to():
    book = Book(QUICK)
    book.admit(BOX, True, 2.0, 10.0)
    stranger = BOX._replace(product_id="p2")
    book.step(0, {BOX: 3.0, stranger: 1.0}, {BOX.volume: 8.0, stranger.volume: 4.0}, (), False, PLAIN)
    seen, given_to = book.panel.state["seen"][0], book.panel.state["given"][0]
    assert {key: (seen[row], given_to[row]) for key, row in book.rows.items()} == {
        BOX: (3, 8), parent(BOX): (4, 12), BOX.shop: (4, 12),
    }  # fmt: skip


def test_what_is_told_late_is_as_if_it_had_been_there_while_its_pane_is_in_a_window():
    late, timely = Book(QUICK), Book(QUICK)
    for book in (late, timely):
        book.admit(BOX, False, 0.0, 1.0)
    for pane in range(3):
        now = {BOX: 5.0} if pane == 1 else {}
        timely.step(pane, now, {}, (), False, PLAIN)
        late.step(pane, {}, {}, (), False, PLAIN)
    late.add_late(1, {BOX: 5.0}, {})
    for name in ("seen", "block_seen"):
        assert np.array_equal(late.panel.state[name], timely.panel.state[name])
    late.add_late(99, {BOX: 5.0}, {})
    late.step(400, {}, {}, (), False, PLAIN)
    before = late.panel.state.save()
    late.add_late(2, {BOX: 5.0}, {})
    assert np.array_equal(late.panel.state.save(), before)


def test_nothing_is_learnt_across_panes_that_were_left_out():
    book = Book(QUICK)
    book.admit(BOX, False, 0.0, 1.0)
    for pane in range(40):
        book.step(pane, {BOX: 2.0}, {}, (), False, PLAIN)
    before = book.panel.state["exposure"][book.rows[BOX]]
    book.step(400, {BOX: 2.0}, {}, (), False, PLAIN)
    assert book.panel.state["exposure"][book.rows[BOX]] == before


def test_a_row_is_used_again_and_begins_anew():
    book = Book(QUICK)
    for key in KEYS:
        book.admit(key, False, 7.0, 1.0)
    row, size = book.rows[KEYS[1]], book.panel.size
    book.release(KEYS[1])
    book.step(0, {KEYS[1]: 9.0}, {}, (), False, PLAIN)
    other = BOX._replace(product_id="z", category="c")
    book.admit(other, False, 0.0, 0.0)
    assert (book.rows[other], book.panel.size) == (row, size)
    assert book.panel.state["count"][row] == 0


def test_rows_are_named_by_the_rule_that_watches_them():
    book = Book(QUICK)
    book.admit(BOX, True, 1.0, 1.0)
    rule = DEFAULT_RULES[0]
    ((found, rows),) = book.by_rule(lambda key: rule if rule.watches(key) else None)
    assert found == rule and [book.key(row) for row in rows] == [BOX]
    book.forget_rules()
    assert book.by_rule(lambda key: None) == []


OPS = st.one_of(
    st.tuples(st.just("admit"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("release"), st.integers(0, 3)),
    st.tuples(st.just("quieten"), st.integers(0, 3)),
    st.tuples(st.just("late"), st.integers(0, 3), st.integers(0, 12)),
    st.tuples(st.just("step"), st.lists(st.integers(0, 9), min_size=4, max_size=4), st.booleans(), st.booleans()),
    st.tuples(st.just("save")),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(OPS, max_size=60), st.randoms(use_true_random=False))
def test_saved_and_done_again_it_is_the_same_to_the_last_bit(operations, random):
    book, segments, pane = Book(QUICK), {}, 0
    for name, *arguments in operations:
        if name == "save":
            for segment, data in book.dump().items():
                segments.pop(segment, None)
                if data is not None:
                    segments[segment] = data
            book = Book(QUICK) if random.random() < 0.5 else book
            if not book.rows and segments:
                book.load(segments)
            continue
        if name == "step":
            counts = {key: float(n) for key, n in zip(KEYS, arguments[0], strict=True) if n}
            book.step(pane, counts, volumes(counts), KEYS[:1] if arguments[1] else (), arguments[2], PLAIN)
            pane += 1
            continue
        key = KEYS[arguments[0]]
        if name == "admit" and key not in book.rows:
            book.admit(key, arguments[1], 4.0, 9.0)
        elif name == "late" and pane:
            book.add_late(max(0, pane - 1 - arguments[1]), {key: 2.0}, {key.volume: 3.0})
        elif name in ("release", "quieten") and key in book.rows:
            getattr(book, name)(key)
    for segment, data in book.dump().items():
        segments.pop(segment, None)
        if data is not None:
            segments[segment] = data
    again = Book(QUICK)
    again.load(segments)
    assert again.rows == book.rows
    assert again.panel.state.save().tobytes() == book.panel.state.save().tobytes()
    assert again.dump() == {}
    counts = dict.fromkeys(KEYS, 1.0)
    steps = [each.step(pane, counts, volumes(counts), (), False, PLAIN) for each in (book, again)]
    assert all(np.array_equal(steps[0].surprise[kind], steps[1].surprise[kind]) for kind in steps[0].surprise)


def test_inputs_are_saved_until_they_outweigh_the_state():
    book, rng = Book(replace(QUICK, ring=4)), np.random.default_rng(0)
    for number in range(50):
        book.admit(BOX._replace(product_id=f"p{number}"), False, 3.0, 9.0)
    sizes = []
    for pane in range(80):
        counts = {key: float(n) for key, n in zip(book.rows, rng.poisson(0.3, len(book.rows)), strict=False) if n}
        book.step(pane, counts, {}, (), False, PLAIN)
        (written,) = [data for data in book.dump().values() if data is not None]
        sizes.append(len(written))
    snapshots = [pane for pane, size in enumerate(sizes) if pane and size > 10 * np.median(sizes)]
    assert 1 <= len(snapshots) <= 3
    assert max(np.diff([0, *snapshots, len(sizes)])) <= 40
