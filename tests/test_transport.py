"""Commit arithmetic: the committed position never passes an unacknowledged block."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream.transport import Progress


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_position_follows_the_acknowledged_prefix_in_any_order(sizes: list[int], random: object) -> None:
    offsets = [sum(sizes[: i + 1]) - 1 for i in range(len(sizes))]
    order = list(range(len(offsets)))
    random.shuffle(order)  # type: ignore[attr-defined]
    progress = Progress()
    for offset in offsets:
        progress.delivered(offset)
    done: set[int] = set()
    committed = 0
    for place in order:
        position = progress.acknowledged(offsets[place])
        done.add(place)
        prefix = next((i for i in range(len(offsets)) if i not in done), len(offsets))
        expected = offsets[prefix - 1] + 1 if prefix else 0
        if position is not None:
            assert position > committed
            committed = position
        assert committed == expected
    assert len(progress) == 0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_gaps_between_blocks_do_not_stop_the_position(gaps: list[int]) -> None:
    """A compacted topic or a transaction marker leaves offsets out."""
    progress, offset = Progress(), -1
    for gap in gaps:
        offset += 1 + gap
        progress.delivered(offset)
        assert progress.acknowledged(offset) == offset + 1


def test_the_first_block_may_start_anywhere() -> None:
    progress = Progress()
    progress.delivered(1_000_099)
    assert progress.acknowledged(1_000_099) == 1_000_100


def test_nothing_is_committed_while_the_first_block_waits() -> None:
    progress = Progress()
    for offset in (9, 19, 29):
        progress.delivered(offset)
    assert progress.acknowledged(29) is None
    assert progress.acknowledged(19) is None
    assert progress.acknowledged(9) == 30
