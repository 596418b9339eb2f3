"""The wide part: a linear model over hashed token 1- and 2-grams (Cheng et al., "Wide & Deep Learning", 2016).

A linear model reads every training row in seconds, so it learns what a phrase says from all of them, where the encoder
sees a part in the time it has; and the two err on different texts. It is trained alone, with the same masked losses,
and its logits are added to the encoder's with one weight per head chosen on dev rows (:mod:`training.calibrate`). In
the exported graph it is one look-up, so that the tensor interface stays as it is.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from serving.labels import ASPECT_STATES, ASPECTS, DEMANDS, POLARITIES
from training.batches import Encoded, batches, collate
from training.losses import label_losses, total

BUCKETS: Final = 1 << 17
GRAMS: Final = 2
SPECIAL: Final = 4  #: ids below are <s>, <pad>, </s> and <unk>
_FACTORS: Final = (2_654_435_761, 40_503)  # of the first and the second token of a gram
PASSES: Final = 3
RATE: Final = 0.02
ROWS: Final = 512  #: in a step
_COLUMNS: Final = (len(POLARITIES), len(ASPECTS) * len(ASPECT_STATES), len(DEMANDS))


class Wide(nn.Module):
    """Sentiment, aspect and demand logits as sums of a weight per gram, divided by the root of their number."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(BUCKETS, sum(_COLUMNS))
        self.bias = nn.Parameter(torch.zeros(sum(_COLUMNS)))
        nn.init.zeros_(self.table.weight)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """int64 [B, T] -> [B, 3], [B, 13, 4] and [B, 10]; special tokens count as nothing."""
        grams, there = hashed(input_ids)
        scores = (self.table(grams) * there.unsqueeze(-1)).sum(dim=1)
        scores = scores / there.sum(dim=1, keepdim=True).clamp(min=1).sqrt() + self.bias
        sentiment, aspects, demands = scores.split(_COLUMNS, dim=-1)
        return sentiment, aspects.unflatten(-1, (len(ASPECTS), len(ASPECT_STATES))), demands


def hashed(input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """int64 [B, T] -> buckets of all 1- and 2-grams, int64 [B, 2T], and 1.0 where there is one, float [B, 2T]."""
    word = input_ids >= SPECIAL
    buckets, present = [], []
    total, there = torch.zeros_like(input_ids), torch.ones_like(word)
    for place in range(GRAMS):
        ahead = nn.functional.pad(input_ids, (0, GRAMS))[:, place : place - GRAMS]
        total = total + (ahead + 1) * _FACTORS[place]
        there = there & (ahead >= SPECIAL)
        buckets.append((total >> 7) % BUCKETS)
        present.append(there)
    return torch.cat(buckets, dim=1), torch.cat(present, dim=1).float()


def fit(wide: Wide, examples: Sequence[Encoded], seed: int = 0) -> None:
    """Train the wide part alone, a few seconds a pass; the rate falls linearly to zero."""
    optimiser = torch.optim.Adam(wide.parameters(), lr=RATE, fused=True)
    steps = PASSES * (-(-len(examples) // ROWS) + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: max(0.0, 1 - step / steps))
    for number in range(PASSES):
        for chosen in batches(examples, ROWS, seed + number):
            batch = collate(chosen)
            optimiser.zero_grad()
            sentiment, aspects, demands = wide(batch.ids)
            torch.autograd.backward(total(label_losses(sentiment, aspects, demands, batch)))
            optimiser.step()
            schedule.step()
