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


@given(
    st.lists(
        st.one_of(st.tuples(st.just("deliver"), st.integers(0, 4)), st.tuples(st.just("ack"), st.integers(0, 30))),
        max_size=80,
    )
)
def test_the_position_is_that_of_a_plain_count(steps: list[tuple[str, int]]) -> None:
    """Any interleaving of delivery (with gaps) and acknowledgement, twice or of what was never there included."""
    progress, offset, position = Progress(), 99, None
    delivered: list[int] = []
    done: set[int] = set()
    for step, number in steps:
        if step == "deliver":
            offset += 1 + number
            delivered.append(offset)
            progress.delivered(offset)
        elif number < len(delivered) and delivered[number] not in done:
            done.add(delivered[number])
            position = progress.acknowledged(delivered[number]) or position
        prefix = next((i for i, each in enumerate(delivered) if each not in done), len(delivered))
        assert position == (delivered[prefix - 1] + 1 if prefix else None)
        assert len(progress) == len(delivered) - prefix
