import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.recommend.catalogue import Catalogue, Product
from stream.recommend.intent import REMEMBERED, Behaviour, Intent


@pytest.fixture(scope="module")
def catalogue():
    catalogue = Catalogue()
    for product_id, category, stock in [("a", "x", 1), ("b", "x", 1), ("c", "x", 1), ("d", "y", 1), ("gone", "y", 0)]:
        catalogue.upsert(Product(product_id, product_id, category, price=10.0, stock=stock))
    return catalogue


def play(behaviour, catalogue, *events):
    """Events in words: ``"view a"`` or, with the number of results, ``"search kettle 0"``."""
    told = []
    for event in events:
        action, about, results = (*event.split(), "", "")[:3]
        product, query = ("", about) if action == "search" else (about, "")
        told += behaviour.update(action, product, query, int(results) if results else None, 0.0, catalogue)
    return told


CASES = {
    "two_products_are_no_comparison": (["view a", "view b", "view a"], []),
    "three_of_one_category_are": (["view a", "view b", "view c"], [Intent("comparing", "c")]),
    "three_of_two_categories_are_not": (["view a", "view b", "view d"], []),
    "unknown_products_have_no_category_to_compare": (["view u", "view v", "view w"], []),
    "a_cart_ends_the_comparison": (["view a", "view b", "cart b", "view c"], []),
    "comparing_is_told_once": (["view a", "view b", "view c", "view a"], [Intent("comparing", "c")]),
    "the_third_view_watches_the_price": (["view a", "view a", "view a", "view a"], [Intent("price_watch", "a")]),
    "a_product_without_stock_is_sold_out": (["view gone", "view gone"], [Intent("sold_out", "gone")]),
    "sold_out_is_told_with_a_cart_too": (["cart a", "view gone"], [Intent("sold_out", "gone")]),
    "a_search_without_results": (["search kettle 0"], [Intent("empty_search", "", "kettle")]),
    "a_search_with_results": (["search kettle 3"], []),
    "a_search_that_does_not_tell": (["search kettle -1"], []),
}


@pytest.mark.parametrize(("events", "told"), CASES.values(), ids=CASES.keys())
def test_intent(events, told, catalogue):
    assert play(Behaviour(), catalogue, *events) == told


CLOSED = {
    "a_full_cart_is_abandoned": (["cart a", "cart b"], [Intent("abandoned_cart", "b")]),
    "the_latest_product_counts": (["cart a", "cart b", "cart a"], [Intent("abandoned_cart", "a")]),
    "an_emptied_cart_is_not": (["cart a", "uncart a"], []),
    "a_purchase_is_not": (["cart a", "cart b", "purchase a"], []),
    "a_checkout_alone_is_no_purchase": (["cart a", "checkout"], [Intent("abandoned_cart", "a")]),
    "only_looking_is_not": (["view a"], []),
}


@pytest.mark.parametrize(("events", "told"), CLOSED.values(), ids=CLOSED.keys())
def test_close(events, told, catalogue):
    behaviour = Behaviour()
    play(behaviour, catalogue, *events)
    assert behaviour.close() == told
    assert behaviour.close() == []


def test_a_product_that_left_the_catalogue_keeps_its_category_in_the_session(catalogue):
    behaviour, shrinking = Behaviour(), Catalogue()
    for product in catalogue:
        shrinking.upsert(product)
    play(behaviour, shrinking, "view a", "view b")
    shrinking.remove("a")
    assert play(behaviour, shrinking, "view c") == [Intent("comparing", "c")]


def test_the_session_in_one_word(catalogue):
    behaviour = Behaviour()
    assert behaviour.intent == ""
    play(behaviour, catalogue, "search kettle 0", "view gone")
    assert behaviour.intent == "sold_out"
    play(behaviour, catalogue, "purchase a")
    assert behaviour.intent == "bought"
    assert (behaviour.views, behaviour.searches, behaviour.empty_searches, behaviour.purchases) == (1, 1, 1, 1)


def test_only_the_latest_products_are_remembered(catalogue):
    behaviour = Behaviour()
    play(behaviour, catalogue, *(f"{action} p{i}" for i in range(30) for action in ("view", "cart")))
    assert len(behaviour.products) == len(behaviour.cart) == REMEMBERED
    assert behaviour.products[-1] == behaviour.cart[-1] == "p29"


EVENTS = st.lists(
    st.builds(
        lambda action, product: f"{action} {product}" + (" 0" if action == "search" else ""),
        st.sampled_from(["view", "cart", "uncart", "purchase", "search", "favorite"]),
        st.sampled_from(["a", "b", "c", "d", "gone", "unknown"]),
    ),
    max_size=30,
)


@given(EVENTS, EVENTS)
def test_a_restored_session_goes_on_as_if_nothing_happened(catalogue, before, after):
    whole, first = Behaviour(), Behaviour()
    told = play(first, catalogue, *before)
    second = Behaviour.from_list(json.loads(json.dumps(first.to_list())))
    assert second == first
    told += play(second, catalogue, *after) + second.close()
    assert told == play(whole, catalogue, *before, *after) + whole.close()
