"""Decoding hand-made tensors: what counts, where it stands, and which answers cannot be true."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.decode import Aspect, Demand, Outputs, decode, output_shapes, spans, trimmed
from serving.errors import BadModelAnswer
from serving.labels import ASPECTS, BLAME, DEMANDS, EVIDENCE_LABELS

TEXT = "包装 破损,快退款!"
OFFSETS = [(0, 0), (0, 2), (2, 5), (5, 6), (6, 7), (7, 9), (9, 10), (0, 0)]  # <s> 包装 ␣破损 , 快 退款 ! </s>
THRESHOLDS = dict.fromkeys(EVIDENCE_LABELS, 0.5) | {BLAME: 0.0}


def silent(texts: int = 1, tokens: int = len(OFFSETS)) -> Outputs:
    """The answer to texts that say nothing."""
    outputs = Outputs(**{name: np.zeros(shape, np.float32) for name, shape in output_shapes(texts, tokens).items()})
    outputs.sentiment[:, 1] = outputs.aspects[:, :, 0] = 1
    return outputs


def test_silence_is_neutral() -> None:
    (score,) = decode(silent(), [OFFSETS], [TEXT], THRESHOLDS)
    assert (score.label, score.score, score.aspects, score.demands) == ("neutral", 0.0, (), ())


def test_an_aspect_and_a_demand_with_their_places() -> None:
    outputs = silent()
    outputs.sentiment[0] = [0.9, 0.08, 0.02]
    outputs.aspects[0, ASPECTS.index("packaging")] = [0.1, 0.7, 0.15, 0.05]
    outputs.demands[0, DEMANDS.index("return_refund")] = [0.8, 0.65]
    outputs.evidence[0, 1:3, EVIDENCE_LABELS.index("packaging")] = 0.9
    outputs.evidence[0, 5:7, EVIDENCE_LABELS.index("return_refund")] = 0.9
    (score,) = decode(outputs, [OFFSETS], [TEXT], THRESHOLDS)
    assert (score.label, score.score) == ("negative", -0.88)
    assert score.aspects == (Aspect("packaging", "negative", 0.9, [(0, 5)]),)
    assert score.demands == (Demand("return_refund", 0.65, 0.8, [(7, 9)]),)


def test_a_text_beyond_shop_language_is_foreign() -> None:
    outputs = silent(2)
    outputs.strangeness[:, 0] = [1.0, 1.25]
    home, foreign = decode(outputs, [OFFSETS] * 2, [TEXT] * 2, THRESHOLDS)
    assert (home.strangeness, home.foreign, foreign.strangeness, foreign.foreign) == (1.0, False, 1.25, True)
    assert outputs.checked(2, len(OFFSETS)) is outputs


def test_each_label_has_its_own_threshold() -> None:
    outputs = silent()
    outputs.aspects[0, :2] = [0.4, 0.6, 0, 0]
    (score,) = decode(outputs, [OFFSETS], [TEXT], {**THRESHOLDS, "quality": 0.601})
    assert [aspect.aspect for aspect in score.aspects] == ["efficacy"]


def test_doubtful_blame_is_not_told_doubtful_praise_is() -> None:
    outputs = silent()
    outputs.aspects[0, :2] = [[0.2, 0.4, 0.2, 0.2], [0.2, 0.2, 0.2, 0.4]]
    for least, told in ((0.4, ["quality", "efficacy"]), (0.401, ["efficacy"])):
        (score,) = decode(outputs, [OFFSETS], [TEXT], {**THRESHOLDS, BLAME: least})
        assert [aspect.aspect for aspect in score.aspects] == told


def test_last_bits_of_a_float_decide_nothing() -> None:
    outputs = silent(2)
    outputs.demands[0, 0] = [0.49999997, 1]
    outputs.demands[1, 0] = [0.50000003, 1]
    one, other = decode(outputs, [OFFSETS] * 2, [TEXT] * 2, THRESHOLDS)
    assert one == other and one.demands[0].prob == 0.5


@pytest.mark.parametrize(
    ("sure", "expected"),
    [
        ({1: 0.9}, [(0, 2)]),
        ({2: 0.9}, [(3, 5)]),  # the space before it is not evidence
        ({1: 0.9, 4: 0.9}, [(0, 2), (6, 7)]),  # two tokens between
        ({2: 0.9, 4: 0.9}, [(3, 5), (6, 7)]),  # one
        ({1: 0.9, 2: 0.3}, [(0, 5)]),  # a third as sure as its neighbour
        ({1: 0.9, 2: 0.29}, [(0, 2)]),
        ({1: 0.9, 4: 0.85}, [(0, 2)]),  # an echo
        ({3: 0.9}, [(0, 5), (6, 9)]),  # punctuation alone says nothing: all words
        ({5: 0.3, 4: 0.2, 1: 0.05}, [(6, 9)]),  # none is sure: the surest and its like
        ({0: 0.9, 7: 0.9, 5: 0.2}, [(7, 9)]),  # special tokens have no place
    ],
)
def test_spans(sure: dict[int, float], expected: list[tuple[int, int]]) -> None:
    probabilities = np.zeros(len(OFFSETS), np.float32)
    for token, probability in sure.items():
        probabilities[token] = probability
    assert spans(probabilities, [trimmed(TEXT, *offset) for offset in OFFSETS]) == expected


def test_a_text_of_punctuation_has_no_evidence() -> None:
    assert spans(np.ones(2, np.float32), [None, None]) == []


@given(st.lists(st.floats(0, 1, width=32), min_size=len(OFFSETS), max_size=len(OFFSETS)))
def test_spans_are_sorted_apart_and_trimmed(probabilities: list[float]) -> None:
    found = spans(np.array(probabilities, np.float32), [trimmed(TEXT, *offset) for offset in OFFSETS])
    assert found
    places = [place for span in found for place in span]
    assert places == sorted(places)
    assert all(trimmed(TEXT, *span) == span for span in found)


def test_emoji_stay() -> None:
    assert trimmed(" 😡! ", 0, 4) == (1, 2)


@pytest.mark.parametrize("name", Outputs._fields)
def test_an_empty_tensor_is_no_answer(name: str) -> None:
    """What a python backend under numpy 2 sends, with no error."""
    with pytest.raises(BadModelAnswer, match=r"numpy 1\.26"):
        silent()._replace(**{name: np.zeros((0,), np.float32)}).checked(1, len(OFFSETS))


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0, -1.0])
def test_values_must_be_probabilities(value: float) -> None:
    outputs = silent()
    outputs.evidence[0, 3, 3] = value
    with pytest.raises(BadModelAnswer, match="cannot be true"):
        outputs.checked(1, len(OFFSETS))


def test_softmax_must_sum_to_one() -> None:
    outputs = silent()
    outputs.aspects[0, 5, 0] = 0.5
    with pytest.raises(BadModelAnswer, match="sum to one"):
        outputs.checked(1, len(OFFSETS))
