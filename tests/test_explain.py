"""Occlusion: what is cut out, and whether evidence that carries a label is told from evidence that does not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.decode import Aspect, TextScore
from serving.explain import Reason, control, explain, without
from serving.local import LocalScorer

REPOSITORY = Path(__file__).parent.parent / "model_repo"


def test_cutting_out_leaves_the_rest() -> None:
    assert without("物流慢,包装破", [(0, 3), (4, 5)]) == ",装破"
    assert without("物流慢", []) == "物流慢"


@given(st.text(min_size=1, max_size=30), st.data())
def test_the_control_is_as_long_as_the_evidence_and_apart_from_it(text: str, draw: st.DataObject) -> None:
    start = draw.draw(st.integers(0, len(text) - 1))
    end = draw.draw(st.integers(start + 1, len(text)))
    places = {start for start, _ in control(text, [(start, end)])}
    assert len(places) == min(end - start, len(text) - (end - start))
    assert not places & set(range(start, end))


def test_evidence_holds_where_its_loss_costs_more() -> None:
    reason = Reason("price", "negative", 0.9, 0.5, ((0, 2),), without=0.1, control=0.8)
    assert reason.holds
    assert not Reason("price", "negative", 0.9, 0.5, ((0, 2),), without=0.85, control=0.8).holds


async def test_the_model_gives_its_reasons() -> None:
    text = "杯子很漂亮,但是快递太慢了,等了十天"
    async with LocalScorer(REPOSITORY) as scorer:
        (score,) = await scorer.score([text])
        reasons = await explain(scorer, text)
        plain = await explain(scorer, "")
    assert [reason.label for reason in reasons] == [aspect.aspect for aspect in score.aspects]
    slow = next(reason for reason in reasons if reason.label == "logistics")
    assert slow.says == "negative" and slow.holds
    assert "慢" in "".join(text[start:end] for start, end in slow.evidence)
    assert plain == []


@pytest.mark.parametrize("threshold", [0.0, 1.0])
async def test_other_thresholds_than_the_card_s_decide_when_given(threshold: float) -> None:
    async with LocalScorer(REPOSITORY) as scorer:
        (score,) = await scorer.score(["快递太慢了"], dict.fromkeys(scorer.card.thresholds, threshold))
    assert (len(score.aspects) == 13) if threshold == 0 else (score.aspects == ())
    assert all(isinstance(aspect, Aspect) for aspect in score.aspects) and isinstance(score, TextScore)
