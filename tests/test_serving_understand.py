"""Preprocessing and scores joined: spans stand in the right text, private data stays in, lines come out in order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from serving.decode import Aspect, Demand, TextScore
from serving.local import LocalScorer
from serving.scorer import Scorer
from stream.records import Signal
from stream.settings import Settings
from stream.understand import Understood, open_scorer, score_lines, understand

GIVEN = "包装破损&amp;难看，电话13800138000，快点退款！"
PHONE = "13800138000"


class WordScorer(Scorer):
    """Finds words instead of scoring; shares nothing with a model but its interface."""

    model = "words/1@test"

    def __init__(self) -> None:
        pass

    async def score(self, texts: Sequence[str]) -> list[TextScore]:
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> TextScore:
        def find(*words: str) -> list[tuple[int, int]]:
            return [(text.index(word), text.index(word) + len(word)) for word in words if word in text]

        return TextScore(
            "negative",
            -0.9,
            (
                Aspect("packaging", "negative", 0.9, find("破损", "难看")),
                Aspect("service", "neutral", 0.6, find("HONE")),
            ),
            (Demand("return_refund", 0.7, 0.8, find("退款")),),
        )

    async def close(self) -> None: ...
    async def _read(self, tokens: object) -> object: ...  # type: ignore[override]
    async def _probe(self, tokens: object, deadline: float) -> object: ...  # type: ignore[override]


async def understood(text: str = GIVEN) -> Understood:
    return (await understand(WordScorer(), [text]))[0]


async def test_score_counts_in_the_text_as_given() -> None:
    score = (await understood()).as_score()
    quotes = [[GIVEN[slice(*span)] for span in found["evidence"]] for found in score["aspects"] + score["demands"]]
    assert quotes == [["破损", "难看"], [PHONE], ["退款"]]
    (mask,) = score["masks"]
    assert GIVEN[slice(*mask["span"])] == PHONE
    assert score["text"][slice(*mask["in_text"])] == f"[{mask['type']}]"
    assert {GIVEN[slice(*entity["span"])] for entity in score["entities"]} >= {PHONE}
    assert PHONE not in str(score)
    assert score["model"] == "words/1@test" and score["language"] == "zh"


async def test_signal_counts_in_the_masked_text() -> None:
    fields = (await understood()).signal_fields(4096)
    text = fields["text"]
    quotes = [[text[slice(*span)] for span in found["evidence"]] for found in fields["aspects"] + fields["demands"]]
    assert quotes == [["破损", "难看"], ["[PHONE]"], ["退款"]]
    assert next(text[slice(*entity["span"])] for entity in fields["entities"]) == "[PHONE]"
    assert len(fields["fingerprint"]) == 16
    assert set(fields) < set(Signal.__dataclass_fields__)


@pytest.mark.parametrize("characters", range(0, 40, 3))
async def test_a_shortened_signal_quotes_what_it_keeps(characters: int) -> None:
    fields = (await understood()).signal_fields(characters)
    assert len(fields["text"]) <= characters
    for found in fields["aspects"] + fields["demands"]:
        assert all(0 <= start < end <= len(fields["text"]) for start, end in found["evidence"])


async def test_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(triton="127.0.0.1:1")
    lines = ["很好\n", '{"text": "too small", "id": 7}\n', "{broken\n", '{"id": 8}\n', "\n", *["不错"] * 100]
    answers = [answer async for answer in score_lines(lines, settings)]
    assert len(answers) == len(lines)
    assert answers[1]["id"] == 7 and answers[1]["text"] == "too small"
    assert [answer["line"] for answer in answers if "error" in answer] == [3, 4]
    assert answers[4]["sentiment"] == {"label": "neutral", "score": 0.0}


async def test_no_address_means_this_process() -> None:
    async with await open_scorer(Settings(triton="")) as scorer:
        assert isinstance(scorer, LocalScorer)
