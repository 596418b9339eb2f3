"""The wide part: linear models over hashed grams of tokens (Cheng et al., "Wide & Deep Learning", 2016).

A linear model reads every training row in minutes, so it learns what a phrase says from all of them, where the encoder
sees a part in the time it has; and the two err on different texts. It is trained alone, with the same masked losses,
and its logits are added to the encoder's with one weight per head chosen on dev rows (:mod:`training.calibrate`). In
the exported graph it is two look-ups, so that the tensor interface stays as it is.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from serving.labels import ASPECT_STATES, ASPECTS, DEMANDS, POLARITIES
from training.batches import Batch, Encoded, batches, collate
from training.losses import label_losses, total

SPECIAL: Final = 4  #: ids below are <s>, <pad>, </s> and <unk>
_FACTORS: Final = (2_654_435_761, 40_503, 2_246_822_519)  # of the first, the second and the third token of a gram
PASSES: Final = 6
RATE: Final = 0.02
ROWS: Final = 512  #: in a step
_TOPICS: Final = (len(ASPECTS) * len(ASPECT_STATES), len(DEMANDS))


class Wide(nn.Module):
    """Sentiment, aspect and demand logits as sums of a weight per gram, divided by the root of their number.

    Sentiment has by far the most rows and few columns, so it can have longer grams and a table of its own, eight times
    as long. In a trial on sentiment alone, each gram counted once, that and six passes for three made 0.928 of held-out
    online_shopping_10_cats 0.937.
    """

    def __init__(self) -> None:
        super().__init__()
        self.feeling = Grams(1 << 20, 3, len(POLARITIES))
        self.topics = Grams(1 << 17, 2, sum(_TOPICS))

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """int64 [B, T] -> [B, 3], [B, 13, 4] and [B, 10]; special tokens count as nothing."""
        aspects, demands = self.topics(input_ids).split(_TOPICS, dim=-1)
        return self.feeling(input_ids), aspects.unflatten(-1, (len(ASPECTS), len(ASPECT_STATES))), demands


class Grams(nn.Module):
    """int64 [B, T] -> [B, K]: a linear layer over hashed grams of up to ``longest`` tokens."""

    def __init__(self, buckets: int, longest: int, outputs: int) -> None:
        super().__init__()
        self.buckets, self.longest = buckets, longest
        self.table = nn.Embedding(buckets, outputs)
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.zeros_(self.table.weight)

    def forward(self, input_ids: Tensor) -> Tensor:
        grams, there = hashed(input_ids, self.longest, self.buckets)
        summed = (self.table(grams) * there.unsqueeze(-1)).sum(dim=1)
        scores: Tensor = summed / there.sum(dim=1, keepdim=True).clamp(min=1).sqrt() + self.bias
        return scores


def hashed(input_ids: Tensor, longest: int, buckets: int) -> tuple[Tensor, Tensor]:
    """int64 [B, T] -> buckets of all grams of 1 to ``longest`` tokens, int64 [B, longest * T], and 1.0 where there is
    one, float of the same shape."""
    word = input_ids >= SPECIAL
    found, present = [], []
    total, there = torch.zeros_like(input_ids), torch.ones_like(word)
    for place in range(longest):
        ahead = nn.functional.pad(input_ids, (0, longest))[:, place : place - longest]
        total = total + (ahead + 1) * _FACTORS[place]
        there = there & (ahead >= SPECIAL)
        found.append((total >> 7) % buckets)
        present.append(there)
    return torch.cat(found, dim=1), torch.cat(present, dim=1).float()


def fit(wide: Wide, examples: Sequence[Encoded], seed: int = 0) -> None:
    """Train the wide part alone; the rate falls linearly to zero."""
    optimiser = torch.optim.Adam(wide.parameters(), lr=RATE, fused=True)
    cuts = [_without_evidence(collate(chosen)) for chosen in batches(examples, ROWS, seed)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: max(0.0, 1 - step / (PASSES * len(cuts))))
    for number in range(PASSES):
        for batch in random.Random(seed + number).sample(cuts, len(cuts)):
            optimiser.zero_grad()
            sentiment, aspects, demands = wide(batch.ids)
            torch.autograd.backward(total(label_losses(sentiment, aspects, demands, batch)))
            optimiser.step()
            schedule.step()


def _without_evidence(batch: Batch) -> Batch:
    """A batch without its largest tensors, so that all can be kept at once."""
    return replace(batch, evidence=torch.empty(0), evidence_known=torch.empty(0))
