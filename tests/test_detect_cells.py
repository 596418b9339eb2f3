from functools import reduce
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from stream.detect.cells import QUOTES, Candidate, Cell, Key, merge

SOURCES = st.sampled_from(["reviews", "chats", "clicks"])
CANDIDATES = st.builds(
    Candidate, st.floats(0, 1), st.sampled_from("abcdefgh"), st.sampled_from(["坏了", "broken"]), st.just(((0, 2),))
)
EVENTS = st.lists(st.tuples(SOURCES, st.floats(0, 50), st.none() | CANDIDATES), max_size=12)


def cell_of(events):
    cell = Cell()
    for source, weight, quote in events:
        cell.add(source, weight, quote)
    return cell


@given(EVENTS, EVENTS)
def test_merge_commutes(left, right):
    assert merge(cell_of(left), cell_of(right)) == merge(cell_of(right), cell_of(left))


@given(EVENTS, EVENTS, EVENTS)
def test_merge_associates(a, b, c):
    a, b, c = cell_of(a), cell_of(b), cell_of(c)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@given(st.lists(EVENTS, max_size=5), st.randoms())
def test_neither_order_nor_split_of_the_events_matters(blocks, random):
    events = list(chain.from_iterable(blocks))
    random.shuffle(events)
    assert reduce(merge, map(cell_of, blocks), Cell()) == cell_of(events)


def test_only_the_best_quotes_stay_and_ties_go_by_event_id():
    cell = cell_of([("reviews", 1.0, Candidate(0.5, event_id, "", ())) for event_id in "gfedcba"])
    cell.add("reviews", 1.0, Candidate(0.9, "z", "", ()))
    assert [quote.event_id for quote in cell.quotes] == ["z", "a", "b", "c", "d"]
    assert len(cell.quotes) == QUOTES


def test_merge_leaves_its_arguments_alone():
    left, right = cell_of([("reviews", 1, None)]), cell_of([("clicks", 0.5, None)])
    merge(left, right)
    assert (left, right) == (Cell(reviews=1.0), Cell(clicks=0.5))


def test_texts_are_reviews_and_chats_and_observed_adds_clicks():
    cell = Cell(reviews=1, chats=2, clicks=0.5)
    assert (cell.texts, cell.observed) == (3, 3.5)


def test_keys_name_their_volume_shop_and_shard():
    key = Key("negative_spike", "product", "p", "c", "packaging")
    assert key.volume == Key("volume", "product", "p", "c", "")
    assert key.shop == Key("negative_spike", "product", "", "", "packaging")
    assert [k.shard for k in (key, key.volume, key.shop, Key("demand_surge", "category", "", "c", "restock"))] == [
        "p", "p", "", "c"
    ]  # fmt: skip
