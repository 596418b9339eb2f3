"""The index is a dictionary, whatever hashes collide."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.windows.index import Index

CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.integers(0, 40), max_size=30)),
        st.tuples(st.just("remove"), st.lists(st.integers(0, 40), max_size=30)),
    ),
    max_size=20,
)


@settings(max_examples=150, deadline=None)
@given(CHANGES, st.sampled_from([1, 64, 1 << 40, -(1 << 57)]))
def test_an_index_finds_what_a_dictionary_does(changes: list[tuple[str, list[int]]], stride: int) -> None:
    """Hashes are multiples of ``stride``: a large one makes all of them begin at one slot."""
    index, expected, row = Index(), dict[int, int](), 0
    for kind, items in changes:
        if kind == "put":
            hashes = [stride * key for key in items]
            rows = list(range(row, row + len(hashes)))
            row += len(rows)
            index.put(np.array(hashes, np.int64), np.array(rows, np.int64))
            expected.update(zip(hashes, rows, strict=True))
        else:
            known = [expected.pop(stride * key) for key in set(items) if stride * key in expected]
            index.remove(np.array(known, np.int64))
        wanted = stride * np.arange(41)
        assert index.find(wanted).tolist() == [expected.get(each, -1) for each in wanted.tolist()]
        assert len(index) == len(expected)
        assert sorted(index.rows().tolist()) == sorted(expected.values())


def test_a_row_that_another_took_the_place_of_is_not_removed() -> None:
    index = Index()
    index.put(np.array([7]), np.array([0]))
    index.put(np.array([7]), np.array([1]))
    index.remove(np.array([0]))
    assert index.find(np.array([7])).tolist() == [1]
    assert len(index) == 1


def test_slots_of_removed_rows_are_given_back() -> None:
    index = Index()
    for turn in range(2_000):
        index.put(np.array([turn * 64]), np.array([turn % 5]))
        index.remove(np.array([turn % 5]))
    assert len(index) == 0
    assert len(index._slots) == 64
