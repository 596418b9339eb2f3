from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.recommend.catalogue import Catalogue, Product, tokens

SHELF = [
    Product("p1", "云雀 20000mAh 快充移动电源", "数码", "云雀", 149.0, 5, {"容量": "20000mAh"}),
    Product("p2", "Nordlys 主动降噪蓝牙耳机", "数码", "Nordlys", 399.0, 5, {"蓝牙": "5.3"}),
    Product("p3", "Wireless headphones for running", "audio", "Strider", 89.0, 5),
    Product("p4", "Running shoes", "shoes", "Strider", 89.0, 0),
]


@pytest.fixture
def catalogue():
    return stocked(SHELF)


def stocked(products):
    catalogue = Catalogue()
    for product in products:
        catalogue.upsert(product)
    return catalogue


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("蓝牙耳机", ("蓝牙", "牙耳", "耳机")),
        ("鞋", ("鞋",)),
        ("Headphones, glass & 5G手机", ("headphone", "glass", "5g", "手机")),
        ("", ()),
        ("!?", ()),
    ],
)
def test_tokens(text, words):
    assert tokens(text) == words


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("耳机", ["p2"]),
        ("headphone", ["p3"]),
        ("running strider shoes", ["p4", "p3"]),
        ("20000mah", ["p1"]),
        ("茶", []),
    ],
)
def test_search(catalogue, query, found):
    assert [product.product_id for product, _ in catalogue.search(query)] == found


def test_a_rare_word_weighs_more_than_a_common_one(catalogue):
    scores = {product.product_id: score for product, score in catalogue.search("wireless strider")}
    assert scores["p3"] > scores["p4"]


def test_neighbours_stand_around_the_price_in_the_same_category():
    catalogue = stocked(Product(f"q{i:03}", "t", "c", price=float(i), stock=1) for i in range(200))
    assert [product.price for product in catalogue.neighbours("c", 100, most=4)] == [98, 99, 100, 101]
    assert catalogue.neighbours("nowhere", 1.0) == []


def test_an_upsert_replaces_words_price_and_category(catalogue):
    catalogue.upsert(replace(SHELF[1], title="speaker", category="audio", price=1.0))
    assert catalogue.search("耳机") == []
    assert [product.product_id for product in catalogue.neighbours("audio", 1.0)] == ["p2", "p3"]
    assert len(catalogue) == 4


def test_a_new_price_moves_the_product_on_its_shelf(catalogue):
    catalogue.upsert(replace(SHELF[0], price=999.0, stock=0))
    assert [product.product_id for product in catalogue.neighbours("数码", 500)] == ["p2", "p1"]
    assert catalogue.get("p1").stock == 0


def test_removing_what_is_not_there_is_no_mistake(catalogue):
    catalogue.remove("nobody")
    catalogue.remove("p1")
    catalogue.remove("p1")
    assert "p1" not in catalogue and catalogue.get("p1") is None and len(catalogue) == 3


def test_an_answer_is_remembered_until_a_product_changes(catalogue):
    answers = iter(range(9))
    assert [catalogue.remember("q", lambda: next(answers)) for _ in range(3)] == [0, 0, 0]
    catalogue.upsert(replace(SHELF[0], stock=0))
    assert catalogue.remember("q", lambda: next(answers)) == 1


PRODUCTS = st.builds(
    Product,
    st.sampled_from("abcde"),
    st.sampled_from(["蓝牙耳机", "blue phones", "耳机 phone", ""]),
    st.sampled_from(["x", "y"]),
    price=st.sampled_from([1.0, 2.0]),
    stock=st.integers(0, 2),
)


@given(st.lists(PRODUCTS | st.sampled_from("abcde"), max_size=25))
def test_any_history_of_changes_ends_like_its_last_products(history):
    catalogue, last = Catalogue(), {}
    for change in history:
        if isinstance(change, str):
            catalogue.remove(change)
            last.pop(change, None)
        else:
            catalogue.upsert(change)
            last[change.product_id] = change
        catalogue.search("耳机 blue")  # what is remembered of it must not outlive the next change
    fresh = stocked(last[product_id] for product_id in sorted(last))
    for query in ("蓝牙耳机", "phone", "耳机 blue"):
        assert catalogue.search(query) == fresh.search(query)
    for category in "xy":
        assert catalogue.neighbours(category, 2.0) == fresh.neighbours(category, 2.0)
    assert catalogue._index == fresh._index and catalogue._length == fresh._length
