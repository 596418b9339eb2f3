"""The Triton client against a transport in memory: order, batches, patience, breaker, unsound answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import numpy as np
import pytest

from serving import client
from serving.breaker import Breaker
from serving.client import TritonScorer, bucket, plan
from serving.decode import NEUTRAL, Outputs, output_shapes
from serving.errors import BadModelAnswer, DeadlineExceeded, ScorerUnavailable, ScoringError
from serving.tokenizer import Ids
from stream.settings import Settings

REPO = Settings().model_repo
TEXTS = [
    "包装破损",
    "很好",
    "物流太慢了，等了两个星期还没有到！" * 5,
    "too small",
    "What a great product, I love it. " * 9,
]


class FakeTransport:
    """Answers from the ids alone; ``faults`` are raised first, one per call."""

    def __init__(self, most: int = 64) -> None:
        self.most = most
        self.faults: list[ScoringError] = []
        self.down: ScoringError | None = None
        self.spoil: Callable[[Outputs], Outputs] = lambda outputs: outputs
        self.shapes: list[tuple[int, ...]] = []
        self.calls = 0

    async def max_batch(self, deadline: float) -> int:
        return self.most

    async def infer(self, ids: Ids, mask: Ids, deadline: float) -> Outputs:
        self.calls += 1
        await asyncio.sleep(random.random() / 100)
        if self.down or self.faults:
            raise self.down or self.faults.pop(0)
        self.shapes.append(ids.shape)
        outputs = Outputs(**{name: np.zeros(shape) for name, shape in output_shapes(*ids.shape).items()})
        negative = (ids * mask).sum(1) % 1000 / 1000
        outputs.sentiment[:, 0], outputs.sentiment[:, 1] = negative, 1 - negative
        outputs.aspects[:, :, 0] = 1
        return self.spoil(outputs)

    async def close(self) -> None:
        pass


def scorer(transport: FakeTransport, breaker: Breaker | None = None) -> TritonScorer:
    return TritonScorer("memory", REPO, transport=transport, breaker=breaker)


async def test_scores_come_in_the_order_given_whatever_the_batches() -> None:
    transport = FakeTransport()
    texts = random.Random(1).choices(TEXTS, k=50) + [f"第{i}件" for i in range(200)]
    single = scorer(FakeTransport())
    alone = [(await single.score([text]))[0] for text in texts]
    assert await scorer(transport).score(texts) == alone
    assert len(transport.shapes) < 20
    assert all(width % 16 == 0 and count * width <= 4096 for count, width in transport.shapes)


async def test_no_words_no_call() -> None:
    transport = FakeTransport()
    assert await scorer(transport).score([]) == []
    assert await scorer(transport).score(["", " \n"]) == [NEUTRAL, NEUTRAL]
    assert transport.calls == 0


async def test_a_text_that_comes_twice_is_read_once() -> None:
    transport = FakeTransport()
    assert len(await scorer(transport).score(["很好"] * 50)) == 50
    assert transport.shapes == [(1, 16)]


async def test_a_server_without_batching_gets_texts_alone_and_unpadded() -> None:
    transport = FakeTransport(most=1)
    await scorer(transport).score(["很好", "包装破损"])
    assert transport.shapes[0][0] == 1 and all(width < 16 for _, width in transport.shapes)


def test_plan_covers_every_text_once() -> None:
    lengths = [random.Random(3).randint(2, 128) for _ in range(500)]
    batches = list(plan(lengths, 64))
    assert sorted(place for batch in batches for place in batch) == list(range(500))
    assert all(len({bucket(lengths[place]) for place in batch}) == 1 for batch in batches)


async def test_a_short_absence_goes_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSES", (0, 0, 0))
    transport = FakeTransport()
    transport.faults = [ScorerUnavailable("gone")] * 3
    assert len(await scorer(transport).score(["很好"])) == 1
    assert transport.calls == 4


async def test_a_deadline_is_not_tried_again() -> None:
    transport = FakeTransport()
    transport.faults = [DeadlineExceeded("slow")]
    with pytest.raises(DeadlineExceeded):
        await scorer(transport).score(["很好"])
    assert transport.calls == 1


async def test_breaker_opens_probes_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSES", (0, 0, 0))
    now = [0.0]
    transport = FakeTransport()
    tested = scorer(transport, Breaker(failures=5, pause=1.0, clock=lambda: now[0]))
    transport.down = ScorerUnavailable("gone")
    for _ in range(2):
        with pytest.raises(ScorerUnavailable):
            await tested.score(["很好"])
    assert tested.breaker.state == "open" and transport.calls == 5

    with pytest.raises(ScorerUnavailable, match="next try in") as refusal:
        await tested.score(["很好"])
    assert refusal.value.retry_in == 1.0 and transport.calls == 5

    now[0] = 1.0
    assert tested.breaker.state == "half-open"
    answers = await asyncio.gather(*(tested.score([text]) for text in TEXTS), return_exceptions=True)
    assert all(isinstance(answer, ScorerUnavailable) for answer in answers)
    assert transport.calls == 6, "one probe, the others are refused"

    now[0] = 2.9
    assert tested.breaker.state == "open", "a failed probe doubles the pause"
    now[0] = 3.0
    transport.down = None
    assert len(await tested.score(TEXTS)) == len(TEXTS), "several requests, of which one goes ahead as the probe"
    assert tested.breaker.state == "closed"


def test_a_call_from_before_does_not_end_the_probe() -> None:
    now = [0.0]
    breaker = Breaker(failures=1, pause=1.0, clock=lambda: now[0])
    early = breaker.guard()
    early.__enter__()
    with pytest.raises(DeadlineExceeded), breaker.guard():
        raise DeadlineExceeded("slow")
    now[0] = 1.0
    with pytest.raises(ValueError, match="later"), breaker.guard():
        error = DeadlineExceeded("slow too")
        assert not early.__exit__(DeadlineExceeded, error, None)
        with pytest.raises(ScorerUnavailable), breaker.guard():
            raise AssertionError("a second probe")
        raise ValueError("later")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda outputs: Outputs(*(tensor[:0] for tensor in outputs)),
        lambda outputs: outputs._replace(evidence=np.full_like(outputs.evidence, np.nan)),
        lambda outputs: outputs._replace(sentiment=outputs.sentiment / 2),
    ],
    ids=["empty", "nan", "half"],
)
async def test_unsound_answers_are_noticed(spoil: Callable[[Outputs], Outputs]) -> None:
    transport = FakeTransport()
    tested = scorer(transport)
    assert await tested.ready()
    transport.spoil = spoil
    assert not await tested.ready()
    with pytest.raises(BadModelAnswer):
        await tested.score(TEXTS)


async def test_two_scores_for_one_text_are_noticed() -> None:
    transport = FakeTransport()

    def swapped(outputs: Outputs) -> Outputs:
        outputs.sentiment[0] = outputs.sentiment[0, ::-1] * 1.0
        return outputs

    transport.spoil = swapped
    with pytest.raises(BadModelAnswer, match="two ways"):
        await scorer(transport).check()


async def test_nobody_there() -> None:
    async with TritonScorer("127.0.0.1:1", REPO) as tested:
        assert not await tested.ready()
        with pytest.raises(ScorerUnavailable, match="radar up"):
            await tested.score(["很好"])
